"""One-file checkpoints: a small pipeline is written under its makers' names and must come back, weight for weight."""

from __future__ import annotations

import re
from shutil import copytree, ignore_patterns

import pytest
import torch
from big_helpers import CPU, PROMPTS, autoencoder, clip, close, third_pipeline, tokenizer, xl_unet
from lift_helpers import refused, tree
from safetensors.torch import load_file, save_file

from dreamlift.priors.kinds import load_prior
from dreamlift.priors.loading import sources
from dreamlift.priors.loading.single_file import cache_folder, inspect_file
from dreamlift.priors.lora.lora_files import JOINT
from dreamlift.priors.lora.original_names import stock_keys


def unet_keys(unet):
    state = unet.state_dict()
    return {f"model.diffusion_model.{theirs}": state[key] for theirs, key in stock_keys(unet).items()}


def vae_keys(vae):
    count, found = len(vae.config.block_out_channels), {}
    for key, value in vae.state_dict().items():
        name = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{count - 1 - int(match[1])}", key)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
        for ours, theirs in (
            ("down_blocks", "down"), ("resnets", "block"), ("samplers.0.", "sample."), ("conv_shortcut", "nin_shortcut"),
            ("mid_block.attentions.0", "mid.attn_1"), ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
            ("to_out.0", "proj_out"), ("conv_norm_out", "norm_out"),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        matrix = "attn_1" in name and value.ndim == 2
        found[f"first_stage_model.{name}"] = value[:, :, None, None] if matrix else value
    return found


def text_keys(encoder):
    start = "cond_stage_model.transformer.text_model."
    return {start + key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}


def open_clip_keys(encoder):
    """As OpenCLIP has it: q, k and v in one matrix, and the projection turned round."""
    start, found = "conditioner.embedders.1.model.", {}
    weights = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    outer = {
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.token_embedding.weight": "token_embedding.weight", "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }  # fmt: skip
    found |= {start + theirs: weights.pop(ours) for ours, theirs in outer.items()}
    found[f"{start}text_projection"] = weights.pop("text_projection.weight").T
    for key in [key for key in weights if "q_proj" in key]:
        whole = torch.cat([weights.pop(key.replace("q_proj", f"{letter}_proj")) for letter in "qkv"])
        weights[key.replace("q_proj.", "in_proj_")] = whole
    for key, value in weights.items():
        theirs = (
            key.replace("encoder.layers", "transformer.resblocks").replace("self_attn", "attn").replace("layer_norm", "ln_")
        )
        found[start + theirs.replace("fc1", "c_fc").replace("fc2", "c_proj")] = value
    return found


def third_keys(transformer):
    """As Stable Diffusion 3's own code has it, without a prefix, as its transformer alone is published."""
    outer = {
        "pos_embed.pos_embed": "pos_embed", "pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0", "proj_out": "final_layer.linear",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2", "norm_out.linear": "final_layer.adaLN_modulation.1",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    }  # fmt: skip
    weights, found = transformer.state_dict(), {}
    last = transformer.config.num_layers - 1
    for i in range(last + 1):
        for old, new in JOINT.items():
            for kind in ("weight", "bias"):
                names = [f"transformer_blocks.{i}.{name}.{kind}" for name in new]
                if names[0] in weights:
                    found[f"joint_blocks.{i}.{old}.{kind}"] = torch.cat([weights.pop(name) for name in names])
    for key, value in weights.items():
        name, _, kind = key.rpartition(".")
        found[outer[key] if key in outer else f"{outer[name]}.{kind}"] = value
    for key in (f"joint_blocks.{last}.context_block.adaLN_modulation.1", "final_layer.adaLN_modulation.1"):
        for kind in ("weight", "bias"):
            found[f"{key}.{kind}"] = torch.cat(found[f"{key}.{kind}"].chunk(2)[::-1])  # scale and shift the other way round
    return found


def write(path, *groups):
    save_file({key: value.contiguous().clone() for group in groups for key, value in group.items()}, path)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@torch.no_grad()
def test_a_checkpoint_comes_back_weight_for_weight(tmp_path, cache, first):
    folder, pipe = first
    (tmp_path / "mine").mkdir()
    file = write(tmp_path / "mine" / "m.safetensors", unet_keys(pipe.unet), vae_keys(pipe.vae), text_keys(pipe.text_encoder))
    settings = tmp_path / "settings"
    copytree(folder, settings, ignore=ignore_patterns("*.safetensors"))
    with pytest.warns(UserWarning, match="is converted once, into"):
        made = sources.locate(str(file), str(settings))
    assert cache_folder("converted") == cache / "dreamlift" / "converted" == made.parent
    assert [path.name for path in cache_folder("converted").iterdir()] == [made.name]
    assert list((tmp_path / "mine").iterdir()) == [file]
    for part in ("unet", "vae", "text_encoder"):
        same_weights(made, folder, part)
    same_words(made, folder)
    before = tree(cache)
    assert sources.locate(str(file), str(settings)) == made
    assert tree(cache) == before
    assert sources.revision_of(made) == made.name
    keys = unet_keys(pipe.unet)
    keys["model.diffusion_model.out.2.bias"] = keys["model.diffusion_model.out.2.bias"] + 1
    other = write(tmp_path / "o.safetensors", keys, vae_keys(pipe.vae), text_keys(pipe.text_encoder))
    with pytest.warns(UserWarning, match="is converted once"):
        assert sources.revision_of(sources.locate(str(other), str(settings))) != made.name


def same_words(made, folder):
    """The prior in ``made`` encodes prompts as the one in ``folder``, pooled states included."""
    for got, want in zip(*(load_prior(place, CPU).embed_text(PROMPTS) for place in (made, folder)), strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            close(got, want)


def same_weights(made, folder, part):
    (got,), (want,) = ((place / part).glob("*.safetensors") for place in (made, folder))
    got, want = load_file(got), load_file(want)
    assert want.keys() == got.keys()
    assert all(torch.equal(got[name], want[name]) for name in want), part


@pytest.mark.filterwarnings("ignore:.*is converted once")
def test_a_checkpoint_of_xl_comes_back_weight_for_weight(tmp_path, cache):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    words = clip(16, 2), clip(12, 3, projection=12)
    pipe = StableDiffusionXLPipeline(
        autoencoder(4), *words, tokenizer(), tokenizer(), xl_unet(12), EulerDiscreteScheduler(beta_schedule="scaled_linear")
    )
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    text = {key.replace("cond_stage_model.", "conditioner.embedders.0."): value for key, value in text_keys(words[0]).items()}
    file = write(tmp_path / "m.safetensors", unet_keys(pipe.unet), vae_keys(pipe.vae), text, open_clip_keys(words[1]))
    assert inspect_file(file) == ("StableDiffusionXLPipeline", "sdxl", [], "float32")
    made = sources.locate(str(file), str(folder))
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        same_weights(made, folder, part)


@pytest.mark.filterwarnings("ignore:.*is converted once")
def test_a_transformer_of_the_third_alone_comes_back_weight_for_weight(tmp_path, cache):
    pipe = third_pipeline(with_t5=False)
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    file = write(tmp_path / "m.safetensors", third_keys(pipe.transformer))
    lacks = ["vae", "text_encoder", "text_encoder_2", "text_encoder_3"]
    assert inspect_file(file) == ("StableDiffusion3Pipeline", "sd3-medium", lacks, "float32")
    made = sources.locate(str(file), str(folder))
    for part in ("transformer", *lacks[:3]):
        same_weights(made, folder, part)
    same_words(made, folder)


def test_the_settings_of_the_known_prior_are_found_in_the_hubs_cache(tmp_path, cache, first, monkeypatch):
    folder, pipe = first
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    copytree(folder, repository / "snapshots" / ("a" * 40), ignore=ignore_patterns("*.safetensors"))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    file = write(tmp_path / "m.safetensors", unet_keys(pipe.unet), vae_keys(pipe.vae), text_keys(pipe.text_encoder))
    with pytest.warns(UserWarning, match="is converted once"):
        made = sources.locate(str(file))
    same_words(made, folder)
    with pytest.raises(
        sources.PriorNotFoundError, match="only the settings of stable-diffusion-v1-5/stable-diffusion-v1-5 are in"
    ):
        sources.locate("sd-1.5")


def test_parts_that_a_file_lacks_come_from_the_settings_folder(tmp_path, cache, first):
    folder, pipe = first
    file = write(tmp_path / "m.safetensors", unet_keys(pipe.unet), vae_keys(pipe.vae))
    assert inspect_file(file) == ("StableDiffusionPipeline", "sd-1.5", ["text_encoder"], "float32")
    with pytest.warns(UserWarning, match="is converted once"):
        made = sources.locate(str(file), str(folder))
    (weights,) = (folder / "text_encoder").glob("*.safetensors")
    assert (made / "text_encoder" / weights.name).read_bytes() == weights.read_bytes()
    same_words(made, folder)
    weights.rename(weights.with_suffix(".away"))
    try:
        again = write(tmp_path / "n.safetensors", unet_keys(pipe.unet), vae_keys(pipe.vae), {"note": torch.zeros(1)})
        with pytest.raises(ValueError, match="lacks text_encoder, and so does"):
            sources.locate(str(again), str(folder))
        assert len(list(cache_folder("converted").iterdir())) == 1
    finally:
        weights.with_suffix(".away").rename(weights)


@pytest.mark.filterwarnings("ignore:.*is converted once")
def test_what_cannot_be_converted_is_said_in_one_line_and_leaves_nothing(cwd, capsys, cache, first, monkeypatch):
    folder, pipe = first
    unet, vae, text = unet_keys(pipe.unet), vae_keys(pipe.vae), text_keys(pipe.text_encoder)

    def say(name, *expected, settings=folder):
        more = ["--prior-config", str(settings)] if settings else []
        err = refused(capsys, cwd, ["generate", "a mug", "--prior", name, *more], *expected)
        assert not cache_folder("converted").is_dir() or not list(cache_folder().iterdir())
        return err

    (cwd / "old.ckpt").write_bytes(b"\x80\x04K\x01.")
    say("old.ckpt", "old.ckpt is a pickle (.ckpt), which is never opened", "convert it with")
    say("gone/none.safetensors", "there is no checkpoint file 'gone/none.safetensors'")
    (cwd / "cut.safetensors").write_bytes(b"\x08")
    say("cut.safetensors", "is not a valid .safetensors file")
    write(cwd / "lora.safetensors", {"lora_unet_x.alpha": torch.ones(1)})
    say("lora.safetensors", "give a LoRA with --lora")
    write(cwd / "m.safetensors", unet, vae, text)
    say("m.safetensors", "of 'sd-1.5', which is not in the local cache", "(--prior-config FOLDER)", settings=None)
    wide = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}
    write(cwd / "inpaint.safetensors", {**unet, **wide}, vae, text)
    say("inpaint.safetensors", "has 9 input channels: it is an inpainting")
    write(cwd / "second.safetensors", unet, vae, {"cond_stage_model.model.ln_final.weight": torch.zeros(16)})
    say("second.safetensors", "may predict noise or velocity", "--prior-config sd-2.1-base", settings=None)
    write(cwd / "xl.safetensors", unet, {"conditioner.embedders.1.model.ln_final.weight": torch.zeros(16)})
    say("xl.safetensors", "is a StableDiffusionXLPipeline", "are of a StableDiffusionPipeline")
    monkeypatch.setattr("diffusers.utils.is_accelerate_available", lambda: False)
    say("m.safetensors", "pip install accelerate")


@pytest.mark.filterwarnings("ignore:.*is converted once")
def test_weights_that_are_missing_or_of_other_shapes_are_an_error(tmp_path, cache, first):
    folder, pipe = first
    unet, others = unet_keys(pipe.unet), (vae_keys(pipe.vae), text_keys(pipe.text_encoder))
    few = {name: value for name, value in unet.items() if "middle_block.0" not in name}
    broad = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in unet.items()}
    wordless = {name: value for name, value in others[1].items() if "layers.1" not in name}
    for groups, expected in (
        ((few, *others), "its unet lacks mid_block|cannot be converted"),
        ((broad, *others), "cannot be converted with the settings in"),
        ((unet, others[0], wordless), "its text_encoder lacks encoder.layers.1|cannot be converted"),
    ):
        file = write(tmp_path / "m.safetensors", *groups)
        with pytest.raises(ValueError, match=expected) as caught:
            sources.locate(str(file), str(folder))
        assert "\n" not in str(caught.value)
        assert list(cache_folder("converted").iterdir()) == []
