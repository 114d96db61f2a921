"""LoRA files of others: against layers with a branch beside them, and diffusers' own converters of names."""

from __future__ import annotations

import json
import re

import pytest
import torch
from big_helpers import CPU, PROMPTS, close, xl_unet
from lift_helpers import generate_words, refused, run_main, status_of
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from dreamlift.config.build import from_plain, load_yaml, to_plain
from dreamlift.config.schema import Config
from dreamlift.priors.choice import NO_OPTIONS, PriorChoice
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.lora.additions import EMBEDDING_FILE, LORA_FILE, fingerprint, parse_lora, with_whole_paths
from dreamlift.priors.lora.lora_files import _index, _place, _plain, merge_loras
from dreamlift.priors.lora.original_names import original_name
from dreamlift.priors.parts import FolderParts
from dreamlift.types import LoraFile

RANK, ALPHA, SCALE = 2, 3.0, 0.7


def with_loras(folder, *loras):
    return PriorChoice(str(folder), loras=loras)


def layers(network):
    return {name: module for name, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}


def matrices(network):
    """A LoRA of every layer by name: (down, up), kernels as trainers of convolutions write them."""
    rng, found = torch.Generator().manual_seed(5), {}
    for name, layer in layers(network).items():
        weight = layer.weight
        down = 0.3 * torch.randn(RANK, *weight.shape[1:], generator=rng)
        up = 0.3 * torch.randn(len(weight), RANK, *[1] * (weight.ndim - 2), generator=rng)
        found[name] = (down, up)
    return found


def branched(network, lora, strength):
    """Put ``strength * up(down(x))`` beside every layer, by hooks; returns their handles."""
    handles = []
    for name, layer in layers(network).items():
        down, up = lora[name]

        def add(module, inputs, out, down=down, up=up):
            if isinstance(module, nn.Linear):
                return out + strength * functional.linear(functional.linear(inputs[0], down), up)
            inner = functional.conv2d(inputs[0], down, stride=module.stride, padding=module.padding)
            return out + strength * functional.conv2d(inner, up)

        handles.append(layer.register_forward_hook(add))
    return handles


def peft_keys(prefix, lora):
    """As diffusers writes now; no alpha: it is the rank."""
    return {f"{prefix}.{n}.lora_{k}.weight": t for n, pair in lora.items() for k, t in zip("AB", pair, strict=True)}


def dotted_keys(prefix, lora):
    """As diffusers wrote before."""
    kinds = ("down", "up")
    return {f"{prefix}.{n}.lora.{k}.weight": t for n, pair in lora.items() for k, t in zip(kinds, pair, strict=True)}


def kohya_keys(prefix, lora, name_of=lambda name: name):
    found = {}
    for name, (down, up) in lora.items():
        key = prefix + name_of(name).replace(".", "_")
        found |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    return found


def in_theirs(unet):
    """A function from a U-Net layer's name to the one in the code of Stable Diffusion's makers."""
    return lambda name: original_name(name, unet.config.layers_per_block, layers(unet))


