"""The interface of a run's stages: :class:`Stage` holds the settings, :class:`Work` the state while the stage runs.

A stage starts from the :class:`~dreamlift.types.Handover` of the previous one. A new kind of stage (fine-tuning a prior,
repainting renders) is one file with a :class:`Stage` and its :class:`Work`, and one line in :data:`dreamlift.stages.STAGES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch

from dreamlift.priors.base import Prior
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.engine import UsedEngine
from dreamlift.priors.kinds import Located
from dreamlift.prompts import Backdrop, Embeds
from dreamlift.scenes.base import Scene
from dreamlift.stages.teacher import Teacher
from dreamlift.stages.tuned import MARK, Material
from dreamlift.texturing.extract import Extract
from dreamlift.tuning.words import SubjectWords
from dreamlift.types import Cameras, EmptySceneError, Event, FullSceneError, Handover, Mesh, Pictures, Step, Task


@dataclass(frozen=True)
class Place:
    """A stage's position in its run, and the run's settings that it needs."""

    number: int  # of the stage, counted from 0
    first: int  # index of the stage's first step in the run
    seed: int
    particles: int
    backdrops: tuple[Backdrop, ...]
    has_mesh: bool  # whether the stage gets an initial mesh
    has_photos: bool
    has_pictures: bool = False  # whether a stage before it leaves posed pictures
    has_depth: bool = False  # whether the depth of the photos is estimated
    subject: SubjectWords | None = None  # the words of the thing in the photos, for stages that tune a prior


@dataclass(frozen=True)
class Ready:
    """The inputs of a stage's work."""

    place: Place
    task: Task
    device: torch.device
    priors: tuple[Prior, ...]  # one per teacher
    embeds: tuple[Embeds, ...]  # one per teacher
    handover: Handover
    material: Material | None = None  # of a stage that tunes a prior


class Stage(ABC):
    """The settings of one kind of stage: a frozen dataclass."""

    makes_scene: ClassVar[bool] = False  # whether its work has scenes, as the last stage of a run needs
    leaves_pictures: ClassVar[bool] = False  # whether its handover has posed pictures
    drops_mesh: bool = False  # whether its handover lacks the meshes of the stages before
    tunes: ClassVar[bool] = False  # whether its work tunes a prior on the photos, which are then no reference pictures
    leaves_weights: str = ""  # the name of the weights that it leaves; "": none
    leaves_whole: bool = False  # whether these are a whole prior; if not, a LoRA and a word
    uses_photos: bool = False  # whether it compares with the user's photos, or draws or weights views by their cameras
    keeps_faces: bool = True  # whether its result has the faces of the initial mesh
    teachers: tuple[Teacher, ...] = ()  # the priors that it uses, with their losses

    @property
    def choices(self) -> tuple[PriorChoice | None, ...]:
        """The priors that it uses, those of its teachers by default."""
        return tuple(teacher.prior for teacher in self.teachers)

    @abstractmethod
    def total_steps(self, particles: int) -> int:
        """Steps of the whole stage."""

    @abstractmethod
    def check(self, place: Place) -> None:
        """Check the settings at this place of the run, before anything is loaded.

        Raises:
            ValueError: one line with the fix.
        """

    def check_priors(self, views: Sequence[int], adapts: Sequence[bool]) -> None:
        """Refuse settings that the teachers' priors do not support, before anything is loaded.

        Args:
            views: of each prior, the pictures of one object that it denoises together.
            adapts: of each prior, whether a LoRA of it can be trained.

        Raises:
            ValueError: one line with the fix.
        """
        return

    @abstractmethod
    def begin(self, ready: Ready) -> Work:
        """The work at its first step.

        Raises:
            ValueError: a prior, a mesh or pictures that the stage cannot use.
        """

    def with_teachers(self, teachers: tuple[Teacher, ...]) -> Stage:
        """A copy with other teachers."""
        return replace(self, teachers=teachers) if teachers else self  # pyright: ignore[reportArgumentType]

    def with_choices(self, choices: tuple[PriorChoice | None, ...]) -> Stage:
        """A copy with other priors, in the order of :attr:`choices`."""
        pairs = zip(self.teachers, choices, strict=True)
        return self.with_teachers(tuple(replace(teacher, prior=choice) for teacher, choice in pairs))

    def spoken(self, backdrops: tuple[Backdrop, ...], located: Located) -> tuple[Backdrop, ...]:
        """The backdrops whose words its prompts for a prior have: those of the run."""
        return backdrops

    def resolved(self) -> Stage:
        """The same settings with absolute paths. Raises ValueError if a file cannot be used."""
        return self

    def with_steps(self, steps: int) -> Stage:
        """A copy with another number of steps, whose schedules keep their length. Raises ValueError if it has none to set."""
        raise ValueError("--steps: the last stage of this run is of a kind whose number of steps cannot be changed")

    def needs_of_handover(self, settings: Extract) -> Extract:
        """How the previous stage's scene is meshed for this one; by default without a texture, which takes seconds."""
        return replace(settings, texture=False, normal_map=False)

    def rebuild(self, saved: SavedState) -> tuple[Scene, ...]:
        """The scenes of a checkpoint, on the CPU and without a prior.

        Raises:
            ValueError: this kind of stage has no scenes.
        """
        raise ValueError("this kind of stage has no scene: export needs a checkpoint of a stage with a scene")


