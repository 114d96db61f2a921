"""Score Jacobian chaining (Wang et al. 2022, https://arxiv.org/abs/2212.00774, "perturb and average").

    grad_x L_SJC = E_{sigma, n} [ (x + sigma n - D(x + sigma n; sigma)) / sigma ]

The score is averaged over perturbations of the render, because an unperturbed render is outside the training distribution of
the denoiser D. With x_t = alpha (x + (sigma_t / alpha) n) the ratio is eps_hat. Subtracting n, which has mean zero, reduces the
variance; the loss is then SDS with w(t) = 1.
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
class SJC(Guidance):
    """Defaults follow threestudio's ``sjc`` row (its guidance scale of 100 is 101 here)."""

    guidance_scale: float = 101.0  # s in uncond + s (cond - uncond), at least 0; threestudio: 100 as cond + s (cond - uncond)
    variance_reduction: bool = True  # subtract the added noise from the score; threestudio: true
    t_min: float | Schedule = 0.01  # smallest diffusion time, in [0, t_max]; threestudio: 0.01
    t_max: float | Schedule = 0.97  # largest diffusion time, in [t_min, 1]; threestudio: 0.97
    clip_rms: float | None = None  # largest root mean square of one picture's gradient; null: no limit

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
