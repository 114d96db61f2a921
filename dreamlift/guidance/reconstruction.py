"""MVDream's x0-reconstruction loss with rescaled guidance (Shi et al. 2023, https://arxiv.org/abs/2308.16512).

    L = E_{t, eps} [ ||x - x0_hat||^2 ],   x0_hat = phi x0_s std(x0_1) / std(x0_s) + (1 - phi) x0_s

x0_s is the estimate at guidance scale s and x0_1 the unguided one. A large scale widens the estimate's range, which turns into
saturated colours; the rescaling (Lin et al. 2023, https://arxiv.org/abs/2305.08891, eq. 15) takes that back. The standard
deviations are over all views of an object together, so that their brightness stays consistent: over those that the prior
looks at together, or over the batch if it looks at one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamlift.guidance.base import Guidance, add_noise, check_range, estimate, limit_norm, output
from dreamlift.priors.base import Prior, guide
from dreamlift.schedules import SCHEDULES, Linear, Schedule
from dreamlift.types import Conditioning, GuidanceOutput


@dataclass(frozen=True)
class Reconstruction(Guidance):
    """Defaults are MVDream's: s = 50, phi = 0.5, t falls to U(0.02, 0.5) over four fifths of the run."""

    guidance_scale: float = 50.0  # s of uncond + s (cond - uncond)
    rescale: float = 0.5  # phi, in [0, 1]; 0 is plain guidance
    t_min: float | Schedule = field(default=Linear(0.98, 0.02, 0.0, 0.8), metadata={"choices": SCHEDULES})
    t_max: float | Schedule = field(default=Linear(0.98, 0.5, 0.0, 0.8), metadata={"choices": SCHEDULES})
    clip_rms: float | None = None  # largest root mean square of one picture's gradient

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"rescale is {self.rescale:g}; accepted: 0 to 1")

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: None
    ) -> GuidanceOutput:
        t, _, _, _, x_t = add_noise(prior, latents, self.t_min, self.t_max, progress, rng)
        with torch.no_grad():
            guided, plain = (estimate(prior, x_t, eps, t)[1] for eps in both(prior, x_t, cond, t, self.guidance_scale))
            together = prior.views if prior.views > 1 else len(latents)
            ratio = spread(plain, together) / spread(guided, together).clamp_min(1e-6)
            x0 = guided * (1.0 + self.rescale * (ratio - 1.0))
            gradient = limit_norm(latents - x0, self.clip_rms)
        return output(latents, gradient, x0, t)


def both(prior: Prior, x_t: Tensor, cond: Conditioning, t: Tensor, guidance_scale: float) -> tuple[Tensor, Tensor]:
    """eps_hat of ``x_t (B, C, h, w)``, guided and by the prompt alone, without asking anything twice."""
    plain = prior.predict_noise(x_t, t, cond, 1.0)
    if cond.perp_embeds is not None:
        return prior.predict_noise(x_t, t, cond, guidance_scale), plain
    return guide(prior.predict_noise(x_t, t, cond, 0.0), plain, guidance_scale), plain


def spread(x0: Tensor, together: int) -> Tensor:
    """Standard deviations ``(B, 1, 1, 1)`` of ``x0 (B, C, h, w)``, over each ``together`` neighbours of the batch."""
    return x0.unflatten(0, (-1, together)).flatten(1).std(1).repeat_interleave(together).view(-1, 1, 1, 1)
