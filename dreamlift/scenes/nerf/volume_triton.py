"""Triton kernels of :mod:`dreamlift.scenes.nerf.volume`: ray sampling, and compositing forward and backward.

The torch twins write every interval of every ray before they drop the empty ones, and launch about fifty kernels per render.
Here one lane processes one ray, as in the compiled CPU kernels. ``TRITON_INTERPRET=1`` runs the same kernels on a CPU, which
tests them without a GPU.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# (Triton's types inside the kernels)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dreamlift.types import RaySamples

BLOCK = 64  # rays per program


@triton.jit
def _crossing(origins, directions, index, inside, axis: tl.constexpr, bounds):
    """Origin and direction of the rays along ``axis``, and the distances to the cube's two faces across it, in order."""
    o = tl.load(origins + 3 * index + axis, mask=inside, other=0.0)
    d = tl.load(directions + 3 * index + axis, mask=inside, other=1.0)
    inverse = 1.0 / tl.where(tl.abs(d) < 1e-9, 1e-9, d)
    one, two = (-bounds - o) * inverse, (bounds - o) * inverse
    return o, d, tl.minimum(one, two), tl.maximum(one, two)


@triton.jit
def _cell(o, d, t, bounds, size, scale):
    return tl.minimum(tl.maximum(((o + t * d + bounds) * scale).to(tl.int32), 0), size - 1)


