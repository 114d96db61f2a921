"""The ledger of a batch: what is to be made, by whom it is being made, and what is finished.

::

    runs/
        .batch/entries.jsonl      one line an asset: its id, folder, prompt, seed, pictures, and the name of its settings
        .batch/settings.jsonl     the settings, each distinct one once
        .batch/workers/TOKEN      the heartbeat of a command that makes assets: rewritten every BEAT seconds
        .batch/ended/ID.done      an empty file for each finished asset (ID.failed: given up), so that one look at a folder
                                  counts them; it is made again from the assets' folders where it is missing
        a-red-mug-3f2a9c81d0e4/   an ordinary run, and
            .asset/claim-0001     who makes the asset for the first time (host, process, since)
            .asset/end-0001       how that attempt ended; without it, it is under way or its process was killed
            .asset/done           the attempt that made it, and its figures; or
            .asset/failed         why it was given up

Each of these small files is created once, by a hard link, which succeeds for one of several processes only, also on a network
file system; none but the heartbeat is ever changed. So attempt N + 1 has one owner, and an asset is finished once. An owner
whose attempt was taken over finds claim N + 1 and does not finish. An attempt is taken over where its owner's process is gone
(on this machine), or where its heartbeat has not *changed* for LEASE seconds of the observer's own monotonic clock: clocks of
several hosts are never compared, so one that is wrong or set back does no harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamlift.system.files import atomic_write_text, create_exclusively
from dreamlift.system.processes import lives, pid_space, started

BATCH, ASSET = ".batch", ".asset"
BEAT, LEASE = 10.0, 120.0  # seconds between heartbeats; without one until an attempt is taken over
ATTEMPT = re.compile(r"(claim|end)-(\d{4,})")


@dataclass(frozen=True)
class Entry:
    """One asset of the list."""

    id: str  # 12 hex digits: a hash of prompt, settings, seed, pictures and the priors' revisions
    folder: str  # its name in the batch's folder
    prompt: str
    seed: int
    settings: str  # the name of its settings in settings.jsonl
    photos: tuple[dict[str, Any], ...] = ()  # fields of its photos
    anyway: bool = False  # started even if the prior knows none of the prompt's nouns
    line: int = 0  # in the list, counted from 1
    listed: bool = True  # False: of an earlier list for the same folder, and not of the newest


@dataclass(frozen=True)
class Record:
    """What an asset's folder says of it."""

    state: str  # waiting, claimed, done or failed
    attempt: int = 0  # the newest claim
    owner: dict[str, Any] = field(default_factory=dict)  # of a claim without an end
    ends: tuple[dict[str, Any], ...] = ()  # of the attempts that ended, since the asset was last given up


@dataclass(frozen=True)
class Claim:
    """This command's right to make an asset."""

    entry: Entry
    attempt: int


