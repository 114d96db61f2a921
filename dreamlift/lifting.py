"""START HERE: the four calls that make an asset from a prompt (and pictures).

resolve: check the settings and locate all files and priors, each once; no weights are loaded
load: encode the prompt, free the encoders, load the networks, build the first stage's scene
lift: the steps of all stages, a generator of :data:`~dreamlift.types.Event`; each stage starts from the previous one's results
finish: extract the mesh from the scene and bake its texture
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlift.asset import Asset
from dreamlift.cameras import turntable
from dreamlift.config.schema import Config, check_stages, unused_inputs
from dreamlift.images.photos import read_photos, resolved_photo
from dreamlift.memory import Need, check_memory, tuning_need
from dreamlift.priors.engine import INSTALL, Engine, UsedEngine, available
from dreamlift.priors.kinds import Located, Priors
from dreamlift.priors.loading.sources import whole_name
from dreamlift.priors.lora.additions import file_hash, with_whole_paths
from dreamlift.prompts import Backdrop, Embeds, check_prompt
from dreamlift.reading.mesh import load_mesh
from dreamlift.reading.photos import Photo
from dreamlift.scenes.base import Scene
from dreamlift.stages.base import Ready, SavedState, Stage, Work, explained_by, with_priors
from dreamlift.stages.finetune import Finetune, find_tuned
from dreamlift.stages.located import locate_priors, unknown_words_told
from dreamlift.stages.teacher import Teacher
from dreamlift.stages.tuned import Material, Shelf, on_top, tuned_name, tuned_priors
from dreamlift.system.files import expanded, user_file
from dreamlift.system.streams import random_stream
from dreamlift.texturing.extract import finalize, levels_of_detail
from dreamlift.types import Cameras, Event, Handover, Mesh, Note, StageBegan, Task

VIEW_SIZE = 128  # width and height, in pixels, of the renders that the exported file is compared with


def ignore(text: str) -> None:
    """Discard a message."""


@dataclass(frozen=True)
class Resolved:
    """A run with checked settings and files."""

    config: Config  # with absolute paths, and the prior of every teacher filled in
    # one per choice of each stage; in place of weights that the run is still to tune, their base prior
    priors: tuple[tuple[Located, ...], ...]
    device: torch.device
    task: Task
    engine: UsedEngine  # that runs the frozen networks, except those that it cannot run
    mesh: Mesh | None  # the user's initial mesh
    need: Need | None  # estimated memory, the largest of all stages; None if no prior's parameters could be counted
    notes: tuple[str, ...] = ()  # messages to the user

    @cached_property  # photos are hashed once
    def revisions(self) -> str:
        """Identifiers of the weights of all priors, each once."""
        photos = [f"photo {file_hash(Path(photo.path))[:16]}" for photo in self.config.photos]
        return " ".join(dict.fromkeys([*(located.revision for stage in self.priors for located in stage), *photos]))


@dataclass
class Job:
    """A run that can continue: its inputs, and the work of its current stage, which holds the state."""

    resolved: Resolved
    embeds: tuple[tuple[Embeds | None, ...], ...]  # one per teacher of each stage; None: by weights that are still to be tuned
    pool: Priors
    shelf: Shelf  # of the tuned weights
    number: int  # of the stage, counted from 0
    handover: Handover  # that the stage started from
    work: Work
    index: int = 0  # the next step of the run

    @property
    def config(self) -> Config:
        return self.resolved.config

    @property
    def engines(self) -> tuple[UsedEngine, ...]:
        """Who runs the networks of the current stage's teachers."""
        return tuple(prior.engine for prior in self.pool.taken)

    def saved(self) -> SavedState:
        """The state for a checkpoint; its tensors are not copies."""
        engine, work = self.resolved.engine, self.work
        return SavedState(self.number, work.index, self.handover, work.state_dict(), engine, self.engines)


