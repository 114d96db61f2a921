"""What the tests of batches share: entries without settings, and workers that answer as a script says."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

from dreamlift.batch.coordinator import Coordinator
from dreamlift.batch.ledger import Entry, Ledger
from dreamlift.batch.limits import Limits
from dreamlift.batch.workers.local import Told
from dreamlift.system.signals import Stop


def entries_of(count):
    return [Entry(f"{i:012x}", f"asset-{i:012x}", f"a red mug {i}", i, "settings", line=i + 1) for i in range(count)]


def ledger_of(folder, entries):
    ledger = Ledger(Path(folder))
    ledger.root.mkdir(exist_ok=True)
    ledger.write(entries, {"settings": {}})
    return ledger


class Scripted:
    """Workers that answer a job at once: ``answer(job, how many times it was given)`` is what they say; None: nothing."""

    def __init__(self, answer, count=2):
        self.answer, self.count = answer, count
        self.told, self.sent, self.killed, self.stopped, self.starts = [], [], [], [], 0
        self.bytes, self.token, self.patience = 0, "0123456789ab", math.inf

    def start(self, slot):
        self.starts += 1
        self.told.append(Told(slot, {"ready": 1}))

    def send(self, slot, job):
        self.sent.append(job["id"])
        said = self.answer(job, self.sent.count(job["id"]))
        if isinstance(said, Told):
            self.told.append(replace(said, slot=slot))
        elif said is not None:
            self.told.append(Told(slot, {"end": job["id"], **said}))

    def hear(self, timeout):
        found, self.told = self.told, []
        return found

    def kill(self, slot):
        self.killed.append(slot)
        self.told.append(Told(slot, None, "killed"))

    def stop(self, slot):
        self.stopped.append(slot)

    def process(self, slot):
        return os.getpid()

    def host(self, slot):
        return ""

    def memory(self, slot):
        return self.bytes

    def kept_log(self, slot):
        return None

    def close(self): ...


DONE = {"outcome": "done", "figures": {"seconds": 2.0, "peak_memory_gb": 0.5}}


def carried_out(ledger, answer, entries=None, stop=None, limits=None, **more):
    """The tally of a batch with scripted workers, the workers, and what was told."""
    workers, told = Scripted(answer), []
    chosen = ledger.entries() if entries is None else entries
    coordinator = Coordinator(
        ledger, chosen, {"settings": {}}, workers, limits or Limits(), lambda kind, text, _: told.append((kind, text)), **more
    )
    coordinator.look()
    return coordinator.run(stop or Stop()), workers, told
