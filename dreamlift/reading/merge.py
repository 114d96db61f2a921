"""Merging all parts of a file that trimesh has read into one part with one texture."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from dreamlift.color import linear_to_srgb, srgb_to_linear
from dreamlift.meshing.geometry import face_areas
from dreamlift.reading.part import Part

TILE = 4096  # texels per side of the largest image that several textures are merged into
UNSAID = (102, 102, 102)  # the colour that trimesh gives a part whose material has none
FLAT_METALLIC, FLAT_ROUGHNESS = 0.0, 0.9  # for files without such values


def merged(scene: Any, has_normals: bool, linear_colors: bool) -> Part:
    """All instances in a ``trimesh.Scene``, each at its position, as one part.

    Several textures are merged side by side into one image. UVs that repeat a texture are then cut at its edges. Parts
    without a texture that differ in metallic and roughness all get the mean, with a warning.

    Args:
        has_normals: whether the file has normals (trimesh computes missing ones).
        linear_colors: whether vertex colours are linear light, as in glTF, instead of sRGB.

    Raises:
        ValueError: there are no faces.
    """
    parts = []
    for node in sorted(scene.graph.nodes_geometry):
        transform, name = scene.graph[node]
        found = scene.geometry[name]
        if getattr(found, "faces", None) is not None and len(found.faces):
            parts.append(_part(found, np.asarray(transform, dtype=np.float64), has_normals, linear_colors))
    if not parts:
        raise ValueError("it has no faces")
    textured = any(part.image is not None or part.surface is not None for part in parts)
    if textured and not _alike(parts):
        parts, image, surface = _side_by_side(parts)
    else:
        image, surface = parts[0].image, parts[0].surface
    metallic, roughness = _finish(parts)
    ends = np.cumsum([0] + [len(part.vertices) for part in parts])
    shades = None
    if image is None and any(part.shades is not None for part in parts):
        shades = np.concatenate([_shades(part) for part in parts]).astype(np.float32)
    uvs = None
    if all(part.uvs is not None for part in parts):
        uvs = np.concatenate([part.uvs for part in parts if part.uvs is not None]).astype(np.float32)
    normals = None
    if all(part.normals is not None for part in parts):
        normals = np.concatenate([part.normals for part in parts if part.normals is not None]).astype(np.float32)
    return Part(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + start for part, start in zip(parts, ends, strict=False)]).astype(np.int32),
        normals, uvs, image, shades, surface, metallic, roughness,
    )  # fmt: skip


def _part(found: Any, transform: np.ndarray, has_normals: bool, linear_colors: bool) -> Part:
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
    if stored is not None and np.shape(stored) == (len(vertices), 2) and np.isfinite(stored).all():
        uvs = np.asarray(stored, dtype=np.float64) * [1, -1] + [0, 1]  # trimesh keeps OBJ's v, which grows upwards
        if (np.ptp(uvs, axis=0) <= 1 + 1e-6).all():
            uvs = uvs - np.floor(uvs.min(axis=0) + 1e-6)  # shifted by whole repetitions into [0, 1]
    image, shades = _colors(visual, len(vertices), linear_colors)
    surface, metallic, roughness = _surface(getattr(visual, "material", None))
    if uvs is None:
        image = surface = None
    return Part(vertices @ linear.T + transform[:3, 3], faces, normals, uvs, image, shades, surface, metallic, roughness)


def _colors(visual: Any, count: int, linear: bool) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The texture times its factor, or else the vertices' colours; both are None where the file has none."""
    material = getattr(visual, "material", None)
    image = getattr(material, "baseColorTexture", None)
    factor = getattr(material, "baseColorFactor", None)
    if material is not None and hasattr(material, "diffuse"):  # of an OBJ file, in sRGB
        image, diffuse = getattr(material, "image", None), np.asarray(material.diffuse)[:3]
        plain = image is not None or tuple(diffuse) == UNSAID
        factor = None if plain else srgb_to_linear(diffuse / 255.0)
    elif factor is not None:
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
        return None, linear_to_srgb(np.clip(values, 0, 1)) if linear else np.clip(values, 0, 1)
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


