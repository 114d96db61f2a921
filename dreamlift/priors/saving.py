"""What lowers a prior's memory, at the cost of time: the settings, and how they are put to work on diffusers' networks.

Results stay the same but for rounding. An autoencoder in tiles is not among them: its norms look at a whole picture, so tiles
would teach something else. Text encoders need no setting: they are read and freed before the networks are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any


@dataclass(frozen=True)
class Memory:
    """Ways to need less memory; all are off unless asked for."""

    micro_batch: int = 0  # pictures per call of the prior's network (a guided one counts as two); 0: all at once
    # inner values of the autoencoder and the network are computed again on the way back, not kept (Chen et al. 2016)
    gradient_checkpointing: bool = False
    attention_slices: bool = False  # half of the heads at a time: helps only where torch has no fused attention, as on mps
    check: bool = True  # refuse a run that needs more than is free; the need is an upper estimate

    def __post_init__(self) -> None:
        if self.micro_batch < 0:
            raise ValueError(f"micro_batch is {self.micro_batch}; accepted: 0 (all at once) or more")


def save_memory(network: Any, memory: Memory) -> None:
    """Put the settings to work on a diffusers U-Net, transformer or autoencoder.

    Those that are off are switched off: a pipeline in memory may have them on from an earlier run.
    """
    if memory.gradient_checkpointing:
        network.enable_gradient_checkpointing(checkpointed)
    elif network.is_gradient_checkpointing:
        network.disable_gradient_checkpointing()
    if hasattr(network, "enable_slicing"):  # an autoencoder; the other networks are called through `in_turn`
        (network.enable_slicing if memory.micro_batch else network.disable_slicing)()
    sliced = any("Sliced" in type(kind).__name__ for kind in getattr(network, "attn_processors", {}).values())
    if hasattr(network, "set_attention_slice") and memory.attention_slices != sliced:
        network.set_attention_slice("auto" if memory.attention_slices else None)


def checkpointed(module: Any, *args: Any) -> Any:
    """``module(*args)`` without its inner values, which are computed again for the gradient (Chen et al. 2016,
    https://arxiv.org/abs/1604.06174).

    With the weights of now: those that a LoRA puts in their place are gone again when the gradient is computed.
    """
    from torch.func import functional_call
    from torch.utils.checkpoint import checkpoint

    weights = dict(module.named_parameters())
    return checkpoint(lambda *inputs: functional_call(module, weights, inputs), *args, use_reentrant=False)


def in_turn(call: Callable[..., Any], batched: tuple[Any, ...], size: int | None) -> Any:
    """``call(*batched)`` for tensors of B entries (or None); with a ``size`` so many at a time, put together again."""
    if size is None:
        return call(*batched)
    import torch

    pieces = [repeat(None, -(-len(batched[0]) // size)) if value is None else value.split(size) for value in batched]
    return torch.cat([call(*piece) for piece in zip(*pieces, strict=True)])
