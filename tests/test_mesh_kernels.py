"""The compiled kernels of the mesh stage, against their torch twins; and what a mesh stage starts from."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from dreamlift.meshing import distance
from dreamlift.meshing.distance import signed_distances
from dreamlift.scenes.nerf.field import Blob, Field
from dreamlift.scenes.nerf.voxel import Voxel, spread
from dreamlift.scenes.tetmesh import regularizers
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.scenes.tetmesh.tets import (
    SurfaceGrid,
    TetGrid,
    crossing_of,
    crossing_torch,
    edge_vertices,
    surface_vertices,
)
from dreamlift.stages.adam import FusedAdam
from dreamlift.system import jit
from dreamlift.texturing.sampling import sample_colors
from dreamlift.toybox.world.things import make_thing
from dreamlift.toybox.world.truth import mesh_of
from dreamlift.types import Mesh

pytestmark = pytest.mark.skipif(not jit.fast_kernels_available(), reason="needs numba")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("cubes", [2, 3, 8, 17])
@pytest.mark.parametrize("kind", ["noise", "ball", "full", "empty", "one point"])
def test_marching_finds_the_same_edges_and_faces_in_the_same_order(cubes, kind):
    grid = TetGrid(cubes, 1.0)
    inside = {
        "noise": torch.rand(grid.points, generator=rng()) < 0.5,
        "ball": grid.positions().norm(dim=1) < 0.61,
        "full": torch.ones(grid.points, dtype=torch.bool),
        "empty": torch.zeros(grid.points, dtype=torch.bool),
        "one point": torch.arange(grid.points) == grid.points // 2,
    }[kind]
    got, want = crossing_of(grid, inside), crossing_torch(grid, inside)
    assert torch.equal(got.ends, want.ends)
    assert torch.equal(got.faces, want.faces)


def a_grid(dtype=torch.float32):
    """Values whose surface reaches the border, and its grid."""
    grid = TetGrid(7, 1.0)
    values = (grid.positions().norm(dim=1) - 0.8 + 0.3 * torch.randn(grid.points, generator=rng())).to(dtype)
    shift = torch.randn(grid.points, 3, generator=rng(1)).to(dtype)
    return grid, SurfaceGrid(values.requires_grad_(), shift.requires_grad_(), grid.positions().to(dtype), grid.border(), 0.05)


def test_vertices_and_their_gradients_are_autograds():
    grid, single = a_grid()
    _, double = a_grid(torch.float64)
    ends = crossing_of(grid, (single.values < 0) & ~single.border).ends
    assert bool((single.border[ends[:, 1]] & (single.values[ends[:, 1]] < 0.5)).any())  # some values are held at the border's
    found = []
    for given in (single, double):
        vertices = surface_vertices(given, ends)
        weights = torch.randn(vertices.shape, generator=rng(2)).to(vertices)
        found.append((vertices, *torch.autograd.grad((vertices * weights).sum(), (given.values, given.shift))))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
    # The twin of both, by hand.
    positions = double.base[ends] + 0.05 * double.shift[ends].tanh()
    torch.testing.assert_close(found[1][0], edge_vertices(positions, double.held()[ends]))


@pytest.mark.parametrize("name", ["normal_consistency", "laplacian"])
def test_regularizers_and_their_gradients_are_autograds(name):
    scene = TetMesh(resolution=8, color=Voxel((5, 9), (0.0, 0.0), blob=Blob("none"))).build(rng())
    scene.sdf.data += 0.4 * torch.randn(scene.sdf.shape, generator=rng(1))
    vertices, faces, edges = scene._mesh()
    given = (faces, torch.cat([edges.faces, torch.tensor([[0, -1]])])) if name == "normal_consistency" else (edges.ends,)
    found = []
    for call, dtype in ((getattr(regularizers, name), torch.float32), (getattr(regularizers, f"{name}_torch"), torch.float64)):
        moving = vertices.detach().to(dtype).requires_grad_()
        value = call(moving, *given)
        found.append((value, *torch.autograd.grad(3.0 * value, moving)))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=2e-4, atol=1e-4 * float(want.abs().max()))


def test_faces_without_area_have_no_weight():
    """An axis-aligned box on the grid: its distances are exactly 0 at many grid points, where faces have no area."""
    corners = np.array([[i, j, k] for i in (-0.5, 0.5) for j in (-0.5, 0.5) for k in (-0.5, 0.5)], np.float32)
    faces = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6],
                      [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]], np.int32)  # fmt: skip
    settings = TetMesh(resolution=16, color=Voxel((5, 9), (0.0, 0.0), blob=Blob("none")))
    vertices, faces, edges = settings.build(rng(), initial_mesh=Mesh(corners, faces))._mesh()
    areas = regularizers.area_vectors(vertices, faces).norm(dim=1)
    assert int((areas == 0).sum()) > 100
    found = []
    for call, dtype in (
        (regularizers.normal_consistency, torch.float32),
        (regularizers.normal_consistency_torch, torch.float64),
    ):
        moving = vertices.detach().to(dtype).requires_grad_()
        value = call(moving, faces, edges.faces)
        found.append((value, *torch.autograd.grad(value, moving)))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


def test_regularizers_of_a_mesh_without_faces_are_zero():
    none = torch.zeros(0, 2, dtype=torch.int64)
    empty = torch.zeros(0, 3, requires_grad=True)
    for value in (regularizers.normal_consistency(empty, torch.zeros(0, 3, dtype=torch.int64), none),
                  regularizers.laplacian(empty, none)):  # fmt: skip
        value.backward()
        assert float(value.detach()) == 0.0


def test_distances_are_the_twins(monkeypatch):
    mesh = mesh_of(make_thing("mug", "red", 3))
    vertices, faces = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()[::7]
    got = signed_distances(vertices, faces, -1.0, 2 / 19, 20)
    monkeypatch.setattr(jit, "fast_kernels_available", lambda: False)
    want = signed_distances(vertices, faces, -1.0, 2 / 19, 20)
    assert torch.equal(got < 0, want < 0)
    # Where several points are equally near, jump flooding may pass on another one.
    assert float(((got - want).abs() > 1e-5).float().mean()) < 1e-3
    torch.testing.assert_close(got, want, rtol=0, atol=0.05 * 2 / 19)
    assert distance.BAND >= 1


def test_triangles_without_area_count_as_their_edges():
    corners = torch.tensor([[[1.0, 1, 1], [3, 1, 1], [5, 1, 1]], [[2.0, 6, 6], [2, 6, 6], [2, 6, 6]]], dtype=torch.float64)
    got = distance._distances(corners, 8)
    axis = torch.arange(8.0, dtype=torch.float64)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    segment = ((x - x.clamp(1, 5)) ** 2 + (y - 1) ** 2 + (z - 1) ** 2).sqrt()
    point = ((x - 2) ** 2 + (y - 6) ** 2 + (z - 6) ** 2).sqrt()
    torch.testing.assert_close(got, torch.minimum(segment, point), rtol=0, atol=1e-5)


def test_spreading_is_the_transpose_of_sampling():
    points = torch.rand(50, 3, generator=rng()) * 2 - 1
    values = torch.randn(50, 3, generator=rng(1))
    sums = spread(values, points, 5, 1.0)
    want = torch.zeros(5, 5, 5, 4)
    for (x, y, z), value in zip(((points + 1) * 2).tolist(), values, strict=True):
        for corner in np.ndindex(2, 2, 2):
            i, j, k = (min(math.floor(c), 3) + d for c, d in zip((z, y, x), corner, strict=True))
            weight = (1 - abs(z - i)) * (1 - abs(y - j)) * (1 - abs(x - k))
            want[i, j, k] += weight * torch.cat([torch.ones(1), value])
    torch.testing.assert_close(sums, want, rtol=1e-4, atol=1e-5)


def test_a_voxel_field_takes_colors_in_one_pass_as_well_as_by_a_regression():
    mesh = mesh_of(make_thing("duck", "yellow", 0, hat="blue"))
    points, normals, colors = sample_colors(mesh, 20_000, rng())
    moved = points + 0.02 * torch.randn(len(points), 1, generator=rng(1)) * normals
    at, _, wanted = sample_colors(mesh, 5_000, rng(2))
    errors = []
    for fit in (type(Voxel().build(1.0, rng())).fit_colors, Field.fit_colors):
        field = Voxel((17, 33, 65), (0.0, 0.0, 0.0), blob=Blob("none"), lr=0.02).build(1.0, rng())
        field.advance(1.0)
        fit(field, moved, colors, rng(3))
        with torch.no_grad():
            errors.append(float((field.query(at).albedo - wanted).square().mean().sqrt()))
    assert errors[0] < 1.1 * errors[1]
    assert errors[0] < 0.04


def test_the_fused_adam_is_torchs():
    made = [[torch.randn(6, 3, generator=rng()), torch.randn(4, generator=rng(1)), torch.randn(2, generator=rng(4))]]
    made.append([each.clone() for each in made[0]])
    for parameters in made:
        for each in parameters:
            each.requires_grad_()
    groups = [[{"params": one[:1], "lr": 0.1}, {"params": one[1:], "lr": 0.01}] for one in made]
    ours = FusedAdam(groups[0], (0.9, 0.99), 1e-15)
    theirs = torch.optim.Adam(groups[1], betas=(0.9, 0.99), eps=1e-15)
    for step in range(8):
        for number, pair in enumerate(zip(*made, strict=True)):
            value = torch.randn(pair[0].shape, generator=rng(10 * step + number))
            for each in pair:
                each.grad = None if number == 2 else value.clone()
        ours.step()
        theirs.step()
        if step == 3:  # what a checkpoint holds
            saved = copy.deepcopy(ours.state_dict())
            ours = FusedAdam([{**group, "params": list(group["params"])} for group in groups[0]], (0.9, 0.99), 1e-15)
            ours.load_state_dict(saved)
        ours.zero_grad()
        assert all(each.grad is None for each in made[0])
        for a, b in zip(*made, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_adam_is_not_fused_where_its_kernel_would_be_wrong():
    base = [torch.randn(4, 6, generator=rng()) for _ in range(2)]
    base[1].copy_(base[0])
    strided = [each[:, ::2].requires_grad_() for each in base]
    optimizers = [FusedAdam([{"params": [strided[0]], "lr": 0.1}], (0.9, 0.99), 1e-15),
                  torch.optim.Adam([strided[1]], lr=0.1, betas=(0.9, 0.99), eps=1e-15)]  # fmt: skip
    for each, optimizer in zip(strided, optimizers, strict=True):
        each.grad = torch.ones(4, 3)
        optimizer.step()
    assert torch.equal(*base)
