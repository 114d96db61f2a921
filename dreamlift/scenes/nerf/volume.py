"""Volume rendering on packed samples: ray sampling, compositing weights, and sums along rays.

For sample ``i`` of a ray, with density ``sigma_i`` over an interval of length ``delta_i``:

    tau_i = sigma_i delta_i        T_i = exp(-sum_{j<i} tau_j)        w_i = T_i (1 - exp(-tau_i))
    opacity = sum_i w_i            C = sum_i w_i c_i                  depth = sum_i w_i t_i

the quadrature of Max, "Optical models for direct volume rendering" (1995), as eq. 3 of NeRF (Mildenhall et al. 2020,
https://arxiv.org/abs/2003.08934). :func:`composite` and :func:`sample_rays` have three versions: torch (the reference, for
any device and precision) and, selected automatically for float32, numba kernels on a CPU
(:mod:`dreamlift.scenes.nerf.volume_numba`) and Triton kernels on a GPU (:mod:`dreamlift.scenes.nerf.volume_triton`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from dreamlift.scenes.nerf import volume_numba
from dreamlift.system import jit
from dreamlift.types import RaySamples

HAS_TRITON = find_spec("triton") is not None


def on_triton(*tensors: Tensor) -> bool:
    """Whether the Triton kernels support these tensors: float32 on a CUDA device."""
    return HAS_TRITON and all(each.is_cuda and each.dtype == torch.float32 for each in tensors)


def intersect_cube(origins: Tensor, directions: Tensor, bounds: float) -> tuple[Tensor, Tensor]:
    """Where rays ``(R, 3)`` enter and leave the cube ``[-bounds, bounds]^3``: ``near, far (R,)`` with near >= 0.

    A ray that misses the cube has ``far <= near``.
    """
    # A direction component of exactly zero would give 0 * inf = nan for an origin on a face of the cube.
    tiny = torch.full_like(directions, 1e-9)
    inverse = 1.0 / torch.where(directions.abs() < 1e-9, tiny, directions)
    first, second = (-bounds - origins) * inverse, (bounds - origins) * inverse
    near = torch.minimum(first, second).amax(-1).clamp(min=0.0)
    far = torch.maximum(first, second).amin(-1)
    return near, far


def sample_rays_torch(
    origins: Tensor, directions: Tensor, bounds: float, count: int, jitter: Tensor, occupied: Tensor | None = None
) -> RaySamples:
    """Torch twin of :func:`sample_rays`."""
    near, far = intersect_cube(origins, directions, bounds)
    step = (far - near) / count
    inner = torch.arange(1, count, device=origins.device, dtype=origins.dtype)
    edges = near[:, None] + (inner - 0.5 + jitter[:, None]) * step[:, None]
    edges = torch.cat([near[:, None], edges, far[:, None]], dim=1)  # (R, count + 1)
    starts, ends = edges[:, :-1], edges[:, 1:]
    keep = (far > near)[:, None].expand(-1, count)
    if occupied is not None:
        points = origins[:, None] + (0.5 * (starts + ends))[..., None] * directions[:, None]
        keep = keep & lookup(occupied, points, bounds)
    ray_indices, columns = keep.nonzero(as_tuple=True)
    return RaySamples(ray_indices, starts[ray_indices, columns], ends[ray_indices, columns])


def lookup(occupied: Tensor, points: Tensor, bounds: float) -> Tensor:
    """Whether ``points (..., 3)`` lie in a true cell of ``occupied (G, G, G)`` bool, indexed z, y, x."""
    size = occupied.shape[0]
    cell = ((points + bounds) * (size / (2 * bounds))).long().clamp(0, size - 1)
    return occupied.reshape(-1)[(cell[..., 2] * size + cell[..., 1]) * size + cell[..., 0]]


def ray_offsets(samples: RaySamples, rays: int) -> Tensor:
    """First sample of each ray, ``(R + 1,)`` int64: the samples of ray r are ``offsets[r]:offsets[r + 1]``."""
    edges = torch.arange(rays + 1, device=samples.ray_indices.device)
    return torch.searchsorted(samples.ray_indices, edges)


def sample_points(origins: Tensor, directions: Tensor, samples: RaySamples) -> Tensor:
    """Midpoints ``(N, 3)`` of the samples' intervals, for rays ``(R, 3)``."""
    if jit.usable(origins, directions, samples.starts):
        out = origins.new_empty(samples.starts.shape[0], 3)
        rays = (jit.array(origins), jit.array(directions))
        packed = (jit.array(samples.ray_indices), jit.array(samples.starts), jit.array(samples.ends))
        jit.parallel_ranges(
            lambda low, high: volume_numba.points_kernel(rays, packed, low, high, out.numpy()), out.shape[0], 16384
        )
        return out
    middles = 0.5 * (samples.starts + samples.ends)
    return origins[samples.ray_indices] + middles[:, None] * directions[samples.ray_indices]


