"""The coordinator: claims assets, gives them to workers, watches these, and writes down how each attempt ended.

All its knowledge is in the ledger, so that it may be killed at any instant: the same command, or another one that watches the
same folder, goes on.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dreamlift.batch.attempts import BROKEN, EACH, FREE_OF_BLAME, ROW, Streak, counted, end_of, first_failure, given_up
from dreamlift.batch.heartbeat import Heartbeat, Observer
from dreamlift.batch.ledger import VOID, Claim, Entry, Ledger
from dreamlift.batch.limits import Limits, Room
from dreamlift.batch.status import last_step
from dreamlift.batch.workers.local import Told, Workers
from dreamlift.batch.workers.uploads import Uploads
from dreamlift.runs.checkpoints import RunError
from dreamlift.runs.lock import seconds_left
from dreamlift.system.signals import Stop

POLL, LOOK, GRACE = 0.25, 2.0, 120.0  # seconds between looks at the workers, at others' assets, and until a stop is forced
BUSY = 10.0  # until the next look where another process has, or had, the asset's folder
QUIET, NAMED = 60.0, 3  # seconds without a finished asset until the steps of those in work are told, and how many of them
SWEEP = 30.0  # between looks for heartbeats of killed commands
STARTS = 3  # workers in a row that end, or are killed, before they are ready: something is wrong with the installation
CANNOT = ("time", "disk", "prior", "workers")  # why a batch cannot go on: limits, a prior that has gone, broken workers
Tell = Callable[[str, str, dict[str, Any]], None]


@dataclass
class Slot:
    """One worker, and what it does."""

    number: int
    state: str = "starting"  # starting, idle, busy, or off
    claim: Claim | None = None
    since: float = 0.0  # when it was started, or given its asset
    step: int = 0
    total: int = 0
    verdict: tuple[str, str] | None = None  # outcome and reason where the coordinator has killed it
    streak: Streak = field(default_factory=lambda: Streak(ROW))
    dropped: bool = False  # it has failed with one asset after the other, and gets no more


@dataclass
class Tally:
    """The assets of this command by their state, and why it ended."""

    done: int = 0
    failed: int = 0
    made: int = 0  # by this command
    ended: str = ""  # "": all are done or failed; else a signal's name, or one of CANNOT
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
    more: dict[str, Any] = field(default_factory=dict)  # of each job: device, drop_checkpoints
    uploads: Uploads | None = None  # of finished assets
    retry_failed: bool = False
    lease: float | None = None

    def __post_init__(self) -> None:
        self.slots = [Slot(number) for number in range(self.workers.count)]
        self.waiting: deque[Entry] = deque()
        self.held: dict[str, tuple[Entry, float]] = {}  # that another process has, and when to look again
        self.tally, self.starts, self.stopped, self.swept = Tally(), 0, 0.0, -math.inf
        self.streak = Streak(max(ROW, EACH * self.workers.count))
        self.quiet = time.monotonic()  # since when nothing was told of the assets in work
        self.beat = Heartbeat(self.ledger, self.about, token=self.workers.token)
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
        deleted = {entry.id for entry in self.entries if entry.id in ended and entry.folder not in folders}
        self.ledger.forget(deleted)
        last: list[Entry] = []  # that were in a row of failures: others show first whether the workers are in order
        for entry in self.entries:
            state, failed = "" if entry.id in deleted else ended.get(entry.id, ""), False
            if not state and entry.folder in folders:
                record = self.ledger.record(entry)
                state = record.state if record.state in ("done", "failed") else ""
                failed = any(end.get("outcome") == VOID for end in record.ends)
            if state == "failed" and self.retry_failed:
                self.ledger.retry(entry)
                state = ""
            if state:
                self._count(state)
            else:
                (last if failed else self.waiting).append(entry)
        self.waiting.extend(last)
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
                    heard = self.workers.hear(POLL)
                    # A signal to all processes of the command ends workers as well, which is not the fault of their assets.
                    self._check(stop, time.monotonic() - begun)
                    for told in heard:
                        self._heard(told)
                    self._watch()
                    self._tidy()
            finally:
                self.workers.close()
                self._release()
        if self.tally.ended in CANNOT and not self.waiting and not self.held:
            self.tally.ended = ""  # the last asset was finished all the same
        return self.tally

    def _left(self) -> bool:
        busy = any(slot.claim is not None for slot in self.slots)
        return busy if self.tally.ended else bool(busy or self.waiting or self.held)

    def _start(self, slot: Slot) -> None:
        slot.state, slot.claim, slot.verdict, slot.since = "starting", None, None, time.monotonic()
        self.workers.start(slot.number)

    def _hand_out(self) -> None:
        """Give each idle worker an asset, while there is room on the disk."""
        now = time.monotonic()
        if not self.tally.ended and (told := self.room.full()):
            self._end("disk", told)
        for entry, when in list(self.held.values()):
            if when <= now:
                del self.held[entry.id]
                self.waiting.appendleft(entry)
        for slot in self.slots:
            while slot.state == "idle" and self.waiting and not self.tally.ended:
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
        theirs = record.state == "claimed" and record.owner.get("token") != self.beat.token
        if theirs and not self.observer.gone(record.owner):
            return self._hold(entry, LOOK)
        if record.state in ("waiting", "claimed") and (left := seconds_left(self.ledger.folder(entry))) > 0:
            # Its run is locked, on another machine for some minutes after the process that made it has gone: a claim now
            # could only end as "busy".
            return self._hold(entry, min(left, BUSY))
        if record.state == "claimed":
            self._end_attempt(entry, record.attempt, "lost", f"its process on {record.owner.get('host', '?')} is gone")
            record = self.ledger.record(entry)
        if record.state in ("done", "failed"):
            self._count(record.state)
            return None
        if record.state == "claimed":  # by another process, since the look above
            return self._hold(entry, LOOK)
        if told := given_up(record.ends, self.limits.attempts):
            return None if self._finish_failed(slot, Claim(entry, record.attempt), told) else self._hold(entry, LOOK)
        owner = self.beat.owner(self.workers.process(slot.number)) | {"id": entry.id}
        return self.ledger.claim(entry, record.attempt + 1, owner) or self._hold(entry, LOOK)

    def _hold(self, entry: Entry, seconds: float) -> None:
        """Look at an asset again after some seconds."""
        self.held[entry.id] = (entry, time.monotonic() + seconds)

    def _heard(self, told: Told) -> None:
        slot, what = self.slots[told.slot], told.what
        if what is None:
            self._died(slot, told)
        elif "ready" in what and slot.verdict is None:  # else it is being killed
            slot.state, self.starts = "idle", 0
        elif "step" in what:
            slot.step, slot.total = what["step"], what["total"]
        elif "note" in what:
            entry = slot.claim.entry if slot.claim else None
            more = {"asset": entry.id, "folder": entry.folder} if entry else {"asset": ""}
            self.tell("note", what["note"], more)
        elif "end" in what and slot.claim is not None and (slot.verdict is None or what["outcome"] == "done"):
            claim, slot.claim, slot.state = slot.claim, None, "idle" if slot.verdict is None else "off"
            self._ended(slot, claim, what, time.monotonic() - slot.since)
            if what["outcome"] in BROKEN:  # memory that is not given back, or a GPU's error, stays with the process
                slot.state = "off"
                self.workers.kill(slot.number)

    def _died(self, slot: Slot, told: Told) -> None:
        """A worker has ended. Start another one, unless all is done."""
        claim, slot.claim = slot.claim, None
        cause = "lost" if told.lost else "stopped" if told.stopped or self.tally.ended else "crashed"
        outcome, reason = slot.verdict or (cause, told.reason)
        if claim is not None:
            self._ended(slot, claim, {"outcome": outcome, "reason": reason}, time.monotonic() - slot.since)
        elif slot.state == "starting" and not self.tally.ended:
            self.starts += 1
            if self.starts >= STARTS:
                raise RunError(f"workers cannot start: {reason}{self._log(slot)}")
        slot.state = "off"
        if not self.tally.ended and not slot.dropped:
            self._start(slot)

    def _ended(self, slot: Slot, claim: Claim, what: dict[str, Any], seconds: float) -> None:
        """Write down how an attempt ended."""
        self.quiet = time.monotonic()
        entry, outcome = claim.entry, what["outcome"]
        self.room.add(self.ledger.folder(entry))
        if outcome == "done":
            slot.streak.clear()
            self.streak.clear()
            self._finish_done(slot, claim, what, seconds)
            return
        reason = str(what.get("reason", "")) + (self._log(slot) if outcome not in FREE_OF_BLAME else "")
        self._end_attempt(entry, claim.attempt, outcome, reason, seconds, alone=not self.tally.ended, host=self._host(slot))
        record = self.ledger.record(entry)
        if outcome == "busy":
            self._hold(entry, BUSY)
        elif outcome in CANNOT:
            self._end(outcome, reason)
            self.waiting.append(entry)
        elif told := given_up(record.ends, self.limits.attempts):
            if not self._finish_failed(slot, claim, told):
                self._hold(entry, LOOK)
        else:
            if outcome == "stopped" and not self.tally.ended:  # else the end of the command says it
                self.tell("note", f"{entry.folder}: its process was asked to stop; it goes on later", {"asset": entry.id})
            elif outcome != "stopped":
                more = {"id": entry.id, "attempt": counted(record.ends), "reason": reason}
                self.tell("again", f"{entry.folder}: {reason}", more)
            self.waiting.append(entry)
        if outcome in BROKEN and first_failure(record.ends) and not self.tally.ended:
            self._in_a_row(slot, claim, reason)

    def _in_a_row(self, slot: Slot, claim: Claim, reason: str) -> None:
        """Count an asset that failed. After many in a row their worker gets no more, or the work ends, and none is charged."""
        slot.streak.add(claim)
        self.streak.add(claim)
        fault = f"the machine, its GPU or a plugin may be at fault, and no asset is charged; last: {reason}"
        if slot.streak.full and not self.streak.full:
            slot.dropped = True
            self._uncharge(slot.streak)
            told = f"worker {slot.number} gets no more assets: {slot.streak.assets} failed in a row, and none was made"
            self.tell("dropped", f"{told}: {fault}", {"worker": slot.number, "reason": reason})
        if self.streak.full or all(each.dropped for each in self.slots):
            self._uncharge(self.streak)
            self._end("workers", f"{self.streak.assets} assets failed in a row, and none was made: {fault}")

    def _uncharge(self, streak: Streak) -> None:
        for claim in streak.claims:
            if self.ledger.uncharge(claim):
                self.tally.failed -= 1
                self.waiting.append(claim.entry)

    def _finish_done(self, slot: Slot, claim: Claim, what: dict[str, Any], seconds: float) -> None:
        entry = claim.entry
        detail = {
            "host": self._host(slot),
            "attempts": counted(self.ledger.record(entry).ends) + 1,
            "attempt_seconds": round(seconds, 1),
            **what.get("figures", {}),
        }
        if self.ledger.finish(claim, "done", detail):
            self.tally.made += 1
        self._count("done")
        self.tell(
            "done", f"{entry.folder} ({seconds:.1f} s)", {"id": entry.id, **self._numbers(), "seconds": round(seconds, 1)}
        )
        if self.uploads is not None:
            self.uploads.add(entry)

    def _finish_failed(self, slot: Slot, claim: Claim, reason: str) -> bool:
        """Give an asset up, unless another command has taken it over; returns whether it was given up."""
        entry, host = claim.entry, self._host(slot)
        tried = counted(self.ledger.record(entry).ends)
        if not self.ledger.finish(claim, "failed", {"reason": reason, "attempts": tried, "host": host}):
            return False
        self._count("failed")
        self.tell("failed", f"{entry.folder} is given up: {reason}", {"id": entry.id, **self._numbers(), "reason": reason})
        return True

    def _end_attempt(
        self, entry: Entry, attempt: int, outcome: str, reason: str, seconds: float = 0.0, alone: bool = False, host: str = ""
    ) -> None:
        self.ledger.end(entry, attempt, end_of(self.ledger.folder(entry), outcome, reason, seconds, alone, host))

    def _host(self, slot: Slot) -> str:
        return self.workers.host(slot.number)

    def _log(self, slot: Slot) -> str:
        """Where to read what a worker's process printed, which is kept; without such a file, its machine."""
        path = self.workers.kept_log(slot.number)
        if path is None:
            return f" (on {host})" if (host := self._host(slot)) else ""
        with contextlib.suppress(ValueError):
            path = path.relative_to(self.ledger.root)
        return f" (log: {path})"

    def _count(self, state: str) -> None:
        setattr(self.tally, state, getattr(self.tally, state) + 1)

    def _numbers(self) -> dict[str, int]:
        return {"done": self.tally.done, "failed": self.tally.failed, "assets": len(self.entries)}

    def _watch(self) -> None:
        """Kill workers that do not start, or take too long or too much memory."""
        now = time.monotonic()
        for slot in self.slots:
            if slot.verdict is not None:
                continue
            if slot.state == "starting" and now - slot.since > self.workers.patience:
                slot.verdict = ("crashed", f"a process was not ready after {self.workers.patience:g} s")
            elif slot.claim is not None:
                used, where = self.workers.memory(slot.number), partial(self._at, slot, slot.claim.entry)
                slot.verdict = self.limits.exceeded(now - slot.since, used, where)
            if slot.verdict is not None:
                self.workers.kill(slot.number)

    def _tidy(self) -> None:
        """What goes on beside the assets: uploads, heartbeats of commands that were killed, and a line of how far they are."""
        if (now := time.monotonic()) - self.quiet > QUIET:
            self.quiet = now
            self._tell_work()
        if self.uploads is not None:
            self.uploads.look()
        if time.monotonic() - self.swept > SWEEP:
            self.swept = time.monotonic()
            self.observer.sweep(self.beat.token)

    def _tell_work(self) -> None:
        work = [(slot, slot.claim.entry) for slot in self.slots if slot.claim is not None]
        named = [f"{entry.folder} {self._at(slot, entry)}".rstrip() for slot, entry in work[:NAMED]]
        more = [f"{len(work) - NAMED} more"] if len(work) > NAMED else []
        if work:
            self.tell("work", ", ".join(named + more), {**self._numbers(), "running": len(work)})

    def _at(self, slot: Slot, entry: Entry) -> str:
        """The step of an asset in work; by its folder where the worker tells none, as with Ray. "": it has not begun."""
        if slot.total:
            return f"step {slot.step}/{slot.total}"
        step = last_step(self.ledger.folder(entry))
        return f"step {step}" if step else ""

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
                self._end_attempt(slot.claim.entry, slot.claim.attempt, "stopped", "")
