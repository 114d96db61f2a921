"""OBJ, PLY and STL files in the odd forms that programs write: size, orientation and the colour of each side of a known box."""

from __future__ import annotations

import os

import numpy as np
import pytest
import trimesh
from box_helpers import (
    COLORS,
    MTL,
    SIZE,
    binary_stl,
    box,
    loaded,
    obj,
    picture,
    ply,
    side_colors,
    text_stl,
    triangles,
)  # fmt: skip
from PIL import Image

from dreamlift.meshing.geometry import face_areas, signed_volume
from dreamlift.reading import mesh as load
from dreamlift.reading.mesh import RADIUS, load_mesh
from dreamlift.reading.parse import parse

WHITE, GREY = np.full((6, 3), 255), np.full((6, 3), 127.5)
POINTS, UVS, QUADS = box()
RADIUS_OF_BOX = float(np.linalg.norm(SIZE) / 2)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(load, "parse_limited", parse)


def relative():
    """Each side's vertices right before its face, which counts back: positions by -4 to -1, texture coordinates likewise."""
    text = "mtllib m.mtl\nusemtl box\n"
    for quad in QUADS:
        text += "".join(f"v {x:f} {y:f} {z:f}\n" for x, y, z in POINTS[quad])
        text += "".join(f"vt {u:f} {v:f}\n" for u, v in UVS[quad])
        text += "f -4/-4 -3/-3 -2/-2 -1/-1\n"
    return text


def kds():
    """(OBJ, MTL) with a material for each side, without pictures."""
    text = obj(face="{}")
    head = text[: text.index("usemtl")]
    faces = "".join(f"usemtl m{i}\nf {' '.join(str(at + 1) for at in quad)}\n" for i, quad in enumerate(QUADS))
    return head + faces, "".join(f"newmtl m{i}\nKd {r} {g} {b}\n" for i, (r, g, b) in enumerate(COLORS / 255))


def colored(values, suffix=""):
    """An OBJ file with numbers behind each position."""
    lines = [f"v {x:g} {y:g} {z:g} {' '.join(f'{c:g}' for c in values[at // 4])}" for at, (x, y, z) in enumerate(POINTS)]
    return "\n".join([*lines, suffix, *(f"f {' '.join(str(at + 1) for at in quad)}" for quad in QUADS)])


