"""Adaptive density control: adds and removes Gaussians, within a fixed number of rows.

"3D Gaussian Splatting for Real-Time Radiance Field Rendering" (Kerbl et al. 2023, section 5.2 and algorithm 1,
https://arxiv.org/abs/2308.04079), with the settings of "DreamGaussian" (Tang et al. 2023, https://arxiv.org/abs/2309.16653,
``configs/text.yaml``). A Gaussian whose screen position has a large mean gradient is duplicated: a small one is cloned, a large
one is split into two that are 1.6 times smaller. Gaussians of low opacity are pruned.

The parameters keep their shape: a mask marks the rows in use. New Gaussians take unused rows; if there are too few, those with
the largest gradients take precedence. The optimiser's moments of a changed row are set to zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamlift.scenes.gaussians.splat import rotations

SHRINK = 1.6  # ratio of the scales before and after a split (the paper's 0.8 N with N = 2)


@dataclass(frozen=True)
class Densify:
    """Settings of the adaptive density control."""

    every: int = 50  # steps between densifications; 0 disables densification and pruning
    start_progress: float = 0.0  # progress (0..1) before which no Gaussian is added or removed
    end_progress: float = 0.8  # progress (0..1) after which no Gaussian is added or removed
    gradient: float = 0.01  # mean screen-space gradient (unit: half the picture's size) above which a Gaussian is duplicated
    split_above: float = 0.04  # largest scale, world units, above which a Gaussian is split rather than cloned
    prune_opacity: float = 0.01  # opacity, in [0, 1), below which a Gaussian is removed
    prune_scale: float = 0.5  # largest scale, world units, above which a Gaussian is removed
    reset_every: int = 0  # steps between resets of all opacities to at most 0.01; 0: never (DreamGaussian: 700, after its end)

    def __post_init__(self) -> None:
        if self.every < 0 or self.reset_every < 0:
            raise ValueError(f"every is {self.every} and reset_every {self.reset_every}; use 0 (never) or more steps")
        if not 0.0 <= self.start_progress <= self.end_progress <= 1.0:
            raise ValueError(
                f"start_progress is {self.start_progress:g} and end_progress {self.end_progress:g}; accepted: "
                "0 <= start_progress <= end_progress <= 1"
            )
        if not 0.0 <= self.prune_opacity < 1.0:
            raise ValueError(f"prune_opacity is {self.prune_opacity:g}; accepted: 0 up to, but not including, 1")
        for name in ("gradient", "split_above", "prune_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be positive")

    def is_due(self, index: int, progress: float) -> bool:
        """Whether Gaussians are added and removed after optimiser step ``index``."""
        due = self.every > 0 and (index + 1) % self.every == 0
        return due and self.start_progress <= progress <= self.end_progress


Rows = dict[str, nn.Parameter]  # means, quats, log_scales, logit_opacities, sh0, shN: (capacity, ...) each


@torch.no_grad()
def prune(values: Rows, alive: Tensor, settings: Densify) -> Tensor:
    """Remove rows of low opacity or large scale and return their mask ``(capacity,)``; keeps all rather than remove all."""
    faint = values["logit_opacities"].sigmoid() < settings.prune_opacity
    large = values["log_scales"].exp().amax(-1) > settings.prune_scale
    gone = alive & (faint | large)
    if bool((gone == alive).all()):
        return torch.zeros_like(alive)
    alive &= ~gone
    return gone


@torch.no_grad()
def double(values: Rows, alive: Tensor, gradient: Tensor, settings: Densify, rng: torch.Generator) -> Tensor:
    """Clone or split the rows whose mean screen-space ``gradient (capacity,)`` reaches the threshold.

    The means of both halves of a split are drawn from the original Gaussian. Returns a mask ``(capacity,)`` of the rows that
    changed; the original of a clone does not change.
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
    """Clamp all opacities to at most ``limit``: training restores those of visible surfaces, not floaters (section 5.2)."""
    values["logit_opacities"].clamp_(max=float(torch.tensor(limit).logit()))


@torch.no_grad()
def zero_moments(optimizer: torch.optim.Optimizer, values: Rows, rows: Tensor) -> None:
    """Zero the optimiser's moments of ``rows (capacity,)`` bool."""
    for value in values.values():
        for moment in optimizer.state.get(value, {}).values():
            if isinstance(moment, Tensor) and moment.shape == value.shape:
                moment[rows] = 0
