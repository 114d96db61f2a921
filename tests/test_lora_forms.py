"""The forms of LoRA files that people have: each kind's change against a formula written here, or how it is refused."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from big_helpers import close
from safetensors.torch import save, save_file
from torch.nn import functional

from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.lora.additions import with_whole_paths
from dreamlift.priors.lora.lora_files import merge_loras
from dreamlift.priors.parts import FolderParts
from dreamlift.types import LoraFile

KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"  # (8, 16)
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"  # (8, 8), with a bias
CONV = "down_blocks.0.resnets.0.conv1"  # (8, 8, 3, 3)
NORM = "down_blocks.0.attentions.0.norm"
K, C = (f"lora_unet_{name.replace('.', '_')}" for name in (KEY, CONV))
SCALE = 0.7


def rand(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


def network():
    from test_prior_folders import network as made

    return made("unet")


DOWN, UP, ALPHA = rand(4, 16), rand(8, 4), torch.tensor(2.0)
PLAIN = {f"{K}.lora_down.weight": DOWN, f"{K}.lora_up.weight": UP, f"{K}.alpha": ALPHA}
HALF = 0.5 * UP @ DOWN  # alpha / rank is 0.5
LOHA = {"hada_w1_a": rand(8, 4), "hada_w1_b": rand(4, 16), "hada_w2_a": rand(8, 4) + 1, "hada_w2_b": rand(4, 16) - 1}
TUCKER = {"hada_w1_a": rand(2, 8), "hada_w1_b": rand(2, 8) + 1, "hada_t1": rand(2, 2, 3, 3),
          "hada_w2_a": rand(2, 8) - 1, "hada_w2_b": rand(2, 8) + 2, "hada_t2": rand(2, 2, 3, 3) + 1}  # fmt: skip
CORE = {"lora_down.weight": rand(2, 8, 1, 1), "lora_mid.weight": rand(2, 2, 3, 3), "lora_up.weight": rand(8, 2, 1, 1)}
W1, W2A, W2B = rand(2, 4), rand(4, 3), rand(3, 4)


def named(layer, tensors, alpha=2.0):
    return {**{f"{layer}.{role}": value for role, value in tensors.items()}, f"{layer}.alpha": torch.tensor(alpha)}


def by_loops(rows, columns, value):
    found = torch.zeros(rows, columns)
    for i in range(rows):
        for j in range(columns):
            found[i, j] = value(i, j)
    return found


def loha(i, j):
    first = sum(float(LOHA["hada_w1_a"][i, r] * LOHA["hada_w1_b"][r, j]) for r in range(4))
    second = sum(float(LOHA["hada_w2_a"][i, r] * LOHA["hada_w2_b"][r, j]) for r in range(4))
    return 0.5 * first * second


def tucker():
    """Each kernel as three convolutions: to r channels, its core, and to all channels, applied to one-hot pictures."""
    kernels = []
    for n in (1, 2):
        a, b, core = (TUCKER[f"hada_{name}"] for name in (f"w{n}_a", f"w{n}_b", f"t{n}"))
        kernels.append(by_steps(b[..., None, None], core, a.T[..., None, None]))
    return kernels[0] * kernels[1]  # alpha / rank is 1


def by_steps(down, mid, up):
    """The kernel of three convolutions in a row, from what they make of pictures with one pixel of 1."""
    found = torch.zeros(len(up), down.shape[1], *mid.shape[2:])
    for channel in range(down.shape[1]):
        point = torch.zeros(1, down.shape[1], 5, 5)
        point[0, channel, 2, 2] = 1
        out = functional.conv2d(functional.conv2d(functional.conv2d(point, down), mid), up)  # (1, out, 3, 3)
        found[:, channel] = out[0].flip(1, 2)  # convolution turns the kernel round
    return found


def dora_of_inputs(weight):
    """m V / ||V||, a norm for each column; ``scale`` of a file goes a part of the way."""
    total = (weight + HALF).numpy().astype(np.float64)
    m = np.arange(1, 17) / 8
    return torch.tensor(m * total / np.sqrt((total**2).sum(0, keepdims=True))).float() - weight


def dora_of_outputs(weight):
    total = (weight + UP @ DOWN).numpy().astype(np.float64)
    m = np.arange(1, 9)[:, None] / 4
    return torch.tensor(m * total / np.sqrt((total**2).sum(1, keepdims=True))).float() - weight


def dora_of_kernel(side, weight, down, up, m):
    """m V / ||V|| slice by slice: V's slices are its kernels of one output, or of one input."""
    total = weight.double() + torch.einsum("or,rihw->oihw", up[..., 0, 0].double(), down.double())
    slices = total.unbind(0 if side == "outputs" else 1)
    scaled = [float(value) * each / float((each**2).sum()) ** 0.5 for value, each in zip(m.flatten(), slices, strict=True)]
    return torch.stack(scaled, 0 if side == "outputs" else 1).float() - weight


