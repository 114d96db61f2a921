"""Cleaning of extracted meshes: removal of floaters and hidden cavities, decimation, smoothing.

Decimation is quadric error metrics (Garland and Heckbert 1997, https://doi.org/10.1145/258734.258849) as in the
fast-simplification package; smoothing is Taubin 1995, "A Signal Processing Approach to Fair Surface Design",
https://doi.org/10.1145/218380.218473, which does not shrink the object as plain Laplacian smoothing does.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np

from dreamlift.meshing.geometry import (
    area_vectors,
    compact,
    face_areas,
    face_components,
    face_volumes,
    is_closed,
    signed_volume,
)
from dreamlift.meshing.pinches import cancel_doubled, part_copies, split_pinches
from dreamlift.types import Mesh

# A face below this share of the squared size of the mesh is degenerate: its normal is rounding noise in float32.
DEGENERATE_AREA = 1e-13


def remove_floaters(mesh: Mesh, keep_ratio: float = 0.05) -> Mesh:
    """Remove connected parts whose area is below ``keep_ratio`` (0..1) of the largest part's, and all cavities.

    A cavity is a closed part of negative volume: the wall of a hollow inside the object, which no picture shows and which
    would use up faces and texels. The kept vertices keep their attributes.

    Raises:
        ValueError: the ratio lies outside 0..1, or every part is closed with a negative volume.
    """
    if not 0 <= keep_ratio <= 1:
        raise ValueError(f"keep_ratio must lie in 0..1, not {keep_ratio}")
    part = face_components(mesh.faces, len(mesh.vertices))
    vectors = area_vectors(mesh.vertices, mesh.faces)
    area = np.bincount(part, np.linalg.norm(vectors, axis=1))
    volume = np.bincount(part, face_volumes(mesh.vertices, mesh.faces))
    # The area vectors of a closed surface sum to zero; those of an open sheet do not, and its volume is meaningless.
    gap = np.linalg.norm([np.bincount(part, vectors[:, axis]) for axis in range(3)], axis=0)
    cavity = (volume < 0) & (gap < 1e-4 * area)
    if cavity.all():
        raise ValueError("the mesh is inside out: every closed part has a negative volume (flip the faces' order)")
    keep = ~cavity & (area >= keep_ratio * area[~cavity].max())
    return _select(mesh, keep[part])


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """The mesh reduced to at most ``faces`` faces; only its geometry is kept, so decimate before unwrapping and colouring.

    A result is accepted if it is finite, has no degenerate face, is closed if the input is, and its volume differs by less
    than a tenth. If an attempt fails, less aggressive ones follow, and then further rounds on the result. If no accepted
    mesh meets the budget, the smallest one is returned (in the worst case the input), with a warning.

    Raises:
        ValueError: fewer than 4 faces are asked for.
    """
    if faces < 4:
        raise ValueError(f"a closed mesh needs at least 4 faces, not {faces}")
    if len(mesh.faces) <= faces:
        return mesh
    best, before = mesh, math.inf
    # A round may get further from a mesh that is already smaller, though still over the budget.
    while faces < len(best.faces) < 0.9 * before:
        before = len(best.faces)
        best = _decimated_once(best, faces)
    if len(best.faces) <= faces:
        return best
    warnings.warn(
        f"the mesh of {len(mesh.faces)} faces could not be decimated to {faces} without damage: {len(best.faces)} are left",
        stacklevel=2,
    )
    return best


def _decimated_once(mesh: Mesh, faces: int) -> Mesh:
    """One round of attempts: the first accepted mesh within the budget, or else the smallest accepted one, or else ``mesh``."""
    import fast_simplification

    closed = is_closed(mesh.faces)
    volume = signed_volume(mesh.vertices, mesh.faces)
    best, added = mesh, 0  # faces that splitting an attempt's pinches added: the next attempt leaves room for them
    for aggressiveness, factor in ((7.0, 1.0), (5.0, 1.0), (3.0, 1.0), (5.0, 1.5), (5.0, 2.5)):
        target = max(int(faces * factor) - added, 4)
        if target >= len(mesh.faces):
            break
        found = fast_simplification.simplify(
            mesh.vertices.astype(np.float64), mesh.faces.astype(np.int32), target_count=target, agg=aggressiveness
        )
        points, triangles = found[0], found[1]
        if len(triangles) == 0 or not np.isfinite(points).all():
            continue
        if closed:
            triangles = cancel_doubled(triangles)
        if len(triangles) == 0:
            continue
        vertices, kept, _ = compact(points.astype(np.float32), triangles)
        parted, renumbered = split_pinches(vertices, kept)
        added = max(added, len(renumbered) - len(kept))
        if len(parted) > len(vertices):
            vertices, kept = part_copies(parted, renumbered), renumbered
        if len(kept) < len(best.faces) and _is_sound(vertices, kept, closed, volume):
            best = Mesh(vertices, kept, metallic=mesh.metallic, roughness=mesh.roughness, double_sided=mesh.double_sided)
        if len(best.faces) <= faces:
            break
    return best


def smooth(mesh: Mesh, iterations: int = 10, shrink: float = 0.5, inflate: float = -0.53) -> Mesh:
    """Taubin smoothing: each iteration moves vertices toward (``shrink``), then away from (``inflate``) their neighbours' mean.

    Colours and UVs are kept, normals are dropped. If the result has a degenerate face or its volume changes by a tenth or
    more, the input is returned.

    Raises:
        ValueError: not 0 < shrink < -inflate.
    """
    if not 0 < shrink < -inflate:
        raise ValueError(f"Taubin smoothing needs 0 < shrink < -inflate, not shrink={shrink}, inflate={inflate}")
    count = len(mesh.vertices)
    # In a closed mesh each edge occurs once in each direction, so this lists every neighbour exactly once.
    a, b = mesh.faces[:, [0, 1, 2]].ravel(), mesh.faces[:, [1, 2, 0]].ravel()
    degree = np.maximum(np.bincount(a, minlength=count), 1)[:, None]
    points = mesh.vertices.astype(np.float64)
    for _ in range(iterations):
        for factor in (shrink, inflate):
            sums = np.stack([np.bincount(a, points[b, axis], minlength=count) for axis in range(3)], axis=1)
            points = points + factor * (sums / degree - points)
    vertices = points.astype(np.float32)
    old = signed_volume(mesh.vertices, mesh.faces)
    if not _is_sound(vertices, mesh.faces, False, old):
        return mesh
    return replace(mesh, vertices=vertices, vertex_normals=None)


def _is_sound(vertices: np.ndarray, faces: np.ndarray, closed: bool, volume: float) -> bool:
    """Whether a modified mesh may replace one of signed ``volume``; volumes are compared only where that is positive."""
    if not np.isfinite(vertices).all() or (closed and not is_closed(faces)):
        return False
    size = float(np.linalg.norm(np.ptp(vertices, axis=0)))
    if face_areas(vertices, faces).min() <= DEGENERATE_AREA * size * size:
        return False
    return volume <= 0 or abs(signed_volume(vertices, faces) / volume - 1) < 0.1


def _select(mesh: Mesh, keep: np.ndarray) -> Mesh:
    """The faces where ``keep (F,)`` is true, with the attributes of their vertices."""
    vertices, faces, used = compact(mesh.vertices, mesh.faces[keep])
    uvs, colors, normals = (
        None if values is None else values[used] for values in (mesh.uvs, mesh.vertex_colors, mesh.vertex_normals)
    )
    return replace(mesh, vertices=vertices, faces=faces, uvs=uvs, vertex_colors=colors, vertex_normals=normals)
