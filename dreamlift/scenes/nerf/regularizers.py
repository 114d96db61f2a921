"""Regularisers of ray samples and of grids: pure functions, each an unweighted scalar.

N samples on R rays: ``weights (N,)`` are the compositing weights, ``offsets (R + 1,)`` come from
:func:`dreamlift.scenes.nerf.volume.ray_offsets`, and m_i and delta_i are the midpoint and length of interval i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlift.scenes.nerf.volume import from_dense, to_dense
from dreamlift.types import RaySamples

SOLID = 0.5  # opacity above which a ray counts as hitting a surface
EMPTINESS_SCALE = 10.0  # SJC's and threestudio's ``emptiness_scale``


def orientation(weights: Tensor, normals: Tensor, directions: Tensor, rays: int | Tensor) -> Tensor:
    """``(1/R) sum_i w_i max(0, n_i . d_i)^2``: visible normals face the camera. The weights get no gradient.

    Ref-NeRF (Verbin et al. 2022), eq. 11, https://arxiv.org/abs/2112.03907, with DreamFusion's stopped gradient.
    ``weights (N,)``, unit ``normals (N, 3)``, unit ray ``directions (N, 3)`` that point away from the camera. ``rays``
    is R; threestudio counts the rays of opacity above 0.
    """
    facing = (normals * directions).sum(-1).clamp(min=0.0)
    return (weights.detach() * facing.square()).sum() / torch.as_tensor(rays).clamp(min=1)


def distortion(weights: Tensor, samples: RaySamples, offsets: Tensor) -> Tensor:
    """Mean over rays of ``sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 delta_i``: concentrates each ray's weights.

    mip-NeRF 360 (Barron et al. 2022), eq. 15, https://arxiv.org/abs/2111.12077, with distances in world units. The samples
    are sorted, so the double sum equals ``2 sum_i w_i (m_i W_{<i} - M_{<i})`` with running sums W of w and M of w m: exact,
    in linear time.
    """
    rays = max(offsets.shape[0] - 1, 1)
    middles = 0.5 * (samples.starts + samples.ends)
    dense = to_dense(weights, samples, offsets)
    dense_m = to_dense(weights * middles, samples, offsets)
    before = from_dense(dense.cumsum(1) - dense, samples, offsets)
    before_m = from_dense(dense_m.cumsum(1) - dense_m, samples, offsets)
    pairs = 2 * (weights * (middles * before - before_m)).sum()
    own = (weights.square() * (samples.ends - samples.starts)).sum() / 3
    return (pairs + own) / rays


def depth_variance(weights: Tensor, samples: RaySamples, offsets: Tensor) -> Tensor:
    """Mean over rays of ``sum_i w_i (m_i - mean m)^2``, the weights normalised to sum to one on each ray.

    HiFA's z-variance (Zhu et al. 2023), https://arxiv.org/abs/2305.18766, over the rays of opacity above 0.5, as in
    threestudio: elsewhere it would shrink fog instead of sharpening surfaces. 0 without such rays.
    """
    empty = weights.new_zeros(max(offsets.shape[0] - 1, 1))
    total = empty.index_add(0, samples.ray_indices, weights)
    share = weights / total.clamp(min=1e-6)[samples.ray_indices]
    middles = 0.5 * (samples.starts + samples.ends)
    mean = empty.index_add(0, samples.ray_indices, share * middles)
    solid = total.detach() > SOLID
    spread = share * (middles - mean[samples.ray_indices]).square()
    return (spread * solid[samples.ray_indices]).sum() / solid.sum().clamp(min=1)


def emptiness(weights: Tensor, count: int) -> Tensor:
    """Mean over ``count`` samples of ``log(1 + 10 w_i)``: clears space that is nearly empty.

    SJC (Wang et al. 2022), section 4.3, https://arxiv.org/abs/2212.00774. Samples that were skipped have weight 0.
    """
    return torch.log1p(EMPTINESS_SCALE * weights).sum() / max(count, 1)


def normal_change(normals: Tensor, moved: Tensor) -> Tensor:
    """Mean of ``|n(x) - n(x + d)|`` over samples and components, with ``normals`` and ``moved (N, 3)``: smooth density.

    The 3-D normal smoothness of stable-dreamfusion (``nerf/renderer.py``) and threestudio, with d drawn from N(0, 0.01^2) along
    each axis. 0 without samples.
    """
    return (normals - moved).abs().sum() / max(normals.numel(), 1)


def total_variation(grid: Tensor) -> Tensor:
    """Mean squared difference of neighbours along the three axes of a ``grid (D, H, W, C)``, summed over the axes.

    Plenoxels (Fridovich-Keil et al. 2022), section 3.4, in its squared form, https://arxiv.org/abs/2112.05131.
    """
    return sum(
        ((grid.narrow(axis, 1, grid.shape[axis] - 1) - grid.narrow(axis, 0, grid.shape[axis] - 1)).square().mean()
         for axis in range(3)),
        start=torch.zeros((), dtype=grid.dtype, device=grid.device),
    )  # fmt: skip
