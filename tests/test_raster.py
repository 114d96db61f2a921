"""The mesh renderer, against brute-force intersection and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mesh_helpers import grid, mesh_of, sphere_sdf, torus_sdf

from dreamlift.cameras import orbit_cameras, rays_of, turntable
from dreamlift.meshing import geometry
from dreamlift.raster.exact import rasterize
from dreamlift.raster.visibility import box_pairs
from dreamlift.texturing.draw import render_mesh
from dreamlift.texturing.sampling import sample_texture
from dreamlift.types import Cameras, Shading


def brute_force(vertices: np.ndarray, faces: np.ndarray, cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest face and distance by Moeller and Trumbore 1997, each ray with each triangle; near ties go to face -2."""
    rays = rays_of(cameras)
    origin, direction = rays.origins.double()[..., None, :], rays.directions.double()[..., None, :]
    a, b, c = torch.from_numpy(vertices).double()[torch.from_numpy(faces).long()].unbind(1)
    p = torch.linalg.cross(direction, (c - a).expand(*direction.shape[:3], -1, -1))
    det = (p * (b - a)).sum(-1)
    u = (p * (origin - a)).sum(-1) / det
    q = torch.linalg.cross(origin - a, (b - a).expand(*direction.shape[:3], -1, -1))
    v = (q * direction).sum(-1) / det
    t = (q * (c - a)).sum(-1) / det
    t = torch.where((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0), t, torch.inf)
    best, face = t.min(dim=-1)
    unsure = ((u.abs().minimum(v.abs()).minimum((1 - u - v).abs()) < 1e-9) & (t < torch.inf)).any(-1)
    face = torch.where(best.isinf(), -1, torch.where(unsure, -2, face))
    return face, torch.where(best.isinf(), 0.0, best)


def test_rasteriser_agrees_with_brute_force_intersection():
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(90, 3)).astype(np.float32)  # triangles of all sizes, that cross each other
    faces = np.arange(90, dtype=np.int32).reshape(30, 3)
    cameras = turntable(3, 20.0, 4.0, 50.0, 40)
    found = rasterize(vertices, faces, cameras)
    face, depth = brute_force(vertices, faces, cameras)
    sure = face != -2
    assert sure.float().mean() > 0.99
    assert (found.faces[sure] == face[sure]).all()
    assert torch.allclose(found.depth[sure].double(), depth[sure], rtol=1e-5, atol=1e-5)


def test_triangles_around_the_camera_are_drawn_right():
    """A camera inside of a soup: many triangles cross its plane."""
    rng = np.random.default_rng(1)
    vertices = rng.normal(size=(60, 3)).astype(np.float32)
    faces = np.arange(60, dtype=np.int32).reshape(20, 3)
    one = torch.ones(1)
    cameras = orbit_cameras(0.3 * one, 0.2 * one, 0.2 * one, 1.5 * one, 32)
    face, depth = brute_force(vertices, faces, cameras)
    found = rasterize(vertices, faces, cameras)
    sure = (face != -2) & ((depth > 0.01) | (face == -1))
    assert (found.faces[sure] == face[sure]).all()


def test_barycentrics_are_perspective_correct():
    mesh = mesh_of(torus_sdf(grid(24)))
    cameras = turntable(2, 30.0, 1.6, 70.0, 48)
    found = rasterize(mesh.vertices, mesh.faces, cameras)
    hit = found.faces >= 0
    corners = torch.from_numpy(mesh.vertices)[torch.from_numpy(mesh.faces).long()[found.faces[hit]]]
    points = (found.barycentrics[hit][..., None] * corners).sum(1)
    rays = rays_of(cameras)
    assert torch.allclose(points, (rays.origins + found.depth[..., None] * rays.directions)[hit], atol=1e-5)
    assert torch.allclose(found.barycentrics[hit].sum(-1), torch.ones(int(hit.sum())), atol=1e-5)


def test_a_closed_mesh_has_no_cracks():
    mesh = mesh_of(sphere_sdf(grid(40)))
    cameras = turntable(1, 10.0, 3.0, 25.0, 128)
    rays = rays_of(cameras)
    closest = torch.linalg.cross(rays.origins, rays.directions).norm(dim=-1)
    assert (rasterize(mesh.vertices, mesh.faces, cameras).faces[closest < 0.59] >= 0).all()


def test_render_has_the_opacity_depth_normal_and_background_of_a_sphere():
    mesh = geometry.with_normals(mesh_of(sphere_sdf(grid(64))))
    cameras = turntable(2, 0.0, 3.0, 40.0, 65)
    out = render_mesh(mesh, cameras, background=torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert out.rgb[0, 0, 0].tolist() == [1, 0, 0]
    assert out.rgb[1, 0, 0].tolist() == [0, 1, 0]
    assert out.depth[0, 32, 32, 0].item() == pytest.approx(3.0 - 0.6, abs=5e-3)
    assert out.normal is not None
    assert out.normal[0, 32, 32].tolist() == pytest.approx([0, 0, 1], abs=0.02)
    # The outline of a sphere: sin(angle) = radius / distance.
    focal = 0.5 * 65 / math.tan(math.radians(20))
    radius = focal * math.tan(math.asin(0.6 / 3))
    assert out.opacity[0].sum().item() == pytest.approx(math.pi * radius**2, rel=0.01)


def test_shading_is_ambient_plus_diffuse():
    mesh = geometry.with_normals(mesh_of(sphere_sdf(grid(48))))
    cameras = turntable(1, 0.0, 3.0, 40.0, 65)
    light = torch.tensor([[0.0, 0.0, 3.0]])
    lit = render_mesh(mesh, cameras, 0.0, Shading(torch.ones(1), torch.ones(1), light))
    assert lit.rgb[0, 32, 32].tolist() == pytest.approx([1, 1, 1], abs=0.01)
    away = render_mesh(mesh, cameras, 0.0, Shading(torch.ones(1), torch.ones(1), -light))
    assert away.rgb[0, 32, 32].tolist() == pytest.approx([0.3, 0.3, 0.3], abs=0.01)
    bare = render_mesh(mesh, cameras, 0.0, Shading(torch.zeros(1), torch.zeros(1), light))
    assert bare.rgb[0, 32, 32].tolist() == pytest.approx([0.5, 0.5, 0.5], abs=0.01)


def test_box_pairs_are_all_pairs_once():
    low, high = torch.tensor([[0, 0], [2, 1], [5, 5]]), torch.tensor([[1, 2], [2, 1], [4, 9]])
    for limit in (1, 4, 100):
        rows = torch.cat([torch.stack(part, dim=1) for part in box_pairs(low, high, limit)]).tolist()
        assert rows == [[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1], [0, 0, 2], [0, 1, 2], [1, 2, 1]]


def test_texture_lookups_are_bilinear_with_v_down():
    texture = np.array([[[0, 0, 0], [255, 0, 0]], [[0, 255, 0], [255, 255, 0]]], dtype=np.uint8)
    uvs = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [0.0, 0.0], [1.0, 1.0]])
    expected = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 0], [1, 1, 0]]
    assert sample_texture(texture, uvs).tolist() == pytest.approx(np.array(expected))
