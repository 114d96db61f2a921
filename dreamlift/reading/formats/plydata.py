"""The elements of a PLY file as columns: the header, and rows of numbers and lists, in text or binary form.

Rows whose lists all have the lengths of the first row are read at once; others one after another.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field

import numpy as np

from dreamlift.reading.formats.lines import decoded, numbers

HEADER_BYTES = 1 << 20  # largest header
TYPES = {
    "char": "i1", "uchar": "u1", "int8": "i1", "uint8": "u1", "short": "i2", "ushort": "u2", "int16": "i2", "uint16": "u2",
    "int": "i4", "uint": "u4", "int32": "i4", "uint32": "u4", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
PROPERTIES = 256  # largest number in one element
FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass
class Element:
    """The rows of one element."""

    count: int
    properties: list[tuple[str, str, str]] = field(default_factory=list)  # name, type, type of the length ("" if no list)
    columns: dict[str, np.ndarray] = field(default_factory=dict)  # (N,) float64
    lists: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # all rows' values, and their lengths (N,)
    scales: dict[str, float] = field(default_factory=dict)  # the largest value of the column's type; 1 for floats

    def __len__(self) -> int:
        return self.count


def elements(data: bytes) -> tuple[dict[str, Element], list[bytes]]:
    """All elements with their rows, and the comments. Raises ValueError for a file that cannot be read."""
    data = data.removeprefix(codecs.BOM_UTF8)
    end = re.search(rb"(?:^|[\r\n])end_header[ \t]*(?:\r\n|\n|\r|$)", data[:HEADER_BYTES])
    if not data.startswith(b"ply") or not end:
        raise ValueError(f"it has no PLY header within its first {HEADER_BYTES >> 20} MiB")
    found, comments, order = _header(re.split(rb"\r\n|\r|\n", data[: end.start()]))
    body = data[end.end() :]
    _check_room(found, order, len(body))
    if order:
        at = 0
        for name, element in found.items():
            at = _binary(element, name, body, at, order)
    else:
        count = len(body.split())
        values = numbers(body, count)
        at = 0
        for name, element in found.items():
            at = _text(element, name, values, at)
    return found, comments


def _header(lines: list[bytes]) -> tuple[dict[str, Element], list[bytes], str]:
    """The elements without rows, the comments, and the byte order ("" for text)."""
    found: dict[str, Element] = {}
    comments, order, current = [], None, None
    for line in lines[1:]:
        words = decoded(line).split()
        if words[:1] == ["format"] and len(words) > 1:
            order = FORMATS.get(words[1])
        elif words[:1] == ["comment"]:
            comments.append(line.strip()[len("comment") :].strip())
        elif words[:1] == ["element"]:
            if len(words) != 3 or not re.fullmatch(r"[0-9]{1,15}", words[2]) or words[1] in found:
                raise ValueError(f"its header has the line {' '.join(words)[:80]!r}, which names no new element with a count")
            current = found[words[1]] = Element(int(words[2]))
        elif words[:1] == ["property"] and (
            current is None or len(current.properties) == PROPERTIES or not _add(current, words)
        ):
            raise ValueError(f"its header has the line {' '.join(words)[:80]!r}, which is no property of a known type")
    if order is None:
        raise ValueError(f"its header names no format; accepted: {', '.join(FORMATS)}")
    return found, comments, order


def _add(element: Element, words: list[str]) -> bool:
    """Add the property of a header's line; false if it is none, or not new."""
    if len(words) == 5 and words[1] == "list" and TYPES.get(words[2], "f")[0] != "f" and words[3] in TYPES:
        name, kind, length = words[4], TYPES[words[3]], TYPES[words[2]]
    elif len(words) == 3 and words[1] in TYPES:
        name, kind, length = words[2], TYPES[words[1]], ""
    else:
        return False
    if any(name == other for other, _, _ in element.properties):
        return False
    element.properties.append((name, kind, length))
    element.scales[name] = 1.0 if kind[0] == "f" else float(np.iinfo(kind).max)
    return True


def _check_room(found: dict[str, Element], order: str, size: int) -> None:
    """Raises ValueError if the file is too short for its counts, before memory is allocated for them."""
    least = 0
    for name, element in found.items():
        # A list's length alone; a word and a space in text.
        widths = [np.dtype(length or kind).itemsize if order else 2 for _, kind, length in element.properties]
        least += element.count * max(1, sum(widths))
        if least > size + 1:
            raise ValueError(
                f"its header says {element.count} of the element {name[:40]!r}, which is more than the file can hold"
            )


def _short(name: str, row: int) -> ValueError:
    return ValueError(f"it ends, or has no number, within {name[:40]!r} {row:,}: the file is cut off or damaged")


