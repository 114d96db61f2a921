"""What every 3D representation offers: it renders, it changes between steps, and it can be meshed.

A scene is an ``nn.Module``. Whatever changes during a run (an occupancy grid, the active level) is a buffer or a
parameter, so ``state_dict()`` restores a scene exactly, and all randomness comes from the CPU generator that is passed
in, so a resumed run repeats the interrupted one bit by bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypedDict

import torch
from torch import Tensor, nn

from dreamlift.types import Cameras, RenderOutput, Shading


class ParamGroup(TypedDict):
    """One group of parameters, as ``torch.optim`` takes it."""

    name: str
    params: list[nn.Parameter]
    lr: float


class Scene(nn.Module, ABC):
    """A differentiable 3D scene inside the cube ``[-bounds, bounds]^3``."""

    bounds: float = 1.0  # half the cube's edge, world units

    @abstractmethod
    def render(
        self,
        cameras: Cameras,
        rng: torch.Generator,
        shading: Shading | None = None,
        *,
        background: Tensor | None = None,
        progress: float = 1.0,
        normals: bool = False,
    ) -> RenderOutput:
        """Render B views.

        Args:
            cameras: B cameras, on any device.
            rng: CPU generator; used in training mode only (a scene in ``eval()`` renders without noise).
            shading: one light a view; None is the plain albedo.
            background: ``(3,)``, ``(B, 3)`` or ``(B, H, W, 3)`` in [0, 1] instead of the scene's own background.
            progress: how much of the run is done, 0..1, for scenes whose rendering depends on it.
            normals: also render world normals.
        """

    @abstractmethod
    def regularize(self, render: RenderOutput, progress: float, only: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        """Raw, unweighted scalar terms of a training render; ``only`` names those that are wanted (None: all)."""

    @abstractmethod
    def param_groups(self) -> list[ParamGroup]:
        """The trainable parameters with their learning rates."""

    @abstractmethod
    def after_step(self, index: int, progress: float, rng: torch.Generator) -> None:
        """Housekeeping after optimiser step ``index``: occupancy, coarse-to-fine. ``progress`` is in 0..1."""

    @abstractmethod
    def density(self, points: Tensor) -> Tensor:
        """Density ``(N,) >= 0`` (inverse world units) at ``points (N, 3)``."""

    @abstractmethod
    def albedo(self, points: Tensor) -> Tensor:
        """Base colour ``(N, 3)`` in [0, 1], sRGB, at ``points (N, 3)``."""
