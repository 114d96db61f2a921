"""STL files, binary or text: triangles without shared vertices, and the two common kinds of colours in the binary form.

A binary file's number of triangles is that of its header, or follows from its length where the header's does not fit. Colours
are the 16 bits behind each triangle (https://en.wikipedia.org/wiki/STL_(file_format)): Materialise's where the header names a
COLOR, otherwise those of VisCAM and SolidView, where each has the bit that says that it is valid.
"""

from __future__ import annotations

import struct

import numpy as np

from dreamlift.reading.formats.lines import Lines, plain_text
from dreamlift.reading.part import FLAT_METALLIC, FLAT_ROUGHNESS, Contents, Part, counted

TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("color", "<u2")])


def read_stl(data: bytes) -> Contents:
    """The one part of an STL file. Raises ValueError for one that cannot be read, or has no triangles."""
    notes: list[str] = []
    said = struct.unpack_from("<I", data, 80)[0] if len(data) >= 84 else -1
    colors = None
    if 84 + 50 * said != len(data) and _is_text(data):
        corners = _text(data, notes)
    else:
        corners, colors = _binary(data, said, notes)
    finite = np.isfinite(corners).all(axis=(1, 2))
    if not finite.all():
        notes.append(f"{counted(int((~finite).sum()), 'triangle')} with corners that are no finite numbers left out")
        corners, colors = corners[finite], None if colors is None else colors[finite]
    if not len(corners):
        raise ValueError("it has no faces")
    faces = np.arange(3 * len(corners)).reshape(-1, 3)
    shades = None if colors is None else np.repeat(colors, 3, axis=0)
    part = Part(corners.reshape(-1, 3), faces, None, None, None, shades, None, FLAT_METALLIC, FLAT_ROUGHNESS)
    return Contents([part], notes)


def _is_text(data: bytes) -> bool:
    """Whether it begins as a text file and has facets, or whatever its first word is, looks like one."""
    try:
        text = plain_text(data[:4096]).lower()
    except ValueError:
        return False
    return b"facet" in text or text.lstrip().startswith(b"solid")


def _text(data: bytes, notes: list[str]) -> np.ndarray:
    """The triangles ``(F, 3, 3)`` of a text file."""
    text = plain_text(data).lower()
    lines = Lines(text)
    found = len(lines.starting(b"vertex"))
    if not found or found != 3 * len(lines.starting(b"endloop")):  # several statements in a line, or damage
        lines = Lines(text.replace(b"vertex", b"\nvertex").replace(b"endloop", b"\nendloop"))
    vertices, loops = lines.starting(b"vertex"), lines.starting(b"endloop")
    points = lines.table(vertices, 0, 3)[0]
    if not len(loops):
        loops = vertices[2::3]  # a damaged file: the vertices follow one another
    # The corners of a facet are those since the last one's end.
    facet = np.searchsorted(loops, vertices)
    counts = np.bincount(facet, minlength=len(loops))
    bad = int((counts != 3).sum() - (counts == 0).sum())
    if bad:
        notes.append(f"{counted(bad, 'facet')} without three corners left out")
    return points[counts[facet] == 3].reshape(-1, 3, 3) if len(points) else np.empty((0, 3, 3))


def _binary(data: bytes, said: int, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """The triangles ``(F, 3, 3)`` float64 of a binary file, and their colours ``(F, 3)``."""
    room, rest = divmod(len(data) - 84, 50)
    if room < 1:
        raise ValueError("it is neither a text nor a binary STL file: it holds no triangle")
    if said > room and rest:
        raise ValueError(f"it says {said:,} triangles, but ends within number {room + 1:,}: the file is cut off or damaged")
    # The header's number is not kept by all programs; where the length is a whole number of triangles, that one holds.
    count = said if 0 < said <= room and rest else room
    if count != said:
        notes.append(f"its header says {said:,} triangles, but it holds {count:,}, which are read")
    elif behind := data[84 + 50 * count :].strip(b"\0 \t\r\n"):
        notes.append(f"{counted(len(behind), 'byte')} behind its triangles left out")
    found = np.frombuffer(data, TRIANGLE, count, 84)
    return found["corners"].astype(np.float64), _colors(data[:80], found["color"], notes)


def _colors(header: bytes, stored: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """sRGB ``(F, 3)`` in [0, 1]; None where there are none."""
    valid = stored >> 15 == 1
    place = header.find(b"COLOR=")
    first, second, third = (((stored >> shift) & 31) / 31.0 for shift in (0, 5, 10))
    if 0 <= place <= 80 - 9:
        general = np.frombuffer(header, np.uint8, 3, place + 6) / 255.0
        return np.where(valid[:, None], general, np.stack([first, second, third], axis=1))
    if valid.all():
        return np.stack([third, second, first], axis=1)
    if stored.any():
        notes.append("the values behind its triangles, which may be colours, are not used")
    return None