def mrgb():
    lines = [f"v {x:g} {y:g} {z:g}" for x, y, z in POINTS]
    paint = "".join("ff" + bytes(COLORS[at // 4]).hex() for at in range(24))
    lines += ["#MRGB " + paint[:80], "#MRGB " + paint[80:]]
    return "\n".join([*lines, *(f"f {a} {b} {c} {d}" for a, b, c, d in QUADS + 1)])


def moved_uvs(scale, offset):
    """Texture coordinates that a map's options -s and -o bring to their places, with v upwards as in the file."""
    moved = "".join(f"vt {u:f} {v:f}\n" for u, v in (UVS - offset) / scale)
    text = obj()
    return text[: text.index("vt ")] + moved + text[text.index("usemtl") :]


def from_the_end():
    text = obj(face="{}")
    faces = "".join("f " + " ".join(f"{at - 24}/{at - 24}" for at in quad) + "\n" for quad in QUADS)
    return text[: text.index("usemtl")] + "usemtl box\n" + faces


MAP = MTL.replace("map_Kd m.png", "map_Kd {}").format
# The files of a folder, the colours of the six sides, and words of the note ("" for none).
OBJS = {
    "quads": ({}, COLORS, ""),
    "spaces in names": ({"a.obj": obj("mtllib my material file.mtl", "usemtl red paint 2"), "m.mtl": None,
                         "my material file.mtl": MAP("my tex file.png").replace("newmtl box", "newmtl red paint 2"),
                         "my tex file.png": picture()}, COLORS, ""),
    "CRLF": ({"a.obj": obj().replace("\n", "\r\n"), "m.mtl": MTL.replace("\n", "\r\n")}, COLORS, ""),
    "CR only": ({"a.obj": obj().replace("\n", "\r"), "m.mtl": MTL.replace("\n", "\r")}, COLORS, ""),
    "byte order mark": ({"a.obj": b"\xef\xbb\xbf" + obj().encode()}, COLORS, ""),
    "UTF-16": ({"a.obj": obj().encode("utf-16")}, COLORS, ""),
    "UTF-16 of the other order": ({"a.obj": b"\xfe\xff" + obj().encode("utf-16-be")}, COLORS, ""),
    "byte order mark in the materials": ({"m.mtl": b"\xef\xbb\xbf" + MTL.encode()}, COLORS, ""),
    "backslash": ({"m.mtl": MAP(".\\m.png")}, COLORS, ""),
    "a folder below": ({"m.mtl": MAP("textures/t.png"), "textures/t.png": picture()}, COLORS, ""),
    "a folder below, by backslash": ({"m.mtl": MAP("textures\\t.png"), "textures/t.png": picture()}, COLORS, ""),
    "a path of another machine": ({"a.obj": obj("mtllib C:\\Old\\M.MTL"), "m.mtl": MAP("/home/me/tex/M.PNG")}, COLORS, ""),
    "one name in two folders": ({"m.mtl": MAP("C:\\x\\Textures\\b\\m.png"), "m.png": b"", "textures/a/m.png": b"",
                                 "textures/b/m.png": picture()}, COLORS, ""),
    "an address": ({"a.obj": obj("mtllib http://example.org/m.mtl")}, COLORS, ""),
    "two libraries in a line": ({"a.obj": obj("mtllib other.mtl m.mtl"), "other.mtl": "newmtl x\nKd 1 0 0\n"}, COLORS, ""),
    "missing picture": ({"m.mtl": MAP("nowhere.png")}, WHITE, "picture 'nowhere.png' was not found"),
    "missing materials": ({"m.mtl": None}, GREY, "material file 'm.mtl' was not found"),
    "undefined material": ({"a.obj": obj(use="usemtl other")}, GREY,
                           "1 material that it uses defined nowhere (the first is 'other')"),
    "quoted": ({"a.obj": obj('mtllib "m.mtl"'), "m.mtl": MAP('"m.png"')}, COLORS, ""),
    "commented library": ({"a.obj": obj("# was: mtllib C:\\old\\thing.mtl\nmtllib m.mtl")}, COLORS, ""),
    "map options": ({"m.mtl": MAP("-blendu on -bm 0.5 -s 1.0 1.000000 1 -o 0 0 0 -mm 0 1 m.png")}, COLORS, ""),
    "map options that move": ({"a.obj": moved_uvs((0.5, 2), (-1, 0.5)), "m.mtl": MAP("-clamp off -o -1 0.5 -s 0.5 2 m.png")},
                              COLORS, ""),
    "map options that are no whole numbers": (
        {"a.obj": moved_uvs((1.3, 0.4), (0.2, -0.15)), "m.mtl": MAP("-s 1.3 0.4 -o 0.2 -0.15 m.png")}, COLORS, ""),
    "vertex colours": ({"a.obj": colored(COLORS / 255)}, COLORS, ""),
    "vertex colours to 255": ({"a.obj": colored(COLORS)}, COLORS, ""),
    "a weight of the vertices": ({"a.obj": colored(np.ones((6, 1)))}, GREY, ""),
    "polypaint": ({"a.obj": mrgb()}, COLORS, ""),
    "polypaint cut off": ({"a.obj": mrgb().replace("#MRGB", "#", 1)}, GREY, "polypaint (#MRGB) does not fit"),
    "negative indices": ({"a.obj": relative()}, COLORS, ""),
    "negative indices after all": ({"a.obj": from_the_end()}, COLORS, ""),
    "line continuation": ({"a.obj": obj(face="f \\\n{}\n").replace(" 3/3", " \\\n  3/3")}, COLORS, ""),
    "tabs and spaces": ({"a.obj": obj(face="f\t{}  \n").replace("v ", "v\t ").replace("vt ", "  vt\t")}, COLORS, ""),
    "names in cp1252": ({"a.obj": obj("mtllib Würfel.mtl").encode("cp1252"), "m.mtl": None, "Würfel.png": picture(),
                         "Würfel.mtl": MAP("Würfel.png").encode("cp1252")}, COLORS, ""),
    "names in UTF-8": ({"a.obj": obj("mtllib Würfel.mtl"), "m.mtl": None, "Würfel.mtl": MAP("WÜRFEL.PNG"),
                        "Würfel.png": picture()}, COLORS, ""),
    "lower case": ({"m.mtl": MTL.replace("map_Kd", "map_kd")}, COLORS, ""),
    "ambient picture only": ({"m.mtl": MTL.replace("map_Kd", "map_Ka")}, WHITE, "maps map_Ka of its materials are not used"),
    "BMP": ({"m.mtl": MAP("m.bmp"), "m.bmp": picture("BMP")}, COLORS, ""),
    "TGA": ({"m.mtl": MAP("m.tga"), "m.tga": picture("TGA")}, COLORS, ""),
    "TIFF": ({"m.mtl": MAP("m.tif"), "m.tif": picture("TIFF")}, COLORS, ""),
    "DDS": ({"m.mtl": MAP("m.dds"), "m.dds": picture("DDS")}, COLORS, ""),
    "a picture that is none": ({"m.png": b"<svg>" * 9}, WHITE, "picture 'm.png' is not a readable PNG"),
    "a picture cut off": ({"m.png": picture()[:70]}, WHITE, "picture 'm.png' is not a readable PNG"),
    "one number for a colour": ({"m.mtl": "newmtl box\nKa 0\nKd 0.5\n"}, GREY, ""),
    "a spectrum": ({"m.mtl": MTL.replace("Ka 1 1 1", "Ka spectral file.rfl 1.0")}, COLORS, ""),
    "CIE XYZ": ({"m.mtl": "newmtl box\nKd xyz 0.4124 0.2126 0.0193\n"}, np.tile([255, 0, 0], (6, 1)), ""),
    "six colours": (dict(zip(("a.obj", "m.mtl"), kds(), strict=True)), COLORS, ""),
    "grey of 0.4": ({"m.mtl": "newmtl box\nKd 0.4 0.4 0.4\n"}, np.full((6, 3), 102), ""),
    "groups named as statements": ({"a.obj": obj("mtllib m.mtl\ng f 1 2 3\no v 1 2\ns off")}, COLORS, ""),
    "lines and points": ({"a.obj": obj(extra="l 1 2 3\np 1")}, COLORS, "its lines and points left out"),
    "curves": ({"a.obj": obj(extra="cstype bezier\ncurv 0 1 1 2")}, COLORS, "free-form curves and surfaces left out"),
    "strange lines": ({"a.obj": obj(extra="hello world\nhello again")}, COLORS, "2 lines with no OBJ statement left out"),
    "comments behind numbers": ({"a.obj": obj(face="f {} # a side\n")}, COLORS, ""),
    "material before its library": ({"a.obj": obj("", "usemtl box\nmtllib m.mtl")}, COLORS, ""),
    "no final newline": ({"a.obj": obj().rstrip()}, COLORS, ""),
    "maps elsewhere": ({"m.mtl": MTL + "map_Bump textures/n.png\n"}, COLORS, "maps map_Bump of its materials are not used"),
    "transparent": ({"m.mtl": MTL.replace("d 1", "d 0.5")}, COLORS, "materials' transparency is not used"),
    "double spaces": ({"a.obj": obj(face="f  {} \n").replace("mtllib m.mtl", "mtllib m.mtl ")}, COLORS, ""),
    "faces of two corners": ({"a.obj": obj(extra="f 1 2")}, COLORS, "1 face of fewer than three corners left out"),
    "texture coordinates of 1e300": ({"a.obj": obj().replace("vt 0.", "vt 1e30", 1)}, GREY, "coordinates that are no numbers"),
}  # fmt: skip


def folder_of(tmp_path, files):
    for name, data in ({"a.obj": obj(), "m.mtl": MTL, "m.png": picture()} | files).items():
        if data is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return tmp_path / "a.obj"


@pytest.mark.parametrize("name", OBJS)
def test_forms_of_obj(name, tmp_path):
    files, colors, note = OBJS[name]
    check_box(folder_of(tmp_path, files), colors, note)


def check_box(path, colors, note=""):
    """The file is the box, with its sides outwards and these colours, and with one note that says ``note``, or none."""
    mesh, origin, notes = loaded(path)
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0) / origin.scale, SIZE, atol=1e-4)
    assert signed_volume(mesh.vertices, mesh.faces) / origin.scale**3 == pytest.approx(6, rel=1e-4)
    assert origin.scale == pytest.approx(RADIUS / RADIUS_OF_BOX, rel=1e-5)
    if colors is not None:
        assert np.abs(side_colors(mesh) - colors).max() <= 3
    assert note in notes
    assert bool(note) == bool(notes)


RGB = [f"{r} {g} {b}" for r, g, b in COLORS[np.repeat(np.arange(6), 4)]]
CHARS = [f"uchar {name}" for name in ("red", "green", "blue")]
FACES = [f"3 {a} {b} {c}" for a, b, c in QUADS[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)]
TEXCOORDS = [f"{face} 8 " + " ".join(f"{x:g}" for x in UVS[quad].ravel())
             for face, quad in zip([f"4 {a} {b} {c} {d}" for a, b, c, d in QUADS], QUADS, strict=True)]  # fmt: skip


def binary_ply(order="<", kind="u1", scale=1, newline="\n"):
    """Triangles and one quad, so that rows differ in length, with colours of a type."""
    head = {"<": "little", ">": "big"}[order]
    name = {"u1": "uchar", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float", "f8": "double"}[kind]
    text = ply(columns=[f"{name} {c}" for c in ("red", "green", "blue")], rows=RGB, head=f"format binary_{head}_endian 1.0",
               faces=[""] * 11)  # fmt: skip
    data = text[: text.index("end_header\n") + len("end_header\n")].replace("\n", newline).encode()
    rows = np.zeros(24, [("p", order + "f4", 3), ("c", order + kind, 3)])
    rows["p"], rows["c"] = POINTS, COLORS[np.repeat(np.arange(6), 4)].astype(float) * scale
    data += rows.tobytes()
    faces = [list(QUADS[0]), *QUADS[1:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3).tolist()]
    return data + b"".join(bytes([len(face)]) + np.array(face, order + "i4").tobytes() for face in faces)


SPLAT = [f"float {name}" for name in ("f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "rot_0")]
STRIPS = ply().split("element face")[0] + (
    "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    + "\n".join(f"{x:g} {y:g} {z:g}" for x, y, z in POINTS)
    + "\n30 " + " ".join(f"{a} {b} {d} {c} -1" for a, b, c, d in QUADS) + "\n"
)  # fmt: skip
UV_ROWS = [f"{u:g} {v:g}" for u, v in UVS]
PLYS = {
    "quads": (ply(), GREY, ""),
    "further properties": (ply(columns=["double quality", "int flags", *CHARS, "uchar alpha"],
                               rows=[f"0.5 7 {c} 255" for c in RGB]), COLORS, ""),
    "properties that are not used": (ply(columns=["float heat"], rows=["1"] * 24), GREY, "properties heat of its vertices"),
    "float colours": (ply(columns=["float red", "float green", "float blue"],
                          rows=[" ".join(str(int(c) / 255) for c in row.split()) for row in RGB]), COLORS, ""),
    "diffuse colours": (ply(columns=[f"uchar diffuse_{name}" for name in ("red", "green", "blue")], rows=RGB), COLORS, ""),
    "binary": (binary_ply(), COLORS, ""),
    "big endian": (binary_ply(">"), COLORS, ""),
    "ushort colours": (binary_ply(kind="u2", scale=257), COLORS, ""),
    "int colours": (binary_ply(kind="i4"), COLORS, ""),
    "uint colours": (binary_ply(kind="u4"), COLORS, ""),
    "int colours of text": (ply(columns=[each.replace("uchar", "int") for each in CHARS], rows=RGB), COLORS, ""),
    "dark ushort colours": (binary_ply(kind="u2", scale=1), COLORS // 255, ""),
    "uint colours of the whole range": (binary_ply(kind="u4", scale=(2**32 - 1) / 255), COLORS, ""),
    "double colours": (binary_ply(kind="f8", scale=1 / 255), COLORS, ""),
    "CRLF in a binary header": (binary_ply(newline="\r\n"), COLORS, ""),
    "CRLF": (ply(columns=CHARS, rows=RGB).replace("\n", "\r\n"), COLORS, ""),
    "CR only": (ply(columns=CHARS, rows=RGB).replace("\n", "\r"), COLORS, ""),
    "picture": (ply(comments=["TextureFile m.png"], faces=TEXCOORDS, face_columns=["list uchar float texcoord"]), COLORS, ""),
    "picture of vertices": (ply(columns=["float s", "float t"], rows=UV_ROWS, comments=["TextureFile m.png"]), COLORS, ""),
    "picture that is missing": (ply(columns=["float u", "float v"], rows=UV_ROWS, comments=["TextureFile x.png"]), GREY,
                                "picture 'x.png' was not found"),
    "picture without coordinates": (ply(comments=["TextureFile m.png"]), GREY, "no texture coordinates"),
    "coordinates without a picture": (ply(columns=["float u", "float v"], rows=UV_ROWS), GREY, ""),
    "picture and colours": (ply(columns=["float s", "float t", *CHARS], rows=[f"{uv} 9 9 9" for uv in UV_ROWS],
                                comments=["TextureFile m.png"]), COLORS, "vertex colours of faces with a picture"),
    "vertex_index": (ply().replace("vertex_indices", "vertex_index").replace("uchar int", "uchar uint"), GREY, ""),
    "face colours": (ply(faces=[f"{face} {RGB[2 * i]}" for i, face in enumerate(FACES)], face_columns=CHARS), COLORS, ""),
    "face colours of quads and triangles": (ply(
        faces=[f"4 0 1 2 3 {RGB[0]}", *(f"{face} {RGB[2 * i]}" for i, face in enumerate(FACES) if i > 1)],
        face_columns=CHARS), COLORS, ""),
    "triangle strips": (STRIPS, GREY, ""),
    "a comment in cp1252": (ply(comments=["Größe"]).encode("cp1252"), GREY, ""),
    "UTF-16": (ply(columns=CHARS, rows=RGB).encode("utf-16"), COLORS, ""),
    "byte order mark": (ply(columns=CHARS, rows=RGB).encode("utf-8-sig"), COLORS, ""),
    "a long header": (ply(columns=CHARS, rows=RGB, comments=["x" * 70] * 90), COLORS, ""),
    "an empty element": (ply().replace("element vertex", "element edge 0\nproperty int a\nelement vertex"), GREY, ""),
    "a face of two corners": (ply(faces=[*FACES, "2 0 1"]), GREY, "1 face of fewer than three corners"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLYS)
def test_forms_of_ply(name, tmp_path):
    data, colors, note = PLYS[name]
    (tmp_path / "m.png").write_bytes(picture())
    (tmp_path / "a.ply").write_bytes(data if isinstance(data, bytes) else data.encode())
    check_box(tmp_path / "a.ply", colors, note)


def test_faces_before_vertices_and_two_pictures(tmp_path):
    """texnumber chooses among the pictures: the sides along x are of a red one, the others of the usual one."""
    faces = [f"{row} {0 if i < 2 else 1}" for i, row in enumerate(TEXCOORDS)]
    text = ply(comments=["TextureFile red.png", "TextureFile m.png"], faces=faces,
               face_columns=["list uchar float texcoord", "int texnumber"])  # fmt: skip
    head, body = text.split("end_header\n")
    at, then = head.index("element vertex"), head.index("element face")
    before, vertex, face = head[:at], head[at:then], head[then:]
    rows = body.splitlines()
    (tmp_path / "a.ply").write_text(before + face + vertex + "end_header\n" + "\n".join(rows[24:] + rows[:24]) + "\n")
    (tmp_path / "m.png").write_bytes(picture())
    red = np.full((32, 32, 3), (200, 0, 0), np.uint8)
    Image.fromarray(red).save(tmp_path / "red.png")
    check_box(tmp_path / "a.ply", np.concatenate([np.tile([200, 0, 0], (2, 1)), COLORS[2:]]))


@pytest.mark.parametrize(("text", "reason"), [
    (ply(columns=SPLAT, rows=["0 0 0 0 0 0"] * 24, faces=[]), "it holds Gaussian splats"),
    (ply(faces=[]), "no faces: it is a cloud of points"),
    (ply(faces=["3 0 1 24"]), "name vertices 0 to 24, but it has 24"),
    (ply(faces=["3 0 1 -1"]), "name vertices -1 to 1"),
    (ply(faces=["3 0 1 1 2", *FACES[1:]]), "'face' 0 has more or fewer numbers than its header says"),
    (ply(faces=["3 0 1", "3 0 1 2", "0"]), "'face' 0 has more or fewer numbers"),
    (ply(faces=[*FACES, "3 0 1 2 3"]), "'face' 12 has more or fewer numbers"),
    (ply(columns=["float s"], rows=["0"] * 20 + ["0 0"] + ["0"] * 3), "'vertex' 20 has more or fewer numbers"),
    (ply(faces=["3 0 1"]), "ends, or has no number, within 'face' 0"),
    (ply().replace("float x", "half x"), "'property half x', which is no property of a known type"),
    (ply().replace("list uchar", "list float"), "no property of a known type"),
    (ply().replace("ascii", "utf-8"), "names no format; accepted: ascii, binary_little_endian, binary_big_endian"),
    (ply().replace("float x", "float a"), "no element vertex with x, y and z"),
    (binary_ply()[:-9], "ends, or has no number, within 'face'"),
    (ply().replace("0.5", "abc"), "not finite numbers"),
])  # fmt: skip
def test_ply_files_that_are_refused(text, reason, tmp_path):
    (tmp_path / "a.ply").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="cannot be used as a mesh") as caught:
        load_mesh(tmp_path / "a.ply")
    assert reason in str(caught.value)


BAD = np.concatenate([triangles(), np.full((1, 3, 3), np.nan)])
STLS = {
    "binary": (binary_stl(), ""),
    "binary that begins with solid": (binary_stl(header=b"solid made by a program"), ""),
    "binary, solid and zeros": (binary_stl(header=b"solid\0"), ""),
    "bytes behind": (binary_stl() + b"ab", "2 bytes behind its triangles left out"),
    "a newline behind": (binary_stl() + b"\r\n", ""),
    "a count of 0": (binary_stl(count=0), "its header says 0 triangles, but it holds 12"),
    "a count of 2^32 - 1": (binary_stl(count=2**32 - 1), "its header says 4,294,967,295 triangles, but it holds 12"),
    "a NaN triangle": (binary_stl(BAD), "1 triangle with corners that are no finite numbers, or beyond 1e+30, left out"),
    "text": (text_stl(), ""),
    "CRLF": (text_stl().replace("\n", "\r\n"), ""),
    "CR only": (text_stl().replace("\n", "\r"), ""),
    "upper case": (text_stl().upper(), ""),
    "tabs": (text_stl().replace("  ", "\t"), ""),
    "byte order mark": (b"\xef\xbb\xbf" + text_stl().encode(), ""),
    "UTF-16": (text_stl().encode("utf-16"), ""),
    "a name in cp1252": (text_stl(name="Würfel").encode("cp1252"), ""),
    "a name of keywords": (text_stl(name="vertex endloop facet"), ""),
    "two solids": (text_stl(triangles()[:6]) + text_stl(triangles()[6:]), ""),
    "blank lines first": ("\n\n" + text_stl(), ""),
    "no name": (text_stl(name=""), ""),
    "all in one line": (" ".join(text_stl().split()), ""),
    "a NaN vertex": (text_stl(BAD), "1 triangle with corners that are no finite numbers, or beyond 1e+30, left out"),
    "a word for a number": (text_stl(BAD).replace("nan", "1.#QNAN"), "1 triangle with corners that are no finite numbers"),
    "a facet of two corners": (text_stl() + "facet\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nendloop\nendfacet\n",
                               "1 facet without three corners left out"),
    "inside out": (binary_stl(triangles()[:, ::-1]), ""),
    "stray attributes": (binary_stl(colors=np.arange(12)), "values behind its triangles, which may be colours, are not used"),
}  # fmt: skip


@pytest.mark.parametrize("name", STLS)
def test_forms_of_stl(name, tmp_path):
    data, note = STLS[name]
    (tmp_path / "a.stl").write_bytes(data if isinstance(data, bytes) else data.encode())
    check_box(tmp_path / "a.stl", GREY, note)


def test_both_kinds_of_colours_in_stl(tmp_path):
    """Five bits each: Materialise's have red lowest, VisCAM's blue; a triangle of Materialise's may take the general colour."""
    five = (COLORS[np.repeat(np.arange(6), 2)] > 127) * 31
    magics = five[:, 0] | five[:, 1] << 5 | five[:, 2] << 10
    magics[:2] = 0x8000
    (tmp_path / "a.stl").write_bytes(binary_stl(header=b"COLOR=\x20\x40\x80\xff", colors=magics))
    check_box(tmp_path / "a.stl", np.concatenate([[[32, 64, 128]], COLORS[1:]]))
    (tmp_path / "a.stl").write_bytes(binary_stl(colors=five[:, 2] | five[:, 1] << 5 | five[:, 0] << 10 | 0x8000))
    check_box(tmp_path / "a.stl", COLORS)


def test_links_pipes_and_folders_beside_a_mesh_are_not_followed(tmp_path):
    (tmp_path / "secret.mtl").write_text("newmtl box\nKd 1 0 0\n")
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "a.obj").write_text(obj())
    (folder / "m.mtl").symlink_to(tmp_path / "secret.mtl")
    check_box(folder / "a.obj", GREY, "'m.mtl' cannot be opened (Too many levels of symbolic links; links are not followed)")
    (folder / "a.obj").write_text(obj("mtllib ../secret.mtl"))
    check_box(folder / "a.obj", GREY, "material file '../secret.mtl' was not found in its folder or below it")
    (folder / "m.mtl").unlink()
    os.mkfifo(folder / "m.mtl")
    (folder / "a.obj").write_text(obj())
    check_box(folder / "a.obj", GREY, "'m.mtl' is not a plain file")
    (folder / "below").symlink_to(tmp_path)
    (folder / "a.obj").write_text(obj("mtllib secret.mtl"))
    check_box(folder / "a.obj", GREY, "'secret.mtl' was not found")


L_SHAPE = [(0, 0), (3, 0), (3, 1), (1, 1), (1, 3), (0, 3)]


@pytest.mark.parametrize("kind", ["obj", "ply"])
def test_concave_polygons_have_their_area(kind, tmp_path):
    """A prism over an L of 5 squares: area 2 x 5 + 12 x 1, volume 5; every rotation of the outline."""
    for turn in range(6):
        outline = L_SHAPE[turn:] + L_SHAPE[:turn]
        points = np.array([(x, y, z) for z in (0, 1) for x, y in outline], float)
        faces = [tuple(range(5, -1, -1)), tuple(range(6, 12)), *((i, (i + 1) % 6, (i + 1) % 6 + 6, i + 6) for i in range(6))]
        if kind == "obj":
            text = "".join(f"v {x:g} {y:g} {z:g}\n" for x, y, z in points)
            text += "".join("f " + " ".join(str(at + 1) for at in face) + "\n" for face in faces)
        else:
            text = ply(points, faces=[f"{len(face)} " + " ".join(map(str, face)) for face in faces])
        (tmp_path / f"a.{kind}").write_text(text)
        mesh, origin, notes = loaded(tmp_path / f"a.{kind}")
        assert not notes
        assert len(mesh.faces) == 20
        assert face_areas(mesh.vertices, mesh.faces).sum() / origin.scale**2 == pytest.approx(22, rel=1e-4)
        assert signed_volume(mesh.vertices, mesh.faces) / origin.scale**3 == pytest.approx(5, rel=1e-4)


@pytest.mark.parametrize("kind", ["obj", "ply", "stl"])
def test_coordinates_of_maps_are_centred_first(kind, tmp_path):
    """A box of 1 x 2 x 3 metres in UTM coordinates, where float32 has steps of 0.5: text and float64 hold it exactly."""
    far = np.array([500000.123, 4649776.456, 300.0])
    if kind == "obj":
        text = obj("").splitlines()
        text[: text.index("o box") + 25] = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in POINTS + far]
        (tmp_path / "a.obj").write_text("\n".join(text) + "\n")
    elif kind == "stl":
        (tmp_path / "a.stl").write_text(text_stl(triangles() + far))
    else:
        text = ply(POINTS).splitlines()
        start = text.index("end_header") + 1
        text[start : start + 24] = [f"{x:.6f} {y:.6f} {z:.6f}" for x, y, z in POINTS + far]
        (tmp_path / "a.ply").write_text("\n".join(text) + "\n")
    mesh, origin, _ = loaded(tmp_path / f"a.{kind}")
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0) / origin.scale, SIZE, atol=1e-4)
    np.testing.assert_allclose(origin.offset, far, rtol=1e-9)


def test_coordinates_that_float32_cannot_hold_are_refused(tmp_path):
    (tmp_path / "a.stl").write_bytes(binary_stl(triangles() + 3e7))  # steps of 2
    with pytest.raises(ValueError, match=r"stored in steps of 2 at their distance.* too coarse for its size of"):
        load_mesh(tmp_path / "a.stl")


def test_an_independent_reader_finds_the_same_corners(tmp_path):
    """A torus in five files by trimesh's writers: the same triangles as trimesh reads."""
    torus = trimesh.creation.torus(1.0, 0.3, major_sections=16, minor_sections=8)
    for name, options in (("a.obj", {}), ("a.ply", {}), ("b.ply", {"encoding": "ascii"}), ("a.stl", {}),
                          ("b.stl", {"file_type": "stl_ascii"})):  # fmt: skip
        torus.export(tmp_path / name, **options)
        part, notes = parse((tmp_path / name).read_bytes(), (tmp_path / name).suffix, tmp_path)
        found = trimesh.load_mesh(tmp_path / name, process=False)
        assert not notes
        np.testing.assert_allclose(part.vertices[part.faces], found.triangles, atol=1e-6)