def resolve(config: Config, saved: SavedState | None = None, anyway: bool = False) -> Resolved:
    """Check the settings, and locate files, priors and the device, each once, without loading weights.

    Args:
        saved: the checkpoint that the run is resumed from; the initial mesh is then not read again.
        anyway: also accept a prompt of whose nouns a prior knows none.

    Raises:
        ValueError: a setting, file or prior that cannot be used; one line with the fix.
    """
    config = replace(config, prompt=check_prompt(config.prompt, may_be_empty=any(photo.path for photo in config.photos)))
    check_stages(config)
    mesh, said = None, []  # the latter: notes on the user's files
    if config.initial_mesh and saved is None:
        mesh, config = _with_mesh(config, said.append)
    config.asset.check()
    config = replace(
        config,
        initial_mesh=str(expanded(config.initial_mesh).resolve()) if config.initial_mesh else "",
        photos=tuple(_resolved_photo(photo, config, said.append) for photo in config.photos if photo.path),
        depth_model=whole_name(config.depth_model) if config.depth_model else "",
        stages=tuple(stage.resolved() for stage in with_priors(config.stages)),
    )
    device = find_device(config.device)
    engine = _engine(config, device, saved)
    shown = config.photos and (not config.tunes or any(stage.uses_photos for stage in config.stages))
    photos = read_photos(config.photos, said.append) if shown else None
    priors = locate_priors(config.stages, config.prompt, photos is not None, known=saved is None and not anyway)
    for each in itertools.chain(*priors):
        each.kind.check_memory(config.memory)
        if config.engine == "onnx" and each.parts is not None and not each.kind.takes_onnx:
            raise ValueError(f"ONNX Runtime does not run the prior {each.choice.name}: use --engine auto or torch")
    stages = tuple(_with_choices(stage, located) for stage, located in zip(config.stages, priors, strict=True))
    config = replace(config, stages=stages)
    for place, stage, located in zip(config.places(), config.stages, priors, strict=True):
        if isinstance(stage, Finetune):
            plan = stage.plan(place, config.photos, located[0], said.append)
            _, told = tuning_need(plan, device, f"stages.{place.number}.tuning.batch 1, .tuning.gradient_checkpointing true")
            said += [told] * bool(told)
    # For all stages, so that a later stage that does not fit is refused before the first one starts.
    need, notes = check_memory(config, priors, device)
    used = any(each.reads_pictures for each in itertools.chain(*priors))
    notes = (*dict.fromkeys(said), *notes, *unused_inputs(config, used))
    return Resolved(config, priors, device, Task(config.prompt, config.negative, photos), engine, mesh, need, notes)


def _resolved_photo(photo: Photo, config: Config, note: Callable[[str], None]) -> Photo:
    """The photo with absolute paths. One that a prior is tuned on keeps a camera that nobody knows: none is told."""
    found = resolved_photo(photo, ignore if config.tunes else note)
    if not config.tunes:
        return found
    if photo.azimuth_deg is None and any(stage.uses_photos for stage in config.stages):
        raise ValueError(f"{Path(photo.path).name}: a stage compares with it, so that its camera must be given (--azimuth)")
    return replace(found, azimuth_deg=photo.azimuth_deg, elevation_deg=photo.elevation_deg)


def _engine(config: Config, device: torch.device, saved: SavedState | None) -> UsedEngine:
    """The engine of the run. A resumed run keeps its engine, since another one's sums differ in their last bits."""
    if saved is None:
        return available(config.engine, device)
    try:
        return available(saved.engine, device)
    except ValueError:
        if "onnx" not in saved.engines and saved.stage + 1 == len(config.stages):
            return "torch"  # which has run all networks
        raise ValueError(
            f"this run was begun with ONNX Runtime on a CPU, which is not available here: {INSTALL}, or make the asset again "
            "without it: dreamlift generate --engine torch --config and the run's folder"
        ) from None


