"""Merging the parts of a file: colours, textures, vertex colours over textures, orientation, and which sides are seen."""

from __future__ import annotations

import dataclasses
import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from mesh_helpers import binary_stl, box, loaded, triangles
from PIL import Image

from dreamlift.export.glb import load_glb, save_glb
from dreamlift.meshing.geometry import face_components, face_volumes, is_open, signed_volume
from dreamlift.meshing.nearest import Nearest
from dreamlift.reading import mesh as load
from dreamlift.reading.creases import welded
from dreamlift.reading.merge import merged
from dreamlift.reading.mesh import placed
from dreamlift.reading.orient import inside_out
from dreamlift.reading.parse import parse
from dreamlift.reading.part import Part
from dreamlift.scenes.surface.scene import Surface
from dreamlift.texturing.extract import Extract
from dreamlift.texturing.sampling import colors_at, sample_texture
from dreamlift.types import Mesh


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(load, "parse_limited", parse)


def square(x=0.0, uvs=None, image=None, shades=None, surface=None, metallic=0.0, roughness=0.9, cells=1):
    """A square of side 1 at ``x`` in the plane z = 0, of ``cells`` x ``cells`` quads, with v downwards."""
    grid = np.linspace(0, 1, cells + 1)
    u, v = (values.ravel() for values in np.meshgrid(grid, grid))
    at = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
    faces = np.concatenate([np.stack([at + cells + 1, at + cells + 2, at + 1], 1), np.stack([at + cells + 1, at + 1, at], 1)])
    points = np.stack([u + x, 1 - v, np.zeros_like(u)], axis=1)
    uvs = np.stack([u, v], axis=1) if uvs is None else uvs
    shades = None if shades is None else shades(u, v)
    return Part(points, faces, None, uvs, image, shades, surface, metallic, roughness)


def to_linear(color):
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def to_srgb(light):
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def seen(part, points):
    """The merged part's colours at ``points (N, 3)``, as the rest of the package samples them."""
    mesh, origin = placed(part, "y")
    world = (np.asarray(points) - np.array(origin.offset)) * origin.scale
    return colors_at(mesh, *Nearest(mesh)(torch.tensor(world).float())).numpy()


INNER = np.random.default_rng(0).uniform(0.1, 0.9, (200, 2))
PLACES = np.c_[INNER[:, 0], 1 - INNER[:, 1], np.zeros(200)]


def ramp(u, v):
    return np.stack([u, v, np.full_like(u, 0.8)], axis=1)


def expected(image, colors):
    """The bilinear texture times interpolated colours, in linear light."""
    texture = sample_texture(image, torch.tensor(INNER).float()).numpy()
    return to_srgb(to_linear(texture) * colors)


@pytest.mark.parametrize("side", [8, 600])
def test_vertex_colours_multiply_a_texture_in_linear_light(side):
    """glTF 2.0, 3.9.2, against the closed form at random points: colours vary over a smooth texture."""
    y, x = np.mgrid[:side, :side] / side
    image = (np.stack([x, 1 - y, 0.5 + 0 * x], axis=-1) * 200 + 50).astype(np.uint8)
    part = merged([square(image=image, shades=ramp, cells=16)])
    assert part.shades is None
    # Interpolated in linear light between the corners of the cells.
    grid = np.linspace(0, 1, 17)
    colors = np.stack([np.interp(INNER[:, 0], grid, to_linear(grid)), np.interp(INNER[:, 1], grid, to_linear(grid)),
                       np.full(200, to_linear(np.array(0.8)))], axis=1)  # fmt: skip
    tolerance = 0.1 if side == 8 else 0.012  # the small texture is made larger without smoothing
    assert np.abs(seen(part, PLACES) - expected(image, colors)).max() < tolerance