@pytest.mark.parametrize("style", ["peft", "diffusers", "kohya", "kohya with the makers' names"])
@torch.no_grad()
def test_a_lora_of_the_unet_acts_as_a_branch_beside_each_layer(tmp_path, xl, style):
    folder, pipe = xl
    lora, path = matrices(pipe.unet), tmp_path / "style.safetensors"
    file = {
        "peft": lambda: peft_keys("unet", lora),
        "diffusers": lambda: dotted_keys("unet", lora),
        "kohya": lambda: kohya_keys("lora_unet_", lora),
        "kohya with the makers' names": lambda: kohya_keys("lora_unet_", lora, in_theirs(pipe.unet)),
    }[style]()
    save_file(file, path)
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    prior = load_prior(with_loras(folder, LoraFile(str(path), SCALE)), CPU)
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 7, 28)
    added = {"text_embeds": torch.randn(1, 40), "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]])}

    def ask(unet):
        return unet(x, t, text, added_cond_kwargs=added).sample

    plain = ask(pipe.unet)
    handles = branched(pipe.unet, lora, SCALE * (ALPHA / RANK if "kohya" in style else 1.0))
    expected = ask(pipe.unet)
    for handle in handles:
        handle.remove()
    assert float((expected - plain).abs().max()) > 0.1
    close(ask(prior.network.unet), expected)
    assert all(torch.equal(weight, before[name]) for name, weight in pipe.unet.state_dict().items())


@pytest.mark.parametrize("style", ["peft", "diffusers of old", "kohya"])
@torch.no_grad()
def test_a_lora_of_the_text_encoders_acts_as_a_branch_beside_each_layer(tmp_path, xl, style):
    folder, pipe = xl
    file, handles = {}, []
    for part, prefix in (("text_encoder", "lora_te1_"), ("text_encoder_2", "lora_te2_")):
        encoder = getattr(pipe, part)
        # files keep a level of names that transformers has since taken out of one of the two classes
        lora = {"text_model." + n.removeprefix("text_model."): pair for n, pair in matrices(encoder).items()}
        lora = {"text_projection" if n.endswith("text_projection") else n: pair for n, pair in lora.items()}
        if style == "kohya":
            file |= kohya_keys(prefix, lora)
        elif style == "peft":
            file |= peft_keys(part, lora)
        else:
            named = {n.replace("attn.q_proj", "attn.to_q_lora").replace("attn.k_proj", "attn.to_k_lora")
                     .replace("attn.v_proj", "attn.to_v_lora").replace("attn.out_proj", "attn.to_out_lora"): pair
                     for n, pair in lora.items()}  # fmt: skip
            keys = {k if "_lora.lora" not in k else k.replace("_lora.lora", "_lora"): t
                    for k, t in dotted_keys(part, named).items()}  # fmt: skip
            file |= {k.replace(".lora.", ".lora_linear_layer.") if "mlp" in k else k: t for k, t in keys.items()}
        handles += branched(encoder, matrices(encoder), SCALE * (ALPHA / RANK if style == "kohya" else 1.0))
    save_file(file, tmp_path / "words.safetensors")
    expected, _, pooled, _ = pipe.encode_prompt(PROMPTS[0], device=CPU, do_classifier_free_guidance=True)
    for handle in handles:
        handle.remove()
    plain, *_ = pipe.encode_prompt(PROMPTS[0], device=CPU, do_classifier_free_guidance=True)
    assert float((expected - plain).abs().max()) > 0.1
    prior = load_prior(with_loras(folder, LoraFile(str(tmp_path / "words.safetensors"), SCALE)), CPU)
    states, mine = prior.embed_text(PROMPTS)
    close(states[:1], expected)
    close(mine[:1], pooled)


@torch.no_grad()
def test_two_loras_add_up_and_scale_nought_is_nothing(tmp_path, xl):
    folder, pipe = xl
    lora, path = matrices(pipe.unet), str(tmp_path / "a.safetensors")
    save_file(peft_keys("unet", lora), path)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"

    def weight(*scales):
        choice = with_loras(folder, *(LoraFile(path, scale) for scale in scales))
        return load_prior(choice, CPU).network.unet.get_submodule(name).weight

    close(weight(0.5, -0.2), pipe.unet.get_submodule(name).weight + 0.3 * lora[name][1] @ lora[name][0])
    assert torch.equal(weight(0.0), pipe.unet.get_submodule(name).weight)


@torch.no_grad()
def test_alpha_in_the_settings_that_diffusers_saves_is_used(tmp_path):
    unet = xl_unet()
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_"
    lora = {n: pair for n, pair in matrices(unet).items() if n.startswith(name)}
    settings = {"unet.lora_alpha": 8, "unet.r": RANK, "unet.alpha_pattern": {"attn2.to_k": 6}}
    save_file(peft_keys("unet", lora), tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    before = {end: unet.get_submodule(name + end).weight.clone() for end in "qk"}
    merge_loras(unet, FolderParts(tmp_path), "unet", [LoraFile(str(tmp_path / "a.safetensors"))])
    for end, alpha in (("q", 8), ("k", 6)):
        down, up = lora[name + end]
        close(unet.get_submodule(name + end).weight, before[end] + alpha / RANK * up @ down)


def test_the_makers_names_are_those_of_diffusers_own_converter():
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = xl_unet()
    theirs = in_theirs(unet)
    parts = {
        f"{theirs(name)}.{kind}": value for name, layer in layers(unet).items() for kind, value in layer.named_parameters()
    }
    parts |= {"out.0.weight": torch.ones(8), "out.0.bias": torch.zeros(8)}
    checkpoint = {f"model.diffusion_model.{name}": value for name, value in parts.items()}
    converted = convert_ldm_unet_checkpoint(checkpoint, dict(unet.config))
    assert len(layers(unet)) > 60
    for name, layer in layers(unet).items():
        assert converted[f"{name}.weight"] is layer.weight, name


def test_kohyas_names_of_flux_are_those_of_diffusers_own_converter():
    from diffusers import FluxTransformer2DModel
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    from dreamlift.priors.lora.lora_files import DOUBLE, SINGLE

    with torch.device("meta"):
        transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=1)  # at its true width, but without weights
    index, file = _index(transformer), {}
    names = [f"double_blocks.0.{name}" for name in DOUBLE] + [f"single_blocks.0.{name}" for name in SINGLE]
    for name in names:
        weights = index[_plain(name)]
        file[f"lora_unet_{_plain(name)}.lora_down.weight"] = torch.randn(1, weights[0].shape[1])
        file[f"lora_unet_{_plain(name)}.lora_up.weight"] = torch.randn(sum(map(len, weights)), 1)
        file[f"lora_unet_{_plain(name)}.alpha"] = torch.tensor(1.0)
    expected = _convert_kohya_flux_lora_to_diffusers(dict(file))
    checked = 0
    for name in names:
        up, weights = file[f"lora_unet_{_plain(name)}.lora_up.weight"], index[_plain(name)]
        for weight, part in zip(weights, up.split([len(w) for w in weights]), strict=True):
            layer = next(n for n, p in transformer.named_parameters() if p is weight).removesuffix(".weight")
            assert torch.equal(expected[f"transformer.{layer}.lora_B.weight"], part), layer
            checked += 1
    assert checked == len(expected) // 2 == 20


def test_the_makers_names_of_the_third_are_those_of_diffusers_own_converter():
    from diffusers import SD3Transformer2DModel
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    from dreamlift.priors.lora.lora_files import JOINT

    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=48, out_channels=4, pos_embed_max_size=8,
        dual_attention_layers=(0,),
    )  # fmt: skip
    index = _index(transformer)
    outer = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "context_embedder", "y_embedder.mlp.0",
             "y_embedder.mlp.2", "final_layer.linear", "final_layer.adaLN_modulation.1"]  # fmt: skip
    checkpoint = {f"{name}.{kind}": torch.zeros(32, 1) for name in outer for kind in ("weight", "bias")}
    checkpoint |= {"pos_embed": torch.zeros(1), "context_embedder.weight": torch.zeros(16, 40)}
    checkpoint |= {f"joint_blocks.1.context_block.adaLN_modulation.1.{kind}": torch.zeros(32, 1) for kind in ("weight", "bias")}
    known = {f"joint_blocks.{i}.{name}": index.get(_plain(f"joint_blocks.{i}.{name}")) for i in (0, 1) for name in JOINT}
    for name, weights in known.items():
        if weights is not None:
            checkpoint[f"{name}.weight"] = torch.cat(list(weights)).detach()
            checkpoint[f"{name}.bias"] = torch.zeros(96)
    converted = convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    names = {weight: name for name, weight in transformer.named_parameters()}
    for weights in filter(None, known.values()):
        for weight in weights:
            assert torch.equal(converted[names[weight]], weight), names[weight]
    # the last block has no way back to the words, and no second attention
    assert sum(weights is None for weights in known.values()) == 6
    assert known["joint_blocks.1.context_block.adaLN_modulation.1"] is None  # scale and shift change places there


