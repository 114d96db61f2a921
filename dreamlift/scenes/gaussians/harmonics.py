"""Colours of Gaussians: real spherical harmonics of the viewing direction.

"3D Gaussian Splatting for Real-Time Radiance Field Rendering" (Kerbl et al. 2023, https://arxiv.org/abs/2308.04079),
with the basis, signs and coefficient order of its code, which ``.ply`` files and viewers use: ``colour = 0.5 + sum_k c_k
Y_k(d)``, where d is the unit direction from the camera to the Gaussian.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

C0 = 0.5 / math.sqrt(math.pi)  # Y_0
C1 = math.sqrt(3 / (4 * math.pi))
C2 = (
    math.sqrt(15 / math.pi) / 2, -math.sqrt(15 / math.pi) / 2, math.sqrt(5 / math.pi) / 4,
    -math.sqrt(15 / math.pi) / 2, math.sqrt(15 / math.pi) / 4,
)  # fmt: skip
C3 = (
    -math.sqrt(35 / (2 * math.pi)) / 4, math.sqrt(105 / math.pi) / 2, -math.sqrt(21 / (2 * math.pi)) / 4,
    math.sqrt(7 / math.pi) / 4, -math.sqrt(21 / (2 * math.pi)) / 4, math.sqrt(105 / math.pi) / 4,
    -math.sqrt(35 / (2 * math.pi)) / 4,
)  # fmt: skip


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """The ``K = (degree + 1)^2`` basis functions ``(..., K)`` at unit ``directions (..., 3)``; degree 0 to 3."""
    x, y, z = directions.unbind(-1)
    found = [torch.full_like(x, C0)]
    if degree > 0:
        found += [-C1 * y, C1 * z, -C1 * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        found += [C2[0] * x * y, C2[1] * y * z, C2[2] * (2 * zz - xx - yy), C2[3] * x * z, C2[4] * (xx - yy)]
        if degree > 2:
            found += [
                C3[0] * y * (3 * xx - yy), C3[1] * x * y * z, C3[2] * y * (4 * zz - xx - yy),
                C3[3] * z * (2 * zz - 3 * xx - 3 * yy), C3[4] * x * (4 * zz - xx - yy),
                C3[5] * z * (xx - yy), C3[6] * x * (xx - 3 * yy),
            ]  # fmt: skip
    return torch.stack(found, dim=-1)


def colors_of(sh0: Tensor, shN: Tensor, directions: Tensor) -> Tensor:
    """Colours ``(B, N, 3)`` in [0, 1] of Gaussians with coefficients ``sh0 (N, 1, 3)`` and ``shN (N, K - 1, 3)``, viewed
    along unit ``directions (B, N, 3)``.

    The clamp passes gradients unchanged, so that colours outside the range can return to it.
    """
    degree = math.isqrt(1 + shN.shape[1]) - 1
    if degree == 0:
        raw = (0.5 + C0 * sh0[:, 0]).expand(directions.shape[0], -1, -1)
    else:
        raw = 0.5 + torch.einsum("bnk,nkc->bnc", sh_basis(directions, degree), torch.cat([sh0, shN], dim=1))
    return raw + (raw.detach().clamp(0, 1) - raw.detach())


def sh0_of(colors: Tensor) -> Tensor:
    """Coefficients ``(N, 1, 3)`` of view-independent ``colors (N, 3)`` in [0, 1]."""
    return ((colors - 0.5) / C0)[:, None]
