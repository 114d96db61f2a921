"""Mesh extraction from Gaussians: their summed density on a grid, meshed like a radiance field.

"DreamGaussian" (Tang et al. 2023, section 3.2, https://arxiv.org/abs/2309.16653) sums opacity-weighted Gaussians on a grid in
blocks. Here each Gaussian is added to the grid points of its own bounding box, scaled to a volume density: a ray through its
centre along its shortest axis accumulates its opacity. Isosurface, hollow interior and colours then follow as for a radiance
field (:mod:`dreamlift.texturing.extract`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dreamlift.scenes.gaussians.harmonics import C0
from dreamlift.scenes.gaussians.splat import MAX_ALPHA, rotations
from dreamlift.texturing.extract import Extract, mesh_of_field
from dreamlift.types import EmptySceneError, Mesh

CUT = 3.0  # truncation radius of a Gaussian, standard deviations
THIN = 0.7  # smallest standard deviation, in cells: the grid would miss thinner Gaussians
POINTS_AT_ONCE = 1 << 21  # (Gaussian, grid point) pairs per chunk


def mesh_of_splats(rows: tuple[Tensor, ...], bounds: float, settings: Extract) -> Mesh:
    """The textured mesh of Gaussians inside ``[-bounds, bounds]^3``, on the CPU.

    Args:
        rows: raw means, quats, log scales, logit opacities, sh0, shN, as in :class:`~dreamlift.types.Splats`. The mesh gets
            the view-independent part sh0 of the colours.

    Raises:
        EmptySceneError: the scene has no surface.
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
    """Density and density-weighted colour ``(R, R, R, 4)``, indexed x, y, z, at the corners of a grid over the cube.

    The cube is ``[-bounds, bounds]^3``. ``splats`` is (means, quats, scales, opacities), activated; ``colors (N, 3)``.
    """
    means, quats, scales, opacities = splats
    cell = 2 * bounds / (resolution - 1)
    scales = scales.clamp(min=THIN * cell)
    # The optical depth through the centre along an axis of deviation s is peak * sqrt(2 pi) s = -log(1 - opacity).
    peak = -torch.log1p(-opacities.clamp(max=MAX_ALPHA)) / (math.sqrt(2 * math.pi) * scales.amin(-1))
    turn = rotations(quats)
    half = CUT * (turn * scales[:, None]).norm(dim=-1)  # half size of the ellipsoid's bounding box
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