def refusal(tmp_path, tensors, network=None):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors") as caught:
        merge_loras(network or xl_unet(), FolderParts(tmp_path), "unet", [LoraFile(str(tmp_path / "x.safetensors"))])
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_does_not_fit_is_named(tmp_path):
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    text = refusal(tmp_path, peft_keys("unet", {layer: (torch.ones(2, 768), torch.ones(16, 2))}))
    assert "is for a layer of shape (16, 768); the prior's has (16, 28)" in text
    assert "seems to be made for Stable Diffusion 1.x" in text
    text = refusal(
        tmp_path,
        kohya_keys("lora_unet_", {f"double_blocks.{i}.img_mod.lin": (torch.ones(2, 2), torch.ones(2, 2)) for i in range(5)}),
    )
    assert "no layer matches double_blocks_0_img_mod_lin, double_blocks_1_img_mod_lin, double_blocks_2_img_mod_lin" in text
    assert "and 2 more" in text
    assert "made for FLUX" in text
    text = refusal(
        tmp_path, kohya_keys("lora_te2_", {"text_model_encoder_layers_0_mlp_fc1": (torch.ones(2, 2), torch.ones(2, 2))})
    )
    assert "this prior has no text_encoder_2" in text
    text = refusal(tmp_path, {f"lora_unet_{layer.replace('.', '_')}.hada_w1_a": torch.ones(2, 2)})
    assert "lacks hada_w1_b: fetch the file again" in text
    text = refusal(tmp_path, {f"lora_unet_{layer.replace('.', '_')}.oft_blocks": torch.ones(2, 2)})
    assert "holds OFT, which are not supported" in text
    assert "accepted: LoRA, LoHa, LoKr, DoRA and differences of weights" in text
    text = refusal(tmp_path, {f"unet.{layer}.lora_A.weight": torch.ones(2, 2)})
    assert f"{layer} has only one of its two matrices" in text


