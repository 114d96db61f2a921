"""Compiled CPU kernels that composite projected Gaussians by tiles of 8x8 pixels, forward and backward.

The formulas and the torch twin are in :mod:`dreamlift.scenes.gaussians.splat`. Each tile has a list of the Gaussians whose
bounding box overlaps it, from front to back. With ``g_i = dL/dpicture . f_i + dL/dopacity``, the gradient of alpha is

    dL/dalpha_i = T_i g_i - (sum_{j>i} w_j g_j) / (1 - alpha_i),

where the sum over j > i is the total over all j, known from the finished picture, minus the part already traversed. The
backward pass therefore also runs from front to back and recomputes exactly the numbers of the forward pass. Every (tile,
Gaussian) entry has its own gradient row, and the rows are summed in list order: threads never write to the same memory, and
the result does not depend on their number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamlift.system.jit import array, compiled, parallel_ranges

TILE = 8  # pixels
STOP, MAX_ALPHA = np.float32(1e-4), np.float32(0.99)  # as in the twin
LEAST = 16  # smallest number of tiles per thread


@compiled
def count_tiles(boxes: np.ndarray, views: np.ndarray, across: int, down: int, counts: np.ndarray) -> None:
    """Add the number of boxes ``(M, 4)`` that overlap each tile to ``counts``, one per tile."""
    for i in range(boxes.shape[0]):
        for ty in range(boxes[i, 1] // TILE, boxes[i, 3] // TILE + 1):
            for tx in range(boxes[i, 0] // TILE, boxes[i, 2] // TILE + 1):
                counts[(views[i] * down + ty) * across + tx] += 1


@compiled
def fill_tiles(
    boxes: np.ndarray, views: np.ndarray, across: int, down: int, places: np.ndarray, members: np.ndarray
) -> None:  # fmt: skip
    """Write the items of each tile, in order, to ``members``; ``places`` holds each tile's next free entry."""
    for i in range(boxes.shape[0]):
        for ty in range(boxes[i, 1] // TILE, boxes[i, 3] // TILE + 1):
            for tx in range(boxes[i, 0] // TILE, boxes[i, 2] // TILE + 1):
                tile = (views[i] * down + ty) * across + tx
                members[places[tile]] = i
                places[tile] += 1


@compiled
def composite_forward(items: tuple, lists: tuple, size: tuple, low: int, high: int, out: tuple) -> None:
    """Composite tiles ``low..high``: ``items`` is (means2d, conics, opacities, features, limits, boxes), ``lists`` is
    (offsets, members), ``size`` is (width, height), ``out`` is (sums (P, C), light (P,)), initially zeros and ones."""
    means, conics, opacities, features, limits, boxes = items
    offsets, members = lists
    width, height = size
    sums, light = out
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    channels = features.shape[1]
    half = np.float32(0.5)
    for tile in range(low, high):
        view, ty, tx = tile // (across * down), tile // across % down, tile % across
        left, top = tx * TILE, ty * TILE
        right, bottom = min(left + TILE, width) - 1, min(top + TILE, height) - 1
        lit = (right - left + 1) * (bottom - top + 1)  # pixels whose transmittance is at least STOP
        for k in range(offsets[tile], offsets[tile + 1]):
            if lit == 0:
                break
            i = members[k]
            xx, xy, yy = conics[i, 0], conics[i, 1], conics[i, 2]
            mx, my, opacity, limit = means[i, 0], means[i, 1], opacities[i], limits[i]
            for y in range(max(top, boxes[i, 1]), min(bottom, boxes[i, 3]) + 1):
                dy = np.float32(y) + half - my
                base = (view * height + y) * width
                for x in range(max(left, boxes[i, 0]), min(right, boxes[i, 2]) + 1):
                    dx = np.float32(x) + half - mx
                    form = xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy
                    reach = light[base + x]
                    if form > limit or reach < STOP:
                        continue
                    alpha = min(MAX_ALPHA, opacity * np.float32(math.exp(-half * form)))
                    w = reach * alpha
                    for c in range(channels):
                        sums[base + x, c] += w * features[i, c]
                    reach -= w
                    light[base + x] = reach
                    if reach < STOP:
                        lit -= 1


@compiled
def composite_backward(items: tuple, lists: tuple, size: tuple, low: int, high: int, work: tuple, grads: np.ndarray) -> None:
    """The gradient of :func:`composite_forward`, into ``grads (entries, 6 + C)``: mean x, y, conic xx, xy, yy, opacity,
    features. ``work`` is (gradient of sums (P, C), gradient of opacity (P,), light (P,), behind (P,)); initially, ``light``
    is ones and ``behind`` is the total ``sum_i w_i g_i`` of each pixel."""
    means, conics, opacities, features, limits, boxes = items
    offsets, members = lists
    width, height = size
    grad_sums, grad_opacity, light, behind = work
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    channels = features.shape[1]
    half = np.float32(0.5)
    for tile in range(low, high):
        view, ty, tx = tile // (across * down), tile // across % down, tile % across
        left, top = tx * TILE, ty * TILE
        right, bottom = min(left + TILE, width) - 1, min(top + TILE, height) - 1
        lit = (right - left + 1) * (bottom - top + 1)
        for k in range(offsets[tile], offsets[tile + 1]):
            if lit == 0:
                break
            i = members[k]
            xx, xy, yy = conics[i, 0], conics[i, 1], conics[i, 2]
            mx, my, opacity, limit = means[i, 0], means[i, 1], opacities[i], limits[i]
            gmx, gmy, gxx = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            gxy, gyy, go = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for y in range(max(top, boxes[i, 1]), min(bottom, boxes[i, 3]) + 1):
                dy = np.float32(y) + half - my
                base = (view * height + y) * width
                for x in range(max(left, boxes[i, 0]), min(right, boxes[i, 2]) + 1):
                    dx = np.float32(x) + half - mx
                    form = xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy
                    reach, p = light[base + x], base + x
                    if form > limit or reach < STOP:
                        continue
                    fall = np.float32(math.exp(-half * form))
                    alpha = min(MAX_ALPHA, opacity * fall)
                    w = reach * alpha
                    g = grad_opacity[p]
                    for c in range(channels):
                        g += grad_sums[p, c] * features[i, c]
                        grads[k, 6 + c] += w * grad_sums[p, c]
                    behind[p] -= w * g
                    if opacity * fall < MAX_ALPHA:
                        ga = reach * g - behind[p] / (np.float32(1.0) - alpha)
                        go += ga * fall
                        gf = -half * alpha * ga
                        gmx -= gf * 2 * (xx * dx + xy * dy)
                        gmy -= gf * 2 * (xy * dx + yy * dy)
                        gxx += gf * dx * dx
                        gxy += gf * 2 * dx * dy
                        gyy += gf * dy * dy
                    reach -= w
                    light[p] = reach
                    if reach < STOP:
                        lit -= 1
            grads[k, 0], grads[k, 1], grads[k, 2] = gmx, gmy, gxx
            grads[k, 3], grads[k, 4], grads[k, 5] = gxy, gyy, go


@compiled
def gather_rows(members: np.ndarray, grads: np.ndarray, out: np.ndarray) -> None:
    """Add the row of each entry to the row of its item in ``out``, in the order of the entries."""
    for k in range(members.shape[0]):
        for c in range(grads.shape[1]):
            out[members[k], c] += grads[k, c]


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, conics: Tensor, opacities: Tensor, features: Tensor, geometry: tuple, size: tuple
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        limits, boxes, views = geometry
        width, height, count = size
        across, down = -(-width // TILE), -(-height // TILE)
        counts = np.zeros(count * across * down, np.int64)
        box, view = array(boxes), array(views)
        count_tiles(box, view, across, down, counts)
        offsets = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
        members = np.empty(offsets[-1], np.int64)
        fill_tiles(box, view, across, down, offsets[:-1].copy(), members)
        items = (*(array(t) for t in (means2d, conics, opacities, features, limits)), box)
        sums = torch.zeros(count * height * width, features.shape[1])
        light = torch.ones(count * height * width)
        out = (array(sums), array(light))
        parallel_ranges(
            lambda low, high: composite_forward(items, (offsets, members), (width, height), low, high, out), len(counts), LEAST
        )
        ctx.items, ctx.lists, ctx.size, ctx.tiles = items, (offsets, members), (width, height), len(counts)
        opacity = 1 - light
        ctx.save_for_backward(sums, opacity, means2d, conics, opacities, features)
        return sums, opacity

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_sums, grad_opacity = (grad.contiguous() for grad in grads)
        sums, opacity, *_ = ctx.saved_tensors
        behind = (grad_sums * sums).sum(-1) + grad_opacity * opacity
        work = (array(grad_sums), array(grad_opacity), np.ones(len(opacity), np.float32), array(behind))
        items, lists = ctx.items, ctx.lists
        rows = np.zeros((len(lists[1]), 6 + sums.shape[1]), np.float32)
        parallel_ranges(
            lambda low, high: composite_backward(items, lists, ctx.size, low, high, work, rows), ctx.tiles, LEAST
        )  # fmt: skip
        total = np.zeros((len(items[0]), rows.shape[1]), np.float32)
        gather_rows(lists[1], rows, total)
        out = torch.from_numpy(total)
        return out[:, :2], out[:, 2:5], out[:, 5], out[:, 6:], None, None


def composite(
    values: tuple[Tensor, Tensor, Tensor, Tensor], geometry: tuple[Tensor, Tensor, Tensor], size: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """As :func:`dreamlift.scenes.gaussians.splat.composite_pairs`: ``(P, C)`` and ``(P,)``.

    Args:
        values: means2d ``(M, 2)``, conics ``(M, 3)``, opacities ``(M,)``, features ``(M, C)``, float32 on the CPU, sorted
            from front to back within each view.
        geometry: limits ``(M,)``, boxes ``(M, 4)``, views ``(M,)``, as in :class:`~dreamlift.scenes.gaussians.splat.Items`.
        size: width, height, and how many views.
    """
    return _Composite.apply(*values, geometry, size)  # pyright: ignore[reportReturnType]
