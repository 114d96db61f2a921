"""Decimation of a user's mesh that has more faces than are accepted, with its colours.

Quadric decimation (fast-simplification) of the surface welded at equal positions. Its record of collapses tells which vertices
became one: it gets the mean of their colours, of the texture where there is one. Texture coordinates are lost, since edges
would be collapsed across their seams; so are stored normals, which are computed anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dreamlift.color import linear_to_srgb, srgb_to_linear
from dreamlift.meshing.geometry import row_numbers
from dreamlift.reading.part import Part


def decimated(part: Part, faces: int) -> Part:
    """The part with about ``faces`` faces at most, without texture coordinates, unless faces of two corners are all that is too
    many. Raises ValueError if that fails.
    """
    import fast_simplification

    place = row_numbers(part.vertices)
    first = np.unique(place, return_index=True)[1]
    points = part.vertices[first]
    center = (points.min(axis=0) + points.max(axis=0)) / 2  # coordinates may be large, and the method uses float32
    triangles = place[part.faces]
    whole = (triangles != np.roll(triangles, 1, axis=1)).all(axis=1)
    triangles = np.ascontiguousarray(triangles[whole], dtype=np.int32)
    if not len(triangles):
        raise ValueError("none of its faces has an area")
    if len(triangles) <= faces:
        return replace(part, faces=part.faces[whole])
    points = np.ascontiguousarray(points - center)
    found: Any = fast_simplification.simplify(points, triangles, target_count=faces, return_collapses=True)
    kept, small, collapses = found
    if not len(small) or len(small) > 1.1 * faces or not np.isfinite(kept).all():
        raise ValueError(f"its {len(part.faces):,} faces could not be decimated to {faces:,} (only to {len(small):,}): "
                         "decimate it first")  # fmt: skip
    colors = _vertex_colors(part)
    shades = None
    if colors is not None:
        target = _targets(len(points), triangles, collapses, len(kept))[place]
        used = target >= 0
        counts = np.maximum(np.bincount(target[used], minlength=len(kept)), 1)
        sums = [np.bincount(target[used], colors[used, channel], minlength=len(kept)) for channel in range(3)]
        shades = linear_to_srgb(np.clip(np.stack(sums, axis=1) / counts[:, None], 0, 1))
    metallic, roughness = part.metallic, part.roughness
    if part.surface is not None:  # the mean over its picture
        _, rough, metal = (part.surface.reshape(-1, 3).mean(axis=0) / 255).tolist()
        metallic, roughness = metallic * metal, roughness * rough
    return replace(
        part, vertices=kept + center, faces=small.astype(np.int64), normals=None, uvs=None, image=None, shades=shades,
        surface=None, metallic=metallic, roughness=roughness,
    )  # fmt: skip


def _targets(count: int, triangles: np.ndarray, collapses: np.ndarray, left: int) -> np.ndarray:
    """The new vertex of each of ``count`` old ones, -1 for those in no face; ``collapses (K, 2)``: kept and removed vertices.

    The package's own replay_simplification tells the same, at three times the cost of the decimation itself.
    """
    root = np.arange(count)
    root[collapses[:, 1]] = collapses[:, 0]
    while ((further := root[root]) != root).any():
        root = further
    moved = root[triangles]
    used = np.unique(moved[(moved != np.roll(moved, 1, axis=1)).all(axis=1)])  # new vertices keep the order of the old ones
    if len(used) != left:
        raise ValueError("it could not be decimated with its colours: decimate it first")
    found = np.full(count, -1)
    found[used] = np.arange(left)
    return found[root]


def _vertex_colors(part: Part) -> np.ndarray | None:
    """The colours ``(V, 3)`` of the vertices in linear light; None where the part has none."""
    if part.image is not None and part.uvs is not None:
        height, width = part.image.shape[:2]
        at = np.floor(np.clip(part.uvs - np.floor(part.uvs), 0, 1 - 1e-9) * [width, height]).astype(np.int64)
        return srgb_to_linear(part.image[at[:, 1], at[:, 0]] / 255.0)
    return None if part.shades is None else srgb_to_linear(part.shades)
