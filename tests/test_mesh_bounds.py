"""Bounds on what a mesh file may cost: its own process, time, memory and counts, each named in the message."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import trimesh
from mesh_helpers import COLORS, MTL, box, loaded, obj, picture, side_colors
from PIL import Image

from dreamlift.reading import limited, parse
from dreamlift.reading import mesh as load
from dreamlift.reading.formats.polygons import ALL_CORNERS, CORNERS, triangulated
from dreamlift.reading.mesh import load_mesh


def folder_of(tmp_path, text, materials=MTL):
    (tmp_path / "a.obj").write_text(text)
    (tmp_path / "m.mtl").write_text(materials)
    (tmp_path / "m.png").write_bytes(picture())
    return tmp_path / "a.obj"


def test_the_process_hands_over_what_the_reader_found(tmp_path):
    path = folder_of(tmp_path, obj(extra="l 1 2"), MTL + "map_Bump n.png\n")
    here, notes = parse.parse(path.read_bytes(), ".obj", tmp_path)
    there, said = limited.parse_limited(path.read_bytes(), ".obj", tmp_path)
    assert said == notes
    assert len(notes) == 2
    for name in limited.ARRAYS:
        a, b = getattr(here, name), getattr(there, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    assert [getattr(here, name) for name in limited.NUMBERS] == [getattr(there, name) for name in limited.NUMBERS]


def test_the_process_loads_no_torch():
    said = "import sys; import dreamlift.reading.limited; print([n for n in ('torch', 'trimesh', 'PIL') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_file_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(limited, "SECONDS", 0.01)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"a.obj' cannot be used as a mesh: reading it takes more than 0.01 s: simplify it"):
        load_mesh(folder_of(tmp_path, obj()))
    assert time.monotonic() - start < 3


@pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded on Linux")
def test_a_file_that_takes_too_much_memory_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(limited, "MEMORY", 256 << 20)
    data = b"v 0 0 0\n" * 3 + b"f 1 2 3\n" * 1_000_000
    with pytest.raises(ValueError, match=r"reading it takes more than 0.25 GiB of memory: simplify it"):
        limited.parse_limited(data, ".obj", tmp_path)


@pytest.mark.parametrize(("main", "reason"), [
    ("import os; os._exit(3)", "ended with code 3"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with code -9"),
    ("raise KeyError('x')", r"ended with code 1 \(KeyError: 'x'\)"),
])  # fmt: skip
def test_a_process_that_ends_by_itself_is_told(main, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(limited, "MAIN", main)
    with pytest.raises(ValueError, match=reason):
        limited.parse_limited(b"x", ".obj", tmp_path)


def test_where_no_process_can_be_started_the_file_is_still_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    assert len(load_mesh(folder_of(tmp_path, obj()))[0].faces) == 12
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert len(load_mesh(tmp_path / "a.obj")[0].faces) == 12


def test_a_folder_of_the_name_numpy_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert len(load_mesh(folder_of(tmp_path, obj()))[0].faces) == 12


ALL = "f " + " ".join(map(str, range(1, 5001)))
SLOW = {
    "300 libraries": ("".join(f"mtllib {i}.mtl\n" for i in range(300)) + obj(), "it names more than 256 files"),
    "300 libraries that are the same": ("mtllib m.mtl\n" * 300 + obj(), ""),
    "300,001 materials": (obj(extra="usemtl a\n" * 300_001), "changes its material 300,002 times; accepted: 300,000"),
    "20,000 materials": (obj(extra="".join(f"usemtl {i}\n" for i in range(20_000)) + "usemtl box"), ""),
    "a convex polygon of 5,000 corners": (
        "".join(f"v {np.cos(a)} {np.sin(a)} 0\n" for a in np.linspace(0, 6.28, 5000)) + ALL, ""),
    "a jagged polygon of 5,000 corners": (
        "".join(f"v {(1 + i % 2) * np.cos(a)} {(1 + i % 2) * np.sin(a)} 0\n" for i, a in enumerate(np.linspace(0, 6.28, 5000)))
        + ALL, "the largest with 5,000 corners"),
    "a face of 100,000 corners at one point": ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\nf " + "1 " * 100_000, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_what_took_minutes_takes_seconds_or_is_named(name, tmp_path):
    text, reason = SLOW[name]
    start = time.monotonic()
    if reason:
        with pytest.raises(ValueError, match=reason):
            load_mesh(folder_of(tmp_path, text))
    else:
        load_mesh(folder_of(tmp_path, text))
    assert time.monotonic() - start < 20  # 1 s on an idle machine


def test_ear_clipping_covers_polygons_of_many_reflex_corners():
    """Random stars and a spiral: the triangles' signed areas are positive, and their sum is the shoelace formula's."""
    rng = np.random.default_rng(0)
    outlines = []
    for count in (6, 9, 40, 300):
        angle, radius = np.linspace(0, 2 * np.pi, count, endpoint=False), rng.uniform(0.2, 1, count)
        outlines.append(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1))
    turn = np.linspace(0, 12, 100)
    spiral = [np.stack([(turn + gap) * np.cos(turn), (turn + gap) * np.sin(turn)], axis=1) for gap in (2, 1)]
    outlines.append(np.concatenate([spiral[0], spiral[1][::-1]]))
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]  # a plane across all axes
    counts = np.array([len(outline) for outline in outlines])
    triangles, owner = triangulated(np.concatenate(outlines) @ axes[:2], counts)
    flat = np.concatenate(outlines)
    a, b, c = (flat[triangles[:, i]] for i in range(3))
    signed = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    for number, outline in enumerate(outlines):
        x, y = outline.T
        area = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
        own = signed[owner == number]
        assert len(own) == len(outline) - 2
        assert own.sum() == pytest.approx(area, rel=1e-9)
        assert (own * np.sign(area)).min() > -1e-12
    assert CORNERS < ALL_CORNERS


@pytest.fixture
def few_faces(monkeypatch):
    monkeypatch.setattr(load, "parse_limited", parse.parse)
    monkeypatch.setattr(parse, "FACES", 2000)


def test_a_mesh_over_the_limit_is_decimated_with_its_colours(tmp_path, few_faces):
    """A ball of 20,480 faces, whose colours are its coordinates."""
    ball = trimesh.creation.icosphere(5)
    colors = np.round((ball.vertices + 1) / 2 * 255).astype(np.uint8)
    ball.visual = trimesh.visual.ColorVisuals(ball, vertex_colors=np.c_[colors, np.full(len(colors), 255, np.uint8)])
    ball.export(tmp_path / "a.ply")
    mesh, origin, note = loaded(tmp_path / "a.ply")
    assert note == "a.ply: its 20,480 faces were decimated to 2,000"
    assert len(mesh.faces) == 2000
    home = origin.restored(mesh)
    np.testing.assert_allclose(np.linalg.norm(home.vertices, axis=1), 1, atol=0.01)
    np.testing.assert_allclose(mesh.vertex_colors, (home.vertices + 1) / 2, atol=0.06)


def test_a_decimated_texture_becomes_vertex_colours(tmp_path, few_faces):
    """A box of 6 x 32 x 32 quads with a texture: the colours of its sides remain, away from its edges."""
    points, uvs, _ = box()
    grid, fine, fine_uvs, faces = np.linspace(0, 1, 33), [], [], []
    for side in range(6):
        for values, out in ((points, fine), (uvs, fine_uvs)):
            a, b, _, d = values[4 * side : 4 * side + 4]
            out += [a + (b - a) * u + (d - a) * v for v in grid for u in grid]
        start = side * 33 * 33
        faces += [[start + 33 * j + i + step for step in (1, 2, 35, 34)] for j in range(32) for i in range(32)]
    body = "".join(f"v {x} {y} {z}\n" for x, y, z in fine) + "".join(f"vt {u} {v}\n" for u, v in fine_uvs) + "usemtl box\n"
    body += "".join("f " + " ".join(f"{at}/{at}" for at in face) + "\n" for face in faces)
    mesh, _, note = loaded(folder_of(tmp_path, "mtllib m.mtl\n" + body))
    assert note == "a.obj: its 12,288 faces were decimated to 2,000 (its texture became vertex colours)"
    assert np.abs(side_colors(mesh) - COLORS).max() <= 3


def test_what_cannot_be_decimated_is_refused(tmp_path, few_faces):
    """Random triangles of common corners: nearly every collapse would turn a face over."""
    rng = np.random.default_rng(0)
    points, faces = rng.normal(size=(600, 3)), rng.integers(1, 601, (4000, 3))
    text = "".join(f"v {x} {y} {z}\n" for x, y, z in points) + "".join(f"f {a} {b} {c}\n" for a, b, c in faces)
    with pytest.raises(ValueError, match=r"its 4,000 faces could not be decimated to 2,000 \(only to 3,"):
        load_mesh(folder_of(tmp_path, text))


def test_the_texels_of_all_pictures_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "parse_limited", parse.parse)
    monkeypatch.setattr("dreamlift.reading.formats.beside.TEXELS", 48 * 32 + 100)
    two = MTL + "newmtl two\nmap_Kd two.png\n"
    Image.new("RGB", (32, 32)).save(tmp_path / "two.png")
    path = folder_of(tmp_path, obj(extra="v 0 0 0\nv 0 0 1\nv 0 1 0\nusemtl two\nf 25/1 26/2 27/3\nusemtl box"), two)
    assert "'two.png' is too large: all textures together may have 67,108,864 texels" in loaded(path)[2]
