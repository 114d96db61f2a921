"""Loading a user's mesh: an untrusted file is checked, read, merged and scaled to the size of dreamlift's scenes.

trimesh reads the file from memory, after checks that allocate nothing for the sizes that the file declares. No other file is
opened, except an OBJ file's material file and pictures in the same folder.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dreamlift.meshing.geometry import area_vectors, compact, is_closed, signed_volume
from dreamlift.reading import gltf, text
from dreamlift.reading.creases import welded, with_creases
from dreamlift.reading.merge import merged
from dreamlift.reading.part import Part
from dreamlift.reading.pictures import read_plain
from dreamlift.system.files import expanded
from dreamlift.types import Mesh

FILE_BYTES = {".glb": 256 << 20, ".gltf": 64 << 20, ".obj": 128 << 20, ".ply": 256 << 20, ".stl": 256 << 20}
FACES, VERTICES = 500_000, 1_500_000  # largest numbers over all parts
TEXELS = 8192 * 8192  # largest number over all of a file's pictures
RADIUS = 0.85  # of the sphere that a mesh is fitted into, world units: the size of the toybox's objects
ARCHIVES = {b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}
PICTURES = ("PNG", "JPEG", "WEBP")
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


def load_mesh(path: str | Path, up: Up = "y") -> tuple[Mesh, Origin]:
    """A mesh from a .glb, .gltf (in one file), .obj, .ply or .stl file, centred and scaled into a sphere of radius 0.85.

    All parts are merged. Faces without area are dropped, and a closed mesh that is inside out is reversed.

    Args:
        up: the file's axis that points up; with "z", the front is -y. glTF is always "y" by its specification.

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
        return placed(parse(data, kind, path.parent), up)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be used as a mesh: {' '.join(str(error).split())}") from None


def parse(data: bytes, kind: str, folder: Path) -> Part:
    """The merged parts in the file's own coordinates. Raises ValueError."""
    beside: text.Beside | None = None
    if kind in (".glb", ".gltf"):
        if kind == ".glb":
            checked = gltf.check_glb(data)
        else:
            checked = gltf.check_document(gltf.parse_json(data, FILE_BYTES[kind]), None)
        text.check_counts(checked.faces, checked.vertices, FACES, VERTICES)
        data, kind, pictures, has_normals = checked.glb, ".glb", checked.images, checked.has_normals
    elif kind == ".obj":
        beside = text.Beside(folder)
        pictures, has_normals = text.check_obj(data, beside, FACES, VERTICES), b"\nvn" in data
    elif kind == ".ply":
        text.check_ply(data, FACES, VERTICES)
        pictures, has_normals = [], b" nx\n" in data[:4096].replace(b"\r", b"")
    else:
        text.check_stl(data, FACES)
        pictures, has_normals = [], False
    check_pictures(pictures)
    return read(data, kind, beside, has_normals)


def check_pictures(pictures: list[bytes] | tuple[bytes, ...]) -> None:
    """Check the headers of pictures. Raises ValueError for other kinds, or for more texels than are accepted."""
    from PIL import Image

    total = 0
    for data in pictures:
        try:
            with Image.open(io.BytesIO(data), formats=PICTURES) as image:
                total += image.width * image.height
        except Image.DecompressionBombError:
            total = TEXELS + 1
        except Exception as error:  # a damaged file can raise any exception
            raise ValueError(f"a texture is not a readable {', '.join(PICTURES)} picture ({type(error).__name__})") from None
        if total > TEXELS:
            raise ValueError(f"its textures have more than {TEXELS:,} texels together (one of 8192 x 8192): scale them down")


def read(data: bytes, kind: str, beside: text.Beside | None, has_normals: bool) -> Part:
    """The merged parts that trimesh reads from a checked file. Raises ValueError."""
    import trimesh

    options: dict[str, Any] = {"process": False, "file_type": kind[1:]}
    if kind == ".ply":
        options["skip_materials"] = True  # or trimesh would look for a picture beside the file
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused later
            scene = trimesh.load_scene(io.BytesIO(data), resolver=beside, **options)
            return merged(scene, has_normals, linear_colors=kind == ".glb")
    except Exception as error:  # a damaged file can raise any exception in the reader
        raise ValueError(f"it cannot be read ({type(error).__name__}: {str(error)[:200]})") from None


def placed(part: Part, up: Up) -> tuple[Mesh, Origin]:
    """A merged part in dreamlift's world, and its placement. Raises ValueError for one that is malformed or has no surface."""
    vertices, faces, normals = part.vertices, part.faces, part.normals
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"its faces name vertices {faces.min()} to {faces.max()}, but it has {len(vertices)}")
    if not np.isfinite(vertices[faces]).all() or np.abs(vertices[faces]).max() > 1e30:
        raise ValueError("it has vertices that are not finite numbers, or beyond 1e30")
    if up == "z":
        vertices, normals = _z_to_y(vertices), None if normals is None else _z_to_y(normals)
    used = vertices[np.unique(faces)]
    offset = (used.min(axis=0) + used.max(axis=0)) / 2
    size = float(np.linalg.norm(used - offset, axis=1).max())
    if size <= 1e-30 or size < 1e-6 * np.abs(offset).max():
        raise ValueError("it has no extent, or too little for its distance from the origin: centre it first")
    scale = RADIUS / size
    vertices = (vertices - offset) * scale
    # Faces below this area, in squared world units, are degenerate: they are invisible and have no normal.
    solid = np.linalg.norm(area_vectors(vertices, faces), axis=1) > 1e-12
    if not solid.any():
        raise ValueError("none of its faces has an area")
    vertices, faces, kept = compact(vertices.astype(np.float32), faces[solid])
    same = welded(vertices)[faces]  # adjacent parts may have separate vertices at the same positions
    if is_closed(same) and signed_volume(vertices, faces) < 0:
        faces = faces[:, ::-1].copy()
        normals = None  # they pointed inwards, or disagreed with the faces
    uvs, shades, normals = (None if x is None else np.ascontiguousarray(x[kept]) for x in (part.uvs, part.shades, normals))
    mesh = Mesh(vertices, faces, uvs, part.image, shades, normals, part.metallic, part.roughness, part.surface)
    if normals is None:
        mesh = with_creases(mesh)
    return mesh, Origin(scale, (float(offset[0]), float(offset[1]), float(offset[2])), up)


def _z_to_y(vectors: np.ndarray) -> np.ndarray:
    return np.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], axis=1)


def _y_to_z(vectors: np.ndarray) -> np.ndarray:
    return np.stack([vectors[:, 0], -vectors[:, 2], vectors[:, 1]], axis=1)