def test_one_colour_or_one_texel_needs_no_new_texture():
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    part = merged([square(image=image, shades=lambda u, v: np.full((len(u), 3), (0.5, 1.0, 0.2)))])
    want = to_srgb(to_linear(image / 255) * to_linear(np.array([0.5, 1.0, 0.2])))
    assert part.image.shape == image.shape
    assert np.abs(part.image / 255 - want).max() < 0.5 / 255 + 1e-9
    white = merged([square(image=np.full((2, 2, 3), 255, np.uint8), shades=ramp)])
    assert white.image is None
    np.testing.assert_allclose(white.shades, square(shades=ramp).shades, atol=1e-6)


def test_colours_that_differ_where_a_texture_repeats_are_told(monkeypatch):
    monkeypatch.setattr("dreamlift.reading.tint.FINE", 64)
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    whole = square(cells=8)
    with pytest.warns(UserWarning, match="its vertex colours differ where its texture repeats: their mean is used there"):
        merged([square(uvs=whole.uvs * 4, image=image, shades=ramp, cells=8)])


def test_smooth_vertex_colours_beside_a_texture_stay_exact():
    """A ramp of vertex colours beside a textured square: its palette interpolates as the vertices did."""
    image = np.full((32, 32, 3), (200, 10, 10), np.uint8)
    part = merged([square(shades=ramp, cells=4), square(2.0, image=image), square(4.0)])
    assert part.shades is None
    assert np.abs(seen(part, PLACES) - ramp(INNER[:, 0], INNER[:, 1])).max() < 0.01
    assert np.abs(seen(part, PLACES + np.array([2, 0, 0])) - np.array([200, 10, 10]) / 255).max() < 0.01
    assert np.abs(seen(part, PLACES + np.array([4, 0, 0])) - 0.5).max() < 0.01  # no colour: middle grey


def test_more_colours_than_a_palette_holds_are_rounded(monkeypatch):
    monkeypatch.setattr("dreamlift.reading.merge.TILE", 64)
    image = np.full((8, 8, 3), (200, 10, 10), np.uint8)
    with pytest.warns(UserWarning, match="share one of 64 texels a side, 32 for each"):
        part = merged([square(shades=ramp, cells=30), square(2.0, image=image)])
    assert np.abs(seen(part, PLACES) - ramp(INNER[:, 0], INNER[:, 1])).max() < 0.2


def test_vertex_colours_over_a_picture_of_roughness_keep_both():
    surface = np.zeros((16, 16, 3), np.uint8)
    surface[:, 8:, 1] = 255
    image = np.full((32, 32, 3), (200, 10, 10), np.uint8)
    part = merged([square(surface=surface, shades=ramp, metallic=1.0, roughness=1.0), square(2.0, image=image)])
    assert np.abs(seen(part, PLACES) - to_srgb(bilinear_ramp(INNER))).max() < 0.03
    rough = dataclasses.replace(part, image=part.surface)
    far = np.abs(INNER[:, 0] - 0.5) > 0.1
    assert np.abs(seen(rough, PLACES)[far, 1] - (INNER[far, 0] > 0.5)).max() < 0.1


def bilinear_ramp(at):
    """The ramp in linear light between the square's corners."""
    return np.stack([at[:, 0], at[:, 1], np.full(len(at), to_linear(np.array(0.8)))], axis=1)


def boxes(*placements):
    """Welded vertices and faces of boxes, each of a size, at a place, and turned inside out or not."""
    corners = [triangles() * size + place for size, place, _ in placements]
    corners = [each[:, ::-1] if turned else each for each, (_, _, turned) in zip(corners, placements, strict=True)]
    flat = np.concatenate(corners).reshape(-1, 3)
    points, faces = np.unique(flat, axis=0, return_inverse=True)
    return points, faces.reshape(-1, 3)


