"""Random lighting of a step's renders: DreamFusion's shading heuristic (Poole et al. 2022, section 3.1 and appendix A.2).

A share of the pictures is lit by a random point light, and a share of those is rendered without texture, so that a flat shape
with a picture painted on it has a high loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from dreamlift.types import Cameras, Shading


@dataclass(frozen=True)
class Lighting:
    """How pictures are lit. By default none is: they show the albedo."""

    lambertian: float = 0.0  # share of the pictures that are lit, in [0, 1]
    textureless: float = 0.0  # share of the lit pictures that are rendered with a white albedo, in [0, 1]
    start_progress: float = 0.0  # progress (0..1) before which all pictures show the plain albedo
    ambient: float = 0.3  # share of the ambient light, in [0, 1]; the point light gives the rest
    distance: tuple[float, float] = (2.0, 3.0)  # range of the light's distance from the origin, world units

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
        toward = normalize(normalize(position, dim=-1) + 0.5 * torch.randn(count, 3, generator=rng), dim=-1)
        low, high = self.distance
        distance = low + (high - low) * torch.rand(count, 1, generator=rng)
        return Shading(lit, bare, toward * distance, self.ambient)
