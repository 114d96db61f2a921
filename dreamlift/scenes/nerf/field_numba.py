"""Compiled CPU kernels of the fields: sampling a channels-last grid, and the multi-resolution hash encoding."""

from __future__ import annotations

import numpy as np

from dreamlift.system.jit import compiled

# Unsigned indices spare numba the check for negative ones, which costs a quarter of the time. The sum of an unsigned and a
# signed integer is a float in numba, so the two must not be mixed.
U = np.uint64
U0, U1, U2, U3, U4, U5, U6, U7 = U(0), U(1), U(2), U(3), U(4), U(5), U(6), U(7)


@compiled
def grid_forward(grid: np.ndarray, points: np.ndarray, bounds: float, low: int, high: int, out: tuple) -> None:
    """Trilinear values of ``grid (n, n, n, 4)`` at points ``low..high``; ``out`` is (first (N,), others (N, 3))."""
    first, others = out
    n = grid.shape[0]
    flat = grid.reshape(-1)
    row, plane = U4 * U(n), U4 * U(n) * U(n)
    scale, bound = np.float32((n - 1) / (2.0 * bounds)), np.float32(bounds)
    last, one = np.float32(n - 1), np.float32(1.0)
    for i in range(low, high):
        x = min(max((points[i, 0] + bound) * scale, np.float32(0.0)), last)
        y = min(max((points[i, 1] + bound) * scale, np.float32(0.0)), last)
        z = min(max((points[i, 2] + bound) * scale, np.float32(0.0)), last)
        ix, iy, iz = max(min(int(x), n - 2), 0), max(min(int(y), n - 2), 0), max(min(int(z), n - 2), 0)
        fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
        base = U(iz) * plane + U(iy) * row + U4 * U(ix)
        a0 = a1 = a2 = a3 = np.float32(0.0)
        for k in range(4):
            w = (fy if k & 1 else one - fy) * (fz if k & 2 else one - fz)
            p = base + (row if k & 1 else U0) + (plane if k & 2 else U0)
            w1 = w * fx
            w0 = w - w1
            a0 += w0 * flat[p] + w1 * flat[p + U4]
            a1 += w0 * flat[p + U1] + w1 * flat[p + U5]
            a2 += w0 * flat[p + U2] + w1 * flat[p + U6]
            a3 += w0 * flat[p + U3] + w1 * flat[p + U7]
        first[i], others[i, 0], others[i, 1], others[i, 2] = a0, a1, a2, a3


@compiled
def grid_backward(out: np.ndarray, points: np.ndarray, bounds: float, grads: tuple, part: int, parts: int) -> None:
    """The transpose of :func:`grid_forward`, added to ``out (n, n, n, 4)``; ``grads`` is (first (N,), others (N, 3)).

    Call it once for every ``part``: each writes only to the planes z with ``(z // 4) % parts == part``. The parts can
    therefore run in parallel, and each corner is summed in the order of the points for any number of ``parts``.
    """
    first, others = grads
    n = out.shape[0]
    flat = out.reshape(-1)
    row, plane = U4 * U(n), U4 * U(n) * U(n)
    scale, bound = np.float32((n - 1) / (2.0 * bounds)), np.float32(bounds)
    last, one = np.float32(n - 1), np.float32(1.0)
    for i in range(points.shape[0]):
        z = min(max((points[i, 2] + bound) * scale, np.float32(0.0)), last)
        iz = max(min(int(z), n - 2), 0)
        mine0, mine1 = (iz >> 2) % parts == part, ((iz + 1) >> 2) % parts == part
        g0, g1, g2, g3 = first[i], others[i, 0], others[i, 1], others[i, 2]
        if not (mine0 or mine1) or (g0 == 0.0 and g1 == 0.0 and g2 == 0.0 and g3 == 0.0):
            continue
        x = min(max((points[i, 0] + bound) * scale, np.float32(0.0)), last)
        y = min(max((points[i, 1] + bound) * scale, np.float32(0.0)), last)
        ix, iy = max(min(int(x), n - 2), 0), max(min(int(y), n - 2), 0)
        fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
        base = U(iz) * plane + U(iy) * row + U4 * U(ix)
        for k in range(4):
            if not (mine1 if k & 2 else mine0):
                continue
            w = (fy if k & 1 else one - fy) * (fz if k & 2 else one - fz)
            p = base + (row if k & 1 else U0) + (plane if k & 2 else U0)
            w1 = w * fx
            w0 = w - w1
            flat[p] += w0 * g0
            flat[p + U1] += w0 * g1
            flat[p + U2] += w0 * g2
            flat[p + U3] += w0 * g3
            flat[p + U4] += w1 * g0
            flat[p + U5] += w1 * g1
            flat[p + U6] += w1 * g2
            flat[p + U7] += w1 * g3


