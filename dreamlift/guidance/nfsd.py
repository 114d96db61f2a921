"""Noise-free score distillation (Katzir et al. 2023, https://arxiv.org/abs/2310.17590).

    grad_x L_NFSD = E_{t, eps} [ w(t) (delta_D + s delta_C) ]

    delta_C = eps_hat(x_t; y, t) - eps_hat(x_t; t)
    delta_D = eps_hat(x_t; t)                          where t < 0.2
              eps_hat(x_t; t) - eps_hat(x_t; n, t)     otherwise, with n the negative prompt

delta_D, the domain term, points toward the prior's distribution; delta_C is the condition term. SDS's residual also contains
the noise-prediction error, which NFSD omits: at low noise that part of eps_hat is small, and at high noise it cancels in the
difference to the negative prompt. With an empty negative prompt delta_D is 0 for t >= 0.2, and the gradient there is CSD's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlift.guidance.base import (
    Guidance,
    Weighting,
    add_noise,
    check_range,
    denoise,
    limit_norm,
    output,
    weight_of,
    without_negative,
)
from dreamlift.priors.base import Prior
from dreamlift.schedules import Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class NFSD(Guidance):
    """Defaults follow the paper (s = 7.5, threshold t = 0.2), with DreamFusion's times and weighting."""

    scale: float = 7.5  # s, the weight of delta_C, at least 0; NFSD: 7.5
    low_noise: float = 0.2  # t below which delta_D is eps_hat itself, in [0, 1]; NFSD: 0.2
    t_min: float | Schedule = 0.02  # smallest diffusion time, in [0, t_max]; DreamFusion: 0.02
    t_max: float | Schedule = 0.98  # largest diffusion time, in [t_min, 1]; DreamFusion: 0.98
    weighting: Weighting = "sigma2"  # w(t): sigma^2, 1, alpha sigma, or sigma / alpha (x0)
    clip_rms: float | None = None  # largest root mean square of one picture's gradient; null: no limit

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.scale)

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t, _, alpha, sigma, x_t = add_noise(prior, latents, self.t_min, self.t_max, progress, rng)
        with torch.no_grad():
            wanted, x0 = denoise(prior, x_t, cond, t, 1.0)
            plain = prior.predict_noise(x_t, t, without_negative(cond), 0.0)
            # Without a user's negative prompt, `cond` already holds the empty one in its place.
            unwanted = plain if cond.empty_prompt_embeds is None else prior.predict_noise(x_t, t, cond, 0.0)
            domain = torch.where(t.view(-1, 1, 1, 1) < self.low_noise, plain, plain - unwanted)
            gradient = weight_of(self.weighting, alpha, sigma) * (domain + self.scale * (wanted - plain))
        return output(latents, limit_norm(gradient, self.clip_rms), x0, t)
