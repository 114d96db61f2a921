"""Turntables as animated WebP and contact sheets as PNG, by Pillow alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from dreamlift.export.glb import png_bytes
from dreamlift.system.files import atomic_write_bytes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def save_turntable(frames: Tensor | ArrayLike, path: str | Path, fps: float = 12.0, quality: int = 85) -> None:
    """Write ``frames (T, H, W, 3)`` in [0, 1] as an endless animation.

    Raises:
        ValueError: frames of another shape, or none.
        OSError: the file cannot be written; an old one is intact.
    """
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in to_bytes(frames)]
    out = io.BytesIO()
    pictures[0].save(
        out, format="WEBP", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0,
        quality=quality, method=4,
    )  # fmt: skip
    atomic_write_bytes(path, out.getvalue())


def contact_sheet(frames: Tensor | ArrayLike, columns: int = 4) -> bytes:
    """``frames (T, H, W, 3)`` in [0, 1] as tiles of one PNG file, ``columns`` per row; empty tiles are white."""
    images = to_bytes(frames)
    count, height, width = images.shape[:3]
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, 3), 255, dtype=np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return png_bytes(np.ascontiguousarray(sheet.reshape(rows * height, columns * width, 3)))


def to_bytes(frames: Tensor | ArrayLike) -> np.ndarray:
    """Pictures ``(T, H, W, 3)`` in [0, 1] as uint8; values are clamped, NaN becomes 0. Those in uint8 stay as they are."""
    values = frames.detach().cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
    if values.ndim != 4 or values.shape[-1] != 3 or len(values) == 0:
        raise ValueError(f"frames must have shape (T, H, W, 3) with T of at least 1, not {tuple(values.shape)}")
    if values.dtype == np.uint8:
        return values
    return (np.clip(np.nan_to_num(values), 0, 1) * 255 + 0.5).astype(np.uint8)
