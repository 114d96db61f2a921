"""Soft edges: the opacity of a mask's edge pixels, and the object's colour there without that of its background.

A pixel at the edge shows I = a F + (1 - a) B. With local means F of the colours well inside and B of those well outside,

    a = <I - B, F - B> / |F - B|^2,

and, once a is known, F is estimated again from the means that a weighs, and corrected by what they leave unexplained (Forte
2021, "Approximate fast foreground colour estimation", https://arxiv.org/abs/2006.14970):

    F = mean(a I) / mean(a),  B = mean((1 - a) I) / mean(1 - a),  F + a (I - a F - (1 - a) B).
"""

from __future__ import annotations

import numpy as np

EPS = 1e-6
CONTRAST = 0.03  # difference of the two sides' colours (sRGB in [0, 1]) below which the hard mask is used


def box_mean(values: np.ndarray, radius: int) -> np.ndarray:
    """Sums over squares of ``2 radius + 1`` pixels, divided by their full area; ``(H, W, ...)``, zero outside."""
    size = 2 * radius + 1
    for axis in (0, 1):
        wide = [(0, 0)] * values.ndim
        wide[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(values, wide), axis=axis, dtype=np.float64)
        high = np.take(total, range(size, total.shape[axis]), axis=axis)
        low = np.take(total, range(total.shape[axis] - size), axis=axis)
        values = ((high - low) / size).astype(np.float32)
    return values


def grown(mask: np.ndarray, radius: int) -> np.ndarray:
    """The mask ``(H, W)`` bool and the pixels in squares of ``2 radius + 1`` about its own."""
    return box_mean(mask.astype(np.float32), radius) > 0.5 / (2 * radius + 1) ** 2


def shrunk(mask: np.ndarray, radius: int) -> np.ndarray:
    """The mask ``(H, W)`` bool without the pixels that are near its outside; the picture's border does not count."""
    return ~grown(~mask, radius)


def soft_edges(rgb: np.ndarray, mask: np.ndarray, radius: int = 2) -> np.ndarray:
    """Opacity ``(H, W)`` in [0, 1] of a hard mask ``(H, W)`` bool over ``rgb (H, W, 3)`` in [0, 1].

    Only pixels within ``radius`` of the mask's edge change.
    """
    hard = mask.astype(np.float32)
    band = grown(mask, radius) & grown(~mask, radius)
    # Pixels at the edge itself count little: those well inside, and well outside, are of one side only.
    inside = np.where(shrunk(mask, radius), 1.0, 1e-3 * hard).astype(np.float32)
    outside = np.where(shrunk(~mask, radius), 1.0, 1e-3 * (1 - hard)).astype(np.float32)
    front, back = (local_mean(rgb, weight, 2 * radius + 1) for weight in (inside, outside))
    axis = front - back
    length = (axis**2).sum(axis=-1)
    found = ((rgb - back) * axis).sum(axis=-1) / np.maximum(length, EPS)
    # Where both sides look alike, colours tell nothing about the opacity.
    usual = box_mean(np.pad(hard, 1, mode="edge"), 1)[1:-1, 1:-1]
    found = np.where(length > CONTRAST**2, found, usual)
    return np.where(band, np.clip(found, 0.0, 1.0), hard).astype(np.float32)


def own_colors(rgb: np.ndarray, alpha: np.ndarray, radius: int = 6) -> np.ndarray:
    """The object's colours ``(H, W, 3)`` in [0, 1]: those of a picture ``rgb`` without the background's share at soft edges."""
    weight = alpha[..., None]
    front = local_mean(rgb, alpha, radius)
    back = local_mean(rgb, 1 - alpha, radius)
    better = front + weight * (rgb - weight * front - (1 - weight) * back)
    return np.where((weight > 0) & (weight < 1), np.clip(better, 0.0, 1.0), rgb).astype(np.float32)


def local_mean(rgb: np.ndarray, weight: np.ndarray, radius: int) -> np.ndarray:
    """The mean colour about each pixel, weighted by ``weight (H, W)``; the pixel's own where all weights are zero."""
    both = box_mean(np.concatenate([rgb * weight[..., None], weight[..., None]], axis=-1), radius)
    return np.where(both[..., 3:] > EPS, both[..., :3] / np.maximum(both[..., 3:], EPS), rgb)
