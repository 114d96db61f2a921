"""Rectified-flow priors (Liu et al. 2022, https://arxiv.org/abs/2209.03003): Stable Diffusion 3.

    x_t = (1 - t) x + t eps,   v = eps - x   is what the network predicts;   so eps_hat = x_t + (1 - t) v_hat

Turned into eps here, once, so that every distillation loss runs on them. t is taken as the noise share itself: the shift of
times in the scheduler's settings says where a sampler spends its steps, and nothing about the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlift.personalize.additions import NOTHING, Additions
from dreamlift.personalize.lora import Targets
from dreamlift.priors.base import Adapted, Prior, combine, stack_text
from dreamlift.priors.latent import Autoencoder
from dreamlift.priors.network import load_part
from dreamlift.priors.text import encode_prompts, unpack
from dreamlift.types import Conditioning

HORIZON = 1000  # the network's own time runs from 0 to this


class FlowPrior(Prior):
    """A diffusers folder with an ``SD3Transformer2DModel`` (``vae``, ``transformer``, text encoders and tokenizers)."""

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype, see_cameras: bool = True, additions: Additions = NOTHING
    ) -> None:
        from diffusers import SD3Transformer2DModel

        self.folder, self.device, self.dtype, self.additions = folder, device, dtype, additions
        network = load_part(SD3Transformer2DModel, folder / "transformer", dtype, additions.loras)
        self.transformer: Any = network.to(device).eval().requires_grad_(False)
        self.autoencoder = Autoencoder(folder, device, dtype, self.transformer.config.sample_size)
        self.resolution = self.autoencoder.resolution

    def encode(self, rgb: Tensor) -> Tensor:
        return self.autoencoder.encode(rgb)

    def decode(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)

    def embed_text(self, prompts: list[str]) -> Tensor:
        return encode_prompts(self.folder, prompts, self.device, self.dtype, self.additions)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha = 1 - t, sigma = t, both ``(B, 1, 1, 1)``."""
        t = t.to(self.device).view(-1, 1, 1, 1)
        return 1.0 - t, t

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning, guidance_scale: float) -> Tensor:
        text = stack_text(cond, guidance_scale).to(self.device, self.dtype)
        copies = text.shape[0] // x_t.shape[0]
        states, pooled = unpack(text, self.transformer.config.pooled_projection_dim)
        many, times = x_t.repeat(copies, 1, 1, 1), t.to(self.device).repeat(copies)
        velocity = self.transformer(
            many.to(self.dtype), encoder_hidden_states=states, pooled_projections=pooled,
            timestep=(times * HORIZON).to(self.dtype),
        ).sample.float()  # fmt: skip
        return combine(many + (1.0 - times.view(-1, 1, 1, 1)) * velocity, cond, guidance_scale)

    def adapted(self, rank: int, targets: Targets, rng: torch.Generator) -> Adapted:
        raise ValueError("VSD's LoRA is made for U-Nets; with this prior use another loss, such as --guidance.type rfds")
