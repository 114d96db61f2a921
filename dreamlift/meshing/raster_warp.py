"""Visibility by NVIDIA Warp (Apache-2.0): a ray each pixel into a bounding volume hierarchy, made for CUDA.

The hierarchy is built anew in every call, as the mesh moves in every step. On a CPU Warp works with one core.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp  # pyright: ignore[reportMissingImports]
from torch import Tensor

from dreamlift.cameras import rays_of
from dreamlift.types import Cameras

FAR = 1e6  # world units

wp.config.quiet = True  # no banner; newer versions have a level instead
if hasattr(wp.config, "log_level"):
    wp.config.log_level = wp.LOG_WARNING
wp.init()


@wp.kernel
def _shoot(mesh: wp.uint64, origins: wp.array(dtype=wp.vec3), directions: wp.array(dtype=wp.vec3), out: wp.array(dtype=wp.int32)):  # fmt: skip  # noqa: E501  # pyright: ignore
    i = wp.tid()
    hit = wp.mesh_query_ray(mesh, origins[i], directions[i], FAR)
    out[i] = wp.where(hit.result, hit.face, -1)


def nearest_faces(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    """See :func:`dreamlift.meshing.visibility.visible_faces`; in float32, and without a near plane."""
    rays = rays_of(cameras)
    shape = rays.directions.shape[:3]
    device = wp.device_from_torch(vertices.device)

    def vectors(values: Tensor) -> Any:
        return wp.from_torch(values.detach().reshape(-1, 3).float().contiguous(), dtype=wp.vec3)

    mesh = wp.Mesh(vectors(vertices), wp.from_torch(faces.reshape(-1).int().contiguous()))
    out = torch.empty(rays.directions[..., 0].numel(), dtype=torch.int32, device=vertices.device)
    inputs = [mesh.id, vectors(rays.origins), vectors(rays.directions)]
    wp.launch(_shoot, dim=len(out), inputs=inputs, outputs=[wp.from_torch(out)], device=device)
    return out.long().view(shape)