@compiled
def upsample_forward(coarse: np.ndarray, fine: np.ndarray, low: int, high: int, out: np.ndarray) -> None:
    """Write ``fine (m, m, m, 4)`` plus the upsampled ``coarse (n, n, n, 4)`` to planes z in ``low..high`` of ``out``."""
    n, m = coarse.shape[0], fine.shape[0]
    k = (m - 1) // (n - 1)
    row = np.empty((n, 4), np.float32)
    for z in range(low, high):
        z0 = min(z // k, n - 2)
        fz = np.float32(z - z0 * k) / np.float32(k)
        for y in range(m):
            y0 = min(y // k, n - 2)
            fy = np.float32(y - y0 * k) / np.float32(k)
            w11 = fz * fy
            w10, w01 = fz - w11, fy - w11
            w00 = np.float32(1.0) - fz - fy + w11
            a, b = coarse[z0, y0], coarse[z0, y0 + 1]
            c, d = coarse[z0 + 1, y0], coarse[z0 + 1, y0 + 1]
            for x in range(n):
                for j in range(4):
                    row[x, j] = w00 * a[x, j] + w01 * b[x, j] + w10 * c[x, j] + w11 * d[x, j]
            for x in range(n - 1):
                for s in range(k):
                    f = np.float32(s) / np.float32(k)
                    for j in range(4):
                        p, q = row[x, j], row[x + 1, j]
                        out[z, y, x * k + s, j] = fine[z, y, x * k + s, j] + (p + f * (q - p))
            for j in range(4):
                out[z, y, m - 1, j] = fine[z, y, m - 1, j] + row[n - 1, j]


@compiled
def upsample_backward(grad: np.ndarray, out: np.ndarray) -> None:
    """Add the transpose of the upsampling, applied to ``grad (m, m, m, 4)``, to ``out (n, n, n, 4)``."""
    n, m = out.shape[0], grad.shape[0]
    k = (m - 1) // (n - 1)
    row = np.empty((n, 4), np.float32)
    for z in range(m):
        z0 = min(z // k, n - 2)
        fz = np.float32(z - z0 * k) / np.float32(k)
        for y in range(m):
            y0 = min(y // k, n - 2)
            fy = np.float32(y - y0 * k) / np.float32(k)
            row[:] = 0.0
            for x in range(n - 1):
                for s in range(k):
                    f = np.float32(s) / np.float32(k)
                    for j in range(4):
                        g = grad[z, y, x * k + s, j]
                        row[x, j] += g - f * g
                        row[x + 1, j] += f * g
            for j in range(4):
                row[n - 1, j] += grad[z, y, m - 1, j]
            w11 = fz * fy
            w10, w01 = fz - w11, fy - w11
            w00 = np.float32(1.0) - fz - fy + w11
            a, b = out[z0, y0], out[z0, y0 + 1]
            c, d = out[z0 + 1, y0], out[z0 + 1, y0 + 1]
            for x in range(n):
                for j in range(4):
                    a[x, j] += w00 * row[x, j]
                    b[x, j] += w01 * row[x, j]
                    c[x, j] += w10 * row[x, j]
                    d[x, j] += w11 * row[x, j]


@compiled
def slopes_forward(grid: np.ndarray, low: int, high: int, out: np.ndarray) -> None:
    """Central differences of channel 0 of ``grid (n, n, n, 4)``: ``out (n, n, n, 4)`` is (0, d x, d y, d z).

    Planes z in ``low..high``; differences are per cell, one-sided at the border.
    """
    n = grid.shape[0]
    half, one = np.float32(0.5), np.float32(1.0)
    for z in range(low, high):
        z0, z1 = max(z - 1, 0), min(z + 1, n - 1)
        wz = half if z1 - z0 == 2 else one
        for y in range(n):
            y0, y1 = max(y - 1, 0), min(y + 1, n - 1)
            wy = half if y1 - y0 == 2 else one
            for x in range(n):
                x0, x1 = max(x - 1, 0), min(x + 1, n - 1)
                wx = half if x1 - x0 == 2 else one
                out[z, y, x, 0] = 0.0
                out[z, y, x, 1] = wx * (grid[z, y, x1, 0] - grid[z, y, x0, 0])
                out[z, y, x, 2] = wy * (grid[z, y1, x, 0] - grid[z, y0, x, 0])
                out[z, y, x, 3] = wz * (grid[z1, y, x, 0] - grid[z0, y, x, 0])


@compiled
def slopes_backward(grad: np.ndarray, out: np.ndarray) -> None:
    """Add the transpose of :func:`slopes_forward` to channel 0 of ``out (n, n, n, 4)``."""
    n = out.shape[0]
    half, one = np.float32(0.5), np.float32(1.0)
    for z in range(n):
        z0, z1 = max(z - 1, 0), min(z + 1, n - 1)
        wz = half if z1 - z0 == 2 else one
        for y in range(n):
            y0, y1 = max(y - 1, 0), min(y + 1, n - 1)
            wy = half if y1 - y0 == 2 else one
            for x in range(n):
                gx, gy, gz = grad[z, y, x, 1], grad[z, y, x, 2], grad[z, y, x, 3]
                if gx == 0.0 and gy == 0.0 and gz == 0.0:
                    continue
                x0, x1 = max(x - 1, 0), min(x + 1, n - 1)
                wx = half if x1 - x0 == 2 else one
                out[z, y, x1, 0] += wx * gx
                out[z, y, x0, 0] -= wx * gx
                out[z, y1, x, 0] += wy * gy
                out[z, y0, x, 0] -= wy * gy
                out[z1, y, x, 0] += wz * gz
                out[z0, y, x, 0] -= wz * gz


@compiled
def hash_forward(table: np.ndarray, points: np.ndarray, layout: tuple, low: int, high: int, out: np.ndarray) -> None:
    """Encode points ``low..high`` (N, 3) in [0, 1]: ``out (L * 2, N)`` from ``table (S, 2)``.

    ``layout`` is (resolutions (L,), first entries (L + 1,), number of active levels); inactive levels give zeros.
    """
    resolutions, first, active = layout
    one = np.float32(1.0)
    for level in range(resolutions.shape[0]):
        if level >= active:
            for i in range(low, high):
                out[2 * level, i], out[2 * level + 1, i] = 0.0, 0.0
            continue
        n = resolutions[level]
        entries = table[first[level] : first[level + 1]]
        size = entries.shape[0]
        dense = size == (n + 1) * (n + 1) * (n + 1)
        mask = np.uint32(size - 1)
        last = np.float32(n)
        for i in range(low, high):
            x = min(max(points[i, 0] * last, np.float32(0.0)), last)
            y = min(max(points[i, 1] * last, np.float32(0.0)), last)
            z = min(max(points[i, 2] * last, np.float32(0.0)), last)
            ix, iy, iz = max(min(int(x), n - 1), 0), max(min(int(y), n - 1), 0), max(min(int(z), n - 1), 0)
            fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
            a0 = a1 = np.float32(0.0)
            for k in range(4):
                cy, cz = iy + (k & 1), iz + (k >> 1)
                w = (fy if k & 1 else one - fy) * (fz if k & 2 else one - fz)
                if dense:
                    p = (cz * (n + 1) + cy) * (n + 1) + ix
                    q = p + 1
                else:
                    h = np.uint32(cy) * np.uint32(2654435761) ^ np.uint32(cz) * np.uint32(805459861)
                    p = np.int64((np.uint32(ix) ^ h) & mask)
                    q = np.int64((np.uint32(ix + 1) ^ h) & mask)
                w1 = w * fx
                w0 = w - w1
                a0 += w0 * entries[p, 0] + w1 * entries[q, 0]
                a1 += w0 * entries[p, 1] + w1 * entries[q, 1]
            out[2 * level, i], out[2 * level + 1, i] = a0, a1


@compiled
def hash_backward(out: np.ndarray, points: np.ndarray, layout: tuple, grad: np.ndarray, low: int, high: int) -> None:
    """The transpose of :func:`hash_forward` for levels ``low..high``, added to ``out (S, 2)``.

    ``grad`` is ``(L * 2, N)``. Levels write to disjoint entries, so they can run in parallel.
    """
    resolutions, first, _ = layout
    one = np.float32(1.0)
    for level in range(low, high):
        n = resolutions[level]
        entries = out[first[level] : first[level + 1]]
        size = entries.shape[0]
        dense = size == (n + 1) * (n + 1) * (n + 1)
        mask = np.uint32(size - 1)
        last = np.float32(n)
        for i in range(points.shape[0]):
            g0, g1 = grad[2 * level, i], grad[2 * level + 1, i]
            if g0 == 0.0 and g1 == 0.0:
                continue
            x = min(max(points[i, 0] * last, np.float32(0.0)), last)
            y = min(max(points[i, 1] * last, np.float32(0.0)), last)
            z = min(max(points[i, 2] * last, np.float32(0.0)), last)
            ix, iy, iz = max(min(int(x), n - 1), 0), max(min(int(y), n - 1), 0), max(min(int(z), n - 1), 0)
            fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
            for k in range(4):
                cy, cz = iy + (k & 1), iz + (k >> 1)
                w = (fy if k & 1 else one - fy) * (fz if k & 2 else one - fz)
                if dense:
                    p = (cz * (n + 1) + cy) * (n + 1) + ix
                    q = p + 1
                else:
                    h = np.uint32(cy) * np.uint32(2654435761) ^ np.uint32(cz) * np.uint32(805459861)
                    p = np.int64((np.uint32(ix) ^ h) & mask)
                    q = np.int64((np.uint32(ix + 1) ^ h) & mask)
                w1 = w * fx
                w0 = w - w1
                entries[p, 0] += w0 * g0
                entries[p, 1] += w0 * g1
                entries[q, 0] += w1 * g0
                entries[q, 1] += w1 * g1
