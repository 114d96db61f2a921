"""Meshes of analytic solids, for the tests of meshing and rasterisation."""

from __future__ import annotations

import numpy as np
import torch

from dreamlift.meshing.isosurface import isosurface
from dreamlift.types import Mesh


def grid(size: int, bound: float = 1.0) -> torch.Tensor:
    axis = torch.linspace(-bound, bound, size)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def sphere_sdf(points: torch.Tensor, radius: float = 0.6, center: tuple[float, float, float] = (0, 0, 0)):
    return (points - torch.tensor(center)).norm(dim=-1) - radius


def torus_sdf(points: torch.Tensor, major: float = 0.6, minor: float = 0.25) -> torch.Tensor:
    ring = points[..., [0, 2]].norm(dim=-1) - major
    return (ring.square() + points[..., 1].square()).sqrt() - minor


def mesh_of(sdf: torch.Tensor) -> Mesh:
    """The zero isosurface of distances on a grid over [-1, 1]^3."""
    vertices, faces = isosurface(-sdf, 0.0, -1.0, 1.0)
    return Mesh(vertices.numpy().astype(np.float32), faces.numpy().astype(np.int32))
