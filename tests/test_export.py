"""Files of all formats: written, validated by others' code, read back by others' code."""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from asset_helpers import check_attributes, read_foreign, with_all_pictures
from PIL import Image

from dreamlift.cameras import turntable
from dreamlift.color import linear_to_srgb, srgb_to_linear
from dreamlift.export import EXPORTERS
from dreamlift.export.glb import load_glb, save_glb
from dreamlift.export.ply import save_ply
from dreamlift.export.psnr import psnr
from dreamlift.export.video import contact_sheet, save_turntable
from dreamlift.meshing.geometry import face_areas
from dreamlift.meshing.isosurface import isosurface
from dreamlift.texturing.bake import bake
from dreamlift.texturing.draw import render_mesh
from dreamlift.types import Mesh

ROOT = Path(__file__).resolve().parents[1]
VALIDATOR = ROOT / "node_modules" / "gltf-validator"
EXTRAS = {"prompt": 'a "blue" mug \u2615\nv 1 2 3\n</script>', "seed": 7}


@pytest.fixture(scope="module")
def textured() -> Mesh:
    axis = torch.linspace(-1, 1, 20)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    vertices, faces = isosurface(0.7 - (points * torch.tensor([1.0, 1.3, 0.9])).norm(dim=-1), 0.0, -1.0, 1.0)
    mesh = Mesh(vertices.numpy(), faces.numpy().astype(np.int32), metallic=0.25, roughness=0.75)
    return bake(mesh, lambda p, n: 0.5 + 0.5 * torch.sin(5 * p), 128)


@pytest.fixture(scope="module")
def meshes(textured: Mesh) -> dict[str, Mesh]:
    """Every kind of mesh that an exporter may be given."""
    plain = replace(textured, uvs=None, base_color=None)
    colors = (0.5 + 0.5 * textured.vertices).clip(0, 1).astype(np.float32)
    zero = np.zeros_like(textured.vertices)
    many = Mesh(np.tile(plain.vertices, (100, 1)), plain.faces + 99 * len(plain.vertices))
    return {
        "textured": textured,
        "all pictures": with_all_pictures(textured),
        "pictures of the material alone": replace(with_all_pictures(textured), base_color=None),
        "plain": plain,
        "colored": replace(plain, vertex_colors=colors),
        "zero normals": replace(plain, vertex_normals=zero),
        "without normals": replace(plain, vertex_normals=None),
        "more than 65535 vertices": many,
    }


# ---- GLB


def parse_glb(data: bytes) -> tuple[dict, bytes]:
    """The chunks, by the letter of the specification."""
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    assert size % 4 == 0
    document = json.loads(data[20 : 20 + size])
    binary_size, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert kind == b"BIN\0"
    assert binary_size % 4 == 0
    binary = data[28 + size :]
    assert len(binary) == binary_size
    return document, binary


