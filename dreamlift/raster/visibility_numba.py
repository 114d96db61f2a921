"""The compiled CPU kernels of :mod:`dreamlift.raster.visibility`.

With M = K R, where R rotates the world into the camera's axes, (M v_j) x (M v_k) = det(M) M^-T (v_j x v_k). Hence the
formulas given there for rays K^-1 (u, v, 1) and corners in camera space also hold for (u, v, 1) and corners in homogeneous
pixels, and each vertex is projected once instead of once per face.
"""

from __future__ import annotations

import numpy as np

from dreamlift.system.jit import compiled

# Share of sum(b) by which a pixel's centre may lie outside an edge, so that rounding opens no crack between two triangles.
SLACK = 1e-12
BATCH = np.uint64(512)  # hits that are collected before their depths are compared


@compiled
def invert(m: np.ndarray, out: np.ndarray) -> None:
    """The inverse of ``m (3, 3)``, by cofactors."""
    for i in range(3):
        for j in range(3):
            a, b, c, d = (i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3
            out[j, i] = m[a, c] * m[b, d] - m[a, d] * m[b, c]
    scale = 1.0 / (m[0, 0] * out[0, 0] + m[0, 1] * out[1, 0] + m[0, 2] * out[2, 0])
    for i in range(3):
        for j in range(3):
            out[i, j] *= scale


@compiled
def make_lenses(c2w: np.ndarray, K: np.ndarray, lenses: np.ndarray, rays: np.ndarray) -> None:
    """Projection matrices of B cameras with ``c2w (B, 4, 4)`` and ``K (B, 3, 3)``.

    ``lenses (B, 4, 4)``: three rows of K times world-to-camera, then world-to-camera's third row. ``rays (B, 3, 3)``: the
    rotation of camera-to-world times K's inverse, which maps (u, v, 1) to the ray's vector from the camera to depth z = 1.
    """
    inverse = np.empty((3, 3))
    for n in range(len(c2w)):
        invert(K[n], inverse)
        for i in range(3):
            for j in range(3):
                rays[n, i, j] = c2w[n, i, 0] * inverse[0, j] + c2w[n, i, 1] * inverse[1, j] + c2w[n, i, 2] * inverse[2, j]
        invert(c2w[n], inverse)
        for i in range(4):
            lenses[n, i, 3] = 0.0
            for j in range(3):
                lenses[n, i, j] = inverse[2, j]
                if i < 3:
                    lenses[n, i, j] = K[n, i, 0] * inverse[0, j] + K[n, i, 1] * inverse[1, j] + K[n, i, 2] * inverse[2, j]
                lenses[n, i, 3] -= lenses[n, i, j] * c2w[n, j, 3]


@compiled
def project(points: np.ndarray, lens: np.ndarray, image: np.ndarray, screen: np.ndarray) -> None:
    """Project world ``points (V, 3)`` by a ``lens (4, 4)`` of :func:`make_lenses`.

    ``image (V, 3)`` gets homogeneous pixels, ``screen (V, 3)`` pixels and the depth along the camera's axis: u, v, z.
    """
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        for k in range(3):
            image[i, k] = lens[k, 0] * x + lens[k, 1] * y + lens[k, 2] * z + lens[k, 3]
        inverse = 1.0 / image[i, 2]
        screen[i, 0], screen[i, 1] = image[i, 0] * inverse, image[i, 1] * inverse
        screen[i, 2] = lens[3, 0] * x + lens[3, 1] * y + lens[3, 2] * z + lens[3, 3]


@compiled
def keep_nearest(hits: tuple, count: int, limit: float, nearest: np.ndarray, winner: np.ndarray) -> None:
    """Update the pixels' ``nearest`` 1 / z and ``winner`` by the first ``count`` hits (pixel, 1 / z, face), in their order."""
    pixels, inverses, owners = hits
    for n in range(count):
        if inverses[n] > nearest[pixels[n]] and inverses[n] < limit:
            nearest[pixels[n]], winner[pixels[n]] = inverses[n], owners[n]


@compiled
def nearest_faces(view: tuple, faces: np.ndarray, near: float, low: int, high: int, winner: np.ndarray) -> None:
    """Rows ``low..high`` of ``winner (H, W)``: the nearest face, or -1.

    ``view`` is (image, screen) of :func:`project`, ``near`` the near plane's z. At equal depth the lowest face number wins.
    """
    image, screen = view
    width = winner.shape[1]
    winner[low:high] = -1
    flat, nearest = winner[low:high].ravel(), np.zeros((high - low) * width)
    # Hits are appended without a branch, by adding 0 or 1 to the list's length, and their depths are compared later: with
    # small triangles most branches would be mispredicted, and comparisons would wait for the previous triangle's writes.
    # The length is unsigned, so that numba omits the test for negative indices.
    room = len(flat) + int(BATCH)
    hits, count = (np.empty(room, np.int64), np.empty(room), np.empty(room, np.int64)), np.uint64(0)
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        front = (screen[i, 2] > near) + (screen[j, 2] > near) + (screen[k, 2] > near)
        if front == 0:
            continue
        left, right, top, bottom = 0, width - 1, low, high - 1
        if front == 3:
            # Slightly enlarged, so that rounding loses no pixel; clamped before the conversion to an integer.
            umin, umax = min(screen[i, 0], screen[j, 0], screen[k, 0]), max(screen[i, 0], screen[j, 0], screen[k, 0])
            vmin, vmax = min(screen[i, 1], screen[j, 1], screen[k, 1]), max(screen[i, 1], screen[j, 1], screen[k, 1])
            left, right = int(min(max(umin + 0.499999, 0.0), 1e9)), int(min(max(umax + 0.500001, 0.0), float(width))) - 1
            top, bottom = int(min(max(vmin + 0.499999, float(low)), 1e9)), int(min(max(vmax + 0.500001, 0.0), float(high))) - 1
            if left > right or top > bottom:
                continue
        px, py, pw = image[i, 0], image[i, 1], image[i, 2]
        qx, qy, qw = image[j, 0], image[j, 1], image[j, 2]
        rx, ry, rw = image[k, 0], image[k, 1], image[k, 2]
        ax, ay, aw = qy * rw - qw * ry, qw * rx - qx * rw, qx * ry - qy * rx
        volume = px * ax + py * ay + pw * aw
        if volume == 0.0:
            continue
        # b / volume: its sum is 1 / z, and in front of the camera it is positive inside the triangle.
        scale = 1.0 / volume
        ax, ay, aw = ax * scale, ay * scale, aw * scale
        bx, by, bw = (ry * pw - rw * py) * scale, (rw * px - rx * pw) * scale, (rx * py - ry * px) * scale
        cx, cy, cw = (py * qw - pw * qy) * scale, (pw * qx - px * qw) * scale, (px * qy - py * qx) * scale
        for y in range(top, bottom + 1):
            v = y + 0.5
            a0, b0, c0 = ay * v + aw, by * v + bw, cy * v + cw
            for x in range(left, right + 1):
                u = x + 0.5
                a, b, c = ax * u + a0, bx * u + b0, cx * u + c0
                total = a + b + c
                hits[0][count], hits[1][count], hits[2][count] = (y - low) * width + x, total, f
                count += np.uint64(min(a, b, c) >= -SLACK * total)
        if count >= BATCH:
            keep_nearest(hits, count, 1.0 / near, nearest, flat)
            count = np.uint64(0)
    keep_nearest(hits, count, 1.0 / near, nearest, flat)
