"""torch's Adam with its fused kernel, and without the import of torch's compiler, which would take 1.4 s of a run's start."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from dreamlift.stages.settings import Adam


class FusedAdam(torch.optim.Adam):
    """``torch.optim.Adam``, fused where all parameters are contiguous: torch's fused kernel on a CPU ignores strides.

    Its methods are torch's own ones without the guards against being compiled. ``weight_decay`` is decoupled (AdamW).
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float, weight_decay: float = 0.0) -> None:
        plain = all(each.is_contiguous() for group in groups for each in group["params"])
        super().__init__(
            groups, betas=betas, eps=eps, weight_decay=weight_decay, decoupled_weight_decay=weight_decay > 0.0, fused=plain
        )

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step with the gradients of the parameters; those without a gradient are left as they are."""
        _STEP(self)


def optimizer_of(settings: Adam, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer of parameter ``groups`` with their learning rates."""
    betas = settings.beta1, settings.beta2
    if settings.variant == "adamax":
        return torch.optim.Adamax(groups, betas=betas, eps=settings.eps)
    return FusedAdam(groups, betas, settings.eps, settings.weight_decay if settings.variant == "adamw" else 0.0)


# torch wraps these in guards that import torch._dynamo at their first call.
_STEP = inspect.unwrap(torch.optim.Adam.step)
for _name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    setattr(FusedAdam, _name, inspect.unwrap(getattr(torch.optim.Adam, _name)))
