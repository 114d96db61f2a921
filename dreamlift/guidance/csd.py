"""Classifier score distillation (Yu et al. 2023, https://arxiv.org/abs/2310.19415, eq. 7).

    grad_x L_CSD = E_{t, eps} [ w(t) (eps_hat(x_t; y, t) - eps_hat(x_t; t)) ]

Of SDS's guided gradient, (eps_hat(x_t; t) - eps) + s (eps_hat(x_t; y, t) - eps_hat(x_t; t)), it keeps the second part, the
gradient of an implicit classifier. With a negative prompt the difference is taken to that one (the paper's section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, Weighting, add_noise, check_range, denoise, limit_norm, output, weight_of
from dreamlift.priors.base import Prior
from dreamlift.schedules import SCHEDULES, Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class CSD(Guidance):
    """The prompt's part of classifier-free guidance, alone."""

    scale: float = 1.0  # of the gradient: what is left of a guidance scale
    t_min: float | Schedule = field(default=0.02, metadata={"choices": SCHEDULES})  # fraction of the horizon
    t_max: float | Schedule = field(default=0.98, metadata={"choices": SCHEDULES})
    weighting: Weighting = "sigma2"
    clip_rms: float | None = None  # largest root mean square of one picture's gradient

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