@triton.jit
def _sample(
    origins, directions, jitter, occupied, offsets, out_ray, out_start, out_end, rays, count, bounds, size,
    write: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Count the intervals of each ray that are kept, into ``offsets``; with ``write``, store them from ``offsets`` on."""
    index = tl.program_id(0) * block + tl.arange(0, block)
    inside = index < rays
    ox, dx, near_x, far_x = _crossing(origins, directions, index, inside, 0, bounds)
    oy, dy, near_y, far_y = _crossing(origins, directions, index, inside, 1, bounds)
    oz, dz, near_z, far_z = _crossing(origins, directions, index, inside, 2, bounds)
    near = tl.maximum(tl.maximum(tl.maximum(near_x, near_y), near_z), 0.0)
    far = tl.minimum(tl.minimum(far_x, far_y), far_z)
    hit = inside & (far > near)
    step = (far - near) / count
    shift = tl.load(jitter + index, mask=inside, other=0.0) - 0.5
    scale = size / (2.0 * bounds)
    if write:
        place = tl.load(offsets + index, mask=inside, other=0)
    else:
        place = tl.zeros((block,), tl.int64)
    end = near
    for k in range(count):
        start = end
        end = tl.where(k + 1 < count, near + (k + 1 + shift) * step, far)
        keep = hit
        if size > 0:
            t = 0.5 * (start + end)
            x, y, z = (
                _cell(ox, dx, t, bounds, size, scale),
                _cell(oy, dy, t, bounds, size, scale),
                _cell(oz, dz, t, bounds, size, scale),
            )
            keep = hit & (tl.load(occupied + (z * size + y) * size + x, mask=hit, other=0) != 0)
        if write:
            tl.store(out_ray + place, index.to(tl.int64), mask=keep)
            tl.store(out_start + place, start, mask=keep)
            tl.store(out_end + place, end, mask=keep)
        place += keep.to(tl.int64)
    if not write:
        tl.store(offsets + index, place, mask=inside)


def sample_rays_triton(
    origins: Tensor, directions: Tensor, bounds: float, count: int, jitter: Tensor, occupied: Tensor | None
) -> RaySamples:
    """See :func:`dreamlift.scenes.nerf.volume.sample_rays`."""
    rays, size = origins.shape[0], 0 if occupied is None else occupied.shape[0]
    origins, directions, jitter = origins.contiguous(), directions.contiguous(), jitter.contiguous()
    mask = origins.new_zeros(1, dtype=torch.uint8) if occupied is None else occupied.contiguous().view(torch.uint8)
    kept = torch.zeros(rays, dtype=torch.int64, device=origins.device)
    nothing = origins.new_empty(0)
    grid, settings = (triton.cdiv(rays, BLOCK),), (rays, count, float(bounds), size)
    if rays:
        _sample[grid](origins, directions, jitter, mask, kept, kept, nothing, nothing, *settings, write=False, block=BLOCK)
    ends = kept.cumsum(0)
    total = int(ends[-1]) if rays else 0
    out_ray = torch.empty(total, dtype=torch.int64, device=origins.device)
    out_start, out_end = origins.new_empty(total), origins.new_empty(total)
    if total:
        first = ends - kept
        _sample[grid](origins, directions, jitter, mask, first, out_ray, out_start, out_end, *settings, write=True, block=BLOCK)
    return RaySamples(out_ray, out_start, out_end)


@triton.jit
def _forward(
    density, values, starts, ends, offsets, weights, after, sums, rays, stop, channels: tl.constexpr, block: tl.constexpr
):
    index = tl.program_id(0) * block + tl.arange(0, block)
    inside = index < rays
    first = tl.load(offsets + index, mask=inside, other=0)
    many = tl.load(offsets + index + 1, mask=inside, other=0) - first
    light, opacity, depth = tl.full((block,), 1.0, tl.float32), tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    column = tl.arange(0, triton.next_power_of_2(channels))[None, :]
    total = tl.zeros((block, triton.next_power_of_2(channels)), tl.float32)
    for k in range(tl.max(many, 0)):
        there, i = k < many, first + k
        seen = there & (light >= stop)
        start, end = tl.load(starts + i, mask=seen, other=0.0), tl.load(ends + i, mask=seen, other=0.0)
        left = light * tl.exp(-tl.load(density + i, mask=seen, other=0.0) * (end - start))
        w = tl.where(seen, light - left, 0.0)
        light = tl.where(seen, left, light)
        tl.store(weights + i, w, mask=there)
        tl.store(after + i, tl.where(seen, light, 0.0), mask=there)
        opacity += w
        depth += w * 0.5 * (start + end)
        use = seen[:, None] & (column < channels)
        total += w[:, None] * tl.load(values + i[:, None] * channels + column, mask=use, other=0.0)
    row = sums + index * (2 + channels)
    tl.store(row, opacity, mask=inside)
    tl.store(row + 1, depth, mask=inside)
    tl.store(row[:, None] + 2 + column, total, mask=inside[:, None] & (column < channels))


@triton.jit
def _backward(
    values, starts, ends, offsets, weights, after, grad_weights, grad_sums, grad_density, grad_values, rays,
    direct: tl.constexpr, channels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """With g_i the gradient of weight i, d/d tau_i = after_i g_i - sum_{j>i} w_j g_j: from the last sample to the first."""
    index = tl.program_id(0) * block + tl.arange(0, block)
    inside = index < rays
    first = tl.load(offsets + index, mask=inside, other=0)
    last = tl.load(offsets + index + 1, mask=inside, other=0)
    many = last - first
    column = tl.arange(0, triton.next_power_of_2(channels))[None, :]
    row = grad_sums + index * (2 + channels)
    of_opacity, of_depth = tl.load(row, mask=inside, other=0.0), tl.load(row + 1, mask=inside, other=0.0)
    of_values = tl.load(row[:, None] + 2 + column, mask=inside[:, None] & (column < channels), other=0.0)
    behind = tl.zeros((block,), tl.float32)
    for k in range(tl.max(many, 0)):
        there, i = k < many, last - 1 - k
        w, light = tl.load(weights + i, mask=there, other=0.0), tl.load(after + i, mask=there, other=0.0)
        seen = there & ((w != 0.0) | (light != 0.0))
        start, end = tl.load(starts + i, mask=seen, other=0.0), tl.load(ends + i, mask=seen, other=0.0)
        g = of_opacity + of_depth * 0.5 * (start + end)
        if direct:
            g += tl.load(grad_weights + i, mask=seen, other=0.0)
        place = i[:, None] * channels + column
        color = tl.load(values + place, mask=seen[:, None] & (column < channels), other=0.0)
        g += tl.sum(of_values * color, 1)
        tl.store(grad_values + place, w[:, None] * of_values, mask=there[:, None] & (column < channels))
        tl.store(grad_density + i, tl.where(seen, (light * g - behind) * (end - start), 0.0), mask=there)
        behind += tl.where(seen, w * g, 0.0)


class CompositeTriton(torch.autograd.Function):
    """``apply(density (N,), values (N, C), starts (N,), ends (N,), offsets (R + 1,), stop)``: weights ``(N,)`` and sums
    ``(R, 2 + C)`` of opacity, depth and values (:func:`dreamlift.scenes.nerf.volume.composite`)."""

    @staticmethod
    def forward(
        ctx, density: Tensor, values: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor, stop: float
    ) -> tuple[Tensor, Tensor]:
        density, values = density.contiguous(), values.contiguous()
        rays, channels = offsets.shape[0] - 1, values.shape[1]
        weights, after = torch.empty_like(density), torch.empty_like(density)
        sums = density.new_empty(rays, 2 + channels)
        if rays:
            grid = (triton.cdiv(rays, BLOCK),)
            _forward[grid](density, values, starts, ends, offsets, weights, after, sums, rays, stop, channels, BLOCK)
        ctx.save_for_backward(values, starts, ends, offsets, weights, after)
        ctx.set_materialize_grads(False)
        return weights, sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_weights: Tensor | None, grad_sums: Tensor | None):
        values, starts, ends, offsets, weights, after = ctx.saved_tensors
        rays, channels = offsets.shape[0] - 1, values.shape[1]
        grad_density, grad_values = torch.empty_like(weights), torch.empty_like(values)
        sums = weights.new_zeros(rays, 2 + channels) if grad_sums is None else grad_sums.contiguous()
        direct = weights if grad_weights is None else grad_weights.contiguous()
        if rays:
            _backward[(triton.cdiv(rays, BLOCK),)](
                values, starts, ends, offsets, weights, after, direct, sums, grad_density, grad_values, rays,
                grad_weights is not None, channels, BLOCK,
            )  # fmt: skip
        return grad_density, grad_values, None, None, None, None
