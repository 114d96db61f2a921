"""How a scene begins with a mesh: its signed distances on a tetrahedral grid, and its colours in a field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dreamlift.meshing.distance import signed_distances
from dreamlift.meshing.geometry import check_mesh
from dreamlift.scenes.nerf.field import Field
from dreamlift.scenes.tetmesh.tets import TetGrid
from dreamlift.texturing.sampling import sample_colors
from dreamlift.types import Mesh

SAMPLES, BATCH, ROUNDS = 60_000, 8192, 100  # surface points, points a round, rounds of the colours' regression
RATE = 4.0  # times the field's own learning rates


def within(mesh: Mesh, bounds: float) -> Mesh:
    """A mesh that a scene can begin with: in ``[-bounds, bounds]^3``, made smaller where it is a hair too large.

    What fills a scene up to its border is capped 0.05 cells outside (:func:`dreamlift.meshing.isosurface.isosurface`).

    Raises:
        EmptySceneError, ValueError: the mesh is empty or malformed, or larger by more than a hundredth.
    """
    check_mesh(mesh)
    reach = float(np.abs(mesh.vertices).max())
    if reach > 1.01 * bounds:
        raise ValueError(
            f"the mesh to start from reaches {reach:.4g} from the origin; a scene lies in [-{bounds:g}, {bounds:g}] on each "
            "axis: centre it and scale it down"
        )
    return mesh if reach <= bounds else replace(mesh, vertices=(mesh.vertices * (bounds / reach)).clip(-bounds, bounds))


def distances_of(mesh: Mesh, grid: TetGrid) -> Tensor:
    """Signed distances ``(points,)`` in world units, negative inside, of the grid's points to a mesh that should be closed.

    Raises:
        ValueError: no grid point lies inside: the mesh is open, inside out, or thinner than the grid's cells.
    """
    vertices, faces = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()
    low, count = -grid.extent, grid.cubes + 1
    corners = signed_distances(vertices, faces, low, grid.cell, count)
    centres = signed_distances(vertices, faces, low + grid.cell / 2, grid.cell, count - 1)
    found = torch.cat([corners.reshape(-1), centres.reshape(-1)])
    if not bool((found < 0).any()):
        raise ValueError(
            f"the mesh to start from encloses no point of the grid (cells of {grid.cell:.3g}): it must be closed, with faces "
            "counter-clockwise from outside, and thicker than a cell; raise scene.resolution, or repair the mesh"
        )
    return found


def fit_colors(field: Field, mesh: Mesh, spread: float, rng: torch.Generator) -> None:
    """Teach a field the mesh's colours by a short regression; all that is random comes from ``rng``.

    Points are moved along the normal by a Gaussian of ``spread`` (world units), so that the colours are there, too, when the
    surface moves.
    """
    points, normals, colors = sample_colors(mesh, SAMPLES, rng)
    groups = [dict(group) | {"lr": RATE * group["lr"]} for group in field.param_groups()]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    for _ in range(ROUNDS):
        chosen = torch.randint(SAMPLES, (BATCH,), generator=rng)
        moved = points[chosen] + spread * torch.randn(BATCH, 1, generator=rng) * normals[chosen]
        loss = (field.query(moved).albedo - colors[chosen]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    field.zero_grad(set_to_none=True)