PEFT = {f"{KEY}.lora_A.weight": DOWN, f"{KEY}.lora_B.weight": UP}
INPUTS, OUTPUTS = torch.arange(1, 17)[None] / 8, torch.arange(1, 9) / 4
EIGHT, FEW = torch.arange(1, 9) / 4, torch.arange(1, 5) / 4
KERNELS = rand(4, 8, 3, 3), rand(8, 4, 1, 1)  # down, up
PEFT_KERNEL = {f"{CONV}.lora_{side}.weight": value for side, value in zip("AB", KERNELS, strict=True)}
KERNEL = {f"{C}.lora_{side}.weight": value for side, value in zip(("down", "up"), KERNELS, strict=True)}
CONV_IN, C_IN = "conv_in", "lora_unet_conv_in"  # (8, 4, 3, 3)
IN_KERNELS = rand(2, 4, 3, 3), rand(8, 2, 1, 1)
IN_KERNEL = {f"{C_IN}.lora_{side}.weight": value for side, value in zip(("down", "up"), IN_KERNELS, strict=True)}
READ = {  # name: (tensors, layer, its change from its weight)
    "l01 kohya, alpha 2": (PLAIN, KEY, HALF),
    "l02 kohya, no alpha": ({name: value for name, value in PLAIN.items() if "alpha" not in name}, KEY, UP @ DOWN),
    "l02b alpha of one entry": ({**PLAIN, f"{K}.alpha": ALPHA[None]}, KEY, HALF),
    "l02d whole alpha": ({**PLAIN, f"{K}.alpha": torch.tensor(2)}, KEY, HALF),
    "l03 kernel": ({f"{C}.lora_down.weight": rand(4, 8, 3, 3), f"{C}.lora_up.weight": rand(8, 4, 1, 1)}, CONV,
                   torch.einsum("or,rihw->oihw", rand(8, 4, 1, 1)[..., 0, 0], rand(4, 8, 3, 3))),
    "l04 processor": ({f"{KEY.replace('.to_k', '.processor.to_k_lora')}.{kind}.weight": value
                       for kind, value in (("down", DOWN), ("up", UP))}, KEY, UP @ DOWN),
    "l05 linear layer": ({f"unet.{KEY}.lora_linear_layer.{kind}.weight": value for kind, value in (("down", DOWN), ("up", UP))},
                         KEY, UP @ DOWN),
    "l06b peft": ({f"base_model.model.{name}": value for name, value in PEFT.items()}, KEY, UP @ DOWN),
    "l06c default": ({f"base_model.model.{name[:-7]}.default.weight": value for name, value in PEFT.items()}, KEY, UP @ DOWN),
    "l06e both prefixes": ({f"unet.base_model.model.{name}": value for name, value in PEFT.items()}, KEY, UP @ DOWN),
    "l09 half": ({name: value.half() for name, value in PLAIN.items()}, KEY, 0.5 * UP.half().float() @ DOWN.half().float()),
    "l09 float8": ({name: value.to(torch.float8_e4m3fn) for name, value in PLAIN.items()}, KEY,
                   0.5 * UP.to(torch.float8_e4m3fn).float() @ DOWN.to(torch.float8_e4m3fn).float()),
    "l09 double": ({name: value.double() for name, value in PLAIN.items()}, KEY, HALF),
    "l20 LoHa": (named(K, LOHA), KEY, by_loops(8, 16, loha)),
    "LoHa of a kernel": (named(C, TUCKER), CONV, tucker()),
    "LoCon with a core": ({f"{C}.{name}": value for name, value in CORE.items()}, CONV, by_steps(*CORE.values())),
    "l20b LoKr of whole matrices": (named(K, {"lokr_w1": W1, "lokr_w2": W2A @ W2B}), KEY,
                                    torch.tensor(np.kron(W1.numpy(), (W2A @ W2B).numpy()))),  # alpha needs a rank
    "LoKr of a product": (named(K, {"lokr_w1": W1, "lokr_w2_a": W2A, "lokr_w2_b": W2B}), KEY,
                          2 / 3 * torch.tensor(np.kron(W1.numpy(), (W2A @ W2B).numpy()))),
    "LoKr of a kernel": (named(C, {"lokr_w1": rand(2, 4), "lokr_w2": rand(4, 2, 3, 3)}), CONV,
                         torch.einsum("am,bnhw->abmnhw", rand(2, 4), rand(4, 2, 3, 3)).reshape(8, 8, 3, 3)),
    "l20c DoRA": ({**PLAIN, f"{K}.dora_scale": INPUTS}, KEY, dora_of_inputs),
    "DoRA of peft": ({**PEFT, f"{KEY}.lora_magnitude_vector": OUTPUTS}, KEY, dora_of_outputs),
    "DoRA of peft, a kernel": ({**PEFT_KERNEL, f"{CONV}.lora_magnitude_vector": EIGHT.view(1, 8, 1, 1)}, CONV,
                               lambda weight: dora_of_kernel("outputs", weight, *KERNELS, EIGHT)),
    "DoRA of inputs, a kernel": ({**KERNEL, f"{C}.dora_scale": EIGHT.view(1, 8, 1, 1)}, CONV,
                                 lambda weight: dora_of_kernel("inputs", weight, *KERNELS, EIGHT)),
    "DoRA of outputs, a kernel": ({**KERNEL, f"{C}.dora_scale": EIGHT.view(8, 1, 1, 1)}, CONV,
                                  lambda weight: dora_of_kernel("outputs", weight, *KERNELS, EIGHT)),
    "DoRA, the size decides": ({**IN_KERNEL, f"{C_IN}.dora_scale": EIGHT.view(1, 8, 1, 1)}, CONV_IN,
                               lambda weight: dora_of_kernel("outputs", weight, *IN_KERNELS, EIGHT)),
    "DoRA, the size decides in peft's names": ({**IN_KERNEL, f"{C_IN}.lora_magnitude_vector": FEW.view(1, -1, 1, 1)}, CONV_IN,
                                               lambda weight: dora_of_kernel("inputs", weight, *IN_KERNELS, FEW)),
    "l20d whole difference": ({f"{K}.diff": rand(8, 16)}, KEY, rand(8, 16)),
    "l20e bias": ({f"unet.{OUT}.diff": rand(8, 8), f"unet.{OUT}.diff_b": rand(8)}, f"{OUT}/bias", rand(8)),
    "l20e bias of zeros where there is none": ({**PLAIN, f"{K}.diff_b": torch.zeros(8)}, KEY, HALF),
    "l20h norm": ({f"unet.{NORM}.w_norm": rand(8), f"unet.{NORM}.b_norm": rand(8)}, NORM, rand(8)),
}  # fmt: skip


