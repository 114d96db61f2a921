"""Visibility by nvdiffrast (Laine et al. 2020, https://arxiv.org/abs/2011.03277), where a user has it, on CUDA.

Its licence allows non-commercial use only: it is never installed with this package. It has not been run by the tests, which
only check the clip space that it is given.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dreamlift.types import Cameras

NEAR, FAR = 0.01, 100.0  # world units


def clip_matrices(cameras: Cameras, near: float, far: float) -> Tensor:
    """``(B, 4, 4)`` from world to OpenGL's clip space, with row 0 of a picture at y = -1: nvdiffrast's own order of rows."""
    K, w2c = cameras.K, torch.linalg.inv(cameras.c2w)
    lens = torch.zeros(len(cameras), 4, 4, dtype=K.dtype, device=K.device)
    # Pixels u = x / z become 2 u / width - 1, and the depth's signs are OpenGL's: -1 is near.
    lens[:, 0, :3] = 2 * K[:, 0] / cameras.width
    lens[:, 1, :3] = 2 * K[:, 1] / cameras.height
    lens[:, 0, 2] -= 1
    lens[:, 1, 2] -= 1
    lens[:, 2, 2], lens[:, 2, 3] = (far + near) / (far - near), -2 * far * near / (far - near)
    lens[:, 3, 2] = 1
    return lens @ w2c


@lru_cache(maxsize=1)
def _context(device: str) -> Any:
    import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]

    return dr.RasterizeCudaContext(device=device)


def nearest_faces(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    """See :func:`dreamlift.meshing.visibility.visible_faces`. Pictures' sides must be at most 2048 pixels."""
    import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]

    points = torch.cat([vertices.float(), torch.ones_like(vertices[:, :1]).float()], dim=1)
    clip = torch.einsum("bij,vj->bvi", clip_matrices(cameras, NEAR, FAR).float(), points).contiguous()
    size = [cameras.height, cameras.width]
    # Its kernels take sides that are multiples of 8; more is drawn, and cut off.
    padded = [-(-side // 8) * 8 for side in size]
    if padded != size:
        scale = clip.new_tensor([size[1] / padded[1], size[0] / padded[0]])
        clip[..., :2] = (clip[..., :2] + clip[..., 3:]) * scale - clip[..., 3:]
    drawn, _ = dr.rasterize(_context(str(vertices.device)), clip, faces.int().contiguous(), padded, grad_db=False)
    return drawn[:, : size[0], : size[1], 3].long() - 1
