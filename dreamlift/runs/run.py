"""A run on disk: one folder with its prompt, config, metrics, events and checkpoints, safe against crashes.

::

    outputs/a-ceramic-mug-20250131-235959/
        run.json        prompt, status, config hash; replaced atomically
        config.yaml     all settings
        metrics.jsonl   one line per step; when the run is resumed, lines after the checkpoint are removed
        events.jsonl    created, resumed, checkpoint, ...; lines are only appended
        checkpoints/    step-000100/, ...: see dreamlift.runs.checkpoints
        .lock           the process that uses the folder: see dreamlift.runs.lock

``step`` of a checkpoint is the number of finished steps, and so the index of the next one; ``metrics.jsonl`` then has
the lines with a smaller index. The times in these files are information for the user only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlift.prompts import check_prompt
from dreamlift.runs import checkpoints
from dreamlift.runs import lock as locks
from dreamlift.runs.checkpoints import RunError
from dreamlift.system.files import atomic_write_bytes, atomic_write_text, expanded
from dreamlift.system.text import read_text, slugify

if TYPE_CHECKING:
    from dreamlift.stages.base import SavedState

__all__ = ["Run", "RunError", "read_metrics", "slugify"]

SCHEMA, MAX_STATUS = 1, 10_000_000  # version of run.json, and its largest size in bytes
TUNED = "tuned"  # the folder in a run's of the weights that it tunes
LEDGER = ".asset"  # what a batch writes down of the asset in the run's folder: see dreamlift.batch.ledger


@dataclass(frozen=True)
class Run:
    """A run folder whose lock this process holds. Use it as a context manager, or call :meth:`close`."""

    folder: Path
    prompt: str
    config_hash: str
    keep: int  # number of newest checkpoints to keep, >= 1; with 2, there is another one if the last is damaged
    lock: locks.Lock
    earlier: tuple[str, ...] = ()  # further hashes that config.yaml and checkpoints may have: the run was given more steps
    verb: str = "resume"  # the command that goes on with the run after a fault

    @classmethod
    def create(
        cls,
        out: str | os.PathLike[str] | None,
        prompt: str,
        *,
        config_text: str = "",
        config_hash: str = "",
        info: Mapping[str, Any] | None = None,
        root: str | os.PathLike[str] = "outputs",
        keep: int = 3,
        name: str = "",
    ) -> Run:
        """A new run in ``out``, or in ``root/<slug>-<time>`` if ``out`` is None.

        Args:
            name: of a run whose prompt is empty; "": the prompt must not be empty.

        Raises:
            ValueError: an invalid prompt (:func:`check_prompt`), or ``out`` begins with the unknown home of a user.
            RunError: ``out`` is in use, is not empty, or cannot be written.
        """
        prompt, keep = check_prompt(prompt, may_be_empty=bool(name)), _check_keep(keep)
        target = Path(root) / slugify(prompt or name) if out is None else expanded(out)
        try:
            folder = new_folder(target) if out is None else empty_folder(target, config_text)
            lock = locks.acquire(folder, new=True)
        except OSError as error:
            raise checkpoints.explain("create the run folder", target, error) from error
        run = cls(folder, prompt, config_hash, keep, lock)
        if _content(folder, config_text):  # another process wrote to it after the first check and before the lock
            run.close()
            raise _not_empty(folder)
        try:
            atomic_write_text(folder / "config.yaml", config_text)
            run.set_status("running", {"created": _now(), **(info or {})})
            run.event("created", {})
        except BaseException as error:
            # Remove all files, so that the same command works after the problem is fixed.
            for name in ("config.yaml", "run.json", "events.jsonl"):
                with contextlib.suppress(OSError):
                    (folder / name).unlink()
            run.close()
            if out is None:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            cause = error.__cause__ if isinstance(error, RunError) else error
            if isinstance(cause, OSError):
                raise checkpoints.explain("write the run folder", folder, cause) from cause
            raise
        return run

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, config_hash: str = "", keep: int = 3, verb: str = "resume") -> Run:
        """An existing run, to continue it or, with another ``verb``, for that command.

        Raises:
            RunError: there is no run in ``folder``, it is in use, of a newer version, or of another config.
        """
        folder, keep = expanded(folder), _check_keep(keep)
        found = read_status(folder)
        earlier = tuple(map(str, listed)) if isinstance(listed := found.get("earlier_hashes"), list) else ()
        if config_hash not in (found["config_hash"], *earlier):
            raise RunError(
                f"{folder} belongs to another config (hash {str(found['config_hash'])[:12]!r}, now"
                f" {config_hash[:12]!r}): resume with its own config.yaml, or start a new run"
            )
        try:
            lock = locks.acquire(folder)
        except OSError as error:
            raise checkpoints.explain("lock the run folder", folder, error, folder, verb) from error
        checkpoints.remove_leftovers(folder)
        checkpoints.remove_leftovers(folder / "checkpoints")
        return cls(folder, str(found["prompt"]), config_hash, keep, lock, earlier, verb)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        locks.release(self.lock)

    def check_held(self) -> None:
        """Raise RunError if another process has taken over the folder; every write begins with it."""
        if locks.is_lost(self.lock):
            raise RunError(f"another process has taken over {self.folder}: this one stops and writes nothing more to it")

    def save_checkpoint(self, step: int, saved: SavedState) -> Path:
        """Write the state after ``step`` finished steps. Errors as :func:`dreamlift.runs.checkpoints.save_checkpoint`."""
        self.check_held()
        # The metrics are synced first: a checkpoint on disk must not have more steps than they have.
        with contextlib.suppress(OSError), open(self.folder / "metrics.jsonl", "rb") as file:
            os.fsync(file.fileno())
        path = checkpoints.save_checkpoint(self.folder / "checkpoints", step, saved.to_dict(), self.config_hash, self.keep)
        self.event("checkpoint", {"step": step})
        return path

    def load_latest(self) -> SavedState | None:
        """The newest intact checkpoint; None if there is none. Errors as :func:`dreamlift.runs.checkpoints.load_latest`."""
        from dreamlift.stages.base import SavedState  # imported here, since it imports torch

        found = checkpoints.load_latest(self.folder / "checkpoints", self.config_hash, self.earlier)
        return None if found is None else SavedState.from_dict(found[1])

    def resume(self, saved: SavedState | None) -> None:
        """Continue from ``saved`` (None: from the first step): later metrics are removed. Raises RunError."""
        step = saved.index if saved else 0
        self.check_held()
        path = self.folder / "metrics.jsonl"
        kept = [line for line in read_metrics(self.folder) if line["step"] < step]
        try:
            atomic_write_bytes(path, b"".join(_line(line) for line in kept))
        except OSError as error:
            raise self.fault(path, error) from error
        self.event("resumed", {"step": step})

    def status(self) -> dict[str, Any]:
        """The content of ``run.json``."""
        return read_status(self.folder)

    def log(self, index: int, values: Mapping[str, float]) -> None:
        """Append one line to ``metrics.jsonl``. Raises RunError; a partly written line is removed."""
        record = {"step": index} | {name: _number(value) for name, value in values.items()} | {"step": index}
        self._append("metrics.jsonl", record)

    def event(self, name: str, details: Mapping[str, Any]) -> None:
        """Append one line to ``events.jsonl``. Raises RunError."""
        self._append("events.jsonl", {"time": _now(), "event": name, **_plain(details)})

    def set_status(self, status: str, changes: Mapping[str, Any]) -> None:
        """Rewrite ``run.json`` with a status (running, stopped, finished, failed) and further plain values."""
        self.check_held()
        path = self.folder / "run.json"
        known = read_status(self.folder) if path.exists() else {}
        fixed = {"schema": SCHEMA, "prompt": self.prompt, "config_hash": self.config_hash, "status": status}
        text = json.dumps({**known, **_plain(changes), **fixed}, indent=1)
        try:
            atomic_write_text(path, text + "\n")
        except OSError as error:
            raise self.fault(path, error) from error

    def fault(self, path: Path, error: OSError) -> RunError:
        """The error for a file of the run that cannot be written, with the fix."""
        return checkpoints.explain("write", path, error, self.folder, self.verb)

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        self.check_held()
        try:
            _append(self.folder / name, record)
        except OSError as error:
            raise self.fault(self.folder / name, error) from error


def particle_folders(folder: Path, particles: int) -> list[Path]:
    """The folder of each particle's files: the run's folder for the first, ``particle-2`` and so on for the others."""
    return [folder, *(folder / f"particle-{number}" for number in range(2, particles + 1))]


def read_metrics(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The complete lines of ``metrics.jsonl``, without lines that a crash truncated; [] if there is no file."""
    try:
        lines = (Path(folder) / "metrics.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # a truncated line, bytes that are not UTF-8, or a changed one
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found


def new_folder(stem: Path) -> Path:
    """``<stem>-<time>``, with a number if another run has that name."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    name = f"{stem.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for attempt in range(1, 1000):
        folder = stem.parent / (name if attempt == 1 else f"{name}-{attempt}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()  # atomic: it succeeds in one process only
            return folder
    raise RunError(f"{stem.parent} holds 999 runs named {name}: give --out")


def empty_folder(folder: Path, config_text: str = "") -> Path:
    """``folder``, created if it is missing. Raises RunError if it has more than the beginning of a run of ``config_text``."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: give --out a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    # A lock alone is no content: acquiring it fails if it is held, and otherwise its run never started. Nor is the ledger of a
    # batch, which is written before its run.
    if _content(folder, config_text):
        raise _not_empty(folder)
    return folder


def _content(folder: Path, config_text: str = "") -> list[str]:
    """The names in a folder, without what a process leaves that was killed when it created a run of ``config_text``."""
    names, known = (path.name for path in folder.iterdir()), (*locks.NAMES, LEDGER)
    found = [name for name in names if name not in known and not name.startswith(".tmp-")]
    begun = found == ["config.yaml"] and (folder / found[0]).read_bytes() == config_text.encode("utf-8")
    return [] if begun else found


def _check_keep(keep: int) -> int:
    if keep < 1:
        raise ValueError(f"keep is the number of checkpoints to keep, at least 1, got {keep}")
    return keep


def _not_empty(folder: Path) -> RunError:
    if (folder / "run.json").exists():
        return RunError(f"{folder} holds a run already: resume that one, or give --out another folder")
    return RunError(f"{folder} is not empty, and nothing is overwritten: give --out a new or an empty folder")


_TEXT = (lambda value: isinstance(value, str), "text")
# NaN is refused too, and a whole number beyond a float's range.
_NUMBER = (lambda value: type(value) in (int, float) and 0 <= value < 1e300, "a number of at least 0")
_RECORDS = (lambda value: isinstance(value, list) and 0 < len(value) <= 1000, "a list of 1 to 1000 entries")
_NAMES = (lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value), "a list of names")
# The values of run.json that are read again; others are for the user only.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "prompt": _TEXT, "config_hash": _TEXT, "status": _TEXT, "seconds": _NUMBER, "peak_memory_gb": _NUMBER,
    "particles": _RECORDS, "plugins": _NAMES,
}  # fmt: skip


