"""Normal maps and tangents: known normals come out as known colours, and a coarse mesh is shaded as the fine one."""

from __future__ import annotations

import numpy as np
import pygltflib
import pytest
import torch
from asset_helpers import sphere

from dreamlift.cameras import turntable
from dreamlift.export.glb import load_glb, save_glb
from dreamlift.export.psnr import psnr
from dreamlift.meshing.clean import decimate
from dreamlift.meshing.geometry import with_normals
from dreamlift.meshing.tangents import vertex_tangents
from dreamlift.texturing.draw import render_mesh
from dreamlift.texturing.extract import Extract, finish_surface
from dreamlift.texturing.normal_map import bake_normal_map
from dreamlift.texturing.transfer import Appearance
from dreamlift.texturing.unwrap import unwrap
from dreamlift.types import Mesh, Shading


def plane(mirrored: bool = False, turned: bool = False) -> Mesh:
    """The square |x|, |y| < 1 that faces +z. Its picture is upright, or mirrored, or turned by a quarter."""
    vertices = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
    u, v = 0.5 + 0.5 * vertices[:, 0], 0.5 - 0.5 * vertices[:, 1]
    uvs = np.stack([1 - u, v] if mirrored else [v, 1 - u] if turned else [u, v], axis=1).astype(np.float32)
    return with_normals(Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), uvs=uvs))


def constant(*normal: float):
    """The same normal everywhere."""
    unit = torch.nn.functional.normalize(torch.tensor(normal), dim=0)
    return lambda points, normals: unit.expand(len(points), 3)


def test_flat_is_128_128_255():
    mesh = bake_normal_map(plane(), constant(0.0, 0.0, 1.0), 16)
    assert mesh.normal_map is not None
    assert (mesh.normal_map == (128, 128, 255)).all()


@pytest.mark.parametrize(
    ("kind", "normal", "expected"),
    [
        ({}, (1.0, 0.0, 1.0), (218, 128, 218)),  # leans along growing u: red
        ({}, (0.0, 1.0, 1.0), (128, 218, 218)),  # leans up the picture: green (glTF, OpenGL)
        ({"mirrored": True}, (1.0, 0.0, 1.0), (38, 128, 218)),
        ({"mirrored": True}, (0.0, 1.0, 1.0), (128, 218, 218)),  # still up the picture
        ({"turned": True}, (1.0, 0.0, 1.0), (128, 218, 218)),  # +x is up this picture
        ({"turned": True}, (0.0, 1.0, 1.0), (38, 128, 218)),  # and +y is to its left
        ({}, (0.0, 0.0, -1.0), (128, 128, 255)),  # turned away: held back
    ],
)
def test_leaning_normals_have_gltfs_colours(kind: dict[str, bool], normal: tuple[float, ...], expected: tuple[int, ...]):
    found = bake_normal_map(plane(**kind), constant(*normal), 16).normal_map
    assert found is not None
    assert np.abs(found[8, 8].astype(int) - expected).max() <= 1


def test_tangents_are_the_derivative_of_the_place_along_u():
    """On a torus whose derivatives are known, upright and mirrored."""
    rows, columns = 40, 60
    u, v = (grid.ravel() for grid in np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows)))
    a, b = 2 * np.pi * u, -2 * np.pi * v  # b falls with v, so that (d/du, d/d(-v), outward) is right-handed
    ring = 1 + 0.4 * np.cos(b)
    points = np.stack([ring * np.cos(a), ring * np.sin(a), 0.4 * np.sin(b)], axis=1)
    normals = np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], axis=1)
    i = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    quads = np.stack([i, i + columns, i + columns + 1, i + 1], axis=1)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)
    for flip, sign in ((False, 1.0), (True, -1.0)):
        uvs = np.stack([1 - u if flip else u, v], axis=1).astype(np.float32)
        mesh = Mesh(points.astype(np.float32), faces, uvs=uvs, vertex_normals=normals.astype(np.float32))
        found = vertex_tangents(mesh)
        expected = sign * np.stack([-np.sin(a), np.cos(a), np.zeros_like(a)], axis=1)
        inner = (np.abs(u - 0.5) < 0.45) & (np.abs(v - 0.5) < 0.45)
        assert (found[:, :3] * expected).sum(axis=1)[inner].min() > 0.999
        bitangent = found[:, 3:] * np.cross(normals, found[:, :3])
        upward = np.stack([-np.sin(b) * np.cos(a), -np.sin(b) * np.sin(a), np.cos(b)], axis=1)
        assert (bitangent * upward).sum(axis=1)[inner].min() > 0.999
        assert np.abs(np.linalg.norm(found[:, :3], axis=1) - 1).max() < 1e-5
        assert np.abs((found[:, :3] * normals).sum(axis=1)).max() < 1e-5


def test_tangents_of_degenerate_uvs_are_still_unit():
    mesh = plane()
    assert mesh.uvs is not None
    found = vertex_tangents(Mesh(mesh.vertices, mesh.faces, np.zeros_like(mesh.uvs), vertex_normals=mesh.vertex_normals))
    assert np.isfinite(found).all()
    assert np.abs(np.linalg.norm(found[:, :3], axis=1) - 1).max() < 1e-5
    with pytest.raises(ValueError, match="uvs and vertex_normals"):
        vertex_tangents(Mesh(mesh.vertices, mesh.faces))


