"""LoRA files, merged into a frozen network; :mod:`dreamlift.priors.lora.changes` has the kinds of adaptation.

Supported are the names of diffusers and peft (``unet.down_blocks...lora_A.weight``, ``...lora.down.weight``, and the older
``...processor.to_q_lora.down.weight``) and those of kohya's trainers (``lora_unet_down_blocks_0_...``), which use the layer
names of the original code for Stable Diffusion XL, 3 and FLUX (``input_blocks``, ``joint_blocks``, ``double_blocks``). Dots
and underscores are treated as equal, since kohya's names do not distinguish them.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dreamlift.priors.files.tensors import check_finite, read_tensors
from dreamlift.priors.lora.changes import BIAS_ROLES, MAGNITUDE_ROLES, IncompleteError, difference, moved
from dreamlift.priors.lora.original_names import original_name
from dreamlift.priors.parts import Parts
from dreamlift.types import LoraFile

NETWORK = "network"  # the prior's U-Net or transformer
PREFIXES = {
    "lora_unet_": NETWORK, "lora_transformer_": NETWORK, "unet.": NETWORK, "transformer.": NETWORK,
    "model.diffusion_model.": NETWORK, "diffusion_model.": NETWORK, "base_model.model.": NETWORK,
    "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2", "lora_te3_": "text_encoder_3",
    "text_encoder.": "text_encoder", "text_encoder_2.": "text_encoder_2", "text_encoder_3.": "text_encoder_3",
}  # fmt: skip
"""Prefix of a key -> part of the prior; keys without these prefixes are for the network."""

INNER = "base_model.model."  # a second prefix, which peft writes behind the first
ENDING = re.compile(
    r"(?P<name>.+?)(?:\.alpha"
    r"|[._]lora(?:_linear_layer)?(?:\.(?P<old>down|up)|_(?P<kohya>down|up|mid)|_(?P<peft>A|B)(?:\.default)?)\.weight"
    r"|\.(?P<role>hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|dora_scale|diff|diff_b|w_norm|b_norm)"
    r"|\.(?P<dora>lora_magnitude_vector)(?:\.default)?(?:\.weight)?)"
)
ROLES = {"A": "down", "B": "up", None: "alpha"}
OTHERS = {
    "IA3": r"\.on_input$", "OFT": r"\.oft_(blocks|diag)$|\.oft_R\.", "GLoRA": r"\.[ab][12]\.weight$",
    "full weights": r"\.weight$|\.bias$",
}  # fmt: skip
"""Kinds of adaptations that are not supported, and their keys."""
KNOWN = "LoRA, LoHa, LoKr, DoRA and differences of weights"

# Layers of a block: original name -> diffusers' names; several if the original matrix stacks their rows.
_QKV, _ADDED = ("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
JOINT = {
    "x_block.attn.qkv": _QKV, "x_block.attn.proj": ("attn.to_out.0",), "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"), "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",), "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": _ADDED, "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",), "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}  # fmt: skip
DOUBLE = {
    "img_attn.qkv": _QKV, "img_attn.proj": ("attn.to_out.0",), "img_mlp.0": ("ff.net.0.proj",), "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",), "txt_attn.qkv": _ADDED, "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",), "txt_mlp.2": ("ff_context.net.2",), "txt_mod.lin": ("norm1_context.linear",),
}  # fmt: skip
SINGLE = {"linear1": (*_QKV, "proj_mlp"), "linear2": ("proj_out",), "modulation.lin": ("norm.linear",)}
BLOCKS = (
    ("joint_blocks", "transformer_blocks", JOINT), ("double_blocks", "transformer_blocks", DOUBLE),
    ("single_blocks", "single_transformer_blocks", SINGLE),
)  # fmt: skip
MADE_FOR = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


@dataclass
class _Layer:
    """The tensors of one layer in a file, by role, see :mod:`dreamlift.priors.lora.changes`."""

    key: str  # its name in the file, without prefix and ending
    tensors: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def merge_loras(network: Any, parts: Parts, name: str, loras: Iterable[LoraFile]) -> Any:
    """Add each file's changes for ``network``, the part ``name`` of a model, to its weights; returns the network.

    Warns once, with the U-Net or transformer, about a file that holds no layer and about tensors that are left out.

    Raises:
        ValueError: a key or shape matches no layer, the prior lacks a part, or the file is of an unsupported kind or holds NaN.
    """
    part = name if name.startswith("text_encoder") else NETWORK
    index: dict[str, tuple[nn.Parameter, ...]] | None = None
    for lora in loras:
        tensors, metadata = read_tensors(lora.path)
        found, bundled = _layers(tensors, lora.path)
        layers = {(_place(where, parts), layer): each for (where, layer), each in found.items()}
        if part == NETWORK and not layers:
            warnings.warn(f"the LoRA {lora.path} holds no layers and changes nothing", stacklevel=1)
        if part == NETWORK and bundled:
            told = f"the LoRA {lora.path} holds embeddings of {_few(bundled)} too, left out: save them as files for --embedding"
            warnings.warn(told, stacklevel=1)
        absent = {key: where for where, key in layers if where != NETWORK and not parts.has(where)}
        if absent:
            raise ValueError(f"{_refusal(lora, tensors)}: this prior has no {', '.join(sorted(set(absent.values())))}")
        wanted = {layer: each for (where, layer), each in layers.items() if where == part}
        index = _index(network) if index is None else index
        strange = [each.key for layer, each in wanted.items() if layer not in index]
        if strange:
            raise ValueError(f"{_refusal(lora, tensors)}: no layer matches {_few(strange)}")
        settings = _peft_settings(metadata, name)
        biases = {id(module.weight): module.bias for module in _adaptable(network).values()}
        for layer, each in wanted.items():
            _merge(each, index[layer], biases, lora, settings, tensors)
    return network


def _place(where: str, parts: Parts) -> str:
    """The part that a file names ``where``: kohya's trainers name T5 the third encoder, but in FLUX it is the second."""
    if where != "text_encoder_3" or parts.has(where):
        return where
    return "text_encoder_2" if parts.is_t5("text_encoder_2") else where


