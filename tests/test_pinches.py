"""Edges of more than two faces, counted one by one after vertices at the same position are merged."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dreamlift.export.glb import save_glb
from dreamlift.meshing.clean import decimate, remove_floaters, smooth
from dreamlift.meshing.geometry import is_closed, signed_volume
from dreamlift.meshing.isosurface import isosurface
from dreamlift.meshing.pinches import cancel_doubled, part_copies, split_pinches
from dreamlift.meshing.watertight import make_watertight
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.texturing.extract import Extract
from dreamlift.types import Mesh


def edge_uses(mesh: Mesh) -> dict[int, int]:
    """How many edges have how many faces."""
    number: dict[bytes, int] = {}
    points = [number.setdefault(np.float32(p + 0.0).tobytes(), len(number)) for p in mesh.vertices]
    edges: Counter[tuple[int, int]] = Counter()
    for face in mesh.faces.tolist():
        a, b, c = (points[i] for i in face)
        assert len({a, b, c}) == 3
        edges.update(tuple(sorted(pair)) for pair in ((a, b), (b, c), (c, a)))
    return dict(Counter(edges.values()))


def noise_mesh(seed: int, size: int = 56, cells: int = 9) -> Mesh:
    """A ball of random lumps, tunnels and thin bridges."""
    values = torch.randn(1, 1, cells, cells, cells, generator=torch.Generator().manual_seed(seed))
    values = torch.nn.functional.interpolate(values, size=(size,) * 3, mode="trilinear", align_corners=True)[0, 0]
    axis = torch.linspace(-1, 1, size)
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).norm(dim=-1)
    vertices, faces = isosurface(torch.minimum(values, 0.9 - radius), 0.0, -1.0, 1.0)
    return smooth(remove_floaters(Mesh(vertices.numpy(), faces.numpy().astype(np.int32))), 4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_decimation_leaves_two_faces_at_every_edge(seed):
    """These meshes had up to 5 edges of four faces and 8 pairs of faces that covered each other."""
    mesh = noise_mesh(seed)
    assert set(edge_uses(mesh)) == {2}
    for budget in (8000, 2500, 900):
        small = decimate(mesh, budget)
        assert len(small.faces) <= budget
        assert set(edge_uses(small)) == {2}
        assert trimesh.Trimesh(small.vertices, small.faces, process=True).is_watertight


def test_the_textured_file_of_a_tetmesh_has_two_faces_at_every_edge(tmp_path: Path):
    scene = TetMesh(resolution=24).build(torch.Generator().manual_seed(0))
    noise = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    places = (scene.base / scene.grid.extent)[None, None, None]
    with torch.no_grad():
        scene.sdf += 4 * torch.nn.functional.grid_sample(noise, places, align_corners=True)[0, 0, 0, 0]
        mesh = scene.to_mesh(Extract(faces=1200, texture_size=64, smooth=0))
    save_glb(mesh, tmp_path / "a.glb")
    back = trimesh.load_mesh(tmp_path / "a.glb", process=False)
    found = Mesh(np.asarray(back.vertices, np.float32), np.asarray(back.faces, np.int32))
    assert len(found.vertices) > len(found.faces) / 2 + 100  # seams
    assert set(edge_uses(found)) == {2}


def tetrahedra() -> tuple[np.ndarray, np.ndarray]:
    """Two that share an edge, which then has four faces."""
    points = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [0.5, 1, 0], [-1, 0, 0], [-0.5, -1, 0]], np.float32)
    faces = []
    for a, b, c, d in ((0, 1, 2, 3), (0, 1, 4, 5)):
        own = np.array([[a, c, b], [a, b, d], [a, d, c], [b, c, d]], np.int32)
        faces.append(own if signed_volume(points, own) > 0 else own[:, ::-1])
    return points, np.concatenate(faces)


def test_touching_sheets_are_moved_apart_and_nothing_else_is():
    points, faces = tetrahedra()
    assert edge_uses(Mesh(points, faces)) == {2: 10, 4: 1}
    vertices, parted = split_pinches(points, faces)
    assert edge_uses(Mesh(vertices, parted)) == {2: 10, 4: 1}  # the copies are at the same position
    moved = part_copies(vertices, parted)
    assert edge_uses(Mesh(moved, parted)) == {2: 12}
    shift = np.linalg.norm(moved - vertices, axis=1)
    assert sorted(shift > 0) == [False] * 4 + [True] * 4
    assert shift.max() == pytest.approx(5e-4 * 2, rel=1e-3)  # the longest side is 2
    # Each solid's edge moves into that solid, so that a gap opens instead of an overlap.
    for part in (parted[:4], parted[4:]):
        used = np.unique(part)
        inward = moved[used].mean(axis=0) - vertices[used]
        assert ((moved - vertices)[used] * inward).sum(axis=1)[shift[used] > 0].min() > 0
    np.testing.assert_array_equal(part_copies(points[:4], faces[:4]), points[:4])


def test_a_watertight_mesh_stays_so_after_positions_are_merged():
    points, faces = tetrahedra()
    solid = make_watertight(Mesh(points, faces))
    assert is_closed(solid.faces)
    assert trimesh.Trimesh(solid.vertices, solid.faces, process=True).is_watertight


def test_faces_that_cover_each_other_cancel_in_pairs():
    """A wall of two faces, back to back, hangs on a tetrahedron's edge."""
    _, faces = tetrahedra()
    body = faces[:4]
    wall = np.array([[0, 1, 5], [1, 0, 5]])
    np.testing.assert_array_equal(cancel_doubled(np.concatenate([body[:2], wall[:1], body[2:], wall[1:]])), body)
    np.testing.assert_array_equal(cancel_doubled(np.concatenate([body, wall[[0, 1, 0]]])), np.concatenate([body, wall[:1]]))
    assert len(cancel_doubled(wall[:, [1, 2, 0]])) == 0
    same_way = np.array([[0, 1, 5], [1, 5, 0]])
    np.testing.assert_array_equal(cancel_doubled(same_way), same_way)