def read_status(folder: Path) -> dict[str, Any]:
    """The content of ``run.json`` in a run folder.

    Raises:
        RunError: the file is missing, damaged, or has a value of a wrong kind; one line with the fix.
    """
    path, fix = folder / "run.json", "restore it, or start a new run"
    try:
        found = json.loads(read_text(path, MAX_STATUS))
    except FileNotFoundError:
        raise RunError(f"{folder} holds no run (there is no run.json): give the folder of a run{runs_below(folder)}") from None
    except OSError as error:
        raise checkpoints.explain("read", path, error, folder) from error
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise RunError(f"{path} was changed and cannot be read ({why}): {fix}") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if type(schema) is int and schema > SCHEMA:
        raise RunError(f"{path} was written by a newer dreamlift (schema {str(schema)[:9]}): upgrade dreamlift")
    if type(schema) is not int or not {"prompt", "config_hash"} <= found.keys():
        raise RunError(f"{path} was changed and cannot be read: {fix}")
    for name, (fits, accepted) in _KINDS.items():
        if name in found and not fits(found[name]):
            given = f"a {type(found[name]).__name__}" if isinstance(found[name], (dict, list)) else repr(found[name])[:40]
            raise RunError(f"{path} was changed: {name} is {given}, accepted: {accepted}; {fix}")
    return found


