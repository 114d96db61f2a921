"""Rectified-flow priors (Liu et al. 2022, https://arxiv.org/abs/2209.03003): Stable Diffusion 3 and FLUX.1.

    x_t = (1 - t) x + t eps,   the network predicts v = eps - x,   so eps_hat = x_t + (1 - t) v_hat

The conversion to eps is done here, so that every distillation loss supports these models. t is the noise level sigma itself:
the time shift in the scheduler's config distributes a sampler's steps and does not affect the network.

FLUX.1 [dev] is guidance-distilled: it is conditioned on a guidance scale and predicts the guided result in one call. Here the
scale is always 1, which gives the plain prediction; guidance combines two predictions as for every other prior, so that
negative prompts, Perp-Neg and unguided losses keep their meaning. This is the stock pipeline's
``guidance_scale=1, true_cfg_scale=s``. FLUX.1 [schnell] receives no scale; it is distilled to few sampling steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.priors.base import Adapted, combine, stack_text
from dreamlift.priors.choice import NO_OPTIONS, PriorChoice
from dreamlift.priors.latent import AutoencodedPrior, Autoencoder
from dreamlift.priors.lora.lora import CameraInput, Targets
from dreamlift.priors.network import frozen
from dreamlift.priors.parts import Parts
from dreamlift.priors.saving import Memory, in_turn, save_memory
from dreamlift.types import Conditioning

HORIZON = 1000  # the network's time input is t * HORIZON (Stable Diffusion 3)
FLUX = "FluxTransformer2DModel"
FLUX_SIZE = 128  # latents a side in FLUX's stock pipeline; the network's config states none


class FlowPrior(AutoencodedPrior):
    """A model with a transformer of :data:`VELOCITIES` (``vae``, ``transformer``, text encoders and tokenizers)."""

    adapts = False

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype, choice: PriorChoice = NO_OPTIONS) -> None:
        import diffusers

        name = parts.architecture("transformer")
        if name not in VELOCITIES:
            raise ValueError(f"the transformer of {parts} is {name!r}; accepted: {', '.join(VELOCITIES)}")
        self.velocity = VELOCITIES[name]
        self.parts, self.device, self.choice = parts, device, choice
        self.dtype = _precision(parts, dtype)
        kind = getattr(diffusers, name)
        self.transformer: Any = frozen(parts, "transformer", kind, self.dtype, choice.loras).to(device)
        size = self.transformer.config.get("sample_size", FLUX_SIZE)
        self.autoencoder = Autoencoder(parts, device, dtype, size, choice.linear_encoder)
        self.resolution, self.micro_batch = self.autoencoder.resolution, 0

    @classmethod
    def check_memory(cls, memory: Memory) -> None:
        if memory.attention_slices:
            raise ValueError("this prior's attention cannot be sliced; leave memory.attention_slices off")

    @classmethod
    def accepts(cls, parts: Parts) -> bool:
        return parts.has("transformer")

    @classmethod
    def text_precision(cls, parts: Parts, device: torch.device) -> torch.dtype:
        return _precision(parts, super().text_precision(parts, device))

    @classmethod
    def load(cls, parts: Parts, choice: PriorChoice, device: torch.device) -> FlowPrior:
        return cls(parts, device, super().text_precision(parts, device), choice)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha = 1 - t, sigma = t, both ``(B, 1, 1, 1)``."""
        t = t.to(self.device).view(-1, 1, 1, 1)
        return 1.0 - t, t

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning, guidance_scale: float) -> Tensor:
        text = stack_text(cond, guidance_scale)
        copies = text.states.shape[0] // x_t.shape[0]
        many, times = x_t.repeat(copies, 1, 1, 1), t.to(self.device).repeat(copies)

        def ask(x: Tensor, at: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
            states, pooled = (value.to(self.device, self.dtype) for value in (states, pooled))
            return self.velocity(self.transformer, x, at, states, pooled).float()

        velocity = in_turn(ask, (many.to(self.dtype), times, *text), self.micro_batch or None)
        return combine(many + (1.0 - times.view(-1, 1, 1, 1)) * velocity, cond, guidance_scale)

    def adapted(self, rank: int, targets: Targets, rng: torch.Generator, camera_input: CameraInput = "angles") -> Adapted:
        raise ValueError("VSD's LoRA supports U-Nets only; with this prior use another loss, such as --guidance.type rfds")

    def save_memory(self, memory: Memory) -> None:
        self.check_memory(memory)
        self.micro_batch = memory.micro_batch
        save_memory(self.transformer, memory)
        save_memory(self.autoencoder.vae, memory)


def _precision(parts: Parts, dtype: torch.dtype) -> torch.dtype:
    """The precision of the network and text encoders if other models run in ``dtype``: FLUX uses bfloat16 for float16."""
    half = dtype == torch.float16 and parts.architecture("transformer") == FLUX
    return torch.bfloat16 if half else dtype  # FLUX was trained in bfloat16; its activations overflow in float16


def _of_sd3(transformer: Any, x_t: Tensor, t: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
    return transformer(
        x_t, encoder_hidden_states=states, pooled_projections=pooled, timestep=(t * HORIZON).to(x_t.dtype)
    ).sample


def _of_flux(transformer: Any, x_t: Tensor, t: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
    """v_hat from a sequence of 2 x 2 patches with their rows and columns as positions; all text positions are 0."""
    packed = functional.pixel_unshuffle(x_t, 2)
    rows, columns = packed.shape[-2:]
    places = torch.zeros(rows, columns, 3, device=x_t.device)
    places[..., 1], places[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    told = torch.ones_like(t) if transformer.config.guidance_embeds else None
    out = transformer(
        packed.flatten(2).transpose(1, 2), encoder_hidden_states=states, pooled_projections=pooled, timestep=t,
        img_ids=places.flatten(0, 1), txt_ids=places.new_zeros(states.shape[1], 3), guidance=told,
    ).sample  # fmt: skip
    return functional.pixel_shuffle(out.transpose(1, 2).unflatten(2, (rows, columns)), 2)


VELOCITIES = {"SD3Transformer2DModel": _of_sd3, FLUX: _of_flux}
"""Class of transformer -> v_hat ``(B, C, h, w)`` from ``x_t``, ``t (B,)`` in [0, 1], text states and pooled ones."""
