"""One process a run folder: a lock file that says who holds it, and that outlives neither its process nor its boot."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamlift.runs.checkpoints import RunError
from dreamlift.system.files import atomic_write_text

NAME = ".lock"


@dataclass(frozen=True)
class Lock:
    """A held lock."""

    path: Path
    pid: int  # a forked child has another, and must not release its parent's lock
    token: str


def acquire(folder: Path) -> Lock:
    """Take the lock of ``folder``; that of a process that is gone is taken over.

    Raises:
        RunError: another process holds it, or may hold it (it runs on another machine, where this one cannot look).
        OSError: the lock file cannot be written.
    """
    path = folder / NAME
    with _one_at_a_time(folder):
        holder = _read(path)
        if holder and _may_live(holder):
            who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
            raise RunError(
                f"{folder} is in use by {who}: wait for it or choose another --out"
                + (f" (if that machine is gone, delete {path})" if holder["host"] != socket.gethostname() else "")
            )
        token = secrets.token_hex(8)
        mine = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "boot": _boot_id(),
            "started": _started(os.getpid()),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "token": token,
        }
        atomic_write_text(path, json.dumps(mine))
    return Lock(path, os.getpid(), token)


def release(lock: Lock) -> None:
    """Give the lock back. Nothing happens where it is no longer this process's (or the folder was deleted)."""
    holder = _read(lock.path)
    if os.getpid() == lock.pid and holder and holder["token"] == lock.token:
        with contextlib.suppress(OSError):
            lock.path.unlink()


def _read(path: Path) -> dict[str, Any] | None:
    """Who holds the lock. None for no lock or an unreadable one: locks are written whole, so nobody holds that."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        holder["pid"] = int(holder["pid"])
        return holder if all(isinstance(holder[k], str) for k in ("host", "boot", "started", "since", "token")) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _may_live(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True
    if holder["boot"] != _boot_id() or holder["pid"] <= 0:
        return False  # the machine was restarted since (or the file is not one of ours)
    if os.name == "nt":
        return True  # os.kill(pid, 0) would end the process there
    try:
        os.kill(holder["pid"], 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    # The number may have been given to a new process since: that one started at another time.
    return _started(holder["pid"]) in (holder["started"], "")


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; "gone" for a zombie; "" where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "gone" if fields[0] in "ZX" else fields[19]


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Two processes that find the same stale lock must not both take it over (best effort: not on Windows)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network filesystems have no flock
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # which gives the flock back
