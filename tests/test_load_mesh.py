"""Users' meshes: formats against trimesh and hand-made files, and a table of hostile ones, each refused in one line."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import struct
import zipfile

import numpy as np
import pytest
import trimesh
from gltf_helpers import document, spoilt
from PIL import Image

from dreamlift.export import EXPORTERS
from dreamlift.meshing.geometry import is_closed, signed_volume
from dreamlift.reading import mesh as load
from dreamlift.reading.creases import welded, with_creases
from dreamlift.reading.mesh import RADIUS, load_mesh
from dreamlift.reading.parse import parse
from dreamlift.texturing.bake import bake
from dreamlift.texturing.unwrap import unwrap
from dreamlift.types import Mesh


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Without a process for each file, which tests/test_mesh_bounds.py tries."""
    monkeypatch.setattr(load, "parse_limited", parse)


CUBE = trimesh.creation.box((2.0, 4.0, 6.0))


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../evil.obj", "v 0 0 0")
    return out.getvalue()


BIG = 10**9
PLY = b"ply\nformat ascii 1.0\nelement vertex %d\nproperty float x\nproperty float y\nproperty float z\nelement face %d\n"
PLY += b"property list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
HOSTILE = {
    "zip": ("a.obj", zipped(), "zip archive"),
    "gzip": ("a.ply", b"\x1f\x8b" + b"0" * 99, "gzip archive"),
    "OBJ index": ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 999999999\n", "name vertex 999999999, but it has 3"),
    "OBJ index 0": ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 0\n", "name vertex 0, but it has 3"),
    "OBJ index -4": ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -4\n", "name vertex -4, but it has 3"),
    "OBJ index of 1e300": ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 1e300\n", "not made of whole numbers"),
    "OBJ face of words": ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf a b c\n", "not made of whole numbers"),
    "OBJ of two numbers": ("a.obj", b"v 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "'v 0 0' has fewer than 3 numbers"),
    "OBJ without faces": ("a.obj", b"v 0 0 0\nv 1 0 0\n", "no faces"),
    "OBJ NaN": ("a.obj", b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
    "OBJ of binary": ("a.obj", bytes(range(256)) * 9, "not text"),
    "OBJ of 500,001": ("a.obj", b"v 0 0 0\n" + b"f 1 1 1\n" * 500_001, "none of its faces has an area"),
    "PLY count": ("a.ply", PLY % (BIG, 1), "1000000000 of the element 'vertex'"),
    "PLY faces": ("a.ply", PLY % (3, BIG), "1000000000 of the element 'face'"),
    "PLY none": ("a.ply", PLY % (3, 0), "no faces"),
    "PLY negative": ("a.ply", PLY.replace(b"%d", b"-5"), "names no new element with a count"),
    "PLY head": ("a.ply", b"ply\n" + b"comment x\n" * 9999, "no PLY header"),
    "STL count": ("a.stl", b"\0" * 80 + struct.pack("<I", BIG) + b"\0" * 50, "no extent"),
    "STL cut off": ("a.stl", b"\0" * 80 + struct.pack("<I", BIG) + b"\0" * 60, "says 1,000,000,000 triangles, but ends within"),
    "STL short": ("a.stl", b"\0" * 20, "neither a text nor a binary STL"),
    "empty": ("a.glb", b"", "empty"),
    "USD": ("a.usdz", b"PK", "unknown kind of mesh file '.usdz'; accepted: .glb, .gltf, .obj, .ply, .stl"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(name, tmp_path):
    file, data, reason = HOSTILE[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(ValueError, match="cannot be used as a mesh") as caught:
        load_mesh(tmp_path / file)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_paths_that_are_no_files_are_refused_at_once(tmp_path):
    (tmp_path / "folder.glb").mkdir()
    os.mkfifo(tmp_path / "pipe.obj")
    for path in (tmp_path / "folder.glb", tmp_path / "pipe.obj"):
        with pytest.raises(ValueError, match=r"it is a folder|not a plain file|cannot be opened"):
            load_mesh(path)
    (tmp_path / "zero.stl").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="not a plain file"):
        load_mesh(tmp_path / "zero.stl")
    with pytest.raises(ValueError, match="addresses are not fetched"):
        load_mesh("https://example.org/duck.glb")
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*none\.glb'"):
        load_mesh(tmp_path / "none.glb")
    with pytest.raises(ValueError, match=r"up is 'x'; accepted: y, z"):
        load_mesh(tmp_path / "none.glb", up="x")


def test_size_is_checked_before_reading(tmp_path, monkeypatch):
    monkeypatch.setitem(load.FILE_BYTES, ".stl", 1 << 20)
    with open(tmp_path / "a.stl", "wb") as file:
        file.truncate(3 << 20)  # sparse: nothing of it is on the disk
    with pytest.raises(ValueError, match="3 MiB; accepted: at most 1 MiB"):
        load_mesh(tmp_path / "a.stl")


@pytest.fixture(scope="module")
def ball() -> Mesh:
    solid = trimesh.creation.icosphere(2)
    mesh = Mesh(solid.vertices.astype(np.float32) * [1, 2, 1] + [3, 0, 0], solid.faces.astype(np.int32))
    mesh = dataclasses.replace(mesh, vertices=mesh.vertices.astype(np.float32))
    return bake(unwrap(mesh, 64), lambda points, _: (points * 0.2 + 0.3).clamp(0, 1), 64)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_every_format_gives_the_same_surface(kind, ball, tmp_path):
    """Written by our exporters (STL by trimesh), read back: in the sphere of radius 0.85, and at home by the placement."""
    path = tmp_path / f"ball.{kind}"
    if kind == "stl":
        trimesh.Trimesh(ball.vertices, ball.faces, process=False).export(path)
    else:
        EXPORTERS[kind](ball, path, {})
    mesh, placement = load_mesh(path)
    assert float(np.linalg.norm(mesh.vertices, axis=1).max()) == pytest.approx(RADIUS, abs=1e-5)
    assert signed_volume(mesh.vertices, mesh.faces) > 0
    back = placement.restored(mesh)
    want, got = (np.sort(x.vertices[x.faces].reshape(-1, 9), axis=0) for x in (ball, back))
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert placement.scale == pytest.approx(RADIUS / 2, rel=1e-3)
    if kind in ("glb", "obj"):
        assert np.abs(mesh.base_color.astype(int) - ball.base_color).max() <= 1
        np.testing.assert_allclose(np.sort(mesh.uvs, axis=0), np.sort(ball.uvs, axis=0), atol=1e-4)
    elif kind == "ply":
        assert mesh.vertex_colors.shape == mesh.vertices.shape


def test_parts_are_merged_in_their_places(tmp_path):
    """Two coloured boxes, one mirrored and moved: bounds and volume as trimesh's own concatenation says."""
    scene = trimesh.Scene()
    for name, color, x, mirror in (("a", [255, 0, 0, 255], 0.0, 1), ("b", [0, 0, 255, 255], 5.0, -1)):
        box = CUBE.copy()
        box.visual = trimesh.visual.TextureVisuals(material=trimesh.visual.material.PBRMaterial(baseColorFactor=color))
        move = np.diag([mirror, 1.0, 1.0, 1.0])
        move[0, 3] = x
        scene.add_geometry(box, node_name=name, transform=move)
    scene.export(tmp_path / "two.glb")
    mesh, placement = load_mesh(tmp_path / "two.glb")
    home = placement.restored(mesh)
    np.testing.assert_allclose([home.vertices.min(axis=0), home.vertices.max(axis=0)], scene.bounds, atol=1e-5)
    assert signed_volume(home.vertices, home.faces) == pytest.approx(2 * CUBE.volume, rel=1e-5)
    left = home.vertices[:, 0] < 2.5
    np.testing.assert_allclose(mesh.vertex_colors[left], np.tile([1.0, 0, 0], (left.sum(), 1)), atol=0.01)
    np.testing.assert_allclose(mesh.vertex_colors[~left], np.tile([0.0, 0, 1], ((~left).sum(), 1)), atol=0.01)


def test_several_textures_become_one(tmp_path):
    """A red-textured and a green-textured square, whose UVs repeat: each face finds its colour in the common image."""
    scene = trimesh.Scene()
    for number, color in enumerate(((255, 0, 0), (0, 255, 0))):
        square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.new("RGB", (8, 8), color), roughnessFactor=0.25)
        square.visual = trimesh.visual.TextureVisuals(
            uv=np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * 0.9 + number, material=material
        )
        square.apply_translation([2.0 * number, 0, 0])
        scene.add_geometry(square)
    scene.export(tmp_path / "two.glb")
    mesh, _ = load_mesh(tmp_path / "two.glb")
    size = len(mesh.base_color)
    for face in mesh.faces:
        u, v = (mesh.uvs[face].mean(axis=0) * size).astype(int)
        right = mesh.vertices[face, 0].mean() > 0
        assert tuple(mesh.base_color[v, u]) == ((0, 255, 0) if right else (255, 0, 0))
        assert abs(int(mesh.metallic_roughness[v, u, 1]) - 64) <= 1
    assert (mesh.metallic, mesh.roughness) == (1.0, 1.0)


@pytest.mark.parametrize("textured", [False, True])
def test_parts_of_two_materials_keep_them_in_a_picture_or_get_their_mean(textured, tmp_path):
    """A metal cube of side 1 and a rough one of side 2: four times the surface."""
    scene = trimesh.Scene()
    for side, metallic, roughness in ((1.0, 1.0, 0.25), (2.0, 0.0, 0.75)):
        box = trimesh.creation.box((side,) * 3)
        picture = Image.new("RGB", (8, 8), (200, 0, 0)) if textured and side == 2.0 else None
        material = trimesh.visual.material.PBRMaterial(
            metallicFactor=metallic, roughnessFactor=roughness, baseColorFactor=[50, 50, 50, 255], baseColorTexture=picture
        )
        box.visual = trimesh.visual.TextureVisuals(uv=np.full((8, 2), 0.5), material=material)
        box.apply_translation([4 * side, 0, 0])
        scene.add_geometry(box)
    scene.export(tmp_path / "two.glb")
    if not textured:
        notes = []
        mesh, _ = load_mesh(tmp_path / "two.glb", note=notes.append)
        assert len(notes) == 1
        assert re.search(r"^two.glb: the parts differ in metallic and roughness.* their mean \(0.2 and 0.65\)", notes[0])
        assert (mesh.metallic, mesh.roughness) == pytest.approx((0.2, 0.65))
        return
    mesh, _ = load_mesh(tmp_path / "two.glb")
    place = (mesh.uvs * len(mesh.metallic_roughness)).astype(int)
    found = mesh.metallic_roughness[place[:, 1], place[:, 0], 1:].astype(int)
    small = mesh.vertices[:, 0] < mesh.vertices[:, 0].min() + 0.2 * np.ptp(mesh.vertices[:, 0])
    assert np.abs(found[small] - [64, 255]).max() <= 1
    assert np.abs(found[~small] - [191, 0]).max() <= 1


def test_a_gltf_in_one_file_is_read(tmp_path):
    doc, binary = document()
    doc["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(binary).decode()
    (tmp_path / "a.gltf").write_text(json.dumps(doc))
    mesh, _ = load_mesh(tmp_path / "a.gltf")
    (tmp_path / "a.glb").write_bytes(spoilt())
    same, _ = load_mesh(tmp_path / "a.glb")
    np.testing.assert_array_equal(mesh.vertices, same.vertices)
    assert len(mesh.faces) == 4


def test_z_up_is_turned_with_its_front(tmp_path):
    """Blender's axes: z up and -y front become y up and z front; restored, the points are where they were."""
    (tmp_path / "a.obj").write_text("v 0 0 3\nv 0 -3 0\nv 1 0 0\nv 0 3 0\nv 0 0 -3\nf 1 2 3\nf 3 4 5\n")
    mesh, placement = load_mesh(tmp_path / "a.obj", up="z")
    home = placement.restored(mesh)
    top = mesh.vertices[:, 1].argmax()
    front = mesh.vertices[:, 2].argmax()
    np.testing.assert_allclose(home.vertices[top], [0, 0, 3], atol=1e-5)
    np.testing.assert_allclose(home.vertices[front], [0, -3, 0], atol=1e-5)
    normals = np.cross(*(mesh.vertices[mesh.faces[0, i]] - mesh.vertices[mesh.faces[0, 0]] for i in (1, 2)))
    assert float(normals @ mesh.vertex_normals[mesh.faces[0, 0]]) > 0


def test_an_inside_out_mesh_is_turned(tmp_path):
    trimesh.Trimesh(CUBE.vertices, CUBE.faces[:, ::-1], process=False).export(tmp_path / "a.stl")
    mesh, _ = load_mesh(tmp_path / "a.stl")
    assert is_closed(welded(mesh.vertices)[mesh.faces])
    assert signed_volume(mesh.vertices, mesh.faces) > 0
    assert float((mesh.vertex_normals * mesh.vertices).sum(axis=1).min()) > 0  # outwards


def test_creases_stay_sharp_and_round_things_smooth():
    """A cube's corners get three normals along the axes; a ball's vertices one each, as the smooth rule gives them."""
    cube = Mesh(CUBE.vertices.astype(np.float32), CUBE.faces.astype(np.int32))
    sharp = with_creases(cube)
    assert len(sharp.vertices) == 24
    assert set(np.unique(np.abs(sharp.vertex_normals).round(5))) == {0.0, 1.0}
    ball = trimesh.creation.icosphere(3)
    smooth = with_creases(Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.int32)))
    assert len(smooth.vertices) == len(ball.vertices)
    unit = smooth.vertices / np.linalg.norm(smooth.vertices, axis=1, keepdims=True)
    assert float((smooth.vertex_normals * unit).sum(axis=1).min()) > 0.999


def test_a_crowded_vertex_takes_linear_time():
    """A fan of 60,000 faces at one point: all pairs of them would not fit into memory."""
    angle = np.linspace(0, 2 * np.pi, 60_000, dtype=np.float32)
    rim = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], axis=1)
    vertices = np.concatenate([[[0.0, 1.0, 0.0]], rim]).astype(np.float32)
    second = np.arange(1, 60_000, dtype=np.int32)
    faces = np.stack([np.zeros_like(second), second + 1, second], axis=1)
    found = with_creases(Mesh(vertices, faces))
    assert np.isfinite(found.vertex_normals).all()