def merged(tmp_path, tensors, metadata=None, unet=None):
    path = tmp_path / "style.safetensors"
    save_file(tensors, path, metadata)
    with_whole_paths(PriorChoice("toybox", loras=(LoraFile(str(path)),)))
    return merge_loras(unet or network(), FolderParts(tmp_path), "unet", [LoraFile(str(path), SCALE)])


@pytest.mark.parametrize("name", READ)
def test_a_form_that_is_read_changes_its_layer_as_its_formula_says(tmp_path, name):
    tensors, layer, change = READ[name]
    layer, _, bias = layer.partition("/")
    before = network().state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = merged(tmp_path, {key: value.contiguous() for key, value in tensors.items()}).state_dict()
    key = f"{layer}.{bias or 'weight'}"
    change = change(before[key]) if callable(change) else change
    close(after[key], before[key] + SCALE * change)
    assert float((after[key] - before[key]).abs().max()) > 0.05
    touched = {other for other in before if not torch.equal(after[other], before[other])}
    assert touched <= {f"{layer}.weight", f"{layer}.bias"}


def test_alpha_in_the_metadata_is_taken(tmp_path):
    settings = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2, "unet.r": 4}), "format": "pt"}
    after = merged(tmp_path, {f"unet.{name}": value for name, value in PEFT.items()}, settings).state_dict()
    close(after[f"{KEY}.weight"], network().state_dict()[f"{KEY}.weight"] + SCALE * HALF)


