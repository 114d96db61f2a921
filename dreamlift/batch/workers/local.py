"""Workers on this machine: one process each, with its share of the cores or a GPU of its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dreamlift.batch.workers.worker import BEGIN, MAIN
from dreamlift.system.processes import resident_bytes

START = 600.0  # seconds until a process is ready: torch and plugins come from slow disks, too


@dataclass(frozen=True)
class Told:
    """Something that a worker says; None: it has ended, for ``reason``."""

    slot: int
    what: dict[str, Any] | None
    reason: str = ""
    lost: bool = False  # its machine is gone, which says nothing of the asset
    stopped: bool = False  # a signal asked its process to end, which says nothing of the asset either


class Workers(Protocol):
    """Who makes assets: ``count`` slots, each of which makes one at a time."""

    count: int
    token: str  # of the command that they work for, in the names of its files
    patience: float  # seconds until a worker is ready, before it is killed

    def start(self, slot: int) -> None: ...

    def send(self, slot: int, job: dict[str, Any]) -> None: ...

    def hear(self, timeout: float) -> list[Told]: ...

    def kill(self, slot: int) -> None: ...

    def stop(self, slot: int) -> None: ...

    def process(self, slot: int) -> int: ...

    def host(self, slot: int) -> str: ...

    def memory(self, slot: int) -> int: ...

    def kept_log(self, slot: int) -> Path | None: ...

    def close(self) -> None: ...


@dataclass
class Local:
    """Worker processes on this machine."""

    count: int
    threads: int
    log: Path  # the folder of what workers print; a log is deleted with its process, unless it was asked for
    gpus: tuple[str, ...] = ()  # CUDA_VISIBLE_DEVICES of the slots in turn; (): the workers see what this process sees
    plugins: tuple[str, ...] = ()
    token: str = field(default_factory=lambda: secrets.token_hex(6))
    patience: float = START
    main: str = MAIN  # what a process does
    told: queue.Queue[Told] = field(default_factory=queue.Queue)
    processes: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    logs: dict[int, Path] = field(default_factory=dict)  # of the slots' newest processes
    starts: dict[int, int] = field(default_factory=dict)
    kept: set[Path] = field(default_factory=set)

    def start(self, slot: int) -> None:
        """Start a worker's process."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        self.log.mkdir(parents=True, exist_ok=True)
        self._drop_log(slot)
        number = self.starts[slot] = self.starts.get(slot, 0) + 1
        path = self.logs[slot] = self.log / f"{self.token}-{slot}-{number}.log"
        with open(path, "w", encoding="utf-8") as log:
            # In a session of its own: Ctrl-C of a terminal reaches this process only, which stops the workers in order.
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", self.main, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=environment,
                start_new_session=True,
            )
        self.processes[slot] = process
        self._write(process, {"threads": self.threads, "plugins": list(self.plugins)})
        threading.Thread(target=self._listen, args=(slot, process, path), daemon=True).start()

    def send(self, slot: int, job: dict[str, Any]) -> None:
        """Give a worker a job."""
        self._write(self.processes[slot], job)

    def hear(self, timeout: float) -> list[Told]:
        """What workers have said, after a wait of at most ``timeout`` seconds."""
        found: list[Told] = []
        with contextlib.suppress(queue.Empty):
            found.append(self.told.get(timeout=timeout))
            while True:
                found.append(self.told.get_nowait())
        return found

    def kill(self, slot: int) -> None:
        """End a worker and all that it has started, at once."""
        self._signal(slot, signal.SIGKILL)

    def stop(self, slot: int) -> None:
        """Ask a worker to stop at a checkpoint."""
        with contextlib.suppress(OSError):
            self.processes[slot].send_signal(signal.SIGTERM)

    def process(self, slot: int) -> int:
        """The number of a worker's process."""
        return self.processes[slot].pid

    def host(self, slot: int) -> str:
        """The name of this machine."""
        return socket.gethostname()

    def memory(self, slot: int) -> int:
        """Resident bytes of a worker; 0: unknown."""
        return resident_bytes(self.processes[slot].pid)

    def close(self) -> None:
        """End all workers."""
        for slot in self.processes:
            self.kill(slot)
        for slot, process in self.processes.items():
            process.wait()
            self._drop_log(slot)

    def kept_log(self, slot: int) -> Path | None:
        """The file of what a slot's newest process has printed, which is not deleted from now on."""
        self.kept.add(self.logs[slot])
        return self.logs[slot]

    def _drop_log(self, slot: int) -> None:
        path = self.logs.pop(slot, None)
        if path is not None and path not in self.kept:
            with contextlib.suppress(OSError):
                path.unlink()

    def _signal(self, slot: int, number: int) -> None:
        process = self.processes[slot]
        with contextlib.suppress(OSError):
            os.killpg(process.pid, number) if hasattr(os, "killpg") else process.kill()
        with contextlib.suppress(OSError):
            process.kill()

    def _write(self, process: subprocess.Popen[str], line: dict[str, Any]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, which _listen tells
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()

    def _listen(self, slot: int, process: subprocess.Popen[str], log: Path) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):  # a line that a killed worker has not ended
                self.told.put(Told(slot, json.loads(line)))
        code = process.wait()
        self.told.put(Told(slot, None, ended(code, log), stopped=-code in (signal.SIGTERM, signal.SIGINT)))


def ended(code: int, log: Path) -> str:
    """Why a process has ended, with what it printed last of the asset that it was making."""
    try:
        _, begin, text = log.read_text(encoding="utf-8", errors="replace").rpartition(BEGIN)
    except OSError:
        begin = text = ""
    lines = (text.partition("\n")[2] if begin else text).strip().splitlines()
    fatal = next((line for line in lines if line.startswith("Fatal Python error")), "")
    last = fatal or (lines[-1] if lines else "")
    if code < 0:
        name = signal.Signals(-code).name if -code in {each.value for each in signal.Signals} else f"signal {-code}"
        said = f"its process was killed by {name}"
        if -code == getattr(signal, "SIGKILL", 9):
            return f"{said} (by hand, or by the system, whose memory was full)"
    else:
        said = f"its process ended with code {code}"
    return f"{said}: {last}" if last else said
