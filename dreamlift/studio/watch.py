"""``dreamlift generate --watch``: the studio's page of one run, which the command's own process carries out.

The server is a process beside the run (``python -m dreamlift.studio.watch``). It ends with the run, or, so that the finished
asset can be looked at, when the last page has been closed after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dreamlift.runs.progress import Reporter, Several
from dreamlift.studio.broadcast import Broadcast
from dreamlift.studio.serve import Place, check_packages, listen, make_server
from dreamlift.studio.wire import Link, Message, start_apart
from dreamlift.system.text import one_line

LINGER = 3.0  # seconds without a visitor after which the page of a run that is over ends: time to reload it


def watched(reporter: Reporter) -> Reporter:
    """``reporter``, and the page, whose address it is told. Raises ValueError: a package is missing."""
    check_packages()
    return Several(reporter, Watched(reporter))


class Watched(Broadcast):
    """Args: beside: is told the page's address."""

    def __init__(self, beside: Reporter) -> None:
        super().__init__()
        self.beside, self.ended = beside, "stopped"
        self.server = start_apart([sys.executable, "-m", "dreamlift.studio.watch"])
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.link = Link(self.server.stdout, self.server.stdin, self._received, lambda: None)

    def _received(self, message: Message, _: bytes) -> None:
        if message.get("type") == "address":
            self.beside.note(message["text"])
        else:
            self.received(message)

    def done(self, summary: dict[str, Any]) -> None:
        super().done(summary)
        self.ended = "finished"

    def close(self) -> None:
        """Tell the page that the run is over. That of a finished one stays until it is closed, or until Ctrl-C."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception):
            self.ended = "failed"
        super().close()
        self.send({"type": "end", "status": self.ended, "error": one_line(error) if self.ended == "failed" else ""})
        assert self.link is not None
        self.link.close()
        try:
            self.server.wait(2 * LINGER)
        except subprocess.TimeoutExpired:
            if self.ended == "finished":
                self.beside.note("the page stays until it is closed in the browser; Ctrl-C ends it")
                with contextlib.suppress(KeyboardInterrupt):
                    self.server.wait()
        finally:
            self.server.terminate()
            self.server.wait()


def main() -> int:
    """Serve the run that standard input tells of."""
    from dreamlift.studio.app import Studio, make_app
    from dreamlift.studio.folder import Runs
    from dreamlift.studio.hub import Hub
    from dreamlift.studio.hub import Live as LiveRun

    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    place, runs = Place(port=0), Runs(Path(), only="/")  # a name that no run has, until it begins
    sock = listen(place)
    hub = Hub(runs, watch=True)
    hub.live = LiveRun(1, {})
    studio, link, over = Studio(hub, runs), [], asyncio.Event()

    def heard(message: Message, data: bytes) -> None:
        if message.get("type") == "begin":
            folder = Path(message["folder"])
            runs.root, runs.only = folder.parent, folder.name
        hub.heard(message, data)

    async def ending() -> None:
        """End the server when the run is over and nobody looks at it any more."""
        await over.wait()
        if hub.busy:
            hub.ended("failed", "the run has ended without a word; the terminal says why")
        while True:
            await asyncio.sleep(LINGER / 2)
            if not hub.visitors:
                await asyncio.sleep(LINGER / 2)
            if not hub.visitors:
                server.should_exit = True
                return

    async def begin() -> None:
        loop = asyncio.get_running_loop()

        def later(call: Any, *arguments: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(call, *arguments)

        link.append(Link(source, sink, lambda *said: later(heard, *said), lambda: later(over.set)))
        hub.send = link[0].send
        link[0].send({"type": "address", "text": ", ".join(told)})
        tasks.append(asyncio.create_task(ending()))

    async def end() -> None:
        tasks[0].cancel()

    tasks: list[Any] = []
    told: list[str] = []
    server = make_server(lambda: make_app(studio, begin, end), sock, place, lambda text: told.append(f"watch it at {text[8:]}"))
    server.run(sockets=[sock])
    return 0


if __name__ == "__main__":
    sys.exit(main())
