"""The server of ``dreamlift generate --watch``: a process that the command has started, and tells what its runs do."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from dreamlift.studio.app import Studio, make_app
from dreamlift.studio.folder import Runs
from dreamlift.studio.hub import Hub, Live
from dreamlift.studio.serve import LINGER, Place, listen, make_server
from dreamlift.studio.wire import Link, Message


def main(port: int) -> int:
    """Serve the runs that standard input tells of, one after the other; ``port`` 0: at any that is free."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # The address is copied, not typed, so that a token is no trouble. "/": a name that no run has, until one begins.
    place, runs = Place(port=port, token=True), Runs(Path(), only="/")
    sock = listen(place)
    hub = Hub(runs, watch=True)
    hub.live = Live(next(hub.numbers), {})
    link, over = [], asyncio.Event()

    def heard(message: Message, data: bytes) -> None:
        if message.get("type") == "next":
            if not hub.busy:  # the first one is there from the start
                hub.live = Live(next(hub.numbers), {})
                hub.tell_run()
            return
        if message.get("type") == "begin":
            folder = Path(message["folder"])
            runs.root, runs.only = folder.parent, folder.name
        hub.heard(message, data)

    async def ending() -> None:
        """End the server when the command is over and nobody looks at its last run any more."""
        await over.wait()
        if hub.busy:
            hub.ended("failed", "the run has ended without a word; the terminal says why")
        empty = 0.0  # seconds
        while hub.seen and empty < LINGER:
            await asyncio.sleep(0.1)
            empty = 0.0 if hub.visitors else empty + 0.1
        server.should_exit = True

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
    server = make_server(
        lambda keys: make_app(Studio(hub, runs, keys), begin, end), sock, place,
        lambda text: told.append(f"watch it at {text[8:]}"),
    )  # fmt: skip
    server.run(sockets=[sock])
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
