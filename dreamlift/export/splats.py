"""Reading and writing 3D Gaussians as the ``.ply`` file of the original implementation, which viewers read.

The layout of https://github.com/graphdeco-inria/gaussian-splatting (Kerbl et al. 2023): one binary little-endian vertex of
floats per Gaussian, ``x y z nx ny nz f_dc_0..2 f_rest_0.. opacity scale_0..2 rot_0..3``. Values are raw, before activation:
logit opacities, logarithmic scales, quaternions w, x, y, z. ``f_rest`` holds all coefficients of red, then of green, then of
blue. The normals are unused and zero.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.export.ply import ply_header
from dreamlift.system.files import atomic_write_bytes
from dreamlift.types import EmptySceneError, Splats

MAX_HEADER = 1 << 16  # bytes
MAX_SPLATS = 50_000_000
HIGHER = (0, 3, 8, 15)  # coefficients above the first, for degrees 0 to 3
# Sign of each higher harmonic where y and z change theirs: -1 for polynomials that are odd in y and z together.
TURNED = (-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1)
LARGEST = 1e6  # largest absolute value: its square is finite in float32
TYPES = {
    "char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4", "float": "<f4", "double": "<f8",
    "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4", "float32": "<f4",
    "float64": "<f8",
}  # fmt: skip


def save_splats(splats: Splats, path: str | os.PathLike[str], extras: Mapping[str, Any] | None = None) -> None:
    """Write ``splats``, atomically. ``extras`` become one comment line of JSON.

    Raises:
        EmptySceneError, ValueError: as :func:`check_splats`.
        OSError: the file cannot be written; an old one is intact.
    """
    check_splats(splats)
    count, higher = splats.shN.shape[:2]
    names = column_names(higher)
    rest = splats.shN.transpose(0, 2, 1).reshape(count, 3 * higher)
    columns = [
        splats.means, np.zeros((count, 3)), splats.sh0[:, 0], rest, splats.logit_opacities[:, None], splats.log_scales,
        splats.quats,
    ]  # fmt: skip
    rows = np.concatenate(columns, axis=1).astype("<f4")
    assert rows.shape[1] == len(names)
    elements = [f"element vertex {count}", *(f"property float {name}" for name in names)]
    atomic_write_bytes(path, ply_header(elements, extras) + rows.tobytes())


def turned_over(splats: Splats) -> Splats:
    """The Gaussians turned by 180 degrees about x: from +y up, front on +z, to -y up, front on -z.

    These are the axes of a camera that sees the front (COLMAP's: +y down, +z forward), as in most trained scenes.
    """
    w, x, y, z = splats.quats.T
    turned = np.stack([-x, w, -z, y], axis=1)  # the product of (0, 1, 0, 0) and the quaternion
    higher = splats.shN * np.array(TURNED, np.float32)[: splats.shN.shape[1], None]
    flip = np.array([1, -1, -1], np.float32)
    return replace(splats, means=splats.means * flip, quats=turned.astype(np.float32), shN=higher.astype(np.float32))


def column_names(higher: int) -> list[str]:
    """The properties of a vertex with ``higher`` coefficients above the first, in the original implementation's order."""
    return [
        "x", "y", "z", "nx", "ny", "nz",
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(3 * higher)),
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]  # fmt: skip