def test_files_that_cannot_be_read_are_refused_in_one_line(cwd, capsys, stub):
    (cwd / "old.ckpt").write_bytes(b"\x80\x04K\x01.")
    (cwd / "cut.safetensors").write_bytes(b"\x08")
    (cwd / "notes.safetensors").write_bytes(b"these are notes and no tensors at all")
    for option in ("--lora", "--embedding"):
        refused(
            capsys,
            cwd,
            generate_words(stub, "run", option, "old.ckpt"),
            "old.ckpt is a pickle (.ckpt), which is never opened",
            "convert it with torch.load(FILE, weights_only=True)",
        )
        refused(capsys, cwd, generate_words(stub, "run", option, "gone.safetensors"), "there is no", "'gone.safetensors'")
        refused(capsys, cwd, generate_words(stub, "run", option, "cut.safetensors"), "not a valid .safetensors file")
        refused(capsys, cwd, generate_words(stub, "run", option, "notes.safetensors"), "not a valid .safetensors file")


def test_loras_and_embeddings_in_the_config_come_back_and_are_absolute(cwd, no_steps, stub):
    save_file({"unet.conv_in.lora_A.weight": torch.zeros(1, 1)}, "a.safetensors")
    save_file({"emb_params": torch.zeros(1, 1)}, "word.safetensors")
    assert run_main(*generate_words(stub, "run", "--lora", "a.safetensors@0.5", "--lora=a.safetensors", "--embedding",
                                    "word.safetensors")) == 0  # fmt: skip
    config = load_yaml(Config, (cwd / "run" / "config.yaml").read_text())
    path = str(cwd / "a.safetensors")
    choice = config.stages[0].teachers[0].prior
    loras = (LoraFile(path, 0.5), LoraFile(path))
    assert choice == PriorChoice(str(stub), loras=loras, embeddings=(str(cwd / "word.safetensors"),))
    assert status_of(cwd / "run")["prior_revision"].endswith(fingerprint(choice))
    assert from_plain(Config, to_plain(config)) == config
    option = f"--prior.loras=[{{path: {path}, scale: 0.5}}, {{path: {path}}}]"
    assert run_main(*generate_words(stub, "again", option, "--embedding", "word.safetensors")) == 0
    assert load_yaml(Config, (cwd / "again" / "config.yaml").read_text()) == config


