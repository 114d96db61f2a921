"""What can be set: :class:`Config`. A run's ``config.yaml`` is exactly this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dreamlift.export.settings import Files
from dreamlift.priors.saving import Memory
from dreamlift.prompts import Backdrop
from dreamlift.reading.photos import Photo
from dreamlift.stages import STAGES, Stage
from dreamlift.stages.base import Place, places_of
from dreamlift.stages.lift import Lift
from dreamlift.texturing.extract import Extract

_STAGE = ("steps", "cameras", "lighting", "scene", "weights", "adam")
_TEACHER = ("wording", "show", "guidance")
# Top-level names of configs before there were stages and teachers, and what took their place.
_MOVED = {
    **{name: f"stages.0.{name}" for name in _STAGE},
    **{name: f"stages.0.teachers.0.{name}" for name in _TEACHER},
    "prior": "stages.0.teachers.0.prior.name", "prior_config": "stages.0.teachers.0.prior.settings",
    "additions": "stages.0.teachers.0.prior.loras and .embeddings",
    "then": "further entries of stages", "start": "initial_mesh",
    "see_cameras": "stages.0.teachers.0.prior.camera_conditioning",
    "linear_latents": "stages.0.teachers.0.prior.linear_encoder",
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    MOVED: ClassVar[dict[str, str]] = _MOVED

    prompt: str = ""
    negative: str = ""  # what is not wanted; "" is the empty prompt
    photos: tuple[Photo, ...] = ()  # pictures of the object, for stages with a photometric term
    seed: int = 0  # decides all random numbers
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1", "mps"
    initial_mesh: str = ""  # a mesh file (.glb, .gltf, .obj, .ply, .stl) that the first stage begins with
    up: Literal["y", "z"] = "y"  # which axis of that file points up (Blender's and CAD's is z; glTF's is y)
    particles: int = 1  # scenes that are lifted in turn; they share what the loss learns (VSD's LoRA)
    backdrops: tuple[Backdrop, ...] = ()  # one is drawn for each picture and named in the prompt; hides scene.background
    stages: tuple[Stage, ...] = field(default=(Lift(),), metadata={"choices": STAGES})  # carried out one after the other
    mesh: Extract = field(default_factory=Extract)
    asset: Files = field(default_factory=Files)
    memory: Memory = field(default_factory=Memory)
    checkpoint_every: int = 50  # steps between two checkpoints
    keep_checkpoints: int = 2  # the newest ones that stay on disk

    def __post_init__(self) -> None:
        for name in ("particles", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; accepted: 0 to 2^63 - 1")
        if not self.stages:
            raise ValueError("stages is empty; a run has at least one")

    @property
    def total_steps(self) -> int:
        """Steps of all stages and particles together."""
        return sum(stage.total_steps(self.particles) for stage in self.stages)

    def places(self) -> tuple[Place, ...]:
        """Where each stage stands in the run."""
        given = (bool(self.initial_mesh), bool(self.photos))
        return places_of(self.stages, self.seed, self.particles, self.backdrops, *given)


def check_stages(config: Config) -> None:
    """Refuse stages that cannot follow each other or that lack what they need.

    Raises:
        ValueError: the stage's number and the fix.
    """
    for place, stage in zip(config.places(), config.stages, strict=True):
        try:
            stage.check(place)
        except ValueError as error:
            raise ValueError(f"stage {place.number + 1}: {error}") from None
    if not config.stages[-1].makes_scene:
        raise ValueError(f"stage {len(config.stages)}: it makes no scene, so a run cannot end with it; add a lift stage")
