"""Settings that reduce a prior's memory at the cost of time, and their application to diffusers' networks.

Results are equal up to rounding. Tiled autoencoding is not offered: the autoencoder's normalization layers use statistics of
the whole picture, so tiles would change the latents. Text encoders need no setting: they are freed before the networks load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any


@dataclass(frozen=True)
class Memory:
    """Settings that reduce memory, off by default, and the check of the free memory."""

    # pictures per call of the prior's network, at least 0 (with guidance each picture counts twice); 0: all at once
    micro_batch: int = 0
    # true: recompute activations of the autoencoder and the network in the backward pass (Chen et al. 2016); false: store them
    gradient_checkpointing: bool = False
    # true: compute half of the attention heads at a time; saves memory only where torch has no fused attention, as on mps
    attention_slices: bool = False
    check: bool = True  # true: refuse a run whose model weights alone exceed the free memory; false: start it anyway

    def __post_init__(self) -> None:
        if self.micro_batch < 0:
            raise ValueError(f"micro_batch is {self.micro_batch}; accepted: 0 (all at once) or more")


def save_memory(network: Any, memory: Memory) -> None:
    """Apply the settings to a diffusers U-Net, transformer or autoencoder.

    Settings that are off are disabled explicitly, since a pipeline in memory may have them enabled from an earlier run.
    """
    if memory.gradient_checkpointing:
        network.enable_gradient_checkpointing(checkpointed)
    elif network.is_gradient_checkpointing:
        network.disable_gradient_checkpointing()
    if hasattr(network, "enable_slicing"):  # an autoencoder; other networks are split by `in_turn`
        (network.enable_slicing if memory.micro_batch else network.disable_slicing)()
    sliced = any("Sliced" in type(kind).__name__ for kind in getattr(network, "attn_processors", {}).values())
    if hasattr(network, "set_attention_slice") and memory.attention_slices != sliced:
        network.set_attention_slice("auto" if memory.attention_slices else None)


def checkpointed(module: Any, *args: Any) -> Any:
    """``module(*args)`` without stored activations, which are recomputed in the backward pass (Chen et al. 2016,
    https://arxiv.org/abs/1604.06174).

    The current weights are captured: a LoRA replaces them only during the forward pass, and the recomputation needs the same.
    """
    from torch.func import functional_call
    from torch.utils.checkpoint import checkpoint

    weights = dict(module.named_parameters())
    return checkpoint(lambda *inputs: functional_call(module, weights, inputs), *args, use_reentrant=False)


def in_turn(call: Callable[..., Any], batched: tuple[Any, ...], size: int | None) -> Any:
    """``call(*batched)`` for tensors of B entries (or None), in chunks of ``size`` that are concatenated. None: in one call."""
    if size is None:
        return call(*batched)
    import torch

    pieces = [repeat(None, -(-len(batched[0]) // size)) if value is None else value.split(size) for value in batched]
    return torch.cat([call(*piece) for piece in zip(*pieces, strict=True)])
