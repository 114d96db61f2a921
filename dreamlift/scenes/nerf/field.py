"""The interface of volumetric fields, and their initial density: a blob at the origin.

Blobs (``x`` in world units):

* ``"gaussian"``: ``scale * exp(-|x|^2 / (2 std^2))``. DreamFusion (Poole et al. 2022), appendix A.2,
  https://arxiv.org/abs/2209.14988
* ``"cone"``: ``scale * (1 - |x| / std)``. Magic3D (Lin et al. 2023), section 4.1, https://arxiv.org/abs/2211.10440
* ``"constant"``: ``scale`` everywhere: -1 in threestudio's SJC

Both are added to the field's raw output, before the density activation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamlift.scenes.base import ParamGroup

BLOBS = ("gaussian", "cone", "constant", "none")
ACTIVATIONS = ("softplus", "exp")
FIT_ROUNDS, FIT_BATCH, FIT_RATE = 100, 8192, 4.0  # of a regression to colours; the last is a factor on the learning rates


@dataclass(frozen=True)
class Blob:
    """The initial density: a bias on the raw density, before the activation."""

    kind: str = "cone"  # shape of the initial density: "gaussian" (DreamFusion), "cone" (Magic3D), "constant" or "none"
    scale: float = 10.0  # bias at the origin, before the activation (threestudio: 10 for the cone, 5 for the gaussian)
    std: float = 0.5  # world units: radius of the cone, or standard deviation of the gaussian (threestudio: 0.2)

    def __post_init__(self) -> None:
        if self.kind not in BLOBS:
            raise ValueError(f"Blob.kind is {self.kind!r}; use one of {', '.join(BLOBS)}.")
        if self.std <= 0:
            raise ValueError(f"Blob.std is {self.std}; it must be positive.")

    def __call__(self, points: Tensor) -> Tensor:
        """The bias ``(...)`` at ``points (..., 3)``."""
        if self.kind == "gaussian":
            return self.scale * torch.exp(-points.square().sum(-1) / (2 * self.std**2))
        if self.kind == "cone":
            return self.scale * (1 - points.norm(dim=-1) / self.std)
        if self.kind == "constant":
            return torch.full_like(points[..., 0], self.scale)
        return torch.zeros_like(points[..., 0])


class _TruncExp(torch.autograd.Function):
    """``exp`` with its gradient clamped to that at ``x = 15`` (Instant-NGP, Mueller et al. 2022)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = x.clamp(max=80.0).exp()
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.clamp(max=15.0).exp()


def activate_density(raw: Tensor, kind: str) -> Tensor:
    """Densities ``(N,) >= 0`` from raw values ``(N,)``; ``kind`` is one of ``ACTIVATIONS``."""
    if kind == "softplus":
        return nn.functional.softplus(raw)
    if kind == "exp":
        return _TruncExp.apply(raw)  # pyright: ignore[reportReturnType]
    raise ValueError(f"Density activation {kind!r}; use one of {', '.join(ACTIVATIONS)}.")


@dataclass(frozen=True)
class FieldSamples:
    """The values of a field at N points."""

    density: Tensor  # (N,) >= 0
    albedo: Tensor  # (N, 3) in [0, 1]
    normal: Tensor | None  # (N, 3) unit; None unless requested
    grid: Tensor | None = None  # (D, H, W, 4) the combined grid of a voxel field, for total variation


class Field(nn.Module, ABC):
    """Density and albedo as functions of the position in the cube ``[-bounds, bounds]^3``."""

    @abstractmethod
    def query(self, points: Tensor, normals: bool = False) -> FieldSamples:
        """Density, albedo and (on request) normals at ``points (N, 3)``, differentiable in the parameters."""

    @abstractmethod
    def density(self, points: Tensor) -> Tensor:
        """Density ``(N,)`` at ``points (N, 3)``."""

    @abstractmethod
    def advance(self, progress: float) -> None:
        """Activate the levels scheduled for ``progress`` (0..1) of the run."""

    @abstractmethod
    def param_groups(self) -> list[ParamGroup]:
        """The trainable parameters with their learning rates."""

    def fit_colors(self, points: Tensor, colors: Tensor, rng: torch.Generator) -> None:
        """Give the field the ``colors (N, 3)`` at ``points (N, 3)``, by a short regression with batches from ``rng``."""
        groups = [dict(group) | {"lr": FIT_RATE * group["lr"]} for group in self.param_groups()]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
        for _ in range(FIT_ROUNDS):
            chosen = torch.randint(len(points), (FIT_BATCH,), generator=rng)
            loss = (self.query(points[chosen]).albedo - colors[chosen]).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        self.zero_grad(set_to_none=True)
