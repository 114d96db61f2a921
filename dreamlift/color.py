"""Conversion between sRGB and linear light, for arrays and, with finite gradients, for tensors.

    linear = c / 12.92 for c <= 0.04045, otherwise ((c + 0.055) / 1.055)^2.4

Source: IEC 61966-2-1. torch is imported by the functions that use it: the process that reads a user's mesh needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def srgb_to_linear(color: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to linear light."""
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(color: np.ndarray) -> np.ndarray:
    """The inverse of :func:`srgb_to_linear`."""
    return np.where(color <= 0.0031308, color * 12.92, 1.055 * np.maximum(color, 0) ** (1 / 2.4) - 0.055)


def to_linear(color: Tensor) -> Tensor:
    """sRGB in [0, 1] to linear light; the gradient is finite everywhere."""
    import torch

    return torch.where(color <= 0.04045, color / 12.92, ((color.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Tensor) -> Tensor:
    """The inverse of :func:`to_linear`; light is clamped to [0, 1]."""
    import torch

    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)
