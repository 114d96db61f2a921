"""The coordinator: claims assets, gives them to workers, watches these, and writes down how each attempt ended.

All its knowledge is in the ledger, so that it may be killed at any instant: the same command, or another one that watches the
same folder, goes on.
"""

from __future__ import annotations

import re
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamlift.batch.ledger import Claim, Entry, Heartbeat, Ledger, Observer, Record
from dreamlift.batch.limits import Limits, Room
from dreamlift.batch.workers.local import Told, Workers
from dreamlift.runs.checkpoints import RunError
from dreamlift.system.signals import Stop

POLL, LOOK, GRACE = 0.25, 2.0, 120.0  # seconds between looks at the workers, at others' assets, and until a stop is forced
BUSY = 10.0  # until the next attempt where a killed process still seems to have the asset's folder
STARTS = 3  # workers in a row that end before they are ready: something is wrong with the installation
LOST = 20  # attempts whose machine or coordinator was gone, before an asset is given up
FREE_OF_BLAME = ("stopped", "busy", "disk", "lost")
Tell = Callable[[str, str, dict[str, Any]], None]


@dataclass
class Slot:
    """One worker, and what it does."""

    number: int
    state: str = "starting"  # starting, idle, busy, or off
    claim: Claim | None = None
    since: float = 0.0  # when it was given its asset
    step: int = 0
    total: int = 0
    verdict: tuple[str, str] | None = None  # outcome and reason where the coordinator has killed it


@dataclass
class Tally:
    """The assets of this command by their state, and why it ended."""

    done: int = 0
    failed: int = 0
    made: int = 0  # by this command
    ended: str = ""  # "": all are done or failed; else a signal's name, "time", or "disk"
    reason: str = ""


