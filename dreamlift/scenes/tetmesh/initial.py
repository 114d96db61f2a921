"""Initialisation from a mesh: its signed distances on a tetrahedral grid, and its colours in a field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dreamlift.meshing.distance import signed_distances
from dreamlift.scenes.nerf.field import Field
from dreamlift.scenes.tetmesh.tets import TetGrid
from dreamlift.texturing.sampling import sample_colors
from dreamlift.types import Mesh

SAMPLES = 60_000  # surface points from which a field gets its colours


def within(mesh: Mesh, bounds: float) -> Mesh:
    """The mesh, scaled down to ``[-bounds, bounds]^3`` if it exceeds the cube by at most 1%.

    A mesh extracted from a scene can exceed it: a surface that reaches the boundary is capped 0.05 cells outside
    (:func:`dreamlift.meshing.isosurface.isosurface`).

    Raises:
        ValueError: the mesh exceeds the cube by more than 1%.
    """
    reach = float(np.abs(mesh.vertices).max())
    if reach > 1.01 * bounds:
        raise ValueError(
            f"the initial mesh reaches {reach:.4g} from the origin; a scene lies in [-{bounds:g}, {bounds:g}] on each axis: "
            "centre it and scale it down"
        )
    return mesh if reach <= bounds else replace(mesh, vertices=(mesh.vertices * (bounds / reach)).clip(-bounds, bounds))


def distances_of(mesh: Mesh, grid: TetGrid) -> Tensor:
    """Signed distances ``(points,)`` of the grid points to a closed mesh, in world units, negative inside.

    Raises:
        ValueError: no grid point is inside: the mesh is open, inside out, or thinner than the grid's cells.
    """
    vertices, faces = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()
    low, count = -grid.extent, grid.cubes + 1
    corners = signed_distances(vertices, faces, low, grid.cell, count)
    centres = signed_distances(vertices, faces, low + grid.cell / 2, grid.cell, count - 1)
    found = torch.cat([corners.reshape(-1), centres.reshape(-1)])
    if not bool((found < 0).any()):
        raise ValueError(
            f"the initial mesh encloses no point of the grid (cells of {grid.cell:.3g}): it must be closed, with faces "
            "counter-clockwise from outside, and thicker than a cell; raise scene.resolution, or repair the mesh"
        )
    return found


def fit_colors(field: Field, mesh: Mesh, noise_std: float, rng: torch.Generator) -> None:
    """Give a field the colours of a mesh, at random points of its surface from ``rng``.

    The points are displaced along the normal by Gaussian noise of standard deviation ``noise_std`` (world units), which extends
    the colours to both sides of the surface.
    """
    points, normals, colors = sample_colors(mesh, SAMPLES, rng)
    field.fit_colors(points + noise_std * torch.randn(SAMPLES, 1, generator=rng) * normals, colors, rng)
