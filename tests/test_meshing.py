"""Surfaces, cleaning, unwrapping, baking and rasterising, against closed forms, brute force and trimesh."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from mesh_helpers import grid, mesh_of, sphere_sdf, torus_sdf

from dreamlift.cameras import rays_of, turntable
from dreamlift.meshing import geometry
from dreamlift.meshing.clean import decimate, remove_floaters, smooth
from dreamlift.meshing.geometry import is_closed, signed_volume
from dreamlift.meshing.isosurface import find_threshold, isosurface, surface_of_density, triangle_table
from dreamlift.meshing.pinches import split_pinches
from dreamlift.meshing.watertight import is_watertight, weld
from dreamlift.raster.exact import rasterize
from dreamlift.texturing.bake import bake, grow, rasterize_uvs
from dreamlift.texturing.draw import render_mesh
from dreamlift.texturing.sampling import sample_texture
from dreamlift.texturing.unwrap import unwrap
from dreamlift.types import EmptySceneError, Mesh


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def color_of(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    return 0.5 + 0.5 * torch.sin(4 * points + torch.tensor([0.0, 2.0, 4.0]))


@pytest.fixture(scope="module")
def baked() -> Mesh:
    mesh = decimate(mesh_of(torus_sdf(grid(48))), 1500)
    return bake(mesh, color_of, 256)


# ---- isosurface


def test_sphere_has_the_closed_forms_of_volume_area_and_genus():
    mesh = mesh_of(sphere_sdf(grid(64)))
    solid = as_trimesh(mesh)
    assert solid.is_watertight
    assert solid.is_winding_consistent
    assert solid.euler_number == 2
    assert solid.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=5e-3)
    assert solid.area == pytest.approx(4 * math.pi * 0.6**2, rel=5e-3)
    outward = (solid.face_normals * solid.triangles_center).sum(axis=1)
    assert (outward > 0).all()


def test_torus_has_the_closed_forms_and_one_hole():
    solid = as_trimesh(mesh_of(torus_sdf(grid(80))))
    assert solid.is_watertight
    assert solid.euler_number == 0
    assert solid.volume == pytest.approx(2 * math.pi**2 * 0.6 * 0.25**2, rel=1e-2)
    assert solid.area == pytest.approx(4 * math.pi**2 * 0.6 * 0.25, rel=1e-2)


def test_vertices_lie_on_the_analytic_surface():
    mesh = mesh_of(torus_sdf(grid(64)))
    cell = 2 / 63
    distance = torus_sdf(torch.from_numpy(mesh.vertices)).abs()
    assert distance.max() < 0.1 * cell  # linear crossings are of second order; the margin at grid points adds 0.01


def test_grid_axes_are_x_y_z_and_the_box_may_be_oblong():
    points = torch.stack(torch.meshgrid(
        torch.linspace(0, 4, 33), torch.linspace(-1, 1, 17), torch.linspace(2, 3, 9), indexing="ij"), -1)  # fmt: skip
    vertices, _ = isosurface(-(points - torch.tensor([1.0, 0.5, 2.5])).norm(dim=-1), -0.3, (0, -1, 2), (4, 1, 3))
    assert torch.allclose(vertices.mean(0), torch.tensor([1.0, 0.5, 2.5]), atol=0.02)


def test_random_fields_give_closed_manifolds_without_degenerate_faces():
    """Noise reaches all 256 cases, ambiguous ones and the border included."""
    for seed in range(8):
        values = torch.randn(9, 10, 11, generator=torch.Generator().manual_seed(seed))
        vertices, faces = (x.numpy() for x in isosurface(values, 0.1, -1.0, 1.0))
        assert is_closed(faces)
        edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
        assert geometry.face_areas(vertices, faces).min() > 0
        assert trimesh.Trimesh(vertices, faces, process=False).is_watertight
        assert signed_volume(vertices, faces) > 0


def test_values_equal_to_the_threshold_make_no_degenerate_faces():
    values = torch.randint(0, 3, (10, 10, 10), generator=torch.Generator().manual_seed(0)).float()
    vertices, faces = (x.numpy() for x in isosurface(values, 1.0, -1.0, 1.0))
    assert is_closed(faces)
    assert geometry.face_areas(vertices, faces).min() > 0


def test_each_case_of_the_table_uses_each_crossed_edge():
    table, counts = triangle_table()
    assert counts[0] == counts[255] == 0
    assert counts.max() == 5
    for case in range(256):
        used = set(table[case, : counts[case]].flatten().tolist())
        crossed = {
            number for number, (axis, corner) in enumerate((a, c) for a in range(3) for c in range(8) if not c >> a & 1)
            if (case >> corner & 1) != (case >> (corner | 1 << axis) & 1)
        }  # fmt: skip
        assert used == crossed


def test_a_solid_that_fills_the_grid_is_capped_just_outside_of_it():
    vertices, faces = isosurface(torch.ones(5, 5, 5), 0.5, -1.0, 1.0)
    assert is_closed(faces.numpy())
    assert 1.0 < vertices.abs().max() <= 1.0 + 0.051 * 0.5
    assert signed_volume(vertices.numpy(), faces.numpy()) == pytest.approx(8, rel=0.1)


def test_empty_fields_are_refused_with_advice():
    with pytest.raises(EmptySceneError, match="lower threshold"):
        isosurface(torch.zeros(4, 4, 4), 0.5, -1.0, 1.0)
    with pytest.raises(EmptySceneError, match="raise steps, or lower weights"):
        find_threshold(torch.zeros(8, 8, 8), 0.1)
    with pytest.raises(EmptySceneError, match="raise steps, or lower weights"):
        find_threshold(torch.full((8, 8, 8), 1e-3), 0.1)
    with pytest.raises(ValueError, match="not finite"):
        isosurface(torch.full((4, 4, 4), math.nan), 0.5, -1.0, 1.0)
    with pytest.raises(ValueError, match="at least 2"):
        isosurface(torch.zeros(4, 4), 0.5, -1.0, 1.0)


@pytest.mark.parametrize("peak", [2.0, 30.0, 1000.0])
@pytest.mark.parametrize("haze", [0.0, 0.05])
def test_the_threshold_finds_the_outline_of_the_render(peak: float, haze: float):
    """Seen along x, the mesh covers what the density renders more than half opaque."""
    size = 64
    cell = 2 / (size - 1)
    noise = torch.rand(size, size, size, generator=torch.Generator().manual_seed(0))
    density = peak * torch.sigmoid(-sphere_sdf(grid(size)) / 0.03) + haze * noise
    threshold = find_threshold(density, cell)
    seen = 1 - torch.exp(-density.sum(0) * cell) > 0.5
    covered = density.amax(0) > threshold
    assert (seen & covered).sum() / (seen | covered).sum() > 0.97
    vertices, faces = surface_of_density(density, (-1, -1, -1), (1, 1, 1))
    assert is_closed(faces.numpy())
    assert vertices.norm(dim=-1).std() < 0.02


def test_a_threshold_is_found_for_flat_and_tiny_fields():
    lone = torch.zeros(16, 16, 16)
    lone[8, 8, 8] = 50.0
    for density in (lone, torch.full((8, 8, 8), 3.0), torch.full((8, 8, 8), 1e6)):
        threshold = find_threshold(density, 0.1)
        assert threshold < density.max()
        assert len(isosurface(density, threshold, -1.0, 1.0)[1]) > 0
        assert len(surface_of_density(density, (-1, -1, -1), (1, 1, 1))[1]) > 0


# ---- cleaning


def test_floaters_and_cavities_go_and_the_rest_stays():
    points = grid(64)
    shell = torch.maximum(sphere_sdf(points, 0.5), -sphere_sdf(points, 0.3))
    mesh = mesh_of(torch.minimum(shell, sphere_sdf(points, 0.08, (0.8, 0.8, 0.8))))
    assert as_trimesh(mesh).body_count == 3
    clean = remove_floaters(mesh, 0.05)
    assert as_trimesh(clean).body_count == 1
    assert as_trimesh(clean).volume == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=1e-2)
    both = remove_floaters(mesh, 0.0)
    assert as_trimesh(both).body_count == 2


def test_components_agree_with_trimesh():
    values = torch.randn(12, 12, 12, generator=torch.Generator().manual_seed(3))
    vertices, faces = (x.numpy() for x in isosurface(values, 1.0, -1.0, 1.0))
    ours = geometry.face_components(faces, len(vertices))
    assert ours.max() + 1 == trimesh.Trimesh(vertices, faces, process=False).body_count
    for part in np.unique(ours):  # no vertex is in two parts
        assert not np.isin(faces[ours == part], faces[ours != part]).any()


def test_decimation_keeps_shape_and_closedness():
    mesh = mesh_of(torus_sdf(grid(64)))
    small = decimate(mesh, 1200)
    solid = as_trimesh(small)
    assert len(small.faces) <= 1200
    assert solid.is_watertight
    assert solid.euler_number == 0
    assert solid.volume == pytest.approx(as_trimesh(mesh).volume, rel=1e-2)
    assert torus_sdf(torch.from_numpy(small.vertices)).abs().max() < 0.02
    assert decimate(small, 5000) is small
    with pytest.raises(ValueError, match="at least 4"):
        decimate(mesh, 2)


def test_decimation_that_would_damage_the_mesh_is_refused():
    mesh = mesh_of(torus_sdf(grid(24)))
    with pytest.warns(UserWarning, match="without damage"):
        small = decimate(mesh, 4)  # a torus needs 14 faces
    assert as_trimesh(small).is_watertight
    assert as_trimesh(small).euler_number == 0
    assert 4 < len(small.faces) <= len(mesh.faces)


def test_smoothing_removes_stairs_without_shrinking():
    mesh = mesh_of(-((sphere_sdf(grid(48)) < 0).float() - 0.5))  # a yes-or-no field: the worst stairs
    fair = smooth(mesh, 20)
    # Stairs are seen by their normals, which on a sphere should be radial.
    tilts = []
    for solid in (as_trimesh(mesh), as_trimesh(fair)):
        radial = solid.triangles_center / np.linalg.norm(solid.triangles_center, axis=1, keepdims=True)
        tilts.append(np.degrees(np.arccos(np.clip((solid.face_normals * radial).sum(axis=1), -1, 1))).mean())
    assert tilts[1] < 0.5 * tilts[0]
    assert signed_volume(fair.vertices, fair.faces) == pytest.approx(signed_volume(mesh.vertices, mesh.faces), rel=0.02)
    with pytest.raises(ValueError, match="shrink"):
        smooth(mesh, 1, 0.5, -0.4)


def test_bad_meshes_are_refused():
    good = mesh_of(sphere_sdf(grid(12)))
    with pytest.raises(EmptySceneError, match="no faces: nothing to export"):
        replace(good, faces=good.faces[:0])
    with pytest.raises(ValueError, match="indices"):
        Mesh(good.vertices[:3], good.faces)
    with pytest.raises(ValueError, match="not finite"):
        Mesh(good.vertices * np.float32("nan"), good.faces)
    with pytest.raises(ValueError, match="needs uvs"):
        Mesh(good.vertices, good.faces, base_color=np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"uvs must have shape \(\d+, 2\)"):
        Mesh(good.vertices, good.faces, uvs=np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="inside out"):
        remove_floaters(Mesh(good.vertices, good.faces[:, ::-1]))


def test_a_mesh_of_degenerate_faces_is_not_watertight_and_cannot_be_welded():
    line = Mesh(np.array([[0, 0, 0], [1, 0, 0], [1, 0, 0]], np.float32), np.array([[0, 1, 2]], np.int32))
    assert not is_watertight(line)
    with pytest.raises(EmptySceneError, match="no faces"):
        weld(line)


# ---- unwrap and bake


def test_unwrap_keeps_the_surface_and_overlaps_nothing():
    mesh = decimate(mesh_of(torus_sdf(grid(40))), 1000)
    flat = unwrap(mesh, 256)
    assert flat.uvs is not None
    assert np.array_equal(flat.vertices[flat.faces], mesh.vertices[mesh.faces])
    assert flat.uvs.min() >= 0
    assert flat.uvs.max() <= 1
    corners = flat.uvs[flat.faces].astype(np.float64) * 256
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = 0.5 * np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum()
    texel, _, _ = rasterize_uvs(flat.uvs, flat.faces, 256)
    # If charts overlapped, fewer texels than the summed areas would be covered.
    assert len(texel) == pytest.approx(area, rel=0.02)
    assert len(texel) > 0.35 * 256 * 256
    picture = np.zeros((4, 4, 3), np.uint8)
    assert unwrap(replace(flat, metallic_roughness=picture, normal_map=picture), 64).normal_map is None
    back = trimesh.Trimesh(flat.vertices, flat.faces, process=True, merge_norm=True, merge_tex=True)
    assert back.is_watertight


def test_baked_texture_gives_the_colour_field_back(baked: Mesh):
    rng = np.random.default_rng(0)
    face = rng.integers(0, len(baked.faces), 4000)
    bary = rng.dirichlet((0.4, 0.4, 0.4), 4000)  # corners and edges well covered: there the seams are
    corners = baked.faces[face]
    assert baked.uvs is not None
    assert baked.base_color is not None
    points = np.einsum("nc,nci->ni", bary, baked.vertices[corners])
    uvs = np.einsum("nc,nci->ni", bary, baked.uvs[corners])
    seen = sample_texture(baked.base_color, torch.from_numpy(uvs).float())
    error = (seen - color_of(torch.from_numpy(points).float(), torch.empty(0))).abs()
    assert error.mean() < 0.005
    assert error.max() < 0.08


def test_no_background_bleeds_in_at_seams():
    """White everywhere on the surface: any darker lookup would come from outside of the charts."""
    mesh = unwrap(decimate(mesh_of(torus_sdf(grid(40))), 1000), 128)
    white = bake(mesh, lambda points, normals: torch.ones_like(points), 128)
    assert white.base_color is not None
    assert (white.base_color == 255).all()
    red = torch.tensor([1.0, 0.0, 0.0])
    texels = torch.zeros(32, 32, dtype=torch.bool)
    texels[10:12, 10:12] = True
    grown = grow(torch.where(texels[..., None], red, torch.tensor([0.0, 1.0, 0.0])), texels, 3)
    assert (grown[7:15, 7:15] == red).all()
    # Two flat charts with different colours keep their own padding.
    both = texels.clone()
    both[10:12, 25:27] = True
    blue = torch.zeros(32, 32, 3)
    blue[10:12, 10:12, 0], blue[10:12, 25:27, 2] = 1, 1
    grown = grow(blue, both, 3)
    assert (grown[7:15, 7:15, 2] == 0).all()
    assert (grown[7:15, 22:30, 0] == 0).all()


def test_bake_hands_over_unit_normals_of_the_surface():
    mesh = unwrap(mesh_of(sphere_sdf(grid(24))), 128)

    def check(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        assert len(points) <= 1000
        assert torch.allclose(normals.norm(dim=-1), torch.ones(len(normals)), atol=1e-5)
        assert ((normals * torch.nn.functional.normalize(points, dim=-1)).sum(-1) > 0.95).all()
        return 0.5 + 0.5 * normals

    bake(mesh, check, 128, chunk=1000)


def test_bad_colour_functions_are_refused():
    mesh = unwrap(mesh_of(sphere_sdf(grid(12))), 64)
    with pytest.raises(ValueError, match="must return"):
        bake(mesh, lambda points, normals: torch.zeros(3), 64)
    with pytest.raises(ValueError, match="not finite"):
        bake(mesh, lambda points, normals: torch.full_like(points, math.nan), 64)


def test_a_render_of_the_baked_mesh_shows_the_field(baked: Mesh):
    """End to end: the picture's colours are those of the field at the hit points."""
    cameras = turntable(2, 25.0, 3.0, 45.0, 64)
    found = rasterize(baked.vertices, baked.faces, cameras)
    out = render_mesh(baked, cameras, supersample=1)
    rays = rays_of(cameras)
    hit = found.faces >= 0
    points = (rays.origins + found.depth[..., None] * rays.directions)[hit]
    assert (out.rgb[hit] - color_of(points, points)).abs().max() < 0.06


