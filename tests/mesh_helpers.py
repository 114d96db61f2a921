"""A box of 1 x 2 x 3 with a colour on each side, written in the forms of OBJ, PLY and STL, and what a reader made of it."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from dreamlift.meshing.nearest import Nearest
from dreamlift.reading.mesh import load_mesh
from dreamlift.texturing.sampling import colors_at

SIZE = np.array([1.0, 2.0, 3.0])
# +x, -x, +y, -y, +z, -z
COLORS = np.array([[255, 0, 0], [0, 255, 255], [0, 255, 0], [255, 0, 255], [0, 0, 255], [255, 255, 0]], np.uint8)


def box():
    """Points ``(24, 3)``, texture coordinates ``(24, 2)`` with v upwards, and six quads ``(6, 4)`` seen from outside."""
    points, uvs = [], []
    for axis in range(3):
        for sign in (1, -1):
            u, v = ((axis + 1) % 3, (axis + 2) % 3) if sign > 0 else ((axis + 2) % 3, (axis + 1) % 3)
            side = len(points) // 4
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
                point = np.zeros(3)
                point[[axis, u, v]] = sign, a, b
                points.append(point * SIZE / 2)
                uvs.append([(side % 3 + 0.5 + 0.4 * a) / 3, 1 - (side // 3 + 0.5 + 0.4 * b) / 2])
    return np.array(points), np.array(uvs), np.arange(24).reshape(6, 4)


def picture(kind="PNG"):
    """The colours as a picture of 3 x 2 tiles, of 16 texels a side each."""
    out = io.BytesIO()
    Image.fromarray(COLORS.reshape(2, 3, 3).repeat(16, axis=0).repeat(16, axis=1)).save(out, kind)
    return out.getvalue()


MTL = "newmtl box\nNs 250\nKa 1 1 1\nKd 1 1 1\nd 1\nillum 2\nmap_Kd m.png\n"


def obj(library="mtllib m.mtl", use="usemtl box", face="f {}\n", corner="{0}/{0}", extra=""):
    """An OBJ file of the box with texture coordinates."""
    points, uvs, quads = box()
    lines = ["# a box", library, "o box", *(f"v {x:f} {y:f} {z:f}" for x, y, z in points)]
    lines += [f"vt {u:f} {v:f}" for u, v in uvs] + [use, extra]
    text = "\n".join(line for line in lines if line) + "\n"
    return text + "".join(face.format(" ".join(corner.format(at + 1) for at in quad)) for quad in quads)


def ply(points=None, columns=(), rows=(), head="format ascii 1.0", faces=None, face_columns=(), comments=()):
    """A text PLY file: ``columns`` are the header's lines of further vertex properties, ``rows`` their values as text."""
    points = box()[0] if points is None else points
    faces = [f"4 {a} {b} {c} {d}" for a, b, c, d in box()[2]] if faces is None else faces
    lines = ["ply", head, *(f"comment {text}" for text in comments), f"element vertex {len(points)}"]
    lines += [f"property float {name}" for name in "xyz"] + [f"property {text}" for text in columns]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", *(f"property {c}" for c in face_columns)]
    lines += ["end_header"]
    rows = rows if len(rows) else [""] * len(points)
    lines += [f"{x:g} {y:g} {z:g} {row}".rstrip() for (x, y, z), row in zip(points, rows, strict=True)]
    return "\n".join([*lines, *faces]) + "\n"


def triangles():
    """The box's corners ``(12, 3, 3)``."""
    points, _, quads = box()
    return points[quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)]


def text_stl(corners=None, name="my part"):
    corners = triangles() if corners is None else corners
    facets = "".join(
        "  facet normal 0 0 0\n    outer loop\n" + "".join(f"      vertex {x:f} {y:f} {z:f}\n" for x, y, z in each)
        + "    endloop\n  endfacet\n" for each in corners
    )  # fmt: skip
    return f"solid {name}\n{facets}endsolid {name}\n"


def binary_stl(corners=None, header=b"", count=None, colors=None):
    corners = triangles() if corners is None else corners
    rows = np.zeros(len(corners), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("color", "<u2")])
    rows["corners"] = corners
    if colors is not None:
        rows["color"] = colors
    return header.ljust(80) + np.uint32(len(corners) if count is None else count).tobytes() + rows.tobytes()


def side_colors(mesh):
    """The sRGB colours ``(6, 3)`` in 0..255 at the middle of the sides of the mesh's bounding box."""
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    middle, half = (low + high) / 2, (high - low) / 2
    points = [middle + np.eye(3)[axis] * half * sign for axis in range(3) for sign in (1, -1)]
    return (colors_at(mesh, *Nearest(mesh)(torch.tensor(np.array(points)).float())) * 255).round().numpy()


def loaded(path):
    """The mesh, its placement, and the notes of a file."""
    notes: list[str] = []
    mesh, origin = load_mesh(path, note=notes.append)
    assert len(notes) < 2
    return mesh, origin, "".join(notes)
