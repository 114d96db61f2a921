"""The exact score of a finite set of posed pictures: a prior without training.

The density of pictures from a camera is p(x | camera) = sum_i w_i(camera) delta(x - x_i), with w_i a kernel over the angle
between the cameras. The noised score is a softmax over the pictures (Scarvelis et al. 2023, "Closed-form diffusion
models", https://arxiv.org/abs/2310.12395, eq. 3): x0_hat = sum_i softmax_i(log w_i - ||x_t - alpha x_i||^2 / 2 sigma^2) x_i.
It tests the 3D correctness of the whole pipeline without a network: a known object must be reconstructed from scores alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlift.cameras import spherical_to_cartesian
from dreamlift.priors.base import Adapted, Prior, cosine_schedule
from dreamlift.priors.lora.lora import CameraInput, Targets
from dreamlift.priors.saving import Memory
from dreamlift.types import Cameras, Conditioning, TextStates


class EmpiricalPrior(Prior):
    """Pictures ``(N, H, W, 3)`` in [0, 1] taken by N ``cameras``.

    Args:
        bandwidth: radians; the kernel is exp(-angle^2 / 2 bandwidth^2). Infinity: the cameras have no effect.
    """

    adapts = False

    def __init__(self, pictures: Tensor, cameras: Cameras, bandwidth: float = 0.05) -> None:
        if pictures.shape[0] != len(cameras):
            raise ValueError(f"{pictures.shape[0]} pictures but {len(cameras)} cameras")
        self.resolution, self.device = pictures.shape[1], pictures.device
        self.pictures = self.encode(pictures)
        self.directions = _directions(cameras).to(pictures.device)
        self.bandwidth = bandwidth

    def encode(self, rgb: Tensor) -> Tensor:
        return rgb.permute(0, 3, 1, 2) * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents.permute(0, 2, 3, 1) * 0.5 + 0.5).clamp(0, 1)

    def embed_text(self, prompts: list[str]) -> TextStates:
        return TextStates(self.pictures.new_zeros(len(prompts), 1, 1))

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return cosine_schedule(t)

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning, guidance_scale: float = 1.0) -> Tensor:
        """The exact eps_hat given ``cond.cameras``; without cameras, or at scale 0, that of the set without cameras.

        Other scales have no effect.
        """
        alpha, sigma = self.schedule(t)
        flat = self.pictures.flatten(1)
        distance = (x_t.flatten(1).unsqueeze(1) - alpha.view(-1, 1, 1) * flat).square().sum(-1)  # (B, N)
        log_p = -0.5 * distance / sigma.view(-1, 1).square().clamp_min(1e-8)
        if cond.cameras is not None and guidance_scale != 0.0:
            cosine = _directions(cond.cameras).to(flat.device) @ self.directions.T
            log_p = log_p - 0.5 * (cosine.clamp(-1, 1).acos() / self.bandwidth).square()
        x0 = (log_p.softmax(dim=1) @ flat).view_as(x_t)
        return (x_t - alpha * x0) / sigma.clamp_min(1e-8)

    def save_memory(self, memory: Memory) -> None:
        """No effect: there is no network."""

    def adapted(self, rank: int, targets: Targets, rng: torch.Generator, camera_input: CameraInput = "angles") -> Adapted:
        raise ValueError("an exact prior has no network to adapt; VSD requires a prior with weights, such as --prior toybox")


def _directions(cameras: Cameras) -> Tensor:
    """Unit vectors ``(B, 3)`` from the object to the cameras."""
    return spherical_to_cartesian(cameras.azimuth, cameras.elevation, torch.ones_like(cameras.azimuth))
