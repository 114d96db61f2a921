"""Buffers, views and accessors: a document's typed arrays (glTF 2.0, section 3.6), as views that copy nothing.

Only the rows that are used are copied, so arrays that lie over one another take no memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamlift.reading.gltf.checks import entry, extension, record, whole
from dreamlift.reading.gltf.sources import Sources

KINDS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}  # numpy types of components
COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
INDEX_KINDS = (5121, 5123, 5125)
UNSTORED = 10_000_000  # largest count of an accessor without stored values, which are zeros
PACKED = ("EXT_meshopt_compression", "KHR_meshopt_compression")


@dataclass(frozen=True)
class Accessor:
    """An array ``(count, columns)`` that has been checked against its buffer."""

    count: int
    type: str
    kind: np.dtype[Any]
    normalized: bool
    stored: np.ndarray | None  # (count, columns); None: zeros
    replaced: tuple[np.ndarray, np.ndarray] | None  # (S,) ascending rows, and their values (S, columns)

    def rows(self, at: np.ndarray) -> np.ndarray:
        """The rows ``at`` (N,), which must exist: ``(N, columns)`` of the stored type."""
        found = np.zeros((len(at), COLUMNS[self.type]), self.kind) if self.stored is None else self.stored[at]
        if self.replaced is not None:
            rows, values = self.replaced
            place = np.minimum(np.searchsorted(rows, at), len(rows) - 1)
            hit = rows[place] == at
            found[hit] = values[place[hit]]
        return found

    def reals(self, at: np.ndarray, normalized: bool | None = None) -> np.ndarray:
        """The rows ``at`` as float64; normalised integers are mapped to [-1, 1].

        Args:
            normalized: whether integers are normalised; None: as the file says.
        """
        found = self.rows(at).astype(np.float64)
        if self.kind.kind != "f" and (self.normalized if normalized is None else normalized):
            found = np.maximum(found / np.iinfo(self.kind).max, -1.0)
        return found


@dataclass
class Arrays:
    """The arrays of one document; each buffer is read at its first use."""

    document: dict[str, Any]
    binary: memoryview | None  # the binary chunk of a GLB
    sources: Sources
    buffers: dict[int, memoryview] = field(default_factory=dict)
    accessors: dict[int, Accessor] = field(default_factory=dict)

    def buffer(self, index: int) -> memoryview:
        if index not in self.buffers:
            what = f"buffer {index}"
            found = entry(self.document, "buffers", index, "the number of a buffer")
            length = whole(found.get("byteLength"), f"the length of {what}", 1, 1 << 40)
            if "uri" in found:
                data = memoryview(self.sources.read(found["uri"], what))
            elif index == 0 and self.binary is not None:
                data = self.binary
            else:
                raise ValueError(f"{what} has no data{_packed(found)}")
            if length > len(data) + 3:  # exporters forget the padding; views are checked against what is there
                raise ValueError(f"{what} says {length} bytes, but there are {len(data)}")
            self.buffers[index] = data[:length]
        return self.buffers[index]

    def view(self, index: Any, owner: str) -> tuple[memoryview, int]:
        """The bytes of a buffer view, and its stride (0: none)."""
        view = entry(self.document, "bufferViews", index, f"the buffer view of {owner}")
        what = f"of buffer view {index}"
        buffers = self.document.get("buffers")
        last = len(buffers) - 1 if isinstance(buffers, list) else -1
        number = whole(view.get("buffer"), f"the buffer {what}", 0, last)
        try:
            data = self.buffer(number)
        except ValueError as error:
            raise ValueError(f"{error}{_packed(view)}") from None
        length = whole(view.get("byteLength"), f"the length {what}", 1, len(data))
        offset = whole(view.get("byteOffset", 0), f"the offset {what}", 0, len(data) - length)
        return data[offset : offset + length], whole(view.get("byteStride", 0), f"the stride {what}", 0, 252)

    def accessor(self, index: Any, owner: str) -> Accessor:
        """The accessor of a number; ``owner`` names its use in errors. Raises ValueError where it does not fit."""
        found = entry(self.document, "accessors", index, owner)
        if index not in self.accessors:
            self.accessors[index] = self._accessor(found, f"accessor {index}")
        return self.accessors[index]

    def _accessor(self, found: dict[str, Any], what: str) -> Accessor:
        number, columns = found.get("componentType"), found.get("type")
        if not isinstance(number, int) or number not in KINDS or not isinstance(columns, str) or columns not in COLUMNS:
            raise ValueError(f"the type of {what} is not one of those that are read here")
        kind = np.dtype(KINDS[number])
        sparse = record(found, "sparse", what)
        if "bufferView" in found:
            stored = self._array(found, kind, COLUMNS[columns], found.get("count"), what)
            count = len(stored)
        elif sparse:
            stored, count = None, whole(found.get("count"), f"the count of {what}", 0, UNSTORED)
        else:
            raise ValueError(f"{what} has no data")
        replaced = self._replaced(sparse, kind, COLUMNS[columns], count, what) if sparse else None
        return Accessor(count, columns, kind, found.get("normalized") is True, stored, replaced)

    def _replaced(
        self, sparse: dict[str, Any], kind: np.dtype[Any], columns: int, count: int, what: str
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The rows that a sparse accessor replaces (section 3.6.2.3), and their values."""
        number = whole(sparse.get("count"), f"the count of the sparse {what}", 0, count)
        if number == 0:
            return None
        indices, values = record(sparse, "indices", what), record(sparse, "values", what)
        if indices.get("componentType") not in INDEX_KINDS:
            raise ValueError(f"the indices of the sparse {what} have the wrong type")
        rows = self._array(indices, np.dtype(KINDS[indices["componentType"]]), 1, number, f"the indices of {what}")[:, 0]
        rows = rows.astype(np.int64)
        if (np.diff(rows) <= 0).any() or rows[-1] >= count:
            raise ValueError(f"the indices of the sparse {what} do not ascend, or are too large")
        return rows, self._array(values, kind, columns, number, f"the values of {what}")

    def _array(self, place: dict[str, Any], kind: np.dtype[Any], columns: int, count: Any, what: str) -> np.ndarray:
        """``count`` rows at a place (a view, an offset) of a buffer."""
        view, stride = self.view(place.get("bufferView"), what)
        item = kind.itemsize * columns
        stride = stride or item
        if stride < item:
            raise ValueError(f"the stride of {what} is {stride} bytes, but one item has {item}")
        offset = whole(place.get("byteOffset", 0), f"the offset of {what}", 0, len(view))
        room = max(0, (len(view) - offset - item) // stride + 1)
        count = whole(count, f"the count of {what}", 0, room)
        if count == 0:
            return np.zeros((0, columns), kind)
        return np.ndarray((count, columns), kind, view, offset, (stride, kind.itemsize))


def _packed(owner: dict[str, Any]) -> str:
    names = [name for name in PACKED if extension(owner, name) is not None]
    return f", and it is compressed by {names[0]}: export it without compression" if names else ""
