"""Binary PLY with a normal and a colour per vertex (Turk 1994, "The PLY Polygon File Format").

The header is described at https://paulbourke.net/dataformats/ply/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamlift.meshing.geometry import with_normals
from dreamlift.system.files import atomic_write_bytes
from dreamlift.texturing.sampling import sample_texture
from dreamlift.types import Mesh


def save_ply(mesh: Mesh, path: str | Path, extras: Mapping[str, Any] | None = None) -> None:
    """Write ``mesh`` with colours ``red, green, blue`` (uint8 sRGB); a texture is sampled at the vertices.

    Vertices on texture seams stay duplicated. ``extras`` become one comment line of JSON.

    Raises:
        OSError: the file cannot be written; an old one is intact.
    """
    mesh = with_normals(mesh)
    assert mesh.vertex_normals is not None
    colors = _vertex_colors(mesh)
    kinds = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    if colors is not None:
        kinds += [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.zeros(len(mesh.vertices), dtype=kinds)
    columns = [*mesh.vertices.T, *mesh.vertex_normals.T, *([] if colors is None else colors.T)]
    for (name, _), column in zip(kinds, columns, strict=True):
        rows[name] = column
    triangles = np.zeros(len(mesh.faces), dtype=[("count", "u1"), ("corners", "<i4", (3,))])
    triangles["count"], triangles["corners"] = 3, mesh.faces
    elements = [
        f"element vertex {len(rows)}",
        *(f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in kinds),
        f"element face {len(triangles)}",
        "property list uchar int vertex_indices",
    ]
    atomic_write_bytes(path, ply_header(elements, extras) + rows.tobytes() + triangles.tobytes())


def ply_header(elements: list[str], extras: Mapping[str, Any] | None) -> bytes:
    """The header of a binary little-endian PLY file with the lines ``elements``, and ``extras`` as one comment line of JSON."""
    # JSON's escapes keep a prompt with line breaks on one line: it cannot add lines to the header.
    comment = "comment dreamlift " + json.dumps(dict(extras or {}), default=str)
    lines = ["ply", "format binary_little_endian 1.0", comment, *elements, "end_header"]
    return "\n".join(lines).encode("ascii") + b"\n"


def _vertex_colors(mesh: Mesh) -> np.ndarray | None:
    """``(V, 3)`` uint8 sRGB from the vertex colours, or else from the texture; None without either."""
    if mesh.vertex_colors is not None:
        colors = mesh.vertex_colors
    elif mesh.base_color is not None and mesh.uvs is not None:
        colors = sample_texture(mesh.base_color, torch.from_numpy(np.ascontiguousarray(mesh.uvs)).float()).numpy()
    else:
        return None
    return (np.clip(colors, 0, 1) * 255 + 0.5).astype(np.uint8)
