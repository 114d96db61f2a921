"""Score distillation via inversion (Lukoianov et al. 2024, https://arxiv.org/abs/2405.15891, eq. 11 and algorithm 1).

    grad_x L_SDI = w(t) (eps_hat(x_t; y, t) - kappa),   x_t = alpha x + sigma kappa

where kappa is not drawn but found: the noise that DDIM would have turned into x, by inverting x. SDS is DDIM with that noise
replaced by a fresh draw at every step, which is why it blurs. Kappa may be mixed with fresh noise.
With no inversion steps this is SDS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, Weighting, check_range, draw_noise, draw_t, pull
from dreamlift.guidance.inversion import invert
from dreamlift.priors.base import Prior
from dreamlift.schedules import SCHEDULES, Linear, Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class SDI(Guidance):
    """Defaults are threestudio's ``sdi`` row: t falls in a line from 0.98 to 0.25, 10 inversion steps at t = 1.

    Its eta of 0.3 scales the noise of each inversion step; of kappa's variance that is 3 to 9% in all, here at once.
    """

    guidance_scale: float = 7.5  # uncond + s (cond - uncond)
    inversion_scale: float = -7.5  # the same while inverting: against the prompt, so that going back gains it
    inversion_steps: int = 10  # at t = 1; fewer in proportion at smaller t, at least one. 0: none, which is SDS
    eta: float = 0.06  # share of kappa's variance that is drawn anew, in [0, 1] (not threestudio's eta)
    t_min: float | Schedule = field(default=Linear(0.98, 0.25, 0.0, 1.0), metadata={"choices": SCHEDULES})
    t_max: float | Schedule = field(default=Linear(0.98, 0.25, 0.0, 1.0), metadata={"choices": SCHEDULES})
    weighting: Weighting = "sigma2"
    clip_x0: float | None = None  # largest |x0_hat|; 1 for pixel priors, None for latents
    clip_rms: float | None = None  # largest root mean square of one picture's gradient

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
        return pull(
            prior, latents, cond, t, noise, self.guidance_scale, self.weighting, self.clip_x0, self.clip_rms
        )  # fmt: skip

    def find_noise(self, prior: Prior, latents: Tensor, cond: Conditioning, t: Tensor, fresh: Tensor) -> Tensor:
        """kappa, of the shape of ``latents``: the inverted noise, mixed with ``fresh`` noise."""
        if self.inversion_steps == 0:
            return fresh
        steps = max(1, round(self.inversion_steps * float(t.max())))
        alpha, sigma = prior.schedule(t)
        inverted = invert(prior, latents, cond, t, steps, self.inversion_scale)
        kappa = (inverted - alpha * latents) / sigma.clamp_min(1e-4)
        return (1.0 - self.eta) ** 0.5 * kappa + self.eta**0.5 * fresh
