"""Pinches: edges of more than two faces, where two sheets of a surface touch. Slicers and mesh tools call them non-manifold.

Decimation makes them where a thin wall or a gap collapses, and welding where solids touch. They are removed in three steps:
faces that cover each other cancel (:func:`cancel_doubled`), each sheet gets vertices of its own (:func:`split_pinches`), and
these are moved apart (:func:`part_copies`), since readers merge vertices at the same position. Which faces around an edge are
one sheet's follows from the sectors of solid between them (:func:`fans`), so that what was closed stays closed.
"""

from __future__ import annotations

import numpy as np

from dreamlift.meshing.geometry import face_components, row_numbers

# Distance by which a copy of a vertex is moved: a share of the mesh's longest side, at most a share of its edges' mean length.
GAP, MOST = 5e-4, 0.05
SAME = 1e-4  # radians between faces around an edge that count as one direction
ROUNDS = 8  # of splitting: the new faces of a round rarely need another one


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


def without_copies(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces ``(F', 3)`` without copies: each once, and a sheet of faces back to back once for both directions.

    Copies are kept where they close something: faces back to back where two solids touch, and faces in one direction
    where two solids overlap, if their connected part is closed with all copies and open without.
    """
    group = row_numbers(np.sort(faces, axis=1))
    if len(faces) == 0 or group.max() + 1 == len(faces):
        return faces
    rows, low = np.arange(len(faces)), np.argmin(faces, axis=1)
    even = faces[rows, (low + 1) % 3] < faces[rows, (low + 2) % 3]  # the orientation
    once = np.zeros(len(faces), bool)
    once[np.unique(2 * group + even, return_index=True)[1]] = True
    part = face_components(faces, int(faces.max()) + 1)
    needed = _open_parts(faces[once], part[once], part.max() + 1) & ~_open_parts(faces, part, part.max() + 1)
    kept = once | needed[part]
    faces, group, even, part = faces[kept], group[kept], even[kept], part[kept]
    double = np.bincount(group, even)[group] % np.bincount(group)[group] > 0  # with faces of both orientations
    share = np.bincount(part, double) / np.bincount(part)
    flat = share[part] == 1
    mixed = (share[part] > 0) & ~flat
    if mixed.any():
        corners, _ = fans(vertices, faces[mixed])
        sheet = face_components(corners.reshape(-1, 3), len(corners))
        flat[mixed] = np.bincount(sheet, ~double[mixed])[sheet] == 0
    first = np.zeros(len(faces), bool)
    first[np.unique(group, return_index=True)[1]] = True
    return faces[first | ~flat]


def _open_parts(faces: np.ndarray, part: np.ndarray, parts: int) -> np.ndarray:
    """Whether each of the parts ``(parts,)`` has an edge that does not occur as often in one direction as in the other."""
    a, b = faces.ravel().astype(np.int64), faces[:, [1, 2, 0]].ravel().astype(np.int64)
    edge = np.unique(np.minimum(a, b) * (int(faces.max()) + 1) + np.maximum(a, b), return_inverse=True)[1].reshape(-1)
    uneven = np.bincount(edge, np.where(a < b, 1, -1))[edge] != 0
    return np.bincount(part.repeat(3), uneven, parts) > 0


def merged(vertices: np.ndarray) -> np.ndarray:
    """For each of ``vertices (V, 3)`` a number ``(V,)`` that vertices at the same position share."""
    return np.unique(vertices + np.float32(0), axis=0, return_inverse=True)[1].reshape(-1)  # + 0: -0 becomes 0


def split_pinches(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices ``(V', 3)`` and faces ``(F', 3)`` of the same surface where no edge has more than two faces.

    Each fan of faces around a point (:func:`fans`) gets a vertex of its own. Where a sheet touches itself at an edge
    and its fans at both ends are the same, each of the sheets that meet there gets a vertex in the middle of the edge, so
    that faces are added at the end. A closed mesh stays closed.
    """
    for _ in range(ROUNDS):
        corners, sheet = fans(vertices, faces)
        _, chosen, renamed = np.unique(corners, return_index=True, return_inverse=True)
        vertices, faces = vertices[faces.ravel()[chosen]], renamed.reshape(faces.shape).astype(faces.dtype)
        a, b = faces.ravel().astype(np.int64), faces[:, [1, 2, 0]].ravel().astype(np.int64)
        _, edge = np.unique(np.minimum(a, b) * len(vertices) + np.maximum(a, b), return_inverse=True)
        leads = sheet == np.arange(len(sheet))
        crowded = np.bincount(edge.reshape(-1), leads)[edge.reshape(-1)] > 1
        if not crowded.any():
            break
        _, lead, middle = np.unique(sheet[crowded], return_index=True, return_inverse=True)
        lead = np.flatnonzero(crowded)[lead]
        middles = np.full(len(a), -1)
        middles[crowded] = len(vertices) + middle.reshape(-1)
        between = (vertices[a[lead]].astype(np.float64) + vertices[b[lead]]) / 2
        vertices = np.concatenate([vertices, between.astype(vertices.dtype)])
        faces = _divided(faces, middles.reshape(faces.shape))
    return vertices, faces


def fans(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The fan of each corner, and the sheet of each half-edge, both ``(3F,)`` numbers. Half-edge i begins at corner i.

    Two half-edges of opposite directions are one sheet's if they are an edge's only two, or if they bound one sector of
    the solid around the edge. Corners belong to one fan if half-edges of one sheet connect them.
    """
    count = faces.size
    corner = np.arange(count).reshape(-1, 3)
    start, end = corner.ravel(), corner[:, [1, 2, 0]].ravel()  # the corners of each half-edge
    a, b = faces.ravel()[start].astype(np.int64), faces.ravel()[end].astype(np.int64)
    _, edge, uses = np.unique(np.minimum(a, b) * len(vertices) + np.maximum(a, b), return_inverse=True, return_counts=True)
    edge = edge.reshape(-1)
    order = np.argsort(edge, kind="stable")
    first = np.cumsum(uses) - uses
    pairs = first[uses == 2]
    one, other = order[pairs], order[pairs + 1]
    opposite = a[one] == b[other]
    crowded = order[uses[edge[order]] > 2]
    pair = _sectors(vertices, faces, crowded, edge[crowded])
    one, other = np.concatenate([one[opposite], pair[0]]), np.concatenate([other[opposite], pair[1]])
    sheet = np.arange(count)
    sheet[one] = sheet[other] = np.minimum(one, other)
    links = np.concatenate([np.stack([start[one], end[other]], 1), np.stack([end[one], start[other]], 1)])
    # face_components takes triangles: a link is a triangle with one corner twice, and each corner is linked to itself.
    alone = corner.reshape(-1, 1).repeat(3, axis=1)
    return face_components(np.concatenate([alone, links[:, [0, 1, 1]]]), count)[:count], sheet


def _sectors(vertices: np.ndarray, faces: np.ndarray, half: np.ndarray, edge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of the half-edges ``half (H,)`` that bound a sector of the solid, in pairs: ``(P,)`` each.

    ``edge (H,)`` is each one's edge, in rising order. Seen along an edge from its lower vertex to its upper one, a face that
    runs the other way begins a sector counterclockwise, and one that runs this way ends it, as brackets do; sectors within
    sectors nest. Of faces in the same direction, those that end a sector come first, so that no sector is empty.
    """
    if len(half) == 0:
        return half, half
    points = vertices.astype(np.float64)
    corners = faces[half // 3]
    a, b, apex = (corners[np.arange(len(half)), (half + n) % 3] for n in range(3))
    opens = a > b
    low = points[np.minimum(a, b)]
    axis = _unit(points[np.maximum(a, b)] - low)
    away = points[apex] - low
    away -= (away * axis).sum(axis=1, keepdims=True) * axis
    x = _unit(away)[np.searchsorted(edge, edge)]  # angles count from the edge's first face
    angle = np.arctan2((away * np.cross(axis, x)).sum(axis=1), (away * x).sum(axis=1)) % (2 * np.pi)
    angle[angle > 2 * np.pi - SAME] = 0
    order = np.lexsort((angle, edge))
    step = (np.diff(edge[order], prepend=-1) != 0) | (np.diff(angle[order], prepend=0) > SAME)
    copy = np.where(opens, half, -half)  # so that each of several copies of a surface is paired with itself
    order = order[np.lexsort((copy[order], opens[order], np.cumsum(step)))]
    half, edge, opens = half[order], edge[order], opens[order]
    # A bracket's level is the number of sectors at it, up to a constant of its edge. On a level, brackets take turns.
    level = np.cumsum(np.where(opens, 1, -1)) + ~opens
    turn = np.lexsort((level, edge))
    key = edge[turn] * (2 * len(half) + 3) + level[turn] + len(half) + 1
    begins = np.searchsorted(key, key)
    following = np.arange(len(key)) + 1
    last = np.append(key[1:] != key[:-1], True)
    following[last] = begins[last]
    pairs = opens[turn] & ~opens[turn[following]]
    return half[turn[pairs]], half[turn[following[pairs]]]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)


def _divided(faces: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """``faces (F, 3)`` cut at vertices on their edges: ``middles (F, 3)``, the one behind each corner, or -1."""
    for i, j in ((0, 1), (1, 2), (2, 0)):
        chosen = middles[:, i] >= 0
        middle, second = middles[chosen, i], faces[chosen]
        second[:, i] = middle  # corners (middle, j, k), beside (i, middle, k)
        beyond = np.full((len(middle), 3), -1)
        beyond[:, j] = middles[chosen, j]
        faces, middles = faces.copy(), middles.copy()
        faces[chosen, j] = middle
        middles[chosen, i] = middles[chosen, j] = -1
        faces, middles = np.concatenate([faces, second]), np.concatenate([middles, beyond])
    return faces


def part_copies(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Vertices ``(V, 3)`` where those at the same position are moved apart, each towards its own neighbours and inwards.

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
    # Against the normal too: sheets that lie flat on each other have their neighbours on one side, or in one plane.
    normal = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]]).repeat(3, axis=0)
    normal = np.stack([np.bincount(faces.ravel(), normal[:, axis], count) for axis in range(3)], axis=1)
    toward = _unit(toward) - _unit(normal)
    mean = np.stack([np.bincount(place, toward[:, axis]) for axis in range(3)], axis=1) / np.bincount(place)[:, None]
    apart = toward - mean[place]
    size = np.linalg.norm(apart, axis=1)
    gap = np.minimum(MOST * length, GAP * float(np.ptp(points, axis=0).max()))
    points = points + np.where(shared & (size > 0), gap / np.maximum(size, 1e-300), 0.0)[:, None] * apart
    # Copies with the same direction are still together: each goes a part of the way, of its own length.
    place = merged(points.astype(vertices.dtype))
    order = np.argsort(place, kind="stable")
    rank = np.empty(count)
    rank[order] = np.arange(count) - np.searchsorted(place[order], place[order])
    part = rank / np.bincount(place)[place]
    return (points + (part * gap)[:, None] * _unit(toward)).astype(vertices.dtype)
