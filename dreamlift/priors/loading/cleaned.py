"""The forms of one-file checkpoints that diffusers' loader does not read, brought into the one that it does.

- Weights in 8 bits with a scale (``X.weight`` with ``X.scale_weight`` or ``X.weight_scale``, as ComfyUI writes them): W = scale
  times the stored values. The loader ignores the scale, so that every weight would be wrong by that factor.
- Text encoders of transformers 5, whose names lack ``text_model.``.
- Autoencoders under diffusers' names (``up_blocks``, ``mid_block``, ``to_q`` or ``query``) instead of the original code's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlift.priors.files.tensors import check_finite, open_tensors

if TYPE_CHECKING:
    from torch import Tensor

SCALES = (".scale_weight", ".weight_scale")
NEEDLESS = re.compile(r"(^|\.)(scaled_fp8|scale_weight|weight_scale|scale_input|input_scale|comfy_quant)$")
QUANTIZED = re.compile(r"\.(weight_scale_2|qweight|qzeros|absmax|quant_map|weight_format|quant_state\..*)$")
TEXT = re.compile(
    r"(cond_stage_model\.transformer\.|conditioner\.embedders\.0\.transformer\.|text_encoders\.clip_[lg]\.transformer\.)"
    r"(embeddings|encoder|final_layer_norm)\."
)
VAE = re.compile(r"(first_stage_model\.|vae\.)(.+)")
ATTENTION = {
    "to_q": "q", "query": "q", "to_k": "k", "key": "k", "to_v": "v", "value": "v", "to_out.0": "proj_out",
    "proj_attn": "proj_out", "group_norm": "norm",
}  # fmt: skip


def cleaned(file: Path, work: Path) -> Path:
    """``file``, or a copy in the folder ``work`` in which weights are unscaled and renamed.

    Raises:
        ValueError: the file holds NaN, or weights in another quantized form.
    """
    with open_tensors(file) as content:
        keys = list(content.keys())
        strange = next((key for key in keys if QUANTIZED.search(key)), None)
        if strange is not None:
            raise ValueError(f"{file} holds quantized weights ({strange}), which are not supported: use its 16-bit or fp8 file")
        for key in keys:
            if not key.startswith("model_ema."):
                check_finite(file, {key: content.get_tensor(key)})
        names = renamed(keys)
        scales = {key[: -len(end)]: key for key in keys for end in SCALES if key.endswith(end)}
        if not scales and all(old == new for old, new in names.items()):
            return file
        tensors = {new: _whole(content, old, scales) for old, new in names.items() if not NEEDLESS.search(old)}
    from safetensors.torch import save_file

    save_file(tensors, work / file.name)
    return work / file.name


def renamed(keys: list[str]) -> dict[str, str]:
    """The original code's name of each key."""
    blocks = {int(match[1]) for key in keys if (match := re.search(r"\.decoder\.up_blocks\.(\d+)\.", key))}
    return {key: _vae_name(TEXT.sub(r"\1text_model.\2.", key), len(blocks)) for key in keys}


def _vae_name(key: str, ups: int) -> str:
    match = VAE.fullmatch(key)
    if match is None:
        return key
    name = match[2].replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(r"mid_block\.attentions\.0\.", "mid.attn_1.", name)
    name = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", name)
    name = re.sub(r"up_blocks\.(\d+)\.", lambda found: f"up.{ups - 1 - int(found[1])}.", name)  # counted from the other end
    name = re.sub(r"\.resnets\.(\d+)\.", r".block.\1.", name)
    name = re.sub(r"\.(down|up)samplers\.0\.", r".\1sample.", name)
    layer, mark, inner = name.partition("mid.attn_1.")
    if mark:
        part, _, kind = inner.rpartition(".")
        name = f"{layer}{mark}{ATTENTION.get(part, part)}.{kind}"
    return match[1] + name


def _whole(content: Any, key: str, scales: dict[str, str]) -> Tensor:
    """A tensor of the file; multiplied by its scale, of the whole tensor or of each row, if it has one."""
    import torch

    tensor = content.get_tensor(key)
    scale = scales.get(key.removesuffix(".weight")) if key.endswith(".weight") else None
    if scale is None:
        return tensor
    factor = content.get_tensor(scale).float().flatten()
    if factor.numel() > 1:
        factor = factor.view(-1, *[1] * (tensor.ndim - 1))
    product = tensor.float() * factor
    half = product.half()
    return half if bool(torch.isfinite(half).all()) else product.bfloat16()
