"""The process that carries out the studio's runs, seen from the server: one at a time, a new one for each run.

The next process is started as soon as one has ended, so that it has imported what a run needs when an order comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dreamlift.runs.run import RunError
from dreamlift.studio.hub import Hub
from dreamlift.studio.wire import LastWords, Link, Message, last_line, start_apart
from dreamlift.system.failures import explained

PATIENCE = 60.0  # seconds for a run to finish its step and save it, before it is killed
TRIES = 3  # processes in a row that end before they are ready, after which no more are started
INVALID = 2  # exit code of a check that refuses the settings


def worker_command(root: Path | str, overrides: dict[str, str]) -> list[str]:
    """The command line of :mod:`dreamlift.studio.worker`, for runs in ``root`` with these settings."""
    return [sys.executable, "-m", "dreamlift.studio.worker", str(root), *(word for pair in overrides.items() for word in pair)]


def check_settings(overrides: dict[str, str]) -> None:
    """Check the settings of every run; in a process, since the server itself imports nothing that a run needs.

    Raises:
        ValueError: they can be used for no run; the message of the setting.
        RunError: the process fails otherwise, as the one of a run would.
    """
    done = subprocess.run(worker_command("--check", overrides), stdin=subprocess.DEVNULL, capture_output=True)  # noqa: S603
    if done.returncode == INVALID:
        raise ValueError(last_line(done.stderr))
    if done.returncode:
        raise RunError(f"the process that carries out runs fails: {last_line(done.stderr) or f'code {done.returncode}'}")


class Child:
    """Args: command: of the process. tell: gets a line for the terminal."""

    def __init__(self, hub: Hub, command: Sequence[str], tell: Callable[[str], None] = lambda text: None) -> None:
        self.hub, self.command, self.tell = hub, command, tell
        self.loop = asyncio.get_running_loop()
        self.process: subprocess.Popen[bytes] | None = None
        self.link: Link | None = None
        self.ready = self.closing = False  # ready: for an order
        self.began = False  # whether the process has been ready
        self.failures = 0
        hub.send, hub.wanted = self.send, self.begin

    def start(self) -> None:
        """Start a process that waits for an order."""
        self.ready = self.began = False
        try:
            self.process = mine = start_apart(self.command, errors=True)
        except OSError as error:
            self._failed(explained(error))
            return
        assert mine.stdout is not None
        assert mine.stdin is not None
        assert mine.stderr is not None
        words = LastWords(mine.stderr)

        def heard(message: Message, data: bytes) -> None:
            self._later(self._heard, mine, message, data)

        self.link = Link(mine.stdout, mine.stdin, heard, lambda: self._later(self._gone, mine, words.line()))

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
            self.ready, self.began, self.failures = True, True, 0
            self.begin()

    def _gone(self, process: subprocess.Popen[bytes], said: str) -> None:
        if process is not self.process:
            return
        self.process = None
        told = "the run's process ended unexpectedly (was it out of memory?); what it has saved can be continued"
        self.hub.ended("failed", told)
        self.loop.run_in_executor(None, process.wait)
        if self.closing:
            return
        if self.began:
            self.start()
        else:
            self._failed(said or "it has said nothing")

    def _failed(self, said: str) -> None:
        """A process has not become ready: start another one, or, after several, say why no run can be carried out."""
        self.failures += 1
        if self.failures < TRIES:
            self.start()
            return
        text = f"no run can be started, since its process fails: {said}"
        self.tell(text)
        self.hub.give_up(text)

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
