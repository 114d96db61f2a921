"""Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/): momentum with orthogonalised updates of matrices.

``torch.optim.Muon`` accepts matrices only and multiplies in bfloat16; on CPUs without native bfloat16 it took 18 times as long
as this one. Here a convolution kernel is treated as the matrix ``(out, in * height * width)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that maps the singular values to about 0.7..1.2
ROUNDS = 5  # Newton-Schulz iterations
MATCHED_RMS = 0.2  # typical root mean square of an AdamW update (Liu et al. 2025, https://arxiv.org/abs/2502.16982)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Approximately U V^T of ``matrix (..., M, N)`` = U S V^T, by Newton-Schulz iteration.

    Each iteration multiplies x from the left by a polynomial in x x^T. These polynomials commute, so their product is
    accumulated as a square matrix of the shorter side, and only two products involve the longer side.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix
    x = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram, identity = x @ x.mT, torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    product = identity
    for _ in range(ROUNDS):
        factor = a * identity + b * gram + c * gram @ gram
        product, gram = factor @ product, factor @ gram @ factor
    x = product @ x
    return x.mT if wide is not matrix else x


def takes(parameter: nn.Parameter) -> bool:
    """Whether Muon updates a parameter: a matrix or kernel with more than 8 rows and columns."""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) > 8


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; ``lr`` is on AdamW's scale.

    ``each`` applies a function to every item of a list; a thread pool's ``map`` updates the matrices in parallel.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 1e-2) -> None:
        self.each: Callable[[Callable[[Any], object], list[Any]], Iterable[object]] = map
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            # Consuming the iterator raises the exceptions of the threads here.
            list(self.each(partial(self._update, group), _worked_together([p for p in group["params"] if p.grad is not None])))

    @torch.no_grad()
    def _update(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        """One update of ``parameters`` of one shape."""
        lr, momentum = group["lr"], group["momentum"]
        values: list[Tensor] = [*parameters]
        gradients: list[Tensor] = [parameter.grad for parameter in parameters if parameter.grad is not None]
        averages: list[Tensor] = [
            self.state[parameter].setdefault("momentum", torch.zeros_like(gradient))
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
        torch._foreach_lerp_(averages, gradients, 1.0 - momentum)
        # channels last, which is often the memory layout
        kernels = [kernel.movedim(1, -1) for kernel in torch._foreach_lerp(gradients, averages, momentum)]
        matrices = [kernel.flatten(1) for kernel in kernels]
        updates = [orthogonalized(matrices[0])] if len(matrices) == 1 else list(orthogonalized(torch.stack(matrices)))
        scale = MATCHED_RMS * max(matrices[0].shape) ** 0.5
        torch._foreach_mul_(values, 1.0 - lr * group["weight_decay"])
        shaped = [update.view(kernel.shape).movedim(-1, 1) for update, kernel in zip(updates, kernels, strict=True)]
        torch._foreach_add_(values, shaped, alpha=-lr * scale)


def _worked_together(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Groups of parameters to update together: by shape on a GPU (fewer kernel launches), single on a CPU (for threads)."""
    if not parameters or not parameters[0].is_cuda:
        return [[parameter] for parameter in parameters]
    alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for parameter in parameters:
        alike.setdefault(tuple(parameter.shape), []).append(parameter)
    return list(alike.values())
