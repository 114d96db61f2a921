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
from dreamlift.meshing.watertight import is_watertight, make_watertight, weld
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


BOX = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))  # quads, seen from outside
AHEAD = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))  # their directions


def box(rng, low, size=1):
    """Corners ``(12, 3, 3)`` of a box, its quads cut along random diagonals."""
    points = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * size + low
    cuts = [((a, b, c), (a, c, d)) if rng.random() < 0.5 else ((a, b, d), (b, c, d)) for a, b, c, d in BOX]
    return points[np.array(cuts).reshape(-1, 3)]


def touching_boxes(rng):
    """Boxes of 1 x 1 x 1 that touch at faces, edges and corners, each with a surface of its own."""
    return np.concatenate([box(rng, [c // 9, c // 3 % 3, c % 3]) for c in rng.permutation(27)[: rng.integers(2, 14)]])


def voxels(rng):
    """The surface of a union of voxels, which touch at edges and corners, also of the same solid."""
    solid = np.zeros((6, 6, 6), bool)
    solid[1:-1, 1:-1, 1:-1] = rng.random((4, 4, 4)) < rng.uniform(0.1, 0.9)
    found = [np.empty((0, 3, 3))]
    for cell in np.argwhere(solid):
        sides = box(rng, cell).reshape(6, 2, 3, 3)
        found += [side for side, ahead in zip(sides, AHEAD, strict=True) if not solid[tuple(cell + ahead)]]
    return np.concatenate(found)


def overlapping_boxes(rng):
    """Boxes that overlap, where some faces lie on others, in the same or the opposite direction."""
    return np.concatenate([box(rng, rng.integers(0, 3, 3), rng.integers(1, 3, 3)) for _ in range(rng.integers(2, 12))])


def soup(rng):
    """Tetrahedra between points of a grid."""
    found = []
    while len(found) < 8:
        points = rng.integers(0, 3, (4, 3))
        volume = np.linalg.det(points[1:] - points[0])
        if abs(volume) > 0.5:
            order = [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
            found.append(points[order] if volume > 0 else points[order][:, ::-1])
    return np.concatenate(found)


def six_volume(corners):
    return np.linalg.det(corners.astype(np.float64)).sum()


@pytest.mark.parametrize("maker", [touching_boxes, voxels, overlapping_boxes, soup])
def test_a_closed_mesh_stays_closed_and_becomes_manifold(maker):
    """Every directed edge once in each direction, before and after the vertices are moved; the volume stays."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        corners = maker(rng)
        if len(corners) == 0:
            continue
        if seed % 2:
            corners = corners @ np.linalg.qr(rng.normal(size=(3, 3)))[0]  # coordinates that are rounded
            corners = corners if six_volume(corners) > 0 else corners[:, ::-1]
        mesh = Mesh(corners.reshape(-1, 3).astype(np.float32), np.arange(3 * len(corners), dtype=np.int32).reshape(-1, 3))
        assert is_watertight(mesh)
        welded, solid = weld(mesh), make_watertight(mesh)
        directed = Counter((a, b) for face in welded.faces.tolist() for a, b in zip(face, face[1:] + face[:1], strict=True))
        assert set(directed.values()) == {1}
        assert all((b, a) in directed for a, b in directed)
        assert set(edge_uses(solid)) == {2}
        if maker in (touching_boxes, voxels):  # without copies that may be dropped
            assert six_volume(welded.vertices[welded.faces]) == pytest.approx(six_volume(corners), rel=1e-4)
            assert six_volume(solid.vertices[solid.faces]) == pytest.approx(six_volume(corners), rel=0.01)


def test_boxes_that_share_a_face_with_another_diagonal_stay_closed():
    """The shared quad's four edges have four faces each and bound a patch of two faces on either side."""
    rng, cut = np.random.default_rng(0), np.array([[0, 1, 2], [0, 2, 3]])
    for turn in range(2):
        first, second = box(rng, [0, 0, 0]), box(rng, [1, 0, 0])
        quad = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1]])  # seen from +x
        first[2:4], second[0:2] = quad[cut], np.roll(quad[::-1], turn, axis=0)[cut]
        corners = np.concatenate([first, second])
        mesh = Mesh(corners.reshape(-1, 3).astype(np.float32), np.arange(72, dtype=np.int32).reshape(-1, 3))
        welded = weld(mesh)
        assert is_closed(welded.faces)
        assert (len(welded.vertices), len(welded.faces)) == (16, 24)
        apart = make_watertight(mesh).vertices
        ends = sorted(set(np.round(apart[:, 0], 5)))
        assert 0 == ends[0] < ends[1] < 1 < ends[-2] < ends[-1] == 2  # each shared side moves into its own box
        assert ends[-2] - ends[1] < 4e-3


def test_a_sheet_of_faces_back_to_back_stays_an_open_sheet():
    quad = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    front = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    leaf = Mesh(quad, np.concatenate([front, front[:, ::-1]]))
    np.testing.assert_array_equal(weld(leaf).vertices[weld(leaf).faces], quad[front])
    assert not is_watertight(leaf)
    # On the edge of a solid it is left out of the solid, which stays closed.
    points, faces = tetrahedra()
    both = weld(Mesh(points, np.concatenate([faces[:4], [[0, 1, 5], [1, 0, 5]]]).astype(np.int32)))
    assert len(both.faces) == 5
    assert edge_uses(Mesh(part_copies(both.vertices, both.faces), both.faces)) == {1: 3, 2: 6}


def test_copies_of_a_whole_surface_are_dropped():
    points, faces = tetrahedra()
    twice = weld(Mesh(points, np.concatenate([faces[:4], faces[:4, [1, 2, 0]], faces[4:]])))
    assert len(twice.faces) == 8
    assert is_closed(twice.faces)
