"""Figures of pictures: how blotchy even regions are, and how sharp edges are. Both are compared with the truth's picture.

Blotchiness: the standard deviation of the colour over a window of 9 x 9 pixels, in the median over the windows in which the
truth has one colour. Sharpness: the largest change of the colour from one pixel to the next within a window of 9 x 9 pixels,
divided by the colour's range there, in the median over the places at which the truth has an edge. A step between two pixels
has 0.5 (across the pixels up to 0.71), one blurred by a Gaussian of standard deviation s pixels 1 / ((2 pi)^0.5 s).
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

WINDOW = 9  # pixels a side
SAME = 2.0 / 255.0  # range of the values that count as one colour
EDGE = 0.06  # least change of the truth's colour per pixel at an edge, RGB distance
FAINT = 0.1  # least range by which a change is divided: fainter edges count as less sharp
LEVEL = 1.0 / 255.0  # least blotchiness of the truth, one level of an 8-bit picture: flat sides have next to none
FEWEST = 200  # pixels


def blotchiness(rgb: Tensor, true: Tensor, albedo: Tensor, opaque: Tensor) -> float:
    """Blotchiness of ``rgb`` over that of ``true``; 1: as even as the truth. NaN where too little of the truth is even.

    Args:
        rgb, true: pictures ``(B, H, W, 3)`` in [0, 1] from the same cameras.
        albedo: ``(B, H, W, 3)`` the truth's own colours, without light.
        opaque: ``(B, H, W)`` bool, where both show the object.
    """
    rgb, true, albedo, opaque = cropped(opaque, rgb, true, albedo, opaque)
    even = whole(opaque) & (_range(albedo).amax(dim=-1) <= SAME)
    if int(even.sum()) < FEWEST:
        return math.nan
    own, truth = (float(deviation(each)[even].median()) for each in (rgb, true))
    return own / max(truth, LEVEL)


def sharpness(rgb: Tensor, true: Tensor, opaque: Tensor) -> float:
    """Sharpness of ``rgb`` at the truth's edges, over the truth's; arguments as in :func:`blotchiness`. NaN without edges."""
    rgb, true, opaque = cropped(opaque, rgb, true, opaque)
    places = whole(opaque) & (change(true) >= EDGE)
    if int(places.sum()) < FEWEST:
        return math.nan
    own, truth = (float(steepness(each)[places].median()) for each in (rgb, true))
    return own / truth


def cropped(mask: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """``values (B, H, W, ...)`` in the smallest rectangle that contains ``mask (B, H, W)`` in all pictures, or all of them."""
    rows, columns = mask.any(dim=2).any(dim=0).nonzero(), mask.any(dim=1).any(dim=0).nonzero()
    if len(rows) == 0:
        return values
    window = slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
    return tuple(each[:, window[0], window[1]] for each in values)


def deviation(rgb: Tensor) -> Tensor:
    """Standard deviation ``(B, H, W)`` of the colours ``(B, H, W, 3)`` over the window around each pixel."""
    x = rgb.movedim(-1, 1).double()
    mean, square = (_mean(each) for each in (x, x.square()))
    return (square - mean.square()).clamp_min(0.0).mean(dim=1).sqrt()


def steepness(rgb: Tensor) -> Tensor:
    """Sharpness ``(B, H, W)`` of the steepest edge of ``rgb (B, H, W, 3)`` in the window around each pixel, in [0, 0.71]."""
    steepest = functional.max_pool2d(change(rgb)[:, None], WINDOW, stride=1, padding=WINDOW // 2)[:, 0]
    return steepest / _range(rgb).norm(dim=-1).clamp_min(FAINT)


def change(rgb: Tensor) -> Tensor:
    """Length ``(B, H, W)`` of the gradient of ``rgb (B, H, W, 3)``, per pixel, by central differences; all channels."""
    x = functional.pad(rgb.movedim(-1, 1), (1, 1, 1, 1), mode="replicate")
    right, down = x[..., 1:-1, 2:] - x[..., 1:-1, :-2], x[..., 2:, 1:-1] - x[..., :-2, 1:-1]
    return 0.5 * (right.square() + down.square()).sum(dim=1).sqrt()


def whole(mask: Tensor) -> Tensor:
    """Where a mask ``(B, H, W)`` bool covers the whole window."""
    return _mean(mask[:, None].double())[:, 0] > 1.0 - 0.5 / WINDOW**2


def _mean(x: Tensor) -> Tensor:
    """Means ``(B, C, H, W)`` over the windows; beyond the borders there are zeros."""
    return functional.avg_pool2d(x, WINDOW, stride=1, padding=WINDOW // 2)


def _range(rgb: Tensor) -> Tensor:
    """Largest minus smallest value of each channel ``(B, H, W, 3)`` over the windows."""
    x = rgb.movedim(-1, 1)
    high, low = (functional.max_pool2d(sign * x, WINDOW, stride=1, padding=WINDOW // 2) for sign in (1.0, -1.0))
    return (high + low).movedim(1, -1)
