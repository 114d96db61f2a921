"""Rectified-flow distillation sampling (Yang et al. 2024, https://arxiv.org/abs/2406.03293).

    grad_x L_RFDS = E_{t, eps} [ w(t) (v_hat(x_t; y, t) - (eps - x)) ],   x_t = (1 - t) x + t eps

SDS for priors that predict the velocity v = eps - x of a rectified flow (Stable Diffusion 3, FLUX). With
v_hat = eps_hat - x0_hat the bracket equals (1 + sigma / alpha) (eps_hat - eps), which is defined for every prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, add_noise, check_range, denoise, limit_norm, output
from dreamlift.priors.base import Prior
from dreamlift.schedules import Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class RFDS(Guidance):
    """w(t) = 1, with DreamFusion's times."""

    guidance_scale: float = 50.0  # s in uncond + s (cond - uncond), at least 0
    t_min: float | Schedule = 0.02  # smallest diffusion time, in [0, t_max]; DreamFusion: 0.02
    t_max: float | Schedule = 0.98  # largest diffusion time, in [t_min, 1]; DreamFusion: 0.98
    clip_rms: float | None = None  # largest root mean square of one picture's gradient; null: no limit

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
