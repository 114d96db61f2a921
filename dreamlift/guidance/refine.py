"""DreamGaussian's texture refinement (Tang et al. 2023, section 3.3, equations 4 and 5, https://arxiv.org/abs/2309.16653).

    I_refined = f(I + eps(t_start); t_start, y),    L = ||I_refined - I||^2

f is the prior's whole deterministic sampler (DDIM, Song et al. 2021, https://arxiv.org/abs/2010.02502), started from the render
with so much noise that only its details are drawn anew; what comes out is a constant to the gradient. A distillation loss
averages over many noises and leaves a texture soft or full of artefacts; a sampled picture is sharp. Views are refined one by
one and need not agree, so few steps at low noise on a finished shape is where this belongs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, check_range, draw_noise, draw_t, output
from dreamlift.guidance.inversion import ddim_step
from dreamlift.priors.base import Prior
from dreamlift.schedules import SCHEDULES, Linear, Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class Refine(Guidance):
    """Defaults are the authors': t_start falls from 0.2 to 0.05 (their strength rises from 0.8 to 0.95), 50 steps for all t."""

    guidance_scale: float = 100.0  # uncond + s (cond - uncond)
    t_min: float | Schedule = field(default=Linear(0.2, 0.05, 0.0, 1.0), metadata={"choices": SCHEDULES})  # t_start's bounds
    t_max: float | Schedule = field(default=Linear(0.2, 0.05, 0.0, 1.0), metadata={"choices": SCHEDULES})
    steps: int = 50  # of a sampler that began at pure noise; from t_start it takes its share of them, at least one
    clip_x0: float | None = None  # largest |x0|; 1 for pixel priors, None for latents

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t = draw_t(prior, latents, self.t_min, self.t_max, progress, rng)
        alpha, sigma = prior.schedule(t)
        with torch.no_grad():
            refined = self.sample(prior, alpha * latents + sigma * draw_noise(latents, rng), cond, t)
        return output(latents, latents.detach() - refined, refined, t)

    def sample(self, prior: Prior, x_t: Tensor, cond: Conditioning, t: Tensor) -> Tensor:
        """The picture ``(B, C, h, w)`` that the sampler makes of ``x_t`` at times ``t (B,)``."""
        count = max(1, round(self.steps * float(t.max())))
        for number in range(count, 0, -1):
            x_t = ddim_step(prior, x_t, cond, t * (number / count), t * ((number - 1) / count), self.guidance_scale)[0]
        return x_t if self.clip_x0 is None else x_t.clamp(-self.clip_x0, self.clip_x0)
