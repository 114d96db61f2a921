"""Compilation of a run's CPU kernels before they are needed: ``dreamlift warmup``, or a process beside a first run.

numba compiles a kernel at its first call, which takes 0.3 to 2 s each, and caches it. A short run of the same config, with tiny
pictures and an exact prior without a network, calls the same kernels.
"""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from dreamlift.config.build import load_yaml, save_yaml
from dreamlift.config.schema import Config
from dreamlift.guidance.sds import SDS
from dreamlift.lifting import find_device, finish, lift, load, resolve
from dreamlift.memory import available_host
from dreamlift.plugins import plugin_names
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.runs.progress import Silent
from dreamlift.runs.results import write_results
from dreamlift.stages.lift import Lift
from dreamlift.system import jit
from dreamlift.system.files import can_be_written

FREE = 3_000_000_000  # bytes of free memory for the run and the second process, which takes 0.8 GB
MAIN = "import sys; sys.path[:] = sys.argv[1:]; from dreamlift.runs.warmup import main; main()"
SIDE, STEPS = 8, 4  # pixels and steps of the short run


def warm(config: Config) -> None:
    """Compile the kernels that a run of ``config`` uses on the CPU, and note in the cache folder that this is done.

    Raises:
        ValueError: the config cannot be shortened to a run without a prior.
        OSError: the cache folder cannot be written.
    """
    stamp = _stamp(config)
    if not can_be_written(stamp.parent):
        raise PermissionError(errno.EACCES, "the kernels' cache cannot be written; set XDG_CACHE_HOME", str(stamp.parent))
    stamp.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they concern the short run's asset
        job = load(resolve(short(config)))
        for _ in lift(job):
            pass
        write_results([Path(folder)], finish(job), Silent())
    stamp.touch()


def short(config: Config) -> Config:
    """A run with the scenes and settings of ``config``, a few steps of tiny pictures, and an exact prior."""
    prior = PriorChoice.of(GaussianPrior(torch.full((1, 3, SIDE, SIDE), 0.5), torch.ones(1)))
    stages = []
    for stage in config.stages:
        if not isinstance(stage, Lift) or stage.photometric is not None:
            raise ValueError("only lift stages without a photometric term can be warmed up")
        teachers = tuple(replace(teacher, prior=prior, guidance=SDS()) for teacher in stage.teachers)
        cameras = replace(stage.cameras, resolution=(SIDE,))
        stages.append(replace(stage, teachers=teachers, cameras=cameras, steps=STEPS))
    mesh = replace(config.mesh, resolution=48, faces=500, texture_size=64)
    return replace(config, prompt="warmup", device="cpu", engine="torch", stages=tuple(stages), mesh=mesh, particles=1)


def is_warm(config: Config) -> bool:
    """Whether there is nothing to compile: kernels are off, the run is on a GPU, or :func:`warm` has noted this config."""
    return not jit.fast_kernels_available() or find_device(config.device).type != "cpu" or _stamp(config).exists()


def warm_beside(config: Config) -> subprocess.Popen | None:
    """Start :func:`warm` in a process of its own, on another core, while this one loads the prior.

    None: it is not needed, or it could not succeed (settings of a plugin, a cache folder that cannot be written), or there is
    no other core or not enough memory. Its failure has no effect: the run then compiles what is missing.
    """
    try:
        if is_warm(config) or config.initial_mesh or config.photos or plugin_names():
            return None
        short(config)  # raises ValueError where a short run is impossible
        if (os.cpu_count() or 1) < 2 or (available_host() or FREE) < FREE or cache_trouble(find_device(config.device)):
            return None
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "text": True}
        # With this process's own path: "-m" would import from the current folder first.
        command = [sys.executable, "-c", MAIN, *sys.path]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, **quiet)  # noqa: S603
        assert process.stdin is not None
        process.stdin.write(save_yaml(config))
        process.stdin.close()
    except (OSError, ValueError):
        return None
    return process


def cache_trouble(device: torch.device) -> str:
    """A note where compiled kernels cannot be kept, or "": numba does not use a cache folder that it cannot write to."""
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    if device.type != "cpu" or not jit.fast_kernels_available() or can_be_written(folder):
        return ""
    return f"the kernels' cache {folder} cannot be written, so that every run compiles them anew (17 s): set XDG_CACHE_HOME"


def _stamp(config: Config) -> Path:
    """The file that exists after :func:`warm` of a config with the same kinds of parts, for these kernels and this numba."""
    import llvmlite.binding

    assert jit.numba is not None
    package = Path(__file__).parents[1]
    sources = [(str(file), file.stat().st_mtime_ns) for file in sorted(package.rglob("*_numba.py"))]
    kinds = sorted(set(_kinds(config.stages)) | {type(config.mesh).__name__})
    lit = [getattr(getattr(stage, "lighting", None), "lambertian", 0.0) > 0 for stage in config.stages]
    terms = [sorted(stage.weights.ever()) for stage in config.stages if isinstance(stage, Lift)]
    known = [jit.numba.__version__, sys.version, llvmlite.binding.get_host_cpu_name(), sources, kinds, lit, terms]
    return Path(os.environ["NUMBA_CACHE_DIR"]) / f"warm-{hashlib.blake2b(repr(known).encode(), digest_size=8).hexdigest()}"


def _kinds(value: Any) -> list[str]:
    """The class names of all settings in ``value``."""
    if isinstance(value, (tuple, list)):
        return [name for each in value for name in _kinds(each)]
    if not is_dataclass(value):
        return []
    return [type(value).__name__, *(name for field in fields(value) for name in _kinds(getattr(value, field.name)))]


def beside(config: Config) -> None:
    """What the second process does, unless another one is doing it."""
    with suppress(AttributeError, OSError):
        os.nice(5)  # the run itself comes first
    stamp = _stamp(config)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    with suppress(Timeout, OSError), FileLock(stamp.parent / "warmup.lock", timeout=0):
        warm(config)


def main() -> None:
    """The second process."""
    beside(load_yaml(Config, sys.stdin.read(), "standard input"))
