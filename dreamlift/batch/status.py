"""How far a batch is, from its ledger: two looks at folders, and the records of the assets that are in work."""

from __future__ import annotations

import math
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamlift.batch.attempts import counted
from dreamlift.batch.heartbeat import LEASE, heartbeats, is_here, lives_here
from dreamlift.batch.ledger import Entry, Ledger, Record
from dreamlift.system.text import one_line

RECENT = 200  # finished assets from which the rate is counted
FAILED_SHOWN = 10


@dataclass(frozen=True)
class Status:
    """The counts of a batch."""

    assets: int
    done: int
    failed: int
    running: list[dict[str, Any]] = field(default_factory=list)  # folder, host, attempt, step, total, since
    waiting: int = 0  # with the silent ones
    per_hour: float = 0.0  # 0: unknown
    seconds_left: float = 0.0  # 0: unknown, or nothing is left
    unlisted: int = 0  # assets of other lists
    reasons: dict[str, str] = field(default_factory=dict)  # of the first failed assets, by folder
    silent: list[dict[str, Any]] = field(default_factory=list)  # as running, and heard: of commands that may be gone
    others: list[dict[str, Any]] = field(default_factory=list)  # as running: assets of other lists, which do not count


def status_of(ledger: Ledger, listed: list[Entry] | None = None) -> Status:
    """The status of a batch.

    Args:
        listed: the assets that count; None: those of the newest list.

    Raises:
        ValueError: the folder has no batch.
    """
    if not ledger.exists():
        raise ValueError(
            f"{ledger.root} is no folder of a batch (there is no .batch/entries.jsonl): give --out of `dreamlift batch`"
        )
    every = ledger.entries()
    listed = [entry for entry in every if entry.listed] if listed is None else listed
    counting = {entry.id for entry in listed}
    ended, folders = ledger.ended(), ledger.folders()
    beats = heartbeats(ledger)
    counts = {"done": 0, "failed": 0}
    running: list[dict[str, Any]] = []
    silent: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    failed: list[Entry] = []
    for entry in listed:
        state = ended.get(entry.id, "") if entry.folder in folders else ""
        if not state and entry.folder in folders:
            record = ledger.record(entry)
            state = record.state
            if state == "claimed":
                _tell_claimed(ledger, entry, record, beats, running, silent)
        if state in counts:
            counts[state] += 1
        failed += [entry] * (state == "failed")
    for entry in every:
        if entry.id not in counting and entry.folder in folders and entry.id not in ended:
            record = ledger.record(entry)
            if record.state == "claimed":
                _tell_claimed(ledger, entry, record, beats, others, [])
    rate = rate_of(attempts_of(ledger, listed))
    left = len(listed) - counts["done"] - counts["failed"]
    reasons = {entry.folder: str(ledger.detail(entry, "failed").get("reason", "?")) for entry in failed[:FAILED_SHOWN]}
    return Status(
        len(listed),
        counts["done"],
        counts["failed"],
        running,
        left - len(running),
        round(3600 * rate, 1),
        round(left / rate) if rate else 0.0,
        len(every) - len(listed),
        reasons,
        silent,
        others,
    )


def _tell_claimed(
    ledger: Ledger, entry: Entry, record: Record, beats: dict[str, dict[str, Any]], running: list[Any], silent: list[Any]
) -> None:
    """Add an asset that is claimed to those that are running, or to those of commands that may be gone.

    An owner on this machine whose processes have ended is in neither. One on another host is silent where its heartbeat is
    missing, or older than the lease.
    """
    owner = record.owner
    here, beat = is_here(owner), beats.get(str(owner.get("token")), {})
    if here and not lives_here(owner):
        return
    step, total = beat.get("running", {}).get(entry.id, [0, 0])
    about = {
        "folder": entry.folder,
        "host": owner.get("host", "?"),
        "attempt": counted(record.ends) + 1,
        "step": step or last_step(ledger.folder(entry)),
        "total": total,
        "since": owner.get("since", "?"),
    }
    age = beat.get("age", math.inf)
    if here or age <= LEASE:
        running.append(about)
    else:
        heard = time.strftime("%F %T", time.localtime(time.time() - age)) if math.isfinite(age) else ""
        silent.append({**about, "heard": heard})


def last_step(folder: Path) -> int:
    """Finished steps of a run, by the last lines of its metrics; 0: none, or unknown."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2000))
            found = re.findall(rb'"step": (\d+)', file.read())
    except OSError:
        return 0
    return int(found[-1]) + 1 if found else 0


def attempts_of(ledger: Ledger, entries: list[Entry]) -> list[tuple[float, float]]:
    """When the attempts that made the newest of ``entries`` began and ended, in seconds, by the clock of the file system."""
    known, found = {entry.id: entry for entry in entries}, []
    newest = sorted((when, name) for name, when in ledger.end_times().items() if name in known)[-RECENT:]
    for when, name in newest:
        took = ledger.detail(known[name], "done").get("attempt_seconds")
        if isinstance(took, (int, float)) and 0.0 <= took < math.inf:
            found.append((when - took, when))
    return found


def rate_of(attempts: list[tuple[float, float]]) -> float:
    """Finished assets a second of the time in which at least one was being made, which leaves pauses out; 0: unknown."""
    busy, until = 0.0, -math.inf
    for begin, end in sorted(attempts):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return len(attempts) / busy if busy > 0.0 else 0.0


def described(status: Status) -> str:
    """The status as text."""
    percent = 100 * (status.done + status.failed) / max(status.assets, 1)
    lines = [
        f"{status.assets} assets: {status.done} done, {len(status.running)} running, {status.waiting} waiting, "
        f"{status.failed} given up ({percent:.0f} %)"
    ]
    if status.per_hour:
        left = f", about {duration(status.seconds_left)} left" if status.seconds_left else ""
        lines[0] += f"; {status.per_hour:.0f} an hour{left}"
    lines += map(_running, status.running)
    for each in status.silent:
        heard = f"since {each['heard']}" if each["heard"] else f"(begun {each['since']})"
        lines.append(f"  waiting  {each['folder']}  {_step(each)}  no sign of life from {each['host']} {heard}")
    lines += [f"  given up {folder}: {one_line(reason, 200)}" for folder, reason in status.reasons.items()]
    if (more := status.failed - len(status.reasons)) > 0:
        lines.append(f"  and {more} more that are given up: report/table.csv")
    if status.unlisted:
        lines.append(f"  {status.unlisted} assets of other lists are in the folder as well")
    lines += [f"{_running(each)}, of another list" for each in status.others]
    return "\n".join(lines)


def _running(about: dict[str, Any]) -> str:
    again = f", attempt {about['attempt']}" if about["attempt"] > 1 else ""
    return f"  running  {about['folder']}  {_step(about)}  on {about['host']} since {about['since']}{again}"


def _step(about: dict[str, Any]) -> str:
    of = f"/{about['total']}" if about["total"] else ""
    return f"step {about['step']}{of}" if about["step"] else "loading"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min`` or ``2 d 4 h``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{round(seconds)} s"
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def as_plain(status: Status) -> dict[str, Any]:
    """The status for JSON."""
    return {**asdict(status), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
