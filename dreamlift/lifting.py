"""START HERE: words (and pictures) become an asset, by plain calls.

resolve: look everything up and refuse what cannot work; every prior is located once, nothing heavy is loaded
load: encode the words, free the encoders, load the networks, build the first stage's scene
lift: the stages' steps, a generator of :data:`~dreamlift.types.Event`; a stage begins with what the one before it left
finish: the scene becomes a mesh with a baked texture
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dreamlift.asset import Asset
from dreamlift.cameras import turntable
from dreamlift.config.schema import Config, check_stages
from dreamlift.memory import Need, check_memory
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import Located, Priors, find
from dreamlift.priors.sources import is_one_file
from dreamlift.prompts import Embeds, check_prompt
from dreamlift.reading.mesh import load_mesh
from dreamlift.reading.photos import read_photos
from dreamlift.scenes.base import Scene
from dreamlift.stages.base import Ready, SavedState, Stage, Work
from dreamlift.system.files import expanded
from dreamlift.system.streams import random_stream
from dreamlift.texturing.extract import finalize, levels_of_detail
from dreamlift.types import Cameras, Event, Handover, Mesh, Note, StageBegan, Task

VIEW_SIZE = 128  # pixels of the renders that the exported file is compared with


def ignore(text: str) -> None:
    """What is done with news that nobody wants."""


@dataclass(frozen=True)
class Resolved:
    """A run whose settings and files are known to be good."""

    config: Config  # with absolute paths, and every teacher's prior stated
    priors: tuple[tuple[Located, ...], ...]  # of each stage's teachers
    device: torch.device
    task: Task
    mesh: Mesh | None  # the user's own, that the first stage begins with
    need: Need | None  # of memory, the largest of all stages; None where no prior's weights could be counted
    notes: tuple[str, ...] = ()  # for the user

    @property
    def revisions(self) -> str:
        """What identifies the weights of all priors, each once."""
        return " ".join(dict.fromkeys(located.revision for stage in self.priors for located in stage))


@dataclass
class Job:
    """A run that is ready to go on. What changes in it is the work of its stage."""

    resolved: Resolved
    embeds: tuple[tuple[Embeds, ...], ...]  # of each stage's teachers
    pool: Priors
    number: int  # of the stage, counted from 0
    handover: Handover  # what that stage began with
    work: Work

    @property
    def config(self) -> Config:
        return self.resolved.config

    def saved(self) -> SavedState:
        """The run as a checkpoint holds it; the tensors are the work's own."""
        return SavedState(self.number, self.work.index, self.handover, self.work.state_dict())


def resolve(config: Config, saved: SavedState | None = None) -> Resolved:
    """Look everything up: files, priors, the device, memory. After it nothing asks again where a file is.

    Args:
        saved: a checkpoint that the run goes on from; the mesh that the run began with is then not read again.

    Raises:
        ValueError: whatever cannot work, in one line with the fix.
    """
    config = replace(config, prompt=check_prompt(config.prompt))
    check_stages(config)
    mesh = None
    if config.initial_mesh and saved is None:
        mesh, config = _with_mesh(config)
    config.asset.check()
    config = replace(
        config,
        initial_mesh=str(expanded(config.initial_mesh).resolve()) if config.initial_mesh else "",
        photos=tuple(replace(photo, path=str(expanded(photo.path).resolve())) for photo in config.photos),
        stages=tuple(stage.resolved() for stage in with_priors(config.stages)),
    )
    device = find_device(config.device)
    photos = read_photos(config.photos) if config.photos else None
    found: dict[int, Located] = {}
    priors = tuple(
        tuple(_located(teacher.prior, number, place, config, found) for place, teacher in enumerate(stage.teachers))
        for number, stage in enumerate(config.stages)
    )
    for stage, located in zip(config.stages, priors, strict=True):
        stage.check_priors([each.views for each in located])
    stages = tuple(_with_choices(stage, located) for stage, located in zip(config.stages, priors, strict=True))
    config = replace(config, stages=stages)
    # Of all stages, now: what does not fit must not be found out at the end of the first one.
    need, notes = check_memory(config, priors, device)
    return Resolved(config, priors, device, Task(config.prompt, config.negative, photos), mesh, need, notes)


def _with_mesh(config: Config) -> tuple[Mesh, Config]:
    """The user's mesh, and the config that says where it stood in its file."""
    if not expanded(config.initial_mesh).is_file():
        raise ValueError(
            f"there is no mesh file {config.initial_mesh!r}: give --mesh the path of a .glb, .gltf, .obj, .ply or .stl file"
        )
    mesh, origin = load_mesh(config.initial_mesh, config.up)
    home = (1.0 / origin.scale, *origin.offset)
    return mesh, replace(config, asset=replace(config.asset, home=home))


