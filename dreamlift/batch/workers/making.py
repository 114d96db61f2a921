"""The making of one asset in its folder, by a process that keeps its priors for the next one."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamlift.apps.cutout import with_cameras
from dreamlift.batch.ledger import Entry
from dreamlift.batch.plan import config_from
from dreamlift.priors.files.tensors import PriorFilesError
from dreamlift.priors.kinds import Priors
from dreamlift.runs import lock as locks
from dreamlift.runs.carry_out import Order, carry_out
from dreamlift.runs.progress import Silent, warnings_to
from dreamlift.runs.run import LEDGER, RunError, read_status
from dreamlift.system.failures import is_out_of_memory
from dreamlift.system.text import one_line
from dreamlift.types import Event, Note, Step

UNBEGUN = ("config.yaml", "events.jsonl")  # what a killed process leaves of a run that has not begun
RESUME = re.compile(r",? then `dreamlift resume .*$", re.DOTALL)  # of a single run: a batch goes on by its own command
FIGURES = ("seconds", "peak_memory_gb", "peak_gpu_memory_gb")
Say = Callable[[dict[str, Any]], None]


def make_asset(job: dict[str, Any], pool: Priors, say: Say) -> dict[str, Any]:
    """Make the asset of ``job``, or go on with it; returns how it ended: ``{"outcome": ..., "reason": ...}``.

    Outcomes: done (with its figures), stopped (a signal), busy (another process has the folder), disk (it is full), prior (its
    files cannot be found or read), refused (what another attempt would meet again: invalid input, a scene that stays empty),
    memory (it is exhausted) and error.

    Args:
        job: ``folder``, ``entry``, ``settings``, ``device`` and further options, as the coordinator gives them.
        say: gets what is told meanwhile: ``{"step": 3, "total": 600}`` and ``{"note": ...}``.
    """
    folder, entry = Path(job["folder"]), Entry(**{**job["entry"], "photos": tuple(job["entry"]["photos"])})
    try:
        found = _carried_out(folder, entry, job, pool, say)
        if found["outcome"] == "done" and job.get("drop_checkpoints"):
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return found
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return {"outcome": "stopped"}
        traceback.print_exc()  # into the worker's log, which the reason names
        return {"outcome": outcome_of(error, folder), "reason": one_line(f"{_kind(error)}{RESUME.sub('', str(error))}")}


def outcome_of(error: BaseException, folder: Path) -> str:
    """What an error means for the asset, see :func:`make_asset`."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return "disk"
    if is_out_of_memory(error):
        return "memory"
    if isinstance(error, PriorFilesError):  # the list was checked with it, so that it has gone, or is being replaced
        return "prior"
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, RunError):
        return "busy" if " is in use by " in str(error) else "error"
    again = names & {"EmptySceneError", "FullSceneError", "DivergedError", "ValueError"} and "OSError" not in names
    return "refused" if again else "error"


def _kind(error: BaseException) -> str:
    known = isinstance(error, (ValueError, OSError, RunError)) or type(error).__module__.startswith("dreamlift")
    return "" if known else f"unexpected {type(error).__name__}: "


def _carried_out(folder: Path, entry: Entry, job: dict[str, Any], pool: Priors, say: Say) -> dict[str, Any]:
    begun = (folder / "run.json").is_file()
    if not begun or read_status(folder).get("status") != "finished":
        if begun:
            order = Order(resume=folder, pool=pool)
        else:
            remove_unbegun(folder)
            config = config_from(entry, job["settings"], job["device"])
            reporter = Told(say)
            with warnings_to(reporter):
                config = with_cameras(config, reporter)
            order = Order(config, folder, anyway=entry.anyway, preset=entry.preset, pool=pool)
        if not carry_out(order, Told(say)).finished:
            return {"outcome": "stopped"}
    status = read_status(folder)
    figures = {name: status[name] for name in FIGURES if name in status} | dict(status.get("metrics", {}))
    return {"outcome": "done", "revision": status.get("prior_revision"), "figures": figures}


def remove_unbegun(folder: Path) -> None:
    """Remove what a process that was killed while it began a run has left; other files are kept, and refused later."""
    if not folder.is_dir() or not any((folder / name).exists() for name in UNBEGUN):
        if folder.is_dir():
            _remove_temporary(folder)
        return
    lock = locks.acquire(folder)
    try:
        if not (folder / "run.json").exists():
            for name in UNBEGUN:
                (folder / name).unlink(missing_ok=True)
            _remove_temporary(folder)
    finally:
        locks.release(lock)


def _remove_temporary(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name.startswith(".tmp-") and path.name != LEDGER:
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class Told(Silent):
    """Passes steps, about one a second, and notes to ``say``."""

    def __init__(self, say: Say) -> None:
        self.say, self.last = say, 0.0

    def step(self, step: Step, total: int) -> None:
        self._count(step.index, total)

    def counted(self, name: str, index: int, total: int, terms: dict[str, float]) -> None:
        self._count(index, total)

    def event(self, event: Event, total: int) -> None:
        if not (isinstance(event, Note) and event.progress):  # a batch tells what may need a change, not how each asset gets on
            super().event(event, total)

    def note(self, text: str) -> None:
        self.say({"note": one_line(text)})

    def stopped(self, signal: str, folder: Path) -> None:
        return  # the coordinator says it: `dreamlift resume` makes one asset, and the batch's own command goes on with all

    def _count(self, index: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last >= 1.0 or index + 1 == total:
            self.last = now
            self.say({"step": index + 1, "total": total})


class Pulse:
    """Calls ``beat`` every few seconds in a thread while an asset is made. Use it as a context manager."""

    def __init__(self, beat: Callable[[], None], every: float) -> None:
        self.beat, self.every, self.stop = beat, every, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self.stop.wait(self.every):
            self.beat()

    def __enter__(self) -> Pulse:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
