"""No step after the field closes an open vessel: a cup as a field and as a mesh goes through each of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mesh_helpers import grid, mesh_of

from dreamlift.export.printing import closed
from dreamlift.meshing.clean import decimate, remove_floaters, smooth
from dreamlift.meshing.isosurface import surface_of_density
from dreamlift.meshing.watertight import fill_holes, is_watertight, make_watertight, remesh, weld
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.texturing.extract import Extract, finalize, finish_surface, levels_of_detail, mesh_of_field
from dreamlift.toybox.judging.opening import hollow
from dreamlift.types import Mesh

HEIGHT, OUTER, INNER, FLOOR = 1.3, 0.5, 0.36, 0.15
DEPTH = (HEIGHT - FLOOR) / HEIGHT  # of the opening, over the longest side


def cup_sdf(points: torch.Tensor) -> torch.Tensor:
    """Signed distances of a cup, open above, around the origin; exact near its surface."""
    radius, y = points[..., [0, 2]].norm(dim=-1), points[..., 1]
    body = torch.maximum(radius - OUTER, y.abs() - HEIGHT / 2)
    room = torch.maximum(radius - INNER, FLOOR - HEIGHT / 2 - y)
    return torch.maximum(body, -room)


def density(points: torch.Tensor, haze: float = 0.0) -> torch.Tensor:
    """A field that is 100 per unit in the cup and fades over 0.01 at its surface, with a haze in its opening."""
    radius, y = points[..., [0, 2]].norm(dim=-1), points[..., 1]
    room = (radius < INNER) & (y > FLOOR - HEIGHT / 2) & (y < HEIGHT / 2)
    return 100.0 * torch.sigmoid(-cup_sdf(points) / 0.01) + haze * room


def red(points: torch.Tensor, normals: torch.Tensor | None = None) -> torch.Tensor:
    return torch.tensor([0.8, 0.1, 0.1]).expand(len(points), 3)


def is_open(mesh: Mesh, tolerance: float = 0.05) -> bool:
    return hollow(mesh) == pytest.approx(DEPTH, abs=tolerance)


@pytest.fixture(scope="module")
def cup() -> Mesh:
    return mesh_of(cup_sdf(grid(56)))


@pytest.fixture(scope="module")
def torn(cup) -> Mesh:
    """With holes of a few faces in wall and floor."""
    points = cup.vertices[cup.faces].mean(1)
    places = np.array([[OUTER, 0, 0], [0, 0.1, INNER], [0.1, FLOOR - HEIGHT / 2, 0], [0, -HEIGHT / 2, 0.1]])
    gone = (np.linalg.norm(points[:, None] - places, axis=2) < 0.05).any(axis=1)
    assert 10 < gone.sum() < 200
    return Mesh(cup.vertices, cup.faces[~gone])


@pytest.mark.parametrize("haze", [0.0, 0.15])
@pytest.mark.parametrize("threshold", [None, 20.0])
def test_the_surface_of_a_field_is_open(threshold, haze):
    """A haze through which four fifths of the floor are seen from above is no solid."""
    vertices, faces = surface_of_density(density(grid(56), haze), (-1,) * 3, (1,) * 3, threshold)
    assert is_open(Mesh(vertices.numpy(), faces.numpy().astype(np.int32)))


@pytest.mark.parametrize(
    "step",
    [
        remove_floaters, fill_holes, smooth, weld, make_watertight, remesh,
        lambda mesh: decimate(mesh, 4000), lambda mesh: decimate(mesh, 400), lambda mesh: closed(mesh, 64, 4000),
    ],
    ids=["remove_floaters", "fill_holes", "smooth", "weld", "make_watertight", "remesh", "4000 faces", "400 faces", "printing"],
)  # fmt: skip
def test_no_step_closes_a_mesh(cup, step):
    assert is_open(cup, 0.02)
    found = step(cup)
    assert is_open(found)
    assert is_watertight(found)


def test_holes_are_filled_and_the_opening_is_not(torn):
    assert not is_watertight(torn)
    filled, made = fill_holes(torn), make_watertight(torn, 64)
    assert is_open(filled)
    assert is_open(made)
    assert is_watertight(made)


def test_a_missing_rim_is_not_closed_by_lids(cup):
    """Without the ring on top there are two large holes; a fan in each would make a lid over a cavity."""
    rim = cup.vertices[cup.faces][:, :, 1].min(axis=1) > HEIGHT / 2 - 0.03
    found = Mesh(cup.vertices, cup.faces[~rim])
    assert not is_watertight(found)
    assert len(fill_holes(found).faces) == len(found.faces)
    made = make_watertight(found, 64)
    assert is_watertight(made)
    assert is_open(made, 0.06)


@pytest.mark.parametrize(
    "settings", [Extract(resolution=56, texture=False), Extract(resolution=56, texture=False, watertight=True)]
)
def test_a_field_becomes_an_open_mesh(settings):
    assert is_open(mesh_of_field(density, red, 1.0, settings))


def test_finished_meshes_and_levels_of_detail_stay_open(cup):
    settings = Extract(resolution=56, faces=2000, texture_size=64)
    mesh = finish_surface(cup, red, settings)
    assert is_open(mesh)
    assert is_open(finalize(mesh, Extract(resolution=56, faces=1000, texture_size=64, watertight=True)))
    assert all(is_open(level) for level in levels_of_detail(mesh, 3, 32))


@pytest.mark.parametrize("resolution", [24, 32])
def test_the_mesh_stage_begins_open(cup, resolution):
    rng = torch.Generator().manual_seed(0)
    scene = TetMesh(resolution=resolution).build(rng, initial_mesh=decimate(cup, 3000))
    vertices, faces = scene.surface()
    assert is_open(Mesh(vertices.detach().numpy(), faces.numpy().astype(np.int32)))
    assert is_open(scene.to_mesh(Extract(resolution=32, texture=False)))