def _shades(part: Part) -> np.ndarray:
    return np.full((len(part.vertices), 3), 0.5) if part.shades is None else part.shades


def _finish(parts: list[Part]) -> tuple[float, float]:
    """Metallic and roughness of the merged part: the parts' common values, or else their mean over the surface."""
    values = np.array([(part.metallic, part.roughness) for part in parts])
    if (values == values[0]).all():
        return parts[0].metallic, parts[0].roughness
    areas = np.array([face_areas(part.vertices, part.faces).sum() for part in parts])
    weights = areas / areas.sum() if 0 < areas.sum() < np.inf else np.full(len(parts), 1 / len(parts))
    metallic, roughness = (weights[:, None] * values).sum(axis=0).tolist()
    warnings.warn(
        f"the parts differ in metallic and roughness, and without a texture all get their mean ({metallic:.2g} and "
        f"{roughness:.2g}): bake them into one texture to keep each",
        stacklevel=3,
    )
    return metallic, roughness


def _alike(parts: list[Part]) -> bool:
    """Whether all parts have the same images and factors."""
    first = parts[0]
    return all(
        (part.metallic, part.roughness) == (first.metallic, first.roughness)
        and _same(part.image, first.image)
        and _same(part.surface, first.surface)
        for part in parts
    )


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b or (a is not None and b is not None and a.shape == b.shape and bool((a == b).all()))


def _side_by_side(parts: list[Part]) -> tuple[list[Part], np.ndarray, np.ndarray]:
    """The parts with UVs into images of square tiles; the image of base colours; that of metallic and roughness."""
    across = int(np.ceil(np.sqrt(len(parts))))
    sides = [max(x.shape[:2]) for part in parts for x in (part.image, part.surface) if x is not None]
    tile = max(16, min(max(sides), TILE // across))
    image, surface = (np.zeros((tile * across, tile * across, 3), np.uint8) for _ in range(2))
    moved = []
    for number, part in enumerate(parts):
        row, column = divmod(number, across)
        area = slice(row * tile, (row + 1) * tile), slice(column * tile, (column + 1) * tile)
        mean = _shades(part).mean(axis=0) * 255 + 0.5
        image[area] = mean.astype(np.uint8) if part.image is None else _resized(part.image, tile)
        own = np.full((1, 1, 3), 255, np.uint8) if part.surface is None else _resized(part.surface, tile)
        surface[area] = (own * np.array([1.0, part.roughness, part.metallic]) + 0.5).astype(np.uint8)
        moved.append(_into_tile(part, (column, row), across, tile))
    return moved, image, surface


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def _into_tile(part: Part, place: tuple[int, int], across: int, tile: int) -> Part:
    """The part with its UVs in tile ``(column, row)`` of ``across`` x ``across``. Its factors, now in the images, become 1."""
    vertices, faces, normals = part.vertices, part.faces, part.normals
    uvs = np.full((len(vertices), 2), 0.5) if part.uvs is None else part.uvs
    if uvs.min() < -1e-6 or uvs.max() > 1 + 1e-6:  # repeated: each face gets its own vertices and is shifted by whole tiles
        corners = uvs[faces]
        uvs = (corners - np.floor(corners.min(axis=1, keepdims=True) + 1e-6)).reshape(-1, 2)
        vertices, normals = vertices[faces].reshape(-1, 3), None if normals is None else normals[faces].reshape(-1, 3)
        faces = np.arange(len(vertices)).reshape(-1, 3)
    half = 0.5 / tile  # keeps bilinear lookups out of the neighbouring tile
    uvs = (np.clip(uvs, half, 1 - half) + np.array(place)) / across
    return Part(vertices, faces, normals, uvs, None, None, None, 1.0, 1.0)
