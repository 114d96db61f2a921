"""Recovery from failed steps: the state is rolled back to the last good copy, and other random numbers are used from there.

A step fails if a value is not finite or the scene is empty. After three roll-backs to the same copy the run ends with
:class:`DivergedError`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SNAPSHOT_EVERY = 25  # steps between two copies of the last good state
ATTEMPTS = 3  # roll-backs to the same copy
EMPTY = 1e-3  # mean opacity of a render below which the scene counts as empty
THIN, DENSE = 0.03, 0.6  # mean opacities of renders that are worth telling if the scene turns out to be empty or full
NOTHING, ALL = 0.005, 0.95  # mean opacities that are worth telling during the stage, after NOTICE consecutive steps
NOTICE = 50


class DivergedError(RuntimeError):
    """The optimization failed repeatedly; the message names the failure and the settings to change."""


def find_trouble(answered: bool, loss: float, norm: float, opacity: float) -> str:
    """The failure of a step before the optimizer's update; "" if there is none.

    Args:
        answered: whether the prior's prediction is finite.
        loss, norm: the loss, and the norm of all gradients.
        opacity: the mean of the render.
    """
    # Losses set such values to 0 in their gradient, so without this check a broken prior would have no visible effect.
    if not answered:
        return "the prior's prediction is not finite"
    if not math.isfinite(loss):
        return "the loss is not finite"
    if not math.isfinite(norm):
        return "the gradient is not finite"
    if opacity < EMPTY:
        return "the scene has become empty"
    return ""


def is_finite(part: nn.Module) -> bool:
    """Whether every parameter is finite, by the norm of all: it is infinite or NaN if one value is (or exceeds 1e19), and a
    GPU computes it for many tensors in one kernel."""
    values = [parameter.detach() for parameter in part.parameters() if parameter.numel()]
    return not values or bool(torch.isfinite(nn.utils.get_total_norm(values)))


def check_attempts(failed: int, trouble: str, attempt: int) -> None:
    """Raise DivergedError if there were ``ATTEMPTS`` roll-backs to the same copy before."""
    if attempt > ATTEMPTS:
        raise DivergedError(
            f"step {failed}: {trouble}, after {ATTEMPTS} roll-backs. Lower adam.lr_scale or guidance.guidance_scale, "
            "or weights.sparsity and weights.opaque if the scene becomes empty"
        )


@dataclass(frozen=True)
class Watch:
    """What a scene's renders have shown in its last steps: nearly nothing, or no background any more."""

    state: str = ""  # "empty", "full", or ""
    since: int = 0  # the first of the consecutive steps in this state
    steps: int = 0  # consecutive steps in which nothing or no background at all was seen

    def after(self, index: int, opacity: float) -> Watch:
        """The watch after step ``index``, whose renders have the mean ``opacity``."""
        state = "empty" if opacity < THIN else "full" if opacity > DENSE else ""
        steps = self.steps + 1 if opacity < NOTHING or opacity > ALL else 0
        return Watch(state, self.since if state == self.state else index, steps)

    def warn(self, index: int) -> None:
        """Tell the user, once ``NOTICE`` steps before ``index`` have shown nothing or no background at all."""
        if self.steps == NOTICE:
            warnings.warn(f"step {index}: {self.told}; the scene may end up {self.state}", stacklevel=2)

    @property
    def told(self) -> str:
        """One clause for the user; "" if there is nothing to tell."""
        share = {"empty": f"less than {100 * THIN:g}%", "full": f"more than {100 * DENSE:g}%"}.get(self.state)
        return f"its renders have been {share} opaque since step {self.since}" if share else ""


def copied(value: Any) -> Any:
    """A deep copy of nested containers of tensors and plain values, without graphs."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(entry) for entry in value)
    return value