def _with_mesh(config: Config, note: Callable[[str], None]) -> tuple[Mesh, Config]:
    """The user's mesh, and the config with its placement in its file. ``note`` gets what was not taken over from the file."""
    user_file(config.initial_mesh, "mesh", "give --mesh the path of a .glb, .gltf, .obj, .ply or .stl file")
    mesh, origin = load_mesh(config.initial_mesh, config.up, note)
    home = (1.0 / origin.scale, *origin.offset)
    return mesh, replace(config, asset=replace(config.asset, home=home))


def _with_choices(stage: Stage, located: tuple[Located, ...]) -> Stage:
    """The stage with the absolute paths of its priors; tuned weights keep their name."""
    pairs = [(choice, each) for choice, each in zip(stage.choices, located, strict=True) if choice is not None]
    return stage.with_choices(tuple(with_whole_paths(own) if tuned_name(own) else each.choice for own, each in pairs))


def load(
    resolved: Resolved, saved: SavedState | None = None, pool: Priors | None = None, shelf: Shelf | None = None
) -> Job:  # fmt: skip
    """Encode the prompts and free the encoders, load the networks of the first stage, and build its scene.

    Args:
        saved: the checkpoint to resume from.
        pool: priors that stay in memory after the run, for programs that make many assets.
        shelf: the folder of the tuned weights; None: a temporary one.
    """
    resolved = _with_depth(resolved)
    config, number = resolved.config, saved.stage if saved else 0
    known: dict[Any, Embeds] = {}
    embeds = []
    with unknown_words_told(resolved.priors[number:], number + 1):
        for stage, priors in zip(config.stages[number:], resolved.priors[number:], strict=True):
            own: list[Embeds | None] = []
            for teacher, located in zip(stage.teachers, priors, strict=False):
                # Prompts are encoded once where these are the same.
                key = (id(located), teacher.wording, _spoken(stage, located, teacher, resolved))
                if key not in known and not tuned_name(teacher.prior):
                    known[key] = _read(stage, located, teacher, resolved)
                own.append(None if tuned_name(teacher.prior) else known[key])
            embeds.append(tuple(own))
    embeds = [()] * number + embeds  # those of stages that are done are not needed any more
    handover = saved.handover if saved else Handover(meshes=(resolved.mesh,))
    pool, shelf = pool or Priors(), shelf or Shelf()
    work = begin_stage(resolved, tuple(embeds), pool, number, handover, saved.engines if saved else None, shelf)
    if saved:
        try:
            work.load_state_dict(saved.work)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the checkpoint is of another version of dreamlift ({error!r}): start the run anew") from error
    return Job(resolved, tuple(embeds), pool, shelf, number, handover, work, work.index)


def _spoken(stage: Stage, located: Located, teacher: Teacher, resolved: Resolved) -> tuple[Backdrop, ...]:
    """The backdrops that a teacher's prompts name. Normals and places lie on black, so that there are none."""
    return stage.spoken(resolved.config.backdrops, located) if teacher.show == "color" else ()


def _read(stage: Stage, located: Located, teacher: Teacher, resolved: Resolved) -> Embeds:
    """The encoded prompts of a teacher."""
    backdrops = _spoken(stage, located, teacher, resolved)
    return located.read(resolved.task, teacher.wording, backdrops, resolved.device, resolved.engine, teacher.show)


def _with_depth(resolved: Resolved) -> Resolved:
    """The run with the depths of its photos, where a stage compares them."""
    photos, model = resolved.task.photos, resolved.config.depth_model
    if photos is None or not resolved.config.compares_depth:
        return resolved
    from dreamlift.images.depth import estimate_depth

    photos = replace(photos, depth=estimate_depth(photos, model, resolved.device))
    return replace(resolved, task=replace(resolved.task, photos=photos))


