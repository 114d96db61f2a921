"""Compiled CPU kernels of signed distances (:mod:`dreamlift.meshing.distance`)."""

from __future__ import annotations

import numpy as np

from dreamlift.system.jit import compiled


@compiled
def near_triangles(corners: np.ndarray, band: float, count: int, out: tuple) -> None:
    """Exact closest points for the grid points within ``band`` cells of a triangle's box.

    Args:
        corners: ``(F, 3, 3)`` float64, in cells.
        out: (closest points (count^3, 3), squared distances (count^3,)) float64; the latter begin at infinity.
    """
    where, best = out
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    p, found = np.empty(3), np.empty(3)
    for f in range(len(corners)):
        a, b, c = corners[f, 0], corners[f, 1], corners[f, 2]
        for k in range(3):
            low[k] = min(max(np.int64(np.ceil(min(a[k], b[k], c[k]) - band)), 0), count - 1)
            high[k] = min(max(np.int64(np.floor(max(a[k], b[k], c[k]) + band)), 0), count - 1)
        for x in range(low[0], high[0] + 1):
            for y in range(low[1], high[1] + 1):
                for z in range(low[2], high[2] + 1):
                    p[0], p[1], p[2] = x, y, z
                    distance = closest(p, a, b, c, found)
                    number = (x * count + y) * count + z
                    if distance < best[number]:
                        best[number] = distance
                        for k in range(3):
                            where[number, k] = found[k]


@compiled
def closest(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray, out: np.ndarray) -> float:
    """Write the point of triangle abc that is closest to p to ``out``; returns its squared distance.

    Ericson 2004, "Real-Time Collision Detection", section 5.1.5. A degenerate triangle is treated as its edges.
    """
    d00 = d01 = d11 = d20 = d21 = 0.0
    for k in range(3):
        e, h, q = b[k] - a[k], c[k] - a[k], p[k] - a[k]
        d00, d01, d11, d20, d21 = d00 + e * e, d01 + e * h, d11 + h * h, d20 + q * e, d21 + q * h
    area = d00 * d11 - d01 * d01
    v, w = d11 * d20 - d01 * d21, d00 * d21 - d01 * d20
    if area > 0 and v >= 0 and w >= 0 and v + w <= area:
        distance = 0.0
        for k in range(3):
            out[k] = a[k] + (v / area) * (b[k] - a[k]) + (w / area) * (c[k] - a[k])
            distance += (p[k] - out[k]) ** 2
        return distance
    best = np.inf
    for side in range(3):
        one, two = (a, b) if side == 0 else (b, c) if side == 1 else (c, a)
        along = length = 0.0
        for k in range(3):
            along += (p[k] - one[k]) * (two[k] - one[k])
            length += (two[k] - one[k]) ** 2
        share = min(max(along / length, 0.0), 1.0) if length > 0 else 0.0
        distance = 0.0
        for k in range(3):
            distance += (p[k] - one[k] - share * (two[k] - one[k])) ** 2
        if distance < best:
            best = distance
            for k in range(3):
                out[k] = one[k] + share * (two[k] - one[k])
    return best


@compiled
def flood(source: np.ndarray, count: int, step: int, low: int, high: int, out: tuple) -> None:
    """One pass of jump flooding for the grid points with x in ``low..high``.

    Args:
        source: ``(count^3, 3)`` float32, the closest points before the pass, in cells. step: cells to the neighbours.
        out: (closest points (count^3, 3), squared distances (count^3,)) after it.
    """
    point, distance = out
    for x in range(low, high):
        for y in range(count):
            for z in range(count):
                here = (x * count + y) * count + z
                best, chosen = distance[here], -1
                for i in range(max(x - step, x % step), min(x + step, count - 1) + 1, step):
                    for j in range(max(y - step, y % step), min(y + step, count - 1) + 1, step):
                        for k in range(max(z - step, z % step), min(z + step, count - 1) + 1, step):
                            there = (i * count + j) * count + k
                            dx, dy, dz = source[there, 0] - x, source[there, 1] - y, source[there, 2] - z
                            far = dx * dx + dy * dy + dz * dz
                            if far < best:
                                best, chosen = far, there
                if chosen >= 0:
                    distance[here] = best
                    point[here, 0], point[here, 1], point[here, 2] = source[chosen, 0], source[chosen, 1], source[chosen, 2]


@compiled
def count_turns(flat: np.ndarray, depths: np.ndarray, count: int, turns: np.ndarray) -> None:
    """Add to ``turns (count, count, count + 1)`` the faces that each grid line passes, at the first grid point behind them.

    Args:
        flat: ``(F, 3, 2)`` float64, the triangles' corners seen along the lines, in cells. depths: ``(F, 3)`` along them.
        turns: +1 for a face through which the line leaves, -1 for one through which it enters.
    """
    for f in range(len(flat)):
        ax, ay, bx, by, cx, cy = flat[f, 0, 0], flat[f, 0, 1], flat[f, 1, 0], flat[f, 1, 1], flat[f, 2, 0], flat[f, 2, 1]
        first_x, last_x = max(np.int64(np.ceil(min(ax, bx, cx))), 0), min(np.int64(np.floor(max(ax, bx, cx))), count - 1)
        first_y, last_y = max(np.int64(np.ceil(min(ay, by, cy))), 0), min(np.int64(np.floor(max(ay, by, cy))), count - 1)
        for x in range(first_x, last_x + 1):
            for y in range(first_y, last_y + 1):
                u = (bx - x) * (cy - y) - (by - y) * (cx - x)
                v = (cx - x) * (ay - y) - (cy - y) * (ax - x)
                w = (ax - x) * (by - y) - (ay - y) * (bx - x)
                if not ((u > 0 and v > 0 and w > 0) or (u < 0 and v < 0 and w < 0)):
                    continue
                total = u + v + w
                depth = (u * depths[f, 0] + v * depths[f, 1] + w * depths[f, 2]) / total
                turns[x, y, min(max(np.int64(np.ceil(depth)), 0), count)] += 1 if total > 0 else -1