def runs_below(folder: Path) -> str:
    """What a message says of a folder that is no run: how a tuned prior is used, or the newest runs in it; "" for others."""
    from dreamlift.tuning.card import use_of  # imported here, since it imports torch

    if told := use_of(folder):
        return f"; {told}"
    try:
        found = [(path.parent.stat().st_mtime, path.parent) for path in folder.glob("*/run.json")]
    except OSError:
        return ""
    if not found:
        return ""
    named = ", ".join(str(path) for _, path in sorted(found, reverse=True)[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"; runs in it: {named}{more}"


def _append(path: Path, record: Mapping[str, Any]) -> None:
    """Append a line; the file is opened each time, so that a deleted folder is detected. A failed line is removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        size = os.fstat(descriptor).st_size
        data = _line(record)
        if size:
            os.lseek(descriptor, size - 1, os.SEEK_SET)
            # A killed process may have left a truncated line: end it, so that the new line is valid.
            data = data if os.read(descriptor, 1) == b"\n" else b"\n" + data
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode("ascii") + b"\n"


def _number(value: float) -> float | int | str:
    """A number for JSON; NaN and infinity, which JSON does not have, become text ("nan", "inf", "-inf")."""
    if isinstance(value, (bool, int)):
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _number(value) if isinstance(value, float) else value for name, value in values.items()}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def check_out(out: Path | None) -> None:
    """Check that a folder is empty or missing, before the prior is loaded (``Run.create`` checks again).

    Raises:
        ValueError: it is not; one line with the fix.
    """
    folder = None if out is None else expanded(out)
    if folder is None:
        return
    if not folder.exists():
        above = next((path for path in folder.parents if path.exists()), None)
        if above is not None and not above.is_dir():
            raise ValueError(f"{folder} cannot be made, since {above} is a file: give --out another folder")
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: give --out a new or an empty folder")
    if (folder / "run.json").exists():
        fix = f"`dreamlift resume {folder}`, or give --out another folder"
        if (folder / TUNED).is_dir():
            fix += f"; what it has learnt is lifted in a new context by `dreamlift generate --config {folder} --context WORDS`"
        raise ValueError(f"{folder} holds a run already: {fix}")
    if _content(folder) not in ([], ["config.yaml"]):  # Run.create compares that one with its own
        raise ValueError(f"{folder} is not empty, and nothing is overwritten: give --out a new or an empty folder")
