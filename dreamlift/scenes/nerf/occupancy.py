"""Empty-space skipping: a coarse grid that marks the cells with density, now or recently.

Every few steps, the density is evaluated at one random point in each cell, and

    average <- max(decay * average, density)          occupied <- dilate(average > min(min_density, mean(average)))

(Instant-NGP, Mueller et al. 2022, appendix C, https://arxiv.org/abs/2201.05989). Two additions let density grow into empty
cells: occupied cells are dilated by one cell, and a small share of the empty cells, drawn anew at each update, is rendered
too. The threshold ``min(..., mean)`` keeps at least one cell occupied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamlift.scenes.nerf.field import Field

DECAY = 0.8  # factor on the running maximum of the density at each update
MIN_DENSITY = 0.05  # lowest density of an occupied cell, inverse world units; 0.05 over a length of 2 is 10% opacity
EXPLORE = 0.01  # share of the empty cells that are rendered nevertheless


@dataclass(frozen=True)
class Occupancy:
    """Settings of the occupancy grid."""

    resolution: int = 32  # cells per side; 0 disables the grid
    every: int = 16  # steps between updates
    warmup: int = 32  # steps before empty cells are skipped

    def __post_init__(self) -> None:
        if self.resolution < 0 or self.every < 1 or self.warmup < 0:
            raise ValueError(
                f"resolution is {self.resolution}, every {self.every}, warmup {self.warmup}; accepted: resolution and "
                "warmup from 0, every from 1"
            )


class OccupancyGrid(nn.Module):
    """The grid's state, all in buffers."""

    average: Tensor  # (G, G, G) float32, running maximum of the density
    occupied: Tensor  # (G, G, G) bool, indexed z, y, x

    def __init__(self, settings: Occupancy, bounds: float) -> None:
        super().__init__()
        self.settings, self.bounds = settings, bounds
        size = settings.resolution
        self.register_buffer("average", torch.zeros(size, size, size))
        self.register_buffer("occupied", torch.ones(size, size, size, dtype=torch.bool))

    def cells(self) -> Tensor | None:
        """The mask for :func:`dreamlift.scenes.nerf.volume.sample_rays`; None if the grid is disabled."""
        return self.occupied if self.settings.resolution else None

    @torch.no_grad()
    def after_step(self, index: int, field: Field, rng: torch.Generator) -> None:
        """Update the grid after every ``settings.every``-th step; ``index`` counts from 0."""
        size = self.settings.resolution
        if not size or (index + 1) % self.settings.every:
            return
        axis = torch.arange(size, dtype=torch.float32)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        inside = torch.stack([x, y, z], dim=-1) + torch.rand(size, size, size, 3, generator=rng)
        points = (inside * (2 * self.bounds / size) - self.bounds).to(self.average)
        density = field.density(points.view(-1, 3)).view(size, size, size)
        self.average.copy_(torch.maximum(DECAY * self.average, density))
        explored = (torch.rand(size, size, size, generator=rng) < EXPLORE).to(self.average.device)
        if index + 1 < self.settings.warmup:
            return
        threshold = min(MIN_DENSITY, float(self.average.mean()))
        marked = (self.average >= threshold).float()[None, None]
        marked = nn.functional.max_pool3d(marked, kernel_size=3, stride=1, padding=1)[0, 0] > 0
        self.occupied.copy_(marked | explored)