def check_structure(data: bytes) -> None:
    """What the Khronos validator would call an error, as far as these files can have it."""
    document, binary = parse_glb(data)
    assert document["asset"]["generator"] == "dreamlift"
    assert document["buffers"][0]["byteLength"] <= len(binary) < document["buffers"][0]["byteLength"] + 4
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= document["buffers"][0]["byteLength"]
    arrays = {}
    for number, accessor in enumerate(document["accessors"]):
        kind = {5126: "<f4", 5123: "<u2", 5125: "<u4"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteLength"] == accessor["count"] * width * np.dtype(kind).itemsize
        arrays[number] = np.frombuffer(binary, kind, accessor["count"] * width, view["byteOffset"]).reshape(-1, width)
    primitive = document["meshes"][0]["primitives"][0]
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    points = arrays[primitive["attributes"]["POSITION"]]
    assert position["min"] == points.min(0).tolist()
    assert position["max"] == points.max(0).tolist()
    assert np.abs(np.linalg.norm(arrays[primitive["attributes"]["NORMAL"]], axis=1) - 1).max() < 1e-5
    assert arrays[primitive["indices"]].max() < len(points)
    assert all(document["accessors"][a]["count"] == len(points) for a in primitive["attributes"].values())


def test_glb_files_are_valid(meshes: dict[str, Mesh], tmp_path: Path):
    """Own checks of the structure always; the Khronos validator, without errors and warnings, where it is installed."""
    paths = []
    for name, mesh in meshes.items():
        paths.append(tmp_path / f"{name}.glb")
        save_glb(mesh, paths[-1], EXTRAS)
        check_structure(paths[-1].read_bytes())
    if VALIDATOR.is_dir() and (node := shutil.which("node")):
        command = [node, str(ROOT / "tools" / "validate_glb.mjs"), *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(" 0 errors, 0 warnings") == len(paths)


def test_the_validator_script_finds_faults(textured: Mesh, tmp_path: Path):
    """The check above must be able to fail."""
    path = tmp_path / "bad.glb"
    save_glb(textured, path)
    document, binary = parse_glb(path.read_bytes())
    document["accessors"][0]["max"][0] += 1.0
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    bad = struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
    path.write_bytes(bad)
    with pytest.raises(AssertionError):
        check_structure(bad)
    if VALIDATOR.is_dir() and (node := shutil.which("node")):
        command = [node, str(ROOT / "tools" / "validate_glb.mjs"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1


def test_glb_is_read_back_by_trimesh(meshes: dict[str, Mesh], tmp_path: Path):
    for mesh in meshes.values():
        save_glb(mesh, tmp_path / "a.glb", EXTRAS)
        back = load_glb(tmp_path / "a.glb")
        assert np.array_equal(back.vertices, mesh.vertices)
        assert np.array_equal(back.faces, mesh.faces)
        assert back.metallic == pytest.approx(mesh.metallic)
        assert back.roughness == pytest.approx(mesh.roughness)
        check_attributes(back, mesh)


def test_glb_is_read_back_by_pygltflib(textured: Mesh, tmp_path: Path):
    save_glb(textured, tmp_path / "a.glb", EXTRAS)
    document = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert document is not None
    assert document.asset.generator == "dreamlift"
    assert document.asset.extras == EXTRAS
    view = document.bufferViews[document.images[0].bufferView]
    blob = document.binary_blob()
    assert blob is not None
    start = view.byteOffset or 0
    image = np.asarray(Image.open(io.BytesIO(blob[start : start + view.byteLength])))
    assert np.array_equal(image, textured.base_color)
    material = document.materials[0].pbrMetallicRoughness
    assert (material.metallicFactor, material.roughnessFactor) == (0.25, 0.75)


def test_damaged_and_hostile_glb_files_give_a_value_error(textured: Mesh, tmp_path: Path):
    path = tmp_path / "a.glb"
    save_glb(textured, path)
    whole = path.read_bytes()
    for data in (b"", b"glTF", whole[:40], whole[: len(whole) // 2], b"\0" * 100, b"<html></html>"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"cannot be read|exactly one|no faces"):
            load_glb(path)
    at = whole.index(b"IDAT") + 20  # inside a texture, which is decoded late
    path.write_bytes(whole[:at] + bytes(each ^ 255 for each in whole[at : at + 200]) + whole[at + 200 :])
    with pytest.raises(ValueError, match="cannot be read"):
        load_glb(path)
    with pytest.raises(FileNotFoundError):
        load_glb(tmp_path / "none.glb")


# ---- all exporters


def test_the_table_lists_every_format():
    modules = {path.stem for path in (ROOT / "dreamlift" / "export").glob("*.py")}
    own = {{"usdz": "usd", "3mf": "threemf"}.get(name, name) for name in EXPORTERS}  # the modules of formats
    assert modules - {"__init__", "page", "placement", "printing", "settings", "splats", "video", "psnr"} == own


@pytest.mark.parametrize("kind", sorted(EXPORTERS))
def test_every_format_is_read_back_with_the_same_surface(kind: str, meshes: dict[str, Mesh], tmp_path: Path):
    for mesh in meshes.values():
        path = tmp_path / f"an asset.{kind}"
        EXPORTERS[kind](mesh, path, EXTRAS)
        back = read_foreign(path)
        assert len(back.faces) == len(mesh.faces)
        assert np.allclose(back.vertices[back.faces], mesh.vertices[mesh.faces], atol=1e-6)


@pytest.mark.parametrize("kind", sorted(EXPORTERS))
def test_files_are_repeatable(kind: str, textured: Mesh, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        EXPORTERS[kind](textured, tmp_path / name / f"x.{kind}", EXTRAS)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_extras_that_json_cannot_hold_are_refused(textured: Mesh, tmp_path: Path):
    for bad in ({"loss": float("nan")}, {"where": tmp_path}):
        with pytest.raises(ValueError, match="JSON"):
            save_glb(textured, tmp_path / "a.glb", bad)
    save_glb(textured, tmp_path / "a.glb", {"prompt": "lone \ud800 surrogate"})
    assert parse_glb((tmp_path / "a.glb").read_bytes())[0]["asset"]["extras"]["prompt"] == "lone ? surrogate"


def test_obj_brings_its_texture_the_right_way_up(textured: Mesh, tmp_path: Path):
    EXPORTERS["obj"](textured, tmp_path / "a mug.obj", EXTRAS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a mug.obj", "a_mug.mtl", "a_mug.png"]
    back = trimesh.load_mesh(tmp_path / "a mug.obj", process=False)
    # trimesh keeps v = 0 at the bottom, so the colour at (u, v) is that of our (u, 1 - v).
    assert np.array_equal(np.asarray(back.visual.material.image), textured.base_color)
    assert textured.uvs is not None
    ours = np.stack([textured.uvs[:, 0], 1 - textured.uvs[:, 1]], axis=1)
    assert np.allclose(np.asarray(back.visual.uv)[back.faces], ours[textured.faces], atol=1e-6)
    text = (tmp_path / "a mug.obj").read_text()
    assert len(re.findall(r"^v ", text, re.MULTILINE)) == len(textured.vertices)  # the prompt's "v 1 2 3" added none


def test_ply_holds_the_colours_of_the_texture(textured: Mesh, tmp_path: Path):
    save_ply(textured, tmp_path / "a.ply", EXTRAS)
    back = trimesh.load_mesh(tmp_path / "a.ply", process=False)
    expected = 127.5 + 127.5 * np.sin(5 * textured.vertices)
    error = np.abs(np.asarray(back.visual.vertex_colors)[:, :3] - expected)
    assert textured.uvs is not None
    flat = np.concatenate([textured.uvs * 128, np.zeros((len(textured.uvs), 1))], axis=1)  # in texels
    texel = np.sqrt(face_areas(textured.vertices, textured.faces).sum() / face_areas(flat, textured.faces).sum())
    step = 127.5 * 5 * texel  # the most that the colour changes from one texel to the next
    assert error.mean() < 0.5 * step
    assert error.max() < 2 * step  # a vertex on a chart's border reads the padding: the colour up to 2 texels inside


def test_srgb_curve_has_its_known_values():
    assert srgb_to_linear(np.array([0.0, 0.04045, 0.5, 1.0])) == pytest.approx([0, 0.0031308, 0.2140411, 1], abs=1e-6)
    values = np.linspace(0, 1, 100)
    assert linear_to_srgb(srgb_to_linear(values)) == pytest.approx(values, abs=1e-6)


# ---- round trip


def test_round_trip_sees_the_same_pictures_and_notices_a_change(textured: Mesh, tmp_path: Path):
    cameras = turntable(2, 20.0, 3.0, 45.0, 64)
    reference = render_mesh(textured, cameras, 0.0).rgb

    def compared(mesh: Mesh, name: str) -> float:
        save_glb(mesh, tmp_path / name)
        return psnr(render_mesh(load_glb(tmp_path / name), cameras, 0.0).rgb, reference)

    assert compared(textured, "a.glb") > 60
    assert textured.base_color is not None
    assert compared(replace(textured, base_color=textured.base_color[::-1].copy()), "flipped.glb") < 25
    assert compared(replace(textured, vertices=textured.vertices[:, [2, 1, 0]]), "turned.glb") < 25


def test_psnr_by_hand():
    assert psnr(torch.full((1, 2, 2, 3), 0.5), torch.full((1, 2, 2, 3), 0.6)) == pytest.approx(20.0, abs=1e-4)
    assert psnr(torch.ones(1, 1, 1, 3), torch.ones(1, 1, 1, 3)) == 100.0
    with pytest.raises(ValueError, match="shapes"):
        psnr(torch.ones(1, 1, 1, 3), torch.ones(1, 2, 1, 3))


# ---- pictures


def test_turntable_is_an_endless_animation_with_the_given_frames(tmp_path: Path):
    frames = torch.zeros(5, 32, 48, 3)
    frames[:, :, :, 0] = torch.linspace(0, 1, 5)[:, None, None]
    save_turntable(frames, tmp_path / "t.webp", fps=10)
    with Image.open(tmp_path / "t.webp") as image:
        assert (image.size, image.n_frames, image.info["loop"]) == ((48, 32), 5, 0)  # type: ignore[attr-defined]
        for index in range(5):
            image.seek(index)
            assert np.asarray(image.convert("RGB"))[16, 24, 0] == pytest.approx(index / 4 * 255, abs=6)
    with pytest.raises(ValueError, match="frames"):
        save_turntable(torch.zeros(0, 4, 4, 3), tmp_path / "t.webp")


def test_contact_sheet_places_frames_in_reading_order():
    frames = torch.arange(5).float()[:, None, None, None].expand(5, 4, 6, 3) / 8
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(frames, columns=3))))
    assert sheet.shape == (8, 18, 3)
    assert [int(sheet[y, x, 0]) for y in (0, 4) for x in (0, 6, 12)] == [0, 32, 64, 96, 128, 255]
    assert Image.open(io.BytesIO(contact_sheet(frames[:2], columns=8))).size == (12, 4)
