"""``dreamlift generate --watch``: the studio's page of one run, which the command's own process carries out.

The server is a process beside the run (:mod:`dreamlift.studio.watch_server`). It ends with the run, or, so that the finished
asset can be looked at, when the last page has been closed after it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

from dreamlift.runs.progress import Reporter, Several
from dreamlift.studio.broadcast import Broadcast
from dreamlift.studio.serve import LINGER, check_packages
from dreamlift.studio.wire import Link, Message, start_apart
from dreamlift.system.text import one_line


def watched(reporter: Reporter) -> Reporter:
    """``reporter``, and the page, whose address it is told. Raises ValueError: a package is missing."""
    check_packages()
    return Several(reporter, Watched(reporter))


class Watched(Broadcast):
    """Args: beside: is told the page's address."""

    def __init__(self, beside: Reporter) -> None:
        super().__init__()
        self.beside, self.ended = beside, "stopped"
        self.server = start_apart([sys.executable, "-m", "dreamlift.studio.watch_server"])
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
