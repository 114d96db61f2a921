"""Latent diffusion (Rombach et al. 2022, https://arxiv.org/abs/2112.10752): Stable Diffusion 1.x, 2.x and XL.

The render is encoded by the VAE with gradients, as in stable-dreamfusion and threestudio: latents are
``scaling_factor * (mean of the encoder's posterior - shift_factor)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dreamlift.priors.choice import NO_OPTIONS, PriorChoice
from dreamlift.priors.engine import Engine
from dreamlift.priors.network import DenoisingNetwork, NetworkPrior, frozen
from dreamlift.priors.parts import Parts, named
from dreamlift.priors.pixel import WordsPrior, resize
from dreamlift.priors.saving import Memory, save_memory


class Autoencoder:
    """The frozen ``vae`` of a model, for latents of ``size x size``; with ``linear`` a linear map replaces its encoder."""

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype, size: int, linear: bool = False) -> None:
        from diffusers import AutoencoderKL

        config: Any = parts.config("vae")
        # Stable Diffusion XL's overflows in half precision and sets force_upcast; those of 1.x and 2.x do not overflow.
        if dtype == torch.float16 and config.get("force_upcast", False):
            dtype = torch.float32
        self.vae: Any = frozen(parts, "vae", AutoencoderKL, dtype).to(device)
        self.dtype, config = dtype, self.vae.config
        with named(f"the config.json of the vae of {parts} has no usable scaling_factor or shift_factor"):
            self.scale, self.shift = float(config.scaling_factor), float(config.shift_factor or 0.0)
        self.size, self.resolution = size, size * 2 ** (len(config.block_out_channels) - 1)
        self.colors: Tensor | None = None  # (4, C) linear map of RGB and 1 that replaces the encoder
        if linear:
            self.use_linear_map()

    def encode(self, rgb: Tensor) -> Tensor:
        """``(B, H, W, 3)`` in [0, 1] to ``(B, C, S/8, S/8)``: the posterior's mean, shifted and scaled."""
        pictures = rgb.permute(0, 3, 1, 2)
        if self.colors is not None:
            small = resize(pictures, self.size)
            return torch.einsum("bihw,ic->bchw", torch.cat([small, torch.ones_like(small[:, :1])], dim=1), self.colors)
        return self._encoded(resize(pictures, self.resolution))

    def _encoded(self, pictures: Tensor) -> Tensor:
        return (self.mode(pictures) - self.shift) * self.scale

    def mode(self, pictures: Tensor) -> Tensor:
        """The posterior's mean (and mode) ``(B, C, S/8, S/8)``, not scaled, of ``pictures (B, 3, S, S)`` in [0, 1]."""
        return self.vae.encode((pictures * 2 - 1).to(self.dtype)).latent_dist.mean.float()

    @torch.no_grad()
    def use_linear_map(self) -> None:
        """Replace the encoder by a linear map of each pixel's color, the least-squares fit on pictures of constant color.

        Latents are approximately linear in the color (Metzer et al. 2022, "Latent-NeRF", https://arxiv.org/abs/2211.07600,
        who map rendered latents to colors linearly). The map's cost is negligible and it ignores texture.
        """
        levels = torch.linspace(0.0, 1.0, 4)
        colors = torch.cartesian_prod(levels, levels, levels).to(self.vae.device)
        sides = 8 * self.resolution // self.size  # 8 latents a side: the central ones do not depend on the border
        flat = colors[:, :, None, None].expand(-1, -1, sides, sides)
        latents = torch.cat([self._encoded(some)[:, :, 3:5, 3:5].mean((2, 3)) for some in flat.split(8)])
        system = torch.cat([colors, torch.ones_like(colors[:, :1])], dim=1)
        # Solved in double precision and then rounded: in single precision LAPACK's last bits depend on the arrays' alignment in
        # memory, so that a resumed run would continue with a different map.
        self.colors = torch.linalg.lstsq(system.cpu().double(), latents.cpu().double()).solution.to(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, C, h, w)`` to pictures ``(B, H, W, 3)`` in [0, 1]."""
        pictures = self.vae.decode((latents / self.scale + self.shift).to(self.dtype)).sample.float()
        return (pictures.permute(0, 2, 3, 1) * 0.5 + 0.5).clamp(0, 1)


class AutoencodedPrior(WordsPrior):
    """A prior on the latents of an autoencoder, with text encoders and tokenizers."""

    autoencoder: Autoencoder

    def encode(self, rgb: Tensor) -> Tensor:
        return self.autoencoder.encode(rgb)

    def decode(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)


class LatentPrior(NetworkPrior, AutoencodedPrior):
    """A latent diffusion model (``vae``, ``unet``, text encoders, tokenizers, ``scheduler``)."""

    takes_onnx = True

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype, choice: PriorChoice = NO_OPTIONS) -> None:
        self.parts, self.device, self.choice = parts, device, choice
        self.network = DenoisingNetwork(parts, device, dtype, choice.camera_conditioning, choice.loras)
        self.autoencoder = Autoencoder(parts, device, dtype, self.network.sample_size, choice.linear_encoder)
        self.resolution = self.network.picture_size = self.autoencoder.resolution

    @classmethod
    def accepts(cls, parts: Parts) -> bool:
        return parts.has("unet") and parts.has("vae")

    def save_memory(self, memory: Memory) -> None:
        self.network.save_memory(memory)
        save_memory(self.autoencoder.vae, memory)

    def use_engine(self, engine: Engine) -> None:
        self.engine = self.network.use_engine(engine)