def with_priors(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages with every teacher's prior stated: null stands for that of the teacher before it, at first the default."""
    known, found = PriorChoice(), []
    for stage in stages:
        teachers = []
        for teacher in stage.teachers:
            known = teacher.prior or known
            teachers.append(replace(teacher, prior=known))
        found.append(stage.with_teachers(tuple(teachers)))
    return tuple(found)


def _located(choice: PriorChoice | None, number: int, place: int, config: Config, found: dict[Any, Located]) -> Located:
    """The prior of a teacher, looked up where no earlier teacher has the same."""
    assert choice is not None  # with_priors has stated it
    key = (dataclasses.astuple(replace(choice, loaded=None)), id(choice.loaded))
    if key not in found:
        if choice.settings and not is_one_file(choice.name):
            raise ValueError("--prior-config goes with a one-file checkpoint (--prior FILE.safetensors); leave it out")
        option = "--prior" if (number, place) == (0, 0) else f"--stages.{number}.teachers.{place}.prior"
        found[key] = find(choice, option)
    return found[key]


def _with_choices(stage: Stage, located: tuple[Located, ...]) -> Stage:
    """The stage with the absolute paths of its priors."""
    teachers = tuple(replace(teacher, prior=each.choice) for teacher, each in zip(stage.teachers, located, strict=True))
    return stage.with_teachers(teachers)


def load(resolved: Resolved, saved: SavedState | None = None, pool: Priors | None = None) -> Job:
    """Everything in memory that the run needs: words first, whose encoders are freed, then networks, then the scene.

    Args:
        saved: the checkpoint to go on from.
        pool: priors that outlive the run, for programs that make many assets.
    """
    config, number = resolved.config, saved.stage if saved else 0
    known: dict[Any, Embeds] = {}
    embeds = []
    for stage, priors in zip(config.stages, resolved.priors, strict=True):
        own = []
        for teacher, located in zip(stage.teachers, priors, strict=True):
            key = (id(located), teacher.wording)  # words are encoded once where prior and wording are the same
            if key not in known:
                known[key] = located.read(resolved.task, teacher.wording, config.backdrops, resolved.device)
            own.append(known[key])
        embeds.append(tuple(own))
    handover = saved.handover if saved else Handover(meshes=(resolved.mesh,))
    pool = pool or Priors()
    work = begin_stage(resolved, tuple(embeds), pool, number, handover)
    if saved:
        work.load_state_dict(saved.work)
    return Job(resolved, tuple(embeds), pool, number, handover, work)


def begin_stage(
    resolved: Resolved, embeds: tuple[tuple[Embeds, ...], ...], pool: Priors, number: int, handover: Handover
) -> Work:
    """The work of stage ``number``, counted from 0, at its first step. Priors that it does not need leave the memory first."""
    config, device = resolved.config, resolved.device
    priors = pool.take(resolved.priors[number], device, config.memory)
    ready = Ready(config.places()[number], resolved.task, device, priors, embeds[number], handover)
    return config.stages[number].begin(ready)


def lift(job: Job) -> Iterator[Event]:
    """Everything that is left to do, of every stage; ``job`` is changed in place, and whole after each event.

    Raises:
        DivergedError: the optimisation failed again and again.
        EmptySceneError: a stage left nothing that the next one could begin with.
    """
    stages = job.config.stages
    yield StageBegan(job.number, len(stages), job.handover)
    while True:
        while not job.work.finished:
            yield job.work.step()
        if job.number + 1 == len(stages):
            return
        following = stages[job.number + 1]
        yield Note(f"stage {job.number + 1} of {len(stages)} is done; the next one begins with its result")
        job.handover = job.work.leave(following.needs_of_handover(job.config.mesh))
        del job.work  # before the next prior is loaded: what the loss has learnt holds on to the network
        job.number += 1
        job.work = begin_stage(job.resolved, job.embeds, job.pool, job.number, job.handover)
        yield StageBegan(job.number, len(stages), job.handover)


def finish(job: Job, on_stage: Callable[[str], None] = ignore) -> Asset:
    """The asset of a run whose last stage is done; with several particles the first one's, and the others beside it."""
    first, *others = (asset_of(job.config, scene, on_stage) for scene in job.work.scenes)
    return replace(first, others=tuple(others))


def asset_of(config: Config, scene: Scene, on_stage: Callable[[str], None] = ignore) -> Asset:
    """Mesh, texture and reference views of an optimised scene."""
    scene.eval()
    on_stage("mesh and texture")
    # A mesh of the user's own that was only painted keeps its faces; other scenes have decimated theirs as far as it goes.
    painted = bool(config.initial_mesh) and all(stage.keeps_faces for stage in config.stages)
    keep_faces = painted or not scene.keeps_own_faces
    mesh = finalize(scene.to_mesh(config.mesh), config.mesh, keep_faces=keep_faces)
    lods = levels_of_detail(mesh, config.asset.lod, config.mesh.texture_size)
    on_stage("views")
    cameras = turntable(8, distance=2.9, fov_deg=42.0, size=VIEW_SIZE)
    views = render_views(scene, cameras)
    metrics = {"faces": float(len(mesh.faces)), "vertices": float(len(mesh.vertices))}
    return Asset(mesh, config, cameras, views, metrics, lods=lods, splats=scene.to_splats())


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
        ValueError: there is no such device here.
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
