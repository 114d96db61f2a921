"""The parts of a checked glTF file, as trimesh reads it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.color import linear_to_srgb, srgb_to_linear
from dreamlift.reading import gltf
from dreamlift.reading.part import FLAT_METALLIC, FLAT_ROUGHNESS, Contents, Part
from dreamlift.reading.pictures import TEXELS, decoded_picture

FACES, VERTICES = 500_000, 1_500_000  # largest numbers over all parts
JSON_BYTES = 64 << 20  # largest .gltf file


def read_gltf(data: bytes, kind: str, folder: Path) -> Contents:
    """The parts of a .glb or .gltf file. Raises ValueError for one that cannot be read; ``folder`` is not used."""
    del folder
    checked = gltf.check_glb(data) if kind == ".glb" else gltf.check_document(gltf.parse_json(data, JSON_BYTES), None)
    if checked.faces == 0:
        raise ValueError("it has no faces")
    if checked.faces > FACES or checked.vertices > VERTICES:
        raise ValueError(f"it has {checked.faces:,} faces and {checked.vertices:,} vertices; accepted: at most {FACES:,} "
                         f"and {VERTICES:,} (decimate it first)")  # fmt: skip
    texels = TEXELS
    for picture in checked.images:
        try:
            texels -= decoded_picture(picture, texels)[0].size // 3
        except ValueError as error:
            raise ValueError(f"a texture {error}") from None
    import trimesh

    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused later
        scene = trimesh.load_scene(io.BytesIO(checked.glb), process=False, file_type="glb")
        parts = []
        for node in sorted(scene.graph.nodes_geometry):
            transform, name = scene.graph[node]
            found: Any = scene.geometry[name]
            if getattr(found, "faces", None) is not None and len(found.faces):
                parts.append(_part(found, np.asarray(transform, dtype=np.float64), checked.has_normals))
    return Contents(parts, [])


def _part(found: Any, transform: np.ndarray, has_normals: bool) -> Part:
    linear = transform[:3, :3]
    faces = np.asarray(found.faces, dtype=np.int64)
    if np.linalg.det(linear) < 0:
        faces = faces[:, ::-1]  # a reflection reverses the winding
    vertices = np.asarray(found.vertices, dtype=np.float64)
    normals = None
    if has_normals and np.shape(found.vertex_normals) == vertices.shape:
        # Normals transform by the inverse transpose. The cofactor matrix is proportional to it and exists for every transform.
        cofactors = np.stack([np.cross(linear[(i + 1) % 3], linear[(i + 2) % 3]) for i in range(3)])
        normals = np.asarray(found.vertex_normals, dtype=np.float64) @ cofactors.T * np.sign(np.linalg.det(linear) or 1.0)
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = normals / lengths if np.isfinite(lengths).all() and (lengths > 1e-20).all() else None
    visual = found.visual
    uvs = None
    stored = getattr(visual, "uv", None)
    if stored is not None and np.shape(stored) == (len(vertices), 2):
        uvs = np.asarray(stored, dtype=np.float64) * [1, -1] + [0, 1]  # trimesh keeps OBJ's v, which grows upwards
    image, shades = _colors(visual, len(vertices))
    surface, metallic, roughness = _surface(getattr(visual, "material", None))
    if uvs is None:
        image = surface = None
    return Part(vertices @ linear.T + transform[:3, 3], faces, normals, uvs, image, shades, surface, metallic, roughness)


def _colors(visual: Any, count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The texture times its factor, or else the vertices' colours; both are None where the file has none."""
    material = getattr(visual, "material", None)
    image = getattr(material, "baseColorTexture", None)
    factor = getattr(material, "baseColorFactor", None)
    if factor is not None:
        factor = np.asarray(factor, dtype=np.float64)[:3] / (255.0 if np.asarray(factor).dtype.kind == "u" else 1.0)
    if image is not None:
        texture = np.array(image.convert("RGB"))
        if factor is not None and (factor < 1).any():
            table = linear_to_srgb(np.clip(srgb_to_linear(np.arange(256) / 255.0)[:, None] * factor, 0, 1))
            texture = np.stack([(table[:, c] * 255 + 0.5).astype(np.uint8)[texture[..., c]] for c in range(3)], axis=-1)
        return texture, None
    stored = visual.vertex_colors if visual.kind == "vertex" else getattr(visual, "vertex_attributes", {}).get("color")
    if stored is not None and len(stored) == count:
        values = np.asarray(stored)
        values = values[:, :3].astype(np.float64) / (np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1.0)
        return None, linear_to_srgb(np.clip(values, 0, 1))
    if factor is not None:
        return None, np.broadcast_to(linear_to_srgb(np.clip(factor, 0, 1)), (count, 3))
    return None, None


def _surface(material: Any) -> tuple[np.ndarray | None, float, float]:
    """Image, metallic and roughness of a material; formats without these get those of a matt plastic."""
    if material is None or not hasattr(material, "metallicFactor"):
        return None, FLAT_METALLIC, FLAT_ROUGHNESS
    image = material.metallicRoughnessTexture
    metallic, roughness = (1.0 if x is None else float(x) for x in (material.metallicFactor, material.roughnessFactor))
    return None if image is None else np.array(image.convert("RGB")), metallic, roughness
