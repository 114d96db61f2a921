"""Variational score distillation (Wang et al. 2023, ProlificDreamer, https://arxiv.org/abs/2305.16213, eq. 9, algorithm 1).

    grad_x L_VSD = E_{t, eps} [ w(t) (eps_hat(x_t; y, t) - eps_phi(x_t; t, c, y)) ]

eps_phi is the score of the renders themselves, noised: the prior with a LoRA that knows the camera c, trained as the scene
changes on min_phi E ||eps_phi(x_t; t, c, y) - eps||^2. SDS is VSD with the true score of a single point in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dreamlift.guidance.base import (
    Guidance,
    Weighting,
    add_noise,
    check_range,
    denoise,
    draw_noise,
    draw_t,
    estimate,
    limit_norm,
    output,
    weight_of,
)
from dreamlift.priors.base import Adapted, Prior
from dreamlift.priors.lora.lora import Targets
from dreamlift.schedules import SCHEDULES, Schedule, Switch, value_at
from dreamlift.types import Conditioning, GuidanceOutput

# Of the gradients of what is learnt: those of a mean over a large picture are too small for half precision. Adam, which divides
# gradients by their own size, does not see it.
GRADIENT_SCALE = 1024.0


class Variational(nn.Module):
    """eps_phi and its learning rate."""

    def __init__(self, network: Adapted, lr: float) -> None:
        super().__init__()
        self.network, self.lr = network, lr

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.network.parameters()), "lr": self.lr}]

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """eps_phi ``(B, C, h, w)``, differentiable in the LoRA."""
        return self.network.predict_noise(x_t, t, cond)


@dataclass(frozen=True)
class VSD(Guidance):
    """Defaults are ProlificDreamer's: CFG 7.5, t up to 0.98 and after a fifth of the run to 0.5, LoRA with 1e-4."""

    guidance_scale: float = 7.5  # uncond + s (cond - uncond), of the prior; the LoRA has none
    t_min: float | Schedule = field(default=0.02, metadata={"choices": SCHEDULES})  # fraction of the horizon
    t_max: float | Schedule = field(default=Switch(0.98, 0.5, 0.2), metadata={"choices": SCHEDULES})
    weighting: Weighting = "sigma2"
    rank: int = 4  # of the LoRA
    targets: Targets = "attention"  # which weights it adapts
    lora_lr: float = 1e-4
    lora_target: Literal["eps", "v"] = "eps"  # what the LoRA's error is measured in
    lora_t: Literal["all", "taught"] = "all"  # when it learns: at any t (the paper), or from t_min to t_max, where it is asked
    camera_dropout: float = 0.1  # share of the LoRA's pictures that come without a camera
    clip_x0: float | None = None  # largest |x0_hat|, of the prior and of the LoRA; 1 for pixel priors, None for latents
    clip_rms: float | None = None  # largest root mean square of one picture's gradient

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)
        if self.rank < 1 or self.lora_lr <= 0:
            raise ValueError(f"rank is {self.rank} and lora_lr {self.lora_lr:g}; both must be positive")
        if not 0.0 <= self.camera_dropout <= 1.0:
            raise ValueError(f"camera_dropout is {self.camera_dropout:g}; accepted: 0 to 1")

    def init(self, prior: Prior, rng: torch.Generator) -> Variational:
        return Variational(prior.adapted(self.rank, self.targets, rng), self.lora_lr)

    def __call__(
        self, prior: Prior, latents: Tensor, cond: Conditioning, progress: float, rng: torch.Generator, state: Variational
    ) -> GuidanceOutput:
        t, _, alpha, sigma, x_t = add_noise(prior, latents, self.t_min, self.t_max, progress, rng)
        with torch.no_grad():
            eps_hat, x0 = denoise(prior, x_t, cond, t, self.guidance_scale, self.clip_x0)
            eps_phi, _ = estimate(prior, x_t, state.predict_noise(x_t, t, cond), t, self.clip_x0)
            gradient = limit_norm(weight_of(self.weighting, alpha, sigma) * (eps_hat - eps_phi), self.clip_rms)
        learning = self.lora_loss(prior, latents.detach(), cond, rng, state, progress)
        if learning.requires_grad:
            learning.register_hook(lambda grad: grad * GRADIENT_SCALE)
        out = output(latents, gradient, x0, t)
        return replace(out, loss=out.loss + learning, metrics={**out.metrics, "lora_loss": learning.detach()})

    def lora_loss(
        self, prior: Prior, latents: Tensor, cond: Conditioning, rng: torch.Generator, state: Variational,
        progress: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """The loss () that eps_phi learns the renders' own score from, at times and noises of its own."""
        low, high = (0.0, 1.0) if self.lora_t == "all" else (value_at(self.t_min, progress), value_at(self.t_max, progress))
        t = draw_t(prior, latents, low, high, progress, rng).clamp(1e-3, 1.0 - 1e-3)
        eps = draw_noise(latents, rng)
        alpha, sigma = prior.schedule(t)
        # One draw a step, so that a picture's batch is told of all its cameras or of none.
        told = float(torch.rand((), generator=rng)) >= self.camera_dropout
        seen = Conditioning(cond.prompt_embeds, cond.negative_prompt_embeds, cameras=cond.cameras if told else None)
        error = state.predict_noise(alpha * latents + sigma * eps, t, seen) - eps
        if self.lora_target == "v":  # v = (eps - sigma x_t) / alpha, so its error is the noise's over alpha
            error = error / alpha.clamp_min(1e-2)
        return error.square().mean()
