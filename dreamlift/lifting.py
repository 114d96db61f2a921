"""START HERE: a prompt becomes an asset, by plain calls.

prepare: work out memory, encode the prompt, load the prior, build the scene    (fails before the first expensive step)
lift: the loop (dreamlift/optimize.py), stage by stage; a stage begins with the mesh that the one before it ended with
finish: the scene becomes a mesh with a baked texture
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlift.cameras import turntable
from dreamlift.config.schema import Config, check_stages
from dreamlift.export import EXPORTERS
from dreamlift.export.placement import Placement
from dreamlift.export.splats import save_splats
from dreamlift.memory import Need, check_memory, largest
from dreamlift.optimize import State, check_views, optimize, random_stream, restored, start
from dreamlift.presets import TOYBOX
from dreamlift.priors import load_prior, prompt_reader
from dreamlift.priors.base import Prior
from dreamlift.priors.lora.additions import fingerprint, resolve
from dreamlift.priors.sources import is_embedded, is_one_file, locate, revision_of
from dreamlift.prompts import PromptEmbeds, embed_prompt
from dreamlift.reading.mesh import load_mesh
from dreamlift.runs.run import check_prompt
from dreamlift.scenes.base import Scene, SceneSettings
from dreamlift.scenes.gaussians.scene import GaussianScene
from dreamlift.scenes.surface.scene import Surface, SurfaceScene
from dreamlift.shading.environment import load_environment
from dreamlift.system.files import expanded
from dreamlift.texturing.extract import Extract, fulfil, levels_of_detail
from dreamlift.types import Cameras, Mesh, Splats, Step

VIEW_SIZE = 128  # pixels of the renders that the exported file is compared with


@dataclass(frozen=True)
class Teacher:
    """What a stage learns from."""

    prior: Prior
    revision: str  # of its weights
    embeds: PromptEmbeds


@dataclass
class Job:
    """A run that is ready to go; what changes in it are its state and, with a stage that has another prior, its teacher."""

    config: Config
    teacher: Teacher  # of the stage that the state is in
    state: State
    need: Need | None  # of memory, the dearest stage's; None where no prior's settings could be read beforehand

    @property
    def prior(self) -> Prior:
        return self.teacher.prior

    def change_teacher(self, stage: int) -> None:
        """Take the teacher of ``stage``, counted from 0. Another prior's goes first: two are never in memory together."""
        config, device, kept = self.config.stages[stage], self.prior.device, None
        if config.prior == self.config.stages[stage - 1].prior:
            kept = self.teacher
        else:
            del self.teacher
            self.state.guidance = None  # a LoRA holds on to its network
        self.teacher = teach(config, device, kept)


@dataclass(frozen=True)
class Asset:
    """What a run makes."""

    mesh: Mesh
    config: Config
    cameras: Cameras  # 8 views around the object
    views: Tensor  # (8, S, S, 3) the scene's own renders from them, on white
    metrics: dict[str, float] = field(default_factory=dict)
    others: tuple[Asset, ...] = ()  # of the other particles, where there are several
    lods: tuple[Mesh, ...] = ()  # coarser and coarser versions of the mesh, where they were asked for
    splats: Splats | None = None  # the Gaussians themselves, where the last scene was one of them

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def placement(self) -> Placement:
        """Where the mesh, which is in the scene's coordinates, stands in files; its levels of detail and the Gaussians, too."""
        return self.config.asset.place(self.mesh)

    def save(self, path: str | Path, level: int = 0) -> Path:
        """Write the asset in the format that the suffix names (.glb, .obj, .ply, .stl, .usdz).

        Args:
            level: 0 is the mesh; 1 and up are its coarser versions, as far as ``asset.lod`` asked for them.

        Raises:
            ValueError: the suffix is not one of :data:`dreamlift.export.EXPORTERS`, or what writes it is not installed.
        """
        path = Path(path)
        kind = path.suffix.lower().lstrip(".")
        if kind not in EXPORTERS:
            raise ValueError(f"unknown format {path.suffix!r} in {path.name!r}; accepted: {', '.join(EXPORTERS)}")
        EXPORTERS[kind](self.placement.apply([self.mesh, *self.lods][level]), path, self._extras())
        return path

    def save_splats(self, path: str | Path) -> Path:
        """Write the Gaussians (.ply), at the place and in the size of the mesh's files.

        Raises:
            ValueError: the last scene was none of Gaussians.
        """
        if self.splats is None:
            raise ValueError("the asset has no Gaussians: end with a gaussians scene, or save the mesh as .glb")
        save_splats(self.placement.apply_splats(self.splats), path, self._extras())
        return Path(path)

    def _extras(self) -> dict[str, Any]:
        return {"prompt": self.config.prompt, "seed": self.config.seed, "placement": self.placement.to_extras()}


