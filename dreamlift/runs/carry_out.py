"""A run in its folder: steps, metrics and checkpoints, and at the end the asset's files."""

from __future__ import annotations

import itertools
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamlift.asset import Asset
from dreamlift.config.build import config_hash, save_yaml, to_plain
from dreamlift.config.schema import Config
from dreamlift.export.glb import save_glb
from dreamlift.export.video import contact_sheet
from dreamlift.lifting import Job, finish, lift, load, resolve
from dreamlift.plugins import plugin_names
from dreamlift.priors.kinds import Priors
from dreamlift.runs.about import peak_memory, versions
from dreamlift.runs.progress import Reporter, warnings_to
from dreamlift.runs.results import write_results
from dreamlift.runs.run import TUNED, Run, RunError, check_out, particle_folders
from dreamlift.runs.settings import adopt, check_length, lengthened, nothing_to_do, read_config
from dreamlift.runs.warmup import cache_trouble, warm_beside
from dreamlift.stages.tuned import Shelf
from dreamlift.system.files import atomic_write_bytes
from dreamlift.system.signals import Stop, stop_signals
from dreamlift.system.text import one_line
from dreamlift.types import Counted, StageBegan, Step


@dataclass(frozen=True)
class Order:
    """The run to start or to resume."""

    config: Config | None = None  # of a new run
    out: Path | None = None  # its folder; None: outputs/<prompt>-<time>
    resume: Path | None = None  # the folder of a run to resume
    anyway: bool = False  # start even if a prior knows none of the prompt's nouns
    steps: int | None = None  # of the last stage of a resumed run, per particle; None: as they are
    preset: str = ""  # the preset that the config came from, for run.json; "": not known
    pool: Priors | None = None  # keeps the priors in memory for the next run of this process


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: Path
    finished: bool  # False: a signal stopped the run, which can be resumed
    asset: Asset | None


def carry_out(order: Order, reporter: Reporter) -> Outcome:
    """Run ``order``, from the settings to the files.

    A new run writes nothing before its settings are checked and its priors are loaded. A resumed run continues from its last
    usable checkpoint; on the CPU its result is bit-identical to that of an uninterrupted run. A finished one is left as it is,
    unless it is given more steps.

    Raises:
        ValueError: settings or files that cannot be used.
        RunError: the folder cannot be used.
        DivergedError, EmptySceneError: the optimization failed.
    """
    begun = time.monotonic()
    try:
        with warnings_to(reporter):
            if order.resume is not None and (told := nothing_to_do(order.resume, order.steps)):
                reporter.note(told)
                return Outcome(order.resume, True, None)
            run, job = _begin(order, reporter) if order.resume is None else _reopen(order, reporter)
            with run:
                begun -= float(run.status().get("seconds", 0.0))  # of the earlier processes
                return _carry_out(run, job, reporter, begun)
    finally:
        reporter.close()


def _begin(order: Order, reporter: Reporter) -> tuple[Run, Job]:
    """The folder of a new run, and its job at the first step."""
    assert order.config is not None
    check_out(order.out)
    job = _loaded(order, order.config, None, reporter)
    config = job.config
    named = {"preset": order.preset} if order.preset else {}
    info = {"seed": config.seed, **named, **_about(job), **versions(), "plugins": plugin_names()}
    run = Run.create(
        order.out, config.prompt, config_text=save_yaml(config), config_hash=config_hash(config), info=info,
        keep=config.keep_checkpoints, name=Path(config.photos[0].path).stem if config.photos else "",
    )  # fmt: skip
    job.shelf.given = run.folder / TUNED
    return run, job


def _reopen(order: Order, reporter: Reporter) -> tuple[Run, Job]:
    """The folder of a stopped run, or of one that gets more steps, and its job at the last checkpoint."""
    folder, steps = order.resume, order.steps
    assert folder is not None
    before = read_config(folder)
    config = before if steps is None else lengthened(before, steps)
    run = Run.open(folder, config_hash=config_hash(before), keep=config.keep_checkpoints)
    try:
        saved = run.load_latest()
        check_length(config, saved, run.status().get("status") == "finished")
        job = _loaded(order, config, saved, reporter, Shelf(run.folder / TUNED))
        known = run.status().get("prior_revision")
        if known not in (None, job.resolved.revisions):
            reporter.note(
                "the prior's weights or the photos have changed since this run began; the run continues with the new ones"
            )
        if config != before:
            run = adopt(run, config)
        run.resume(saved)
        run.set_status("running", _about(job))
    except BaseException:
        run.close()
        raise
    return run, job


def _loaded(order: Order, config: Config, saved: Any, reporter: Reporter, shelf: Shelf | None = None) -> Job:
    resolved = resolve(config, saved, order.anyway)
    warm_beside(resolved.config)
    if trouble := cache_trouble(resolved.device):
        reporter.note(trouble)
    for text in resolved.notes:
        reporter.note(text)
    if resolved.need is not None:
        reporter.stage(str(resolved.need))
    return load(resolved, saved, order.pool, shelf)


