"""The full diffusion loss, including the U-Net's Jacobian (Poole et al. 2022, https://arxiv.org/abs/2209.14988, eq. 2).

    L_Diff = E_{t, eps} [ w(t) ||eps_hat(alpha x + sigma eps; y, t) - eps||^2 ],
    grad_x L_Diff = E [ 2 w(t) (eps_hat - eps) (d eps_hat / d x_t) alpha ]

It is included for comparison: the Jacobian is expensive (a backward pass through the network) and ill-conditioned at low
noise, and the loss's minimiser is not a good sample. Use :mod:`dreamlift.guidance.sds` to make assets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, Weighting, check_range, draw_noise, draw_t, weight_of
from dreamlift.priors.base import Prior
from dreamlift.schedules import Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class DiffusionLoss(Guidance):
    """The training loss of the diffusion model, minimised over its input. Defaults are those of SDS."""

    differentiates_network: ClassVar[bool] = True

    guidance_scale: float = 100.0  # s in uncond + s (cond - uncond), at least 0; DreamFusion: 100
    t_min: float | Schedule = 0.02  # smallest diffusion time, in [0, t_max]; DreamFusion: 0.02
    t_max: float | Schedule = 0.98  # largest diffusion time, in [t_min, 1]; DreamFusion: 0.98
    weighting: Weighting = "sigma2"  # w(t): sigma^2 (DreamFusion), 1, alpha sigma, or sigma / alpha (x0)

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t = draw_t(prior, latents, self.t_min, self.t_max, progress, rng)
        eps = draw_noise(latents, rng)
        alpha, sigma = prior.schedule(t)
        x_t = alpha * latents + sigma * eps
        eps_hat = prior.predict_noise(x_t, t, cond, self.guidance_scale)  # differentiated, unlike SDS
        error = (weight_of(self.weighting, alpha, sigma) * (eps_hat - eps).square()).sum()
        x0 = ((x_t - sigma * eps_hat) / alpha.clamp_min(1e-4)).detach()
        loss = error / latents.shape[0]
        return GuidanceOutput(loss, x0, t, {"grad_rms": float("nan"), "t": t.mean()})
