"""Signs of life of the commands that make assets, and whose assets may be taken over.

An attempt is taken over where its owner's processes are gone (on this machine), or where its heartbeat has not *changed* for
LEASE seconds of the observer's own monotonic clock: clocks of several hosts are never compared, so one that is wrong or set
back does no harm. The lock of the asset's run has to be free as well, see :func:`dreamlift.runs.lock.seconds_left`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamlift.batch.ledger import Ledger, names_in, read_json
from dreamlift.system.files import atomic_write_text
from dreamlift.system.processes import lives, pid_space, started

BEAT, LEASE = 10.0, 120.0  # seconds between heartbeats; without one until an attempt is taken over


class Heartbeat:
    """This command's sign of life: a file that a thread rewrites. Use it as a context manager."""

    def __init__(
        self, ledger: Ledger, about: Callable[[], dict[str, Any]] = dict, every: float = BEAT, token: str = ""
    ) -> None:
        self.token = token or secrets.token_hex(6)
        self.path, self.about, self.every, self.count = ledger.workers / self.token, about, every, 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._keep, name="dreamlift-heartbeat", daemon=True)
        self.known = self.owner()

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
        atomic_write_text(self.path, json.dumps({**self.about(), **self.known, "count": self.count}))

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
        if is_here(owner):
            return not lives_here(owner)
        token = str(owner.get("token", ""))
        try:
            beat = (self.ledger.workers / Path(token).name).read_bytes() if token else b""
        except OSError:
            beat = b""
        now, known = self.clock(), self.seen.get(token)
        if known is None or (beat and beat != known[0]):  # that one was deleted is no sign of life
            known = self.seen[token] = (beat, now)
        return now - known[1] >= self.lease

    def sweep(self, own: str) -> None:
        """Delete the heartbeats of owners that are gone, except this command's ``own`` token."""
        for token, beat in heartbeats(self.ledger).items():
            if token != own and self.gone({**beat, "token": token}):
                with contextlib.suppress(OSError):  # another command was faster; one that lives writes it again
                    (self.ledger.workers / token).unlink()


def heartbeats(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """What the commands that make assets said last, by their tokens; those of killed ones are among them.

    ``age`` of each: seconds since it was written, by the file system's clock.
    """
    found = {}
    tokens = [name for name in sorted(names_in(ledger.workers)) if "." not in name]
    now = _file_clock(ledger.workers) if tokens else 0.0
    for token in tokens:
        path = ledger.workers / token
        with contextlib.suppress(OSError):  # its command has just ended
            found[token] = {**read_json(path), "age": max(0.0, now - path.stat().st_mtime)}
    return found


def is_here(owner: dict[str, Any]) -> bool:
    """Whether the owner's processes are of this machine, where they can be looked up."""
    return bool(owner.get("space")) and owner["space"] == pid_space()


def lives_here(owner: dict[str, Any]) -> bool:
    """Whether one of the processes of an owner on this machine lives."""
    return any(lives(pid, begun) for pid, begun in owner.get("processes", []))


def _file_clock(folder: Path) -> float:
    """Now, by the clock of the file system, which may be another machine's; by this machine's where nothing can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".tmp-") as new:
            return os.fstat(new.fileno()).st_mtime
    except OSError:
        return time.time()
