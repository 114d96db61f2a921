"""Marching tetrahedra, distances to a mesh, and whole tetmesh scenes, against closed forms and the exact renderer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamlift.cameras import orbit_cameras, turntable
from dreamlift.config.build import load_yaml, save_yaml
from dreamlift.meshing.distance import signed_distances
from dreamlift.meshing.geometry import face_areas, is_closed, signed_volume
from dreamlift.meshing.isosurface import isosurface
from dreamlift.meshing.nearest import closest_barycentrics
from dreamlift.scenes import SCENES
from dreamlift.scenes.background import Learned, Solid
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.tetmesh.regularizers import laplacian, normal_consistency
from dreamlift.scenes.tetmesh.scene import TERMS, TetMesh
from dreamlift.scenes.tetmesh.tets import EDGES, TetGrid, crossing_of, edge_vertices, triangle_table
from dreamlift.stages.settings import Weights
from dreamlift.texturing.draw import render_mesh
from dreamlift.texturing.extract import Extract
from dreamlift.types import EmptySceneError, Mesh, Shading

COLOR = Voxel((5, 9, 17), (0.0, 0.0, 0.0), blob=Blob("none"))
HASH = Hashgrid(levels=4, log2_rows=10, base_resolution=4, hidden=16)
SMALL = TetMesh(resolution=10, color=COLOR)
SETTINGS = {"voxel": SMALL, "hashgrid": replace(SMALL, color=HASH, background=Learned())}
WHITE = torch.ones(3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def surface(grid: TetGrid, values: torch.Tensor, positions: torch.Tensor | None = None):
    """Vertices and faces of values at a grid's points."""
    positions = grid.positions().to(values) if positions is None else positions
    crossing = crossing_of(grid, values.detach() < 0)
    ends = crossing.ends
    return edge_vertices(positions[ends], values[ends]), crossing.faces


def sphere_mesh(radius: float = 0.6, cubes: int = 16, center=(0.0, 0.0, 0.0)) -> Mesh:
    """A mesh whose vertices lie on the sphere, coloured by position."""
    grid = TetGrid(cubes, 1.0)
    vertices, faces = surface(grid, grid.positions().norm(dim=1) - radius)
    vertices = torch.nn.functional.normalize(vertices, dim=1) * radius
    shown = (vertices + torch.tensor(center)).numpy()
    return Mesh(shown, faces.numpy().astype(np.int32), vertex_colors=(0.5 + vertices.numpy() / 2).astype(np.float32))


def box_mesh(x: float, y: float, z: float) -> Mesh:
    corners = np.array([[i, j, k] for i in (-x, x) for j in (-y, y) for k in (-z, z)], np.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))], np.int32)
    return Mesh(corners, faces)


