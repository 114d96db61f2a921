"""The initial Gaussians of a scene: uniform in a ball (DreamGaussian), or on a mesh (GaussianDreamer).

"DreamGaussian" (Tang et al. 2023, https://arxiv.org/abs/2309.16653): grey Gaussians, uniform in a ball. "GaussianDreamer" (Yi
et al. 2023, https://arxiv.org/abs/2310.08529): Gaussians on the surface of a coarse model, with its colours. Their scales
follow from the distances to their neighbours, as in "3D Gaussian Splatting" (Kerbl et al. 2023, section 5.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlift.meshing.geometry import face_areas
from dreamlift.scenes.gaussians.harmonics import sh0_of
from dreamlift.texturing.sampling import sample_colors
from dreamlift.types import Mesh

WIDTH = 0.7  # in-plane scale of a Gaussian on a mesh, relative to the spacing: larger blurs silhouettes, smaller leaves gaps
FLAT = 0.2  # scale of a Gaussian on a mesh along the normal, relative to its in-plane scale
MESH_OPACITY = 0.9  # opacity of a Gaussian on a mesh
NEIGHBOURS = 3
EXACT = 10_000  # number of points up to which distances are computed between all pairs
# The mean of Gamma(k + 2/3) / Gamma(k) over k = 1, 2, 3.
BALL_SPACING = sum(math.gamma(k + 2 / 3) / math.gamma(k) for k in (1, 2, 3)) / 3


@dataclass(frozen=True)
class InitialSplats:
    """The initial Gaussians of a scene, all raw (before activation)."""

    means: Tensor  # (N, 3)
    quats: Tensor  # (N, 4) w, x, y, z
    log_scales: Tensor  # (N, 3)
    logit_opacities: Tensor  # (N,)
    sh0: Tensor  # (N, 1, 3)


def splats_in_ball(count: int, radius: float, opacity: float, rng: torch.Generator) -> InitialSplats:
    """``count`` round grey Gaussians, uniform in a ball of ``radius`` (world units)."""
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=-1)
    means = directions * radius * torch.rand(count, 1, generator=rng).pow(1 / 3)
    # Grey with slight noise, as in DreamGaussian.
    colors = 0.5 + torch.rand(count, 3, generator=rng) / 255 * 0.28
    if count <= EXACT:
        wide = spacing(means)
    else:  # its expectation: for a Poisson process E r_k^2 = Gamma(k + 2/3) / Gamma(k) (3 / (4 pi density))^(2/3)
        wide = torch.full((count,), math.sqrt(BALL_SPACING) * radius * count ** (-1 / 3))
    scales = wide.log()[:, None].repeat(1, 3)
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1)
    return InitialSplats(means, quats, scales, torch.full((count,), opacity).logit(), sh0_of(colors))


def splats_on_mesh(mesh: Mesh, count: int, rng: torch.Generator) -> InitialSplats:
    """``count`` flat Gaussians, uniform on the surface of ``mesh``, with its texture or vertex colours, otherwise grey."""
    means, normals, colors = sample_colors(mesh, count, rng)
    if count <= EXACT:
        wide = WIDTH * spacing(means)
    else:  # its expectation on a surface: E r_k^2 = k / (pi density)
        wide = torch.full(
            (count,), WIDTH * math.sqrt(2 * float(face_areas(mesh.vertices, mesh.faces).sum()) / (math.pi * count))
        )
    scales = torch.stack([wide, wide, FLAT * wide], dim=-1).log()
    quats = turns(normals)
    return InitialSplats(means, quats, scales, torch.full((count,), MESH_OPACITY).logit(), sh0_of(colors))


def turns(normals: Tensor) -> Tensor:
    """Unit quaternions ``(N, 4)`` that rotate +z onto unit ``normals (N, 3)``."""
    x, y, z = normals.unbind(-1)
    found = torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=-1)
    # For -z, any rotation by 180 degrees about a horizontal axis works; here about x.
    half = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand_as(found)
    return torch.nn.functional.normalize(torch.where(1 + z[:, None] < 1e-6, half, found), dim=-1)


def spacing(points: Tensor, chunk: int = 1024) -> Tensor:
    """Root mean square distance ``(N,)`` of each of ``points (N, 3)`` to its three nearest neighbours, at least 1e-4."""
    near = min(NEIGHBOURS, len(points) - 1)
    if near < 1:
        return torch.full((len(points),), 0.1)
    parts = [
        # The faster matrix-product formula loses small distances to rounding.
        torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist").topk(near + 1, largest=False).values[:, 1:]
        for part in points.split(chunk)
    ]
    return torch.cat(parts).square().mean(1).sqrt().clamp(min=1e-4)
