"""Consistent flow distillation (Yan et al. 2025, ICLR, https://arxiv.org/abs/2501.05445).

    grad_x L_CFD = w(t) (eps_hat(x_t; y, t) - eps_c),   x_t = alpha x + sigma eps_c

SDS with two changes, after which it follows the prior's probability-flow ODE from noise to a sample: t decreases with progress
instead of being drawn, and the noise eps_c is a noise field on the object's surface, rendered from camera c. A surface point
has the same noise in every view, so all views follow one trajectory. With gamma > 0 a part of the field is redrawn at every
step, which turns the ODE into an SDE.

The field consists of equal-area cells on a sphere around the origin (Lambert's cylindrical projection preserves areas). A
surface point takes the noise of the cell in its direction from the origin. A pixel takes the sum over its cells divided by the
square root of their number, so the noise of each view is white (Chang et al. 2024, "How I Warped Your Noise",
https://arxiv.org/abs/2504.03072). Each cell belongs to at most one pixel of a view. The authors' code uses the faces of a cube
and a rasteriser instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamlift.cameras import rays_of
from dreamlift.guidance.base import Guidance, Weighting, check_range, draw_t, noise_residual_loss
from dreamlift.priors.base import Prior
from dreamlift.schedules import Linear, Piecewise, Schedule, value_at
from dreamlift.types import Conditioning, GuidanceOutput

FALL = Piecewise(((0.0, 0.98), (0.1, 0.692), (0.5, 0.404), (1.0, 0.212)))
"""t over progress in the authors' first stage with Stable Diffusion (``configs/cfd/sd-stage1.yaml``)."""
SAMPLES = 8  # sample points per side of a latent pixel; the pixel owns the cells that they hit
SOLID = 0.5  # opacity above which a pixel counts as surface


