"""Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685, eq. 3): W' = W + (gamma / r) B A, with W frozen.

The frozen network is called with W' in place of W (``torch.func.functional_call``). No layer is replaced and no hook is set,
so the same network can be used with and without its adaptation, in any order. W' is never formed: linear maps and convolutions
add B (A x) to W x. There is no second set of weights and no gradient of W's size, and small changes are not lost to the
rounding of half-precision weights.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

Targets = Literal["attention", "all"]
"""The adapted weights: the projections of the attention layers, or all matrices and convolution kernels."""

TextTargets = Literal["text"]
"""The adapted weights of a text encoder: the projections of its attention layers."""

CameraInput = Literal["angles", "matrix"]
"""The camera that the adapted network is told: harmonics of azimuth and elevation, through a linear map that is initially zero;
or the 4 x 4 camera-to-world matrix, through an MLP with one hidden layer, as in threestudio's VSD."""

ENDINGS = {
    # as diffusers names them; the last two are of the text's keys and values in DeepFloyd IF
    "attention": (
        "to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "add_k_proj.weight", "add_v_proj.weight",
    ),
    "all": ("weight",),
    "text": (  # as transformers names them in CLIP, and in T5
        ".q_proj.weight", ".k_proj.weight", ".v_proj.weight", ".out_proj.weight",
        "Attention.q.weight", "Attention.k.weight", "Attention.v.weight", "Attention.o.weight",
    ),
}  # fmt: skip
"""How the names of the adapted weights end."""


class LoRA(nn.Module):
    """``network`` with an adaptation of rank ``rank``, initially zero (B = 0).

    A kernel ``(out, in, h, w)`` is treated as the matrix ``(out, in h w)``. The network's weights are not parameters.

    Raises:
        ValueError: no weight of the ``targets`` has both dimensions larger than the rank.
    """

    def __init__(
        self, network: nn.Module, rank: int, targets: Targets | TextTargets, rng: torch.Generator, gamma: float | None = None
    ) -> None:
        super().__init__()
        self.holder = (network,)  # in a tuple, so that it is not registered as a submodule
        self.scale = (rank if gamma is None else gamma) / rank
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in network.named_parameters():
            if not name.endswith(ENDINGS[targets]) or weight.ndim < 2 or min(weight.shape[0], weight[0].numel()) <= rank:
                continue
            # A is normal with standard deviation 1 / rank, as in diffusers' LoRALinearLayer up to version 0.20, with which
            # published learning rates were chosen: the change of W per step of B is proportional to A.
            start = torch.randn(rank, weight[0].numel(), generator=rng) / rank
            key = name.replace(".", "/")  # a dot means a submodule to torch
            self.down[key] = nn.Parameter(start.to(weight.device))
            self.up[key] = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device))
        if not self.down:
            raise ValueError(f"nothing to adapt at rank {rank} ({targets}): the network has no larger weights of that kind")

    def weights(self) -> dict[str, Tensor]:
        """W' by the network's parameter names."""
        known, names = dict(self.holder[0].named_parameters()), {key: key.replace("/", ".") for key in self.down}
        return {name: low_rank(known[name], self.down[key], self.up[key], self.scale) for key, name in names.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output with the adapted weights."""
        return functional_call(self.holder[0], self.weights(), args, kwargs)


# Functions that read only attributes of a weight.
LOOKS = {getattr(Tensor, name).__get__ for name in ("dtype", "device", "shape", "requires_grad")} | {Tensor.size, Tensor.dim}


class LowRank(Tensor):
    """W + s B A as a tensor subclass with W's shape and values; the low-rank factors are stored as attributes."""

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
    """``weight (out, in[, h, w])`` plus ``scale * up (out, r) @ down (r, in h w)``, not formed."""
    found = weight.detach().as_subclass(LowRank)
    found.base, found.down, found.up, found.scale = weight, down, up, scale
    return found