def to_dense(values: Tensor, samples: RaySamples, offsets: Tensor) -> Tensor:
    """Packed values ``(N,)`` as ``(R, M)``, zero-padded, where M is the largest number of samples of a ray.

    Running sums are taken along M. Over the packed axis they would be cheaper, but each ray's part would be a difference of
    large numbers, which float32 cannot resolve.
    """
    rays = offsets.shape[0] - 1
    longest = int((offsets[1:] - offsets[:-1]).max()) if rays and values.shape[0] else 1
    column = torch.arange(values.shape[0], device=values.device) - offsets[samples.ray_indices]
    dense = values.new_zeros(rays * longest).index_put((samples.ray_indices * longest + column,), values)
    return dense.view(rays, longest)


def from_dense(dense: Tensor, samples: RaySamples, offsets: Tensor) -> Tensor:
    """The inverse of :func:`to_dense`: ``(R, M)`` to ``(N,)``."""
    column = torch.arange(samples.ray_indices.shape[0], device=dense.device) - offsets[samples.ray_indices]
    return dense[samples.ray_indices, column]


@dataclass(frozen=True)
class Composited:
    """Compositing weights of N samples and sums along R rays."""

    weights: Tensor  # (N,) in [0, 1]
    opacity: Tensor  # (R,) in [0, 1]
    depth_sum: Tensor  # (R,) sum of w_i t_i; divided by the opacity, the expected distance
    values: Tensor  # (R, C) sum of w_i v_i


def composite_torch(density: Tensor, values: Tensor, samples: RaySamples, offsets: Tensor, stop: float = 0.0) -> Composited:
    """Torch twin of :func:`composite`."""
    rays = offsets.shape[0] - 1
    tau = density * (samples.ends - samples.starts)
    dense = to_dense(tau, samples, offsets)
    before = from_dense(dense.cumsum(1) - dense, samples, offsets)  # optical depth in front of each sample
    transmittance = torch.exp(-before)
    weights = transmittance * -torch.expm1(-tau)
    weights = torch.where(transmittance >= stop, weights, torch.zeros_like(weights))
    middles = 0.5 * (samples.starts + samples.ends)

    def collect(per_sample: Tensor) -> Tensor:
        empty = per_sample.new_zeros(rays, *per_sample.shape[1:])
        return empty.index_add(0, samples.ray_indices, per_sample)

    return Composited(weights, collect(weights), collect(weights * middles), collect(weights[:, None] * values))


