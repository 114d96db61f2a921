"""torch's Adam with its fused kernel, and without the import of torch's compiler, which would take 1.4 s of a run's start."""

from __future__ import annotations

import inspect
from typing import Any

import torch


class FusedAdam(torch.optim.Adam):
    """``torch.optim.Adam``, fused where all parameters are contiguous: torch's fused kernel on a CPU ignores strides.

    Its methods are torch's own ones without the guards against being compiled.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        plain = all(each.is_contiguous() for group in groups for each in group["params"])
        super().__init__(groups, betas=betas, eps=eps, fused=plain)

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step with the gradients of the parameters; those without a gradient are left as they are."""
        _STEP(self)


# torch wraps these in guards that import torch._dynamo at their first call.
_STEP = inspect.unwrap(torch.optim.Adam.step)
for _name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    setattr(FusedAdam, _name, inspect.unwrap(getattr(torch.optim.Adam, _name)))
