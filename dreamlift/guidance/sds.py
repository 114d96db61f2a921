"""Score distillation sampling (Poole et al. 2022, "DreamFusion", https://arxiv.org/abs/2209.14988, eq. 3).

    grad_x L_SDS = E_{t, eps} [ w(t) (eps_hat(x_t; y, t) - eps) ],   x_t = alpha x + sigma eps

The U-Net's Jacobian is left out: :mod:`dreamlift.guidance.diffusion_loss` keeps it, to show why. With
``weighting="x0"`` the same gradient reads x - x0_hat, x0_hat the prior's denoised estimate; ``clip_x0`` then keeps
x0_hat in the range of real pictures, which stops the colours from saturating at high guidance scales.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, Weighting, check_range, draw_noise, draw_t, pull
from dreamlift.priors.base import Prior
from dreamlift.schedules import SCHEDULES, Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class SDS(Guidance):
    """Defaults are DreamFusion's (its w(t) = sigma^2 and t range); presets say which row they follow."""

    guidance_scale: float = 100.0  # uncond + s (cond - uncond)
    t_min: float | Schedule = field(default=0.02, metadata={"choices": SCHEDULES})  # fraction of the horizon
    t_max: float | Schedule = field(default=0.98, metadata={"choices": SCHEDULES})
    weighting: Weighting = "sigma2"
    clip_x0: float | None = None  # largest |x0_hat|; 1 for pixel priors, None for latents
    clip_rms: float | None = None  # largest root mean square of one picture's gradient

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t = draw_t(prior, latents, self.t_min, self.t_max, progress, rng)
        eps = draw_noise(latents, rng)
        return pull(
            prior, latents, cond, t, eps, self.guidance_scale, self.weighting, self.clip_x0, self.clip_rms
        )  # fmt: skip
