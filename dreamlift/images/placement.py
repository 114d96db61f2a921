"""Where a photo's object lies in the frame of a prior that answers in a frame of its own.

``toybox-view`` answers in the canonical frame: the object's bounding sphere is at the origin, the camera at one distance and
field of view. How large a photo's object is there, and how far from the frame's centre, depends on its shape, so it is measured
on what the prior answers for the photo's own view: the similarity that maps the photo to the answer best,

    minimum over s, d of the mean of |A(u) - (m C + (1 - m) B)((u - d) / s)|^2

by Gauss-Newton steps with Levenberg's damping. A is the mean of the answers (one step from pure noise), C and m the photo's
colours and mask, B the backdrop, u positions in [-1, 1]^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.cameras import mask_box

FRAMED = 0.78  # longest side of the object in a reference picture, relative to the picture's (Zero-1-to-3)
SIZE = 64  # pixels a side of the compared pictures
VISIBLE = 0.1  # difference from the backdrop in one channel that belongs to the object
STEPS = 30
NUDGE = 1.0 / SIZE  # half a pixel
RATIOS = (0.3, 0.9)  # of objects in the canonical frame: 0.69 on average, with a standard deviation of 0.08 over toys
POOR = 0.35  # share of the answer's variance that a fit may leave unexplained; more is an answer of something else


@dataclass(frozen=True)
class Placement:
    """Size and place of an object in a frame, relative to the frame's side."""

    ratio: float = 0.69  # longest side; the mean over the toybox's things
    shift: tuple[float, float] = (0.0, 0.014)  # of the object's centre, to the right and down; the mean over the things
    unexplained: float = 1.0  # mean squared error of the fit, relative to the variance of the answer
    measured: bool = False


def photo_placement(answer: Tensor, reference: Tensor, backdrop: Tensor, framed: float = FRAMED) -> Placement:
    """The placement of ``reference (S, S, 4)``'s object in ``answer (S, S, 3)``, over ``backdrop (3,)``; all in [0, 1].

    ``framed``: the longest side of the object in the reference, in which it is centred. A fit that fails is the default,
    with ``measured`` false.
    """
    photo, wanted = _small(reference), _small(answer)
    start = _box_start(wanted, photo, backdrop)
    if start is None:
        return Placement()
    found, error = fit(lambda p: _placed(photo, p, backdrop) - wanted, start)
    flat = float((wanted - wanted.mean(dim=(1, 2), keepdim=True)).square().mean())
    scale, shift = math.exp(float(found[0])), (0.5 * found[1:]).tolist()
    unexplained = error / max(flat, 1e-9)
    good = RATIOS[0] <= framed * scale <= RATIOS[1] and unexplained <= POOR
    return Placement(framed * scale, (shift[0], shift[1]), unexplained, True) if good else Placement(unexplained=unexplained)


def placed(reference: Tensor, placement: Placement, backdrop: Tensor, framed: float = FRAMED) -> Tensor:
    """``reference (S, S, 4)``, whose object is centred with a longest side of ``framed``, as a picture ``(64, 64, 3)`` with the
    object at ``placement`` over ``backdrop (3,)``."""
    right, down = placement.shift
    parameters = torch.tensor([math.log(placement.ratio / framed), 2.0 * right, 2.0 * down])
    return _placed(_small(reference), parameters, backdrop).permute(1, 2, 0)


def fit(residual: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, float]:
    """The parameters ``(P,)`` near ``start`` with the least mean square of ``residual``, and that mean."""
    at, damping, nudges = start, 1e-3, NUDGE * torch.eye(len(start))
    best = float(residual(at).square().mean())
    for _ in range(STEPS):
        values = residual(at).flatten()
        # Central differences of half a pixel: bilinear pictures have derivatives that jump at every pixel.
        slope = torch.stack([(residual(at + d) - residual(at - d)).flatten() / (2.0 * NUDGE) for d in nudges], dim=1)
        normal = slope.T @ slope
        for _ in range(8):
            step = torch.linalg.solve(normal + damping * torch.diag(normal.diagonal() + 1e-9), slope.T @ values)
            error = float(residual(at - step).square().mean())
            if error < best:
                break
            damping *= 4.0
        else:
            return at, best
        at, damping, gain, best = at - step, damping / 4.0, best - error, error
        if gain < 1e-7 * best:
            break
    return at, best


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


def _box_start(answer: Tensor, photo: Tensor, backdrop: Tensor) -> Tensor | None:
    """The parameters that map the photo's bounding box to the answer's; None where one of them has no object."""
    one, other = mask_box(photo[3] > 0.5), mask_box((answer - backdrop[:, None, None]).abs().amax(0) > VISIBLE)
    if one is None or other is None:
        return None
    scale = float((other[1] - other[0]).max() / (one[1] - one[0]).max())
    middle, own = (0.5 * (each[0] + each[1]) * (2.0 / SIZE) - 1.0 for each in (other, one))
    return torch.cat([torch.tensor([math.log(scale)]), middle - scale * own])
