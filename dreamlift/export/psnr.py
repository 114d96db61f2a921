"""Peak signal-to-noise ratio, for the comparison of an exported file's renders with the scene's own.

PSNR = -10 log10(mean squared error), in dB, over all pixels and channels of all views, including the background.
"""

from __future__ import annotations

import math

from torch import Tensor

HIGHEST = 100.0  # dB, in place of the infinity of equal pictures, which JSON cannot represent


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], at most 100.

    Raises:
        ValueError: the shapes differ.
    """
    if image.shape != reference.shape:
        raise ValueError(f"pictures of different shapes: {tuple(image.shape)} and {tuple(reference.shape)}")
    error = float((image.detach().cpu().double() - reference.detach().cpu().double()).square().mean())
    return HIGHEST if error <= 10 ** (-HIGHEST / 10) else -10 * math.log10(error)
