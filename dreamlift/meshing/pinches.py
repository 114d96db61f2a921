"""Pinches: edges of more than two faces, where two sheets of a surface touch. Slicers and mesh tools call them non-manifold.

Decimation makes them where a thin wall or a gap collapses. They are removed in three steps: faces that cover each other cancel
(:func:`cancel_doubled`), each sheet gets vertices of its own (:func:`split_pinches`), and these are moved apart
(:func:`part_copies`), since readers merge vertices at the same position.
"""

from __future__ import annotations

import numpy as np

from dreamlift.meshing.geometry import face_components

# Distance by which a copy of a vertex is moved: a share of the mesh's longest side, at most a share of its edges' mean length.
GAP, MOST = 5e-4, 0.05


def cancel_doubled(faces: np.ndarray) -> np.ndarray:
    """The faces ``(F', 3)`` without pairs of the same three vertices in opposite order, which bound no volume.

    A closed mesh remains closed, since the two faces of a pair have the same edges in opposite directions.
    """
    if len(faces) == 0:
        return faces
    group = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    a, b, c = faces.T
    even = ((a < b).astype(int) + (b < c) + (c < a)) == 2  # the corners rise in cyclic order: one of the two orientations
    pairs = np.minimum(np.bincount(group, even), np.bincount(group, ~even))
    order = np.lexsort((even, group))
    kind = 2 * group[order] + even[order]
    rank = np.arange(len(faces)) - np.searchsorted(kind, kind)  # place among the faces of the same corners and orientation
    return faces[np.sort(order[rank >= pairs[group[order]]])]


def merged(vertices: np.ndarray) -> np.ndarray:
    """For each of ``vertices (V, 3)`` a number ``(V,)`` that vertices at the same position share."""
    return np.unique(vertices + np.float32(0), axis=0, return_inverse=True)[1].reshape(-1)  # + 0: -0 becomes 0


def split_pinches(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices ``(V', 3)`` and faces ``(F, 3)`` where each fan of faces around a point has a vertex of its own.

    Decimation can make two sheets touch along an edge, which then has four faces. Faces around a vertex belong to one fan
    if manifold edges (two faces, one in each direction) connect them. Afterwards, touching sheets share no vertex.
    """
    count = len(faces)
    corner = np.arange(3 * count).reshape(count, 3)
    start, end = corner.ravel(), corner[:, [1, 2, 0]].ravel()  # the corners of each half-edge
    a, b = faces.ravel()[start].astype(np.int64), faces.ravel()[end].astype(np.int64)
    _, edge, uses = np.unique(np.minimum(a, b) * len(vertices) + np.maximum(a, b), return_inverse=True, return_counts=True)
    order = np.argsort(edge, kind="stable")
    first = np.cumsum(uses) - uses
    pairs = first[uses == 2]
    one, other = order[pairs], order[pairs + 1]
    opposite = a[one] == b[other]
    one, other = one[opposite], other[opposite]
    links = np.concatenate([np.stack([start[one], end[other]], 1), np.stack([end[one], start[other]], 1)])
    # face_components takes triangles: a link is a triangle with one corner twice, and each corner is linked to itself.
    alone = corner.reshape(-1, 1).repeat(3, axis=1)
    fans = face_components(np.concatenate([alone, links[:, [0, 1, 1]]]), 3 * count)[: 3 * count]
    _, chosen, renamed = np.unique(fans, return_index=True, return_inverse=True)
    return vertices[faces.ravel()[chosen]], renamed.reshape(count, 3).astype(faces.dtype)


def part_copies(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Vertices ``(V, 3)`` where those at the same position are moved apart, each towards its own neighbours.

    Sheets that touch at a point lie on different sides of it, so that each moves away from the others.
    """
    place = merged(vertices)
    shared = np.bincount(place)[place] > 1
    if not shared.any():
        return vertices
    points, count = vertices.astype(np.float64), len(vertices)
    a, b = faces[:, [0, 1, 1, 2, 2, 0]].ravel(), faces[:, [1, 0, 2, 1, 0, 2]].ravel()  # every edge, in both directions
    degree = np.maximum(np.bincount(a, minlength=count), 1)
    length = np.bincount(a, np.linalg.norm(points[b] - points[a], axis=1), count) / degree
    toward = np.stack([np.bincount(a, points[b, axis], count) for axis in range(3)], axis=1) / degree[:, None] - points
    mean = np.stack([np.bincount(place, toward[:, axis]) for axis in range(3)], axis=1) / np.bincount(place)[:, None]
    apart = toward - mean[place]
    size = np.linalg.norm(apart, axis=1)
    gap = np.minimum(MOST * length, GAP * float(np.ptp(points, axis=0).max()))
    step = np.where(shared & (size > 0), gap / np.maximum(size, 1e-300), 0.0)
    return (points + step[:, None] * apart).astype(vertices.dtype)
