"""Volume rendering on packed samples: where to sample, how much each sample is seen, and what a ray collects.

For sample ``i`` of a ray with density ``sigma_i`` over an interval of length ``delta_i``:

    tau_i = sigma_i delta_i        T_i = exp(-sum_{j<i} tau_j)        w_i = T_i (1 - exp(-tau_i))
    opacity = sum_i w_i            C = sum_i w_i c_i                  depth = sum_i w_i t_i

the quadrature of Max, "Optical models for direct volume rendering" (1995), as eq. 3 of NeRF (Mildenhall et al. 2020,
https://arxiv.org/abs/2003.08934). :func:`composite` and :func:`sample_rays` exist three times: in torch (the reference; any
device, any precision), and for float32, chosen by themselves, as numba kernels (:mod:`dreamlift.scenes.nerf.volume_numba`)
on a CPU and as Triton kernels (:mod:`dreamlift.scenes.nerf.volume_triton`) on a GPU.
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
    """Whether Triton's kernels can work on these."""
    return HAS_TRITON and all(each.is_cuda and each.dtype == torch.float32 for each in tensors)


def intersect_cube(origins: Tensor, directions: Tensor, bounds: float) -> tuple[Tensor, Tensor]:
    """Where rays ``(R, 3)`` enter and leave the cube ``[-bounds, bounds]^3``: ``near, far (R,)`` with near >= 0.

    A ray that misses has ``far <= near``.
    """
    # A component of exactly zero would make 0 * inf = nan for an origin on the cube's face.
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
    """Whether ``points (..., 3)`` lie in a marked cell of ``occupied (G, G, G)`` (indexed z, y, x)."""
    size = occupied.shape[0]
    cell = ((points + bounds) * (size / (2 * bounds))).long().clamp(0, size - 1)
    return occupied.reshape(-1)[(cell[..., 2] * size + cell[..., 1]) * size + cell[..., 0]]


def ray_offsets(samples: RaySamples, rays: int) -> Tensor:
    """Where each ray's samples begin, ``(R + 1,)`` int64: ray r owns ``offsets[r]:offsets[r + 1]``."""
    edges = torch.arange(rays + 1, device=samples.ray_indices.device)
    return torch.searchsorted(samples.ray_indices, edges)


def sample_points(origins: Tensor, directions: Tensor, samples: RaySamples) -> Tensor:
    """The intervals' middles, ``(N, 3)``, for rays ``(R, 3)``."""
    if jit.usable(origins, directions, samples.starts):
        out = origins.new_empty(samples.starts.shape[0], 3)
        rays = (jit.array(origins), jit.array(directions))
        packed = (jit.array(samples.ray_indices), jit.array(samples.starts), jit.array(samples.ends))
        jit.spread(lambda low, high: volume_numba.points_kernel(rays, packed, low, high, out.numpy()), out.shape[0], 16384)
        return out
    middles = 0.5 * (samples.starts + samples.ends)
    return origins[samples.ray_indices] + middles[:, None] * directions[samples.ray_indices]


def to_dense(values: Tensor, samples: RaySamples, offsets: Tensor) -> Tensor:
    """Packed ``(N,)`` values as ``(R, M)``, zero-padded; M is the longest ray. Sums along it stay within a ray.

    A running sum over the packed axis would be cheaper, but each ray's part is then a difference of large numbers:
    float32 loses the later rays.
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
    """What rays collect."""

    weights: Tensor  # (N,) in [0, 1]
    opacity: Tensor  # (R,) in [0, 1]
    depth_sum: Tensor  # (R,) sum of w_i t_i; divide by the opacity for the expected distance
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
    """The compiled :func:`composite`; returns weights and sums ``(R, 2 + C)`` of (opacity, depth, values)."""

    @staticmethod
    def forward(ctx, density: Tensor, values: Tensor, samples: RaySamples, offsets: Tensor, stop: float):
        rays = offsets.shape[0] - 1
        weights, after = torch.empty_like(density), torch.empty_like(density)
        sums = density.new_empty(rays, 2 + values.shape[1])
        sigma, seen = jit.array(density), jit.array(values)
        packed = (jit.array(offsets), jit.array(samples.starts), jit.array(samples.ends))
        out = (weights.numpy(), after.numpy(), sums.numpy())
        jit.spread(lambda low, high: volume_numba.composite_forward(sigma, seen, packed, stop, low, high, out), rays, 256)
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
        jit.spread(lambda low, high: volume_numba.composite_backward(seen, ctx.packed, saved, grads, low, high, out), rays, 256)
        return grad_density, grad_values, None, None, None


def composite(density: Tensor, values: Tensor, samples: RaySamples, offsets: Tensor, stop: float = 0.0) -> Composited:
    """What every ray collects of its samples, differentiable in ``density`` and ``values``.

    Args:
        density: ``(N,)`` >= 0, inverse world units.
        values: ``(N, C)`` per-sample colours, normals, anything.
        samples: the N intervals of R rays.
        offsets: ``(R + 1,)`` from :func:`ray_offsets`.
        stop: a sample that is reached by less light (transmittance) than this weighs zero and gets no gradient.
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
    """Intervals that cut each ray's way through the cube ``[-bounds, bounds]^3`` into ``count`` pieces.

    The first and last edges lie on the cube; the inner ones are evenly spaced and shifted together by ``jitter - 0.5``
    of a step. So the pieces always add up to the whole way, and on average over the jitter every place is sampled
    (stratified sampling, NeRF eq. 2, with one random number a ray).

    Args:
        origins, directions: ``(R, 3)``; directions are unit.
        jitter: ``(R,)`` in [0, 1); 0.5 everywhere is a regular cut.
        occupied: ``(G, G, G)`` bool, indexed z, y, x: pieces whose middle lies in an unmarked cell are left out.
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

    spans = jit.spread(task, origins.shape[0], 256)
    return RaySamples(*(torch.cat([t[first:last] for first, last in spans]) for t in (indices, starts, ends)))
