"""What happens when a step goes wrong: back to the last good copy, and on with other random numbers.

A value that is not finite, or a scene that has emptied, rolls the state back. After three roll-backs to the same copy the run
ends with :class:`DivergedError`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

SNAPSHOT_EVERY = 25  # steps between two copies of the last good state
ATTEMPTS = 3  # roll-backs to one copy
EMPTY = 1e-3  # mean opacity of a render below which the scene counts as empty


class DivergedError(RuntimeError):
    """The optimisation failed again and again; the message says how, and what to change."""


def find_trouble(answered: bool, loss: float, norm: float, opacity: float) -> str:
    """What is wrong before the optimiser's step, in words; "" if nothing is.

    Args:
        answered: the prior's answer is finite. loss, norm: the loss and the norm of all gradients. opacity: mean of the render.
    """
    # Losses leave such values out of their gradient: without this check a broken prior would teach nothing, unnoticed.
    if not answered:
        return "the prior's answer is not finite numbers"
    if not math.isfinite(loss):
        return "the loss is not a finite number"
    if not math.isfinite(norm):
        return "the gradient is not a finite number"
    if opacity < EMPTY:
        return "the scene has become empty"
    return ""


def is_finite(part: nn.Module) -> bool:
    """Whether every parameter is finite. Their norm decides: it is not finite as soon as one value is not (or is beyond
    1e19), and a GPU computes it for many tensors at once."""
    values = [parameter.detach() for parameter in part.parameters() if parameter.numel()]
    return not values or bool(torch.isfinite(nn.utils.get_total_norm(values)))


def check_attempts(failed: int, trouble: str, attempt: int) -> None:
    """Raise DivergedError at the roll-back after the last one that is allowed."""
    if attempt > ATTEMPTS:
        raise DivergedError(
            f"step {failed}: {trouble}, after {ATTEMPTS} roll-backs. Lower adam.lr_scale or guidance.guidance_scale, "
            "or the weights.sparsity and weights.opaque if the scene empties"
        )


def copied(value: Any) -> Any:
    """A deep copy of nested containers of tensors and plain values, without graphs."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(entry) for entry in value)
    return value
