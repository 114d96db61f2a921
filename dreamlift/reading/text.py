"""Checks of untrusted OBJ, PLY and STL files, before a reader allocates memory for the sizes that they declare."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

HEADER_BYTES = 1 << 16  # largest header of a PLY file
SIDE_FILE_BYTES = 64 << 20  # largest material file, or picture, beside an OBJ file
PLY_SIZES = {
    "char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2, "int": 4, "uint": 4,
    "int32": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8,
}  # fmt: skip


class Beside(Mapping[str, bytes]):
    """The files that an OBJ file may refer to, by name: regular files in its own folder. It is trimesh's ``resolver``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> bytes:
        """The bytes of a file. Raises ValueError for a path outside the folder, FileNotFoundError if there is no such file."""
        name = plain_name(name)
        try:
            handle = os.open(self.folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError:
            raise
        except OSError as error:  # a link, or not readable
            raise ValueError(f"{name!r}, which it names, cannot be used: {error.strerror}; links are not followed") from None
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > SIDE_FILE_BYTES:
            os.close(handle)
            raise ValueError(f"{name!r}, which it names, is not a plain file of at most {SIDE_FILE_BYTES >> 20} MiB")
        with os.fdopen(handle, "rb") as file:
            return file.read(SIDE_FILE_BYTES)

    get = __getitem__  # pyright: ignore[reportAssignmentType]  (trimesh's resolvers have a get of one argument that raises)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def plain_name(name: str) -> str:
    """A file's name without a folder (a leading "./" is removed). Raises ValueError for any other path."""
    name = name.strip().removeprefix("./")
    # Control characters are refused, and ":", which means a drive or an alternate stream on Windows.
    if not name or name in (".", "..") or re.search(r"[/\\:\x00-\x1f]", name):
        raise ValueError(f"it names the file {name[:80]!r}; only files in its own folder are opened: give the bare name")
    return name


def check_obj(data: bytes, beside: Beside, max_faces: int, max_vertices: int) -> list[bytes]:
    """Check an OBJ file and the files that it refers to; returns the pictures among these. Raises ValueError."""
    if b"\0" in data[: 1 << 16]:
        raise ValueError("it is not text, as an OBJ file is")
    faces, vertices = (len(re.findall(rb"(?m)^[ \t]*" + kind + rb"[ \t]", data)) for kind in (b"f", b"v"))
    check_counts(faces, vertices, max_faces, max_vertices)
    pictures = []
    for line in re.findall(rb"mtllib([^\r\n]*)", data):
        try:
            material = beside[line.decode("utf-8", "replace")]
        except FileNotFoundError:
            continue  # OBJ files are often shared without their materials
        for named in re.findall(rb"(?im)^[ \t]*map_Kd([^\r\n]*)", material):
            try:
                pictures.append(beside[named.decode("utf-8", "replace")])
            except FileNotFoundError:
                continue
    return pictures


def check_ply(data: bytes, max_faces: int, max_vertices: int) -> None:
    """Check that a PLY file is large enough for the counts in its header. Raises ValueError."""
    end = data.find(b"end_header", 0, HEADER_BYTES)
    if not data.startswith(b"ply") or end < 0:
        raise ValueError(f"it has no PLY header within its first {HEADER_BYTES >> 10} KiB")
    ascii_file, counts, least, seen = False, {}, 0, ""
    sizes: dict[str, int] = {}
    for words in (line.split() for line in data[:end].decode("latin-1").splitlines()):
        if words[:1] == ["format"]:
            ascii_file = words[1:2] == ["ascii"]
        elif words[:1] == ["element"]:
            if len(words) != 3 or not re.fullmatch(r"[0-9]{1,15}", words[2]) or words[1] in counts:
                raise ValueError(f"its header has the line {' '.join(words)[:80]!r}, which names no new element with a count")
            seen = words[1]
            counts[seen], sizes[seen] = int(words[2]), 0
        elif words[:1] == ["property"]:
            if not seen or len(words) < 3 or words[1] not in {*PLY_SIZES, "list"}:
                raise ValueError(f"its header has the line {' '.join(words)[:80]!r}, which is no property of a known type")
            # A lower bound: of a list, the size of its count.
            sizes[seen] += PLY_SIZES.get(words[2] if words[1] == "list" else words[1], 1)
    for name, count in counts.items():
        each = 2 if ascii_file else max(1, sizes[name])
        least += count * each
        if least > len(data) - end:
            raise ValueError(f"its header says {count} of the element {name!r}, which is more than the file can hold")
    check_counts(counts.get("face", 0), counts.get("vertex", 0), max_faces, max_vertices)


def check_stl(data: bytes, max_faces: int) -> None:
    """Check the number of triangles of an STL file, binary or text. Raises ValueError."""
    said = struct.unpack_from("<I", data, 80)[0] if len(data) >= 84 else -1
    if 84 + 50 * said == len(data):
        check_counts(said, 3 * said, max_faces, 3 * max_faces)
    elif data.lstrip()[:5] == b"solid" and b"\0" not in data[:1024]:
        faces = len(re.findall(rb"(?m)^[ \t]*facet[ \t]", data))
        check_counts(faces, 3 * faces, max_faces, 3 * max_faces)
    else:
        raise ValueError(f"it is no text, and as a binary STL file of {max(said, 0)} triangles it has the wrong length")


def check_counts(faces: int, vertices: int, max_faces: int, max_vertices: int) -> None:
    """Raises ValueError for an empty mesh or one that is too large."""
    if faces == 0:
        raise ValueError("it has no faces")
    if faces > max_faces or vertices > max_vertices:
        raise ValueError(
            f"it has {faces:,} faces and {vertices:,} vertices; accepted: at most {max_faces:,} and {max_vertices:,} "
            "(decimate it first)"
        )