@pytest.fixture(scope="module")
def pair() -> tuple[Mesh, Mesh]:
    """(a fine bumpy sphere, the same of few faces with its normal map)."""
    fine = sphere(64)
    bumps = 1 + 0.02 * np.sin(14 * fine.vertices).prod(axis=1, keepdims=True)
    fine = with_normals(Mesh((fine.vertices * bumps).astype(np.float32), fine.faces))
    coarse = unwrap(decimate(fine, 600), 256)
    return fine, bake_normal_map(coarse, Appearance(fine).normal, 256)


def test_a_coarse_sphere_is_shaded_as_the_fine_one(pair: tuple[Mesh, Mesh]):
    fine, coarse = pair
    bare = Mesh(coarse.vertices, coarse.faces, vertex_normals=coarse.vertex_normals)
    cameras = turntable(3, 20.0, 2.6, 42.0, 64)
    one = torch.ones(3)
    shading = Shading(one, one, cameras.c2w[:, :3, 3] + torch.tensor([1.0, 2.0, 0.0]), ambient=0.2)
    pictures = [render_mesh(mesh, cameras, 1.0, shading) for mesh in (fine, coarse, bare)]
    solid = pictures[0].opacity[..., 0] > 0.99
    solid &= (pictures[1].opacity[..., 0] > 0.99) & (pictures[2].opacity[..., 0] > 0.99)
    normals = [
        torch.nn.functional.normalize(picture.normal[solid], dim=-1) for picture in pictures if picture.normal is not None
    ]
    angles = [torch.rad2deg((normals[0] * other).sum(dim=-1).clamp(-1, 1).acos()).mean() for other in normals[1:]]
    assert angles[0] < 1.0  # degrees
    assert angles[0] < 0.3 * angles[1]
    with_map, without = (psnr(picture.rgb[solid], pictures[0].rgb[solid]) for picture in pictures[1:])
    assert with_map > without + 8
    assert with_map > 38


def test_the_file_alone_gives_the_fine_normals_to_a_gltf_shader(pair: tuple[Mesh, Mesh], tmp_path):
    """The specification's formula on the file's own accessors, at the vertices."""
    fine, coarse = pair
    save_glb(coarse, tmp_path / "a.glb")
    document = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert document is not None
    blob = document.binary_blob()
    assert blob is not None

    def values(name: str, width: int) -> np.ndarray:
        accessor = document.accessors[getattr(document.meshes[0].primitives[0].attributes, name)]
        assert accessor.type == f"VEC{width}"
        start = document.bufferViews[accessor.bufferView].byteOffset
        return np.frombuffer(blob, "<f4", accessor.count * width, start).reshape(-1, width)

    points, normals, tangents, uvs = values("POSITION", 3), values("NORMAL", 3), values("TANGENT", 4), values("TEXCOORD_0", 2)
    back = load_glb(tmp_path / "a.glb")
    assert back.normal_map is not None
    assert np.array_equal(back.normal_map, coarse.normal_map)
    assert document.materials[0].normalTexture.index == 0
    cells = np.clip((uvs * 256).astype(int), 0, 255)
    local = 2.0 * back.normal_map[cells[:, 1], cells[:, 0]] / 255 - 1
    bitangents = np.cross(normals, tangents[:, :3]) * tangents[:, 3:]
    world = local[:, :1] * tangents[:, :3] + local[:, 1:2] * bitangents + local[:, 2:] * normals
    world /= np.linalg.norm(world, axis=1, keepdims=True)
    nearest = np.argmin(((points[:, None] - fine.vertices[None]) ** 2).sum(axis=-1), axis=1)
    assert fine.vertex_normals is not None
    angles = np.rad2deg(np.arccos(np.clip((world * fine.vertex_normals[nearest]).sum(axis=1), -1, 1)))
    assert np.median(angles) < 2.5
    smooth = np.rad2deg(np.arccos(np.clip((normals * fine.vertex_normals[nearest]).sum(axis=1), -1, 1)))
    assert np.median(angles) < 0.6 * np.median(smooth)


def test_the_setting_bakes_one_and_costs_no_face():
    fine = sphere(32)

    def color(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        return 0.5 + 0.5 * points.clamp(-1, 1)

    settings = Extract(faces=300, texture_size=64, smooth=0, normal_map=True)
    mesh = finish_surface(fine, color, settings)
    assert mesh.normal_map is not None
    assert mesh.normal_map.shape == (64, 64, 3)
    assert len(mesh.faces) <= 300
    assert finish_surface(fine, color, Extract(faces=300, texture_size=64, smooth=0)).normal_map is None
    with pytest.raises(ValueError, match="normal_map needs a texture"):
        Extract(normal_map=True, texture=False)


def test_pictures_of_a_wrong_kind_are_refused():
    for bad in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="normal_map must be"):
            Mesh(plane().vertices, plane().faces, plane().uvs, normal_map=bad)
    with pytest.raises(ValueError, match=r"texture \(metallic_roughness\) needs uvs"):
        Mesh(plane().vertices, plane().faces, metallic_roughness=np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"roughness is 1\.5; accepted: 0 to 1"):
        Mesh(plane().vertices, plane().faces, roughness=1.5)
