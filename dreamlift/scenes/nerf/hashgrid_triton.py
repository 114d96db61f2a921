"""Triton kernels of the hash encoding (:mod:`dreamlift.scenes.nerf.hashgrid`): one each for forward and backward.

The torch twin writes about twenty intermediate arrays of size (points, levels); here the corners are weighted and summed in
registers. Triton is part of torch's CUDA builds. ``TRITON_INTERPRET=1`` runs the same kernels (slowly) on a CPU, which tests
them without a GPU.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# (Triton's types inside the kernels)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256  # points per program


@triton.jit
def _corner(levels, points, level, index, inside, k: tl.constexpr):
    """Table row and trilinear weight of corner ``k`` of the cell of each point."""
    n = tl.load(levels + 3 * level)
    first = tl.load(levels + 3 * level + 1)
    mask = tl.load(levels + 3 * level + 2)  # rows - 1 of a hashed level, 0 of a dense one
    row = tl.zeros_like(index)
    hashed = tl.zeros_like(index)
    weight = inside.to(tl.float32)
    for axis in tl.static_range(3):
        where = tl.load(points + 3 * index + axis, mask=inside, other=0.0) * n
        where = tl.minimum(tl.maximum(where, 0.0), n.to(tl.float32))
        low = tl.minimum(where.to(tl.int32), n - 1)
        ahead = where - low.to(tl.float32)
        place = low + (k >> axis & 1)
        weight *= ahead if k >> axis & 1 else 1.0 - ahead
        # Instant-NGP's primes as signed integers: the product has the same low bits.
        if axis == 0:
            row, hashed = place, place
        elif axis == 1:
            row += place * (n + 1)
            hashed = hashed ^ (place * -1640531535)
        else:
            row += place * (n + 1) * (n + 1)
            hashed = hashed ^ (place * 805459861)
    return first + tl.where(mask > 0, hashed & mask, row), weight


@triton.jit
def _forward(table, points, levels, out, count, features: tl.constexpr, block: tl.constexpr):
    level = tl.program_id(1)
    index = tl.program_id(0) * block + tl.arange(0, block)
    inside = index < count
    column = tl.arange(0, triton.next_power_of_2(features))[None, :]
    used = inside[:, None] & (column < features)
    total = tl.zeros((block, triton.next_power_of_2(features)), tl.float32)
    for k in tl.static_range(8):
        row, weight = _corner(levels, points, level, index, inside, k)
        total += weight[:, None] * tl.load(table + row[:, None] * features + column, mask=used, other=0.0)
    tl.store(out + (level * features + column).to(tl.int64) * count + index[:, None], total, mask=used)


@triton.jit
def _backward(grad_table, points, levels, grad, count, features: tl.constexpr, block: tl.constexpr):
    level = tl.program_id(1)
    index = tl.program_id(0) * block + tl.arange(0, block)
    inside = index < count
    column = tl.arange(0, triton.next_power_of_2(features))[None, :]
    used = inside[:, None] & (column < features)
    seen = tl.load(grad + (level * features + column).to(tl.int64) * count + index[:, None], mask=used, other=0.0)
    for k in tl.static_range(8):
        row, weight = _corner(levels, points, level, index, inside, k)
        tl.atomic_add(grad_table + row[:, None] * features + column, weight[:, None] * seen, mask=used)


class EncodeTriton(torch.autograd.Function):
    """``apply(table (S, F), points (N, 3), levels (L, 3), active)``: features ``(L * F, N)``; points get no gradient.

    ``levels`` is int32: each level's resolution, first row, and rows - 1 if hashed, otherwise 0.
    """

    @staticmethod
    def forward(ctx, table: Tensor, points: Tensor, levels: Tensor, active: int) -> Tensor:
        table, points, count = table.contiguous(), points.detach().contiguous(), points.shape[0]
        out = table.new_zeros(table.shape[1] * levels.shape[0], count)
        if count and active:
            _forward[(triton.cdiv(count, BLOCK), active)](table, points, levels, out, count, table.shape[1], BLOCK)
        ctx.save_for_backward(points, levels)
        ctx.active, ctx.shape = active, table.shape
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        points, levels = ctx.saved_tensors
        grad, count, out = grad.contiguous(), points.shape[0], grad.new_zeros(ctx.shape)
        if count and ctx.active:
            _backward[(triton.cdiv(count, BLOCK), ctx.active)](out, points, levels, grad, count, ctx.shape[1], BLOCK)
        return out, None, None, None