def generate(prompt: str, config: Config = TOYBOX) -> Asset:
    """Lift ``prompt`` to a textured mesh; nothing is written. ``config`` is a preset, or one changed by ``replace``.

    Raises:
        ValueError: a prompt or a setting that is not accepted, or a prior that is not to be had.
        DivergedError: the optimisation went wrong again and again.
        EmptySceneError: nothing was left in the scene.
    """
    job = prepare(dataclasses.replace(config, prompt=prompt))
    for _ in lift(job):
        pass
    first, *others = (finish(job.config, scene) for scene in job.state.scenes)
    return dataclasses.replace(first, others=tuple(others))


def prepare(config: Config, on_stage: Callable[[str], None] = lambda name: None, saved: dict[str, Any] | None = None) -> Job:
    """Everything that can fail early: the prompt, the device, memory, the words, the prior.

    Args:
        saved: the checkpoint to go on from, as :meth:`dreamlift.optimize.State.state_dict` gave it.
    """
    config = dataclasses.replace(config, prompt=check_prompt(config.prompt), additions=resolve(config.additions))
    check_stages(config)
    mesh = None
    if config.start and not saved:
        if not expanded(config.start).is_file():
            raise ValueError(
                f"there is no mesh file {config.start!r}: give --mesh the path of a .glb, .gltf, .obj, .ply or .stl file"
            )
        mesh, origin = load_mesh(config.start, config.up)
        home = (1.0 / origin.scale, *origin.offset)
        config = dataclasses.replace(config, asset=dataclasses.replace(config.asset, home=home))
    config.asset.check()
    if config.prior_config and not any(is_one_file(stage.prior) for stage in config.stages):
        raise ValueError("--prior-config goes with a one-file checkpoint (--prior FILE.safetensors); leave it out")
    settings = expanded(config.prior_config)
    config = dataclasses.replace(
        config,
        prior=whole_name(config.prior),
        prior_config=str(settings.resolve()) if config.prior_config and settings.is_dir() else config.prior_config,
        start=str(expanded(config.start).resolve()) if config.start else "",
        scene=with_panorama(config.scene),
        then=tuple(
            dataclasses.replace(stage, prior=whole_name(stage.prior), scene=with_panorama(stage.scene)) for stage in config.then
        ),
    )
    device = find_device(config.device)
    # All stages, now: what does not fit or is not there must not be found out at the end of the first one.
    need = largest(tuple(check_memory(stage, folder_of(config, i), device, i) for i, stage in enumerate(config.stages)))
    if need is not None:
        on_stage(str(need))
    stage = config.stages[saved["stage"] if saved else 0]
    teacher = teach(stage, device)
    for later in config.stages:
        if later.prior == stage.prior:
            check_views(later, teacher.prior)
    state = restored(stage, teacher.prior, saved) if saved else start(stage, teacher.prior, (mesh,))
    return Job(config, teacher, state, need)


def folder_of(config: Config, stage: int) -> Path:
    """The diffusers folder of the prior of stage ``stage``, counted from 0.

    Raises:
        PriorNotFoundError: with the option that says which one, where a later stage has a prior of its own.
    """
    option = f"--then.{stage - 1}.prior" if stage and config.then[stage - 1].prior else "--prior"
    return locate(config.stages[stage].prior, config.prior_config, option=option)


def with_panorama(scene: SceneSettings) -> SceneSettings:
    """The settings with the whole path of the panorama that lights the scene, where there is one, after a look at the file.

    Raises:
        ValueError: it cannot be used.
    """
    if not isinstance(scene, Surface) or not scene.environment:
        return scene
    scene = dataclasses.replace(scene, environment=str(expanded(scene.environment).resolve()))
    load_environment(scene.environment, scene.brightness)
    return scene


