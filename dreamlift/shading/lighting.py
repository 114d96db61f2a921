"""Random lighting of a step's renders: DreamFusion's shading heuristic (Poole et al. 2022, section 3.1 and appendix A.2).

A share of the pictures is lit by a random point light, and a share of those is rendered without texture, so that a flat shape
with a picture painted on it has a high loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreamlift.types import Cameras, Shading

Placement = Literal["near", "dreamfusion", "magic3d"]


@dataclass(frozen=True)
class Lighting:
    """How pictures are lit. By default none is: they show the albedo."""

    lambertian: float = 0.0  # share of the pictures that are lit, in [0, 1]
    textureless: float = 0.0  # share of the lit pictures that are rendered with a white albedo, in [0, 1]
    start_progress: float = 0.0  # progress (0..1) before which all pictures show the plain albedo
    ambient: float = 0.3  # share of the ambient light, in [0, 1]; the point light gives the rest
    soft: bool = False  # true: the share of the ambient light is random in each step, uniform in [0, 1] (Magic3D)
    distance: tuple[float, float] = (2.0, 3.0)  # range of the light's distance from the origin, world units
    # where the light is: near the camera's direction; around the camera's position (dreamfusion); 0 to 60 degrees from the
    # camera's direction (magic3d); the last two as in threestudio
    placement: Placement = "near"

    def __post_init__(self) -> None:
        for name in ("lambertian", "textureless", "start_progress", "ambient"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: 0 to 1")

    def __call__(self, cameras: Cameras, progress: float, rng: torch.Generator) -> Shading | None:
        """The light of each of B views, near the camera's direction as in DreamFusion; None if no picture is lit."""
        if self.lambertian == 0.0 or progress < self.start_progress:
            return None
        count = len(cameras)
        lit = (torch.rand(count, generator=rng) < self.lambertian).float()
        bare = (torch.rand(count, generator=rng) < self.textureless).float() * lit
        position = cameras.c2w[:, :3, 3].cpu()
        if self.placement == "magic3d":
            toward = _cone(normalize(position, dim=-1), rng)
        elif self.placement == "dreamfusion":
            toward = normalize(position + torch.randn(count, 3, generator=rng), dim=-1)
        else:
            toward = normalize(normalize(position, dim=-1) + 0.5 * torch.randn(count, 3, generator=rng), dim=-1)
        low, high = self.distance
        distance = low + (high - low) * torch.rand(count, 1, generator=rng)
        ambient = float(torch.rand((), generator=rng)) if self.soft else self.ambient
        return Shading(lit, bare, toward * distance, ambient)


def _cone(axis: Tensor, rng: torch.Generator) -> Tensor:
    """Unit vectors ``(B, 3)`` at angles of 0 to 60 degrees, uniform in the angle, from the unit vectors ``axis (B, 3)``."""
    count = len(axis)
    around = 2.0 * math.pi * torch.rand(count, 1, generator=rng)
    away = math.pi / 3.0 * torch.rand(count, 1, generator=rng)
    # Any vector that is not parallel to the axis gives a perpendicular pair; the angle around the axis is random.
    helper = torch.where(axis[:, 1:2].abs() < 0.9, torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
    first = normalize(torch.linalg.cross(axis, helper), dim=-1)
    second = torch.linalg.cross(axis, first)
    return axis * away.cos() + (first * around.cos() + second * around.sin()) * away.sin()
