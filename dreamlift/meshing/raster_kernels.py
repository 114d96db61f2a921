"""The compiled CPU kernel of :mod:`dreamlift.meshing.visibility`."""

from __future__ import annotations

import math

import numpy as np

from dreamlift.jit import compiled

# Share of sum(b) by which a pixel's centre may lie outside of an edge: rounding must not open a crack between two triangles.
SLACK = 1e-12


@compiled
def nearest_faces(points: np.ndarray, faces: np.ndarray, lens: tuple, low: int, high: int, winner: np.ndarray) -> None:
    """Rows ``low..high`` of ``winner (H, W)``: the nearest face, or -1.

    ``points (V, 3)`` are in camera space, ``lens`` is (K (3, 3), its inverse, the near plane's z). Where faces are equally
    near, the lowest number wins.
    """
    K, inverse, near = lens
    width = winner.shape[1]
    nearest = np.full((high - low, width), np.inf)
    winner[low:high] = -1
    b0, b1, b2 = np.empty(3), np.empty(3), np.empty(3)  # of u, v and 1 in each b_i
    for f in range(faces.shape[0]):
        p, q, r = points[faces[f, 0]], points[faces[f, 1]], points[faces[f, 2]]
        if p[2] <= near and q[2] <= near and r[2] <= near:
            continue
        left, right, top, bottom = 0, width - 1, low, high - 1
        if p[2] > near and q[2] > near and r[2] > near:
            umin, umax, vmin, vmax = np.inf, -np.inf, np.inf, -np.inf
            for corner in (p, q, r):
                w = K[2, 0] * corner[0] + K[2, 1] * corner[1] + K[2, 2] * corner[2]
                u = (K[0, 0] * corner[0] + K[0, 1] * corner[1] + K[0, 2] * corner[2]) / w
                v = (K[1, 0] * corner[0] + K[1, 1] * corner[1] + K[1, 2] * corner[2]) / w
                umin, umax, vmin, vmax = min(umin, u), max(umax, u), min(vmin, v), max(vmax, v)
            # A hair more than needed, since rounding must not lose a pixel; clamped before it becomes a whole number.
            left = math.ceil(min(max(umin - 0.500001, 0.0), 1e9))
            right = math.floor(min(max(umax - 0.499999, -1.0), width - 1.0))
            top = math.ceil(min(max(vmin - 0.500001, float(low)), 1e9))
            bottom = math.floor(min(max(vmax - 0.499999, -1.0), high - 1.0))
        if left > right or top > bottom:
            continue
        e0x, e0y, e0z = q[1] * r[2] - q[2] * r[1], q[2] * r[0] - q[0] * r[2], q[0] * r[1] - q[1] * r[0]
        e1x, e1y, e1z = r[1] * p[2] - r[2] * p[1], r[2] * p[0] - r[0] * p[2], r[0] * p[1] - r[1] * p[0]
        e2x, e2y, e2z = p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]
        volume = p[0] * e0x + p[1] * e0y + p[2] * e0z
        if volume == 0.0:
            continue
        for k in range(3):
            b0[k] = e0x * inverse[0, k] + e0y * inverse[1, k] + e0z * inverse[2, k]
            b1[k] = e1x * inverse[0, k] + e1y * inverse[1, k] + e1z * inverse[2, k]
            b2[k] = e2x * inverse[0, k] + e2y * inverse[1, k] + e2z * inverse[2, k]
        for y in range(top, bottom + 1):
            v = y + 0.5
            for x in range(left, right + 1):
                u = x + 0.5
                i, j, k = b0[0] * u + b0[1] * v + b0[2], b1[0] * u + b1[1] * v + b1[2], b2[0] * u + b2[1] * v + b2[2]
                total = i + j + k
                if total == 0.0:
                    continue
                z = volume / total
                slack = SLACK * abs(total)
                one_side = (i >= -slack and j >= -slack and k >= -slack) or (i <= slack and j <= slack and k <= slack)
                if one_side and z > near and z < nearest[y - low, x]:
                    nearest[y - low, x] = z
                    winner[y, x] = f
