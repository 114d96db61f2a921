"""Classifier score distillation (Yu et al. 2023, https://arxiv.org/abs/2310.19415, eq. 7).

    grad_x L_CSD = E_{t, eps} [ w(t) (eps_hat(x_t; y, t) - eps_hat(x_t; t)) ]

SDS's guided gradient is (eps_hat(x_t; t) - eps) + s (eps_hat(x_t; y, t) - eps_hat(x_t; t)). CSD keeps only the second term, the
gradient of an implicit classifier. With a negative prompt, that prompt replaces the empty one (section 4.3 of the paper).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, Weighting, add_noise, check_range, denoise, limit_norm, output, weight_of
from dreamlift.priors.base import Prior
from dreamlift.schedules import Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class CSD(Guidance):
    """The difference term of classifier-free guidance alone, with DreamFusion's times and weighting."""

    scale: float = 1.0  # factor of the gradient, at least 0; CSD has no guidance scale
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
            other = prior.predict_noise(x_t, t, cond, 0.0)
            gradient = limit_norm(self.scale * weight_of(self.weighting, alpha, sigma) * (wanted - other), self.clip_rms)
        return output(latents, gradient, x0, t)
