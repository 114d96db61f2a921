"""Base class of the distillation losses, and the functions that they share.

One step: draw t and eps, form x_t = alpha x + sigma eps, predict eps_hat with the prior, and convert it into a gradient on x.
A loss is a frozen dataclass of settings; calling it returns the loss. Trained state (such as a LoRA) is created by ``init`` and
passed to every call; it is never stored on the loss.
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

Weighting = Literal["sigma2", "uniform", "alpha_sigma", "alpha_sigma2", "x0"]
"""w(t), the weight of (eps_hat - eps): sigma^2 (DreamFusion), 1, alpha sigma, alpha sigma^2 (Fantasia3D), or sigma / alpha.

With the last one the gradient equals x - x0_hat.
"""


class Guidance(ABC):
    """A distillation loss on latents."""

    shared: ClassVar[bool] = True  # whether all particles share one state of :meth:`init`; False: one state per particle
    adapts_prior: ClassVar[bool] = False  # whether it trains a LoRA of the prior
    differentiates_network: ClassVar[bool] = False  # whether its gradient passes through the prior's network
    decodes: ClassVar[bool] = False  # whether its gradient passes through the autoencoder's decoder

    def init(self, prior: Prior, rng: torch.Generator) -> Any:
        """Initial state of the loss: a module with ``param_groups()`` for the optimiser, or None if it has no state."""
        return None

    @abstractmethod
    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator,
        state: Any,
    ) -> GuidanceOutput:  # fmt: skip
        """The loss for ``latents (B, C, h, w)`` at ``progress``, the completed fraction of the run in [0, 1]."""


def check_range(t_min: float | Schedule, t_max: float | Schedule, guidance_scale: float) -> None:
    """Check that 0 <= t_min <= t_max <= 1 at five values of progress, and that the guidance scale is not negative.

    Raises:
        ValueError: a setting is out of range; the text gives its name, its value and the accepted range.
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
    """Diffusion times ``(B,)`` for ``latents (B, C, h, w)``, uniform between the (scheduled) bounds ``low`` and ``high``.

    Views that the prior denoises jointly share one time.
    """
    a, b = value_at(low, progress), value_at(high, progress)
    count = latents.shape[0]
    drawn = torch.rand(-(-count // prior.views), generator=rng).repeat_interleave(prior.views)[:count]
    return (a + (b - a) * drawn).to(latents.device)


def draw_noise(like: Tensor, rng: torch.Generator) -> Tensor:
    """N(0, 1) noise of the shape of ``like``, drawn on the CPU so that it is the same on every device."""
    return torch.randn(like.shape, generator=rng).to(like)


class Noised(NamedTuple):
    """Noised latents, with the quantities that they were made from."""

    t: Tensor  # (B,)
    noise: Tensor  # (B, C, h, w)
    alpha: Tensor  # (B, 1, 1, 1)
    sigma: Tensor  # (B, 1, 1, 1)
    x_t: Tensor  # (B, C, h, w), detached


def add_noise(
    prior: Prior, latents: Tensor, low: float | Schedule, high: float | Schedule, progress: float, rng: torch.Generator
) -> Noised:
    """x_t of ``latents (B, C, h, w)``; t, then the noise, are drawn from ``rng``."""
    t = draw_t(prior, latents, low, high, progress, rng)
    noise = draw_noise(latents, rng)
    alpha, sigma = prior.schedule(t)
    return Noised(t, noise, alpha, sigma, alpha * latents.detach() + sigma * noise)


def noise_residual_loss(
    prior: Prior, latents: Tensor, cond: Conditioning, t: Tensor, noise: Tensor, guidance_scale: float,
    weighting: Weighting, clip_x0: float | None, clip_rms: float | None, normalize: bool = False,
) -> GuidanceOutput:  # fmt: skip
    """The loss with the gradient w(t) (eps_hat - noise) at x_t = alpha x + sigma noise.

    With ``clip_x0``, eps_hat is recomputed from the clipped x0_hat. With ``normalize``, each picture's gradient is divided by
    the mean of its absolute values.
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
    """eps_hat and x0_hat ``(B, C, h, w)`` at ``x_t (B, C, h, w)``; with ``clip_x0``, both for the clipped x0_hat."""
    return estimate(prior, x_t, prior.predict_noise(x_t, t, cond, guidance_scale), t, clip_x0)


def estimate(prior: Prior, x_t: Tensor, eps_hat: Tensor, t: Tensor, clip_x0: float | None = None) -> tuple[Tensor, Tensor]:
    """``eps_hat (B, C, h, w)`` and x0_hat = (x_t - sigma eps_hat) / alpha; with ``clip_x0``, both for the clipped x0_hat."""
    alpha, sigma = prior.schedule(t)
    x0 = (x_t - sigma * eps_hat) / alpha.clamp_min(1e-4)
    if clip_x0 is not None:
        x0 = x0.clamp(-clip_x0, clip_x0)
        eps_hat = (x_t - alpha * x0) / sigma.clamp_min(1e-4)
    return eps_hat, x0


def output(latents: Tensor, gradient: Tensor, x0: Tensor, t: Tensor) -> GuidanceOutput:
    """The loss with the given ``gradient (B, C, h, w)``, with the values for previews and metrics."""
    metrics: dict[str, float | Tensor] = {"grad_rms": gradient.square().mean().sqrt(), "t": t.mean()}
    return GuidanceOutput(inject(latents, gradient), x0, t, metrics)


def without_negative(cond: Conditioning) -> Conditioning:
    """``cond`` with the negative prompt replaced by the empty prompt."""
    if cond.empty_prompt_embeds is None:
        return cond
    pooled = cond.empty_pooled_prompt_embeds
    return replace(cond, negative_prompt_embeds=cond.empty_prompt_embeds, negative_pooled_prompt_embeds=pooled)


def weight_of(weighting: Weighting, alpha: Tensor, sigma: Tensor) -> Tensor:
    """w(t), of the shape of ``alpha`` (see :data:`Weighting`)."""
    if weighting == "sigma2":
        return sigma.square()
    if weighting == "alpha_sigma":
        return alpha * sigma
    if weighting == "alpha_sigma2":
        return alpha * sigma.square()
    if weighting == "x0":
        return sigma / alpha.clamp_min(1e-4)
    return torch.ones_like(alpha)


def inject(latents: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to ``latents (B, C, h, w)`` is exactly ``gradient / B``.

    It is 0.5 ||x - stopgrad(x - g)||^2 / B. Its value, 0.5 ||g||^2 / B, is not a meaningful objective. Dividing by B keeps the
    relative weight of the other loss terms independent of the number of views.
    """
    target = (latents - gradient).detach()
    return 0.5 * (latents - target).square().sum() / latents.shape[0]


def limit_norm(gradient: Tensor, limit: float | None) -> Tensor:
    """``gradient (B, C, h, w)`` with the root mean square of each picture limited to ``limit``; non-finite values become 0."""
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    if limit is None:
        return gradient
    rms = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
    return gradient * (limit / rms.clamp_min(1e-12)).clamp(max=1.0)