def test_kohyas_third_text_encoder_is_the_one_that_is_a_t5(tmp_path):
    def prior(name: str, *kinds: str):
        for number, kind in enumerate(kinds, start=1):
            part = tmp_path / name / (f"text_encoder_{number}" if number > 1 else "text_encoder")
            part.mkdir(parents=True)
            (part / "config.json").write_text(json.dumps({"architectures": [kind]}))
        return tmp_path / name

    clip, t5 = "CLIPTextModelWithProjection", "T5EncoderModel"
    kinds = ((clip, t5), (clip, clip, t5), (clip, clip))
    found = [_place("text_encoder_3", FolderParts(prior(str(i), *names))) for i, names in enumerate(kinds)]
    assert found == ["text_encoder_2", "text_encoder_3", "text_encoder_3"]


def test_the_scale_stands_behind_the_last_at_sign():
    assert parse_lora("a@b.safetensors") == LoraFile("a@b.safetensors")
    assert parse_lora("a@b.safetensors@-0.25") == LoraFile("a@b.safetensors", -0.25)
    assert parse_lora("@0.5") == LoraFile("@0.5")


@pytest.mark.parametrize(
    "text", ["a.safetensors@abc", "a.safetensors@inf", "duck@2x", "duck@nan", "duck@", "duck@0,8", "here@x"]
)
def test_a_weight_that_is_no_number_is_refused_with_what_is_accepted(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    path, _, weight = text.partition("@")
    with pytest.raises(
        ValueError, match=f"--lora {re.escape(text)}: the weight '{re.escape(weight)}' is not a number"
    ) as caught:
        parse_lora(text)
    assert str(caught.value).endswith(f"accepted: FOLDER (or FILE), or FOLDER@WEIGHT, such as {path}@0.8")
    (tmp_path / text).mkdir()  # its name has the @
    assert parse_lora(text) == LoraFile(text)


def test_a_scale_is_for_a_lora_and_not_for_a_word(tmp_path):
    save_file({"zwx": torch.ones(4)}, tmp_path / EMBEDDING_FILE)
    plain = with_whole_paths(with_loras("toybox", parse_lora(f"{tmp_path}@1")))
    assert (plain.loras, plain.embeddings) == ((), (str(tmp_path / EMBEDDING_FILE),))
    with pytest.raises(ValueError, match=r"holds a learnt word and no LoRA, and a scale has no effect .*: leave @0\.5 out"):
        with_whole_paths(with_loras("toybox", parse_lora(f"{tmp_path}@0.5")))
    save_file({"a": torch.ones(4)}, tmp_path / LORA_FILE)
    both = with_whole_paths(with_loras("toybox", parse_lora(f"{tmp_path}@0.5")))
    assert both.loras == (LoraFile(str(tmp_path / LORA_FILE), 0.5),)


def test_the_fingerprint_follows_contents_and_scales(tmp_path):
    assert fingerprint(NO_OPTIONS) == ""
    marks = set()
    for number in (1.0, 2.0):
        for name in ("a", "b"):
            save_file({"x": torch.full((2,), number)}, tmp_path / f"{name}.safetensors")
            for scale in (0.5, 1.0):
                marks.add(fingerprint(with_loras("x", LoraFile(str(tmp_path / f"{name}.safetensors"), scale))))
    assert len(marks) == 4  # 2 contents, 2 scales; the name is not looked at
