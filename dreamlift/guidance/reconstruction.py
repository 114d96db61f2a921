"""MVDream's x0-reconstruction loss with rescaled guidance (Shi et al. 2023, https://arxiv.org/abs/2308.16512).

    L = E_{t, eps} [ ||x - x0_hat||^2 ],   x0_hat = phi x0_s std(x0_1) / std(x0_s) + (1 - phi) x0_s

x0_s is the estimate at guidance scale s and x0_1 the estimate at scale 1. A large scale increases the standard deviation of the
estimate, which saturates colours; the rescaling (Lin et al. 2023, https://arxiv.org/abs/2305.08891, eq. 15) reduces it. The
standard deviations are taken over all views of an object jointly, so that their brightness stays consistent: over the views
that the prior denoises jointly, or over the whole batch for single-view priors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, add_noise, check_range, estimate, limit_norm, output
from dreamlift.priors.base import Prior, classifier_free_guidance
from dreamlift.schedules import Linear, Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class Reconstruction(Guidance):
    """Defaults follow MVDream: s = 50, phi = 0.5, and t from 0.98 to U(0.02, 0.5) over the first 80% of the run."""

    guidance_scale: float = 50.0  # s in uncond + s (cond - uncond), at least 0; MVDream: 50
    rescale: float = 0.5  # phi, in [0, 1]; 0: no rescaling; MVDream: 0.5
    # smallest diffusion time, in [0, t_max]; MVDream: 0.98 falling to 0.02
    t_min: float | Schedule = field(default=Linear(0.98, 0.02, 0.0, 0.8))
    # largest diffusion time, in [t_min, 1]; MVDream: 0.98 falling to 0.5
    t_max: float | Schedule = field(default=Linear(0.98, 0.5, 0.0, 0.8))
    clip_rms: float | None = None  # largest root mean square of one picture's gradient; null: no limit

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"rescale is {self.rescale:g}; accepted: 0 to 1")

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t, _, _, _, x_t = add_noise(prior, latents, self.t_min, self.t_max, progress, rng)
        with torch.no_grad():
            guided, plain = (estimate(prior, x_t, eps, t)[1] for eps in both(prior, x_t, cond, t, self.guidance_scale))
            together = prior.views if prior.views > 1 else len(latents)
            ratio = std_over_views(plain, together) / std_over_views(guided, together).clamp_min(1e-6)
            x0 = guided * (1.0 + self.rescale * (ratio - 1.0))
            gradient = limit_norm(latents - x0, self.clip_rms)
        return output(latents, gradient, x0, t)


def both(prior: Prior, x_t: Tensor, cond: Conditioning, t: Tensor, guidance_scale: float) -> tuple[Tensor, Tensor]:
    """eps_hat ``(B, C, h, w)`` at ``x_t (B, C, h, w)`` with guidance and at scale 1, without repeating a forward pass."""
    plain = prior.predict_noise(x_t, t, cond, 1.0)
    if cond.perp_embeds is not None:
        return prior.predict_noise(x_t, t, cond, guidance_scale), plain
    return classifier_free_guidance(prior.predict_noise(x_t, t, cond, 0.0), plain, guidance_scale), plain


def std_over_views(x0: Tensor, together: int) -> Tensor:
    """Standard deviation ``(B, 1, 1, 1)`` of ``x0 (B, C, h, w)`` over each group of ``together`` consecutive views."""
    return x0.unflatten(0, (-1, together)).flatten(1).std(1).repeat_interleave(together).view(-1, 1, 1, 1)
