"""Merging all parts of a file into one part with one texture."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from dreamlift.meshing.geometry import face_areas
from dreamlift.reading.part import Part
from dreamlift.reading.tint import into_palette, multiplied, palette_side, tinted

TILE = 4096  # texels per side of the largest image that several textures are merged into
FARTHEST_UV = 1e6  # largest texture coordinate


def merged(parts: list[Part]) -> Part:
    """All parts as one.

    Several textures are merged side by side into one image. UVs that repeat a texture are then cut at its edges. Parts
    without a texture that differ in metallic and roughness all get the mean, with a warning.

    Raises:
        ValueError: there are no faces.
    """
    parts = [tinted(_checked(part)) for part in parts if len(part.faces)]
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
        normals, uvs, image, shades, surface, metallic, roughness, any(part.double_sided for part in parts),
    )  # fmt: skip


def _checked(part: Part) -> Part:
    """The part without normals and texture coordinates that cannot be used, the latter with a warning."""
    normals, uvs = part.normals, part.uvs
    used = np.zeros(len(part.vertices), bool)
    used[part.faces[(part.faces >= 0) & (part.faces < len(used))]] = True  # others are refused later
    if normals is not None:
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        sound = (np.isfinite(lengths) & (lengths > 1e-20))[:, 0]
        unit = np.where(sound[:, None], normals / np.where(sound[:, None], lengths, 1), [0.0, 1.0, 0.0])
        normals = unit if sound[used].all() else None
    if uvs is not None:
        with np.errstate(invalid="ignore"):
            sound = np.all(np.abs(uvs) <= FARTHEST_UV, axis=1)  # false for NaN
        if not sound[used].all():
            warnings.warn(f"texture coordinates that are no numbers up to {FARTHEST_UV:.0e} are left out", stacklevel=2)
            uvs = None
        else:
            uvs = np.where(sound[:, None], uvs, 0.0)
            if (np.ptp(uvs[used], axis=0) <= 1 + 1e-6).all():
                uvs = uvs - np.floor(uvs[used].min(axis=0) + 1e-6)  # shifted by whole repetitions into [0, 1]
    image, surface = (None, None) if uvs is None else (part.image, part.surface)
    return replace(part, normals=normals, uvs=uvs, image=image, surface=surface)


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
    bare = [part.image is None and part.surface is None for part in parts]  # those whose colours become a palette
    sides += [palette_side(part) for part, is_bare in zip(parts, bare, strict=True) if is_bare]
    tile = max(16, min(max(sides), TILE // across)) // 2 * 2  # even, for the palettes
    if tile < max(sides) // 2 * 2:
        warnings.warn(f"its {len(parts)} pictures share one of {TILE} texels a side, {tile} for each", stacklevel=3)
    image, surface = (np.zeros((tile * across, tile * across, 3), np.uint8) for _ in range(2))
    moved = []
    for number, (part, is_bare) in enumerate(zip(parts, bare, strict=True)):
        row, column = divmod(number, across)
        area = slice(row * tile, (row + 1) * tile), slice(column * tile, (column + 1) * tile)
        if is_bare:
            part = into_palette(part, tile)
        elif part.image is None:  # its UVs are those of its metallic and roughness
            shades = np.full((len(part.vertices), 3), 0.5) if part.shades is None else part.shades
            part = multiplied(replace(part, image=np.full((1, 1, 3), 255, np.uint8), shades=shades))
        assert part.image is not None
        image[area] = _resized(part.image, tile)
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
        if uvs.max() > 1 + 1e-6:
            warnings.warn("faces over which a picture repeats show it once, since pictures are joined into one", stacklevel=4)
        vertices, normals = vertices[faces].reshape(-1, 3), None if normals is None else normals[faces].reshape(-1, 3)
        faces = np.arange(len(vertices)).reshape(-1, 3)
    half = 0.5 / tile  # keeps bilinear lookups out of the neighbouring tile
    uvs = (np.clip(uvs, half, 1 - half) + np.array(place)) / across
    return Part(vertices, faces, normals, uvs, None, None, None, 1.0, 1.0)
