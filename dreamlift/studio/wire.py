"""Messages between a run and the studio's server, two processes with a pipe in each direction.

A message is a dict of plain values, and may have bytes (an encoded picture) with it: two lengths of 4 bytes, the dict as JSON,
the bytes. Each side reads in one thread and writes in another, so that neither waits for the other: a run goes on at its own
speed beside a server that is busy or was stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Any

from dreamlift.system.text import one_line

HEAD = struct.Struct(">II")  # bytes of the JSON, and of what follows it
MAX_JSON, MAX_BYTES = 1 << 20, 64 << 20
KEPT = 4000  # bytes of a process's last words
WAITING = 256  # messages that wait to be written, beyond which those that may be lost are lost

Message = dict[str, Any]


def packed(message: Message, data: bytes = b"") -> bytes:
    """The bytes of a message."""
    text = json.dumps(message, allow_nan=False).encode("utf-8")
    return HEAD.pack(len(text), len(data)) + text + data


def read_message(source: IO[bytes]) -> tuple[Message, bytes] | None:
    """The next message; None at the end, or where what follows is no message."""
    head = source.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    size, more = HEAD.unpack(head)
    if size > MAX_JSON or more > MAX_BYTES:
        return None
    text, data = source.read(size), source.read(more)
    if len(text) < size or len(data) < more:
        return None
    try:
        message = json.loads(text)
    except ValueError:
        return None
    return (message, data) if isinstance(message, dict) else None


def start_apart(command: Sequence[str], errors: bool = False) -> subprocess.Popen[bytes]:
    """A process with a pipe in each direction, which Ctrl-C in this process's terminal does not reach.

    Args:
        errors: also its standard error is a pipe, for :class:`LastWords`.

    Raises:
        OSError: it cannot be started.
    """
    pipe, more = subprocess.PIPE, subprocess.PIPE if errors else None
    if sys.platform == "win32":
        group = subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=more, creationflags=group)  # noqa: S603
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=more, start_new_session=True)  # noqa: S603


def last_line(text: bytes) -> str:
    """The last line of an output that says something, as one for a message; "" if there is none."""
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else ""


class LastWords:
    """Passes a process's standard error on to this process's, and keeps its end."""

    def __init__(self, source: IO[bytes]) -> None:
        self.source, self.end = source, b""
        self.thread = threading.Thread(target=self._read, name="dreamlift-errors", daemon=True)
        self.thread.start()

    def line(self, patience: float = 2.0) -> str:
        """The last line of a process that has ended; what it has started may hold the pipe open for longer."""
        self.thread.join(patience)
        return last_line(self.end)

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(self.source.fileno(), 1 << 16):
                self.end = (self.end + data)[-KEPT:]
                with contextlib.suppress(OSError):  # a terminal that has gone
                    os.write(2, data)


class Link:
    """One end of the two pipes.

    Args:
        receive: gets each message, in the reader's thread.
        ended: called once when the other side has gone, in the reader's thread.
    """

    def __init__(
        self, source: IO[bytes], sink: IO[bytes], receive: Callable[[Message, bytes], None], ended: Callable[[], None]
    ) -> None:  # fmt: skip
        self.source, self.sink, self.receive, self.ended = source, sink, receive, ended
        self.waiting: deque[bytes] = deque()
        self.changed = threading.Condition()
        self.closed = self.busy = False
        for work in (self._read, self._write):
            threading.Thread(target=work, name="dreamlift-studio", daemon=True).start()

    def send(self, message: Message, data: bytes = b"", losable: bool = False) -> None:
        """Queue a message. One that is ``losable`` is left out where many are waiting. After the end, nothing happens."""
        with self.changed:
            if self.closed or (losable and len(self.waiting) >= WAITING):
                return
            self.waiting.append(packed(message, data))
            self.changed.notify_all()

    def close(self, patience: float = 2.0) -> None:
        """Write what is waiting, for at most ``patience`` seconds, and tell the other side that no more will come."""
        until = time.monotonic() + patience
        with self.changed:
            while (self.waiting or self.busy) and not self.closed and (left := until - time.monotonic()) > 0:
                self.changed.wait(left)
            self.closed = True
            self.changed.notify_all()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # a pipe that was closed
            while (found := read_message(self.source)) is not None:
                self.receive(*found)
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.ended()

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: self.waiting or self.closed)
                    if not self.waiting:
                        break
                    data, self.busy = self.waiting.popleft(), True
                self.sink.write(data)
                self.sink.flush()
                with self.changed:
                    self.busy = False
                    self.changed.notify_all()
        with self.changed:
            self.closed, self.busy = True, False
            self.waiting.clear()
            self.changed.notify_all()
        with contextlib.suppress(OSError, ValueError):
            self.sink.close()
