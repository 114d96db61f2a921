"""A Gaussian mixture as a prior: its closed-form score is the reference of the tests.

For x ~ sum_k pi_k N(mu_k, s_k^2 I) and x_t = alpha x + sigma eps, the marginal of x_t is a mixture of
N(alpha mu_k, (alpha^2 s_k^2 + sigma^2) I), and the exact noise prediction is eps_hat = -sigma grad log p_t(x_t). With
one component, E_eps[eps_hat - eps] = alpha sigma (x - mu) / (alpha^2 s^2 + sigma^2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlift.priors.base import Adapted, Prior, cosine_schedule
from dreamlift.priors.lora.lora import CameraInput, Targets
from dreamlift.priors.saving import Memory
from dreamlift.types import Conditioning, TextStates


class GaussianPrior(Prior):
    """The exact score of an isotropic Gaussian mixture over latents ``(C, h, w)``.

    Args:
        means: ``(K, C, h, w)``.
        stds: ``(K,)``, > 0.
        weights: ``(K,)``, or None for equal ones.
    """

    adapts = False

    def __init__(self, means: Tensor, stds: Tensor, weights: Tensor | None = None) -> None:
        if means.ndim != 4 or stds.shape != means.shape[:1]:
            raise ValueError(f"means must be (K, C, h, w) and stds (K,), got {tuple(means.shape)}, {tuple(stds.shape)}")
        self.means, self.stds = means, stds
        self.log_weights = (torch.ones_like(stds) if weights is None else weights).log()
        self.resolution, self.device = means.shape[-1], means.device

    def encode(self, rgb: Tensor) -> Tensor:
        return rgb.permute(0, 3, 1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.permute(0, 2, 3, 1).clamp(0, 1)

    def embed_text(self, prompts: list[str]) -> TextStates:
        return TextStates(self.means.new_zeros(len(prompts), 1, 1))

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return cosine_schedule(t)

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning, guidance_scale: float = 1.0) -> Tensor:
        """The exact eps_hat; the density does not depend on text, so guidance has no effect."""
        alpha, sigma = self.schedule(t)
        variance = alpha.square() * self.stds.square().view(1, -1, 1, 1) + sigma.square()  # (B, K, 1, 1)
        offset = x_t.unsqueeze(1) - alpha.unsqueeze(1) * self.means  # (B, K, C, h, w)
        size = offset[0, 0].numel()
        distance = offset.square().sum((-3, -2, -1))  # (B, K)
        spread = variance.flatten(1)
        log_p = self.log_weights - 0.5 * distance / spread - 0.5 * size * spread.log()
        share = log_p.softmax(dim=1)[..., None, None, None]  # responsibility of each component
        return sigma * (share * offset / variance.unsqueeze(-1)).sum(1)

    def save_memory(self, memory: Memory) -> None:
        """No effect: there is no network."""

    def adapted(self, rank: int, targets: Targets, rng: torch.Generator, camera_input: CameraInput = "angles") -> Adapted:
        raise ValueError("an exact prior has no network to adapt; VSD requires a prior with weights, such as --prior toybox")
