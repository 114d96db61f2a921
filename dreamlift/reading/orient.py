"""Which faces of a mesh are inside out: each closed part is judged by the sign of its volume.

A part inside another one (the wall of a hollow, an engine in a car) is turned together with the outermost part around it, so
that a hollow stays a hollow. Whether it lies inside is told by the winding number of one of its points, a sum of solid angles
(Van Oosterom and Strackee 1983, "The Solid Angle of a Plane Triangle", https://doi.org/10.1109/TBME.1983.325207).
"""

from __future__ import annotations

import numpy as np

from dreamlift.meshing.geometry import face_components, face_volumes

PARTS = 4096  # with more closed parts, each is judged without looking for parts around it
WORK = 50_000_000  # largest number of solid angles


def inside_out(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Whether each face ``(F,)`` belongs to a closed part that is inside out.

    Args:
        faces: ``(F, 3)``, welded: vertices at the same position have the same index.
    """
    part = face_components(faces, len(vertices))
    closed = _closed(faces, part)
    volume = np.bincount(part, face_volumes(vertices, faces))
    wrong = closed & (volume < 0)
    if not wrong.any():
        return wrong[part]
    if closed.sum() <= PARTS:
        wrong = _with_containers(vertices, faces, part, closed, wrong)
    return wrong[part]


def _unpaired(faces: np.ndarray) -> np.ndarray:
    """Whether each half-edge ``(3F,)`` of welded faces has not exactly one partner, which runs the other way."""
    start, end = faces.ravel().astype(np.int64), np.roll(faces, -1, axis=1).ravel().astype(np.int64)
    base = int(faces.max()) + 1
    ahead, back = start * base + end, end * base + start
    keys, number, counts = np.unique(ahead, return_inverse=True, return_counts=True)
    place = np.minimum(np.searchsorted(keys, back), len(keys) - 1)
    return (counts[number] != 1) | (keys[place] != back) | (counts[place] != 1)


def _closed(faces: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Whether each part is closed and evenly wound."""
    bad = _unpaired(faces).reshape(-1, 3).any(axis=1)
    return np.bincount(part, bad) == 0


def _with_containers(
    vertices: np.ndarray, faces: np.ndarray, part: np.ndarray, closed: np.ndarray, wrong: np.ndarray
) -> np.ndarray:
    """``wrong (P,)``, where parts inside another have the value of the outermost one around them."""
    order = np.argsort(part, kind="stable")
    ends = np.cumsum(np.bincount(part))
    own = [faces[rows] for rows in np.split(order, ends[:-1])]
    low = np.array([vertices[each].reshape(-1, 3).min(axis=0) for each in own])
    high = np.array([vertices[each].reshape(-1, 3).max(axis=0) for each in own])
    found, work = wrong.copy(), 0
    roots: list[int] = []
    for number in np.argsort(-np.prod(high - low, axis=1), kind="stable"):
        if not closed[number]:
            continue
        around = [root for root in roots if (low[root] < low[number]).all() and (high[root] > high[number]).all()]
        for root in around:
            work += len(own[root])
            if work <= WORK and abs(_winding(vertices[own[number][0, 0]], vertices[own[root]])) > 0.5:
                found[number] = wrong[root]
                break
        else:
            roots.append(int(number))
    return found


def _winding(point: np.ndarray, corners: np.ndarray) -> float:
    """The winding number of closed ``corners (F, 3, 3)`` around a point: 1 or -1 inside, 0 outside."""
    a, b, c = np.moveaxis(corners.astype(np.float64) - point, 1, 0)
    x, y, z = (np.linalg.norm(each, axis=1) for each in (a, b, c))
    ab, bc, ca = ((p * q).sum(axis=1) for p, q in ((a, b), (b, c), (c, a)))
    solid = np.arctan2((a * np.cross(b, c)).sum(axis=1), x * y * z + ab * z + bc * x + ca * y)
    return float(solid.sum() / (2 * np.pi))