class Ledger:
    """The ledger in a batch's folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, root / BATCH
        self.ended_folder, self.workers = self.home / "ended", self.home / "workers"

    def exists(self) -> bool:
        """Whether the folder has a ledger."""
        return (self.home / "entries.jsonl").is_file()

    def folder(self, entry: Entry) -> Path:
        """The folder of an asset's run."""
        return self.root / entry.folder

    def write(self, entries: list[Entry], settings: dict[str, Any]) -> None:
        """Write the list; assets of an earlier one that are not in it stay in the ledger as not listed. Raises OSError."""
        for folder in (self.ended_folder, self.workers):
            folder.mkdir(parents=True, exist_ok=True)
        old, known = (self.entries(), self.settings()) if self.exists() else ([], {})
        new = {entry.id for entry in entries}
        entries = [*entries, *(Entry(**{**vars(entry), "listed": False}) for entry in old if entry.id not in new)]
        _write_changed(
            self.home / "settings.jsonl",
            _lines({"name": name, "settings": value} for name, value in {**known, **settings}.items()),
        )
        _write_changed(self.home / "entries.jsonl", _lines(map(vars, entries)))  # last: it makes a ledger of the folder

    def entries(self) -> list[Entry]:
        """All assets, in the list's order. Raises ValueError if the file was changed."""
        return [_entry(line) for line in _read_lines(self.home / "entries.jsonl")]

    def settings(self) -> dict[str, Any]:
        """The settings as plain data, by name."""
        return {line["name"]: line["settings"] for line in _read_lines(self.home / "settings.jsonl")}

    def ended(self) -> dict[str, str]:
        """The state, done or failed, of each finished asset by its id: one look at the index and one at the batch's folder.

        Assets whose folder was deleted do not count.
        """
        names = (name.partition(".") for name in _names(self.ended_folder))
        return {name: state for name, _, state in names if state in ("done", "failed")}

    def end_times(self) -> list[float]:
        """When assets were finished, by the file system's clock, ascending."""
        with contextlib.suppress(OSError), os.scandir(self.ended_folder) as found:
            return sorted(each.stat().st_mtime for each in found if each.name.endswith(".done"))
        return []

    def folders(self) -> set[str]:
        """The names in the batch's folder."""
        return set(_names(self.root))

    def stranger(self, entry: Entry) -> str:
        """Why an existing folder cannot be the asset's, or "": it is another asset's, or no asset's of a batch.

        Folders whose name has the id need no look.
        """
        place = self.folder(entry)
        if entry.id in entry.folder:
            return ""
        names = set(_names(place))
        if names and ASSET not in names:
            return f"{place} exists and is no asset of this batch: give the asset another name"
        known = _read(place / ASSET / "claim-0001").get("id", entry.id)
        if known != entry.id:
            return f"{place} has an asset of an earlier list, with other settings: give this one another name"
        return ""

    def record(self, entry: Entry) -> Record:
        """The state of one asset, from its folder. An index entry that a killed process left out is added."""
        place = self.folder(entry) / ASSET
        names = set(_names(place))
        for state in ("done", "failed"):
            if state in names:
                self._note_end(entry, state)
                return Record(state, max(_numbers(names, "claim"), default=0))
        claims, past = _numbers(names, "claim"), max(_numbers(names, "retried"), default=0)
        ends = [(number, _read(place / f"end-{number:04}")) for number in sorted(_numbers(names, "end")) if number > past]
        newest = max(claims, default=0)
        found = tuple(end for _, end in ends)
        if newest and newest not in _numbers(names, "end"):
            return Record("claimed", newest, _read(place / f"claim-{newest:04}"), found)
        return Record("waiting", newest, {}, found)

    def detail(self, entry: Entry, state: str) -> dict[str, Any]:
        """What the file ``done`` or ``failed`` of an asset says."""
        return _read(self.folder(entry) / ASSET / state)

    def claim(self, entry: Entry, attempt: int, owner: dict[str, Any]) -> Claim | None:
        """The right to make attempt ``attempt``; None: another process has it. Raises OSError."""
        place = self.folder(entry) / ASSET
        place.mkdir(parents=True, exist_ok=True)
        made = create_exclusively(place / f"claim-{attempt:04}", _json(owner))
        return Claim(entry, attempt) if made else None

    def end(self, entry: Entry, attempt: int, end: dict[str, Any]) -> bool:
        """Write how an attempt ended; False: that was written before."""
        return create_exclusively(self.folder(entry) / ASSET / f"end-{attempt:04}", _json(end))

    def finish(self, claim: Claim, state: str, detail: dict[str, Any]) -> bool:
        """Write that the asset is done, or failed; False: it was taken over, or finished before."""
        place = self.folder(claim.entry) / ASSET
        names = set(_names(place))
        if max(_numbers(names, "claim"), default=0) > claim.attempt or names & {"done", "failed"}:
            return False
        made = create_exclusively(place / state, _json({"attempt": claim.attempt, **detail}))
        if made:
            self._note_end(claim.entry, state)
        return made

    def retry(self, entry: Entry) -> None:
        """Let an asset that was given up be made again, with all its attempts."""
        place = self.folder(entry) / ASSET
        newest = max(_numbers(set(_names(place)), "claim"), default=0)
        with contextlib.suppress(FileNotFoundError):
            os.replace(place / "failed", place / f"retried-{newest:04}")
        (self.ended_folder / f"{entry.id}.failed").unlink(missing_ok=True)

    def forget(self, id: str) -> None:
        """Remove an asset's entry in the index, whose folder was deleted."""
        for state in ("done", "failed", "sent"):
            (self.ended_folder / f"{id}.{state}").unlink(missing_ok=True)

    def note_sent(self, entry: Entry) -> None:
        """Write that a finished asset was uploaded."""
        self._note_end(entry, "sent")

    def sent(self) -> set[str]:
        """The ids of the uploaded assets."""
        return {name.removesuffix(".sent") for name in _names(self.ended_folder) if name.endswith(".sent")}

    def _note_end(self, entry: Entry, state: str) -> None:
        with contextlib.suppress(OSError):
            (self.ended_folder / f"{entry.id}.{state}").touch(exist_ok=True)


