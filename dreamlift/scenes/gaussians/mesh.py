"""A mesh of Gaussians: their density on a grid, and from there as of any field.

"DreamGaussian" (Tang et al. 2023, section 3.2, https://arxiv.org/abs/2309.16653) sums opacity-weighted Gaussians on a grid,
block by block. Here each Gaussian is added to the grid points of its own box, and its weight is such that a ray through its
middle along its shortest axis is dimmed as the renderer dims it: a density per world unit, so that the surface, the
hollow inside, and the colours can be found as a radiance field's (:mod:`dreamlift.texturing.extract`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dreamlift.meshing.geometry import EmptySceneError
from dreamlift.scenes.gaussians.harmonics import C0
from dreamlift.scenes.gaussians.splat import MAX_ALPHA, rotations
from dreamlift.texturing.extract import Extract, mesh_of_field
from dreamlift.types import Mesh

CUT = 3.0  # standard deviations to which a Gaussian is drawn
THIN = 0.7  # cells: no axis of a Gaussian is drawn thinner, or the grid would miss it
POINTS_AT_ONCE = 1 << 21  # (Gaussian, grid point) pairs held at a time


def mesh_of_splats(rows: tuple[Tensor, ...], bounds: float, settings: Extract) -> Mesh:
    """The textured mesh of Gaussians inside ``[-bounds, bounds]^3``, on the CPU.

    Args:
        rows: raw means, quats, log scales, logit opacities, sh0, shN, as in :class:`~dreamlift.types.Splats`. Of the
            colours the part that is the same from all sides is taken.

    Raises:
        EmptySceneError: there is nothing to see in the scene.
    """
    means, quats, log_scales, logit_opacities, sh0, _ = (value.float().cpu() for value in rows)
    if len(means) == 0:
        raise EmptySceneError("the scene is empty: no Gaussian is left")
    colors = (0.5 + C0 * sh0[:, 0]).clamp(0, 1)
    grid = grid_of_splats(
        (means, quats, log_scales.exp(), logit_opacities.sigmoid()), colors, bounds, settings.resolution
    )  # fmt: skip
    volume = grid.permute(3, 2, 1, 0)[None]  # (1, 4, z, y, x), for grid_sample

    def look_up(points: Tensor, channels: slice) -> Tensor:
        places = (points / bounds)[None, None, None]
        found = torch.nn.functional.grid_sample(volume[:, channels], places, align_corners=True, padding_mode="border")
        return found[0, :, 0, 0].T

    def density(points: Tensor) -> Tensor:
        return look_up(points, slice(0, 1))[:, 0]

    def albedo(points: Tensor) -> Tensor:
        found = look_up(points, slice(0, 4))
        return found[:, 1:] / found[:, :1].clamp(min=1e-8)

    return mesh_of_field(density, albedo, bounds, settings)


def grid_of_splats(splats: tuple[Tensor, ...], colors: Tensor, bounds: float, resolution: int) -> Tensor:
    """Density, and density times colour, ``(R, R, R, 4)`` (x, y, z) at the corners of a grid over ``[-bounds, bounds]^3``.

    ``splats`` is (means, quats, scales, opacities), activated; ``colors (N, 3)``.
    """
    means, quats, scales, opacities = splats
    cell = 2 * bounds / (resolution - 1)
    scales = scales.clamp(min=THIN * cell)
    # A ray through the middle along the axis of deviation s meets density * sqrt(2 pi) s = -log(1 - opacity).
    peak = -torch.log1p(-opacities.clamp(max=MAX_ALPHA)) / (math.sqrt(2 * math.pi) * scales.amin(-1))
    turn = rotations(quats)
    half = CUT * (turn * scales[:, None]).norm(dim=-1)  # of the box around the ellipsoid
    low = torch.ceil((means - half + bounds) / cell).clamp(min=0)
    high = torch.floor((means + half + bounds) / cell).clamp(max=resolution - 1)
    span = (high - low + 1).clamp(min=0).long()
    low, sizes = low.long(), span.prod(dim=1)
    out = torch.zeros(resolution**3, 4)
    tinted = torch.cat([torch.ones(len(colors), 1), colors], dim=1) * peak[:, None]
    ends = sizes.cumsum(0)
    first = 0
    while first < len(means):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(torch.searchsorted(ends, done + POINTS_AT_ONCE, right=True)))
        owner = torch.repeat_interleave(torch.arange(first, last), sizes[first:last])
        local = torch.arange(len(owner)) - (ends[owner] - sizes[owner] - done)
        rest, z = local // span[owner, 2], local % span[owner, 2]
        at = low[owner] + torch.stack([rest // span[owner, 1], rest % span[owner, 1], z], dim=1)
        offset = at * cell - bounds - means[owner]
        along = torch.einsum("nij,ni->nj", turn[owner], offset) / scales[owner]
        fall = torch.exp(-0.5 * along.square().sum(-1))
        where = (at[:, 0] * resolution + at[:, 1]) * resolution + at[:, 2]
        out.index_add_(0, where, fall[:, None] * tinted[owner])
        first = last
    return out.view(resolution, resolution, resolution, 4)