def volume_of(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return (a * torch.linalg.cross(b, c)).sum() / 6


def train(scene, first: int, last: int, terms=TERMS):
    """A few steps toward a green picture; the random numbers of each follow from its number."""
    optimizer = torch.optim.Adam(scene.param_groups())
    cameras = turntable(2, size=16)
    for index in range(first, last):
        out = scene.render(cameras, generator(index), normals=True)
        loss = (out.rgb - torch.tensor([0.0, 1.0, 0.0])).square().mean() + out.opacity.mean()
        loss = loss + sum(scene.regularize(out, 0.0, terms).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scene.after_step(index, (index + 1) / 10, generator(index), out, optimizer)
    return optimizer


# The grid


def test_a_grid_is_filled_by_its_tetrahedra_once():
    """All that a border-to-border split crosses: with one inner point inside at a time every tetrahedron comes four times."""
    grid = TetGrid(3, 1.0)
    positions, seen = grid.positions().double(), []
    for point in range(grid.points):
        inside = torch.zeros(grid.points, dtype=torch.bool)
        inside[point] = True
        tets = grid.crossed(inside)
        seen.append(tets[(tets == point).any(1)])
    rows = torch.cat(seen)
    unique, counts = torch.unique(rows.sort(1).values, dim=0, return_counts=True)
    assert len(unique) == grid.tets
    assert (counts == 4).all()
    a, b, c, d = positions[rows].unbind(1)
    volumes = ((b - a) * torch.linalg.cross(c - a, d - a)).sum(1) / 6
    torch.testing.assert_close(volumes, torch.full_like(volumes, grid.cell**3 / 12))  # congruent, positively oriented
    # Half-octahedra on the six sides are left out: a sixth of each of the outer cubes' faces.
    whole = (2 * grid.extent) ** 3 - 6 * grid.cubes**2 * grid.cell**3 / 6
    assert float(volumes.sum()) / 4 == pytest.approx(whole)


def test_the_table_cuts_every_case_by_hand():
    """One or three points inside give a triangle, two give a quad; each turns away from what is inside."""
    table, counts = triangle_table()
    tet = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    for case in range(16):
        inside = [k for k in range(4) if case >> k & 1]
        assert int(counts[case]) == (0, 1, 2, 1, 0)[len(inside)]
        for triangle in table[case, : int(counts[case])].tolist():
            ends = [EDGES[edge] for edge in triangle]
            assert all((a in inside) != (b in inside) for a, b in ends)
            p, q, r = (tet[list(pair)].mean(0) for pair in ends)
            normal = torch.linalg.cross(q - p, r - p)
            outer = [k for k in range(4) if k not in inside]
            assert float(normal @ (tet[outer].mean(0) - tet[inside].mean(0))) > 0


@pytest.mark.parametrize(("cubes", "volume", "area"), [(12, 0.025, 0.015), (32, 0.003, 0.002)])
def test_the_mesh_of_a_sphere(cubes, volume, area):
    grid, radius = TetGrid(cubes, 1.0), torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    vertices, faces = surface(grid, grid.positions().double().norm(dim=1) - radius)
    points, triangles = vertices.detach().numpy(), faces.numpy()
    assert is_closed(triangles)
    assert signed_volume(points, triangles) == pytest.approx(4 / 3 * math.pi * 0.216, rel=volume)
    assert face_areas(points, triangles).sum() == pytest.approx(4 * math.pi * 0.36, rel=area)
    growth = torch.autograd.grad(volume_of(vertices, faces), radius)[0]
    assert float(growth) == pytest.approx(4 * math.pi * 0.36, rel=area)


def test_any_signs_give_a_closed_surface():
    """Random values: every way in which a surface can pass a tetrahedron, and many parts."""
    grid = TetGrid(6, 1.0)
    values = torch.randn(grid.points, generator=generator(), dtype=torch.float64)
    values[grid.border()] = 1.0
    vertices, faces = surface(grid, values)
    assert len(faces) > 1000
    assert is_closed(faces.numpy())
    assert float(volume_of(vertices, faces)) > 0


def test_vertices_have_the_gradients_of_finite_differences():
    grid = TetGrid(4, 1.0)
    values = (grid.positions().double().norm(dim=1) - 0.5).requires_grad_()
    positions = grid.positions().double().requires_grad_()
    crossing = crossing_of(grid, values.detach() < 0)

    def vertices(v, p):
        return edge_vertices(p[crossing.ends], v[crossing.ends])

    assert torch.autograd.gradcheck(vertices, (values, positions))


# Distances


def test_distances_to_a_sphere_and_a_box():
    count, low, cell = 25, -1.05, 2.1 / 24
    axis = low + cell * torch.arange(count, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)

    def found(mesh: Mesh) -> torch.Tensor:
        return signed_distances(torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces).long(), low, cell, count).double()

    got, want = found(sphere_mesh(0.6, 32)), points.norm(dim=-1) - 0.6
    assert float((got - want).abs().max()) < 0.008
    # Inside of the ball and outside of its polyhedron the signs differ, nowhere else.
    assert bool(((got < 0) == (want < 0))[want.abs() > 0.003].all())
    sides = points.abs() - torch.tensor([0.5, 0.3, 0.7])
    want = sides.clamp(min=0).norm(dim=-1) + sides.amax(-1).clamp(max=0)
    torch.testing.assert_close(found(box_mesh(0.5, 0.3, 0.7)), want, atol=1e-5, rtol=0)


def test_overlapping_parts_are_one_inside_and_a_hole_is_outvoted():
    count, low, cell = 21, -1.0, 0.1
    one, two = sphere_mesh(0.45, center=(-0.2, 0.0, 0.0)), sphere_mesh(0.45, center=(0.2, 0.0, 0.0))
    vertices = torch.from_numpy(np.concatenate([one.vertices, two.vertices]))
    faces = torch.from_numpy(np.concatenate([one.faces, two.faces + len(one.vertices)])).long()
    axis = low + cell * torch.arange(count)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    truth = torch.minimum(*((points - torch.tensor([x, 0.0, 0.0])).norm(dim=-1) - 0.45 for x in (-0.2, 0.2)))
    sure = truth.abs() > 0.02
    for kept in (faces, torch.cat([faces[:100], faces[112:]])):  # the second has a hole of twelve triangles
        inside = signed_distances(vertices, kept, low, cell, count) < 0
        assert bool((inside == (truth < 0))[sure].all())


def test_closest_points_by_brute_force():
    rng = np.random.default_rng(0)
    triangles, points = torch.from_numpy(rng.normal(size=(50, 3, 3))), torch.from_numpy(2 * rng.normal(size=(50, 3)))
    triangles[:5, 2] = 0.3 * triangles[:5, 0] + 0.7 * triangles[:5, 1]  # no area: a line
    triangles[5:7] = triangles[5:7, :1]  # a point
    steps = torch.linspace(0, 1, 201, dtype=torch.float64)
    u, v = torch.meshgrid(steps, steps, indexing="ij")
    inside = u + v <= 1
    weights = torch.stack([1 - u - v, u, v], dim=-1)[inside]
    best = (torch.einsum("wk,nki->nwi", weights, triangles) - points[:, None]).norm(dim=-1).amin(1)
    found = closest_barycentrics(points, triangles)
    assert bool((found >= -1e-12).all())
    got = (torch.einsum("nk,nkd->nd", found, triangles) - points).norm(dim=1)
    assert bool((got <= best + 1e-12).all())
    assert float((best - got).max()) < 0.03


# Scenes


def test_the_initial_shape_is_what_its_settings_say():
    scene = replace(SMALL, resolution=24, radii=(0.7, 0.4, 0.5)).build(generator())
    vertices, faces = (x.detach() for x in scene.surface())
    assert is_closed(faces.numpy())
    # A surface point of an ellipsoid has |x / radii| = 1.
    assert float(((vertices / torch.tensor([0.7, 0.4, 0.5])).norm(dim=1) - 1).abs().max()) < 0.03
    assert float(volume_of(vertices, faces)) == pytest.approx(4 / 3 * math.pi * 0.14, rel=0.02)
    for settings in (SMALL, TetMesh(), TetMesh(resolution=48), TetMesh(resolution=64)):
        assert settings.grid().tets == 12 * (settings.resolution + 2) ** 2 * (settings.resolution + 1)
    assert [TetMesh(resolution=n).grid().tets for n in (32, 48, 64)] == [457_776, 1_470_000, 3_397_680]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_scene_that_begins_with_a_mesh_looks_like_it(name):
    mesh = sphere_mesh(0.55, 20)
    scene = replace(SETTINGS[name], resolution=20, background=Solid()).build(generator(), initial_mesh=mesh).eval()
    cameras = turntable(3, 20.0, 2.9, 42.0, 32)
    with torch.no_grad():
        got, want = scene.render(cameras, generator(), background=WHITE), render_mesh(mesh, cameras)
    overlap = torch.minimum(got.opacity, want.opacity).sum() / torch.maximum(got.opacity, want.opacity).sum()
    assert float(overlap) > 0.97
    assert float((got.rgb - want.rgb).abs().mean()) < 0.01
    inner = want.opacity[..., 0] == 1
    torch.testing.assert_close(got.depth[inner], want.depth[inner], atol=0.03, rtol=0)


def test_light_is_that_of_the_exact_renderer():
    mesh = sphere_mesh(0.6, 20)
    scene = replace(SMALL, resolution=24, background=Solid()).build(generator(), initial_mesh=mesh).eval()
    cameras = turntable(4, 20.0, 2.9, 42.0, 32)
    light = torch.tensor([[2.0, 2, 2], [0, 3, 0], [1, 0, 3], [0, 0, -3]])
    shading = Shading(torch.tensor([1.0, 1.0, 0.5, 0.0]), torch.tensor([1.0, 0.0, 1.0, 1.0]), light, 0.25)
    smooth = replace(mesh, vertex_normals=(mesh.vertices / 0.6).astype(np.float32))
    with torch.no_grad():
        got, want = scene.render(cameras, generator(), shading, background=WHITE, normals=True), None
        want = render_mesh(smooth, cameras, 1.0, shading)
    assert float((got.rgb - want.rgb).abs().mean()) < 0.012
    inner = (want.opacity == 1)[..., 0] & (got.opacity == 1)[..., 0]
    assert float((got.normal[inner] * want.normal[inner]).sum(-1).mean()) > 0.995
    torch.testing.assert_close(got.rgb[3][inner[3]], torch.ones(int(inner[3].sum()), 3))  # unlit and without texture


@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_of_a_lit_render_by_finite_differences(name):
    """d(picture, regulariser)/d(colours), then /d(distances, shifts), in float64, along random directions.

    Points have no gradient through the field, so for the second the colours are the same everywhere.
    """
    scene = SETTINGS[name].build(generator()).double().eval()
    cameras = turntable(2, 13.0, size=12)
    shading = Shading(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5]), torch.tensor([[2.0, 2, 2], [0.0, 3, 0]]))
    parameters = [scene.sdf, scene.shift, *scene.color.parameters()]
    for parameter in parameters:
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator(3), dtype=torch.float64)

    def value():
        out = scene.render(cameras, generator(), shading, normals=True)
        # The weights of "normal_consistency" are no derivative: it is left out.
        shown = [(x * torch.linspace(0.5, 1.5, x.numel()).view_as(x)).mean() for x in (out.rgb, out.normal, out.depth)]
        return sum(shown) + scene.regularize(out, 0.0, ("laplacian",))["laplacian"]

    def check(chosen):
        grads = torch.autograd.grad(value(), chosen)
        moves = [torch.randn(p.shape, generator=generator(5), dtype=torch.float64) for p in chosen]
        ends = []
        for step in (1e-7, -2e-7):
            for parameter, move in zip(chosen, moves, strict=True):
                parameter.data += step * move
            ends.append(float(value().detach()))
        want = sum(float((g * m).sum()) for g, m in zip(grads, moves, strict=True))
        assert (ends[0] - ends[1]) / 2e-7 == pytest.approx(want, rel=5e-3)

    check(parameters[2:])
    for parameter in parameters[2:]:
        parameter.data.zero_()
    check(parameters[:2])


