"""Score distillation via inversion (Lukoianov et al. 2024, https://arxiv.org/abs/2405.15891, eq. 11 and algorithm 1).

    grad_x L_SDI = w(t) (eps_hat(x_t; y, t) - kappa),   x_t = alpha x + sigma kappa

kappa is not drawn but inferred: it is the noise from which DDIM would produce x, found by DDIM inversion of x. SDS is DDIM with
kappa replaced by a random draw at every step, which blurs the result. Here kappa may be mixed with random noise (eta).
With no inversion steps, and with the sum for the mean, this is SDS. The authors' loss is the mean of
0.5 (x - x0_hat)^2 over the values of the latents, so its gradient is x - x0_hat (w = sigma / alpha) over their number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, Weighting, check_range, draw_noise, draw_t, noise_residual_loss
from dreamlift.guidance.inversion import invert
from dreamlift.priors.base import Prior
from dreamlift.schedules import Linear, Schedule
from dreamlift.types import Conditioning, GuidanceOutput

FALL = Linear(0.98, 0.25, 0.0, 1.0)
"""t over progress in threestudio's ``sdi`` row."""


@dataclass(frozen=True)
class SDI(Guidance):
    """Defaults follow threestudio's ``sdi`` row: t falls linearly from 0.98 to 0.25, 10 inversion steps at t = 1.

    Its eta of 0.3 scales the noise added in each inversion step, in total 3 to 9% of kappa's variance; here it is added once.
    """

    guidance_scale: float = 7.5  # s in uncond + s (cond - uncond), at least 0; SDI: 7.5
    inversion_scale: float = -7.5  # guidance scale of the inversion; negative: away from the prompt; SDI: -7.5
    inversion_steps: int = 10  # at t = 1, proportionally fewer at smaller t, at least one; 0: none, which is SDS; SDI: 10
    eta: float = 0.06  # share of kappa's variance that is redrawn, in [0, 1] (not threestudio's eta)
    t_min: float | Schedule = FALL  # smallest diffusion time, in [0, t_max]; SDI: 0.98 falling to 0.25
    t_max: float | Schedule = FALL  # largest diffusion time, in [t_min, 1]; SDI: equal to t_min
    weighting: Weighting = "x0"  # w(t): sigma^2, 1, alpha sigma, or sigma / alpha (x0); SDI: x0
    mean: bool = True  # divide the gradient by the number of values of a picture's latents (SDI); false: as in other losses
    clip_x0: float | None = None  # largest |x0_hat|; 1 for pixel priors, null for latents
    clip_rms: float | None = None  # largest root mean square of one picture's gradient; null: no limit

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta is {self.eta:g}; accepted: 0 to 1")
        if self.inversion_steps < 0:
            raise ValueError(f"inversion_steps is {self.inversion_steps}; it must not be negative")

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t = draw_t(prior, latents, self.t_min, self.t_max, progress, rng)
        fresh = draw_noise(latents, rng)
        with torch.no_grad():
            noise = self.find_noise(prior, latents, cond, t, fresh)
        out = noise_residual_loss(
            prior, latents, cond, t, noise, self.guidance_scale, self.weighting, self.clip_x0, self.clip_rms
        )  # fmt: skip
        return replace(out, loss=out.loss / latents[0].numel()) if self.mean else out

    def find_noise(self, prior: Prior, latents: Tensor, cond: Conditioning, t: Tensor, fresh: Tensor) -> Tensor:
        """kappa ``(B, C, h, w)`` of ``latents (B, C, h, w)`` at ``t (B,)``: the inverted noise, mixed with ``fresh`` noise."""
        if self.inversion_steps == 0:
            return fresh
        steps = max(1, round(self.inversion_steps * float(t.max())))
        alpha, sigma = prior.schedule(t)
        inverted = invert(prior, latents, cond, t, steps, self.inversion_scale)
        kappa = (inverted - alpha * latents) / sigma.clamp_min(1e-4)
        return (1.0 - self.eta) ** 0.5 * kappa + self.eta**0.5 * fresh
