"""What can be set: :class:`Config`, and the parts of it that are no part of the scene, the loss or the prior."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dreamlift.cameras import CameraSampler
from dreamlift.export.settings import Files
from dreamlift.guidance import GUIDANCE
from dreamlift.guidance.base import Guidance
from dreamlift.guidance.sds import SDS
from dreamlift.priors.lora.additions import Additions
from dreamlift.priors.saving import Memory
from dreamlift.prompts import WORDINGS, Backdrop, Compass, Wording
from dreamlift.scenes import SCENES
from dreamlift.scenes.background import Solid
from dreamlift.scenes.base import SceneSettings
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.schedules import SCHEDULES, Schedule, value_at
from dreamlift.shading.lighting import Lighting
from dreamlift.texturing.extract import Extract

if TYPE_CHECKING:
    from collections.abc import Mapping

Show = Literal["color", "normal"]
"""What of a render the prior is shown: its colours, or its world normals, (n + 1) / 2 on black (Fantasia3D)."""


@dataclass(frozen=True)
class Weights:
    """Weights of the scene's regularisers; 0 switches a term off and it is not computed."""

    sparsity: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    opaque: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    orientation: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    distortion: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    tv: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    depth_variance: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    normal_consistency: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    laplacian: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})

    def at(self, progress: float) -> Mapping[str, float]:
        """The terms that are on, with their weights."""
        values = {name: value_at(value, progress) for name, value in vars(self).items()}
        return {name: value for name, value in values.items() if value != 0.0}

    def ever(self) -> frozenset[str]:
        """The terms that are on at some time of a run (its hundredths are looked at)."""
        return frozenset(name for i in range(101) for name in self.at(i / 100))


@dataclass(frozen=True)
class Adam:
    """The optimiser. Learning rates come from the scene's parts; this scales and shapes them."""

    lr_scale: float | Schedule = field(default=1.0, metadata={"choices": SCHEDULES})
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-15  # as in Instant-NGP and threestudio: grids get tiny gradients
    clip_norm: float | None = None  # largest norm of all gradients together

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name):g}; accepted: 0 up to, but not including, 1")
        if self.eps <= 0 or (self.clip_norm is not None and self.clip_norm <= 0):
            raise ValueError(f"eps is {self.eps:g} and clip_norm {self.clip_norm}; both must be positive")
        if min(value_at(self.lr_scale, progress) for progress in (0.0, 0.5, 1.0)) < 0:
            raise ValueError("lr_scale becomes negative; it must be 0 or more at all times")


@dataclass(frozen=True)
class Stage:
    """A stage after the first. Its scene begins with the mesh that the stage before it ended with."""

    prior: str = ""  # another prior; "" goes on with the one before
    steps: int = 300  # of each particle
    cameras: CameraSampler = field(default_factory=CameraSampler)
    wording: Wording = field(default_factory=Compass, metadata={"choices": WORDINGS})
    lighting: Lighting = field(default_factory=Lighting)
    scene: SceneSettings = field(default_factory=Nerf, metadata={"choices": SCENES})
    show: Show = "color"  # what the prior is shown: the render's colours, or its normals
    guidance: Guidance = field(default_factory=SDS, metadata={"choices": GUIDANCE})
    weights: Weights = field(default_factory=Weights)
    adam: Adam = field(default_factory=Adam)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")