A, B = np.zeros(3), np.array([5.0, 0, 0])
NESTS = {
    "both right": ([(1, A, False), (1, B, False)], [False, False]),
    "one of two": ([(1, A, False), (1, B, True)], [False, True]),
    "both wrong": ([(1, A, True), (1, B, True)], [True, True]),
    "a hollow": ([(1, A, False), (0.5, A, True)], [False, False]),
    "a hollow, inside out": ([(1, A, True), (0.5, A, False)], [True, True]),
    "an object inside, all inside out": ([(1, A, True), (0.5, A, True)], [True, True]),
    "an object inside": ([(1, A, False), (0.5, A, False)], [False, False]),
    "three levels": ([(1, A, True), (0.5, A, False), (0.2, A, True), (1, B, False)], [True, True, True, False]),
}


@pytest.mark.parametrize("name", NESTS)
def test_each_closed_part_is_judged_by_itself(name):
    placements, turned = NESTS[name]
    found = inside_out(*boxes(*placements))
    np.testing.assert_array_equal(found, np.repeat(turned, 12))


def test_one_of_two_inside_out_parts_is_turned_with_its_normals(tmp_path):
    """An OBJ of two boxes with normals that agree with their faces, the second one inside out."""
    points, _, quads = box()
    normals = np.repeat(np.concatenate([s * np.eye(3)[[a]] for a in range(3) for s in (1, -1)]), 4, axis=0)
    text = "".join(f"v {x} {y} {z}\n" for x, y, z in np.concatenate([points, points + B]))
    text += "".join(f"vn {x} {y} {z}\n" for x, y, z in np.concatenate([normals, -normals]))
    for quad in np.concatenate([quads + 1, quads[:, ::-1] + 25]):
        text += "f " + " ".join(f"{at}//{at}" for at in quad) + "\n"
    (tmp_path / "a.obj").write_text(text)
    mesh, origin, _ = loaded(tmp_path / "a.obj")
    assert signed_volume(mesh.vertices, mesh.faces) / origin.scale**3 == pytest.approx(12, rel=1e-4)
    own = np.cross(*(mesh.vertices[mesh.faces[:, i]] - mesh.vertices[mesh.faces[:, 0]] for i in (1, 2)))
    assert ((own[:, None] * mesh.vertex_normals[mesh.faces]).sum(axis=-1) > 0).all()
    part = face_components(welded(mesh.vertices)[mesh.faces], len(mesh.vertices))
    assert (np.bincount(part, face_volumes(mesh.vertices, mesh.faces)) > 0).all()


def material_of(path):
    data = path.read_bytes()
    return json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])["materials"][0]


def test_open_surfaces_are_seen_from_both_sides(tmp_path):
    """A sheet's GLB says doubleSided, a closed ball's does not, and one whose file says so keeps it through a stage."""
    sheet, _ = placed(merged([square()]), "y")
    assert sheet.double_sided
    ball = trimesh.creation.icosphere(1)
    closed, _ = placed(Part(ball.vertices, ball.faces, None, None, None, None, None, 0.0, 0.9), "y")
    assert not closed.double_sided
    kept, _ = placed(Part(ball.vertices, ball.faces, None, None, None, None, None, 0.0, 0.9, double_sided=True), "y")
    assert kept.double_sided
    painted = Surface(uvs="unwrap").build(torch.Generator().manual_seed(0), initial_mesh=kept).to_mesh(Extract(texture_size=64))
    assert painted.double_sided
    for name, mesh, double in (("sheet", sheet, True), ("closed", closed, False), ("kept", painted, True)):
        save_glb(mesh, tmp_path / f"{name}.glb")
        assert material_of(tmp_path / f"{name}.glb").get("doubleSided", False) == double
        assert load_glb(tmp_path / f"{name}.glb").double_sided == double
    plain = dataclasses.replace(sheet, double_sided=False)  # a surface that another step has left open
    save_glb(plain, tmp_path / "plain.glb")
    assert material_of(tmp_path / "plain.glb")["doubleSided"]


