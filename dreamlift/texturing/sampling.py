"""Sampling of a mesh's surface: bilinear textures, interpolated vertex values, base colours, and random points.

Random points are uniform in area (Osada et al. 2002, "Shape Distributions", equation 1,
https://doi.org/10.1145/571647.571648): with u, v uniform in [0, 1], the barycentrics are (1 - sqrt(u), sqrt(u) (1 - v),
sqrt(u) v).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamlift.types import Mesh


def sample_texture(texture: np.ndarray, uvs: Tensor) -> Tensor:
    """Bilinear values ``(N, 3)`` in [0, 1] of a ``(H, W, 3)`` uint8 texture at ``uvs (N, 2)``, clamped to its edges."""
    height, width = texture.shape[:2]
    image = torch.from_numpy(np.array(texture)).view(-1, 3)  # a copy: readers hand out read-only arrays
    # Texel centres lie at +0.5, and v = 0 is the upper edge of the first row.
    x = (uvs[:, 0] * width - 0.5).clamp(0, width - 1)
    y = (uvs[:, 1] * height - 0.5).clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp_max(width - 1), (top + 1).clamp_max(height - 1)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    upper = image[top * width + left] * (1 - fx) + image[top * width + right] * fx
    lower = image[bottom * width + left] * (1 - fx) + image[bottom * width + right] * fx
    return (upper * (1 - fy) + lower * fy) / 255.0


def interpolate(mesh: Mesh, values: np.ndarray, face: Tensor, bary: Tensor) -> Tensor:
    """The vertices' ``values (V, C)`` at barycentrics ``bary (N, 3)`` of faces ``face (N,)``: ``(N, C)`` float32."""
    corners = torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()[face]
    return torch.einsum("nc,nci->ni", bary, torch.from_numpy(np.ascontiguousarray(values)).float()[corners])


def colors_at(mesh: Mesh, face: Tensor, bary: Tensor) -> Tensor:
    """Base colours ``(N, 3)``, sRGB in [0, 1]: from the texture, or else the vertex colours, or else mid grey."""
    if mesh.base_color is not None and mesh.uvs is not None:
        return sample_texture(mesh.base_color, interpolate(mesh, mesh.uvs, face, bary))
    if mesh.vertex_colors is not None:
        return interpolate(mesh, mesh.vertex_colors, face, bary)
    return torch.full((len(face), 3), 0.5)


def sample_colors(mesh: Mesh, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """``count`` random points ``(N, 3)``, uniform in area, their faces' unit normals and their sRGB colours in [0, 1]."""
    faces = torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()
    corners = torch.from_numpy(mesh.vertices).float()[faces]
    vectors = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    ends = vectors.norm(dim=1).double().cumsum(0)
    drawn = torch.rand(count, generator=rng, dtype=torch.float64) * ends[-1]
    face = torch.searchsorted(ends, drawn).clamp(max=len(faces) - 1)
    root, other = torch.rand(2, count, generator=rng)
    root = root.sqrt()
    weights = torch.stack([1 - root, root * (1 - other), root * other], dim=1)
    points, colors = interpolate(mesh, mesh.vertices, face, weights), colors_at(mesh, face, weights)
    return points, torch.nn.functional.normalize(vectors[face], dim=1), colors.clamp(0, 1)