def _about(job: Job) -> dict[str, Any]:
    """The priors, the photos with their cameras, and the estimated memory (GB), for run.json."""
    names = dict.fromkeys(located.choice.name for stage in job.resolved.priors for located in stage)
    found: dict[str, Any] = {"prior": ", ".join(names), "prior_revision": job.resolved.revisions}
    if job.config.photos:
        found["photos"] = [asdict(photo) for photo in job.config.photos]
    found["engine"] = ", ".join(dict.fromkeys(job.engines)) or "torch"
    if job.resolved.need is not None:
        found["estimated_memory_gb"] = round(job.resolved.need.host / 1e9, 3)
        if job.resolved.need.device:
            found["estimated_gpu_memory_gb"] = round(job.resolved.need.device / 1e9, 3)
    return found


def _carry_out(run: Run, job: Job, reporter: Reporter, begun: float) -> Outcome:
    config = job.config
    ends = set(itertools.accumulate(stage.total_steps(config.particles) for stage in config.stages))
    stop = Stop()
    engines = dict.fromkeys(job.engines)  # of all stages so far
    names = ", ".join(dict.fromkeys(located.choice.name for located in job.resolved.priors[job.number]))
    taught = f" with {names}" if names else ""
    try:
        with stop_signals() as stop:
            reporter.attach(job)
            reporter.begin(run.folder, to_plain(config))
            what = repr(config.prompt) if config.prompt else Path(config.photos[0].path).name
            reporter.stage(f"lifting {what}{taught} on {job.resolved.device}, into {run.folder}")
            for event in lift(job):
                run.check_held()
                reporter.event(event, config.total_steps)
                if isinstance(event, StageBegan) and event.number:
                    save_handover(run, event, config)
                    engines |= dict.fromkeys(job.engines)
                    run.set_status("running", {"engine": ", ".join(engines) or "torch"})
                if isinstance(event, Counted) and stop.requested:
                    return _stopped(run, job.index, stop.name, reporter, begun)
                if not isinstance(event, Step):
                    continue
                run.log(event.index, {"loss": event.loss, **event.terms})
                index = job.index
                if event.note:
                    run.event("rolled back", {"note": event.note})
                elif index % config.checkpoint_every == 0 or index in ends or stop.requested:
                    run.save_checkpoint(index, job.saved())
                    run.set_status("running", spent(begun))  # here, since a killed process writes nothing at its end
                if stop.requested and not event.note:
                    return _stopped(run, index, stop.name, reporter, begun)
        with stop_signals(at_once=True) as stop:
            asset = finish(job, reporter.stage)
            shown = write_results(particle_folders(run.folder, config.particles), asset, reporter, run.check_held)
            _finished(run, shown, reporter, begun)
    except KeyboardInterrupt:
        return _stopped(run, job.index, stop.name or "SIGINT", reporter, begun)
    except Exception as error:
        with suppress(RunError):  # if the status cannot be written either, the first error is shown
            run.set_status("failed", {"error": one_line(f"{type(error).__name__}: {error}"), **spent(begun)})
        if isinstance(error, OSError) and error.filename is not None:
            raise run.fault(Path(error.filename), error) from error
        raise
    return Outcome(run.folder, True, asset)


def save_handover(run: Run, began: StageBegan, config: Config) -> None:
    """Write what the previous stage has left: each particle's mesh to its folder, posed pictures as a sheet."""
    pictures = began.handover.pictures
    if pictures is not None and config.stages[began.number - 1].leaves_pictures:
        atomic_write_bytes(run.folder / f"stage-{began.number}.png", contact_sheet(pictures.rgb, columns=5))
    folders = particle_folders(run.folder, config.particles)
    for folder, mesh in zip(folders, began.handover.meshes, strict=False):
        folder.mkdir(exist_ok=True)
        if mesh is not None and not config.stages[began.number - 1].tunes:  # which has passed it on
            save_glb(mesh, folder / f"stage-{began.number}.glb", {"prompt": config.prompt, "seed": config.seed})


def _finished(run: Run, shown: dict[str, Any], reporter: Reporter, begun: float) -> None:
    seconds = spent(begun)
    run.set_status("finished", {**seconds, **peak_memory(), **shown})
    metrics = shown["metrics"]
    reporter.done({"asset": str(run.folder / "asset.glb"), **seconds,
                   "roundtrip_psnr": round(metrics["roundtrip_psnr"], 1), "faces": int(metrics["faces"])})  # fmt: skip


def _stopped(run: Run, step: int, signal: str, reporter: Reporter, begun: float) -> Outcome:
    with suppress(RunError):  # stopping must not fail
        run.set_status("stopped", {"signal": signal, "step": step, **spent(begun)})
    reporter.stopped(signal, run.folder)
    return Outcome(run.folder, False, None)


def spent(begun: float) -> dict[str, float]:
    """Seconds of all processes of the run, for run.json; ``begun``: this one's start minus the seconds of earlier ones."""
    return {"seconds": round(time.monotonic() - begun, 1)}
