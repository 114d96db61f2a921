"""A run with its folder: steps, metrics, checkpoints, and at the end all the files that a user expects."""

from __future__ import annotations

import itertools
import platform
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import dreamlift
from dreamlift.cameras import turntable
from dreamlift.config.build import config_hash, load_yaml, save_yaml
from dreamlift.config.schema import Config
from dreamlift.export.glb import load_glb, save_glb
from dreamlift.export.page import save_page
from dreamlift.export.roundtrip import psnr
from dreamlift.export.settings import MAX_LOD
from dreamlift.export.video import contact_sheet, save_turntable
from dreamlift.lifting import Asset, Job, finish, lift, prepare
from dreamlift.optimize import State, random_stream
from dreamlift.runs import lock
from dreamlift.runs.checkpoints import explain
from dreamlift.runs.progress import Reporter
from dreamlift.runs.run import Run, RunError, Stop, particle_folders, stop_signals
from dreamlift.system.files import atomic_write_bytes, expanded
from dreamlift.texturing.draw import render_mesh
from dreamlift.toybox.judging.judge import load_judge
from dreamlift.toybox.judging.score import diversity, embed_mesh
from dreamlift.types import Mesh

POOR_PSNR = 22.0  # dB; below it the exported file does not look like the scene
PACKAGES = ("torch", "numpy", "diffusers", "transformers", "safetensors", "trimesh", "xatlas", "numba")


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: Path
    finished: bool  # False: a signal stopped it, and it can be resumed
    asset: Asset | None


def start_run(config: Config, out: Path | None, reporter: Reporter) -> Outcome:
    """A new run. Nothing is written before the prior and the prompt are known to be good."""
    begun = time.monotonic()
    check_out(out)
    with _warnings_to(reporter):
        job = prepare(config, reporter.stage)
    info = {"seed": config.seed, "prior": config.prior, "prior_revision": job.teacher.revision, **estimated(job), **versions()}
    run = Run.create(
        out, job.config.prompt, config_text=save_yaml(job.config), config_hash=config_hash(job.config), info=info,
        keep=config.keep_checkpoints,
    )  # fmt: skip
    with run, _warnings_to(reporter):
        return _carry_out(run, job, reporter, begun)


def resume_run(folder: Path, reporter: Reporter) -> Outcome:
    """Go on with a run that was stopped, from its last whole checkpoint; on the CPU bit by bit as if it never was."""
    begun = time.monotonic()
    config = read_config(folder)
    opened = Run.open(folder, config_hash=config_hash(config), keep=config.keep_checkpoints)
    with opened as run, _warnings_to(reporter):
        found = run.load_latest()
        job = prepare(config, reporter.stage, found[1] if found else None)
        known = run.status().get("prior_revision")
        first = job.config.stages[job.state.stage].prior == job.config.prior  # whose revision was noted
        if first and known not in (None, job.teacher.revision):
            reporter.note(f"the prior {config.prior} has changed since this run began; it goes on with the one of now")
        run.resume(found)
        begun -= float(run.status().get("seconds", 0.0))  # of the processes before
        run.set_status("running", {"prior_revision": job.teacher.revision if first else known, **estimated(job)})
        return _carry_out(run, job, reporter, begun)


def export_run(folder: Path, config: Config, reporter: Reporter) -> list[Path]:
    """Mesh a run's last checkpoint anew, in the formats of ``config.asset``; files of other formats stay as they are.

    With the GLB go what is made from it: the pictures, the page, the Gaussians, and the figures in run.json.
    """
    config.asset.check()
    original = read_config(folder)
    with Run.open(folder, config_hash=config_hash(original), keep=original.keep_checkpoints) as run:
        found = run.load_latest()
        if found is None:
            raise RunError(f"{folder} has no checkpoint yet: let the run go on with `dreamlift resume {folder}`")
        written, metrics = [], []
        saved = found[1]
        stage = config.stages[saved["stage"]]
        places = particle_folders(folder, original.particles)
        for start, values, place in zip(saved["starts"], saved["scenes"], places, strict=True):
            scene = stage.scene.build(random_stream(0), "cpu", None if start is None else Mesh(**start))
            scene.load_state_dict(values)
            with _warnings_to(reporter):
                asset = finish(config, scene, reporter.stage)
            try:
                place.mkdir(exist_ok=True)
                written += save_files(asset, place, config.asset.formats)
                if "glb" in config.asset.formats:
                    metrics.append(show_asset(place, asset, reporter))
            except OSError as error:
                raise explain("write", Path(error.filename or place), error) from error
        if metrics:
            run.set_status(str(run.status().get("status")), figures(places, metrics, reporter))
        return written


