"""The interface of all 3D representations: rendering, regularisers, updates between steps, mesh extraction.

A scene is an ``nn.Module``. All state that changes during a run (occupancy grid, active level) is a buffer or a parameter,
so ``state_dict()`` restores a scene exactly. All random numbers come from the CPU generator that the caller passes, so a
resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypedDict

import torch
from torch import Tensor, nn

from dreamlift.texturing.extract import Extract
from dreamlift.types import Cameras, Mesh, RenderOutput, Shading, Splats


class ParamGroup(TypedDict):
    """One parameter group of a ``torch.optim`` optimiser."""

    name: str
    params: list[nn.Parameter]
    lr: float


class Scene(nn.Module, ABC):
    """A differentiable 3D scene inside the cube ``[-bounds, bounds]^3``."""

    bounds: float = 1.0  # half the cube's edge, world units
    # The mesh from to_mesh keeps the faces of the initial mesh: it has not been decimated to the face budget.
    keeps_own_faces: ClassVar[bool] = False

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
            rng: CPU generator; used in training mode only (rendering in ``eval()`` mode is deterministic).
            shading: one point light per view; None renders the albedo.
            background: ``(3,)``, ``(B, 3)`` or ``(B, H, W, 3)`` in [0, 1]; replaces the scene's own background.
            progress: completed fraction of the run, 0..1, for scenes whose rendering depends on it.
            normals: also render world-space normals.
        """

    @abstractmethod
    def regularize(
        self, render: RenderOutput, progress: float, only: tuple[str, ...] | None = None, rng: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Unweighted scalar regularisers of a training render, by name.

        Args:
            only: the names of those that are computed; None: all that the render has the values for.
            rng: CPU generator, for terms at random points; None: these are left out.
        """

    @abstractmethod
    def param_groups(self) -> list[ParamGroup]:
        """The trainable parameters with their learning rates."""

    @abstractmethod
    def after_step(
        self, index: int, progress: float, rng: torch.Generator, render: RenderOutput, optimizer: torch.optim.Optimizer
    ) -> None:
        """Update the state that is not trained after optimiser step ``index``: occupancy, active levels, densification.

        Args:
            progress: completed fraction of the run, 0..1.
            render: the render of this step, after ``backward()``.
            optimizer: a scene that replaces parameter values must also reset their moments in it.
        """

    def observe(self, render: RenderOutput) -> None:
        """Take account of a further render of the step, after ``backward()`` and before :meth:`after_step`."""

    @abstractmethod
    def to_mesh(self, settings: Extract) -> Mesh:
        """The scene as a textured mesh, on the CPU.

        Raises:
            EmptySceneError: the scene has no surface.
        """

    def to_splats(self) -> Splats | None:
        """The scene as 3D Gaussians, on the CPU; None for representations without Gaussians."""
        return None


@dataclass(frozen=True)
class SceneSettings(ABC):
    """Settings of a scene: a frozen dataclass; :meth:`build` creates the scene."""

    takes_initial_mesh: ClassVar[bool] = True  # whether build accepts an initial mesh
    needs_initial_mesh: ClassVar[bool] = False  # whether build requires an initial mesh
    keeps_initial_mesh: ClassVar[bool] = False  # whether the initial mesh's geometry is fixed and only its look is trained
    terms: ClassVar[tuple[str, ...]] = ()  # names of the scene's regularisers
    occupied: ClassVar[float] = 1.0  # share of step_bytes after the first rung of a resolution ladder: empty space is skipped

    def resolved(self) -> SceneSettings:
        """The same settings with absolute paths. Raises ValueError where a file cannot be used."""
        return self

    @abstractmethod
    def build(self, rng: torch.Generator, device: torch.device | str = "cpu", initial_mesh: Mesh | None = None) -> Scene:
        """A new scene.

        Args:
            rng: CPU generator that draws the initial parameters.
            initial_mesh: the previous stage's result or a user's mesh, inside ``[-1, 1]^3``; None starts from the scene's
                own initial shape.

        Raises:
            ValueError: this kind of scene requires an initial mesh and none is given, or it does not accept one.
        """

    @abstractmethod
    def parameter_count(self) -> int:
        """Number of trained scalars, without the background's."""

    @abstractmethod
    def step_bytes(self, views: int, side: int) -> int:
        """Estimated peak bytes of ``views`` unlit renders of ``side`` x ``side`` pixels with their backward pass."""
