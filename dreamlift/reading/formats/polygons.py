"""Triangles of polygons: fans where a corner sees all others, else ear clipping in the polygon's best plane.

The best plane has Newell's normal, the sum of the cross products of successive corners. No corners are added. A polygon with
at most one reflex corner is a fan around it, or around its first corner. The others lose one ear after another: a convex
corner whose triangle holds no reflex corner (Meisters 1975, "Polygons have ears", https://doi.org/10.2307/2319703).
"""

from __future__ import annotations

import numpy as np

CORNERS, ALL_CORNERS = 2000, 100_000  # of the largest polygon with several reflex corners, and of all of them together


def triangulated(points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles of polygons with three corners or more.

    Args:
        points: the corners' positions ``(C, 3)``, polygon after polygon.
        counts: corners of each polygon ``(P,)``.

    Returns:
        Triangles ``(T, 3)`` of numbers of corners, in the order of the polygons, and the polygon of each ``(T,)``.

    Raises:
        ValueError: polygons with several reflex corners have too many corners.
    """
    begins = np.cumsum(counts) - counts
    apex = np.zeros(len(counts), np.int64)
    several = np.zeros(len(counts), bool)
    for size in np.unique(counts[counts > 3]):
        chosen = np.flatnonzero(counts == size)
        # In chunks, so that the temporary arrays stay small.
        for part in np.array_split(chosen, max(1, len(chosen) * int(size) // 2_000_000)):
            reflex = _reflex(points[begins[part, None] + np.arange(size)])
            apex[part] = reflex.argmax(axis=1)
            several[part] = reflex.sum(axis=1) > 1
    hard = np.flatnonzero(several)
    if len(hard) and (counts[hard].max() > CORNERS or counts[hard].sum() > ALL_CORNERS):
        raise ValueError(
            f"it has {len(hard):,} polygons with several reflex corners, the largest with {counts[hard].max():,} corners, "
            f"together with {counts[hard].sum():,}; accepted: {CORNERS:,} and {ALL_CORNERS:,} (triangulate it first)"
        )
    owner = np.repeat(np.arange(len(counts)), counts - 2)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(counts - 2) - (counts - 2), counts - 2)
    wheel = (apex[owner, None] + np.stack([np.zeros_like(step), step + 1, step + 2], axis=1)) % counts[owner, None]
    triangles = begins[owner, None] + wheel
    rows = np.cumsum(counts - 2) - (counts - 2)
    for number in hard:
        corners = slice(begins[number], begins[number] + counts[number])
        triangles[rows[number] : rows[number] + counts[number] - 2] = begins[number] + _clipped(points[corners])
    return triangles, owner


def _normals(polygons: np.ndarray) -> np.ndarray:
    """Newell's normals ``(P, 3)`` of ``polygons (P, n, 3)``, relative to their first corners; not of unit length."""
    spokes = polygons - polygons[:, :1]
    return np.cross(spokes, np.roll(spokes, -1, axis=1)).sum(axis=1)


def _reflex(polygons: np.ndarray) -> np.ndarray:
    """Whether corners ``(P, n)`` of ``polygons (P, n, 3)`` turn against their polygon."""
    with np.errstate(over="ignore", invalid="ignore"):  # corners that are not finite are refused later
        normals = _normals(polygons)
        into, out = polygons - np.roll(polygons, 1, axis=1), np.roll(polygons, -1, axis=1) - polygons
        turns = np.einsum("pnc,pc->pn", np.cross(into, out), normals)
        return turns < -1e-9 * np.einsum("pc,pc->p", normals, normals)[:, None]


def _clipped(points: np.ndarray) -> np.ndarray:
    """Triangles ``(n - 2, 3)`` of one polygon's ``points (n, 3)``, by ear clipping."""
    normal = _normals(points[None])[0]
    axis = int(np.abs(normal).argmax())
    flat = (points - points[0])[:, [(axis + 1) % 3, (axis + 2) % 3]] * [1.0, 1.0 if normal[axis] >= 0 else -1.0]
    left, found, start = list(range(len(points))), [], 0
    while len(left) > 3:
        ring = np.array(left)
        at = _ear(flat[ring], start)
        found.append((left[at - 1], left[at], left[(at + 1) % len(left)]))
        del left[at]
        start = at % len(left)
    return np.array([*found, left])


def _ear(flat: np.ndarray, start: int) -> int:
    """The first corner at or after ``start`` that can be cut off ``flat (n, 2)``; the straightest one if there is none."""
    before, after = np.roll(flat, 1, axis=0), np.roll(flat, -1, axis=0)
    turns = _cross(flat - before, after - flat)
    reflex = np.flatnonzero(turns <= 0)
    order = np.roll(np.arange(len(flat)), -start)
    for at in order[turns[order] > 0]:
        a, b, c = before[at], flat[at], after[at]
        others = flat[reflex]
        inside = (_cross(b - a, others - a) >= 0) & (_cross(c - b, others - b) >= 0) & (_cross(a - c, others - c) >= 0)
        # Corners at the triangle's own corners do not count, as where a hole is joined to the outline by a slit.
        own = (others == a).all(axis=1) | (others == b).all(axis=1) | (others == c).all(axis=1)
        if not (inside & ~own).any():
            return int(at)
    return int(np.abs(turns).argmin())


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
