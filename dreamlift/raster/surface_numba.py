"""Compiled CPU kernels for visible surface points: barycentrics, depths, interpolation, forward and backward.

With corners (x_j, y_j, w_j) in homogeneous pixels (:func:`dreamlift.raster.visibility_numba.project`), relative to the
pixel's centre (u, v), X_j = x_j - u w_j and Y_j = y_j - v w_j, the barycentrics are shares of a flat triangle's area and z is
the mean of w weighted by them (Olano and Greer 1997, as in :mod:`dreamlift.raster.visibility`, with the ray (0, 0, 1)):

    b_0 = (X_1 Y_2 - X_2 Y_1) / A, and cyclically;    z = sum b_j w_j;    A = E_x F_y - E_y F_x,

where E, F are corners 1 and 2 minus corner 0. With the gradients g_j = dL/db_j and h = dL/dz, p = g_1 - g_0 + h E_w and
q = g_2 - g_0 + h F_w,

    l_x = (p F_y - q E_y) / A,    l_y = (q E_x - p F_x) / A,    dL/d(x_j, y_j, w_j) = -b_j (l_x, l_y, -u l_x - v l_y - h).

Pixels are summed in order, each view on one thread, so results do not depend on the number of threads.
"""

from __future__ import annotations

import math

import numpy as np

from dreamlift.system.jit import compiled

TINY = 1e-300  # areas below this give barycentrics (1, 0, 0) and no gradient


@compiled
def count_hits(ids: np.ndarray, counts: np.ndarray) -> None:
    """Write to ``counts (R,)`` the number of pixels that show a face, in each row of ``ids (R, W)``."""
    for row in range(ids.shape[0]):
        count = 0
        for x in range(ids.shape[1]):
            count += ids[row, x] >= 0
        counts[row] = count


@compiled
def points_forward(seen: tuple, image: np.ndarray, rays: np.ndarray, low: int, high: int, out: tuple) -> None:
    """Compute the surface points of rows ``low..high`` of the B H rows of pixels.

    Args:
        seen: (face ids (B, H, W), faces (F, 3), starts (B H + 1,): the first point of each row).
        image: ``(B, V, 3)`` of :func:`dreamlift.raster.visibility_numba.project`.
        rays: ``(B, 3, 3)`` of :func:`dreamlift.raster.visibility_numba.make_lenses`.
        out: (pixel (N,), corners (N, 3), barycentrics (N, 3), depth (N, 1), axial (B H W,)) of
            :class:`dreamlift.raster.soft.RasterPoints`.
    """
    ids, faces, starts = seen
    pixel, corners, barycentrics, depth, axial = out
    height, width = ids.shape[1], ids.shape[2]
    for row in range(low, high):
        view, y = row // height, row % height
        n, v = starts[row], y + 0.5
        for x in range(width):
            face = ids[view, y, x]
            if face < 0:
                continue
            i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
            u = x + 0.5
            iw, jw, kw = image[view, i, 2], image[view, j, 2], image[view, k, 2]
            ix, iy = image[view, i, 0] - u * iw, image[view, i, 1] - v * iw
            jx, jy = image[view, j, 0] - u * jw, image[view, j, 1] - v * jw
            kx, ky = image[view, k, 0] - u * kw, image[view, k, 1] - v * kw
            b0, b1, b2 = jx * ky - kx * jy, kx * iy - ix * ky, ix * jy - jx * iy
            area = b0 + b1 + b2
            if abs(area) > TINY:
                inverse = 1.0 / area
                b0, b1, b2 = b0 * inverse, b1 * inverse, b2 * inverse
            else:
                b0, b1, b2 = 1.0, 0.0, 0.0
            z = b0 * iw + b1 * jw + b2 * kw
            pixel[n] = row * width + x
            corners[n, 0], corners[n, 1], corners[n, 2] = i, j, k
            barycentrics[n, 0], barycentrics[n, 1], barycentrics[n, 2] = b0, b1, b2
            depth[n, 0] = z * stretch(rays[view], u, v)
            axial[row * width + x] = z
            n += 1


@compiled
def to_world(of_image: np.ndarray, lens: np.ndarray, out: np.ndarray) -> None:
    """Add to the world points' gradient ``out (V, 3)`` that of their homogeneous pixels, ``of_image (V, 3)``."""
    for i in range(len(out)):
        x, y, w = of_image[i, 0], of_image[i, 1], of_image[i, 2]
        for k in range(3):
            out[i, k] += lens[0, k] * x + lens[1, k] * y + lens[2, k] * w


@compiled
def stretch(rays: np.ndarray, u: float, v: float) -> float:
    """The length of the ray through (u, v), from the camera to depth z = 1."""
    x = rays[0, 0] * u + rays[0, 1] * v + rays[0, 2]
    y = rays[1, 0] * u + rays[1, 1] * v + rays[1, 2]
    z = rays[2, 0] * u + rays[2, 1] * v + rays[2, 2]
    return math.sqrt(x * x + y * y + z * z)


