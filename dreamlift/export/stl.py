"""Binary STL: triangles without attributes, for slicers and CAD (Bourke's copy of the StereoLithography specification,
https://paulbourke.net/dataformats/stl/: 80 bytes of header, a count, and 50 bytes per triangle).

STL defines neither units nor axes; slicers take millimetres and +z up (:mod:`dreamlift.export.printing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.meshing.geometry import area_vectors
from dreamlift.system.files import atomic_write_bytes
from dreamlift.types import Mesh

# The header must not begin with "solid", by which readers recognise the text form.
HEADER = b"dreamlift, binary STL, millimetres, +z up"
RECORD = np.dtype([("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def save_stl(mesh: Mesh, path: str | Path, extras: Mapping[str, Any] | None = None) -> None:
    """Write the triangles of ``mesh``, whose coordinates are millimetres with +z up.

    The format stores neither colours nor ``extras``.

    Raises:
        OSError: the file cannot be written; an old one is intact.
    """
    records = np.zeros(len(mesh.faces), dtype=RECORD)
    vectors = area_vectors(mesh.vertices, mesh.faces)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    records["normal"] = np.where(lengths > 0, vectors / np.maximum(lengths, 1e-300), 0.0)
    records["corners"] = mesh.vertices[mesh.faces]
    count = np.array(len(records), dtype="<u4")
    atomic_write_bytes(path, HEADER.ljust(80, b" ") + count.tobytes() + records.tobytes())