def begin_stage(
    resolved: Resolved, embeds: tuple[tuple[Embeds | None, ...], ...], pool: Priors, number: int, handover: Handover,
    engines: tuple[UsedEngine, ...] | None = None, shelf: Shelf | None = None,
) -> Work:  # fmt: skip
    """The work of stage ``number``, counted from 0, at its first step. Priors that it does not need are freed first.

    Args:
        engines: of a resumed stage, the engine of each teacher's prior.
        shelf: the folder of the weights that the run has tuned.
    """
    config, device, stage = resolved.config, resolved.device, resolved.config.stages[number]
    wanted: Engine = "auto" if config.engine == "auto" and resolved.engine == "onnx" else resolved.engine
    shelf, located, material = shelf or Shelf(), list(resolved.priors[number]), None
    own = list(embeds[number])
    if stage.tunes:
        material = Material(config.photos, located[0], shelf, config.stages, wanted)
        located = []  # it loads the prior itself, in its first step
    for place, teacher in enumerate(stage.teachers):
        if (name := tuned_name(teacher.prior)) and teacher.prior is not None:
            made = tuned_priors(config.stages, shelf.folder)[name]
            located[place] = find_tuned(on_top(teacher.prior, made), name)
            own[place] = _read(stage, located[place], teacher, resolved)
    priors = pool.take(located, device, config.memory, engines or (wanted,) * len(located))
    texts = tuple(each for each in own if each is not None)
    return stage.begin(Ready(config.places()[number], resolved.task, device, priors, texts, handover, material))


def lift(job: Job) -> Iterator[Event]:
    """Run the remaining steps of all stages. ``job`` is changed in place and is consistent after each event.

    Raises:
        DivergedError: the optimization failed repeatedly.
        EmptySceneError: the scene of a stage that is not the last is empty.
    """
    stages = job.config.stages
    yield StageBegan(job.number, len(stages), job.handover, job.work.end)
    yield from _told(job)
    while True:
        yield from job.work.prepare()
        while not job.work.finished:
            step = job.work.step()
            job.index = job.work.index
            yield step
        if job.number + 1 == len(stages):
            return
        following = stages[job.number + 1]
        yield Note(f"stage {job.number + 1} of {len(stages)} is finished; the next one starts from its result", progress=True)
        job.handover = job.work.leave(following.needs_of_handover(job.config.mesh))
        del job.work  # before the next prior is loaded, since a loss's LoRA references the network
        job.number += 1
        job.work = begin_stage(job.resolved, job.embeds, job.pool, job.number, job.handover, shelf=job.shelf)
        yield StageBegan(job.number, len(stages), job.handover, job.work.end)
        yield from _told(job)


def _told(job: Job) -> Iterator[Note]:
    """What is to be said of a stage that has just begun."""
    stage = job.config.stages[job.number]
    if isinstance(stage, Finetune):
        done, count = job.work.end - job.work.index, len(job.config.photos)
        photos, others = f"{count} photo{'s' * (count > 1)}", "the pictures of the stage before"
        shown = {"photos": photos, "handover": others, "both": f"{photos} and {others}"}[stage.source]
        yield Note(f"tuning the weights {stage.name!r} on {shown}, {done} steps")


def finish(job: Job, on_stage: Callable[[str], None] = ignore) -> Asset:
    """The asset of a run whose last stage is finished: the first particle's, with those of the others in ``others``."""
    assets = []
    for particle, scene in enumerate(job.work.scenes):
        with explained_by(job.work.history(particle)):
            assets.append(asset_of(job.config, scene, on_stage))
    return replace(assets[0], others=tuple(assets[1:]))


def asset_of(config: Config, scene: Scene, on_stage: Callable[[str], None] = ignore) -> Asset:
    """The mesh, texture and reference views of an optimized scene."""
    scene.eval()
    on_stage("mesh and texture")
    # A user's mesh whose texture alone was optimized keeps its faces; other scenes have decimated theirs as far as possible.
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
        ValueError: an unknown device, or one that is not available.
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
        raise ValueError(f"device {name!r} is not available ({count} CUDA devices found); use --device auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' is not available; use --device auto or cpu")
    return device