def load_splats(path: str | os.PathLike[str]) -> Splats:
    """Read a file of this layout. Properties may have any order and number type; additional ones are ignored.

    Raises:
        ValueError: another layout, a file shorter than its header declares, or invalid values; with the file's name.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a .ply file of 3D Gaussians")
    with path.open("rb") as file:
        count, kinds, start = _read_header(file.read(MAX_HEADER), path)
        kind = np.dtype(kinds)
        size = os.fstat(file.fileno()).st_size - start
        if size < count * kind.itemsize:
            raise ValueError(f"{path.name} is cut off: {count} Gaussians need {count * kind.itemsize} bytes, it has {size}")
        file.seek(start)
        rows = np.frombuffer(file.read(count * kind.itemsize), kind)
    found = set(kind.names or ())
    rest_count = sum(name.startswith("f_rest_") for name in found)
    higher = rest_count // 3
    missing = [name for name in column_names(min(higher, max(HIGHER))) if name not in found and name not in ("nx", "ny", "nz")]
    if rest_count not in [3 * number for number in HIGHER] or missing:
        raise ValueError(
            f"{path.name} is not a file of 3D Gaussians: "
            + (f"it lacks {', '.join(missing[:4])}" if missing else f"it has {rest_count} f_rest, not 0, 9, 24 or 45")
        )

    def read(*names: str) -> np.ndarray:
        return np.stack([rows[name].astype(np.float32) for name in names], axis=1)

    rest = read(*(f"f_rest_{i}" for i in range(3 * higher))) if higher else np.zeros((count, 0), np.float32)
    splats = Splats(
        read("x", "y", "z"), read("rot_0", "rot_1", "rot_2", "rot_3"), read("scale_0", "scale_1", "scale_2"),
        read("opacity")[:, 0], read("f_dc_0", "f_dc_1", "f_dc_2")[:, None],
        np.ascontiguousarray(rest.reshape(count, 3, higher).transpose(0, 2, 1)),
    )  # fmt: skip
    try:
        check_splats(splats)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return splats


def check_splats(splats: Splats) -> None:
    """Check the Gaussians' shapes and values.

    Raises:
        EmptySceneError: there are none.
        ValueError: a wrong shape, a value that is not finite or exceeds a million, or a quaternion of length zero.
    """
    count, higher = splats.shN.shape[:2] if splats.shN.ndim == 3 else (len(splats.means), -1)
    shapes = {
        "means": (count, 3), "quats": (count, 4), "log_scales": (count, 3), "logit_opacities": (count,),
        "sh0": (count, 1, 3), "shN": (count, higher, 3),
    }  # fmt: skip
    for name, shape in shapes.items():
        value = getattr(splats, name)
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, not {value.shape}")
        if value.size and not (np.abs(value) < LARGEST).all():  # false for NaN, too
            raise ValueError(f"{name} holds values that are not finite (NaN or infinity), or beyond {LARGEST:g}")
    if higher not in HIGHER:
        raise ValueError(f"shN must have {', '.join(map(str, HIGHER))} coefficients, not {higher}")
    if count == 0:
        raise EmptySceneError("there are no Gaussians: nothing to export")
    if not (np.abs(splats.quats).max(axis=1) > 1e-12).all():
        raise ValueError("quats holds a quaternion of length zero")


def _read_header(data: bytes, path: Path) -> tuple[int, list[tuple[str, str]], int]:
    """The number of vertices, their properties (name, numpy type), and the offset of the rows in bytes."""
    end = re.search(rb"(?:^|\n)end_header\r?\n", data)
    lines = data[: end.start()].decode("ascii", "replace").splitlines() if end else []
    if end is None or not lines or lines[0].strip() != "ply":
        raise ValueError(f"{path.name} is not a PLY file: it has no header of at most {MAX_HEADER} bytes")
    count, kinds, vertex = -1, [], False
    for line in lines[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format":
            if words[1:] != ["binary_little_endian", "1.0"]:
                raise ValueError(f"{path.name}: format {' '.join(words[1:])!r} is not read; accepted: binary_little_endian 1.0")
        elif words[0] == "element" and len(words) == 3:
            if count < 0 and words[1] != "vertex":
                raise ValueError(f"{path.name}: the first element is {words[1]!r}; accepted: vertex")
            vertex = words[1] == "vertex" and count < 0
            if vertex:
                count = int(words[2]) if words[2].isdecimal() and len(words[2]) < 12 else MAX_SPLATS + 1
        elif words[0] == "property" and not vertex:
            continue  # of a later element, which is not read
        elif words[0] == "property" and len(words) == 3 and words[1] in TYPES and words[2] not in dict(kinds):
            kinds.append((words[2], TYPES[words[1]]))
        else:
            raise ValueError(f"{path.name}: the header's line {line[:60]!r} is not understood")
    if not 1 <= count <= MAX_SPLATS or not kinds:
        raise ValueError(f"{path.name}: accepted: 1 to {MAX_SPLATS} vertices with properties")
    return count, kinds, end.end()