def teach(config: Config, device: torch.device, kept: Teacher | None = None) -> Teacher:
    """The teacher of a stage; of one that is ``kept`` the prior is not loaded again."""
    folder = locate(config.prior, config.prior_config)
    # The words first: text encoders and networks that are loaded here are then never in memory together.
    read = prompt_reader(folder, device, config.additions)
    embeds = embed_prompt(config.prompt, config.negative, config.wording, read, config.backdrops)
    if kept is not None:
        return dataclasses.replace(kept, embeds=embeds)
    prior = load_prior(folder, device, config.see_cameras, config.additions, config.memory, config.linear_latents)
    return Teacher(prior, revision_of(folder) + fingerprint(config.additions), embeds)


def lift(job: Job, on_stage: Callable[[str], None] = lambda name: None) -> Iterator[Step]:
    """Every step that is left, of every stage; ``job.state`` is changed in place, and is whole after each of them.

    Raises:
        DivergedError: the optimisation went wrong again and again.
        EmptySceneError: a stage left nothing that the next one could begin with.
    """
    stages, state = job.config.stages, job.state
    for number in range(state.stage, len(stages)):
        stage = stages[number]
        if number > state.stage:
            on_stage(f"stage {number + 1} of {len(stages)}")
            meshes = tuple(scene.eval().to_mesh(passed_on(stage)) for scene in state.scenes)
            job.change_teacher(number)
            state.become(start(stage, job.prior, meshes, number, state.index))
        yield from optimize(stage, job.prior, job.teacher.embeds, state)


def passed_on(stage: Config) -> Extract:
    """How the scene before ``stage`` becomes the mesh that it begins with: with a texture only where that is painted on.

    Other scenes take their colours from points of the mesh, for which a colour a vertex will do: unwrapping takes seconds.
    """
    return stage.mesh if stage.scene.keeps_start else dataclasses.replace(stage.mesh, texture=False, normal_map=False)


def whole_name(prior: str) -> str:
    """A prior's name, with its whole path if it is a file or a folder: a relative one means another where a run is resumed."""
    local = expanded(prior)
    return str(local.resolve()) if prior and not is_embedded(prior) and local.exists() else prior


def finish(config: Config, scene: Scene, on_stage: Callable[[str], None] = lambda name: None) -> Asset:
    """Mesh, texture and reference views of an optimised scene."""
    scene.eval()
    on_stage("mesh and texture")
    # A mesh of the user's own that was only painted leaves as it came; other scenes have decimated theirs as far as it goes.
    own = bool(config.start) and all(isinstance(stage.scene, Surface) for stage in config.stages)
    mesh = fulfil(scene.to_mesh(config.mesh), config.mesh, keep_faces=own or not isinstance(scene, SurfaceScene))
    lods = levels_of_detail(mesh, config.asset.lod, config.mesh.texture_size)
    on_stage("views")
    cameras = turntable(8, distance=2.9, fov_deg=42.0, size=VIEW_SIZE)
    views = render_views(scene, cameras)
    metrics = {"faces": float(len(mesh.faces)), "vertices": float(len(mesh.vertices))}
    splats = scene.to_splats() if isinstance(scene, GaussianScene) else None
    return Asset(mesh, config, cameras, views, metrics, lods=lods, splats=splats)


@torch.no_grad()
def render_views(scene: Scene, cameras: Cameras) -> Tensor:
    """Pictures ``(B, H, W, 3)`` of the scene on white, on the CPU."""
    device = next(scene.parameters()).device
    white = torch.ones(3, device=device)
    rng = random_stream("views")
    parts = [scene.render(cameras[i : i + 1].to(device), rng, background=white).rgb.cpu() for i in range(len(cameras))]
    return torch.cat(parts).clamp(0, 1)


def find_device(name: str) -> torch.device:
    """The torch device of "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        ValueError: there is no such device, or it is not there now.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"unknown device {name!r}; accepted: auto, cpu, cuda, cuda:1, mps")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"device {name!r} is not there ({count} CUDA devices found); use --device auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' is not there; use --device auto or cpu")
    return device
