"""Uploads of finished assets, in processes of their own: one that fails, hangs or crashes does no harm to the asset.

An asset is finished when its files are in the batch's folder; whether they were copied elsewhere is written down apart from
that, for each address (:meth:`Ledger.note_sent`).
"""

from __future__ import annotations

import os
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamlift.batch.ledger import Entry, Ledger
from dreamlift.batch.remote import upload
from dreamlift.batch.workers.local import Local, Workers
from dreamlift.batch.workers.worker import connected
from dreamlift.runs.checkpoints import RunError
from dreamlift.system.signals import Stop
from dreamlift.system.text import one_line

MAIN = "import sys; sys.path[:] = sys.argv[1:]; from dreamlift.batch.workers.uploads import main; main()"
COUNT = 4  # uploads at a time: small files, whose time is that of the answers
HANG = 600.0  # seconds until a file is copied, before the process is killed
POLL = 0.25  # seconds between looks at the processes
TOLD = 10  # failures that are told one by one


@dataclass
class Uploads:
    """The uploads of one command to one address."""

    ledger: Ledger
    address: str
    tell: Callable[[str, str, dict[str, Any]], None]
    pool: Workers
    waiting: deque[Entry] = field(default_factory=deque)
    busy: dict[int, tuple[Entry, float]] = field(default_factory=dict)  # by slot, and when it was last heard of
    alive: set[int] = field(default_factory=set)  # slots with a process
    hung: dict[int, str] = field(default_factory=dict)  # slots whose process is being killed, and why
    failed: dict[str, str] = field(default_factory=dict)  # reasons by folder
    sent: int = 0

    def add(self, entry: Entry) -> None:
        """Upload a finished asset when its turn comes."""
        self.waiting.append(entry)

    def look(self, timeout: float = 0.0) -> None:
        """Hear of uploads that have ended, waiting for at most ``timeout`` seconds, and begin others."""
        heard = self.pool.hear(timeout)
        now = time.monotonic()
        for told in heard:
            if told.what is None:
                self.alive.discard(told.slot)
                self._ended(told.slot, self.hung.pop(told.slot, "") or told.reason)
            elif "end" in told.what:
                self._ended(told.slot, str(told.what.get("reason", "")))
            elif told.slot in self.busy:
                self.busy[told.slot] = (self.busy[told.slot][0], now)
        for slot, (_, when) in self.busy.items():
            if now - when > HANG and slot not in self.hung:
                self.hung[slot] = f"no file was copied in {HANG:g} s"
                self.pool.kill(slot)
        for slot in range(self.pool.count):
            if self.waiting and slot not in self.busy and slot not in self.hung:
                self._begin(slot, self.waiting.popleft())

    def rest(self, entries: list[Entry], stop: Stop | None = None) -> None:
        """Upload the finished assets of ``entries`` that are not at the address yet, and wait for all, or until a signal.

        Raises:
            RunError: some could not be uploaded; all others were.
        """
        self.failed = {}
        known = {entry.id for entry in (*self.waiting, *(entry for entry, _ in self.busy.values()))}
        sent, ended = self.ledger.sent(self.address) | known, self.ledger.ended()
        self.waiting.extend(entry for entry in entries if ended.get(entry.id) == "done" and entry.id not in sent)
        while (self.waiting or self.busy) and not (stop and stop.requested):
            self.look(POLL)
        if self.sent:
            what = "1 asset" if self.sent == 1 else f"{self.sent} assets"
            self.tell("uploaded", f"{what} uploaded to {self.address}", {"uploaded": self.sent})
        if self.failed and not (stop and stop.requested):  # then the same command goes on anyway
            folder, reason = next(iter(self.failed.items()))
            what = "1 finished asset is" if len(self.failed) == 1 else f"{len(self.failed)} finished assets are"
            raise RunError(f"{what} not at {self.address} yet, such as {folder} ({reason}): the same command tries again")

    def close(self) -> None:
        """End all processes; the same command uploads what they have not."""
        self.pool.close()

    def _begin(self, slot: int, entry: Entry) -> None:
        if slot not in self.alive:
            self.pool.start(slot)
            self.alive.add(slot)
        self.busy[slot] = (entry, time.monotonic())
        folder = str(self.ledger.folder(entry).absolute())
        self.pool.send(slot, {"id": entry.id, "folder": folder, "address": self.address})

    def _ended(self, slot: int, reason: str) -> None:
        """An upload has ended, well where the reason is ""."""
        entry, _ = self.busy.pop(slot, (None, 0.0))
        if entry is None:
            return
        if not reason:
            self.sent += 1
            self.ledger.note_sent(entry, self.address)
            return
        self.failed[entry.folder] = reason
        if len(self.failed) <= TOLD:
            self.tell("note", one_line(f"{entry.folder} is made, but was not uploaded: {reason}"), {"asset": entry.id})


def uploads(ledger: Ledger, address: str, tell: Callable[[str, str, dict[str, Any]], None], token: str) -> Uploads:
    """Uploads with processes of this machine; ``token`` of the command."""
    pool = Local(COUNT, 1, ledger.home / "logs", token=f"{token}-upload", main=MAIN)
    return Uploads(ledger, address, tell, pool)


def main() -> None:
    """Carry out the uploads of standard input's jobs."""
    _, jobs, say = connected()
    while True:
        job = jobs.get()
        try:
            upload(Path(job["folder"]), job["address"], lambda: say({"copied": os.getpid()}))
            say({"end": job["id"], "reason": ""})
        except Exception as error:  # of any file system's package
            traceback.print_exc()
            say({"end": job["id"], "reason": one_line(f"{type(error).__name__}: {error}")})
