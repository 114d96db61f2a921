"""From a density field to a finished mesh: isosurface, floaters, smoothing, face budget, unwrap, bake.

The texture is not the field's colour *at* the surface, which renders show only in part: it is the colour that a short ray
through the surface collects, by the same quadrature as the renderer's (Max 1995), so that the mesh looks like the
renders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamlift.meshing.clean import decimate, remove_floaters, smooth
from dreamlift.meshing.isosurface import surface_of_density
from dreamlift.meshing.texture import bake, unwrap
from dreamlift.types import Mesh

Density = Callable[[Tensor], Tensor]  # (N, 3) -> (N,)
Albedo = Callable[[Tensor], Tensor]  # (N, 3) -> (N, 3) sRGB


@dataclass(frozen=True)
class Extract:
    """How a scene becomes a mesh."""

    resolution: int = 128  # grid points a side on which the density is sampled
    threshold: float | None = None  # density of the surface; None finds the one whose outlines match the renders
    faces: int = 10_000  # face budget
    texture_size: int = 1024  # texels a side
    smooth: int = 4  # Taubin iterations against the grid's stairs; 0 switches it off
    keep_parts: float = 0.05  # loose parts smaller than this share of the largest one's area are dropped
    depth: float = 0.06  # how far below the surface the colour is collected, world units

    def __post_init__(self) -> None:
        for name, low, high in (("resolution", 8, 512), ("faces", 4, 5_000_000), ("texture_size", 16, 8192)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: {low} to {high}")
        if not 0.0 <= self.keep_parts <= 1.0:
            raise ValueError(f"keep_parts is {self.keep_parts:g}; accepted: 0 to 1")
        if self.depth <= 0 or self.smooth < 0 or (self.threshold is not None and self.threshold <= 0):
            raise ValueError("depth and threshold must be positive, and smooth must not be negative")


def mesh_of_field(density: Density, albedo: Albedo, bounds: float, settings: Extract) -> Mesh:
    """The textured mesh of a field inside ``[-bounds, bounds]^3``.

    Raises:
        EmptySceneError: there is nothing to see in the field.
    """
    grid = sample_grid(density, bounds, settings.resolution)
    vertices, faces = surface_of_density(grid, (-bounds,) * 3, (bounds,) * 3, settings.threshold)
    mesh = remove_floaters(Mesh(vertices.numpy(), faces.numpy().astype(np.int32)), settings.keep_parts)
    mesh = decimate(smooth(mesh, settings.smooth) if settings.smooth else mesh, settings.faces)
    mesh = unwrap(mesh, settings.texture_size)
    return bake(mesh, lambda points, normals: surface_color(density, albedo, points, normals, settings.depth),
                settings.texture_size)  # fmt: skip


@torch.no_grad()
def sample_grid(density: Density, bounds: float, resolution: int, chunk: int = 1 << 18) -> Tensor:
    """Densities ``(R, R, R)``, indexed x, y, z, at the corners of a grid over ``[-bounds, bounds]^3``, on the CPU."""
    axis = torch.linspace(-bounds, bounds, resolution)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    values = torch.cat([density(part).float().cpu() for part in points.split(chunk)])
    return values.view(resolution, resolution, resolution)


def surface_color(density: Density, albedo: Albedo, points: Tensor, normals: Tensor, depth: float, samples: int = 8) -> Tensor:
    """Colours ``(N, 3)`` that rays against the ``normals (N, 3)`` collect around surface ``points (N, 3)``.

    The ray starts a third of ``depth`` outside and ends ``depth`` inside; what light is left at its end takes the
    colour of the last sample.
    """
    offsets = torch.linspace(depth / 3, -depth, samples)
    places = points[:, None] + offsets[:, None] * normals[:, None]  # (N, S, 3)
    flat = places.reshape(-1, 3)
    optical = density(flat).float().cpu().view(-1, samples) * (4 * depth / 3 / (samples - 1))
    colors = albedo(flat).float().cpu().view(-1, samples, 3)
    passed = torch.cat([torch.zeros_like(optical[:, :1]), optical.cumsum(1)], dim=1)
    reach = torch.exp(-passed)
    weights = torch.cat([reach[:, :-2] - reach[:, 1:-1], reach[:, -2:-1]], dim=1)  # sums to 1
    return (weights[..., None] * colors).sum(1).clamp(0, 1)
