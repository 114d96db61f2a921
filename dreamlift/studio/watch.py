"""``dreamlift generate --watch``: the studio's page of a command's runs, which the command's own process carries out.

The server is a process beside the command (:mod:`dreamlift.studio.watch_server`). The page shows one run after the other. The
server ends with the command, or, so that the finished asset can be looked at, when the last page has been closed after it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from dreamlift.runs.progress import Reporter, Several
from dreamlift.studio.broadcast import Broadcast
from dreamlift.studio.serve import LINGER, Place, check_packages, listen
from dreamlift.studio.wire import Link, Message, start_apart
from dreamlift.system.text import one_line

STARTING = 30.0  # seconds for the server to say its address


@contextlib.contextmanager
def watching(beside: Reporter, port: int = 0) -> Iterator[Page]:
    """The page of the runs within; ``beside`` is told its address.

    Args:
        port: 0: any that is free.

    Raises:
        ValueError: a package is missing, or the port cannot be used.
    """
    check_packages()
    listen(Place(port=port), "--watch").close()  # here, since nobody would wait for what the server's process says of it
    page = Page(beside, port)
    try:
        yield page
    finally:
        if page.shown is not None and not page.shown.over:  # an error before the run began
            page.shown.close()
        page.close()


class Page:
    """Args: beside: is told the page's address. port: of the address; 0: any that is free."""

    def __init__(self, beside: Reporter, port: int = 0) -> None:
        self.beside, self.ended = beside, ""
        self.shown: Watched | None = None
        self.server = start_apart([sys.executable, "-m", "dreamlift.studio.watch_server", str(port)])
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.told = threading.Event()  # the address was, or the server has ended
        self.link = Link(self.server.stdout, self.server.stdin, self._received, self.told.set)

    def show(self, beside: Reporter) -> Reporter:
        """The reporter of the next run: ``beside``, and the page, which shows that run from now on."""
        self.shown = Watched(self)
        self.link.send({"type": "next"})
        return Several(beside, self.shown)

    def _received(self, message: Message, _: bytes) -> None:
        if message.get("type") == "address":
            self.beside.note(message["text"])
            self.told.set()
        elif self.shown is not None:
            self.shown.received(message)

    def close(self) -> None:
        """End the server. The page of a finished run stays until it is closed in the browser, or until Ctrl-C."""
        self.told.wait(STARTING)  # of a run that is over before the server has started
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


class Watched(Broadcast):
    """The reporter of one run that the page shows."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page, self.link, self.ended, self.over = page, page.link, "stopped", False

    def done(self, summary: dict[str, Any]) -> None:
        super().done(summary)
        self.ended = "finished"

    def close(self) -> None:
        """Tell the page that the run is over."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception):
            self.ended = "failed"
        super().close()
        self.send({"type": "end", "status": self.ended, "error": one_line(error) if self.ended == "failed" else ""})
        self.page.ended, self.over = self.ended, True
