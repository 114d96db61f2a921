"""Rectified-flow distillation sampling (Yang et al. 2024, https://arxiv.org/abs/2406.03293).

    grad_x L_RFDS = E_{t, eps} [ w(t) (v_hat(x_t; y, t) - (eps - x)) ],   x_t = (1 - t) x + t eps

SDS for priors that predict the velocity v = eps - x of straight paths (Stable Diffusion 3, FLUX). In the terms that all priors
share, v_hat = eps_hat - x0_hat, and the bracket is (1 + sigma / alpha) (eps_hat - eps); so it runs on any prior.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, add_noise, check_range, denoise, limit_norm, output
from dreamlift.priors.base import Prior
from dreamlift.schedules import SCHEDULES, Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class RFDS(Guidance):
    """w(t) = 1 and DreamFusion's times."""

    guidance_scale: float = 50.0  # uncond + s (cond - uncond)
    t_min: float | Schedule = field(default=0.02, metadata={"choices": SCHEDULES})  # fraction of the horizon
    t_max: float | Schedule = field(default=0.98, metadata={"choices": SCHEDULES})
    clip_rms: float | None = None  # largest root mean square of one picture's gradient

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t, eps, _, _, x_t = add_noise(prior, latents, self.t_min, self.t_max, progress, rng)
        with torch.no_grad():
            eps_hat, x0 = denoise(prior, x_t, cond, t, self.guidance_scale)
            velocity, straight = eps_hat - x0, eps - latents
        return output(latents, limit_norm(velocity - straight, self.clip_rms), x0, t)