def _merge(
    layer: _Layer, weights: tuple[nn.Parameter, ...], biases: dict[int, Tensor | None], lora: LoraFile,
    settings: dict[str, Any], tensors: dict[str, Tensor],
) -> None:  # fmt: skip
    """Change the weights, whose rows the layer's matrix stacks, and their biases."""
    check_finite(lora.path, {f"{layer.key} ({role})": value for role, value in layer.tensors.items()})
    found = {role: value for role, value in layer.tensors.items() if role not in ("alpha", *MAGNITUDE_ROLES)}
    rows = [len(weight) for weight in weights]
    try:
        change = difference(found, lambda rank: _strength(layer, rank, settings))
        if change is not None:
            got, want = (len(change), change[0].numel()), (sum(rows), weights[0][0].numel())
            if got != want:
                raise ValueError(
                    f"{_refusal(lora, tensors)}: {layer.key} is for a layer of shape {got}; the prior's has {want}"
                )
            whole = torch.cat([weight.float() for weight in weights])
            change = change.to(whole.device).view_as(whole)
            new = moved(whole, change, lora.scale, layer.tensors)
            for weight, part in zip(weights, new.split(rows), strict=True):
                weight.copy_(part)
    except IncompleteError as error:
        raise ValueError(f"{lora.path}: {layer.key} {error}") from None
    for role in BIAS_ROLES:
        if role in found:
            _move_biases(found[role].flatten(), [biases[id(weight)] for weight in weights], rows, layer.key, lora)
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        raise ValueError(f"{lora.path}@{lora.scale:g} makes {layer.key} too large for {weights[0].dtype}: give a smaller scale")


def _move_biases(change: Tensor, biases: list[Tensor | None], rows: list[int], key: str, lora: LoraFile) -> None:
    if all(bias is None for bias in biases) and not bool(change.any()):  # trainers write zeros for layers without a bias
        return
    if len(change) != sum(rows) or any(bias is None for bias in biases):
        raise ValueError(f"{lora.path} changes the bias of {key}, which this prior's layer does not have")
    for bias, part in zip(biases, change.split(rows), strict=True):
        assert bias is not None
        bias.copy_(bias.float() + lora.scale * part.to(bias.device, torch.float32))


