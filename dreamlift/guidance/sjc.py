"""Score Jacobian chaining (Wang et al. 2022, https://arxiv.org/abs/2212.00774, "perturb and average").

    grad_x L_SJC = E_{sigma, n} [ (x + sigma n - D(x + sigma n; sigma)) / sigma ]

The render is perturbed before the denoiser D sees it, since a render alone lies where D was never trained, and the scores are
averaged. With x_t = alpha (x + (sigma_t / alpha) n) the ratio is eps_hat. n has mean zero and may be taken off it, which lowers
the variance: then this is SDS with w(t) = 1.
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
class SJC(Guidance):
    """Defaults are threestudio's ``sjc`` row (its guidance 100 is 101 here)."""

    guidance_scale: float = 101.0  # uncond + s (cond - uncond)
    variance_reduction: bool = True  # take the noise that was added off the score
    t_min: float | Schedule = field(default=0.01, metadata={"choices": SCHEDULES})  # fraction of the horizon
    t_max: float | Schedule = field(default=0.97, metadata={"choices": SCHEDULES})
    clip_rms: float | None = None  # largest root mean square of one picture's gradient

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t, noise, _, _, x_t = add_noise(prior, latents, self.t_min, self.t_max, progress, rng)
        with torch.no_grad():
            eps_hat, x0 = denoise(prior, x_t, cond, t, self.guidance_scale)
            gradient = eps_hat - noise if self.variance_reduction else eps_hat
        return output(latents, limit_norm(gradient, self.clip_rms), x0, t)