def test_visibility_of_a_slab_is_beer_lambert_from_the_nearest_side():
    from dreamlift.meshing.solid import visibility

    density = torch.zeros(9, 9, 9)
    density[3:6] = 2.0  # a slab across x; light along +x or -x crosses least of it, except from the open sides
    got = visibility(density, 0.5)
    # centre of the slab's first layer: half a cell of matter
    assert float(got[3, 4, 4]) == pytest.approx(math.exp(-2.0 * 0.25), abs=1e-6)
    assert float(got[4, 4, 4]) == pytest.approx(math.exp(-2.0 * 0.75), abs=1e-6)
    assert float(got[0, 4, 4]) == 1.0


def test_visibility_by_brute_force_along_every_lattice_ray():
    import itertools

    from dreamlift.meshing.solid import visibility

    density = torch.rand(5, 6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 3
    expected = torch.zeros_like(density)
    for place in itertools.product(range(5), range(6), range(4)):
        best = math.inf
        for step in itertools.product((-1, 0, 1), repeat=3):
            if step == (0, 0, 0):
                continue
            length = 0.3 * math.sqrt(sum(abs(s) for s in step))
            depth, at = 0.5 * length * float(density[place]), tuple(p - s for p, s in zip(place, step, strict=True))
            while all(0 <= a < n for a, n in zip(at, density.shape, strict=True)):
                depth += length * float(density[at])
                at = tuple(a - s for a, s in zip(at, step, strict=True))
            best = min(best, depth)
        expected[place] = math.exp(-best)
    torch.testing.assert_close(visibility(density, 0.3), expected)


def test_a_hollow_shell_becomes_solid_and_haze_does_not():
    from dreamlift.meshing.solid import solidity

    axis = torch.linspace(-1, 1, 49)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = torch.sqrt(x * x + y * y + z * z)
    density = 200.0 * ((radius > 0.5) & (radius < 0.6)).float() + 0.05 * (radius < 0.95).float()
    inside = solidity(density, 2 / 48, 10.0) > 0.5
    truth = radius < 0.6
    assert float((inside & truth).sum() / (inside | truth).sum()) > 0.9
    assert not bool(inside[radius > 0.7].any())


def test_sheets_that_touch_along_an_edge_are_parted():
    """Two tetrahedra that share an edge: its four faces become two pairs, and nothing moves."""
    points = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [0.5, 1, 0], [-1, 0, 0], [-0.5, -1, 0]], np.float32)

    def tetrahedron(a, b, c, d):
        faces = np.array([[a, c, b], [a, b, d], [a, d, c], [b, c, d]], np.int32)
        return faces if signed_volume(points, faces) > 0 else faces[:, ::-1]

    faces = np.concatenate([tetrahedron(0, 1, 2, 3), tetrahedron(0, 1, 4, 5)])
    assert not is_closed(faces)
    vertices, parted = split_pinches(points, faces)
    assert is_closed(parted)
    assert len(vertices) == 8
    np.testing.assert_array_equal(vertices[parted], points[faces])
    same, untouched = split_pinches(points[:4], faces[:4])
    np.testing.assert_array_equal(same[untouched], points[faces[:4]])
    assert len(same) == 4


def test_a_budget_is_kept_by_a_tangle_that_one_round_cannot_reduce():
    """A ball with a rough surface, tunnels and bridges: the first try leaves edges with four faces, the first round 1,500."""
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 40, 40))).float()[None, None]
    for _ in range(2):
        noise = torch.nn.functional.avg_pool3d(noise, 5, 1, 2)
    axis = torch.linspace(-1, 1, 40)
    radius = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2).sqrt()
    vertices, faces = isosurface(noise[0, 0] / noise.std() + 6 * (0.75 - radius), 0.0, -1.0, 1.0)
    mesh = remove_floaters(Mesh(vertices.numpy(), faces.numpy().astype(np.int32)))
    small = decimate(mesh, 1000)
    assert len(mesh.faces) > 15_000
    assert len(small.faces) <= 1000
    assert is_closed(small.faces)
    assert signed_volume(small.vertices, small.faces) == pytest.approx(signed_volume(mesh.vertices, mesh.faces), rel=0.1)
