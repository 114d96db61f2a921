"""Layer names of a U-Net in Stable Diffusion's original code, which weight and LoRA files still use."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTER = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2", "class_embedding.linear_1": "camera_embed.0",
    "class_embedding.linear_2": "camera_embed.2",
}  # fmt: skip
"""Layers outside the blocks. The last two are MVDream's."""


def original_name(name: str, depth: int, names: Collection[str]) -> str:
    """The original name of a stock layer, of a network with the layers ``names`` and ``depth`` ResNets per down block.

    The original numbers all layers of the down path consecutively, including each downsampling between levels. Inside
    attention layers the names are equal; an unknown name is returned unchanged.
    """
    match = re.fullmatch(r"(down|mid|up)_block(?:s\.(\d+))?\.(resnet|attention|downsampler|upsampler)s\.(\d+)\.(.+)", name)
    if match is None:
        return OUTER.get(name, name)
    side, kind, layer, inner = match[1], match[3], int(match[4]), match[5]
    inner = RESNET.get(inner, inner) if kind == "resnet" else inner
    if side == "mid":
        return f"middle_block.{1 if kind == 'attention' else 2 * layer}.{inner}"
    first = int(match[2]) * (depth + 1)
    if kind == "downsampler":
        return f"input_blocks.{first + depth + 1}.0.op"
    if kind == "upsampler":
        attends = any(other.startswith(f"up_blocks.{match[2]}.attentions.") for other in names)
        return f"output_blocks.{first + depth}.{2 if attends else 1}.{inner}"
    place = f"input_blocks.{first + layer + 1}" if side == "down" else f"output_blocks.{first + layer}"
    return f"{place}.{int(kind == 'attention')}.{inner}"


def stock_keys(unet: Any) -> dict[str, str]:
    """Original name -> stock name, for all keys of the state of a ``UNet2DConditionModel``."""
    keys, found = unet.state_dict(), {}
    for key in keys:
        layer, _, leaf = key.rpartition(".")
        found[f"{original_name(layer, unet.config.layers_per_block, keys)}.{leaf}"] = key
    return found
