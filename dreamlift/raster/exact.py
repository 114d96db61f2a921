"""Exact rasterisation of triangles, for round-trip checks, previews and tests. It has no gradients.

:mod:`dreamlift.raster.visibility` finds the triangle of each pixel. For the ray d = K^-1 (u, v, 1) through a pixel's
centre and a triangle (v0, v1, v2) in camera space (Olano and Greer 1997, https://doi.org/10.1145/258694.258723),

    b_i = d . (v_j x v_k),    barycentrics = b / sum(b),    z = v0 . (v1 x v2) / sum(b),

of the intersection, so barycentrics are perspective-correct.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamlift.raster.visibility import to_camera, visible_faces
from dreamlift.types import Cameras


@dataclass(frozen=True)
class Fragments:
    """The nearest surface in every pixel."""

    faces: Tensor  # (B, H, W) int64, -1 where there is none
    barycentrics: Tensor  # (B, H, W, 3) float32, sum to 1; 0 where there is no face
    depth: Tensor  # (B, H, W) float32 distance along the unit ray, world units; 0 where there is no face


def rasterize(vertices: np.ndarray | Tensor, faces: np.ndarray | Tensor, cameras: Cameras) -> Fragments:
    """The nearest triangle at each pixel's centre, on the CPU; both sides of triangles are drawn.

    Args:
        vertices: ``(V, 3)`` in the world. faces: ``(F, 3)``.
        cameras: a batch of B; the picture's size is theirs.
    """
    points = torch.as_tensor(np.asarray(vertices)).double()
    triangles = torch.as_tensor(np.asarray(faces)).long()
    cameras = cameras.to("cpu")
    winners = visible_faces(points, triangles, cameras)
    bary, depth = torch.zeros(*winners.shape, 3), torch.zeros(winners.shape)
    for view, (local, K) in enumerate(zip(to_camera(points, cameras), cameras.K.double(), strict=True)):
        y, x = torch.nonzero(winners[view] >= 0, as_tuple=True)
        corners = local[triangles[winners[view, y, x]]]
        rays = torch.stack([x + 0.5, y + 0.5, torch.ones_like(x)], dim=1).double() @ torch.linalg.inv(K).T
        cross = torch.linalg.cross(corners[:, [1, 2, 0]], corners[:, [2, 0, 1]])  # (N, 3, 3): v_j x v_k
        b = torch.einsum("nij,nj->ni", cross, rays)
        total = b.sum(dim=1)
        bary[view, y, x] = (b / total[:, None]).float()
        depth[view, y, x] = ((corners[:, 0] * cross[:, 0]).sum(1) / total * rays.norm(dim=1)).float()
    return Fragments(winners, bary, depth)
