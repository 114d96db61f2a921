"""How far a batch is, from its ledger: two looks at folders, and the records of the assets that are in work."""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamlift.batch.ledger import Entry, Ledger, heartbeats
from dreamlift.system.processes import lives, pid_space
from dreamlift.system.text import one_line

RECENT = 200  # finished assets from which the rate is counted
PAUSE = 5.0  # a gap of so many times the largest usual gap (of 95 %) is a pause of the batch, and is left out
FAILED_SHOWN = 10


@dataclass(frozen=True)
class Status:
    """The counts of a batch."""

    assets: int
    done: int
    failed: int
    running: list[dict[str, Any]] = field(default_factory=list)  # folder, host, attempt, step, total, since
    waiting: int = 0
    per_hour: float = 0.0  # 0: unknown
    seconds_left: float = 0.0  # 0: unknown, or nothing is left
    unlisted: int = 0  # assets of earlier lists
    reasons: dict[str, str] = field(default_factory=dict)  # of the first failed assets, by folder


def status_of(ledger: Ledger) -> Status:
    """The status of a batch.

    Raises:
        ValueError: the folder has no batch.
    """
    if not ledger.exists():
        raise ValueError(
            f"{ledger.root} is no folder of a batch (there is no .batch/entries.jsonl): give --out of `dreamlift batch`"
        )
    every = ledger.entries()
    listed = [entry for entry in every if entry.listed]
    ended, folders = ledger.ended(), ledger.folders()
    steps = {id: told for beat in heartbeats(ledger) for id, told in beat.get("running", {}).items()}
    counts = {"done": 0, "failed": 0}
    running: list[dict[str, Any]] = []
    failed: list[Entry] = []
    for entry in listed:
        state = ended.get(entry.id, "") if entry.folder in folders else ""
        if not state and entry.folder in folders:
            record = ledger.record(entry)
            state = record.state
            if state == "claimed" and not _dead(record.owner):
                step, total = steps.get(entry.id, [0, 0])
                step = step or last_step(ledger.folder(entry))
                running.append(
                    {
                        "folder": entry.folder,
                        "host": record.owner.get("host", "?"),
                        "attempt": record.attempt,
                        "step": step,
                        "total": total,
                        "since": record.owner.get("since", "?"),
                    }
                )
        if state in counts:
            counts[state] += 1
        failed += [entry] * (state == "failed")
    rate = rate_of(ledger.end_times())
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
    )


def _dead(owner: dict[str, Any]) -> bool:
    """Whether an owner on this machine is gone; those on others count as living."""
    return owner.get("space") == pid_space() != "" and not any(lives(pid, begun) for pid, begun in owner.get("processes", []))


def last_step(folder: Path) -> int:
    """Finished steps of a run, by the last lines of its metrics; 0: none, or unknown."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2000))
            found = re.findall(rb'"step": (\d+)', file.read())
    except OSError:
        return 0
    return int(found[-1]) + 1 if found else 0


def rate_of(times: list[float]) -> float:
    """Assets a second from the times at which the newest ones were finished, without pauses of the batch; 0: unknown."""
    gaps = [max(0.0, after - before) for before, after in itertools.pairwise(times[-RECENT:])]
    if len(gaps) < 2:
        return 0.0
    most = PAUSE * sorted(gaps)[int(0.95 * (len(gaps) - 1))]
    kept = [gap for gap in gaps if gap <= most]
    return len(kept) / sum(kept) if sum(kept) > 0 else 0.0


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
    for each in status.running:
        of = f"/{each['total']}" if each["total"] else ""
        step = f"step {each['step']}{of}" if each["step"] else "loading"
        again = f", attempt {each['attempt']}" if each["attempt"] > 1 else ""
        lines.append(f"  running  {each['folder']}  {step}  on {each['host']} since {each['since']}{again}")
    lines += [f"  given up {folder}: {one_line(reason, 200)}" for folder, reason in status.reasons.items()]
    if (more := status.failed - len(status.reasons)) > 0:
        lines.append(f"  and {more} more that are given up: report/table.csv")
    if status.unlisted:
        lines.append(f"  {status.unlisted} assets of earlier lists are in the folder as well")
    return "\n".join(lines)


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
