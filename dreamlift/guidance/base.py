"""What every distillation loss is, and the step that all of them share.

The step: draw t and eps, make x_t = alpha x + sigma eps, ask the prior for eps_hat, and turn it into a gradient on x.
A loss is a frozen dataclass; calling it does its work. What it learns on the way (a LoRA, say) is made by ``init`` and
passed back in, never stored on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dreamlift.priors.base import Prior
from dreamlift.schedules import Schedule, value_at
from dreamlift.types import Conditioning, GuidanceOutput

Weighting = Literal["sigma2", "uniform", "alpha_sigma", "x0"]
"""w(t), the weight of (eps_hat - eps): sigma^2 (DreamFusion), 1, alpha sigma, or sigma / alpha.

The last makes the gradient x - x0_hat.
"""


class Guidance(ABC):
    """A distillation loss on latents."""

    shared: ClassVar[bool] = True  # whether particles share what :meth:`init` makes; otherwise each has one of its own

    def init(self, prior: Prior, rng: torch.Generator) -> Any:
        """What the loss learns during a run, a module with ``param_groups()`` for the optimiser; None where nothing."""
        return None

    @abstractmethod
    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator,
        state: Any,
    ) -> GuidanceOutput:  # fmt: skip
        """The loss for ``latents (B, C, h, w)`` of a run that is ``progress`` (0..1) done."""


def check_range(t_min: float | Schedule, t_max: float | Schedule, guidance_scale: float) -> None:
    """Refuse diffusion times outside [0, 1], a lower bound above the upper one, and a negative guidance scale.

    Raises:
        ValueError: with the setting's name, what it is, and what is accepted.
    """
    if guidance_scale < 0:
        raise ValueError(f"guidance_scale is {guidance_scale:g}; it must not be negative")
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        low, high = value_at(t_min, progress), value_at(t_max, progress)
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(
                f"t_min is {low:g} and t_max {high:g} at progress {progress:g}; accepted: 0 <= t_min <= t_max <= 1"
            )


def draw_t(
    prior: Prior, latents: Tensor, low: float | Schedule, high: float | Schedule, progress: float, rng: torch.Generator
) -> Tensor:
    """Diffusion times of ``latents (B, C, h, w)``, ``(B,)``, uniform between the two (scheduled) bounds.

    Views that the prior looks at together share theirs.
    """
    a, b = value_at(low, progress), value_at(high, progress)
    count = latents.shape[0]
    drawn = torch.rand(-(-count // prior.views), generator=rng).repeat_interleave(prior.views)[:count]
    return (a + (b - a) * drawn).to(latents.device)


def draw_noise(like: Tensor, rng: torch.Generator) -> Tensor:
    """N(0, 1) noise of the shape of ``like``, drawn on the CPU so that every device sees the same."""
    return torch.randn(like.shape, generator=rng).to(like)


class Noised(NamedTuple):
    """Pictures with the noise of one step."""

    t: Tensor  # (B,)
    noise: Tensor  # (B, C, h, w), as x_t
    alpha: Tensor  # (B, 1, 1, 1), as sigma
    sigma: Tensor
    x_t: Tensor  # a constant to the gradient


def add_noise(
    prior: Prior, latents: Tensor, low: float | Schedule, high: float | Schedule, progress: float, rng: torch.Generator
) -> Noised:
    """x_t of ``latents (B, C, h, w)``, with t and then the noise drawn from ``rng``."""
    t = draw_t(prior, latents, low, high, progress, rng)
    noise = draw_noise(latents, rng)
    alpha, sigma = prior.schedule(t)
    return Noised(t, noise, alpha, sigma, alpha * latents.detach() + sigma * noise)


def pull(
    prior: Prior, latents: Tensor, cond: Conditioning, t: Tensor, noise: Tensor, guidance_scale: float,
    weighting: Weighting, clip_x0: float | None, clip_rms: float | None, normalize: bool = False,
) -> GuidanceOutput:  # fmt: skip
    """The loss whose gradient is w(t) (eps_hat - noise), at x_t = alpha x + sigma noise.

    With ``clip_x0`` the noise is that of the clipped x0_hat; with ``normalize`` each picture's gradient has the mean size 1.
    """
    alpha, sigma = prior.schedule(t)
    with torch.no_grad():
        eps_hat, x0 = denoise(prior, alpha * latents + sigma * noise, cond, t, guidance_scale, clip_x0)
        gradient = weight_of(weighting, alpha, sigma) * (eps_hat - noise)
        if normalize:
            gradient = gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return output(latents, limit_norm(gradient, clip_rms), x0, t)


def denoise(
    prior: Prior, x_t: Tensor, cond: Conditioning, t: Tensor, guidance_scale: float, clip_x0: float | None = None
) -> tuple[Tensor, Tensor]:
    """eps_hat and x0_hat of ``x_t (B, C, h, w)``; with ``clip_x0`` both for the clipped estimate."""
    return estimate(prior, x_t, prior.predict_noise(x_t, t, cond, guidance_scale), t, clip_x0)


def estimate(prior: Prior, x_t: Tensor, eps_hat: Tensor, t: Tensor, clip_x0: float | None = None) -> tuple[Tensor, Tensor]:
    """``eps_hat (B, C, h, w)`` and the x0_hat that it means; with ``clip_x0`` both for the clipped estimate."""
    alpha, sigma = prior.schedule(t)
    x0 = (x_t - sigma * eps_hat) / alpha.clamp_min(1e-4)
    if clip_x0 is not None:
        x0 = x0.clamp(-clip_x0, clip_x0)
        eps_hat = (x_t - alpha * x0) / sigma.clamp_min(1e-4)
    return eps_hat, x0


def output(latents: Tensor, gradient: Tensor, x0: Tensor, t: Tensor) -> GuidanceOutput:
    """The loss that teaches ``gradient``, with what is shown of it."""
    metrics: dict[str, float | Tensor] = {"grad_rms": gradient.square().mean().sqrt(), "t": t.mean()}
    return GuidanceOutput(inject(latents, gradient), x0, t, metrics)


def without_negative(cond: Conditioning) -> Conditioning:
    """The same with the empty prompt in the negative one's place."""
    return cond if cond.empty_prompt_embeds is None else replace(cond, negative_prompt_embeds=cond.empty_prompt_embeds)


def weight_of(weighting: Weighting, alpha: Tensor, sigma: Tensor) -> Tensor:
    """w(t) in the shape of ``alpha`` (see :data:`Weighting`)."""
    if weighting == "sigma2":
        return sigma.square()
    if weighting == "alpha_sigma":
        return alpha * sigma
    if weighting == "x0":
        return sigma / alpha.clamp_min(1e-4)
    return torch.ones_like(alpha)


def inject(latents: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to ``latents (B, C, h, w)`` is exactly ``gradient / B``.

    It is 0.5 ||x - stopgrad(x - g)||^2 / B. Its value, 0.5 ||g||^2 / B, means nothing else. The mean over the batch
    keeps the weight of the other loss terms independent of the number of views.
    """
    target = (latents - gradient).detach()
    return 0.5 * (latents - target).square().sum() / latents.shape[0]


def limit_norm(gradient: Tensor, limit: float | None) -> Tensor:
    """``gradient (B, C, h, w)`` with each picture's root mean square at most ``limit``; non-finite values become 0."""
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    if limit is None:
        return gradient
    rms = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
    return gradient * (limit / rms.clamp_min(1e-12)).clamp(max=1.0)
