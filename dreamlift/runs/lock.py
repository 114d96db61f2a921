"""One process per run folder: ``.lock`` records its holder, and expires.

The record (JSON: pid, host, boot id, space of process numbers, start of the process, since, renewed, token) is read and
written under a file lock of the library filelock, so that two processes cannot take it over at once. Its holder rewrites it
every ``RENEW`` seconds. It is valid on its own host while the process lives (same boot id, pid and start time; no zombie).
Processes of another host, or of a container of this host with numbers of its own, cannot be inspected: there it is valid for
``VALID`` seconds after the last renewal. The age of a renewal is the modification time of
a new file minus the record's. Both are by the clock of the file system (or its server), so the hosts' clocks may differ;
``renewed``, by the holder's clock, is not compared. An age below ``-VALID`` counts as expired, so that a clock that was set
back cannot block a folder. The holder deletes the file of the file lock after use, which is safe: filelock >= 3.30 releases a
lock on a deleted file and deletes none itself. Without flock, a soft lock (a file that exists while the lock is held) is used
instead, and is deleted after ``VALID`` seconds.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock

from dreamlift.runs.checkpoints import RunError
from dreamlift.system.files import atomic_write_text
from dreamlift.system.processes import boot_id as _boot_id
from dreamlift.system.processes import pid_space as _space
from dreamlift.system.processes import started as _started

NAME, GUARD, SOFT = ".lock", ".lock.guard", ".lock.soft"
NAMES = frozenset({NAME, GUARD, SOFT})  # not counted as content of a run folder
RENEW, VALID, WAIT = 30.0, 300.0, 10.0  # seconds between renewals; of validity elsewhere; of waiting for the guard
LATE = 2 * RENEW  # seconds since the last renewal after which a holder looks whether it still has the lock


@dataclass(eq=False)
class Lock:
    """A held lock. A forked child, with another pid than the record, neither renews nor releases it."""

    path: Path
    record: dict[str, Any]
    lost: bool = False  # another process took over the lock, so this one must not write to the folder any more
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    thread: threading.Thread = field(init=False, repr=False)


def acquire(folder: Path, new: bool = False) -> Lock:
    """Lock ``folder`` and renew the record in a thread; an expired record is replaced.

    Args:
        new: for a new run, which can also go to another folder.

    Raises:
        RunError: another process holds the lock, or may hold it (on another host or in another container, with a record
            renewed recently).
        OSError: the record cannot be read or written, or another process holds the guard for ``WAIT`` seconds.
    """
    host, since, token = socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"), secrets.token_hex(8)
    record = {"pid": os.getpid(), "host": host, "boot": _boot_id(), "space": _space(), "started": _started(os.getpid())}
    lock = Lock(folder / NAME, {**record, "since": since, "token": token})
    with guard(folder):
        if (holder := _read(lock.path)) and (left := _seconds_left(holder, folder)) > 0:
            who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
            text = f"{folder} is in use by {who}: wait for it" + " or choose another --out" * new
            if not math.isinf(left):
                minutes, gone = math.ceil(left / 60), "process" if holder["host"] == host else "machine"
                text += f" (if that {gone} is gone, it is free again in {minutes} minute{'s' * (minutes > 1)})"
            raise RunError(text)
        _write(lock)
    lock.thread = threading.Thread(target=_keep_renewing, args=(lock,), name="dreamlift-lock", daemon=True)
    lock.thread.start()
    return lock


def seconds_left(folder: Path) -> float:
    """For how many seconds the lock of ``folder`` is valid without a renewal.

    Infinite: its holder lives on this machine, where it can be looked up; 0: nobody holds it, or that cannot be read, which
    :func:`acquire` then tells.
    """
    try:
        holder = _read(folder / NAME)
        return _seconds_left(holder, folder) if holder else 0.0
    except OSError:
        return 0.0


def release(lock: Lock) -> None:
    """Stop renewing and delete the record, unless another process has replaced it or the folder was deleted."""
    if os.getpid() != lock.record["pid"]:
        return
    lock.stop.set()
    lock.thread.join(WAIT)
    with contextlib.suppress(OSError), guard(lock.path.parent):
        if (holder := _read(lock.path)) and holder["token"] == lock.record["token"]:
            lock.path.unlink()


def is_lost(lock: Lock) -> bool:
    """Whether another process has taken over the lock, as far as that can be read; to be asked before each write.

    The thread renews every ``RENEW`` seconds. Where the last renewal is older, the process or its machine was suspended, or cut
    off from the folder, so that the record is renewed here, before anything else is written.
    """
    if not lock.lost and os.getpid() == lock.record["pid"] and time.time() - lock.record["renewed"] > LATE:
        _renew(lock)
    return lock.lost


def _keep_renewing(lock: Lock) -> None:
    while not lock.lost and not lock.stop.wait(RENEW):
        _renew(lock)


def _renew(lock: Lock) -> None:
    """Rewrite the record, unless it is another process's. On a full disk, and in a read-only or deleted folder, it stays."""
    with contextlib.suppress(OSError), guard(lock.path.parent):
        holder = _read(lock.path)
        # No record: deleted by the user, or by a process that took over the expired lock and has finished.
        lock.lost = holder["token"] != lock.record["token"] if holder else time.time() - lock.record["renewed"] > VALID
        if not lock.lost and not lock.stop.is_set():
            _write(lock)


