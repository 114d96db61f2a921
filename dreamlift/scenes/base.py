"""What every 3D representation offers: it renders, it changes between steps, and it can be meshed.

A scene is an ``nn.Module``. Whatever changes during a run (an occupancy grid, the active level) is a buffer or a
parameter, so ``state_dict()`` restores a scene exactly, and all randomness comes from the CPU generator that is passed
in, so a resumed run repeats the interrupted one bit by bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypedDict

import torch
from torch import Tensor, nn

from dreamlift.texturing.extract import Extract
from dreamlift.types import Cameras, Mesh, RenderOutput, Shading


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
    def after_step(
        self, index: int, progress: float, rng: torch.Generator, render: RenderOutput, optimizer: torch.optim.Optimizer
    ) -> None:
        """Housekeeping after optimiser step ``index``: occupancy, coarse-to-fine, densification.

        Args:
            progress: how much of the run is done, 0..1.
            render: what was rendered in this step, after ``backward()``.
            optimizer: its moments of values that are replaced here must be replaced too.
        """

    @abstractmethod
    def to_mesh(self, settings: Extract) -> Mesh:
        """The scene as a textured mesh, on the CPU.

        Raises:
            EmptySceneError: there is nothing to see in the scene.
        """


@dataclass(frozen=True)
class StepShape:
    """What decides how much memory a step's renders take."""

    views: int
    side: int  # pixels
    device: str = "cpu"  # "cpu", "cuda" or "mps"
    normals: bool = False  # whether they are lit, or a term looks at normals
    terms: frozenset[str] = frozenset()  # the regularisers that are ever on


@dataclass(frozen=True)
class SceneSettings(ABC):
    """Settings of a scene: a frozen dataclass that :meth:`build` makes the scene of."""

    takes_start: ClassVar[bool] = True  # whether it can begin with a mesh
    needs_start: ClassVar[bool] = False  # whether it can begin with nothing else
    keeps_start: ClassVar[bool] = False  # whether its faces, and what is painted on them, are those of that mesh
    terms: ClassVar[tuple[str, ...]] = ()  # the regularisers that its scene has

    @abstractmethod
    def build(self, rng: torch.Generator, device: torch.device | str = "cpu", start: Mesh | None = None) -> Scene:
        """A new scene.

        Args:
            rng: CPU generator that draws the initial parameters.
            start: what the scene begins as (the last stage's result, or a user's mesh), inside ``[-1, 1]^3``; None
                begins with the scene's own blob.

        Raises:
            ValueError: this kind of scene needs a start and has none, or cannot begin with one.
        """

    @abstractmethod
    def values(self) -> int:
        """How many numbers the scene trains."""

    @abstractmethod
    def step_bytes(self, shape: StepShape) -> int:
        """Live bytes of one step's renders with their gradients, an upper estimate."""

    @abstractmethod
    def picture_bytes(self, device: str) -> int:
        """Live bytes of pictures rendered without gradients, or of meshing; what each does at once is bounded."""

    @abstractmethod
    def thrifty(self) -> SceneSettings | None:
        """The same scene with what saves memory switched on; None where nothing does."""
