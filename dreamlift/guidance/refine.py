"""DreamGaussian's texture refinement (Tang et al. 2023, section 3.3, equations 4 and 5, https://arxiv.org/abs/2309.16653).

    I_refined = f(I + eps(t_start); t_start, y),    L = ||I_refined - I||^2

f is the prior's full deterministic sampler (DDIM, Song et al. 2021, https://arxiv.org/abs/2010.02502), started from the noised
render at a low noise level, so that only details are resampled; its result is detached. A distillation loss averages over many
noise samples and leaves textures soft or with artefacts, whereas a sampled picture is sharp. Views are refined independently
and may be inconsistent, so use it for few steps, at low noise, on a finished shape. The pictures are compared, not their
latents, except where the loss is called on latents alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, check_range, draw_noise, draw_t, output
from dreamlift.guidance.inversion import ddim_steps
from dreamlift.priors.base import Prior
from dreamlift.priors.pixel import resize
from dreamlift.schedules import Linear, Schedule
from dreamlift.types import Conditioning, GuidanceOutput

FALL = Linear(0.2, 0.05, 0.0, 1.0)
"""t_start over progress in DreamGaussian, whose strength 1 - t_start rises from 0.8 to 0.95."""


@dataclass(frozen=True)
class Refine(Guidance):
    """Defaults follow DreamGaussian: t_start falls from 0.2 to 0.05; 50 sampler steps from pure noise."""

    guidance_scale: float = 100.0  # s in uncond + s (cond - uncond), at least 0; DreamGaussian: 100
    t_min: float | Schedule = FALL  # smallest t_start, in [0, t_max]; DreamGaussian: 0.2 falling to 0.05
    t_max: float | Schedule = FALL  # largest t_start, in [t_min, 1]; DreamGaussian: equal to t_min
    # sampler steps from pure noise, at least 1; from t_start, the last steps t_start of them, rounded up; DreamGaussian: 50
    steps: int = 50
    clip_x0: float | None = None  # largest |x0|; 1 for pixel priors, null for latents

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
        out = output(latents, latents.detach() - refined, refined, t)
        if cond.shown is None:
            return out
        with torch.no_grad():
            wanted = prior.decode(refined).movedim(-1, 1)
        shown = resize(cond.shown.movedim(-1, 1), wanted.shape[-1])
        return replace(out, loss=0.5 * (shown - wanted).square().sum() / len(shown))

    def sample(self, prior: Prior, x_t: Tensor, cond: Conditioning, t: Tensor) -> Tensor:
        """The clean latents ``(B, C, h, w)`` that the sampler returns for ``x_t`` at times ``t (B,)``."""
        count = max(1, math.ceil(self.steps * float(t.max()) - 1e-6))
        x_0 = ddim_steps(prior, x_t, cond, [t * (left / count) for left in range(count, -1, -1)], self.guidance_scale)
        return x_0 if self.clip_x0 is None else x_0.clamp(-self.clip_x0, self.clip_x0)