class NoiseField(nn.Module):
    """White noise on a sphere, and a noise picture for the pixels without a surface."""

    cells: Tensor  # (3 rows^2, C)
    backdrop: Tensor  # (C, h, w)

    def __init__(self, rows: int, shape: tuple[int, ...], rng: torch.Generator, device: torch.device) -> None:
        super().__init__()
        self.rows, self.columns = rows, 3 * rows  # cells at the equator are about square
        for name, size in (("cells", (rows * self.columns, shape[0])), ("backdrop", shape)):
            self.register_buffer(name, torch.randn(size, generator=rng).to(device))

    def param_groups(self) -> list[dict[str, Any]]:
        return []

    def renew(self, share: float, rng: torch.Generator) -> None:
        """Redraw a ``share`` in [0, 1] of the noise's variance."""
        for noise in (self.cells, self.backdrop) if share > 0.0 else ():
            noise.mul_(math.sqrt(1.0 - share)).add_(torch.randn(noise.shape, generator=rng).to(noise), alpha=math.sqrt(share))

    def cell_of(self, points: Tensor) -> Tensor:
        """Index ``(...)`` of the cell in the direction of ``points (..., 3)`` from the origin."""
        x, y, z = functional.normalize(points, dim=-1).unbind(-1)
        row = ((y + 1.0) * (0.5 * self.rows)).long().clamp(0, self.rows - 1)
        column = ((torch.atan2(x, z) / (2.0 * math.pi) + 0.5) * self.columns).long().clamp(0, self.columns - 1)
        return row * self.columns + column

    def seen(self, points: Tensor, solid: Tensor) -> Tensor:
        """Noise ``(B, C, h, w)`` of the surface ``points (B, H, W, 3)`` where ``solid (B, H, W)``; elsewhere the backdrop's."""
        batch, pixels = len(points), self.backdrop[0].numel()
        cell, pixel = self._claims(points, solid)
        owner = cell.new_full((batch * len(self.cells),), batch * pixels)
        owner.scatter_reduce_(0, cell, pixel, "amin")
        (owned,) = torch.nonzero(owner < batch * pixels, as_tuple=True)
        owner = owner[owned]
        total = self.cells.new_zeros(batch * pixels, self.cells.shape[1])
        total.index_add_(0, owner, self.cells[owned % len(self.cells)])
        count = torch.bincount(owner, minlength=batch * pixels)[:, None]
        rest = self.backdrop.flatten(1).T.repeat(batch, 1)
        noise = torch.where(count > 0, total / count.clamp_min(1).sqrt(), rest)
        return noise.view(batch, *self.backdrop.shape[1:], -1).movedim(-1, 1)

    def _claims(self, points: Tensor, solid: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs ``(N,)`` of a cell index and the index of a latent pixel that shows it; both indices run over the batch."""
        batch, (height, width) = len(points), self.backdrop.shape[1:]
        size = (height * SAMPLES, width * SAMPLES)
        mask = solid.unsqueeze(1).to(points)
        known = torch.cat([points.movedim(-1, 1) * mask, mask], dim=1)
        finer = functional.interpolate(known, size=size, mode="bilinear", align_corners=False)
        inside = finer[:, 3] > SOLID
        views = torch.arange(batch, device=points.device)[:, None, None]
        rows, columns = (torch.arange(n, device=points.device) // SAMPLES for n in size)
        pixel = (views * height + rows[:, None]) * width + columns
        cell = views * len(self.cells) + self.cell_of(finer[:, :3].movedim(1, -1))  # scaling by the mask keeps the direction
        return cell[inside], pixel[inside]


@dataclass(frozen=True)
class CFD(Guidance):
    """Defaults follow the authors' first stage with Stable Diffusion (January 2025): CFG 70 (71 here), decreasing t,
    w = sigma / alpha, a gamma that falls to nearly 0. ``normalize`` is the weighting of DMD (Yin et al. 2023,
    https://arxiv.org/abs/2311.18828), as in their first release."""

    shared: ClassVar[bool] = False  # with one noise field, all particles would follow the same trajectory

    guidance_scale: float = 71.0  # s in uncond + s (cond - uncond), at least 0; CFD: 70 as cond + s (cond - uncond)
    t_min: float | Schedule = FALL  # smallest diffusion time, in [0, t_max]; CFD: equal to t_max, so t is not random
    t_max: float | Schedule = FALL  # largest diffusion time, in [t_min, 1]; CFD: 0.98 falling to 0.212
    # share of the noise's variance that each step redraws, in [0, 1]; 0: fixed noise; CFD: 0.01 falling to 0.0001
    gamma: float | Schedule = field(default=Linear(0.01, 0.0001, 0.2, 0.4))
    rows: int = 160  # rows of noise cells on the sphere, each with 3 rows cells; at least 1
    weighting: Weighting = "x0"  # w(t): sigma^2, 1, alpha sigma, or sigma / alpha (x0); without effect if normalize is on
    normalize: bool = False  # divide each picture's gradient by the mean of its absolute values (CFD's release of July 2024)
    clip_x0: float | None = None  # largest |x0_hat|; 1 for pixel priors, null for latents
    clip_rms: float | None = None  # largest root mean square of one picture's gradient; null: no limit

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)
        if self.rows < 1:
            raise ValueError(f"rows is {self.rows}; it must be at least 1")
        for progress in (0.0, 0.5, 1.0):
            if not 0.0 <= value_at(self.gamma, progress) <= 1.0:
                raise ValueError(f"gamma is {value_at(self.gamma, progress):g} at progress {progress:g}; accepted: 0 to 1")

    @torch.no_grad()
    def init(self, prior: Prior, rng: torch.Generator) -> NoiseField:
        blank = torch.zeros(1, prior.resolution, prior.resolution, 3, device=prior.device)
        return NoiseField(self.rows, tuple(prior.encode(blank).shape[1:]), rng, prior.device)

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: NoiseField
    ) -> GuidanceOutput:
        t = draw_t(prior, latents, self.t_min, self.t_max, progress, rng)
        state.renew(value_at(self.gamma, progress), rng)
        if cond.render is None or cond.cameras is None:  # no scene geometry: the same noise for all pictures
            noise = state.backdrop.expand_as(latents)
        else:
            rays, depth = rays_of(cond.cameras), cond.render.depth.detach()
            noise = state.seen(rays.origins + depth * rays.directions, cond.render.opacity[..., 0].detach() > SOLID)
        return noise_residual_loss(
            prior, latents, cond, t, noise.to(latents), self.guidance_scale, self.weighting, self.clip_x0, self.clip_rms,
            self.normalize,
        )  # fmt: skip
