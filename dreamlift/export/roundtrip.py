"""Round-trip check: the exported file is read back by another library, rendered, and compared with the scene's renders.

PSNR = -10 log10(mean squared error), in dB, over all pixels and channels of all views, including the background.
"""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from dreamlift.export.glb import load_glb
from dreamlift.texturing.draw import render_mesh
from dreamlift.types import Cameras

__all__ = ["load_glb", "psnr", "round_trip_psnr"]

HIGHEST = 100.0  # dB, in place of the infinity of equal pictures, which JSON cannot represent


def round_trip_psnr(glb_path: str | Path, cameras: Cameras, reference_rgb: Tensor, background: float | Tensor = 1.0) -> float:
    """PSNR (dB) between the GLB file's renders and the scene's own ``reference_rgb (B, H, W, 3)`` in [0, 1].

    Args:
        cameras: B views, with the picture size of the reference.
        background: the background of the reference: a number, or a tensor that broadcasts to ``(B, H, W, 3)``.
    """
    return psnr(render_mesh(load_glb(glb_path), cameras, background).rgb, reference_rgb)


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], at most 100.

    Raises:
        ValueError: the shapes differ.
    """
    if image.shape != reference.shape:
        raise ValueError(f"pictures of different shapes: {tuple(image.shape)} and {tuple(reference.shape)}")
    error = float((image.detach().cpu().double() - reference.detach().cpu().double()).square().mean())
    return HIGHEST if error <= 10 ** (-HIGHEST / 10) else -10 * math.log10(error)
