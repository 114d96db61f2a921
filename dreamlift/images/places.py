"""The elevation of a photo from the places (canonical coordinates) of what it shows.

A pixel u whose surface lies at X, in the frame whose azimuth 0 is the photo's camera, fixes that camera's elevation:

    elevation = argmin over e of the median over u of |project(X(u); e) - u|

This needs neither words nor a known kind. The places come from a prior that draws them for the photo's own view without being
told its elevation (``toybox-view``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dreamlift.cameras import project
from dreamlift.toybox.training.pairs import view_cameras

CANDIDATES = torch.arange(-30.0, 86.0, 1.0)  # degrees
OBJECT = 0.3  # of the largest channel: places on the object have at least (1 - 0.85 / 3^0.5) / 2 there, the backdrop has 0
FEWEST = 30  # pixels


def elevation_from_places(places: Tensor) -> tuple[float, float]:
    """The elevation in degrees of the canonical camera that sees ``places (S, S, 3)``, and the median error in sides.

    ``places`` are (position + 1) / 2 in [0, 1], on black. NaN and infinity if they show too little.
    """
    size = places.shape[0]
    inside = torch.nn.functional.pad(places.amax(-1) > OBJECT, (1, 1, 1, 1))
    # Pixels at the outline are mixed with the backdrop, so that their places are too low.
    core = -torch.nn.functional.max_pool2d(-inside[None].float(), 3, stride=1)[0] > 0.5
    rows, columns = core.nonzero(as_tuple=True)
    if len(rows) < FEWEST:
        return math.nan, math.inf
    points = 2.0 * places[rows, columns] - 1.0
    seen = torch.stack([columns, rows], dim=-1) + 0.5
    cameras = view_cameras(torch.zeros_like(CANDIDATES), torch.deg2rad(CANDIDATES), size)
    found, _ = project(cameras, points)
    errors = (found - seen).norm(dim=-1).median(dim=1).values
    best = int(errors.argmin().clamp(1, len(CANDIDATES) - 2))
    low, middle, high = errors[best - 1 : best + 2].square().tolist()  # nearly quadratic near the minimum
    bend = low - 2.0 * middle + high
    shift = max(-1.0, min(1.0, 0.5 * (low - high) / bend)) if bend > 0 else 0.0
    return float(CANDIDATES[best]) + shift, float(errors[best]) / size
