"""The ledger of a batch: what is to be made, by whom it is being made, and what is finished.

::

    runs/
        .batch/entries.jsonl      one line an asset: its id, folder, prompt, seed, pictures, and the name of its settings
        .batch/settings.jsonl     the settings, each distinct one once
        .batch/workers/TOKEN      the heartbeat of a command that makes assets: rewritten every BEAT seconds
        .batch/ended/ID.done      an empty file for each finished asset (ID.failed: given up), so that one look at a folder
                                  counts them; it is made again from the assets' folders where it is missing
        .batch/ended/ID.sent-A    it was uploaded to the address whose hash begins with A
        .batch/logs/TOKEN-S-N.log what the N-th process of a command's worker S printed; kept where an attempt failed
        a-red-mug-3f2a9c81d0e4/   an ordinary run, and
            .asset/claim-0001     who makes the asset for the first time (host, process, since)
            .asset/end-0001       how that attempt ended; without it, it is under way or its process was killed
            .asset/done           the attempt that made it, and its figures; or
            .asset/failed         why it was given up
            .asset/void-0001      the attempt does not count: the machine, or all that it made, was at fault

Each of these small files is created once, by a hard link, which succeeds for one of several processes only, also on a network
file system; none but the heartbeat is ever changed. So attempt N + 1 has one owner, and an asset is finished once. An owner
whose attempt was taken over finds claim N + 1 and does not finish. When an attempt is taken over: dreamlift.batch.heartbeat.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamlift.system.files import atomic_write_text, create_exclusively

BATCH, ASSET = ".batch", ".asset"
VOID = "void"  # the outcome of an attempt that counts no longer
WAIT = 120.0  # seconds until the list is written: other commands write theirs, with up to 100,000 assets each


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
    preset: str = ""  # from which its settings came, for run.json; "": not known
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
        """Write the list; assets of an earlier one that are not in it stay in the ledger as not listed.

        Under a lock: of two lists that are given at the same time, the one that is written later keeps the assets of the other.

        Raises:
            OSError: it cannot be written, or others have been writing theirs for ``WAIT`` seconds.
        """
        from dreamlift.runs.lock import guard  # here, since it imports numpy, and ``dreamlift status`` writes nothing

        for folder in (self.ended_folder, self.workers):
            folder.mkdir(parents=True, exist_ok=True)
        with guard(self.home, WAIT):
            old, known = (self.entries(), self.settings()) if self.exists() else ([], {})
            new = {entry.id for entry in entries}
            every = [*entries, *(Entry(**{**vars(entry), "listed": False}) for entry in old if entry.id not in new)]
            _write_changed(
                self.home / "settings.jsonl",
                _lines({"name": name, "settings": value} for name, value in {**known, **settings}.items()),
            )
            _write_changed(self.home / "entries.jsonl", _lines(map(vars, every)))  # last: it makes a ledger of the folder

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
        names = (name.partition(".") for name in names_in(self.ended_folder))
        return {name: state for name, _, state in names if state in ("done", "failed")}

    def end_times(self) -> dict[str, float]:
        """When assets were finished, by their ids and the file system's clock."""
        with contextlib.suppress(OSError), os.scandir(self.ended_folder) as found:
            return {each.name.removesuffix(".done"): each.stat().st_mtime for each in found if each.name.endswith(".done")}
        return {}

    def folders(self) -> set[str]:
        """The names in the batch's folder."""
        return set(names_in(self.root))

    def stranger(self, entry: Entry) -> str:
        """Why an existing folder cannot be the asset's, or "": it is another asset's, or no asset's of a batch.

        Folders whose name has the id need no look.
        """
        place = self.folder(entry)
        if entry.id in entry.folder:
            return ""
        names = set(names_in(place))
        if names and ASSET not in names:
            return f"{place} exists and is no asset of this batch: give the asset another name"
        known = read_json(place / ASSET / "claim-0001").get("id", entry.id)
        if known != entry.id:
            return f"{place} has an asset of an earlier list, with other settings: give this one another name"
        return ""

    def record(self, entry: Entry) -> Record:
        """The state of one asset, from its folder. An index entry that a killed process left out is added."""
        place = self.folder(entry) / ASSET
        names = set(names_in(place))
        for state in ("done", "failed"):
            if state in names:
                self._note_end(entry, state)
                return Record(state, max(_numbers(names, "claim"), default=0))
        claims, past = _numbers(names, "claim"), max(_numbers(names, "retried"), default=0)
        ends = [(number, read_json(place / f"end-{number:04}")) for number in sorted(_numbers(names, "end")) if number > past]
        newest = max(claims, default=0)
        void = _numbers(names, "void")
        found = tuple(end | {"outcome": VOID} if number in void else end for number, end in ends)
        if newest and newest not in _numbers(names, "end"):
            return Record("claimed", newest, read_json(place / f"claim-{newest:04}"), found)
        return Record("waiting", newest, {}, found)

    def detail(self, entry: Entry, state: str) -> dict[str, Any]:
        """What the file ``done`` or ``failed`` of an asset says."""
        return read_json(self.folder(entry) / ASSET / state)

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
        names = set(names_in(place))
        if max(_numbers(names, "claim"), default=0) > claim.attempt or names & {"done", "failed"}:
            return False
        made = create_exclusively(place / state, _json({"attempt": claim.attempt, **detail}))
        if made:
            self._note_end(claim.entry, state)
        return made

    def uncharge(self, claim: Claim) -> bool:
        """Let an attempt that has ended count no longer; returns whether the asset was given up after it, and now is not."""
        place = self.folder(claim.entry) / ASSET
        create_exclusively(place / f"void-{claim.attempt:04}", b"")
        if self.detail(claim.entry, "failed").get("attempt") != claim.attempt:
            return False
        with contextlib.suppress(FileNotFoundError):
            os.replace(place / "failed", place / f"unfailed-{claim.attempt:04}")
        (self.ended_folder / f"{claim.entry.id}.failed").unlink(missing_ok=True)
        return True

    def retry(self, entry: Entry) -> None:
        """Let an asset that was given up be made again, with all its attempts."""
        place = self.folder(entry) / ASSET
        newest = max(_numbers(set(names_in(place)), "claim"), default=0)
        with contextlib.suppress(FileNotFoundError):
            os.replace(place / "failed", place / f"retried-{newest:04}")
        (self.ended_folder / f"{entry.id}.failed").unlink(missing_ok=True)

    def forget(self, ids: Iterable[str]) -> None:
        """Remove the entries in the index of assets whose folders were deleted."""
        gone = set(ids)
        for name in names_in(self.ended_folder) if gone else ():
            if name.partition(".")[0] in gone:
                (self.ended_folder / name).unlink(missing_ok=True)

    def note_sent(self, entry: Entry, address: str) -> None:
        """Write that a finished asset was uploaded to an address."""
        self._note_end(entry, _sent_to(address))

    def sent(self, address: str) -> set[str]:
        """The ids of the assets that were uploaded to an address."""
        end = f".{_sent_to(address)}"
        return {name.removesuffix(end) for name in names_in(self.ended_folder) if name.endswith(end)}

    def _note_end(self, entry: Entry, state: str) -> None:
        with contextlib.suppress(OSError):
            (self.ended_folder / f"{entry.id}.{state}").touch(exist_ok=True)


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


def names_in(folder: Path) -> list[str]:
    """The names in a folder; [] where there is none."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sent_to(address: str) -> str:
    return f"sent-{hashlib.sha256(address.rstrip('/').encode()).hexdigest()[:12]}"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


def read_json(path: Path) -> dict[str, Any]:
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
