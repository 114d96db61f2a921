"""Where the rays of a reference picture's patches lie in the target's picture: what the pixel model's pose layer is given.

A U-Net that is told the relative pose by one vector has to multiply it with the picture's content to move anything. Told with
each token, a pixel's attention finds the patches of its epipolar line by a scalar product of harmonics (as cameras' rays are
given to transformers of novel views: Sajjadi et al. 2022, https://arxiv.org/abs/2111.13152, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlift.priors.zero123.lift import SCALE

DEPTHS = (-0.6, -0.3, 0.0, 0.3, 0.6)  # of a ray's points, from the object's centre, world units
HALF_FRAME = 1 / SCALE  # half of what a reference shows at the object's centre, world units
WAVES = (2.0, 4.0)  # angular frequencies of the harmonics, per world unit
RAY_FEATURES = len(DEPTHS) * (2 * 2 * len(WAVES) + 1) + 9


def ray_features(azimuth: Tensor, reference: Tensor, target: Tensor, side: int = 8) -> Tensor:
    """Where the rays of the reference's patches lie in the target's picture, ``(B, 1 + side^2, 54)``; 0 for the first token.

    A patch shows some point of its ray. Five points of it, at depths around the object's centre, are projected into the
    target's picture (orthographically), and harmonics of their coordinates let attention find the patches of a pixel's
    epipolar line. Then follow the points' depths, and the ray's place and direction in both cameras' frames. Angles ``(B,)``
    in radians: the target's azimuth relative to the reference, and the elevations.
    """
    zero = torch.zeros_like(azimuth)

    def axes(a: Tensor, e: Tensor) -> Tensor:  # rows: right, up, forward
        rows = (a.cos(), zero, -a.sin(), -e.sin() * a.sin(), e.cos(), -e.sin() * a.cos(),
                -e.cos() * a.sin(), -e.sin(), -e.cos() * a.cos())  # fmt: skip
        return torch.stack(rows, dim=-1).view(-1, 3, 3)

    own, other = axes(zero, reference), axes(azimuth, target)
    centres = ((torch.arange(side, device=azimuth.device) + 0.5) / side * 2 - 1) * HALF_FRAME
    v, u = torch.meshgrid(-centres, centres, indexing="ij")
    middle = torch.einsum("pk,bkx->bpx", torch.stack([u.flatten(), v.flatten()], dim=-1).to(azimuth), own[:, :2])
    forward = own[:, 2:].expand_as(middle)
    points = torch.stack([middle + depth * forward for depth in DEPTHS], dim=2)  # (B, P, 5, 3)
    seen = torch.einsum("bpdx,bkx->bpdk", points, other)
    waves = [f(k * seen[..., :2]) for k in WAVES for f in (torch.sin, torch.cos)]
    ray = torch.cat([middle, forward, torch.einsum("bpx,bkx->bpk", forward, other)], dim=-1)
    features = torch.cat([*(wave.flatten(2) for wave in waves), seen[..., 2], ray], dim=-1)
    return torch.cat([torch.zeros_like(features[:, :1]), features], dim=1)
