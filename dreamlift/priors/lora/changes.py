"""The change of one layer's weight W ``(out, in[, h, w])`` by each kind of adaptation that is found in LoRA files.

- LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685): W + c B A; for kernels also B, a core (Tucker), A.
- LoHa (Hyeon-Woo et al. 2022, https://arxiv.org/abs/2108.06098): W + c (B1 A1) * (B2 A2), elementwise.
- LoKr (LyCORIS, Yeh et al. 2024, https://arxiv.org/abs/2309.14859): W + c kron(W1, W2), each matrix whole or as a product.
- DoRA (Liu et al. 2024, https://arxiv.org/abs/2402.09353): m V / ||V|| with V = W + its change; m is ``dora_scale`` in the
  files of LyCORIS and kohya's trainers, ``lora_magnitude_vector`` in those of peft and diffusers.
- A whole difference of a weight, of a bias or of a normalization layer.

c = alpha / rank. A file's scale s moves every weight to W + s (W' - W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Found = Mapping[str, Tensor]  # the tensors of one layer by role
BIAS_ROLES = ("diff_b", "b_norm")
MAGNITUDE_ROLES = ("dora_scale", "lora_magnitude_vector")


class IncompleteError(ValueError):
    """A layer's matrices that are missing or do not fit each other; the message is the rest of a sentence about the layer."""


def difference(found: Found, factor: Callable[[int], float]) -> Tensor | None:
    """W' - W without DoRA's rescaling, in float32; None if the layer's tensors change only its bias.

    Args:
        factor: c for a rank.

    Raises:
        IncompleteError: see there.
    """
    found = {role: value.float() for role, value in found.items()}
    for role in ("diff", "w_norm"):
        if role in found:
            return found[role]
    if any(role.startswith("hada_") for role in found):
        return _hadamard(found, factor)
    if any(role.startswith("lokr_") for role in found):
        return _kronecker(found, factor)
    if found.keys() <= set(BIAS_ROLES):
        return None
    if "down" not in found or "up" not in found:
        raise IncompleteError("has only one of its two matrices: fetch the file again")
    down, up, mid = found["down"].flatten(1), found["up"].flatten(1), found.get("mid")
    rank, other = (len(down), up.shape[1]) if mid is None else (mid.shape[1], len(down))
    if rank != other or (mid is not None and mid.shape[0] != up.shape[1]):
        raise IncompleteError(f"has two matrices of ranks {len(down)} and {up.shape[1]}: fetch the file again")
    change = up @ down if mid is None else torch.einsum("abhw,oa,bi->oihw", mid, up, down)
    return factor(rank) * change


def _hadamard(found: Found, factor: Callable[[int], float]) -> Tensor:
    first, second = (_product(found, f"hada_w{i}", f"hada_t{i}") for i in (1, 2))
    if first.shape != second.shape:
        raise IncompleteError(
            f"has two products of shapes {tuple(first.shape)} and {tuple(second.shape)}: fetch the file again"
        )
    return factor(len(found["hada_w1_b"])) * first * second


def _kronecker(found: Found, factor: Callable[[int], float]) -> Tensor:
    first, second = (found[name] if name in found else _product(found, name, "lokr_t2") for name in ("lokr_w1", "lokr_w2"))
    if second.ndim == 4:
        first = first[..., None, None]
    # The rank is that of the matrix which is a product; if both are whole, LyCORIS scales by 1.
    rank = next((len(found[name]) for name in ("lokr_w1_b", "lokr_w2_b") if name in found), None)
    return (1.0 if rank is None else factor(rank)) * torch.kron(first, second)


def _product(found: Found, name: str, core: str) -> Tensor:
    """The product of matrices ``(out, r)``, ``(r, in)``; with a core ``(r, r, h, w)`` they are ``(r, out)``, ``(r, in)``."""
    lacks = [each for each in (f"{name}_a", f"{name}_b") if each not in found]
    if lacks:
        raise IncompleteError(f"lacks {lacks[0]}: fetch the file again")
    a, b = found[f"{name}_a"], found[f"{name}_b"]
    try:
        if core in found and (core != "lokr_t2" or name == "lokr_w2"):
            return torch.einsum("ijhw,jb,ia->abhw", found[core], b, a)
        return a @ b
    except RuntimeError:
        raise IncompleteError(f"has {name}_a and {name}_b of different ranks: fetch the file again") from None


def moved(weight: Tensor, change: Tensor, scale: float, tensors: Found) -> Tensor:
    """W + s (W' - W), in float32, for ``weight`` and ``change`` of one shape.

    Args:
        tensors: the layer's tensors; of :data:`MAGNITUDE_ROLES`, they hold DoRA's m or nothing.

    Raises:
        IncompleteError: a magnitude of another shape.
    """
    role = next((role for role in MAGNITUDE_ROLES if role in tensors), None)
    if role is None:
        return weight + scale * change
    target, m = weight + change, tensors[role].to(weight.device, torch.float32)
    axis = _magnitude_axis(role, m, target)
    others = [dim for dim in range(target.ndim) if dim != axis]
    shape = [-1 if dim == axis else 1 for dim in range(target.ndim)]
    norm = torch.linalg.vector_norm(target, dim=others, keepdim=True)
    target = target * (m.view(shape) / norm.clamp_min(1e-12))
    return weight + scale * (target - weight)


def _magnitude_axis(role: str, magnitude: Tensor, weight: Tensor) -> int:
    """The axis of ``weight (out, in[, h, w])`` along which DoRA's m varies: 0, the outputs, or 1, the inputs.

    Trainers write m in these shapes: ``(out,)`` (peft, linear layers), ``(1, out, 1, 1)`` (peft, kernels),
    ``(out, 1[, 1, 1])`` (LyCORIS with ``wd_on_output``), ``(1, in[, 1, 1])`` (LyCORIS without). For ``(1, n, ...)`` the axis
    of length n is taken. If both have it, the tensor's name decides: ``lora_magnitude_vector`` of a kernel is of the
    outputs, as in peft; ``dora_scale`` is of the inputs, and so is ``lora_magnitude_vector`` of a linear layer, which is
    a converted ``dora_scale`` since peft's has one dimension.

    Raises:
        IncompleteError: neither axis has the length of m.
    """
    axes = (0,)
    if magnitude.ndim > 1 and magnitude.shape[0] == 1:
        axes = (0, 1) if role == "lora_magnitude_vector" and weight.ndim > 2 else (1, 0)
    for axis in axes:
        if magnitude.numel() == weight.shape[axis]:
            return axis
    raise IncompleteError(f"has {magnitude.numel()} values of {role} for {weight.shape[axes[0]]}: fetch the file again")
