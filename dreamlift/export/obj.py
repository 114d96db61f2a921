"""Wavefront OBJ with its material (.mtl) and textures (.png) in the same folder, under the same name.

The format: Bourke's copy of the Wavefront appendix B1, https://paulbourke.net/dataformats/obj/, and of the MTL
specification, https://paulbourke.net/dataformats/mtl/. OBJ counts from 1 and has v = 0 at the *bottom* of a texture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.export.glb import png_bytes
from dreamlift.meshing.geometry import with_normals
from dreamlift.system.files import atomic_write_bytes, atomic_write_text
from dreamlift.types import Mesh


def save_obj(mesh: Mesh, path: str | Path, extras: Mapping[str, Any] | None = None) -> tuple[Path, ...]:
    """Write ``mesh`` to ``path`` and, if it has textures, ``NAME.mtl`` and ``NAME.png`` in the same folder.

    Roughness, metallic and the normal map get pictures of their own (``NAME_roughness.png`` and so on). The OBJ is written
    last, so that it never refers to missing files. Vertex colours (without a texture) follow the coordinates, which most
    readers accept. ``extras`` become one comment line of JSON.

    Returns:
        The files beside ``path``: the material and the pictures, if there are any.

    Raises:
        OSError: a file cannot be written; an old one of that name is intact.
    """
    mesh = with_normals(mesh)
    path = Path(path)
    # In OBJ and MTL files, readers end a file name at the first space.
    stem = re.sub(r"\s+", "_", path.stem)
    # JSON's escapes keep a prompt with line breaks on one line: it cannot add lines to the file.
    lines = ["# dreamlift " + json.dumps(dict(extras or {}), default=str)]
    pictures = _pictures(mesh, stem)
    beside = tuple(path.with_name(name) for name in (f"{stem}.mtl", *(name for name, _ in pictures.values())) if pictures)
    if pictures:
        for name, picture in pictures.values():
            atomic_write_bytes(path.with_name(name), png_bytes(picture))
        atomic_write_text(path.with_name(f"{stem}.mtl"), _material(mesh, {key: name for key, (name, _) in pictures.items()}))
        lines += [f"mtllib {stem}.mtl", "usemtl baked"]
    colored = mesh.base_color is None and mesh.vertex_colors is not None
    points = np.hstack([mesh.vertices, mesh.vertex_colors]) if colored else mesh.vertices  # type: ignore[list-item]
    lines += _rows("v", points)
    if mesh.uvs is not None:
        lines += _rows("vt", np.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], axis=1))
    assert mesh.vertex_normals is not None
    lines += _rows("vn", mesh.vertex_normals)
    corner = "{0}/{0}/{0}" if mesh.uvs is not None else "{0}//{0}"
    pattern = f"f {corner} {corner.replace('0', '1')} {corner.replace('0', '2')}"
    lines += [pattern.format(*face) for face in (mesh.faces + 1).tolist()]
    atomic_write_text(path, "\n".join(lines) + "\n")
    return beside


def _rows(key: str, values: np.ndarray) -> list[str]:
    """One line per row; 9 significant digits represent a float32 exactly."""
    pattern = key + " %.9g" * values.shape[1]
    return [pattern % tuple(row) for row in values.tolist()]


def _pictures(mesh: Mesh, stem: str) -> dict[str, tuple[str, np.ndarray]]:
    """By MTL keyword: the picture's file name and the picture."""
    found: dict[str, tuple[str, np.ndarray]] = {}
    if mesh.base_color is not None:
        found["map_Kd"] = (f"{stem}.png", mesh.base_color)
    if mesh.metallic_roughness is not None:
        # In MTL the map replaces the factor, whereas glTF multiplies them.
        scaled = mesh.metallic_roughness * np.array([1.0, mesh.roughness, mesh.metallic])
        grey = (scaled + 0.5).astype(np.uint8)
        found["map_Pr"] = (f"{stem}_roughness.png", grey[..., 1])
        found["map_Pm"] = (f"{stem}_metallic.png", grey[..., 2])
    if mesh.normal_map is not None:
        found["norm"] = (f"{stem}_normal.png", mesh.normal_map)
    return found


def _material(mesh: Mesh, maps: dict[str, str]) -> str:
    """The MTL text, with the extension for physically based materials that Blender and others read (Pm, Pr, norm).

    It was proposed by Exocortex in 2012: see "Physically-based Rendering" in
    https://en.wikipedia.org/wiki/Wavefront_.obj_file.
    """
    return f"newmtl baked\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nPm {mesh.metallic:.6g}\nPr {mesh.roughness:.6g}\n" + "".join(
        f"{key} {name}\n" for key, name in maps.items()
    )
