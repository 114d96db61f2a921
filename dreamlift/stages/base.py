"""What every stage of a run is: settings that begin a piece of work, and the work, which steps and leaves something behind.

A stage begins with the :class:`~dreamlift.types.Handover` of the stage before it. A new kind of stage (fine-tuning a prior,
repainting renders) is one file with a :class:`Stage` and its :class:`Work`, and one line in :data:`dreamlift.stages.STAGES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch

from dreamlift.priors.base import Prior
from dreamlift.prompts import Backdrop, Embeds
from dreamlift.scenes.base import Scene
from dreamlift.stages.teacher import Teacher
from dreamlift.texturing.extract import Extract
from dreamlift.types import Cameras, Handover, LoraFile, Mesh, Pictures, Step, Task


@dataclass(frozen=True)
class Place:
    """Where a stage stands in its run."""

    number: int  # of the stage, counted from 0
    first: int  # the run's step with which it begins
    seed: int
    particles: int
    backdrops: tuple[Backdrop, ...]
    has_mesh: bool  # whether a mesh is handed over to it
    has_photos: bool


@dataclass(frozen=True)
class Ready:
    """What the work of a stage begins with."""

    place: Place
    task: Task
    device: torch.device
    priors: tuple[Prior, ...]  # one a teacher
    embeds: tuple[Embeds, ...]  # one a teacher
    handover: Handover


class Stage(ABC):
    """Settings of one kind of work: a frozen dataclass."""

    makes_scene: ClassVar[bool] = False  # whether a run can end with it: its work has scenes
    keeps_faces: bool = True  # whether a mesh that is handed over to it keeps its faces
    teachers: tuple[Teacher, ...] = ()  # the priors that it uses, and how

    @abstractmethod
    def total_steps(self, particles: int) -> int:
        """Steps of the whole stage."""

    @abstractmethod
    def check(self, place: Place) -> None:
        """Refuse settings that cannot work at this place of the run, before anything is loaded.

        Raises:
            ValueError: one line with the fix.
        """

    def check_priors(self, views: Sequence[int]) -> None:
        """Refuse settings that the priors cannot work with, before anything is loaded.

        Args:
            views: of each teacher's prior, the pictures of one object that it denoises together.

        Raises:
            ValueError: one line with the fix.
        """
        return

    @abstractmethod
    def begin(self, ready: Ready) -> Work:
        """The work at its first step.

        Raises:
            ValueError: a prior, a mesh or pictures that it cannot work with.
        """

    def with_teachers(self, teachers: tuple[Teacher, ...]) -> Stage:
        """A copy with other teachers."""
        return replace(self, teachers=teachers) if teachers else self  # pyright: ignore[reportArgumentType]

    def resolved(self) -> Stage:
        """The same settings with absolute paths. Raises ValueError where a file cannot be used."""
        return self

    def needs_of_handover(self, settings: Extract) -> Extract:
        """How the scene of the stage before is meshed for this one; the default asks for no texture, which takes seconds."""
        return replace(settings, texture=False, normal_map=False)

    def rebuild(self, saved: SavedState) -> tuple[Scene, ...]:
        """The scenes of a checkpoint on the CPU, without a prior.

        Raises:
            ValueError: this kind of stage has no scenes.
        """
        raise ValueError("this stage makes no scene: export takes a checkpoint of a stage that does")


class Work(ABC):
    """A stage while it is carried out; what changes in it is in its ``state_dict``."""

    index: int  # the next step, counted from the run's beginning
    end: int  # the step with which the next stage begins
    scenes: tuple[Scene, ...] = ()  # the particles, where the stage makes scenes

    @property
    def finished(self) -> bool:
        return self.index >= self.end

    @abstractmethod
    def step(self) -> Step:
        """Do one step. The state is whole before and after it.

        Raises:
            DivergedError: the optimisation failed again and again.
        """

    @abstractmethod
    def leave(self, settings: Extract) -> Handover:
        """What the next stage begins with; meshes are made as ``settings`` ask.

        Raises:
            EmptySceneError: nothing is left in a scene.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint must hold."""

    @abstractmethod
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over a checkpoint of this same stage."""


@dataclass(frozen=True)
class SavedState:
    """A run as a checkpoint holds it."""

    stage: int  # counted from 0
    index: int  # the next step of the run
    handover: Handover  # what the stage began with
    work: dict[str, Any]  # of :meth:`Work.state_dict`

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, numbers, tensors and arrays, as :mod:`dreamlift.runs.checkpoints` stores them."""
        left = self.handover
        handover = {
            "meshes": [None if mesh is None else _record(mesh) for mesh in left.meshes],
            "loras": [_record(lora) for lora in left.loras],
            "pictures": None if left.pictures is None else _record(left.pictures),
        }
        return {"stage": self.stage, "index": self.index, "handover": handover, "work": self.work}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> SavedState:
        """The inverse of :meth:`to_dict`."""
        left = saved["handover"]
        pictures = left["pictures"]
        if pictures is not None and pictures["cameras"] is not None:
            pictures = {**pictures, "cameras": Cameras(**pictures["cameras"])}
        handover = Handover(
            tuple(None if mesh is None else Mesh(**mesh) for mesh in left["meshes"]),
            tuple(LoraFile(**lora) for lora in left["loras"]),
            None if pictures is None else Pictures(**pictures),
        )
        return cls(saved["stage"], saved["index"], handover, saved["work"])


def _record(value: Any) -> dict[str, Any]:
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: _record(each) if isinstance(each, Cameras) else each for name, each in found.items()}


def places_of(
    stages: Sequence[Stage], seed: int, particles: int, backdrops: tuple[Backdrop, ...], has_mesh: bool, has_photos: bool
) -> tuple[Place, ...]:
    """The place of each stage of a run; ``has_mesh`` is whether the user gave one to the first."""
    found, first = [], 0
    for number, stage in enumerate(stages):
        has_mesh = has_mesh or any(each.makes_scene for each in stages[:number])
        found.append(Place(number, first, seed, particles, backdrops, has_mesh, has_photos))
        first += stage.total_steps(particles)
    return tuple(found)