def save_files(asset: Asset, folder: Path, formats: Iterable[str]) -> list[Path]:
    """asset.FORMAT in ``folder`` for each format, and asset_lod1.FORMAT and so on where there are coarser versions.

    Beside a GLB, ``splats.ply`` where the asset has Gaussians. What an earlier export wrote of further levels is removed.
    """
    formats = tuple(formats)
    written = [
        asset.save(folder / (f"asset_lod{level}.{name}" if level else f"asset.{name}"), level)
        for name in formats
        for level in range(1 + len(asset.lods))
    ]
    if "glb" in formats and asset.splats is not None:
        written.append(asset.save_splats(folder / "splats.ply"))
    for name in formats:
        remove_levels(folder, name, 1 + len(asset.lods))
    return written


def remove_levels(folder: Path, kind: str, first: int) -> None:
    """Remove asset_lodN.KIND, and what belongs to an OBJ file, for N = ``first`` and up."""
    endings = (".obj", ".mtl", ".png", "_roughness.png", "_metallic.png", "_normal.png") if kind == "obj" else (f".{kind}",)
    for level, ending in itertools.product(range(first, MAX_LOD), endings):
        (folder / f"asset_lod{level}{ending}").unlink(missing_ok=True)


def check_out(out: Path | None) -> None:
    """Refuse a folder that holds something already, before the prior is loaded (``Run.create`` looks once more).

    Raises:
        ValueError: one line with the fix.
    """
    folder = None if out is None else expanded(out)
    if folder is None or not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: give --out a new or an empty folder")
    if (folder / "run.json").exists():
        raise ValueError(f"{folder} holds a run already: `dreamlift resume {folder}`, or give --out another folder")
    if any(path.name != lock.NAME for path in folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and nothing is overwritten: give --out a new or an empty folder")


def read_config(folder: Path) -> Config:
    """The ``config.yaml`` of a run. Raises ValueError where there is none."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml")
    return load_yaml(Config, path.read_text(encoding="utf-8"))


def _carry_out(run: Run, job: Job, reporter: Reporter, begun: float) -> Outcome:
    config, state = job.config, job.state
    ends = set(itertools.accumulate(stage.steps * config.particles for stage in config.stages))
    stop = Stop()
    reporter.stage(f"lifting {config.prompt!r} with {config.prior} on {job.prior.device}, into {run.folder}")
    try:
        with stop_signals() as stop:
            number = state.stage
            for step in lift(job, reporter.stage):
                if state.stage != number:
                    number = state.stage
                    save_starts(run, state, config)
                run.log(step.index, {"loss": step.loss, **step.terms})
                reporter.step(step, config.total_steps)
                if step.note:
                    run.event("rolled back", {"note": step.note})
                    reporter.note(step.note)
                elif state.index % config.checkpoint_every == 0 or state.index in ends or stop.requested:
                    run.save_checkpoint(state.index, state.state_dict())
                    run.set_status("running", spent(begun))  # now: a process that is killed tells nothing at its end
                if stop.requested and not step.note:
                    return _stopped(run, state.index, stop.name, reporter, begun)
        with stop_signals(at_once=True) as stop:
            assets = [finish(config, scene, reporter.stage) for scene in state.scenes]
            write_results(run, assets, reporter, begun)
    except KeyboardInterrupt:
        return _stopped(run, state.index, stop.name or "SIGINT", reporter, begun)
    except Exception as error:
        with suppress(RunError):  # where the status cannot be written either, the first error is the one to show
            run.set_status("failed", {"error": f"{type(error).__name__}: {error}", **spent(begun)})
        if isinstance(error, OSError) and error.filename is not None:
            raise explain("write", Path(error.filename), error) from error
        raise
    return Outcome(run.folder, True, replace(assets[0], others=tuple(assets[1:])))


def save_starts(run: Run, state: State, config: Config) -> None:
    """What each particle's stage began with, beside its other files: the result of the stage before."""
    for folder, mesh in zip(particle_folders(run.folder, config.particles), state.starts, strict=True):
        folder.mkdir(exist_ok=True)
        if mesh is not None:
            save_glb(mesh, folder / f"stage-{state.stage}.glb", {"prompt": config.prompt, "seed": config.seed})


def _stopped(run: Run, step: int, signal: str, reporter: Reporter, begun: float) -> Outcome:
    with suppress(RunError):  # stopping must not fail
        run.set_status("stopped", {"signal": signal, "step": step, **spent(begun)})
    reporter.note(f"stopped by {signal}; go on with: dreamlift resume {run.folder}")
    return Outcome(run.folder, False, None)


def write_results(run: Run, assets: list[Asset], reporter: Reporter, begun: float) -> None:
    """Each particle's files (:func:`write_asset`), and the figures in run.json: the first one's, and how they differ."""
    folders = particle_folders(run.folder, len(assets))
    metrics = [write_asset(folder, asset, reporter) for folder, asset in zip(folders, assets, strict=True)]
    changes = {**peak_memory(), **figures(folders, metrics, reporter)}
    seconds = spent(begun)
    run.set_status("finished", {**seconds, **changes})
    reporter.done({"asset": str(run.folder / "asset.glb"), **seconds,
                   "roundtrip_psnr": round(metrics[0]["roundtrip_psnr"], 1), "faces": int(metrics[0]["faces"])})  # fmt: skip


def spent(begun: float) -> dict[str, float]:
    """Seconds of all the run's processes so far, for run.json; ``begun`` is this one's start less what others took."""
    return {"seconds": round(time.monotonic() - begun, 1)}


def figures(folders: list[Path], metrics: list[dict[str, float]], reporter: Reporter) -> dict[str, Any]:
    """What run.json says of the GLBs: the first particle's figures, and of several each one's, and how they differ."""
    if len(folders) == 1:
        return {"metrics": metrics[0]}
    judge, _ = load_judge()
    spread = diversity([embed_mesh(load_glb(folder / "asset.glb"), judge) for folder in folders])
    reporter.note(f"diversity of the {len(folders)} particles: {spread:.3f} (0: copies, 2: opposites)")
    return {"metrics": metrics[0], "particles": metrics, "diversity": spread}


def write_asset(folder: Path, asset: Asset, reporter: Reporter) -> dict[str, float]:
    """asset.glb (and what other formats are asked for), preview.png, turntable.webp and view.html in ``folder``.

    Returns the figures of run.json. The GLB is always written: what a run shows and what is said about it comes from there.
    """
    folder.mkdir(exist_ok=True)
    save_files(asset, folder, dict.fromkeys(["glb", *asset.config.asset.formats]))
    return show_asset(folder, asset, reporter)


def show_asset(folder: Path, asset: Asset, reporter: Reporter) -> dict[str, float]:
    """preview.png, turntable.webp and view.html of the asset.glb in ``folder``, and its figures for run.json."""
    glb = folder / "asset.glb"
    reporter.stage("checking the file against the scene")
    mesh = load_glb(glb)  # in the scene's coordinates, wherever it stands in the file
    shown = render_mesh(mesh, asset.cameras).rgb
    metrics = {**asset.metrics, "roundtrip_psnr": psnr(shown, asset.views)}
    if metrics["roundtrip_psnr"] < POOR_PSNR:
        reporter.note(
            f"the exported file matches the scene's renders poorly ({metrics['roundtrip_psnr']:.1f} dB): raise "
            "mesh.resolution, mesh.faces or mesh.texture_size"
        )
    atomic_write_bytes(folder / "preview.png", contact_sheet(torch.cat([asset.views, shown]), columns=8))
    frames = render_mesh(mesh, turntable(36, distance=2.9, fov_deg=42.0, size=192)).rgb
    save_turntable(frames, folder / "turntable.webp")
    save_page(glb, folder / "view.html", asset.config.prompt)
    return metrics


def versions() -> dict[str, Any]:
    """What the run was made with."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"dreamlift": dreamlift.__version__, "python": platform.python_version(), "packages": found}


def estimated(job: Job) -> dict[str, float]:
    """What was worked out beforehand (GB), to be compared with :func:`peak_memory`."""
    if job.need is None:
        return {}
    gpu = {"estimated_gpu_memory_gb": round(job.need.device / 1e9, 3)} if job.need.device else {}
    return {"estimated_memory_gb": round(job.need.host / 1e9, 3), **gpu}


def peak_memory() -> dict[str, float]:
    """The largest resident memory of this process so far (GB), and of the GPU's where one was used."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "peak_memory_gb": round(_peak_host_bytes() / 1e9, 3),
        **({"peak_gpu_memory_gb": round(gpu / 1e9, 3)} if gpu else {}),
    }


def _peak_host_bytes() -> int:
    """The largest resident memory of this process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    try:  # Linux: ru_maxrss begins with the peak of the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def _warnings_to(reporter: Reporter) -> Iterator[None]:
    """Show the package's own warnings as notes, at once and each once; other libraries' mean nothing to a user."""
    own, seen = str(Path(dreamlift.__file__).parent), set()

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        text = str(message)
        if filename.startswith(own) and text not in seen:
            seen.add(text)
            reporter.note(text)

    with warnings.catch_warnings():
        for category in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = show
        yield
