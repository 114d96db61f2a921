"""Variational score distillation (Wang et al. 2023, ProlificDreamer, https://arxiv.org/abs/2305.16213, eq. 9, algorithm 1).

    grad_x L_VSD = E_{t, eps} [ w(t) (eps_hat(x_t; y, t) - eps_phi(x_t; t, c, y)) ]

eps_phi predicts the noise of noised renders: it is the prior with a camera-conditioned LoRA, trained during the run on
min_phi E ||eps_phi(x_t; t, c, y) - eps||^2. SDS is the special case in which eps_phi is the exact score of a single render.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

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
from dreamlift.priors.lora.lora import CameraInput, Targets
from dreamlift.schedules import Schedule, Switch, value_at
from dreamlift.types import Conditioning, GuidanceOutput

# Factor of the LoRA's gradients: those of a mean over a large picture underflow in half precision. Adam's updates are invariant
# to it.
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
    """Defaults follow ProlificDreamer: CFG 7.5, t_max 0.98 and, after 20% of the run, 0.5; LoRA learning rate 1e-4."""

    differentiates_network: ClassVar[bool] = True
    adapts_prior: ClassVar[bool] = True

    guidance_scale: float = 7.5  # s in uncond + s (cond - uncond), at least 0, of the prior only; ProlificDreamer: 7.5
    t_min: float | Schedule = 0.02  # smallest diffusion time, in [0, t_max]; ProlificDreamer: 0.02
    # largest diffusion time, in [t_min, 1]; ProlificDreamer: 0.98, and 0.5 after 20% of the run
    t_max: float | Schedule = field(default=Switch(0.98, 0.5, 0.2))
    weighting: Weighting = "sigma2"  # w(t): sigma^2 (ProlificDreamer), 1, alpha sigma, or sigma / alpha (x0)
    rank: int = 4  # rank of the LoRA, at least 1
    targets: Targets = "attention"  # weights that the LoRA adapts
    # camera of the LoRA, for priors without a camera input: azimuth and elevation, or the camera's matrix (threestudio)
    camera_input: CameraInput = "angles"
    lora_lr: float = 1e-4  # learning rate of the LoRA, positive; ProlificDreamer: 1e-4
    lora_target: Literal["eps", "v"] = "eps"  # quantity in which the LoRA's error is measured: noise or velocity
    lora_t: Literal["all", "taught"] = "all"  # times of the LoRA's training: all in [0, 1] (ProlificDreamer), or t_min to t_max
    camera_dropout: float = 0.1  # probability of a LoRA training step without cameras, in [0, 1]
    clip_x0: float | None = None  # largest |x0_hat|, of the prior and of the LoRA; 1 for pixel priors, null for latents
    clip_rms: float | None = None  # largest root mean square of one picture's gradient; null: no limit

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max, self.guidance_scale)
        if self.rank < 1 or self.lora_lr <= 0:
            raise ValueError(f"rank is {self.rank} and lora_lr {self.lora_lr:g}; both must be positive")
        if not 0.0 <= self.camera_dropout <= 1.0:
            raise ValueError(f"camera_dropout is {self.camera_dropout:g}; accepted: 0 to 1")

    def init(self, prior: Prior, rng: torch.Generator) -> Variational:
        return Variational(prior.adapted(self.rank, self.targets, rng, self.camera_input), self.lora_lr)

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
        return replace(out, learning=learning, metrics={**out.metrics, "lora_loss": learning.detach()})

    def lora_loss(
        self, prior: Prior, latents: Tensor, cond: Conditioning, rng: torch.Generator, state: Variational,
        progress: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """The training loss () of eps_phi on the renders, with its own draws of t and noise."""
        low, high = (0.0, 1.0) if self.lora_t == "all" else (value_at(self.t_min, progress), value_at(self.t_max, progress))
        t = draw_t(prior, latents, low, high, progress, rng).clamp(1e-3, 1.0 - 1e-3)
        eps = draw_noise(latents, rng)
        alpha, sigma = prior.schedule(t)
        # One draw per step, so that a batch has either all of its cameras or none.
        told = float(torch.rand((), generator=rng)) >= self.camera_dropout
        seen = cond if told else replace(cond, cameras=None)
        error = state.predict_noise(alpha * latents + sigma * eps, t, seen) - eps
        if self.lora_target == "v":  # v = (eps - sigma x_t) / alpha, so the error in v is the error in eps over alpha
            error = error / alpha.clamp_min(1e-2)
        return error.square().mean()