def _write(lock: Lock) -> None:
    record = {**lock.record, "renewed": time.time()}
    atomic_write_text(lock.path, json.dumps(record))
    lock.record = record


def _read(path: Path) -> dict[str, Any] | None:
    """The record, and when it was "modified"; None: missing or invalid. OSError: unreadable, so its holder may live."""
    try:
        with open(path, encoding="utf-8") as file:
            holder = json.load(file)
            holder["pid"], holder["modified"] = int(holder["pid"]), os.fstat(file.fileno()).st_mtime
        return holder if all(isinstance(holder[k], str) for k in ("host", "boot", "started", "since", "token")) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _seconds_left(holder: dict[str, Any], folder: Path) -> float:
    """For how many seconds the record is valid without a renewal: infinite for a living process, 0 for an ended one."""
    here = holder["host"] == socket.gethostname()
    if here and (holder["boot"] != _boot_id() or holder["pid"] <= 0):
        return 0.0  # the machine was restarted since, or the record is not from dreamlift
    space = _space()
    elsewhere = holder.get("space", space) != space  # in another container; earlier records do not say it
    if not here or elsewhere or os.name == "nt":  # os.kill(pid, 0) would end the process on Windows
        age = _age(holder["modified"], folder)
        return VALID - age if abs(age) < VALID else 0.0
    try:
        with contextlib.suppress(PermissionError):  # another user's process
            os.kill(holder["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return 0.0
    # If the pid was reused, the new process has another start time.
    return math.inf if _started(holder["pid"]) in (holder["started"], "") else 0.0


def _age(modified: float, folder: Path) -> float:
    """Seconds since ``modified``, by the clock of the file system."""
    with tempfile.TemporaryFile(dir=folder, prefix=".tmp-") as new:
        return os.fstat(new.fileno()).st_mtime - modified


@contextlib.contextmanager
def guard(folder: Path, wait: float | None = None) -> Iterator[None]:
    """The critical section of a folder. OSError: no folder, no access, or not free for ``wait`` seconds (filelock.Timeout)."""
    wait = WAIT if wait is None else wait
    folder.stat()  # a missing folder is an error here; filelock would create it
    soft = folder / SOFT
    try:
        held = FileLock(folder / GUARD, wait, fallback_to_soft=False).acquire(poll_interval=0.01)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        with contextlib.suppress(FileNotFoundError):
            if abs(_age(soft.stat().st_mtime, folder)) > VALID:  # it is held for milliseconds only, so its process has ended
                soft.unlink()
        held = SoftFileLock(soft, wait).acquire(poll_interval=0.01)
    try:
        yield
    finally:
        with contextlib.suppress(OSError), held:  # leaving the context releases it
            if os.name != "nt":  # on Windows filelock deletes the file
                (folder / GUARD).unlink()
