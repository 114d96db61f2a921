"""HiFA's loss in the latents and in the pictures (Zhu and Zhuang 2023, https://arxiv.org/abs/2305.18766).

    L_HiFA = E_{t, eps} [ ||z - z_hat||^2 + lambda_rgb ||x - x_hat||^2 ]

z_hat is the prior's denoised estimate of the latents z and x_hat its decoded picture; both are constants to the gradient. The
latents miss fine texture, and errors of the encoder enter through them alone. Times fall with the square root of progress, so
the larger part of a run looks at low noise. Here x is the decoded z: then both pictures have passed through the decoder.
The paper's variance along each ray is the scene's ``weights.depth_variance``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, check_range, draw_noise, draw_t, pull
from dreamlift.priors.base import Prior
from dreamlift.schedules import SCHEDULES, Schedule, Sqrt
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class HiFA(Guidance):
    """Defaults are threestudio's ``hifa`` row: t from 0.98 to 0.3, lambda_rgb 0.01."""

    guidance_scale: float = 100.0  # uncond + s (cond - uncond)
    lambda_rgb: float = 0.01  # weight of the pictures beside the latents
    t_min: float | Schedule = field(default=Sqrt(0.98, 0.3), metadata={"choices": SCHEDULES})  # fraction of the horizon
    t_max: float | Schedule = field(default=Sqrt(0.98, 0.3), metadata={"choices": SCHEDULES})
    clip_x0: float | None = None  # largest |z_hat|; 1 for pixel priors, None for latents
    clip_rms: float | None = None  # largest root mean square of one picture's gradient

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)
        if self.lambda_rgb < 0:
            raise ValueError(f"lambda_rgb is {self.lambda_rgb:g}; it must not be negative")

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t = draw_t(prior, latents, self.t_min, self.t_max, progress, rng)
        eps = draw_noise(latents, rng)
        out = pull(prior, latents, cond, t, eps, self.guidance_scale, "x0", self.clip_x0, self.clip_rms)
        if self.lambda_rgb == 0.0:
            return out
        with torch.no_grad():
            wanted = prior.decode(out.x0)
        error = (prior.decode(latents) - wanted).square().sum() / latents.shape[0]
        return replace(out, loss=out.loss + 0.5 * self.lambda_rgb * error, metrics={**out.metrics, "rgb": error.detach()})