class _Composite(torch.autograd.Function):
    """Numba version of :func:`composite`; returns weights and the sums ``(R, 2 + C)`` of (opacity, depth, values)."""

    @staticmethod
    def forward(ctx, density: Tensor, values: Tensor, samples: RaySamples, offsets: Tensor, stop: float):
        rays = offsets.shape[0] - 1
        weights, after = torch.empty_like(density), torch.empty_like(density)
        sums = density.new_empty(rays, 2 + values.shape[1])
        sigma, seen = jit.array(density), jit.array(values)
        packed = (jit.array(offsets), jit.array(samples.starts), jit.array(samples.ends))
        out = (weights.numpy(), after.numpy(), sums.numpy())
        jit.parallel_ranges(
            lambda low, high: volume_numba.composite_forward(sigma, seen, packed, stop, low, high, out), rays, 256
        )
        ctx.save_for_backward(values, weights, after)
        ctx.packed = packed
        ctx.set_materialize_grads(False)
        return weights, sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_weights: Tensor | None, grad_sums: Tensor | None):
        values, weights, after = ctx.saved_tensors
        rays = ctx.packed[0].shape[0] - 1
        grad_density, grad_values = torch.empty_like(weights), weights.new_empty(values.shape)
        none = weights.new_empty(0) if grad_weights is None else grad_weights
        sums = weights.new_zeros(rays, 2 + values.shape[1]) if grad_sums is None else grad_sums
        seen, saved = jit.array(values), (jit.array(weights), jit.array(after))
        grads = (jit.array(none), jit.array(sums))
        out = (grad_density.numpy(), grad_values.numpy())
        jit.parallel_ranges(
            lambda low, high: volume_numba.composite_backward(seen, ctx.packed, saved, grads, low, high, out), rays, 256
        )
        return grad_density, grad_values, None, None, None


def composite(density: Tensor, values: Tensor, samples: RaySamples, offsets: Tensor, stop: float = 0.0) -> Composited:
    """Composite the samples of every ray, differentiable in ``density`` and ``values``.

    Args:
        density: ``(N,)`` >= 0, inverse world units.
        values: ``(N, C)`` per-sample values such as colours and normals.
        samples: the N intervals of R rays.
        offsets: ``(R + 1,)`` from :func:`ray_offsets`.
        stop: a sample whose transmittance T_i is below this has weight zero and gets no gradient.
    """
    if on_triton(density, values, samples.starts):
        from dreamlift.scenes.nerf.volume_triton import CompositeTriton

        weights, sums = CompositeTriton.apply(density, values, samples.starts, samples.ends, offsets, stop)
        return Composited(weights, sums[:, 0], sums[:, 1], sums[:, 2:])
    if not jit.usable(density, values, samples.starts):
        return composite_torch(density, values, samples, offsets, stop)
    weights, sums = _Composite.apply(density, values, samples, offsets, stop)  # pyright: ignore[reportGeneralTypeIssues]
    return Composited(weights, sums[:, 0], sums[:, 1], sums[:, 2:])


def sample_rays(
    origins: Tensor, directions: Tensor, bounds: float, count: int, jitter: Tensor, occupied: Tensor | None = None
) -> RaySamples:
    """Divide each ray's segment in the cube ``[-bounds, bounds]^3`` into ``count`` intervals.

    The first and last edges lie on the cube; the inner ones are evenly spaced and shifted jointly by ``jitter - 0.5`` of a
    step. The intervals always cover the whole segment, and random jitter samples every position with equal probability
    (stratified sampling, NeRF eq. 2, with one random number per ray).

    Args:
        origins, directions: ``(R, 3)``; directions are unit.
        jitter: ``(R,)`` in [0, 1); 0.5 gives regular intervals.
        occupied: ``(G, G, G)`` bool, indexed z, y, x: intervals whose midpoint lies in a false cell are omitted.
    """
    if on_triton(origins, directions, jitter):
        from dreamlift.scenes.nerf.volume_triton import sample_rays_triton

        return sample_rays_triton(origins, directions, bounds, count, jitter, occupied)
    if not jit.usable(origins, directions, jitter):
        return sample_rays_torch(origins, directions, bounds, count, jitter, occupied)
    room = origins.shape[0] * count
    indices = torch.empty(room, dtype=torch.int64)
    starts, ends = origins.new_empty(room), origins.new_empty(room)
    rays = (jit.array(origins), jit.array(directions), jit.array(jitter))
    mask = jit.array(torch.zeros(0, 0, 0, dtype=torch.bool) if occupied is None else occupied)
    out = (indices.numpy(), starts.numpy(), ends.numpy())

    def task(low: int, high: int) -> tuple[int, int]:
        first = low * count
        return first, first + volume_numba.sample_kernel(rays, bounds, count, mask, low, high, out)

    spans = jit.parallel_ranges(task, origins.shape[0], 256)
    return RaySamples(*(torch.cat([t[first:last] for first, last in spans]) for t in (indices, starts, ends)))
