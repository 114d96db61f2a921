"""Score distillation sampling (Poole et al. 2022, "DreamFusion", https://arxiv.org/abs/2209.14988, eq. 3).

    grad_x L_SDS = E_{t, eps} [ w(t) (eps_hat(x_t; y, t) - eps) ],   x_t = alpha x + sigma eps

The U-Net's Jacobian is omitted; :mod:`dreamlift.guidance.diffusion_loss` keeps it, for comparison. With ``weighting="x0"`` the
gradient equals x - x0_hat, with x0_hat the prior's denoised estimate; ``clip_x0`` then keeps x0_hat in the range of pictures,
which prevents saturated colours at high guidance scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, Weighting, check_range, draw_noise, draw_t, noise_residual_loss
from dreamlift.priors.base import Prior
from dreamlift.schedules import Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class SDS(Guidance):
    """Defaults follow DreamFusion (w(t) = sigma^2 and its range of t); each preset names its source."""

    guidance_scale: float = 100.0  # s in uncond + s (cond - uncond), at least 0; DreamFusion: 100
    t_min: float | Schedule = 0.02  # smallest diffusion time, in [0, t_max]; DreamFusion: 0.02
    t_max: float | Schedule = 0.98  # largest diffusion time, in [t_min, 1]; DreamFusion: 0.98
    weighting: Weighting = "sigma2"  # w(t): sigma^2 (DreamFusion), 1, alpha sigma, or sigma / alpha (x0)
    clip_x0: float | None = None  # largest |x0_hat|; 1 for pixel priors, null for latents
    clip_rms: float | None = None  # largest root mean square of one picture's gradient; null: no limit

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t = draw_t(prior, latents, self.t_min, self.t_max, progress, rng)
        eps = draw_noise(latents, rng)
        return noise_residual_loss(
            prior, latents, cond, t, eps, self.guidance_scale, self.weighting, self.clip_x0, self.clip_rms
        )  # fmt: skip
