"""Vertices of corners, for formats whose faces index positions, texture coordinates and normals separately."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def distinct(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One vertex for each distinct row of ``columns``, integers ``(C,)`` from -1.

    Returns:
        The first corner of each vertex ``(V,)``, and the vertex of each corner ``(C,)``.
    """
    key = columns[0].astype(np.int64)
    for column in columns[1:]:
        if (column != column[0]).any():
            key = np.unique(key, return_inverse=True)[1].astype(np.int64) * (int(column.max()) + 2) + column + 1
    _, first, number = np.unique(key, return_index=True, return_inverse=True)
    return first, number.reshape(-1)


def color_range(colors: np.ndarray) -> np.ndarray:
    """Colours in [0, 1] from a file's numbers, which are in 0..255 if any is above 1; NaN becomes middle grey."""
    with np.errstate(invalid="ignore"):
        scale = 255.0 if np.nanmax(colors, initial=0.0) > 1 else 1.0
        return np.clip(np.where(np.isfinite(colors), colors / scale, 0.5), 0, 1)
