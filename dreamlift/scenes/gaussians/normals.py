"""Deferred normals and shading of Gaussians: both are computed per pixel, after compositing.

The shading is DreamFusion's (Poole et al. 2022, section 3.1, https://arxiv.org/abs/2209.14988). The shortest axis as a
Gaussian's normal is from "GaussianShader" (Jiang et al. 2023, section 3.3, https://arxiv.org/abs/2311.17977).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlift.types import Shading

SOLID = 0.3  # opacity above which a pixel shows a surface


def flatness(scales: Tensor) -> Tensor:
    """Flatness ``(N,)`` of Gaussians with ``scales (N, 3)``: one minus shortest over middle scale; 0 round, 1 a disc."""
    ordered = scales.sort(dim=-1).values
    return 1 - ordered[:, 0] / ordered[:, 1]


def surface_normals(axes: Tensor, points: Tensor, opacity: Tensor, directions: Tensor) -> Tensor:
    """Unit normals ``(B, H, W, 3)``: a blend of the Gaussians' ``axes`` and, where these are missing, depth normals.

    Args:
        axes: ``(B, H, W, 3)`` sum of compositing weight times flatness times shortest axis.
        points, opacity, directions: as for :func:`depth_normals`.
    """
    rest = (opacity - axes.norm(dim=-1, keepdim=True).clamp(max=1.0)).clamp(min=0.0)
    # 1e-3: a pixel without Gaussians gets a normal, too.
    total = axes + (rest + 1e-3) * depth_normals(points, opacity, directions)
    return total / total.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def depth_normals(points: Tensor, opacity: Tensor, directions: Tensor) -> Tensor:
    """Unit normals ``(B, H, W, 3)`` of the surface through the pixels' ``points (B, H, W, 3)``, facing the camera.

    Each tangent is the difference to the nearer of the two neighbours (left or right, above or below), which avoids
    differences across silhouettes. Pixels with ``opacity (B, H, W, 1)`` up to 0.3 have no surface: their normals face the
    camera.

    Args:
        directions: ``(B, H, W, 3)`` unit, from the camera.
    """
    solid = opacity[..., 0] > SOLID
    across, has_across = _tangent(points, solid, 2)
    down, has_down = _tangent(points, solid, 1)
    normal = torch.linalg.cross(across, down)
    length = normal.norm(dim=-1, keepdim=True)
    found = (has_across & has_down & solid)[..., None] & (length > 1e-12)
    normal = torch.where(found, normal, -directions)
    normal = normal / normal.norm(dim=-1, keepdim=True)
    return torch.where((normal * directions).sum(-1, keepdim=True) > 0, -normal, normal)


def lit(rgb: Tensor, opacity: Tensor, points: Tensor | None, normal: Tensor | None, shading: Shading) -> Tensor:
    """Shade premultiplied ``rgb (B, H, W, 3)`` by one point light per view; ``opacity`` is ``(B, H, W, 1)``.

    "Textureless" blends the albedo to white. Without ``points`` and ``normal`` (each ``(B, H, W, 3)``) the albedo is returned.
    """
    bare, share, light = (value.to(rgb) for value in (shading.textureless, shading.lambertian, shading.light))
    albedo = rgb + bare[:, None, None, None] * (opacity - rgb)
    if points is None or normal is None:
        return albedo
    toward = light[:, None, None] - points
    toward = toward / toward.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    diffuse = (normal * toward).sum(-1, keepdim=True).clamp(min=0.0)
    brightness = shading.ambient + (1 - shading.ambient) * diffuse
    return albedo * (1 + share[:, None, None, None] * (brightness - 1))


def _tangent(points: Tensor, solid: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Forward or backward differences ``(B, H, W, 3)`` along ``axis``, whichever is shorter, and where one exists."""
    size = points.shape[axis]
    step = points.narrow(axis, 1, size - 1) - points.narrow(axis, 0, size - 1)
    both = solid.narrow(axis, 1, size - 1) & solid.narrow(axis, 0, size - 1)
    edge, no_edge = torch.zeros_like(points.narrow(axis, 0, 1)), torch.zeros_like(solid.narrow(axis, 0, 1))
    ahead, has_ahead = torch.cat([step, edge], axis), torch.cat([both, no_edge], axis)
    behind, has_behind = torch.cat([edge, step], axis), torch.cat([no_edge, both], axis)
    far = torch.full((), torch.inf, device=points.device, dtype=points.dtype)
    lengths = [torch.where(has, move.detach().norm(dim=-1), far) for move, has in ((ahead, has_ahead), (behind, has_behind))]
    return torch.where((lengths[0] <= lengths[1])[..., None], ahead, behind), has_ahead | has_behind