@pytest.mark.parametrize("name", SETTINGS)
def test_state_dict_restores_a_run_bit_for_bit(name):
    settings = SETTINGS[name]
    scene = settings.build(generator(), initial_mesh=sphere_mesh(0.5, 10))
    optimizer = train(scene, 0, 3)
    kept = {key: value.clone() for key, value in scene.state_dict().items()}
    other = settings.build(generator(99))  # without the initial mesh: shapes follow from the settings
    other.load_state_dict(kept)
    out = [one.render(turntable(2, size=16), generator(7), normals=True) for one in (scene, other)]
    for field in ("rgb", "opacity", "depth", "normal"):
        assert torch.equal(getattr(out[0], field), getattr(out[1], field))
    assert len(optimizer.param_groups) == len(other.param_groups())
    for one in (scene, other):
        train(one, 3, 6)
    after = [one.state_dict() for one in (scene, other)]
    assert all(torch.equal(after[0][key], after[1][key]) for key in kept)
    assert any(not torch.equal(after[0][key], kept[key]) for key in kept)


def test_what_is_frozen_has_no_gradient_and_stays():
    for changes, still, moving in (({"geometry": False}, ("sdf", "shift"), "color"), ({"texture": False}, ("color",), "sdf")):
        scene = replace(SMALL, **changes).build(generator())
        before = {key: value.clone() for key, value in scene.state_dict().items()}
        train(scene, 0, 2, ())
        moved = {key for key, value in scene.state_dict().items() if not torch.equal(value, before[key])}
        assert moved
        assert all(key.startswith((moving, "shift", "sdf")) for key in moved)
        assert not any(key.startswith(still) for key in moved)
        assert all(p.grad is None for key, p in scene.named_parameters() if key.startswith(still))
    frozen = replace(SMALL, geometry=False).build(generator())
    before = frozen.render(turntable(1, size=8), generator()).opacity.detach()
    frozen.load_state_dict(replace(SMALL, geometry=False, radii=(0.7, 0.7, 0.7)).build(generator()).state_dict())
    after = frozen.render(turntable(1, size=8), generator()).opacity.detach()
    assert float(after.mean()) > 1.5 * float(before.mean())  # the old mesh was not kept
    with pytest.raises(ValueError, match="nothing would be trained"):
        TetMesh(geometry=False, texture=False)


