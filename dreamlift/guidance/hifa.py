"""HiFA's loss on latents and on pictures (Zhu and Zhuang 2023, https://arxiv.org/abs/2305.18766).

    L_HiFA = E_{t, eps} [ ||z - z_hat||^2 + lambda_rgb ||x - x_hat||^2 ]

z_hat is the prior's denoised estimate of the latents z, and x_hat is the decoded z_hat; both are detached. The picture term
adds fine texture, which latents do not represent, and reduces the effect of encoder errors. t decreases with the square root of
progress, so most of a run is at low noise. Here x is the decoded z, so that both pictures have passed through the decoder.
threestudio multiplies both terms by alpha sigma (``weighting`` sigma2).
The paper's variance regulariser along rays is the scene term ``weights.depth_variance``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dreamlift.guidance.base import (
    Guidance,
    Weighting,
    check_range,
    draw_noise,
    draw_t,
    noise_residual_loss,
    weight_of,
)
from dreamlift.priors.base import Prior
from dreamlift.schedules import Schedule, Sqrt
from dreamlift.types import Conditioning, GuidanceOutput

FALL = Sqrt(0.98, 0.3)
"""t over progress in threestudio's ``hifa`` row."""


@dataclass(frozen=True)
class HiFA(Guidance):
    """Defaults follow threestudio's ``hifa`` row: t from 0.98 to 0.3, lambda_rgb 0.01."""

    decodes: ClassVar[bool] = True

    guidance_scale: float = 100.0  # s in uncond + s (cond - uncond), at least 0; threestudio: 100 as cond + s (cond - uncond)
    lambda_rgb: float = 0.01  # weight of the picture term relative to the latent term, at least 0; threestudio: 0.01
    t_min: float | Schedule = FALL  # smallest diffusion time, in [0, t_max]; threestudio: 0.98 falling to 0.3
    t_max: float | Schedule = FALL  # largest diffusion time, in [t_min, 1]; threestudio: equal to t_min
    # w(t): sigma^2 (threestudio), 1, alpha sigma, or sigma / alpha (x0, the paper); of both terms
    weighting: Weighting = "x0"
    clip_x0: float | None = None  # largest |z_hat|; 1 for pixel priors, null for latents
    clip_rms: float | None = None  # largest root mean square of one picture's latent gradient; null: no limit

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)
        if self.lambda_rgb < 0:
            raise ValueError(f"lambda_rgb is {self.lambda_rgb:g}; it must not be negative")

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t = draw_t(prior, latents, self.t_min, self.t_max, progress, rng)
        eps = draw_noise(latents, rng)
        out = noise_residual_loss(
            prior, latents, cond, t, eps, self.guidance_scale, self.weighting, self.clip_x0, self.clip_rms
        )
        if self.lambda_rgb == 0.0:
            return out
        with torch.no_grad():
            wanted = prior.decode(out.x0)
            alpha, sigma = prior.schedule(t)
            share = weight_of(self.weighting, alpha, sigma) / weight_of("x0", alpha, sigma)  # 1 for the paper's loss
        error = (share.movedim(1, -1) * (prior.decode(latents) - wanted).square()).sum() / latents.shape[0]
        return replace(out, loss=out.loss + 0.5 * self.lambda_rgb * error, metrics={**out.metrics, "rgb": error.detach()})
