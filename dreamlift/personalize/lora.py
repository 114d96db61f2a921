"""Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685, eq. 3): W' = W + (gamma / r) B A, with W frozen.

The frozen network is called with W' in W's place (``torch.func.functional_call``): no layer is exchanged and no hook is set,
so the same network serves with and without its adaptation, in any order.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

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
        known = dict(self.holder[0].named_parameters())
        adapted = {}
        for key, down in self.down.items():
            weight = known[key.replace("/", ".")]
            change = self.scale * self.up[key] @ down
            adapted[key.replace("/", ".")] = weight + change.view_as(weight).to(weight.dtype)
        return adapted

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network says with the adapted weights."""
        return functional_call(self.holder[0], self.weights(), args, kwargs)