def test_torchs_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(SETTINGS["hashgrid"].build(generator(), initial_mesh=sphere_mesh(0.5, 8)), 0, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_regularizers_by_hand():
    """Two squares that meet at a right angle, and the middle of a fan lifted by a height."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 4, 5], [1, 5, 2]])
    sides = torch.tensor([[0, 1], [0, 3], [2, 3], [0, -1]])
    assert float(normal_consistency(corners, faces, sides)) == pytest.approx(1 / 3)
    moving = corners.clone().requires_grad_()
    # Faces of one area weigh the same, so that the gradient is the mean's own; lifting the far edge turns two of them.
    slope = torch.autograd.grad(normal_consistency(moving, faces, sides), moving)[0][4:, 0].sum()
    step = torch.zeros_like(corners)
    step[4:, 0] = 1e-6
    ends = [float(normal_consistency(corners + sign * step, faces, sides)) for sign in (1, -1)]
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)
    ring = torch.tensor([[math.cos(k), math.sin(k), 0.0] for k in np.arange(6) * math.pi / 3], dtype=torch.float64)
    fan = torch.cat([torch.tensor([[0.0, 0, 0.3]], dtype=torch.float64), ring])
    spokes = torch.tensor([[0, k] for k in range(1, 7)])
    # The sum of the middle's six edges is 6 x 0.3 long; each of the others has the edge to the middle alone.
    want = (6 * 0.3 + 6 * math.sqrt(1 + 0.09)) / 7
    assert float(laplacian(fan, spokes)) == pytest.approx(want)


def test_regularizers_are_named_and_smooth_a_rough_ball():
    scene = replace(SMALL, resolution=12).build(generator())
    scene.sdf.data += 0.4 * torch.randn(scene.sdf.shape, generator=generator(1))
    optimizer = torch.optim.Adam(scene.param_groups())
    history = []
    for _ in range(25):
        out = scene.render(turntable(1, size=8), generator(), normals=True)
        terms = scene.regularize(out, 0.0)
        assert set(terms) == set(TERMS)
        assert float(terms["normal_smooth"].detach()) > 0
        history.append([float(term.detach()) for term in terms.values()])
        optimizer.zero_grad(set_to_none=True)
        (terms["normal_consistency"] + 5 * terms["laplacian"]).backward()
        optimizer.step()
    assert history[-1][0] < 0.7 * history[0][0]
    assert history[-1][2] < 0.9 * history[0][2]
    assert set(scene.regularize(out, 0.0, only=("laplacian",))) == {"laplacian"}
    with pytest.raises(ValueError, match="normal_consistency, vertex_consistency, laplacian"):
        scene.regularize(out, 0.0, only=("fog",))
    assert set(TERMS) <= set(vars(Weights()))


def test_values_that_grew_apart_become_distances_again():
    scene = TetMesh(resolution=16, color=COLOR, radii=(0.6, 0.6, 0.6), redistance=5).build(generator())
    exact = (scene.base.norm(dim=1) - 0.6) / scene.grid.cell
    with torch.no_grad():  # the same sphere, but with values that say nothing of how far it is
        scene.sdf.copy_(exact * (1.0 + exact.abs()))
        scene.shift.normal_(std=0.1, generator=generator(2))
        volume = float(volume_of(*scene.surface()))
    before = float((scene.sdf - exact).detach().abs().max())
    optimizer, render = torch.optim.Adam(scene.param_groups()), scene.render(turntable(1, size=8), generator())
    scene.after_step(3, 0.0, generator(), render, optimizer)
    assert float((scene.sdf - exact).detach().abs().max()) == before > 50  # cells; it was not its turn
    scene.after_step(4, 0.0, generator(), render, optimizer)
    assert float((scene.sdf - exact).detach().abs().max()) < 0.2
    assert float(volume_of(*scene.surface()).detach()) == pytest.approx(volume, rel=0.03)
    assert not scene.shift.any()
    scene.sdf.detach().fill_(1.0)  # empty: nothing to be far from
    scene.after_step(4, 0.0, generator(), render, optimizer)
    assert bool((scene.sdf == 1.0).all())
    with pytest.raises(ValueError, match=r"TetMesh.redistance is -1; it must not be negative"):
        TetMesh(redistance=-1)


def test_an_empty_scene_shows_the_background_and_leaves_the_rest_to_the_watchdog():
    scene = SMALL.build(generator())
    scene.sdf.data.abs_()
    shading = Shading(torch.ones(2), torch.zeros(2), torch.ones(2, 3))
    out = scene.render(turntable(2, size=8), generator(), shading, normals=True)
    assert not out.opacity.any()
    (out.rgb.mean() + sum(scene.regularize(out, 0.0).values())).backward()
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in scene.parameters())
    assert scene.sdf.grad is not None
    with pytest.raises(EmptySceneError, match="scene is empty"):
        scene.to_mesh(Extract(texture_size=64))


def test_a_surface_that_reaches_the_border_is_closed():
    scene = SMALL.build(generator())
    scene.sdf.data.fill_(-1.0)
    vertices, faces = scene.surface()
    assert is_closed(faces.numpy())
    assert float(vertices.abs().max()) < scene.grid.extent
    assert float(vertices.abs().max()) > 1.0 - scene.grid.cell


def test_what_filled_a_field_up_to_its_border_can_be_begun_with():
    axis = torch.linspace(-1, 1, 17)
    column = 0.6 - torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))[::2].norm(dim=0)  # around y, both ends cut
    vertices, faces = isosurface(column, 0.0, -1.0, 1.0)
    assert float(vertices.abs().max()) > 1.001  # the caps lie outside of the field's own box
    vertices, faces = vertices.float().numpy(), faces.numpy()
    start = Mesh(vertices, faces, vertex_colors=np.full_like(vertices, 0.5))
    scene = replace(SMALL, resolution=24).build(generator(), initial_mesh=start)
    begun, faces = scene.surface()
    volume = signed_volume(begun.detach().numpy(), faces.numpy())
    assert volume == pytest.approx(2 * math.pi * 0.6**2, rel=0.08)


def test_an_initial_mesh_that_does_not_fit_is_refused():
    ball = sphere_mesh(0.5, 10)
    cases = {
        "reaches 1.5": replace(ball, vertices=ball.vertices * 3),
        "encloses no point": replace(ball, faces=np.ascontiguousarray(ball.faces[:, ::-1])),
    }
    for message, mesh in cases.items():
        with pytest.raises(ValueError, match=message):
            SMALL.build(generator(), initial_mesh=mesh)
    with pytest.raises(ValueError, match="resolution is 2"):
        TetMesh(resolution=2)
    with pytest.raises(ValueError, match="radii"):
        TetMesh(radii=(0.5, 2.0, 0.5))


def test_settings_survive_yaml_and_tell_their_memory():
    for settings in SETTINGS.values():
        assert load_yaml(TetMesh, save_yaml(settings)) == settings
        trained = sum(p.numel() for key, p in settings.build(generator()).named_parameters() if "background" not in key)
        assert settings.parameter_count() == trained
    assert SCENES["tetmesh"] is TetMesh
    assert TetMesh(resolution=64).step_bytes(2, 64) > TetMesh().step_bytes(2, 64) > SMALL.step_bytes(2, 64)
    assert TetMesh().step_bytes(2, 128) > TetMesh().step_bytes(2, 64)


def test_the_exported_mesh_is_closed_and_looks_like_the_scene():
    scene = replace(SMALL, resolution=16).build(generator(), initial_mesh=sphere_mesh(0.5, 16)).eval()
    mesh = scene.to_mesh(Extract(texture_size=128, faces=1500, smooth=2))
    assert len(mesh.faces) <= 1500
    assert signed_volume(mesh.vertices, mesh.faces) == pytest.approx(4 / 3 * math.pi * 0.125, rel=0.03)
    cameras = turntable(2, size=48)
    with torch.no_grad():
        error = scene.render(cameras, generator(), background=WHITE).rgb - render_mesh(mesh, cameras).rgb
    assert -10 * math.log10(float(error.square().mean())) > 30


def test_a_ball_becomes_an_ellipsoid_from_its_outlines():
    """Outlines alone, seen from 8 sides: intersection over union of 0.95 from views that were not shown."""
    ball = sphere_mesh(1.0, 16)
    target = replace(ball, vertices=(ball.vertices * [0.7, 0.35, 0.5]).astype(np.float32))
    one, index = torch.ones(8), torch.arange(8)
    cameras = orbit_cameras(index * math.pi / 4, 0.5 * torch.cos(index * math.pi), 3.0 * one, 0.7 * one, 32)
    outlines = render_mesh(target, cameras, supersample=4).opacity
    scene = replace(SMALL, resolution=12, texture=False, sdf_lr=0.1).build(generator())
    optimizer = torch.optim.Adam(scene.param_groups(), betas=(0.9, 0.99))
    unseen = turntable(5, 10.0, 3.0, 40.0, 48)
    want = render_mesh(target, unseen, supersample=4).opacity

    def overlap() -> float:
        with torch.no_grad():
            got = scene.render(unseen, generator()).opacity
        return float(torch.minimum(got, want).sum() / torch.maximum(got, want).sum())

    assert overlap() < 0.75
    for step in range(40):
        pair = slice(2 * (step % 4), 2 * (step % 4) + 2)
        out = scene.render(cameras[pair], generator(step))
        loss = (out.opacity - outlines[pair]).square().mean() + 0.03 * scene.regularize(out, 0.0)["normal_consistency"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    assert overlap() > 0.95