class Work(ABC):
    """A running stage; its ``state_dict`` is its complete state."""

    index: int  # of the next step, counted from the run's first
    end: int  # index of the next stage's first step
    scenes: tuple[Scene, ...] = ()  # one per particle, if the stage has scenes

    @property
    def finished(self) -> bool:
        return self.index >= self.end

    def prepare(self) -> Iterator[Event]:
        """Do what comes before the first step, such as drawing pictures; by default nothing. No state changes."""
        return iter(())

    @abstractmethod
    def step(self) -> Step:
        """Do one step. Before and after it the state is consistent.

        Raises:
            DivergedError: the optimization failed repeatedly.
        """

    @abstractmethod
    def leave(self, settings: Extract) -> Handover:
        """The results for the next stage, with meshes extracted by ``settings``.

        Raises:
            EmptySceneError, FullSceneError: a scene has no surface of an object.
        """

    def history(self, particle: int) -> str:
        """What the steps have shown of a particle's scene that turns out to be empty or full, as a clause; "": nothing."""
        return ""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The complete state, for a checkpoint."""

    @abstractmethod
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore a checkpoint of the same stage."""


@dataclass(frozen=True)
class SavedState:
    """The state of a run in a checkpoint."""

    stage: int  # counted from 0
    index: int  # of the run's next step
    handover: Handover  # that the stage started from
    work: dict[str, Any]  # of :meth:`Work.state_dict`
    engine: UsedEngine = "torch"  # of the run
    engines: tuple[UsedEngine, ...] = ()  # that run the networks of the stage's teachers

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, numbers, tensors and arrays, as :mod:`dreamlift.runs.checkpoints` stores them."""
        left = self.handover
        handover = {
            "meshes": [None if mesh is None else _record(mesh) for mesh in left.meshes],
            "tuned": list(left.tuned),
            "pictures": None if left.pictures is None else _record(left.pictures),
        }
        return {"stage": self.stage, "index": self.index, "handover": handover, "work": self.work,
                "engine": self.engine, "engines": list(self.engines)}  # fmt: skip

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> SavedState:
        """The inverse of :meth:`to_dict`."""
        left = saved["handover"]
        pictures = left["pictures"]
        if pictures is not None and pictures["cameras"] is not None:
            pictures = {**pictures, "cameras": Cameras(**pictures["cameras"])}
        handover = Handover(
            tuple(None if mesh is None else Mesh(**mesh) for mesh in left["meshes"]),
            tuple(left.get("tuned", ())),
            None if pictures is None else Pictures(**pictures),
        )
        return cls(saved["stage"], saved["index"], handover, saved["work"], saved["engine"], tuple(saved["engines"]))


def _record(value: Any) -> dict[str, Any]:
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: _record(each) if isinstance(each, Cameras) else each for name, each in found.items()}


@contextmanager
def explained_by(history: str) -> Iterator[None]:
    """Add :meth:`Work.history` to the error of a scene that is empty or full."""
    try:
        yield
    except (EmptySceneError, FullSceneError) as error:
        if not history:
            raise
        raise type(error)(f"{error}; {history}") from error


def meshes_of(work: Work, settings: Extract) -> tuple[Mesh, ...]:
    """The mesh of each particle's scene. Raises EmptySceneError or FullSceneError, with what its steps have shown."""
    meshes = []
    for particle, scene in enumerate(work.scenes):
        with explained_by(work.history(particle)):
            meshes.append(scene.eval().to_mesh(settings))
    return tuple(meshes)


def places_of(
    stages: Sequence[Stage], seed: int, particles: int, backdrops: tuple[Backdrop, ...], has_mesh: bool, has_photos: bool,
    has_depth: bool = False, subject: SubjectWords | None = None,
) -> tuple[Place, ...]:  # fmt: skip
    """The place of each stage of a run; ``has_mesh``: whether the first stage has an initial mesh."""
    found, first = [], 0
    for number, stage in enumerate(stages):
        if number:
            has_mesh = (has_mesh or stages[number - 1].makes_scene) and not stages[number - 1].drops_mesh
        left = any(each.leaves_pictures for each in stages[:number])
        found.append(Place(number, first, seed, particles, backdrops, has_mesh, has_photos, left, has_depth, subject))
        first += stage.total_steps(particles)
    return tuple(found)


def with_priors(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages with every teacher's prior stated.

    A null prior is that of the teacher before it in the stage; of a stage's first teacher, that of the first teacher of the
    stage before, or the one that a finetune stage before it leaves; of the run's first teacher, the default.
    """
    before, found = PriorChoice(), []
    for stage in stages:
        known, teachers = before, []
        for teacher in stage.teachers:
            known = teacher.prior or known
            teachers.append(replace(teacher, prior=known))
        before = teachers[0].prior or before if teachers else before
        if stage.leaves_weights:
            (own,) = stage.choices
            before = PriorChoice(MARK + stage.leaves_weights, camera_conditioning=own is None or own.camera_conditioning)
        found.append(stage.with_teachers(tuple(teachers)))
    return tuple(found)