@dataclass(frozen=True)
class Config:
    """Everything that decides a run; a run's ``config.yaml`` is exactly this."""

    prompt: str = ""
    negative: str = ""  # what is not wanted; "" is the empty prompt
    prior: str = "toybox"  # a known name, a hub name, a diffusers folder, or a one-file checkpoint (.safetensors)
    prior_config: str = ""  # for a one-file checkpoint: the prior with its settings and tokenizers; "" is the known one
    additions: Additions = field(default_factory=Additions)  # your own LoRA and textual-inversion files
    see_cameras: bool = True  # tell the prior each picture's camera, if it was trained to take one
    linear_latents: bool = False  # a linear map of colours in the place of a latent prior's encoder: fast, without texture
    seed: int = 0
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1", "mps"
    start: str = ""  # a mesh file (.glb, .obj, .ply, .stl) that the first stage begins with
    up: Literal["y", "z"] = "y"  # which axis of that file points up (Blender's and CAD's is z; glTF's is y)
    steps: int = 300  # of each particle
    particles: int = 1  # scenes that are lifted in turn; what the loss learns (VSD's LoRA) they share
    cameras: CameraSampler = field(default_factory=CameraSampler)
    wording: Wording = field(default_factory=Compass, metadata={"choices": WORDINGS})
    backdrops: tuple[Backdrop, ...] = ()  # one is drawn for each picture, in the place of the scene's own background
    lighting: Lighting = field(default_factory=Lighting)
    scene: SceneSettings = field(default_factory=Nerf, metadata={"choices": SCENES})
    show: Show = "color"  # what the prior is shown: the render's colours, or its normals
    guidance: Guidance = field(default_factory=SDS, metadata={"choices": GUIDANCE})
    weights: Weights = field(default_factory=Weights)
    adam: Adam = field(default_factory=Adam)
    then: tuple[Stage, ...] = ()  # further stages; what is above is the first one
    mesh: Extract = field(default_factory=Extract)
    asset: Files = field(default_factory=Files)
    memory: Memory = field(default_factory=Memory)
    checkpoint_every: int = 50  # steps between two checkpoints
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "particles", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; accepted: 0 to 2^63 - 1")

    @property
    def stages(self) -> tuple[Config, ...]:
        """Each stage as a config of its own, without further stages; the first one has this config's own settings."""
        found = [dataclasses.replace(self, then=())] if self.then else [self]
        for stage in self.then:
            changes = {each.name: getattr(stage, each.name) for each in dataclasses.fields(Stage)}
            changes["prior"] = stage.prior or found[-1].prior
            found.append(dataclasses.replace(found[0], **changes))
        return tuple(found)

    @property
    def total_steps(self) -> int:
        """Steps of all stages and particles together."""
        return (self.steps + sum(stage.steps for stage in self.then)) * self.particles


def check_stages(config: Config) -> None:
    """Refuse a stage whose scene cannot begin or learn as it would have to, lacks a regulariser, or hides its background.

    Raises:
        ValueError: the stage's number and the fix.
    """
    colors = [each.color for each in config.backdrops]
    for number, stage in enumerate(config.stages, start=1):
        begins = number > 1 or bool(config.start)
        name = next(name for name, kind in SCENES.items() if kind is type(stage.scene))
        if begins and not stage.scene.takes_start:
            fix = (
                "use it in the first stage only" if number > 1 else "a preset that can is --preset texture-toy or latent-paint"
            )
            raise ValueError(f"stage {number}: a {name} scene cannot begin with a mesh; {fix}")
        if stage.scene.needs_start and not begins:
            raise ValueError(
                f"stage {number}: a {name} scene needs a mesh to begin with; give --mesh FILE, or a stage before it"
            )
        if stage.show == "normal" and stage.scene.keeps_start:
            raise ValueError(
                f"stage {number}: show is normal, but the normals of a {name} scene stay as they are: it would learn nothing; "
                "use --show color, or a scene that changes its shape (tetmesh)"
            )
        if missing := sorted(stage.weights.ever() - set(stage.scene.terms)):
            has = ", ".join(stage.scene.terms) or "none"
            raise ValueError(f"stage {number}: weights.{missing[0]} is set, but a {name} scene has no such regulariser ({has})")
        background = getattr(stage.scene, "background", None)
        if colors and (not isinstance(background, Solid) or background.color not in colors):
            raise ValueError(
                f"stage {number}: scene.background is not one of the backdrops, which hide it while the prior teaches; make it "
                "a solid background of the color of one of them, or give --backdrops [] to do without"
            )