@compiled
def points_backward(packed: tuple, image: np.ndarray, rays: np.ndarray, rows: tuple, grads: tuple, out: np.ndarray) -> None:
    """Add the gradient with respect to one view's homogeneous pixels ``image (V, 3)`` to ``out (V, 3)``.

    Args:
        packed: (pixel (N,), corners (N, 3), starts). rays: ``(3, 3)``.
        rows: (the view's first row among all views' rows, its height, its width).
        grads: of barycentrics (N, 3) and of depth (N, 1); empty where there is none.
    """
    pixel, corners, starts = packed
    first, height, width = rows
    of_barycentrics, of_depth = grads
    flat, deep = len(of_barycentrics) > 0, len(of_depth) > 0
    for y in range(height):
        v = y + 0.5
        for n in range(starts[first + y], starts[first + y + 1]):
            u = pixel[n] - (first + y) * width + 0.5
            i, j, k = corners[n, 0], corners[n, 1], corners[n, 2]
            iw, jw, kw = image[i, 2], image[j, 2], image[k, 2]
            ix, iy = image[i, 0] - u * iw, image[i, 1] - v * iw
            jx, jy = image[j, 0] - u * jw, image[j, 1] - v * jw
            kx, ky = image[k, 0] - u * kw, image[k, 1] - v * kw
            b0, b1, b2 = jx * ky - kx * jy, kx * iy - ix * ky, ix * jy - jx * iy
            area = b0 + b1 + b2
            if abs(area) <= TINY:
                continue
            inverse = 1.0 / area
            p, q, h = 0.0, 0.0, 0.0
            if flat:
                p, q = of_barycentrics[n, 1] - of_barycentrics[n, 0], of_barycentrics[n, 2] - of_barycentrics[n, 0]
            if deep:
                h = of_depth[n, 0] * stretch(rays, u, v)
                p, q = p + h * (jw - iw), q + h * (kw - iw)
            lx = (p * (ky - iy) - q * (jy - iy)) * inverse
            ly = (q * (jx - ix) - p * (kx - ix)) * inverse
            lw = -u * lx - v * ly - h
            b0, b1, b2 = -b0 * inverse, -b1 * inverse, -b2 * inverse
            out[i, 0] += b0 * lx
            out[i, 1] += b0 * ly
            out[i, 2] += b0 * lw
            out[j, 0] += b1 * lx
            out[j, 1] += b1 * ly
            out[j, 2] += b1 * lw
            out[k, 0] += b2 * lx
            out[k, 1] += b2 * ly
            out[k, 2] += b2 * lw


@compiled
def interpolate_forward(given: tuple, low: int, high: int, out: np.ndarray) -> None:
    """Points ``low..high`` of ``out (N, C)``, from ``given`` = (values (V, C), weights (N, 3), corners (N, 3))."""
    values, weights, corners = given
    for n in range(low, high):
        i, j, k = corners[n, 0], corners[n, 1], corners[n, 2]
        p, q, r = weights[n, 0], weights[n, 1], weights[n, 2]
        for c in range(values.shape[1]):
            out[n, c] = p * values[i, c] + q * values[j, c] + r * values[k, c]


@compiled
def interpolate_backward(values: np.ndarray, weights: np.ndarray, corners: np.ndarray, grad: np.ndarray, out: tuple) -> None:
    """The backward pass of :func:`interpolate_forward` for ``grad (N, C)``.

    ``out`` is (the gradient of values (V, C), which is added to; that of weights (N, 3)). An empty one is not computed.
    """
    of_values, of_weights = out
    if len(of_values) > 0:
        for n in range(len(corners)):
            i, j, k = corners[n, 0], corners[n, 1], corners[n, 2]
            p, q, r = weights[n, 0], weights[n, 1], weights[n, 2]
            for c in range(values.shape[1]):
                g = grad[n, c]
                of_values[i, c] += p * g
                of_values[j, c] += q * g
                of_values[k, c] += r * g
    if len(of_weights) > 0:
        for n in range(len(corners)):
            i, j, k = corners[n, 0], corners[n, 1], corners[n, 2]
            g0, g1, g2 = 0.0, 0.0, 0.0
            for c in range(values.shape[1]):
                g = grad[n, c]
                g0 += g * values[i, c]
                g1 += g * values[j, c]
                g2 += g * values[k, c]
            of_weights[n, 0], of_weights[n, 1], of_weights[n, 2] = g0, g1, g2


@compiled
def scatter(values: np.ndarray, pixel: np.ndarray, out: np.ndarray) -> None:
    """Write the points' ``values (N, C)`` to their pixels of ``out (P, C)``, and 0 elsewhere; ``pixel (N,)`` is ascending."""
    low = 0
    for n in range(len(pixel)):
        out[low : pixel[n]] = 0
        low = pixel[n] + 1
        for c in range(values.shape[1]):
            out[low - 1, c] = values[n, c]
    out[low:] = 0


@compiled
def gather(values: np.ndarray, pixel: np.ndarray, out: np.ndarray) -> None:
    """Read ``out (N, C)`` from the points' pixels of ``values (P, C)``."""
    for n in range(len(pixel)):
        for c in range(values.shape[1]):
            out[n, c] = values[pixel[n], c]
