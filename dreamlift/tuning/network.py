"""A U-Net whose LoRA is trained, or all weights, or nothing; the output is its own prediction (noise, velocity or picture)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamlift.priors.engine import call_network
from dreamlift.priors.lora.lora import LoRA, Targets
from dreamlift.priors.network import DenoisingNetwork
from dreamlift.types import TextStates


class TunedNetwork(nn.Module):
    """``base``'s U-Net with a LoRA of ``rank``, initially zero; with rank 0 all its weights are trained instead.

    Args:
        frozen: with rank 0, no weight is trained.

    Raises:
        ValueError: no weight of the ``targets`` is larger than the rank.
    """

    def __init__(self, base: DenoisingNetwork, rank: int, targets: Targets, rng: torch.Generator, frozen: bool = False) -> None:
        super().__init__()
        self.base = base
        self.lora = LoRA(base.unet, rank, targets, rng) if rank else None
        self.whole = None if rank or frozen else base.unet.requires_grad_(True)

    def forward(self, x_t: Tensor, steps: Tensor, camera: Tensor | None, text: TextStates) -> Tensor:
        """The prediction ``(B, C, h, w)`` for ``x_t (B, C, h, w)`` at integer ``steps (B,)``.

        ``camera``: ``(B, P)``, zeros where none is told; a network without a camera input ignores it.
        """
        base = self.base
        told = None if camera is None or not base.camera_conditioning else camera.to(base.device, base.dtype)
        inputs = base.inputs(x_t.to(base.dtype), steps, told, *text)
        mixed = self.whole is not None and base.device.type == "cuda"
        with torch.autocast(base.device.type, torch.bfloat16, enabled=mixed):
            out = call_network(self.lora or base.unet, **inputs)
        return out[:, : base.channels].float()  # DeepFloyd IF's other channels predict a variance
