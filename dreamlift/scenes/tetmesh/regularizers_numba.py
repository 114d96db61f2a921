"""Compiled CPU kernels of the mesh regularisers (:mod:`dreamlift.scenes.tetmesh.regularizers`), each with its gradient.

A regulariser is one number, so its gradient is computed in the forward pass; the backward pass only scales it.
"""

from __future__ import annotations

import math

import numpy as np

from dreamlift.system.jit import compiled


@compiled
def consistency(vertices: np.ndarray, faces: np.ndarray, sides: np.ndarray, grad: np.ndarray) -> float:
    """The value of :func:`~dreamlift.scenes.tetmesh.regularizers.normal_consistency`; ``grad (V, 3)`` is added to."""
    count = len(faces)
    normals, lengths = np.empty((count, 3), np.float32), np.empty(count, np.float32)
    areas = np.empty(count, np.float32)  # without the term that keeps the lengths from 0: a face without area has no weight
    mean = 0.0
    for f in range(count):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ex, ey, ez = vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2]
        hx, hy, hz = vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2]
        x, y, z = ey * hz - ez * hy, ez * hx - ex * hz, ex * hy - ey * hx
        square = x * x + y * y + z * z
        length = math.sqrt(square + np.float32(1e-20))
        normals[f, 0], normals[f, 1], normals[f, 2] = x / length, y / length, z / length
        lengths[f], areas[f] = length, math.sqrt(square)
        mean += areas[f]
    smallest = np.float32(max(0.1 * mean / max(count, 1), 1e-20))
    of_normals = np.zeros((count, 3), np.float32)
    total, weights = 0.0, 0.0
    for e in range(len(sides)):
        f, g = sides[e, 0], sides[e, 1]
        if g < 0:
            continue
        w = min(min(areas[f], areas[g]) / smallest, np.float32(1.0))
        cosine = np.float32(0.0)
        for a in range(3):
            cosine += normals[f, a] * normals[g, a]
            of_normals[f, a] -= w * normals[g, a]
            of_normals[g, a] -= w * normals[f, a]
        total += w * (np.float32(1.0) - cosine)
        weights += w
    share = max(weights, 1e-6)
    scale = np.float32(1.0 / share)
    for f in range(count):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        x, y, z = normals[f, 0], normals[f, 1], normals[f, 2]
        along = of_normals[f, 0] * x + of_normals[f, 1] * y + of_normals[f, 2] * z
        by = scale / lengths[f]
        px, py, pz = (
            (of_normals[f, 0] - along * x) * by, (of_normals[f, 1] - along * y) * by, (of_normals[f, 2] - along * z) * by
        )  # fmt: skip
        ex, ey, ez = vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2]
        hx, hy, hz = vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2]
        jx, jy, jz = hy * pz - hz * py, hz * px - hx * pz, hx * py - hy * px
        kx, ky, kz = py * ez - pz * ey, pz * ex - px * ez, px * ey - py * ex
        grad[j, 0] += jx
        grad[j, 1] += jy
        grad[j, 2] += jz
        grad[k, 0] += kx
        grad[k, 1] += ky
        grad[k, 2] += kz
        grad[i, 0] -= jx + kx
        grad[i, 1] -= jy + ky
        grad[i, 2] -= jz + kz
    return float(total / share)


@compiled
def smoothness(vertices: np.ndarray, ends: np.ndarray, grad: np.ndarray) -> float:
    """The value of :func:`~dreamlift.scenes.tetmesh.regularizers.laplacian`; ``grad (V, 3)`` is added to."""
    count = len(vertices)
    away, degree = np.zeros((count, 3), np.float32), np.zeros(count, np.float32)
    for e in range(len(ends)):
        i, j = ends[e, 0], ends[e, 1]
        degree[i] += np.float32(1.0)
        degree[j] += np.float32(1.0)
        for a in range(3):
            away[i, a] += vertices[j, a]
            away[j, a] += vertices[i, a]
    total = 0.0
    share = np.float32(1.0 / max(count, 1))
    for i in range(count):
        x, y, z = (
            away[i, 0] - degree[i] * vertices[i, 0], away[i, 1] - degree[i] * vertices[i, 1],
            away[i, 2] - degree[i] * vertices[i, 2],
        )  # fmt: skip
        length = math.sqrt(x * x + y * y + z * z + np.float32(1e-20))
        total += length
        by = share / length
        # Now the gradient with respect to the difference.
        away[i, 0], away[i, 1], away[i, 2] = x * by, y * by, z * by
        for a in range(3):
            grad[i, a] -= degree[i] * away[i, a]
    for e in range(len(ends)):
        i, j = ends[e, 0], ends[e, 1]
        for a in range(3):
            grad[i, a] += away[j, a]
            grad[j, a] += away[i, a]
    return total / max(count, 1)