def test_closed_surfaces_of_two_sides_or_copies_are_not_open():
    points, faces = boxes((1, A, False))
    assert not is_open(faces)
    assert not is_open(np.concatenate([faces, faces]))
    assert not is_open(np.concatenate([faces, faces[:, ::-1]]))
    assert is_open(faces[1:])
    assert is_open(np.concatenate([faces[:6], faces[6:, ::-1]]))  # not evenly wound
    assert len(points) == 8


def test_notes_are_one_line_of_bounded_length(tmp_path):
    text = "".join(f"mtllib {'x' * 100}{i}.mtl\n" for i in range(40)) + "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    (tmp_path / "a.obj").write_text(text)
    _, _, note = loaded(tmp_path / "a.obj")
    assert note.startswith("a.obj: the material file 'xxx")
    assert note.endswith("more")
    assert len(note) < 450
    assert "\n" not in note


def test_alike_pictures_are_not_joined(tmp_path):
    """Twenty materials of one picture stay one texture of its own size; two pictures become one of both."""
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "r.png")
    Image.new("RGB", (8, 8), (0, 0, 255)).save(tmp_path / "b.png")
    head = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 3\nv 1 0 3\nv 0 1 3\nvt 0 0\nvt 1 0\nvt 0 1\n"
    (tmp_path / "a.obj").write_text(head + "".join(f"usemtl m{i}\nf {a}/1 {a + 1}/2 {a + 2}/3\n" for i, a in ((0, 1), (7, 4))))
    (tmp_path / "a.mtl").write_text("".join(f"newmtl m{i}\nmap_Kd r.png\n" for i in range(20)))
    assert loaded(tmp_path / "a.obj")[0].base_color.shape == (8, 8, 3)
    (tmp_path / "a.mtl").write_text("newmtl m0\nmap_Kd r.png\nnewmtl m7\nmap_Kd b.png\n")
    part, _ = parse((tmp_path / "a.obj").read_bytes(), ".obj", tmp_path)
    found = seen(part, [[0.2, 0.2, 0], [0.2, 0.2, 3]])
    assert np.abs(found - [[1, 0, 0], [0, 0, 1]]).max() < 0.01


def test_metallic_and_roughness_pictures_of_obj(tmp_path):
    """Pr, Pm, map_Pr and map_Pm, as our own exporter writes them."""
    (tmp_path / "a.obj").write_text(
        "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl m\nf 1/1 2/2 3/3\n"
    )
    (tmp_path / "a.mtl").write_text("newmtl m\nPr 0.25\nPm 0.75\n")
    mesh = loaded(tmp_path / "a.obj")[0]
    assert (mesh.metallic, mesh.roughness) == (0.75, 0.25)
    Image.new("L", (4, 4), 51).save(tmp_path / "r.png")
    (tmp_path / "a.mtl").write_text("newmtl m\nPr 1\nPm 0.2\nmap_Pr r.png\n")
    mesh = loaded(tmp_path / "a.obj")[0]
    assert (mesh.metallic, mesh.roughness) == (1.0, 1.0)
    assert (mesh.metallic_roughness == [255, 51, 51]).all()
    assert mesh.base_color is None


def test_a_mesh_of_more_parts_than_are_compared_is_still_turned(monkeypatch):
    monkeypatch.setattr("dreamlift.reading.orient.PARTS", 1)
    np.testing.assert_array_equal(inside_out(*boxes((1, A, False), (1, B, True))), np.repeat([False, True], 12))


def test_stl_of_two_boxes_one_inside_out(tmp_path):
    both = np.concatenate([triangles(), triangles()[:, ::-1] + B])
    (tmp_path / "a.stl").write_bytes(binary_stl(both))
    mesh, origin, note = loaded(tmp_path / "a.stl")
    assert isinstance(mesh, Mesh)
    assert not note
    assert signed_volume(mesh.vertices, mesh.faces) / origin.scale**3 == pytest.approx(12, rel=1e-4)