def _binary(element: Element, name: str, body: bytes, at: int, order: str) -> int:
    """Read the rows of an element from ``at``; returns where they end."""
    lengths = _first_lengths(element, body, at, order)
    fields: list[tuple] = []
    for place, (_, kind, length) in enumerate(element.properties):
        fields += [(f"n{place}", order + length), (f"v{place}", order + kind, (lengths[place],))] if length else [
            (f"v{place}", order + kind)
        ]  # fmt: skip
    dtype = np.dtype(fields)
    if dtype.itemsize and at + element.count * dtype.itemsize <= len(body):
        rows = np.frombuffer(body, dtype, element.count, at)
        if all((rows[f"n{place}"] == n).all() for place, n in lengths.items()):
            for place, (label, _, length) in enumerate(element.properties):
                values = rows[f"v{place}"].astype(np.float64)
                if length:
                    element.lists[label] = values.reshape(-1), np.full(element.count, lengths[place])
                else:
                    element.columns[label] = values
            return at + element.count * dtype.itemsize
    if not lengths:
        raise _short(name, element.count)
    return _binary_rows(element, name, body, at, order)


def _first_lengths(element: Element, body: bytes, at: int, order: str) -> dict[int, int]:
    """The lengths of the first row's lists, by the property's place."""
    found = {}
    for place, (_, kind, length) in enumerate(element.properties):
        if length:
            width = np.dtype(length).itemsize
            some = body[at : at + width]
            found[place] = max(0, min(int(np.frombuffer(some, order + length)[0]), 1 << 20)) if len(some) == width else 0
            at += width + found[place] * np.dtype(kind).itemsize
        else:
            at += np.dtype(kind).itemsize
    return found


def _binary_rows(element: Element, name: str, body: bytes, at: int, order: str) -> int:
    """Read rows whose lists differ in length."""
    steps = [
        (np.dtype(kind).itemsize, np.dtype(length).itemsize if length else 0, length) for _, kind, length in element.properties
    ]
    little, starts = "little" if order == "<" else "big", np.zeros((len(steps), element.count), np.int64)
    sizes = np.zeros((len(steps), element.count), np.int64)
    for row in range(element.count):
        for place, (width, prefix, length) in enumerate(steps):
            count = 1
            if prefix:
                count = int.from_bytes(body[at : at + prefix], little, signed=length[0] == "i")
                at += prefix
            if count < 0 or at + count * width > len(body):
                raise _short(name, row)
            starts[place, row], sizes[place, row] = at, count
            at += count * width
    raw = np.frombuffer(body, np.uint8)
    for place, (label, kind, length) in enumerate(element.properties):
        width, counts = steps[place][0], sizes[place]
        inner = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        begins = np.repeat(starts[place], counts) + inner * width
        values = raw[begins[:, None] + np.arange(width)].reshape(-1).view(order + kind).astype(np.float64)
        if length:
            element.lists[label] = values, counts
        else:
            element.columns[label] = values
    return at


def _text(element: Element, name: str, values: np.ndarray, at: int) -> int:
    """Take the rows of an element from the numbers of a text file, from number ``at``; returns where they end."""
    lengths, width = {}, 0
    for place, (_, _, length) in enumerate(element.properties):
        if length:
            count = values[at + width] if at + width < len(values) else np.nan
            lengths[place] = int(count) if 0 <= count <= 1 << 20 else 0
            width += lengths[place]
        width += 1
    if at + element.count * width <= len(values):
        rows = values[at : at + element.count * width].reshape(element.count, width)
        column, found = 0, {}
        for place, (label, _, length) in enumerate(element.properties):
            count = lengths.get(place, 0) if length else 1
            found[label] = rows[:, column + 1 : column + 1 + count] if length else rows[:, column]
            if length and not (rows[:, column] == count).all():
                break
            column += count + 1 if length else 1
        else:
            for label, _, length in element.properties:
                part = np.ascontiguousarray(found[label])
                if length:
                    element.lists[label] = part.reshape(-1), np.full(element.count, part.shape[1])
                else:
                    element.columns[label] = part
            return at + element.count * width
    if not lengths:
        raise _short(name, element.count)
    return _text_rows(element, name, values, at)


def _text_rows(element: Element, name: str, values: np.ndarray, at: int) -> int:
    """Take rows whose lists differ in length."""
    flat = values.tolist()
    found: list[list[float]] = [[] for _ in element.properties]
    sizes: list[list[int]] = [[] for _ in element.properties]
    for row in range(element.count):
        for place, (_, _, length) in enumerate(element.properties):
            count = 1
            if length:
                said = flat[at] if at < len(flat) else -1.0
                if not 0 <= said <= len(flat):  # false for NaN
                    raise _short(name, row)
                count, at = int(said), at + 1
            if at + count > len(flat):
                raise _short(name, row)
            found[place] += flat[at : at + count]
            sizes[place].append(count)
            at += count
    for place, (label, _, length) in enumerate(element.properties):
        if length:
            element.lists[label] = np.array(found[place], dtype=np.float64), np.array(sizes[place], dtype=np.int64)
        else:
            element.columns[label] = np.array(found[place], dtype=np.float64)
    return at
