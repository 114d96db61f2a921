"""Measures of triangle meshes in NumPy: areas, normals, signed volume, closedness, connected parts.

The signed volume is the divergence theorem on triangles, V = sum_f v0 . (v1 x v2) / 6 (Zhang and Chen 2001, "Efficient
Feature Extraction for 2D/3D Objects in Mesh Representation", equation 5, https://doi.org/10.1109/ICIP.2001.958278).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch comes with it, which the process that reads a user's mesh does not load
    from dreamlift.types import Mesh


def area_vectors(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals of the faces times their areas, ``(F, 3)`` float64, for ``vertices (V, 3)`` and ``faces (F, 3)``."""
    corners = vertices.astype(np.float64)[faces]
    return 0.5 * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def face_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Areas ``(F,)`` float64, in squared world units."""
    return np.linalg.norm(area_vectors(vertices, faces), axis=1)


def face_volumes(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Signed volumes ``(F,)`` of the tetrahedra from the mesh's centre to each face; their sum is the mesh's volume."""
    # Relative to the centre: relative to the origin, a distant mesh would lose its digits by cancellation.
    corners = (vertices.astype(np.float64) - vertices.astype(np.float64).mean(axis=0))[faces]
    return np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6.0


def signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Volume inside a closed mesh, cubic world units; positive if the faces are counter-clockwise from outside."""
    return float(face_volumes(vertices, faces).sum()) if len(faces) else 0.0


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals ``(V, 3)`` float32: the area-weighted mean of the faces around each vertex.

    A vertex without a face, or whose faces' normals cancel, gets +y: glTF requires unit length.
    """
    vectors = area_vectors(vertices, faces)
    sums = np.stack(
        [np.bincount(faces.ravel(), np.repeat(vectors[:, axis], 3), minlength=len(vertices)) for axis in range(3)],
        axis=1,
    )
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    unit = np.where(lengths > 1e-20, sums / np.maximum(lengths, 1e-20), [0.0, 1.0, 0.0])
    return unit.astype(np.float32)


def is_closed(faces: np.ndarray) -> bool:
    """True if every directed edge has exactly one partner that runs the other way (closed and evenly wound)."""
    if len(faces) == 0:
        return False
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    base = int(faces.max()) + 1
    forward, backward = np.sort(edges[:, 0] * base + edges[:, 1]), np.sort(edges[:, 1] * base + edges[:, 0])
    return bool((forward[1:] != forward[:-1]).all() and (forward == backward).all())


def is_open(faces: np.ndarray) -> bool:
    """True if the surface has a border: a directed edge that does not occur as often in the other direction.

    A closed surface with faces of both sides, or in two copies, is not open. Vertices at the same position must have the same
    index.
    """
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    base = int(faces.max()) + 1
    forward, backward = np.sort(edges[:, 0] * base + edges[:, 1]), np.sort(edges[:, 1] * base + edges[:, 0])
    return bool((forward != backward).any())


def face_components(faces: np.ndarray, count: int) -> np.ndarray:
    """The connected part of each face, ``(F,)`` int64 numbered from 0; faces that share a vertex are connected.

    ``count`` is the number of vertices. Each pass propagates the smallest label and then replaces labels by their label's
    label, so the number of passes grows with the logarithm of the mesh's diameter (Shiloach and Vishkin 1982, "An O(log n)
    Parallel Connectivity Algorithm", https://doi.org/10.1016/0196-6774(82)90008-6). SciPy is not a dependency.
    """
    label = np.arange(count, dtype=np.int64)
    while True:
        lowest = label[faces].min(axis=1)
        new = label.copy()
        # Hook the root of every corner, not only the corner: whole trees merge in one pass.
        np.minimum.at(new, label[faces].ravel(), np.repeat(lowest, 3))
        while ((jumped := new[new]) != new).any():
            new = jumped
        if (new == label).all():
            return np.unique(label[faces[:, 0]], return_inverse=True)[1]
        label = new


def row_numbers(values: np.ndarray) -> np.ndarray:
    """The rank of each row of ``values (N, C)`` among the distinct ones, ``(N,)`` int64."""
    # Column by column, which is faster than np.unique of rows.
    number = np.zeros(len(values), np.int64)
    for column in values.T:
        found, place = np.unique(column, return_inverse=True)
        if len(found) > 1:
            number = np.unique(number * len(found) + place, return_inverse=True)[1]
    return number


def compact(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vertices ``(V', 3)`` that faces use, the faces renumbered for them, and the vertices' old indices ``(V',)``."""
    used, renumbered = np.unique(faces, return_inverse=True)
    return vertices[used], renumbered.reshape(-1, 3).astype(np.int32), used


def with_normals(mesh: Mesh) -> Mesh:
    """The mesh, with smooth vertex normals if it had none."""
    if mesh.vertex_normals is not None:
        return mesh
    return replace(mesh, vertex_normals=vertex_normals(mesh.vertices, mesh.faces))
