"""Where a photo's object lies in the frame of a prior that answers in a frame of its own.

``toybox-view`` answers in the canonical frame: the object's bounding sphere is at the origin, the camera at one distance and
field of view. How large a photo's object is there, and how far from the frame's centre, depends on its shape: the prior's lift
estimates it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.toybox.training.pairs import DISTANCE, FOV_DEG

FRAMED = 0.78  # longest side of the object in a reference picture, relative to the picture's (Zero-1-to-3)
SIZE = 64  # pixels a side of the compared pictures
RATIOS = (0.3, 0.9)  # of objects in the canonical frame: 0.69 on average, with a standard deviation of 0.08 over toys


@dataclass(frozen=True)
class Placement:
    """Size and place of an object in a frame, relative to the frame's side."""

    ratio: float = 0.69  # longest side; the mean over the toybox's things
    shift: tuple[float, float] = (0.0, 0.014)  # of the object's centre, to the right and down; the mean over the things


def placement_of(frame: Tensor) -> Placement:
    """The placement of a photo's object in the canonical frame, from the ``frame (3,)`` of its lift: the origin's place in the
    photo, in which the object is centred, and the scale there."""
    u, v, scale = frame.tolist()
    zoom = 1.0 / (DISTANCE * math.tan(math.radians(0.5 * FOV_DEG)) * max(scale, 1e-3))
    zoom = min(max(zoom, RATIOS[0] / FRAMED), RATIOS[1] / FRAMED)
    return Placement(FRAMED * zoom, (-0.5 * zoom * u, -0.5 * zoom * v))


def placed(reference: Tensor, placement: Placement, backdrop: Tensor, framed: float = FRAMED) -> Tensor:
    """``reference (S, S, 4)``, whose object is centred with a longest side of ``framed``, as a picture ``(64, 64, 3)`` with the
    object at ``placement`` over ``backdrop (3,)``."""
    right, down = placement.shift
    parameters = torch.tensor([math.log(placement.ratio / framed), 2.0 * right, 2.0 * down])
    return _placed(_small(reference), parameters, backdrop).permute(1, 2, 0)


def _small(picture: Tensor) -> Tensor:
    """``(S, S, C)`` at SIZE pixels a side; colours beside a mask are multiplied by it."""
    if picture.shape[-1] == 4:
        picture = torch.cat([picture[..., :3] * picture[..., 3:], picture[..., 3:]], dim=-1)
    x = picture.permute(2, 0, 1)[None].float()
    if x.shape[-1] != SIZE:
        x = functional.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
    return x[0]


def _placed(photo: Tensor, parameters: Tensor, backdrop: Tensor) -> Tensor:
    """``photo (4, S, S)``, premultiplied, scaled by exp(p_0) and shifted by (p_1, p_2) half sides, over ``backdrop (3,)``."""
    scale = torch.exp(-parameters[0])
    axis = (torch.arange(SIZE) + 0.5) * (2.0 / SIZE) - 1.0
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([(u - parameters[1]) * scale, (v - parameters[2]) * scale], dim=-1)
    seen = functional.grid_sample(photo[None], grid[None], align_corners=False)[0]
    return seen[:3] + (1.0 - seen[3:]) * backdrop[:, None, None]

