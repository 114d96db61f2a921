"""Noise-free score distillation (Katzir et al. 2023, https://arxiv.org/abs/2310.17590).

    grad_x L_NFSD = E_{t, eps} [ w(t) (delta_D + s delta_C) ]

    delta_C = eps_hat(x_t; y, t) - eps_hat(x_t; t)
    delta_D = eps_hat(x_t; t)                          where t < 0.2
              eps_hat(x_t; t) - eps_hat(x_t; n, t)     elsewhere, with n the negative prompt

Of SDS's gradient it leaves out the part that only predicts the noise that was added. At low noise that part is small and
eps_hat itself leads to the pictures that the prior knows; at high noise the negative prompt tells what leads away from them.
With an empty negative prompt nothing is left of delta_D there, and the gradient is CSD's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
from dreamlift.schedules import SCHEDULES, Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class NFSD(Guidance):
    """Defaults are the paper's: s = 7.5, delta_D changes at t = 0.2."""

    scale: float = 7.5  # s
    low_noise: float = 0.2  # t below which eps_hat itself is taken for delta_D, fraction of the horizon
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
            plain = prior.predict_noise(x_t, t, without_negative(cond), 0.0)
            # Without a negative prompt of one's own the empty one is in its place already.
            unwanted = plain if cond.empty_prompt_embeds is None else prior.predict_noise(x_t, t, cond, 0.0)
            domain = torch.where(t.view(-1, 1, 1, 1) < self.low_noise, plain, plain - unwanted)
            gradient = weight_of(self.weighting, alpha, sigma) * (domain + self.scale * (wanted - plain))
        return output(latents, limit_norm(gradient, self.clip_rms), x0, t)
