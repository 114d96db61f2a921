"""Interval score matching (Liang et al. 2023, LucidDreamer, https://arxiv.org/abs/2311.11284, eq. 17).

    grad_x L_ISM = E_t [ w(t) (eps_hat(x_t; y, t) - eps_hat(x_s; s)) ],   s = t - delta

x_s is the DDIM inversion of x with the empty prompt, and x_t is one further inversion step. The noise is therefore a function
of the render instead of a random draw. The inversion's times are the multiples of ``stride`` below s, and s itself, as in
the authors' code; it starts at t = 0.02 without noise, theirs at t = 0 with the noise of the first training timestep (sigma
0.03 in Stable Diffusion). With ``stride`` 0, x_s is alpha_s x + sigma_s eps with random eps, as in SDS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamlift.guidance.base import (
    Guidance,
    Weighting,
    check_range,
    denoise,
    draw_noise,
    draw_t,
    limit_norm,
    output,
    weight_of,
    without_negative,
)
from dreamlift.guidance.inversion import LOWEST, ddim_step, ddim_steps
from dreamlift.priors.base import Prior
from dreamlift.schedules import Linear, Schedule, value_at
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class ISM(Guidance):
    """Defaults follow LucidDreamer: in the first 30% of the run t_max falls from 0.98 to 0.5 and delta from 0.1 to 0.08;
    inversion strides of 0.2; w(t) = sigma / alpha, as in its code."""

    guidance_scale: float = 7.5  # s in uncond + s (cond - uncond), at least 0; LucidDreamer: 7.5
    delta: float | Schedule = field(default=Linear(0.1, 0.08, 0.0, 0.3))  # t - s, in [0, 1]; LucidDreamer: 0.1 falling to 0.08
    stride: float = 0.2  # step size in t of the inversion to s, at least 0; 0: no inversion; LucidDreamer: 0.2
    t_min: float | Schedule = 0.02  # smallest diffusion time, in [0, t_max]; LucidDreamer: 0.02
    # largest diffusion time, in [t_min, 1]; LucidDreamer: 0.98 falling to 0.5
    t_max: float | Schedule = field(default=Linear(0.98, 0.5, 0.0, 0.3))
    weighting: Weighting = "x0"  # w(t): sigma^2, 1, alpha sigma, or sigma / alpha (x0); LucidDreamer's code: x0
    clip_rms: float | None = None  # largest root mean square of one picture's gradient; null: no limit

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)
        if self.stride < 0.0:
            raise ValueError(f"stride is {self.stride:g}; it must not be negative")

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t = draw_t(prior, latents, self.t_min, self.t_max, progress, rng)
        s = (t - value_at(self.delta, progress)).clamp_min(LOWEST).minimum(t)
        fresh = draw_noise(latents, rng)
        alpha, sigma = prior.schedule(t)
        with torch.no_grad():
            plain = without_negative(cond)
            x_s = self.noised(prior, latents, plain, s, fresh)
            x_t, eps_s = ddim_step(prior, x_s, plain, s, t, 0.0)
            eps_hat, x0 = denoise(prior, x_t, cond, t, self.guidance_scale)
            gradient = limit_norm(weight_of(self.weighting, alpha, sigma) * (eps_hat - eps_s), self.clip_rms)
        return output(latents, gradient, x0, t)

    def noised(self, prior: Prior, latents: Tensor, cond: Conditioning, s: Tensor, fresh: Tensor) -> Tensor:
        """x_s ``(B, C, h, w)`` of ``latents (B, C, h, w)`` at times ``s (B,)``; ``fresh`` is used without inversion only."""
        if self.stride == 0.0:
            alpha, sigma = prior.schedule(s)
            return alpha * latents + sigma * fresh
        times = [torch.full_like(s, LOWEST).minimum(s)]
        for step in range(1, math.ceil(float(s.max()) / self.stride - 1e-6) + 1):
            times.append(torch.full_like(s, step * self.stride).minimum(s).maximum(times[-1]))
        return ddim_steps(prior, latents, cond, times, 0.0)