NAN = torch.full((4, 16), float("nan"))
REFUSED = {
    "l20f IA3": ({f"{K}.weight": rand(8, 1), f"{K}.on_input": torch.tensor(False)}, r"holds IA3, which are not supported"),
    "OFT": ({f"{K}.oft_blocks": rand(2, 4, 4)}, r"holds OFT, which are not supported"),
    "l30 ranks": ({**PLAIN, f"{K}.lora_up.weight": rand(8, 8)}, r"attn2_to_k has two matrices of ranks 4 and 8"),
    "l31 NaN": ({**PLAIN, f"{K}.lora_down.weight": NAN}, r"style\.safetensors holds NaN in .*attn2_to_k \(down\)"),
    "alpha is NaN": ({**PLAIN, f"{K}.alpha": torch.tensor(float("nan"))}, r"style\.safetensors holds NaN in .*\(alpha\)"),
    "l32 up missing": ({f"{K}.lora_down.weight": DOWN}, r"attn2_to_k has only one of its two matrices"),
    "LoHa in part": ({f"{K}.hada_w1_a": rand(8, 4)}, r"attn2_to_k lacks hada_w1_b"),
    "LoHa of two ranks": (named(K, {**LOHA, "hada_w2_b": rand(3, 16)}), r"hada_w2_a and hada_w2_b of different ranks"),
    "DoRA of another width": ({**PLAIN, f"{K}.dora_scale": rand(1, 5)}, r"has 5 values of dora_scale for 16"),
    "DoRA of another width, a kernel": ({**PEFT_KERNEL, f"{CONV}.lora_magnitude_vector": rand(1, 5, 1, 1)},
                                        r"has 5 values of lora_magnitude_vector for 8"),
    "a bias that is not there": ({**PLAIN, f"{K}.diff_b": rand(8)}, r"changes the bias of .*attn2_to_k, which this prior's"),
    "l33 nothing": ({"x": rand(1)}, r"is not a LoRA: x; accepted: LoRA, LoHa, LoKr, DoRA and differences of weights"),
    "l34b other model": ({f"{K}.lora_down.weight": rand(4, 768), f"{K}.lora_up.weight": rand(320, 4)},
                         r"Stable Diffusion 1\.x\): .*is for a layer of shape \(320, 768\); the prior's has \(8, 16\)"),
    "l34c video": ({"diffusion_model.blocks.0.cross_attn.k.lora_A.weight": DOWN,
                    "diffusion_model.blocks.0.cross_attn.k.lora_B.weight": UP}, r"no layer matches blocks\.0\.cross_attn\.k"),
    "l35 a layer absent": ({**PLAIN, f"{K.replace('blocks_0', 'blocks_9')}.lora_down.weight": DOWN.clone()},
                           r"no layer matches down_blocks_9_attentions_0"),
    "too large": ({**PLAIN, f"{K}.alpha": torch.tensor(1e38)}, r"@0\.7 makes .* too large for torch\.float16"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_form_that_is_not_read_is_refused_by_its_name(tmp_path, name):
    tensors, said = REFUSED[name]
    with pytest.raises(ValueError, match=said) as caught:
        merged(tmp_path, tensors, unet=network().half())
    assert "\n" not in str(caught.value)


def test_what_is_left_out_gets_one_note(tmp_path):
    with pytest.warns(UserWarning, match=r"style\.safetensors holds no layers and changes nothing") as found:
        merged(tmp_path, {})  # l33b
    assert len(found) == 1
    both = {**PLAIN, "bundle_emb.myword.string_to_param.*": rand(1, 16)}
    with pytest.warns(UserWarning, match=r"holds embeddings of myword too, left out: save them as files") as found:
        after = merged(tmp_path, both).state_dict()  # l20g
    assert len(found) == 1
    close(after[f"{KEY}.weight"], network().state_dict()[f"{KEY}.weight"] + SCALE * HALF)


WHOLE = save(PLAIN)
PICKLE = b"PK\x03\x04\x00\x00\x08\x08" + bytes(18) + b"\x10\x00\x00\x00archive/data.pkl\x80\x02}q\x00."
BYTES = {
    "l40 web page": (b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>", "is a web page, not the file itself"),
    "l40b JSON": (b'{"error":"Unauthorized","message":"log in"}', "is JSON text, such as a server's error message"),
    "l40c pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 15620\n", "is a Git LFS pointer"),
    "l40d pickle": (PICKLE, "is a pickle under another name, which is never opened"),
    "a bare pickle": (b"\x80\x04\x95\x10\x00", "is a pickle under another name"),
    "l40f cut": (WHOLE[:-40], f"is cut off ({len(WHOLE) - 40} of {len(WHOLE)} bytes): fetch it again"),
    "l40g empty": (b"", "is empty: fetch it again"),
    "zeros": (bytes(5000), "holds nothing but zeros: fetch it again"),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(64), "is a GGUF file"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(64), "is a picture"),
}  # fmt: skip


@pytest.mark.parametrize("name", BYTES)
def test_a_file_of_another_kind_is_named_as_what_it_is(tmp_path, name):
    data, said = BYTES[name]
    path = tmp_path / "style.safetensors"
    path.write_bytes(data)
    for choice in (PriorChoice("toybox", loras=(LoraFile(str(path)),)), PriorChoice("toybox", embeddings=(str(path),))):
        with pytest.raises(ValueError, match=r"style\.safetensors ") as caught:
            with_whole_paths(choice)
        assert said in str(caught.value)


def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path):
    for name in ("l40e.pt", "e20.pt", "e21.bin", "old.ckpt"):
        (tmp_path / name).write_bytes(PICKLE)
        for choice in (PriorChoice(embeddings=(str(tmp_path / name),)), PriorChoice(loras=(LoraFile(str(tmp_path / name)),))):
            with pytest.raises(ValueError, match=r"is a pickle .*convert it with torch\.load\(FILE, weights_only=True\)"):
                with_whole_paths(choice)


def test_the_way_to_convert_in_the_docs_works(tmp_path):
    """The lines of docs/priors.md, run as they stand there, on an embedding as the web UI and as diffusers save them."""
    import re
    from pathlib import Path

    from dreamlift.priors.lora.embedding_files import read_embeddings

    text = (Path(__file__).parents[1] / "docs" / "priors.md").read_text(encoding="utf-8")
    code = re.search(r"### Pickled files.*?```python\n(.*?)```", text, re.DOTALL)[1]
    vectors = rand(3, 16)
    for content in (
        {"string_to_param": {"*": vectors}, "step": 500, "name": "x"},
        {"<x>": vectors[0]},
        {"state_dict": {"a": vectors}},
    ):
        torch.save(content, tmp_path / "old.pt")
        exec(code.replace('"old.pt"', repr(str(tmp_path / "old.pt"))).replace('"new', f'"{tmp_path}/new'), {})
        (found,) = read_embeddings((str(tmp_path / "new.safetensors"),))
        expected = vectors[:1] if "<x>" in content else vectors
        assert torch.equal(found.vectors["text_encoder"], expected)
