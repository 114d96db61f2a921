"""Texture coordinates of glTF files: the set that a texture uses, and its transform by the extension KHR_texture_transform.

https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Khronos/KHR_texture_transform: coordinates are scaled, then
rotated by an angle that is counter-clockwise where v grows downwards, then shifted. (The sample code there rotates in the
opposite direction to its text, its examples and the viewers; this file follows the latter:
https://github.com/KhronosGroup/glTF/issues/1563.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

TRANSFORM = "KHR_texture_transform"
SETS = 32  # accepted sets of coordinates


@dataclass(frozen=True)
class Laid:
    """The mapping of a texture: uv' = rotation(scale * uv) + offset, for uv in the vertices' TEXCOORD_``texcoord``."""

    texcoord: int = 0
    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0  # radians
    scale: tuple[float, float] = (1.0, 1.0)

    def apply(self, uvs: np.ndarray) -> np.ndarray:
        """The transformed coordinates ``(N, 2)``, v downwards."""
        u, v = uvs[:, 0] * self.scale[0], uvs[:, 1] * self.scale[1]
        cos, sin = math.cos(self.rotation), math.sin(self.rotation)
        return np.stack([cos * u + sin * v, cos * v - sin * u], axis=1) + np.array(self.offset)


def read_laid(texture: Mapping[str, Any], what: str) -> Laid:
    """The mapping that a material's ``textureInfo`` describes. Raises ValueError where it is malformed."""
    extensions = texture.get("extensions")
    transform = extensions.get(TRANSFORM, {}) if isinstance(extensions, dict) else {}
    if not isinstance(transform, dict):
        raise ValueError(f"the {TRANSFORM} {what} is malformed")
    texcoord = transform.get("texCoord", texture.get("texCoord", 0))
    if isinstance(texcoord, bool) or not isinstance(texcoord, int) or not 0 <= texcoord < SETS:
        raise ValueError(f"the texCoord {what} is {str(texcoord)[:40]}; accepted here: 0 to {SETS - 1}")
    offset, scale = transform.get("offset", [0, 0]), transform.get("scale", [1, 1])
    numbers = [offset, scale, [transform.get("rotation", 0), 0]]
    if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_small, pair)) for pair in numbers):
        raise ValueError(f"the {TRANSFORM} {what} must be made of numbers up to a million")
    return Laid(texcoord, (float(offset[0]), float(offset[1])), float(numbers[2][0]), (float(scale[0]), float(scale[1])))


def _small(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e6  # false for NaN


def home(uvs: np.ndarray) -> np.ndarray:
    """Coordinates that span at most one repetition, shifted by whole ones into [0, 1]; others as they are."""
    if len(uvs) and (np.ptp(uvs, axis=0) <= 1 + 1e-6).all():
        return uvs - np.floor(uvs.min(axis=0) + 1e-6)
    return uvs
