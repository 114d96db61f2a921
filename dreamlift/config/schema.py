"""The settings of a run: :class:`Config`, which a run's ``config.yaml`` holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dreamlift.export.settings import Files
from dreamlift.priors.engine import Engine
from dreamlift.priors.saving import Memory
from dreamlift.prompts import Backdrop, words_of
from dreamlift.reading.photos import Photo
from dreamlift.schedules import value_at
from dreamlift.stages import STAGES, Stage
from dreamlift.stages.base import Place, places_of
from dreamlift.stages.lift import Lift
from dreamlift.stages.tuned import base_of, base_priors
from dreamlift.texturing.extract import Extract
from dreamlift.tuning.words import SubjectWords

_STAGE = ("steps", "cameras", "lighting", "scene", "weights", "adam")
_TEACHER = ("wording", "show", "guidance")
# Top-level names of an older config format, without stages and teachers, and the names that replaced them.
_MOVED = {
    **{name: f"stages[0].{name}" for name in _STAGE},
    **{name: f"stages[0].teachers[0].{name}" for name in _TEACHER},
    "prior": "stages[0].teachers[0].prior.name", "prior_config": "stages[0].teachers[0].prior.settings",
    "additions": "stages[0].teachers[0].prior.loras and .embeddings",
    "then": "further entries of stages", "start": "initial_mesh",
    "see_cameras": "stages[0].teachers[0].prior.camera_conditioning",
    "linear_latents": "stages[0].teachers[0].prior.linear_encoder",
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    MOVED: ClassVar[dict[str, str]] = _MOVED

    prompt: str = ""  # description of the object in one line, 1 to 1000 characters
    negative: str = ""  # negative prompt: what the object should not look like; "": the empty prompt
    # pictures of the object with their cameras, for photometric terms and for priors that are shown a picture; presets have an
    # entry with an empty path, which states the camera of a photo that is to be given
    photos: tuple[Photo, ...] = ()
    # the kind of thing in the photos and a new word for this one, for stages that tune a prior: {class_name: duck, word: zwx}
    subject: SubjectWords | None = field(default=None, metadata={"late": True})
    # depth-estimation model of transformers (folder or hub name) that gives the photos a depth, for photometric.depth; "": none
    depth_model: str = ""
    seed: int = 0  # seed of all random numbers, 0 to 2^63 - 1
    device: str = "auto"  # auto (CUDA if available, otherwise the CPU), cpu, cuda, cuda:1 or mps
    # who runs the priors' networks: torch, onnx (ONNX Runtime, CPUs only), or auto (onnx on a CPU where it is installed, for
    # networks of up to 400 MB)
    engine: Engine = "auto"
    initial_mesh: str = ""  # mesh file (.glb, .gltf, .obj, .ply, .stl) from which the first stage starts; "": none
    up: Literal["y", "z"] = "y"  # up axis of the initial mesh's file: y (glTF) or z (Blender, CAD)
    particles: int = 1  # scenes that are optimized in turn, at least 1; with VSD they share its LoRA
    backdrops: tuple[Backdrop, ...] = ()  # backgrounds, one drawn per picture and named in the prompt, replacing the scene's
    stages: tuple[Stage, ...] = field(default=(Lift(),), metadata={"choices": STAGES})  # kind of stage; stages run in order
    mesh: Extract = field(default_factory=Extract)  # extraction of the mesh at the end of a stage
    asset: Files = field(default_factory=Files)  # files that are written at the end of the run
    memory: Memory = field(default_factory=Memory)  # options that reduce the memory of the priors
    checkpoint_every: int = 50  # steps between checkpoints, at least 1
    keep_checkpoints: int = 2  # number of newest checkpoints kept on disk, at least 1

    def __post_init__(self) -> None:
        for name in ("particles", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; accepted: 0 to 2^63 - 1")
        if len(self.stages) > 100:
            raise ValueError(f"stages has {len(self.stages)} entries; accepted: at most 100")
        if not self.stages:
            raise ValueError("stages is empty; a run needs at least one stage")

    @property
    def total_steps(self) -> int:
        """Steps of all stages and particles together."""
        return sum(stage.total_steps(self.particles) for stage in self.stages)

    @property
    def tunes(self) -> bool:
        """Whether a stage tunes a prior on the photos, which are then no reference pictures."""
        return any(stage.tunes for stage in self.stages)

    @property
    def compares_depth(self) -> bool:
        """Whether a stage compares the depths that ``depth_model`` gives the photos."""
        compared = [stage.photometric for stage in self.stages if isinstance(stage, Lift) and stage.photometric is not None]
        return bool(self.depth_model) and any(each.source == "photos" and each.ever("depth") for each in compared)

    def places(self) -> tuple[Place, ...]:
        """The place of each stage in the run."""
        given = (bool(self.initial_mesh), any(photo.path for photo in self.photos), bool(self.depth_model), self.subject)
        return places_of(self.stages, self.seed, self.particles, self.backdrops, *given)


def check_stages(config: Config) -> None:
    """Check that each stage can follow the one before and has the inputs that it needs.

    Raises:
        ValueError: the stage's path in the settings, counted from 0, and the fix.
    """
    for place, stage in zip(config.places(), config.stages, strict=True):
        try:
            stage.check(place)
        except ValueError as error:
            raise ValueError(f"stages.{place.number}: {error}") from None
    for number, stage in enumerate(config.stages):
        bases = base_priors(config.stages[:number])
        for choice in filter(None, stage.choices):
            base_of(choice, bases, f"stages.{number}")
    if config.tunes and config.subject and config.prompt:
        said, subject = words_of(config.prompt), config.subject
        if subject.word not in said:
            raise ValueError(
                f"the prompt does not have the subject's word {subject.word!r}: write it in, as in {subject.prompt!r}"
            )
        if not set(words_of(subject.class_name)) <= set(said):
            raise ValueError(
                f"the prompt does not name the class {subject.class_name!r}: write it in, as in {subject.prompt!r}"
            )
    if not config.stages[-1].makes_scene:
        raise ValueError(f"stages.{len(config.stages) - 1}: it makes no scene, so a run cannot end with it; add a lift stage")


def unused_inputs(config: Config, pictured: bool) -> list[str]:
    """Notes on a model of the photos' depths that no part of the run uses.

    Args:
        pictured: a prior is shown the photos.

    Raises:
        ValueError: no part of the run uses the photos.
    """
    notes = []
    if config.photos and not (pictured or config.tunes or any(stage.uses_photos for stage in config.stages)):
        raise ValueError(
            "photos are given, but nothing here uses them: --class NOUN, their kind of thing, tunes a prior on them; "
            "--image FILE lifts one"
        )
    if config.depth_model and not config.compares_depth:
        notes.append(f"--depth-model has no effect, since no stage compares depths{_depth_fix(config.stages)}")
    return notes


def _depth_fix(stages: tuple[Stage, ...]) -> str:
    """How the first stage that compares with the photos would compare their depths, with Magic123's weight."""
    for number, stage in enumerate(stages):
        compared = stage.photometric if isinstance(stage, Lift) else None
        if compared is not None and compared.source == "photos":
            # The official repository's coarse stage: 5 for the colours, and 0.01 for half of 1 - r.
            weight = value_at(compared.rgb, 0.0) / 1000 or 1.0
            return f": add --stages.{number}.photometric.depth {weight:g}, which is Magic123's weight relative to rgb"
    return ", nor with the photos"
