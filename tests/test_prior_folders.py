"""Priors' folders as people have them: every set of weight files, a real T5 tokenizer, and damage to each file."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from big_helpers import CPU, autoencoder, clip, close
from folder_helpers import damaged_ends, files_of, save_if, use
from safetensors.torch import load_file, save_file
from test_priors import tiny_folder

from dreamlift.priors.files.folder import chosen
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.parts import FolderParts


def network(kind: str):
    from diffusers import UNet2DConditionModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    if kind == "unet":
        return UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
        )  # fmt: skip
    if kind == "vae":
        return autoencoder(4)
    if kind == "text_encoder":
        return clip(16, 2)
    return T5EncoderModel(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2))


LAYOUTS = {  # name: whether there are full and half files, and several of each
    "plain": (True, False, False), "fp16": (False, True, False), "sharded": (True, False, True),
    "sharded fp16": (False, True, True), "both": (True, True, False), "both sharded": (True, True, True),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "t5"])
def test_every_set_of_weight_files_is_read(tmp_path, part, layout):
    full, half, sharded = LAYOUTS[layout]
    kind = type(network(part))
    original = {name: value.clone() for name, value in network(part).state_dict().items()}
    size = {"max_shard_size": "9KB"} if sharded else {}
    if half:
        network(part).half().save_pretrained(tmp_path / "half", variant="fp16", **size)
        shutil.copytree(tmp_path / "half", tmp_path / part)
    if full:
        network(part).save_pretrained(tmp_path / "full", **size)
        shutil.copytree(tmp_path / "full", tmp_path / part, dirs_exist_ok=True)
    names = [path.name for path in (tmp_path / part).glob("*.safetensors")]
    assert len(names) >= 2 if sharded else len(names) == full + half
    for dtype in (torch.float32, torch.float16):
        found = FolderParts(tmp_path).network(part, kind, dtype)
        state = found.state_dict()
        assert state.keys() == original.keys()
        rounded = not full or (half and dtype == torch.float16)
        for name, value in (network(part).half().state_dict() if rounded else original).items():
            assert torch.equal(state[name], value.to(state[name].dtype)), name
            assert state[name].dtype == dtype or name.endswith(".wo.weight")  # T5's is always stored and used in float32


def test_the_names_that_older_libraries_wrote_are_read_too(tmp_path):
    """Shards with the variant at the end, and attention layers of the autoencoder named query, key, value, proj_attn."""
    vae = network("vae")
    vae.save_pretrained(tmp_path / "vae")
    weights = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    old = {}
    for name, value in weights.items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{before}.")
        old[name] = value.half()
    places = {}
    for number, names in enumerate((sorted(old)[::2], sorted(old)[1::2]), start=1):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.fp16.safetensors"
        save_file({name: old[name] for name in names}, tmp_path / "vae" / file)
        places |= dict.fromkeys(names, file)
    index = tmp_path / "vae" / "diffusion_pytorch_model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": places}))
    found = FolderParts(tmp_path).network("vae", type(vae), torch.float32).state_dict()
    assert all(torch.equal(found[name], value.half().float()) for name, value in vae.state_dict().items())
    (tmp_path / "vae" / "diffusion_pytorch_model-00002-of-00002.fp16.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks diffusion_pytorch_model-00002-of-00002\.fp16\.safetensors, which .* lists"):
        FolderParts(tmp_path).network("vae", type(vae), torch.float32)
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(ValueError, match=r"index\.fp16\.json lists no weight files of its folder"):
        FolderParts(tmp_path).network("vae", type(vae), torch.float32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("conv_in.bias"), r"unet lacks the weight conv_in\.bias: fetch it again"),
        (lambda w: w.update({"conv_in.bias": torch.zeros(9)}), r"weight conv_in\.bias has shape \(9,\), .* asks for \(8,\)"),
        (lambda w: w["conv_in.bias"].fill_(float("nan")), r"diffusion_pytorch_model\.safetensors holds NaN in conv_in\.bias"),
        (lambda w: w["conv_in.bias"].fill_(float("inf")), r"holds infinite values in conv_in\.bias"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, said):
    unet = network("unet")
    unet.save_pretrained(tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)
    with pytest.raises(ValueError, match=said):
        FolderParts(tmp_path).network("unet", type(unet), torch.float32)


def test_weights_of_something_else_beside_the_networks_own_get_one_note(tmp_path):
    unet = network("unet")
    save_file({**unet.state_dict(), "ema.decay": torch.ones(1), "ema.step": torch.ones(1)}, tmp_path / "x.safetensors")
    unet.save_config(tmp_path / "unet")
    (tmp_path / "x.safetensors").rename(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.warns(UserWarning, match=r"unet: 2 weights are not part of its network and are left out, such as ema\.decay"):
        FolderParts(tmp_path).network("unet", type(unet), torch.float32)


def test_one_precision_is_chosen_in_each_folder():
    names = [
        "model.fp16-00001-of-00002.safetensors",
        "model.fp16-00002-of-00002.safetensors",
        "model-00001-of-00001.safetensors",
    ]
    assert chosen(names) == names[:2]
    assert chosen(["model.safetensors"]) == ["model.safetensors"]
    assert chosen(["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.fp16.safetensors"]) == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    assert chosen(["mvdream.safetensors", "config.json"]) == ["mvdream.safetensors"]


@pytest.fixture(scope="module")
def deepfloyd(tmp_path_factory):
    return save_if(tmp_path_factory.mktemp("deepfloyd") / "IF-I-XL-v1.0")


@torch.no_grad()
def test_deepfloyd_if_reads_its_prompt_with_a_real_sentencepiece_model(deepfloyd):
    """The tokens are those of sentencepiece itself, and the states those of the stock encoder."""
    from sentencepiece import SentencePieceProcessor
    from transformers import T5EncoderModel

    pieces = SentencePieceProcessor(model_file=str(deepfloyd / "tokenizer" / "spiece.model"))
    prompts = ["a red mug", "a yellow duck, front view", ""]
    rows = [[*pieces.encode(prompt), 1] for prompt in prompts]
    tokenizer = FolderParts(deepfloyd).tokenizer("tokenizer")
    assert tokenizer(prompts)["input_ids"] == rows
    encoder = T5EncoderModel.from_pretrained(deepfloyd / "text_encoder").eval()
    ids = torch.tensor([row + [0] * (77 - len(row)) for row in rows])
    mask = (torch.arange(77) < torch.tensor([len(row) for row in rows])[:, None]).long()
    close(load_prior(deepfloyd, CPU).embed_text(prompts).states, encoder(ids, attention_mask=mask).last_hidden_state)
    use(deepfloyd)


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("latent"), "latent")


LATENT = [
    "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
]  # fmt: skip
T5_FILES = ["text_encoder/config.json", "tokenizer/special_tokens_map.json", "tokenizer/spiece.model"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*LATENT, *(f"IF {name}" for name in T5_FILES)])
def test_each_damaged_file_ends_in_one_line_that_names_the_folder(tmp_path, latent, deepfloyd, name):
    whole, name = (deepfloyd, name[3:]) if name.startswith("IF ") else (latent, name)
    assert name in files_of(whole)
    ends = damaged_ends(whole, tmp_path, 20, name)
    assert ends["wrong"] == []
    assert len(ends["one line"]) >= 10, ends["used"]
    if name.endswith(".safetensors"):
        assert ends["used"] == []


def test_a_folder_without_its_tokenizers_padding_is_refused_in_one_line(tmp_path, latent):
    folder = tmp_path / "model"
    shutil.copytree(latent, folder)
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"the tokenizer of .*model does not fit its text encoder") as caught:
        use(folder)
    assert "\n" not in str(caught.value)
