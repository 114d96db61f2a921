"""Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685, eq. 3): W' = W + (gamma / r) B A, with W frozen.

The frozen network is called with W' in W's place (``torch.func.functional_call``): no layer is exchanged and no hook is set,
so the same network serves with and without its adaptation, in any order. W' is not formed: linear maps and convolutions add
B (A x) to W x, so there is no second set of weights and no gradient of W's size, and small changes do not fall under the
rounding of weights in half precision.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

Targets = Literal["attention", "all"]
"""Which weights are adapted: the projections of the attention layers, or every matrix and kernel."""

ATTENTION = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")  # as diffusers names them


class LoRA(nn.Module):
    """``network`` with an adaptation of rank ``rank``, which at first changes nothing (B = 0).

    A kernel ``(out, in, h, w)`` counts as the matrix ``(out, in h w)``. The network itself is no part of the parameters.

    Raises:
        ValueError: the network has no weight of the ``targets`` that is larger than the rank.
    """

    def __init__(
        self, network: nn.Module, rank: int, targets: Targets, rng: torch.Generator, gamma: float | None = None
    ) -> None:
        super().__init__()
        self.holder = (network,)  # in a tuple, so that it is no child
        self.scale = (rank if gamma is None else gamma) / rank
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in network.named_parameters():
            wanted = name.endswith(ATTENTION) if targets == "attention" else name.endswith("weight")
            if not wanted or weight.ndim < 2 or min(weight.shape[0], weight[0].numel()) <= rank:
                continue
            # A as Kaiming's uniform with a = sqrt(5), the start of torch's own linear layers
            bound = weight[0].numel() ** -0.5
            start = (2.0 * torch.rand(rank, weight[0].numel(), generator=rng) - 1.0) * bound
            key = name.replace(".", "/")  # a dot means a submodule to torch
            self.down[key] = nn.Parameter(start.to(weight.device))
            self.up[key] = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device))
        if not self.down:
            raise ValueError(f"nothing to adapt at rank {rank} ({targets}): the network has no larger weights of that kind")

    def weights(self) -> dict[str, Tensor]:
        """W' by the network's own names."""
        known, names = dict(self.holder[0].named_parameters()), {key: key.replace("/", ".") for key in self.down}
        return {name: low_rank(known[name], self.down[key], self.up[key], self.scale) for key, name in names.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network says with the adapted weights."""
        return functional_call(self.holder[0], self.weights(), args, kwargs)


# What only looks at a weight.
LOOKS = {getattr(Tensor, name).__get__ for name in ("dtype", "device", "shape", "requires_grad")} | {Tensor.size, Tensor.dim}


class LowRank(Tensor):
    """W + s B A in W's place; it has W's shape and values, and what it adds beside it."""

    base: Tensor  # W
    down: Tensor  # A (r, in h w)
    up: Tensor  # B (out, r)
    scale: float  # s

    def formed(self) -> Tensor:
        """W + s B A as a plain tensor."""
        change = self.scale * self.up @ self.down
        return self.base + change.view(self.base.shape).to(self.base.dtype)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LOOKS:
            return super().__torch_function__(func, types, args, kwargs)
        if func is functional.linear and not kwargs and type(args[1]) is LowRank:
            x, weight, *bias = args
            down, up = weight.down.to(x.dtype), weight.up.to(x.dtype)
            return func(x, weight.base, *bias) + weight.scale * func(func(x, down), up)
        if func is functional.conv2d and not kwargs and len(args) == 7 and args[6] == 1 and type(args[1]) is LowRank:
            x, weight, bias, stride, padding, dilation, _ = args
            down = weight.down.to(x.dtype).view(-1, *weight.base.shape[1:])
            low = func(x, down, None, stride, padding, dilation)
            up = weight.up.to(x.dtype)[..., None, None]
            return func(x, weight.base, bias, stride, padding, dilation) + weight.scale * func(low, up)
        return func(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return value.formed() if type(value) is LowRank else value


def low_rank(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> LowRank:
    """``weight (out, in[, h, w])`` with ``scale * up (out, r) @ down (r, in h w)`` beside it."""
    found = weight.detach().as_subclass(LowRank)
    found.base, found.down, found.up, found.scale = weight, down, up, scale
    return found