@dataclass
class Coordinator:
    """The loop over the assets of one command."""

    ledger: Ledger
    entries: list[Entry]  # of this command's shard
    settings: dict[str, Any]
    workers: Workers
    limits: Limits
    tell: Tell
    more: dict[str, Any] = field(default_factory=dict)  # of each job: device, drop_checkpoints, upload
    retry_failed: bool = False
    lease: float | None = None

    def __post_init__(self) -> None:
        self.slots = [Slot(number) for number in range(self.workers.count)]
        self.waiting: deque[Entry] = deque()
        self.held: dict[str, tuple[Entry, float]] = {}  # that another process has, and when to look again
        self.tally, self.starts, self.stopped = Tally(), 0, 0.0
        self.beat = Heartbeat(self.ledger, self.about)
        self.observer = Observer(self.ledger) if self.lease is None else Observer(self.ledger, self.lease)
        self.room = Room(self.ledger.root, self.limits)

    def about(self) -> dict[str, Any]:
        """What the heartbeat says, in a thread of its own: the assets in work with their steps."""
        found = [(slot.claim, slot.step, slot.total) for slot in self.slots]
        return {
            "jobs": len(found),
            "running": {claim.entry.id: [step, total] for claim, step, total in found if claim is not None},
        }

    def look(self) -> int:
        """Find what is left to do, from the ledger; returns the number of assets that are."""
        ended, folders = self.ledger.ended(), self.ledger.folders()
        for entry in self.entries:
            state = ended.get(entry.id, "")
            if state and entry.folder not in folders:
                self.ledger.forget(entry.id)
                state = ""
            if not state and entry.folder in folders:
                record = self.ledger.record(entry)
                state = record.state if record.state in ("done", "failed") else ""
            if state == "failed" and self.retry_failed:
                self.ledger.retry(entry)
                state = ""
            if state:
                self._count(state)
            else:
                self.waiting.append(entry)
        return len(self.waiting)

    def run(self, stop: Stop) -> Tally:
        """Make all assets that are left, until they are finished or something stops the work."""
        begun = time.monotonic()
        with self.beat:
            try:
                for slot in self.slots:
                    self._start(slot)
                while self._left():
                    self._hand_out()
                    for told in self.workers.hear(POLL):
                        self._heard(told)
                    self._watch()
                    self._check(stop, time.monotonic() - begun)
            finally:
                self.workers.close()
                self._release()
        return self.tally

    def _left(self) -> bool:
        busy = any(slot.claim is not None for slot in self.slots)
        return busy if self.tally.ended else bool(busy or self.waiting or self.held)

    def _start(self, slot: Slot) -> None:
        slot.state, slot.claim, slot.verdict = "starting", None, None
        self.workers.start(slot.number)

    def _hand_out(self) -> None:
        """Give each idle worker an asset."""
        now = time.monotonic()
        for entry, when in list(self.held.values()):
            if when <= now:
                del self.held[entry.id]
                self.waiting.appendleft(entry)
        for slot in self.slots:
            while slot.state == "idle" and self.waiting and not self.tally.ended:
                if told := self.room.full():
                    self._end("disk", told)
                    return
                entry = self.waiting.popleft()
                claim = self._claimed(entry, slot)
                if claim is not None:
                    slot.state, slot.claim, slot.since, slot.step, slot.total = "busy", claim, now, 0, 0
                    self.workers.send(slot.number, self._job(entry))

    def _job(self, entry: Entry) -> dict[str, Any]:
        folder = str(self.ledger.folder(entry).absolute())
        return {"id": entry.id, "folder": folder, "entry": vars(entry), "settings": self.settings[entry.settings], **self.more}

    def _claimed(self, entry: Entry, slot: Slot) -> Claim | None:
        """The right to make an asset now; None: it is finished, given up, or another process has it."""
        record = self.ledger.record(entry)
        if record.state == "claimed":
            if record.owner.get("token") != self.beat.token and not self.observer.gone(record.owner):
                self._hold(entry)
                return None
            self._end_attempt(entry, record.attempt, "lost", f"its process on {record.owner.get('host', '?')} is gone", 0.0)
            record = self.ledger.record(entry)
        if record.state in ("done", "failed"):
            self._count(record.state)
            return None
        if record.state == "claimed":  # by another process, since the look above
            self._hold(entry)
            return None
        if told := self._given_up(record):
            if self.ledger.finish(Claim(entry, record.attempt), "failed", {"reason": told, "attempts": record.attempt}):
                self._fail(entry, told)
            else:
                self._hold(entry)
            return None
        claim = self.ledger.claim(
            entry, record.attempt + 1, self.beat.owner(self.workers.process(slot.number)) | {"id": entry.id}
        )
        if claim is None:
            self._hold(entry)
        return claim

    def _hold(self, entry: Entry, seconds: float = LOOK) -> None:
        self.held[entry.id] = (entry, time.monotonic() + seconds)

    def _given_up(self, record: Record) -> str:
        """Why no further attempt is made, or "".

        An attempt that crashed beyond the checkpoints of those before it does not count: it was killed from outside, as on a
        machine that is taken away, and the next one gets further. That ends, since an asset has so many steps.
        """
        counted = lost = best = 0
        for end in record.ends:
            outcome, step = end.get("outcome"), int(end.get("step", 0))
            lost += outcome == "lost"
            counted += outcome not in FREE_OF_BLAME and not (outcome == "crashed" and step > best)
            best = max(best, step)
        last = str(record.ends[-1].get("reason", "")) if record.ends else ""
        if record.ends and record.ends[-1].get("outcome") == "refused":
            return last
        if counted >= self.limits.attempts:
            return last
        return f"its process was gone {lost} times" if lost >= LOST else ""

    def _heard(self, told: Told) -> None:
        slot, what = self.slots[told.slot], told.what
        if what is None:
            self._died(slot, told)
        elif "ready" in what:
            slot.state, self.starts = "idle", 0
        elif "step" in what:
            slot.step, slot.total = what["step"], what["total"]
        elif "note" in what:
            entry = slot.claim.entry if slot.claim else None
            self.tell("note", what["note"], {"asset": entry.id if entry else ""})
        elif "end" in what and slot.claim is not None and slot.verdict is None:
            claim, slot.claim, slot.state = slot.claim, None, "idle"
            self._ended(claim, what, time.monotonic() - slot.since)
            if what["outcome"] == "memory":  # what is left of the failed attempt should not weigh on the next asset
                slot.state = "off"
                self.workers.kill(slot.number)

    def _died(self, slot: Slot, told: Told) -> None:
        """A worker has ended. Start another one, unless all is done."""
        claim, slot.claim = slot.claim, None
        if claim is not None:
            outcome, reason = slot.verdict or ("lost" if told.lost else "crashed", told.reason)
            if self.tally.ended and outcome == "crashed":
                outcome = "stopped"
            self._ended(claim, {"outcome": outcome, "reason": reason}, time.monotonic() - slot.since)
        elif slot.state == "starting" and not self.tally.ended:
            self.starts += 1
            if self.starts >= STARTS:
                raise RunError(f"workers cannot start: {told.reason}")
        slot.state = "off"
        if not self.tally.ended:
            self._start(slot)

    def _ended(self, claim: Claim, what: dict[str, Any], seconds: float) -> None:
        """Write down how an attempt ended."""
        entry, outcome, reason = claim.entry, what["outcome"], str(what.get("reason", ""))
        host = socket.gethostname()
        if outcome == "done":
            detail = {"host": host, "attempt_seconds": round(seconds, 1), **what.get("figures", {})}
            self.room.add(self.ledger.folder(entry))
            if self.ledger.finish(claim, "done", detail):
                self.tally.made += 1
            if what.get("sent"):
                self.ledger.note_sent(entry)
            self._count("done")
            self.tell("done", f"{entry.folder} ({seconds:.1f} s)", self._numbers(entry) | {"seconds": round(seconds, 1)})
            return
        self._end_attempt(entry, claim.attempt, outcome, reason, seconds)
        if outcome == "busy":
            self._hold(entry, BUSY)
        elif outcome == "disk":
            self._end("disk", reason)
        elif outcome == "stopped":  # by another one than this coordinator, unless it ends
            self.waiting.append(entry)
        else:
            told = self._given_up(self.ledger.record(entry))
            if told and self.ledger.finish(claim, "failed", {"reason": told, "attempts": claim.attempt, "host": host}):
                self._fail(entry, told)
            elif not told:
                self.tell("again", f"{entry.folder}: {reason}", {"id": entry.id, "attempt": claim.attempt, "reason": reason})
                self.waiting.append(entry)

    def _end_attempt(self, entry: Entry, attempt: int, outcome: str, reason: str, seconds: float) -> None:
        step = newest_step(self.ledger.folder(entry))
        self.ledger.end(
            entry,
            attempt,
            {
                "outcome": outcome,
                "reason": reason,
                "step": step,
                "seconds": round(seconds, 1),
                "host": socket.gethostname(),
                "time": time.strftime("%F %T"),
            },
        )

    def _fail(self, entry: Entry, reason: str) -> None:
        self._count("failed")
        self.tell("failed", f"{entry.folder} is given up: {reason}", self._numbers(entry) | {"reason": reason})

    def _count(self, state: str) -> None:
        setattr(self.tally, state, getattr(self.tally, state) + 1)

    def _numbers(self, entry: Entry) -> dict[str, Any]:
        return {"id": entry.id, "done": self.tally.done, "failed": self.tally.failed, "assets": len(self.entries)}

    def _watch(self) -> None:
        """Kill workers that take too long or too much memory."""
        now = time.monotonic()
        for slot in self.slots:
            if slot.claim is None or slot.verdict is not None:
                continue
            used = self.workers.memory(slot.number)
            if now - slot.since > self.limits.timeout:
                slot.verdict = (
                    "timeout",
                    f"it took longer than --timeout {self.limits.timeout:g}s, at step {slot.step} of {slot.total}",
                )
            elif used > self.limits.memory:
                slot.verdict = (
                    "memory",
                    f"its process had {used / 1e9:.1f} GB of memory; accepted: {self.limits.memory / 1e9:.1f} GB "
                    "(--max-memory)",
                )
            if slot.verdict is not None:
                self.workers.kill(slot.number)

    def _check(self, stop: Stop, seconds: float) -> None:
        """End the work where a signal or the time asks for it; force it where workers do not follow."""
        if not self.tally.ended:
            if stop.requested:
                self._end(stop.name, "")
            elif seconds > self.limits.seconds:
                self._end("time", f"the time of --max-time is over ({self.limits.seconds:g} s)")
        elif time.monotonic() - self.stopped > GRACE:
            for slot in self.slots:
                if slot.claim is not None and slot.verdict is None:
                    slot.verdict = ("stopped", "")
                    self.workers.kill(slot.number)

    def _end(self, why: str, reason: str) -> None:
        """Let the workers stop at their next checkpoints."""
        if not self.tally.ended:
            self.tally.ended, self.tally.reason, self.stopped = why, reason, time.monotonic()
            for slot in self.slots:
                if slot.claim is not None:
                    self.workers.stop(slot.number)

    def _release(self) -> None:
        """Give back what this command still has, after an error or a second signal."""
        for slot in self.slots:
            if slot.claim is not None:
                self._end_attempt(slot.claim.entry, slot.claim.attempt, "stopped", "", 0.0)


def newest_step(folder: Path) -> int:
    """The step of a run's newest checkpoint, by its name; 0: there is none."""
    try:
        found = [re.match(r"step-(\d+)", path.name) for path in (folder / "checkpoints").iterdir()]
    except OSError:
        return 0
    return max((int(match[1]) for match in found if match), default=0)
