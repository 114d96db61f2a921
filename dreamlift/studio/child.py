"""The process that carries out the studio's runs, seen from the server: one at a time, a new one for each run.

The next process is started as soon as one has ended, so that it has imported what a run needs when an order comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamlift.studio.hub import Hub
from dreamlift.studio.wire import Link, Message, start_apart

PATIENCE = 60.0  # seconds for a run to finish its step and save it, before it is killed
TRIES = 3  # processes in a row that end before they are ready, after which no more are started


def worker_command(root: Path, overrides: dict[str, str]) -> list[str]:
    """The command line of :mod:`dreamlift.studio.worker`, for runs in ``root`` with these settings."""
    return [sys.executable, "-m", "dreamlift.studio.worker", str(root), *(word for pair in overrides.items() for word in pair)]


class Child:
    """Args: command: of the process."""

    def __init__(self, hub: Hub, command: Sequence[str]) -> None:
        self.hub, self.command = hub, command
        self.loop = asyncio.get_running_loop()
        self.process: subprocess.Popen[bytes] | None = None
        self.link: Link | None = None
        self.ready = self.closing = False
        self.failures = 0
        hub.send, hub.wanted = self.send, self.begin

    def start(self) -> None:
        """Start a process that waits for an order."""
        self.ready = False
        self.process = mine = start_apart(self.command)
        assert mine.stdout is not None
        assert mine.stdin is not None

        def heard(message: Message, data: bytes) -> None:
            self._later(self._heard, mine, message, data)

        self.link = Link(mine.stdout, mine.stdin, heard, lambda: self._later(self._gone, mine))

    def _later(self, call: Any, *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(call, *arguments)

    def send(self, message: Message) -> None:
        if self.link is not None:
            self.link.send(message, losable=message.get("type") == "look")

    def begin(self) -> None:
        """Give the next order to the process, if both are there."""
        if self.process is None and not self.closing:
            self.failures = 0
            self.start()
        elif self.ready and (live := self.hub.take_order()) is not None:
            self.ready = False
            self.send({**live.order, "type": "order"})

    def _heard(self, process: subprocess.Popen[bytes], message: Message, data: bytes) -> None:
        if process is not self.process:
            return
        self.hub.heard(message, data)
        if message.get("type") == "ready":
            self.ready, self.failures = True, 0
            self.begin()

    def _gone(self, process: subprocess.Popen[bytes]) -> None:
        if process is not self.process:
            return
        was_idle, self.process = not self.hub.busy, None
        self.failures += was_idle
        told = "the run's process ended unexpectedly (was it out of memory?); what it has saved can be continued"
        self.hub.ended("failed", told)
        self.loop.run_in_executor(None, process.wait)
        if not self.closing and self.failures < TRIES:
            self.start()

    async def close(self) -> None:
        """Let the run save its state and end; kill it if it does not."""
        self.closing = True
        process, link = self.process, self.link
        if process is None or link is None:
            return
        if self.hub.busy:
            link.send({"type": "stop"})
        self.loop.run_in_executor(None, link.close)
        try:
            await asyncio.wait_for(self.loop.run_in_executor(None, process.wait), PATIENCE)
        except asyncio.TimeoutError:
            process.kill()
            await self.loop.run_in_executor(None, process.wait)
