"""A photo's object as the text prior ``toybox`` expects it: as large in the picture as the things of its world usually are."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.reading.photos import RATIO

SIZE = 64  # pixels a side of the compared pictures


def placed(
    reference: Tensor, backdrop: Tensor, ratio: float = 0.69, shift: tuple[float, float] = (0.0, 0.014)
) -> Tensor:  # fmt: skip
    """``reference (S, S, 4)``, its object centred with a longest side of 0.78, as a picture ``(64, 64, 3)`` over a backdrop.

    Args:
        ratio: longest side of the object there, relative to the picture's; the default is the mean over the toybox's things.
        shift: of its centre, to the right and down, relative to the picture's side.
    """
    parameters = torch.tensor([math.log(ratio / RATIO), 2.0 * shift[0], 2.0 * shift[1]])
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
