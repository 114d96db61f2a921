"""Framing a cut-out object: square, centred or shifted, at a stated size, resampled once.

Colours are multiplied by their opacity before the resampling and divided by it after, so that no colour from behind the object
enters its edge.
"""

from __future__ import annotations

import numpy as np

from dreamlift.images.matting import Cutout
from dreamlift.reading.photos import RATIO

LEAST_ALPHA = 1e-3  # below it a pixel has no colour


def fitted(
    cutout: Cutout, side: int, ratio: float | None = RATIO, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:  # fmt: skip
    """The object in a square frame: ``(side, side, 4)`` float32, straight colour and opacity in [0, 1].

    Args:
        ratio: of the longest side of the object's box to the frame's side; None: the frame is the whole picture, a square one.
        shift: of the box's centre from the frame's, to the right and down, relative to its side.

    Raises:
        ValueError: ``ratio`` is None and the picture is not square.
    """
    height, width = cutout.alpha.shape
    if ratio is None:
        if cutout.frame[0] != cutout.frame[1]:
            size = f"{cutout.frame[1]} x {cutout.frame[0]}"
            raise ValueError(
                f"it has {size} pixels, and with ratio null it is used uncropped: crop it to a square, or give a ratio"
            )
        return resampled(cutout, (0.0, 0.0, float(width), float(height)), side)
    left, top, right, bottom = box_of(cutout.alpha)
    frame = max(right - left, bottom - top) / ratio
    x = 0.5 * (left + right) - frame * (0.5 + shift[0])
    y = 0.5 * (top + bottom) - frame * (0.5 + shift[1])
    return resampled(cutout, (x, y, x + frame, y + frame), side)


def box_of(alpha: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the object in pixels, where its opacity ``(H, W)`` falls to a half.

    An edge pixel counts as far as it is covered: opacity 0.3 in the columns beyond the last full one moves the box by 0.3.
    """
    threshold = min(0.5, 0.5 * float(alpha.max()))
    low, high = [], []
    for axis in (0, 1):
        most = alpha.max(axis=axis)
        inside = np.flatnonzero(most >= threshold)
        first, last = int(inside[0]), int(inside[-1])
        before = float(most[first - 1]) if first else 0.0
        after = float(most[last + 1]) if last + 1 < len(most) else 0.0
        low.append(first + 1 - float(most[first]) - before)
        high.append(last + float(most[last]) + after)
    return low[0], low[1], high[0], high[1]


def resampled(cutout: Cutout, box: tuple[float, float, float, float], side: int) -> np.ndarray:
    """The part ``box`` (left, top, right, bottom) of a picture, which may reach beyond it: ``(side, side, 4)`` float32."""
    from PIL import Image

    height, width = cutout.alpha.shape
    # Beyond the picture is nothing; the filter's support needs a margin too.
    margin = int(np.ceil(max(-box[0], -box[1], box[2] - width, box[3] - height, 0.0))) + 2
    first_x, first_y = max(int(box[0]) - margin, -margin), max(int(box[1]) - margin, -margin)
    last_x, last_y = min(int(box[2]) + margin, width + margin), min(int(box[3]) + margin, height + margin)
    wide = ((max(-first_y, 0), max(last_y - height, 0)), (max(-first_x, 0), max(last_x - width, 0)))
    rows, columns = slice(max(first_y, 0), min(last_y, height)), slice(max(first_x, 0), min(last_x, width))
    alpha, rgb = cutout.alpha[rows, columns], cutout.rgb[rows, columns]
    moved = (box[0] - first_x, box[1] - first_y, box[2] - first_x, box[3] - first_y)
    channels = []
    for values in (*np.moveaxis(rgb * alpha[..., None], -1, 0), alpha):
        padded = Image.fromarray(np.ascontiguousarray(np.pad(values, wide), dtype=np.float32))
        # Hamming's filter is as sharp as a filter can be without overshooting, which would leave halos.
        channels.append(np.asarray(padded.resize((side, side), Image.Resampling.HAMMING, box=moved)))
    out = np.clip(np.stack(channels, axis=-1), 0.0, 1.0)
    opacity = out[..., 3:]
    out[..., :3] = np.where(opacity > LEAST_ALPHA, np.minimum(out[..., :3] / np.maximum(opacity, LEAST_ALPHA), 1.0), 0.0)
    return out
