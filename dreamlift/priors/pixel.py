"""Diffusion models on pixels: DeepFloyd IF's first stage, and the embedded ``toybox`` prior of the same architecture.

IF: https://github.com/deep-floyd/IF. Pictures are resized to the model's own resolution and mapped to [-1, 1]. A network
with 3 k^2 channels receives pictures packed by k (pixel unshuffle, Shi et al. 2016, https://arxiv.org/abs/1609.05158):
each k x k block of pixels becomes one pixel with k^2 times the channels. This is lossless and divides the cost by k^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.priors.base import Prior
from dreamlift.priors.choice import NO_OPTIONS, PriorChoice
from dreamlift.priors.engine import Engine, UsedEngine
from dreamlift.priors.network import DenoisingNetwork, NetworkPrior
from dreamlift.priors.parts import Parts
from dreamlift.priors.saving import Memory
from dreamlift.priors.text import encode_prompts
from dreamlift.prompts import Backdrop, Embeds, Wording, embed_prompt
from dreamlift.types import Task, TextStates


class WordsPrior(Prior):
    """A prior that is loaded from parts with text encoders."""

    parts: Parts
    choice: PriorChoice

    @classmethod
    def check_task(cls, parts: Parts | None, show: str, wording: Wording, has_photos: bool) -> None:
        maps = None if parts is None else parts.maps
        if maps and show not in maps:
            drawn = " and ".join(f"{each}s" for each in maps)
            raise ValueError(
                f"show is {show}, but this prior draws {drawn} only: set show to {' or '.join(maps)} there, "
                "or use another prior"
            )
        if maps == {} and show == "place":
            raise ValueError(
                "show is place, but this prior draws colors: use the prior toybox-geometry, set show to color, or choose a "
                "preset without places, such as magic3d-toy"
            )

    @classmethod
    def load(cls, parts: Parts, choice: PriorChoice, device: torch.device) -> WordsPrior:
        return cls(parts, device, cls.text_precision(parts, device), choice)  # pyright: ignore[reportCallIssue]

    @classmethod
    def read(
        cls, parts: Parts, choice: PriorChoice, task: Task, wording: Wording, backdrops: Sequence[Backdrop],
        device: torch.device, engine: UsedEngine = "torch",
    ) -> Embeds:  # fmt: skip
        dtype = cls.text_precision(parts, device)

        def encode(prompts: list[str]) -> TextStates:
            return encode_prompts(parts, prompts, device, dtype, choice.loras, choice.embeddings, engine)

        return embed_prompt(task.prompt, task.negative, wording, encode, backdrops)

    def embed_text(self, prompts: list[str]) -> TextStates:
        dtype = self.text_precision(self.parts, self.device)
        return encode_prompts(self.parts, prompts, self.device, dtype, self.choice.loras, self.choice.embeddings)


class PixelSpace:
    """Pictures of a pixel model as its network takes them.

    Raises:
        ValueError: the network's number of channels is not that of a pixel model.
    """

    def __init__(self, network: DenoisingNetwork) -> None:
        self.packing = math.isqrt(network.channels // 3)
        if network.channels != 3 * self.packing**2:
            raise ValueError(f"the unet of {network.parts} has {network.channels} channels; a pixel prior has 3, 12, 27 or 48")
        self.resolution = network.sample_size * self.packing

    def encode(self, rgb: Tensor) -> Tensor:
        """``(B, H, W, 3)`` in [0, 1] to ``(B, 3 k^2, S / k, S / k)`` in [-1, 1]."""
        return functional.pixel_unshuffle(resize(rgb.permute(0, 3, 1, 2), self.resolution) * 2 - 1, self.packing)

    def decode(self, latents: Tensor) -> Tensor:
        """``(B, 3 k^2, S / k, S / k)`` to ``(B, S, S, 3)`` in [0, 1]."""
        return (functional.pixel_shuffle(latents, self.packing).permute(0, 2, 3, 1) * 0.5 + 0.5).clamp(0, 1)


class PixelPrior(NetworkPrior, WordsPrior):
    """A diffusion model on pixels (``unet``, ``text_encoder``, ``tokenizer``, ``scheduler``)."""

    takes_onnx, latent_bound = True, 1.0

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype, choice: PriorChoice = NO_OPTIONS) -> None:
        self.check(parts, choice)
        self.parts, self.device, self.choice = parts, device, choice
        self.network = DenoisingNetwork(parts, device, dtype, choice.camera_conditioning, choice.loras)
        self.space = PixelSpace(self.network)
        self.resolution = self.space.resolution

    @classmethod
    def accepts(cls, parts: Parts) -> bool:
        return parts.has("unet") and not parts.has("vae")

    @classmethod
    def check(cls, parts: Parts, choice: PriorChoice) -> None:
        if choice.linear_encoder:
            raise ValueError("this prior is a pixel model without an encoder; leave linear_encoder off")

    def encode(self, rgb: Tensor) -> Tensor:
        return self.space.encode(rgb)

    def decode(self, latents: Tensor) -> Tensor:
        return self.space.decode(latents)

    def save_memory(self, memory: Memory) -> None:
        self.network.save_memory(memory)

    def use_engine(self, engine: Engine) -> None:
        self.engine = self.network.use_engine(engine)


def resize(pictures: Tensor, size: int) -> Tensor:
    """``(B, C, H, W)`` to ``(B, C, size, size)``, bilinear with antialiasing; unchanged if the size is already right."""
    if pictures.shape[-2:] == (size, size):
        return pictures
    return functional.interpolate(pictures, (size, size), mode="bilinear", align_corners=False, antialias=True)
