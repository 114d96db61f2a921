"""From a mesh file's bytes to one part: the reader of its kind, merging, and decimation above the limit on faces."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from dreamlift.reading.decimate import decimated
from dreamlift.reading.formats.lines import decimal_comma
from dreamlift.reading.formats.obj import read_obj
from dreamlift.reading.formats.ply import read_ply
from dreamlift.reading.formats.stl import read_stl
from dreamlift.reading.gltf import read_gltf
from dreamlift.reading.merge import merged
from dreamlift.reading.part import FARTHEST, Contents, Part

TEXTS = (".obj", ".ply", ".stl")  # kinds that may be text
FACES = 500_000  # largest number over all parts; above it the mesh is decimated


def parse(data: bytes, kind: str, folder: Path) -> tuple[Part, list[str]]:
    """The merged parts in the file's own coordinates, and notes on what was not taken over.

    Args:
        kind: .glb, .gltf, .obj, .ply or .stl.
        folder: that of the file, whose material files and pictures are read.

    Raises:
        ValueError: the file cannot be used; its text is a phrase about the file.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        try:
            try:
                contents = _contents(data, kind, folder)
                part = merged([_sound(part) for part in contents.parts])
            except ValueError as error:
                said = decimal_comma(data) if kind in TEXTS else ""
                raise ValueError(said or str(error)) from None
            notes = list(contents.notes)
            if len(part.faces) > FACES:
                part = _small_enough(part, notes)
        except (ValueError, MemoryError):
            raise
        except Exception as error:  # a damaged file can raise any exception in a decoder
            raise ValueError(f"it cannot be read ({type(error).__name__}: {str(error)[:200]})") from None
    return part, notes + [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]


def _contents(data: bytes, kind: str, folder: Path) -> Contents:
    if kind == ".obj":
        return read_obj(data, folder)
    if kind == ".ply":
        return read_ply(data, folder)
    if kind == ".stl":
        return read_stl(data)
    return read_gltf(data, kind, folder)


def _sound(part: Part) -> Part:
    """The part itself. Raises ValueError for indices out of range, and for vertices in use that are no finite numbers."""
    if not len(part.faces):
        return part
    low, high = int(part.faces.min()), int(part.faces.max())
    if low < 0 or high >= len(part.vertices):
        raise ValueError(f"its faces name vertices {low} to {high}, but it has {len(part.vertices):,} (from 0)")
    with np.errstate(invalid="ignore"):
        if not np.all(np.abs(part.vertices) <= FARTHEST, axis=1)[part.faces].all():  # false for NaN
            raise ValueError(f"it has vertices that are not finite numbers, or beyond {FARTHEST:.0e}")
    return part


def _small_enough(part: Part, notes: list[str]) -> Part:
    small = decimated(part, FACES)
    lost = "its texture became vertex colours" if part.image is not None else "without its texture coordinates"
    said = f" ({lost})" if part.uvs is not None and small.uvs is None else ""
    notes.append(f"its {len(part.faces):,} faces were decimated to {len(small.faces):,}{said}")
    return small
