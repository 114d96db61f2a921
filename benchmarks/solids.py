"""The solids that one silhouette gives by itself."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from dreamlift.cameras import project
from dreamlift.meshing.isosurface import isosurface
from dreamlift.toybox.world.truth import cell_centers
from dreamlift.types import Cameras, Mesh

GRID = 64  # cells a side of the solids, over [-1, 1]^3


def hull(photo: Tensor, camera: Cameras, inflated: bool = False) -> Mesh:
    """What the silhouette of ``photo (S, S, 4)`` alone tells: the cone of its rays, cut off in depth, with the photo's colours.

    The cone is cut by two planes across the optical axis, at equal distances before and behind the origin; between them lies
    the length of the silhouette's shorter side. ``inflated``: half the depth of a ray is instead (d (2 R - d))^0.5, with d its
    distance from the outline and R the largest one, which makes a ball of a disk.
    """
    mask = photo[..., 3] > 0.5
    size, half = mask.shape[0], torch.tensor(0.5)
    points = cell_centers(GRID)
    pixels, depth = project(camera, points)
    world = float(camera.distance) / float(camera.K[0, 0, 0])  # of a pixel at the origin
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    shorter = float(min(rows.max() - rows.min(), columns.max() - columns.min()) + 1) * world
    inside = torch.from_numpy(ndimage.distance_transform_edt(mask.numpy())).float() * world  # from the outline
    outside = torch.from_numpy(ndimage.distance_transform_edt(~mask.numpy())).float() * world
    grid = (pixels[0] / size * 2.0 - 1.0).view(1, 1, -1, 2)
    across = functional.grid_sample((inside - outside)[None, None], grid, padding_mode="border", align_corners=False).view(-1)
    away = (depth[0] - camera.distance).abs()
    largest = float(inside.max())
    reach = (across * (2.0 * largest - across)).clamp_min(0).sqrt() if inflated else half * shorter
    vertices, faces = isosurface(torch.minimum(across, reach - away).view(GRID, GRID, GRID), 0.0, -1 + 1 / GRID, 1 - 1 / GRID)
    seen = project(camera, vertices)[0][0] / size * 2.0 - 1.0
    colors = functional.grid_sample(photo[..., :3].permute(2, 0, 1)[None], seen.view(1, 1, -1, 2), align_corners=False)
    return Mesh(vertices.numpy(), faces.numpy().astype(np.int32), vertex_colors=colors[0, :, 0].T.clamp(0, 1).numpy())
