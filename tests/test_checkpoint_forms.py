"""The forms of one-file checkpoints that people have: precisions, names, scales; each against the weights that were written."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from test_single_file import cache, text_keys, unet_keys, vae_keys, write  # noqa: F401

from dreamlift.priors.loading import sources
from dreamlift.priors.loading.single_file import cache_folder

F8 = torch.float8_e4m3fn
pytestmark = pytest.mark.filterwarnings("ignore:.*is converted once")


@pytest.fixture(scope="module")
def made(first):
    """(folder of the settings, stock pipeline, the checkpoint's weights)."""
    folder, pipe = first
    return folder, pipe, {**unet_keys(pipe.unet), **vae_keys(pipe.vae), **text_keys(pipe.text_encoder)}


def scaled(weights, name, rows=False):
    """fp8 weights of the U-Net, each with a scale: of the whole weight, or of each row."""
    found = {"scaled_fp8": torch.zeros(2, dtype=F8)}
    for key, value in weights.items():
        found[key] = value.half()
        if key.startswith("model.diffusion_model.") and key.endswith(".weight") and value.ndim > 1:
            scale = torch.tensor(0.5) if not rows else torch.linspace(0.25, 0.75, len(value))[:, None]
            found[key] = (value / scale.view(-1, *[1] * (value.ndim - 1))).to(F8)
            found[f"{key.removesuffix('.weight')}.{name}"] = scale
            found[f"{key.removesuffix('.weight')}.{name.replace('weight', 'input')}"] = torch.ones(())
    return found


def in_diffusers_names(weights, pipe, older=False):
    found = {key: value for key, value in weights.items() if not key.startswith("first_stage_model.")}
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"} if older else {}
    for key, value in pipe.vae.state_dict().items():
        for new, old in names.items():
            key = key.replace(f".{new}.", f".{old}.")
        found[f"first_stage_model.{key}"] = value
    return found


def in_mixed_names(weights):
    """The original blocks with the newer names of attention layers."""
    found = {}
    for key, value in weights.items():
        for old, new in ((".attn_1.q.", ".attn_1.to_q."), (".attn_1.k.", ".attn_1.to_k."), (".attn_1.v.", ".attn_1.to_v."),
                         (".attn_1.proj_out.", ".attn_1.to_out.0."), (".attn_1.norm.", ".attn_1.group_norm.")):  # fmt: skip
            key = key.replace(old, new) if key.startswith("first_stage_model.") else key
        found[key] = value
    return found


def flat_text(weights):
    return {key.replace("transformer.text_model.", "transformer."): value for key, value in weights.items()}


# name: (from the weights and the pipeline to the file's tensors, largest relative error of a weight)
FORMS = {
    "as it is": (lambda w, _: w, 0),
    "c06 half": (lambda w, _: {k: v.half() for k, v in w.items()}, 2**-11),
    "c06b bfloat16": (lambda w, _: {k: v.bfloat16() for k, v in w.items()}, 2**-8),
    "c07 fp8": (lambda w, _: {k: v.to(F8) if v.ndim > 1 else v.half() for k, v in w.items()}, 2**-4),
    "c07c fp8 with scales": (lambda w, _: scaled(w, "scale_weight"), 2**-4),
    "fp8 with scales under the newer name": (lambda w, _: scaled(w, "weight_scale"), 2**-4),
    "fp8 with a scale for each row": (lambda w, _: scaled(w, "scale_weight", rows=True), 2**-4),
    "text without text_model": (lambda w, _: flat_text(w), 0),
    "autoencoder in diffusers' names": (lambda w, pipe: in_diffusers_names(w, pipe), 0),
    "autoencoder in diffusers' older names": (lambda w, pipe: in_diffusers_names(w, pipe, older=True), 0),
    "autoencoder with newer attention": (lambda w, _: in_mixed_names(w), 0),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_gives_the_weights_that_were_written(tmp_path, cache, made, name):  # noqa: F811
    folder, pipe, weights = made
    change, error = FORMS[name]
    file = write(tmp_path / "m.safetensors", change(weights, pipe))
    found = sources.locate(str(file), str(folder))
    assert list(file.parent.glob("*.safetensors")) == [file]
    for part in ("unet", "vae", "text_encoder"):
        (got,) = (found / part).glob("*.safetensors")
        (want,) = (folder / part).glob("*.safetensors")
        got, want = load_file(got), load_file(want)
        assert got.keys() == want.keys()
        for key, value in want.items():
            # 2^-9: the smallest step of fp8, below which its values are rounded to it
            torch.testing.assert_close(
                got[key].float(), value, rtol=error, atol=2**-9 if error == 2**-4 else 1e-6 * bool(error)
            )


def without(part):
    return lambda w: {key: value for key, value in w.items() if key != part}


def damaged(part, value):
    return lambda w: {**w, part: torch.full_like(w[part], value)}


CONV = "model.diffusion_model.input_blocks.0.0.bias"
REFUSED = {
    "a weight of the unet": (without(CONV), r"m\.safetensors: its unet lacks conv_in\.bias: fetch it again"),
    "of the autoencoder": (without("first_stage_model.decoder.conv_out.bias"), r"its vae lacks decoder\.conv_out\.bias"),
    "of the text encoder": (without("cond_stage_model.transformer.text_model.final_layer_norm.bias"),
                            r"its text_encoder lacks (text_model\.)?final_layer_norm\.bias"),
    "NaN": (damaged(CONV, float("nan")), r"m\.safetensors holds NaN in model\.diffusion_model\.input_blocks\.0\.0\.bias"),
    "infinite": (damaged(CONV, float("inf")), r"m\.safetensors holds infinite values in"),
    "4 bits": (lambda w: {**w, CONV.replace("bias", "weight_scale_2"): torch.ones(1)},
               r"holds quantized weights .*weight_scale_2"),
    "another model's layer": (lambda w: {**w, CONV: torch.ones(5)}, r"m\.safetensors cannot be converted with the settings in"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_form_that_cannot_be_read_is_refused_in_one_line_and_leaves_nothing(tmp_path, cache, made, name):  # noqa: F811
    change, said = REFUSED[name]
    file = write(tmp_path / "m.safetensors", change(made[2]))
    with pytest.raises(ValueError, match=said) as caught:
        sources.locate(str(file), str(made[0]))
    assert "\n" not in str(caught.value)
    assert list(cache_folder("converted").iterdir()) == []
