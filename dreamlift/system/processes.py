"""What identifies a process on a machine, so that another one can tell whether it still lives."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path


def started(pid: int) -> str:
    """Start time of a process in ticks since boot; "gone" for a zombie; "" if the system does not report it."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "gone" if fields[0] in "ZX" else fields[19]
    return ""


def boot_id() -> str:
    """An identifier of the machine's start; "" if the system does not report it."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def pid_space() -> str:
    """Where this process's numbers are valid: host, start of the machine, and the container's process namespace.

    "" where the system does not report it: processes can then not be looked up by number.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return f"{socket.gethostname()} {boot_id()} {namespace}"


def lives(pid: int, begun: str) -> bool:
    """Whether the process with this number and start time (of :func:`started`) lives, in this process's :func:`pid_space`."""
    return pid > 0 and begun not in ("", "gone") and started(pid) == begun


def resident_bytes(pid: int) -> int:
    """The resident memory of a process; 0 if the system does not report it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