def _strength(layer: _Layer, rank: int, settings: dict[str, Any]) -> float:
    """alpha / r, with alpha from the file's tensor, else from the metadata that diffusers saves, else r.

    With rank-stabilized LoRA (``use_rslora`` in the metadata) alpha / sqrt(r).
    """
    if "alpha" in layer.tensors:
        return float(layer.tensors["alpha"]) / rank
    patterns = settings.get("alpha_pattern", {})
    name = next((p for p in patterns if re.fullmatch(rf"(.*\.)?({p})", layer.key)), None)
    alpha = settings.get("lora_alpha", rank) if name is None else patterns[name]
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _peft_settings(metadata: dict[str, str], part: str) -> dict[str, Any]:
    try:
        found = dict(json.loads(metadata.get("lora_adapter_metadata", "{}")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the LoRA's metadata cannot be read ({error}): fetch the file again") from error
    return {key.removeprefix(f"{part}."): value for key, value in found.items() if key.startswith(f"{part}.")}


def _layers(tensors: dict[str, Tensor], path: str) -> tuple[dict[tuple[str, str], _Layer], list[str]]:
    """The file's layers by part and normalized name, and the words of embeddings that are bundled with them.

    Raises:
        ValueError: the file contains tensors of another kind of adaptation.
    """
    layers: dict[tuple[str, str], _Layer] = {}
    bundled: list[str] = []
    strange: list[str] = []
    for key, tensor in tensors.items():
        match = ENDING.fullmatch(key)
        if key.startswith("bundle_emb."):
            bundled.append(key.removeprefix("bundle_emb.").split(".")[0])
        elif match is None:
            strange.append(key)
        else:
            prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), "")
            name = match["name"].removeprefix(prefix).removeprefix(INNER)
            layer = layers.setdefault((PREFIXES.get(prefix, NETWORK), _plain(name)), _Layer(name))
            role = match["old"] or match["kohya"] or match["peft"] or match["role"] or match["dora"]
            layer.tensors[ROLES.get(role, role)] = tensor
    if strange:
        kind = next((kind for kind, pattern in OTHERS.items() if any(re.search(pattern, key) for key in strange)), "")
        what = f"holds {kind}, which are not supported" if kind else "is not a LoRA"
        raise ValueError(f"{path} {what}: {_few(strange)}; accepted: {KNOWN}")
    return layers, list(dict.fromkeys(bundled))


def _plain(name: str) -> str:
    """A layer's name in a normalized form, equal for all supported formats."""
    name = re.sub(r"\bprocessor\.|\btext_model[._]", "", name).replace(".", "_")
    name = re.sub(r"(attn\d?_to_out)(_0)?$", r"\1", name)
    return re.sub(r"self_attn_to_(q|k|v|out)$", r"self_attn_\1_proj", name)  # older names of diffusers in text encoders


def _adaptable(network: nn.Module) -> dict[str, Any]:
    """The layers that files change, by name."""
    return {
        name: module for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)) and module.weight is not None
    }  # fmt: skip


def _index(network: nn.Module) -> dict[str, tuple[nn.Parameter, ...]]:
    """Normalized name -> weights, for every name of each layer in the supported formats."""
    layers = {name: module.weight for name, module in _adaptable(network).items()}
    found: dict[str, tuple[nn.Parameter, ...]] = {_plain(name): (weight,) for name, weight in layers.items()}
    depth = getattr(getattr(network, "config", None), "layers_per_block", None)
    if isinstance(depth, int):
        found |= {_plain(original_name(name, depth, layers)): (weight,) for name, weight in layers.items()}
    for theirs, ours, table in BLOCKS:
        for block in sorted({name.split(".")[1] for name in layers if name.startswith(f"{ours}.")}):
            for old, new in table.items():
                names = [f"{ours}.{block}.{name}" for name in new]
                # Excluded: in Stable Diffusion 3's last block, conversion to diffusers swaps the two halves of this layer.
                turned = old == "context_block.adaLN_modulation.1" and f"{ours}.{block}.ff_context.net.2" not in layers
                if all(name in layers for name in names) and not turned:
                    found[_plain(f"{theirs}.{block}.{old}")] = tuple(layers[name] for name in names)
    return found


def _refusal(lora: LoraFile, tensors: dict[str, Tensor]) -> str:
    """The beginning of an error text, with the model family that the file seems to be made for."""
    keys = " ".join(tensors)
    widths = [t.shape[1] for key, t in tensors.items() if re.search(r"attn2[._].*to_k.*(down|lora_A)", key) and t.ndim > 1]
    if re.search(r"(double|single)_blocks|single_transformer_blocks", keys):
        family = "FLUX"
    elif "joint_blocks" in keys:
        family = "Stable Diffusion 3"
    else:
        family = MADE_FOR.get(widths[0], "") if widths else ""
    return f"the LoRA {lora.path} does not fit this prior" + (f" (it seems to be made for {family})" if family else "")


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
