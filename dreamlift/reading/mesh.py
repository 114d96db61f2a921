"""Loading a user's mesh: an untrusted file is read, merged and scaled to the size of dreamlift's scenes.

The file is parsed in a process of its own, with bounds on time and memory (:mod:`dreamlift.reading.limited`). No other file is
opened, except material files and pictures in the mesh's folder or below it. What a file has and what is not taken over is told
in one note.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dreamlift.meshing.geometry import area_vectors, compact, is_open, vertex_normals
from dreamlift.reading.creases import welded, with_creases
from dreamlift.reading.limited import parse_limited
from dreamlift.reading.orient import inside_out
from dreamlift.reading.part import Part
from dreamlift.reading.pictures import read_plain
from dreamlift.system.files import expanded
from dreamlift.types import Mesh

FILE_BYTES = {".glb": 256 << 20, ".gltf": 64 << 20, ".obj": 128 << 20, ".ply": 256 << 20, ".stl": 256 << 20}
RADIUS = 0.85  # of the sphere that a mesh is fitted into, world units: the size of the toybox's objects
ARCHIVES = {b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}
NOTE = 400  # largest length of a file's note
Up = Literal["y", "z"]


@dataclass(frozen=True)
class Origin:
    """A loaded mesh's placement: ``world = scale * (file - offset)``, with the file's axes turned to +y up and +z front."""

    scale: float
    offset: tuple[float, float, float]  # in the file's own units
    up: Up = "y"  # the file's axis that points up; with "z", its -y is the front (Blender's)

    def restored(self, mesh: Mesh) -> Mesh:
        """The mesh in the file's own coordinates, so that an asset fits in the place of the user's mesh."""
        vertices = mesh.vertices.astype(np.float64) / self.scale + np.array(self.offset)
        normals = mesh.vertex_normals
        if self.up == "z":
            vertices, normals = _y_to_z(vertices), None if normals is None else _y_to_z(normals)
        return dataclasses.replace(mesh, vertices=vertices.astype(np.float32), vertex_normals=normals)


def ignore(text: str) -> None:
    """Discard a message."""


def load_mesh(path: str | Path, up: Up = "y", note: Callable[[str], None] = ignore) -> tuple[Mesh, Origin]:
    """A mesh from a .glb, .gltf, .obj, .ply or .stl file, centred and scaled into a sphere of radius 0.85.

    All parts are merged, and meshes of more than 500,000 faces are decimated. Faces without area are dropped, and closed parts
    that are inside out are reversed. The mesh is double-sided where the file says so, or where its surface is open.

    Args:
        up: the file's axis that points up; with "z", the front is -y. glTF is always "y" by its specification.
        note: gets one line on what was not taken over from the file, if there is anything.

    Returns:
        The mesh, with its UVs, base-colour texture or vertex colours, normals, metallic and roughness where the file has
        them, and the placement that maps it back to the file's own coordinates. Textures may repeat: UVs are not limited
        to [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not accepted; one line states why, and what is accepted.
    """
    path = expanded(path)
    try:
        if up not in ("y", "z"):
            raise ValueError(f"up is {up!r}; accepted: y, z")
        kind = path.suffix.lower()
        if kind not in FILE_BYTES:
            raise ValueError(f"unknown kind of mesh file {path.suffix!r}; accepted: {', '.join(FILE_BYTES)}")
        data = read_plain(path, FILE_BYTES[kind])
        for magic, name in ARCHIVES.items():
            if data.startswith(magic):
                raise ValueError(f"it is a {name} archive: unpack it and give the mesh itself")
        part, notes = parse_limited(data, kind, path.parent)
        found = placed(part, up)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be used as a mesh: {' '.join(str(error).split())}") from None
    if notes:
        note(_one_line(path.name, notes))
    return found


def _one_line(name: str, notes: list[str]) -> str:
    """All notes on one file, as far as they fit."""
    line = f"{name[:60]}: {' '.join(notes[0].split())[:NOTE]}"
    for place, text in enumerate(notes[1:], start=1):
        if len(line) + len(text) > NOTE:
            return f"{line}; and {len(notes) - place} more"
        line += f"; {' '.join(text.split())}"
    return line


def placed(part: Part, up: Up) -> tuple[Mesh, Origin]:
    """A merged part in dreamlift's world, and its placement. Raises ValueError for one that has no surface."""
    vertices, faces, normals = part.vertices.astype(np.float64), part.faces, part.normals
    if up == "z":
        vertices, normals = _z_to_y(vertices), None if normals is None else _z_to_y(normals)
    named = np.zeros(len(vertices), bool)
    named[faces] = True
    used = vertices[named]
    offset = (used.min(axis=0) + used.max(axis=0)) / 2
    size = float(np.linalg.norm(used - offset, axis=1).max())
    if size <= 1e-30:
        raise ValueError("it has no extent: all its faces are at one point")
    _check_steps(used, size)
    scale = RADIUS / size
    vertices = (vertices - offset) * scale
    # Faces below this area, in squared world units, are degenerate: they are invisible and have no normal.
    solid = np.linalg.norm(area_vectors(vertices, faces), axis=1) > 1e-12
    if not solid.any():
        raise ValueError("none of its faces has an area")
    vertices, faces, kept = compact(vertices.astype(np.float32), faces[solid])
    uvs, shades, normals = (None if x is None else np.ascontiguousarray(x[kept], np.float32)
                            for x in (part.uvs, part.shades, normals))  # fmt: skip
    same = welded(vertices)[faces]  # adjacent parts may have separate vertices at the same positions
    positions = np.zeros((int(same.max()) + 1, 3), np.float32)
    positions[same] = vertices[faces]
    turned = inside_out(positions, same)
    if turned.any():
        faces = np.where(turned[:, None], faces[:, ::-1], faces).astype(np.int32)
        normals = _turned(normals, vertices, faces, turned)
    double_sided = part.double_sided or is_open(same)
    mesh = Mesh(vertices, faces, uvs, part.image, shades, normals, part.metallic, part.roughness, part.surface,
                double_sided=double_sided)  # fmt: skip
    if normals is None:
        mesh = with_creases(mesh)
    return mesh, Origin(scale, (float(offset[0]), float(offset[1]), float(offset[2])), up)


def _check_steps(points: np.ndarray, size: float) -> None:
    """Raises ValueError where the stored numbers are too coarse for an object of this size at its distance from the origin."""
    farthest = np.abs(points).max()
    single = bool((points.astype(np.float32) == points).all())  # whether they can have been stored as float32
    step = float(np.spacing(np.float32(farthest) if single else farthest))
    if size < 2 * step:
        raise ValueError(f"its coordinates are stored in steps of {step:.2g} at their distance from the origin, too coarse for "
                         f"its size of {2 * size:.2g}: centre it in the program that made it")  # fmt: skip


def _turned(normals: np.ndarray | None, vertices: np.ndarray, faces: np.ndarray, turned: np.ndarray) -> np.ndarray | None:
    """The normals, of faces that were reversed in the direction of the faces' own."""
    if normals is None:
        return None
    own = np.unique(faces[turned])
    facing = (normals[own] * vertex_normals(vertices, faces)[own]).sum(axis=1, keepdims=True)
    normals = normals.copy()
    normals[own] *= np.where(facing < 0, -1, 1)
    return normals


def _z_to_y(vectors: np.ndarray) -> np.ndarray:
    return np.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], axis=1)


def _y_to_z(vectors: np.ndarray) -> np.ndarray:
    return np.stack([vectors[:, 0], -vectors[:, 2], vectors[:, 1]], axis=1)
