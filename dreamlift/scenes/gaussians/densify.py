"""Adaptive control of how many Gaussians there are, within a fixed number of rows.

"3D Gaussian Splatting for Real-Time Radiance Field Rendering" (Kerbl et al. 2023, section 5.2 and algorithm 1,
https://arxiv.org/abs/2308.04079), with the settings of "DreamGaussian" (Tang et al. 2023, https://arxiv.org/abs/2309.16653,
``configs/text.yaml``). A Gaussian that the pictures push about (a large mean gradient of its place on the screen) is
doubled: a small one is cloned, a large one is split into two that are 1.6 times smaller. One that is hardly visible goes.

Here parameters never change their shape: a mask says which rows exist. New Gaussians take dead rows, and where these
run out, the most pushed come first. The optimiser's moments of a changed row are zeroed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamlift.scenes.gaussians.splat import rotations

SHRINK = 1.6  # of the two halves of a split (the paper's 0.8 N with N = 2)


@dataclass(frozen=True)
class Densify:
    """When Gaussians are added and removed."""

    every: int = 50  # steps between two rounds; 0 switches it off
    start: float = 0.0  # progress (0..1) of the first round
    end: float = 0.8  # progress after which no Gaussian is added or removed
    gradient: float = 0.01  # mean screen gradient (half pictures are the unit) from which one is doubled
    split_above: float = 0.04  # largest scale, world units, above which it is split and not cloned
    prune_opacity: float = 0.01  # in [0, 1): less opaque ones are removed
    prune_scale: float = 0.5  # largest scale, world units, above which one is removed
    reset_every: int = 0  # steps between two resets of all opacities to 0.01; 0 never (DreamGaussian: 700, after its end)

    def __post_init__(self) -> None:
        if self.every < 0 or self.reset_every < 0:
            raise ValueError(f"every is {self.every} and reset_every {self.reset_every}; use 0 (never) or more steps")
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise ValueError(f"start is {self.start:g} and end {self.end:g}; accepted: progress, 0 <= start <= end <= 1")
        if not 0.0 <= self.prune_opacity < 1.0:
            raise ValueError(f"prune_opacity is {self.prune_opacity:g}; accepted: 0 up to, but not including, 1")
        for name in ("gradient", "split_above", "prune_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be positive")

    def is_due(self, index: int, progress: float) -> bool:
        """Whether a round follows optimiser step ``index``."""
        return self.every > 0 and self.start <= progress <= self.end and (index + 1) % self.every == 0


Rows = dict[str, nn.Parameter]  # means, quats, log_scales, logit_opacities, sh0, shN: (capacity, ...) each


@torch.no_grad()
def prune(values: Rows, alive: Tensor, settings: Densify) -> Tensor:
    """Remove the rows that are too faint or too large; returns which ``(capacity,)``. If none would stay, all do."""
    faint = values["logit_opacities"].sigmoid() < settings.prune_opacity
    large = values["log_scales"].exp().amax(-1) > settings.prune_scale
    gone = alive & (faint | large)
    if bool((gone == alive).all()):
        return torch.zeros_like(alive)
    alive &= ~gone
    return gone


@torch.no_grad()
def double(values: Rows, alive: Tensor, gradient: Tensor, settings: Densify, rng: torch.Generator) -> Tensor:
    """Clone or split the rows whose mean screen ``gradient (capacity,)`` passes the threshold; returns the changed rows.

    Both halves of a split are drawn from the Gaussian itself. A clone changes nothing of its original.
    """
    pushed = torch.where(alive & (gradient >= settings.gradient), gradient, gradient.new_full((), -1.0))
    free = (~alive).nonzero()[:, 0]
    order = pushed.argsort(descending=True, stable=True)
    parents = order[: min(int((pushed >= 0).sum()), len(free))]
    children = free[: len(parents)]
    for value in values.values():
        value[children] = value[parents]
    alive[children] = True
    scales = values["log_scales"][parents].exp()
    large = scales.amax(-1) > settings.split_above
    pair = torch.cat([parents[large], children[large]])
    both = scales[large].repeat(2, 1)
    noise = torch.randn(both.shape, generator=rng).to(both)
    turn = rotations(values["quats"][pair])
    values["means"][pair] += (turn @ (noise * both)[..., None])[..., 0]
    values["log_scales"][pair] = (both / SHRINK).log()
    changed = torch.zeros_like(alive)
    changed[children] = True
    changed[pair] = True
    return changed


@torch.no_grad()
def reset_opacities(values: Rows, limit: float = 0.01) -> None:
    """All opacities to ``limit`` at most: what the pictures need grows again, floaters do not (section 5.2)."""
    values["logit_opacities"].clamp_(max=float(torch.tensor(limit).logit()))


@torch.no_grad()
def zero_moments(optimizer: torch.optim.Optimizer, values: Rows, rows: Tensor) -> None:
    """Forget what the optimiser knows of ``rows (capacity,)`` bool."""
    for value in values.values():
        for moment in optimizer.state.get(value, {}).values():
            if isinstance(moment, Tensor) and moment.shape == value.shape:
                moment[rows] = 0
