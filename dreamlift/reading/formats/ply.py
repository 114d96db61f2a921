"""PLY files, text or binary: polygons or triangle strips, with colours and texture coordinates of vertices or faces.

Turk's description: http://paulbourke.net/dataformats/ply/. The names of properties are those that MeshLab, Blender,
CloudCompare and scanners write. ``comment TextureFile NAME`` (MeshLab, Metashape) names a picture in the file's folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dreamlift.meshing.geometry import row_numbers
from dreamlift.reading.formats.beside import Beside
from dreamlift.reading.formats.corners import color_range, distinct
from dreamlift.reading.formats.plydata import Element, elements
from dreamlift.reading.formats.polygons import triangulated
from dreamlift.reading.part import FLAT_METALLIC, FLAT_ROUGHNESS, Contents, Part, counted

POSITION, NORMAL = ("x", "y", "z"), ("nx", "ny", "nz")
INDICES = ("vertex_indices", "vertex_index", "vertexindices", "indices")
UVS = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t"), ("s0", "t0"))
COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
TEXCOORD, TEXNUMBER = "texcoord", "texnumber"
WIDE = 65535  # largest value of the types of 16 bits
SPLATS = ("f_dc_0", "opacity", "rot_0")
# Of vertices and faces that are not used, and whose absence nobody sees.
QUIET = {"alpha", "diffuse_alpha", "a", "quality", "flags", "confidence", "intensity", "radius", "curvature", "value"}


def read_ply(data: bytes, folder: Path) -> Contents:
    """The parts of a PLY file, one for each picture. Raises ValueError for one that cannot be read, or has no faces."""
    found, comments = elements(data)
    beside = Beside(folder)
    vertex = found.get("vertex")
    if vertex is None or any(name not in vertex.columns for name in POSITION):
        raise ValueError("its header names no element vertex with x, y and z")
    if all(name in vertex.columns for name in SPLATS) and not len(found.get("face", ())):
        raise ValueError(
            "it holds Gaussian splats, which have no surface: give a mesh (most programs for splats can export one)"
        )
    face = found.get("face")
    indices = None if face is None else next((face.lists[name] for name in INDICES if name in face.lists), None)
    if face is not None and indices is not None and len(face):
        notes = [] if "tristrips" not in found else ["its triangle strips beside its faces are left out"]
        return _of_faces(vertex, face, indices, _textures(comments, beside), beside, notes)
    strips = found.get("tristrips")
    values = None if strips is None else next((strips.lists[name] for name in INDICES if name in strips.lists), None)
    if values is None or not len(values[0]):
        raise ValueError("it has no faces" + (": it is a cloud of points" if len(vertex) else ""))
    faces = _unstripped(*values)
    _check(faces, len(vertex))
    notes: list[str] = []
    part = _vertex_part(vertex, faces, _textures(comments, beside)[:1], beside, notes)
    return Contents([part], notes + beside.notes)


def _textures(comments: list[bytes], beside: Beside) -> list[np.ndarray | None]:
    """The pictures that the comments name, in their order."""
    words = [line.split(None, 1) for line in comments]
    return [beside.picture(word[1]) for word in words if len(word) == 2 and word[0].lower() == b"texturefile"]


def _check(index: np.ndarray, count: int) -> None:
    if len(index) and (index.min() < 0 or index.max() >= count):
        raise ValueError(f"its faces name vertices {index.min()} to {index.max()}, but it has {count:,} (from 0)")


def _of_faces(
    vertex: Element, face: Element, indices: tuple[np.ndarray, np.ndarray], textures: list[np.ndarray | None], beside: Beside,
    notes: list[str],
) -> Contents:  # fmt: skip
    """The parts of a file with polygons; ``indices`` are all corners' vertices and the number of each face's corners."""
    corners, counts = indices[0].astype(np.int64), indices[1]
    _check(corners, len(vertex))
    enough = counts >= 3
    if not enough.all():
        notes.append(f"{counted(int((~enough).sum()), 'face')} of fewer than three corners left out")
    if not enough.any():
        raise ValueError("it has no faces")
    rows = np.flatnonzero(np.repeat(enough, counts))  # of the corners
    points = np.stack([vertex.columns[name] for name in POSITION], axis=1)
    triangles, owner = triangulated(points[corners[rows]], counts[enough])
    triangles, owner = rows[triangles], np.flatnonzero(enough)[owner]
    uvs = _corner_uvs(face, counts)
    colors = _colors(face)
    if colors is not None and _colors(vertex) is not None:
        notes.append("its faces' colours are not used, since its vertices have some")
        colors = None
    if uvs is None and colors is None:
        part = _vertex_part(vertex, corners[triangles], textures[:1], beside, notes)
        return Contents([part], notes + beside.notes)
    number = np.zeros(len(face), np.int64)
    if uvs is not None and TEXNUMBER in face.columns and len(textures) > 1:
        number = np.clip(np.nan_to_num(face.columns[TEXNUMBER]), 0, len(textures) - 1).astype(np.int64)
    parts = []
    for each in np.unique(number[owner]):
        chosen = number[owner] == each
        places = triangles[chosen].ravel()
        columns, values = [corners[places]], []
        for source, at in ((uvs, places), (colors, np.repeat(owner[chosen], 3))):
            if source is not None:
                columns.append(row_numbers(source[at]))
            values.append(None if source is None else source[at])
        first, renamed = distinct(columns)
        own_uvs, own_colors = (None if value is None else value[first] for value in values)
        image = textures[each] if each < len(textures) and own_uvs is not None else None
        shades = None if image is not None else (own_colors if own_colors is not None else _colors(vertex, columns[0][first]))
        parts.append(_part(vertex, columns[0][first], renamed.reshape(-1, 3), own_uvs, image, shades))
    _remarks(vertex, parts, beside, notes)
    return Contents(parts, notes + beside.notes)


def _vertex_part(
    vertex: Element, faces: np.ndarray, textures: list[np.ndarray | None], beside: Beside, notes: list[str]
) -> Part:
    """The part whose appearance is that of its vertices."""
    names = next((pair for pair in UVS if all(name in vertex.columns for name in pair)), None)
    uvs = None if names is None else _flipped(np.stack([vertex.columns[name] for name in names], axis=1))
    image = textures[0] if textures and uvs is not None else None
    part = _part(vertex, np.arange(len(vertex)), faces, uvs, image, None if image is not None else _colors(vertex))
    _remarks(vertex, [part], beside, notes)
    return part


def _part(
    vertex: Element, chosen: np.ndarray, faces: np.ndarray, uvs: np.ndarray | None, image: np.ndarray | None,
    shades: np.ndarray | None,
) -> Part:  # fmt: skip
    """A part of the vertices ``chosen (V,)``."""
    points = np.stack([vertex.columns[name][chosen] for name in POSITION], axis=1)
    lit = all(name in vertex.columns for name in NORMAL)
    normals = np.stack([vertex.columns[name][chosen] for name in NORMAL], axis=1) if lit else None
    return Part(points, faces, normals, uvs, image, shades, None, FLAT_METALLIC, FLAT_ROUGHNESS)


def _remarks(vertex: Element, parts: list[Part], beside: Beside, notes: list[str]) -> None:
    """Add notes on what is not used."""
    if any(part.image is not None for part in parts) and _colors(vertex) is not None:
        notes.append("the vertex colours of faces with a picture are not used")
    if beside.known and all(part.uvs is None for part in parts):
        notes.append("its picture is not used, since it has no texture coordinates")
    if beside.transparent:
        notes.append("its pictures' transparency is not used")
    used = {*POSITION, *NORMAL, *(name for group in (*UVS, *COLORS) for name in group)}
    strange = sorted(set(vertex.columns) - used - QUIET)
    if strange:
        notes.append(f"the properties {', '.join(name[:20] for name in strange[:6])} of its vertices are not used")


def _colors(element: Element, chosen: np.ndarray | None = None) -> np.ndarray | None:
    """The sRGB colours ``(N, 3)`` in [0, 1] of an element, or of its ``chosen`` rows.

    Whole numbers are shares of their type's largest value; those of 32 bits are in 0..255 if none is above 255.
    """
    for names in COLORS:
        if all(name in element.columns for name in names):
            scale = element.scales[names[0]]
            found = np.stack([element.columns[name] for name in names], axis=1)
            if scale > WIDE and found.max(initial=0) <= 255:
                scale = 255.0
            colors = color_range(found) if scale == 1 else np.clip(found / scale, 0, 1)
            return colors if chosen is None else colors[chosen]
    return None


def _corner_uvs(face: Element, counts: np.ndarray) -> np.ndarray | None:
    """The texture coordinates ``(C, 2)`` of all faces' corners; None where there are none for all."""
    if TEXCOORD not in face.lists:
        return None
    values, lengths = face.lists[TEXCOORD]
    return _flipped(values.reshape(-1, 2)) if (lengths == 2 * counts).all() else None


def _flipped(uvs: np.ndarray) -> np.ndarray:
    """With v downwards; it grows upwards in the file."""
    return uvs * [1, -1] + [0, 1]


def _unstripped(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Triangles ``(F, 3)`` of triangle strips; -1 begins a new one. Every second triangle of a strip is turned."""
    ends = np.cumsum(counts)
    line = np.insert(values.astype(np.int64), ends, -1)
    breaks = np.flatnonzero(line == -1)
    if len(line) < 3:
        return np.empty((0, 3), np.int64)
    rows = np.arange(len(line) - 2)
    begin = np.concatenate([[0], breaks + 1])[np.searchsorted(breaks, rows)]
    faces = np.stack([line[:-2], line[1:-1], line[2:]], axis=1)
    whole = (faces != -1).all(axis=1)
    faces[(rows - begin) % 2 == 1] = faces[(rows - begin) % 2 == 1][:, [1, 0, 2]]
    return faces[whole]
