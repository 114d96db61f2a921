"""What the readers of mesh files hand over: parts in the file's own coordinates, and notes on what was not taken over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FLAT_METALLIC, FLAT_ROUGHNESS = 0.0, 0.9  # for files without such values


@dataclass(frozen=True)
class Part:
    """One part, or several merged, in the file's coordinates; not checked."""

    vertices: np.ndarray  # (V, 3) float64: coordinates may be large
    faces: np.ndarray  # (F, 3)
    normals: np.ndarray | None  # (V, 3) unit
    uvs: np.ndarray | None  # (V, 2), v = 0 at the upper edge
    image: np.ndarray | None  # (H, W, 3) uint8 sRGB base colours
    shades: np.ndarray | None  # (V, 3) sRGB in [0, 1]; beside an image they multiply it, in linear light
    surface: np.ndarray | None  # (H, W, 3) uint8: green roughness, blue metallic, each times its factor below
    metallic: float
    roughness: float
    double_sided: bool = False  # whether the file says that its faces are seen from both sides


def counted(number: int, noun: str) -> str:
    """ "1 face", "1,200 faces"."""
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


class Contents(NamedTuple):
    """What one file holds."""

    parts: list[Part]
    notes: list[str]  # phrases for the user, each one thing that was not taken over, or was done in another way