class Heartbeat:
    """This command's sign of life: a file that a thread rewrites. Use it as a context manager."""

    def __init__(self, ledger: Ledger, about: Callable[[], dict[str, Any]] = dict, every: float = BEAT) -> None:
        self.token = secrets.token_hex(6)
        self.path, self.about, self.every, self.count = ledger.workers / self.token, about, every, 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._keep, name="dreamlift-heartbeat", daemon=True)

    def owner(self, worker: int = 0) -> dict[str, Any]:
        """What a claim says of its owner; ``worker``: the process that makes the asset on this machine, 0 if elsewhere."""
        return {
            "token": self.token,
            "host": socket.gethostname(),
            "space": pid_space(),
            "since": time.strftime("%F %T"),
            "processes": [[pid, started(pid)] for pid in (os.getpid(), worker) if pid],
        }

    def beat(self) -> None:
        """Write it now. Raises OSError."""
        self.count += 1
        atomic_write_text(self.path, json.dumps({**self.about(), "host": socket.gethostname(), "count": self.count}))

    def _keep(self) -> None:
        while not self.stop.wait(self.every):
            with contextlib.suppress(OSError):  # a full disk: the next one tries again
                self.beat()

    def __enter__(self) -> Heartbeat:
        self.beat()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        with contextlib.suppress(OSError):
            self.path.unlink()


class Observer:
    """Which owners are gone, as seen from this process."""

    def __init__(self, ledger: Ledger, lease: float = LEASE, clock: Callable[[], float] = time.monotonic) -> None:
        self.ledger, self.lease, self.clock = ledger, lease, clock
        self.seen: dict[str, tuple[bytes, float]] = {}  # by token: the last heartbeat, and when it was first seen

    def gone(self, owner: dict[str, Any]) -> bool:
        """Whether an owner's processes have ended, or its heartbeat has stood still for the lease."""
        if owner.get("space") and owner["space"] == pid_space():
            return not any(lives(pid, begun) for pid, begun in owner.get("processes", []))
        token = str(owner.get("token", ""))
        try:
            beat = (self.ledger.workers / Path(token).name).read_bytes() if token else b""
        except OSError:
            beat = b""
        now = self.clock()
        if token not in self.seen or self.seen[token][0] != beat:
            self.seen[token] = (beat, now)
        return now - self.seen[token][1] >= self.lease


def heartbeats(ledger: Ledger) -> list[dict[str, Any]]:
    """What the commands that make assets said last; those of killed ones are among them."""
    return [{**_read(ledger.workers / name), "token": name} for name in sorted(_names(ledger.workers)) if "." not in name]


def _entry(line: dict[str, Any]) -> Entry:
    try:
        entry = Entry(**{**line, "photos": tuple(line.get("photos", ()))})
        if not re.fullmatch(r"[0-9a-f]{12}", entry.id) or Path(entry.folder).name != entry.folder:
            raise ValueError(entry.id)
    except (TypeError, ValueError):
        raise ValueError(
            f"the ledger was changed: {json.dumps(line)[:80]} is no asset; give the list again, with --out another folder"
        ) from None
    return entry


def _numbers(names: set[str], kind: str) -> set[int]:
    return {int(name[len(kind) + 1 :]) for name in names if name.startswith(f"{kind}-") and name[len(kind) + 1 :].isdecimal()}


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


def _read(path: Path) -> dict[str, Any]:
    """A small file of the ledger; {} where it is missing, or empty on a file system without links."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            raise ValueError(
                f"line {number} of {path} was changed and cannot be read: give the list again, with --out another folder"
            ) from None
    return found


def _write_changed(path: Path, text: str) -> None:
    """Write a file unless it has that content already."""
    with contextlib.suppress(OSError):
        if path.read_text(encoding="utf-8") == text:
            return
    atomic_write_text(path, text)
