"""The process of one run of the studio: ``python -m dreamlift.studio.worker FOLDER [--setting VALUE ...]``.

It imports what a run needs, says which presets there are, waits for its order on standard input, carries it out as ``dreamlift
generate`` and ``dreamlift resume`` do, and ends. It stops as after SIGINT, with a checkpoint, when it is told to and when the
server has gone. A process of its own: a run that fails, or that is stopped, takes nothing with it, and its memory is freed.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlift.studio.broadcast import Broadcast
from dreamlift.studio.wire import Link, Message
from dreamlift.system.failures import is_out_of_memory
from dreamlift.system.startup import tune_process
from dreamlift.system.text import one_line

if TYPE_CHECKING:
    from dreamlift.config.schema import Config

KNOWN = {"ValueError", "OSError", "RunError", "DivergedError", "TeacherError", "EmptySceneError", "FullSceneError"}


class Inbox:
    """What the server says: the order, wishes of visitors, and the request to stop."""

    def __init__(self, reporter: Broadcast) -> None:
        self.reporter, self.order, self.came = reporter, None, threading.Event()
        self.done = self.stopping = False

    def received(self, message: Message, _: bytes) -> None:
        if message.get("type") == "order":
            self.order = message
            self.came.set()
        elif message.get("type") == "stop":
            self.stop()
        else:
            self.reporter.received(message)

    def stop(self) -> None:
        """As a SIGINT in the main thread, once: the step is finished and saved. A second one would end it at once."""
        if self.came.is_set() and not self.done and not self.stopping:
            self.stopping = True
            _thread.interrupt_main()
        self.came.set()


def main(arguments: list[str]) -> int:
    """Wait for an order and carry it out."""
    tune_process()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # of a server in the background it would be ignored
    root, overrides = Path(arguments[0]), dict(zip(arguments[1::2], arguments[2::2], strict=True))
    reporter = Broadcast()
    inbox = Inbox(reporter)
    reporter.link = own_link(inbox)
    from dreamlift.plugins import load_plugins

    load_plugins([], reporter.note)
    reporter.send({"type": "ready", "presets": offers()})
    inbox.came.wait()
    if inbox.order is None:
        return 0
    try:
        status, error = _carried_out(inbox.order, root, overrides, reporter), ""
    except KeyboardInterrupt:
        status, error = "stopped", ""
    except BaseException as problem:  # libraries in Rust raise errors that are no Exception
        status, error = "failed", one_line(said(problem))
    inbox.done = True
    reporter.send({"type": "end", "status": status, "error": error})
    reporter.link.close(5.0)
    return 0


def own_link(inbox: Inbox) -> Link:
    """The link over this process's standard input and output; whatever else prints goes to standard error."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return Link(source, sink, inbox.received, inbox.stop)


def offers() -> list[dict[str, Any]]:
    """The presets that run with what ships: their names, purposes, steps, and whether they need a picture."""
    from dreamlift.apps.cutout import with_image
    from dreamlift.apps.presets import names_of_priors
    from dreamlift.config.schema import check_stages
    from dreamlift.presets import ABOUT, PRESETS
    from dreamlift.priors.loading.sources import is_embedded

    found = []
    for name, config in PRESETS.items():
        if not all(map(is_embedded, names_of_priors(config))):
            continue
        words = replace(config, prompt="a thing")
        for kind, tried in (("words", words), ("picture", with_image(words, "picture.png"))):
            with contextlib.suppress(ValueError):
                check_stages(tried)
                purpose = ABOUT[name].purpose if name in ABOUT else "from a plugin"
                found.append({"name": name, "needs": kind, "purpose": purpose, "steps": config.total_steps})
                break
    return found


def _carried_out(order: Message, root: Path, overrides: dict[str, str], reporter: Broadcast) -> str:
    """How the run ended: finished or stopped."""
    from dreamlift.runs.carry_out import Order, carry_out
    from dreamlift.runs.progress import warnings_to
    from dreamlift.runs.run import new_folder, slugify

    if resumed := order.get("resume"):
        return "finished" if carry_out(Order(resume=root / resumed), reporter).finished else "stopped"
    with warnings_to(reporter):
        config = config_of(order, root, overrides, reporter)
    root.mkdir(parents=True, exist_ok=True)
    folder = new_folder(root / slugify(config.prompt or "picture"))
    try:
        return "finished" if carry_out(Order(config, folder), reporter).finished else "stopped"
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # of a run that wrote nothing


def config_of(order: Message, root: Path, overrides: dict[str, str], reporter: Broadcast) -> Config:
    """The settings of a new run.

    Args:
        order: ``prompt``, ``preset``, ``seed`` and ``picture`` (a file); or ``like``, a run in ``root``, and ``seed``.

    Raises:
        ValueError: a prompt, preset, seed or picture that cannot be used.
    """
    from dreamlift.apps.cutout import default_preset, with_cameras, with_image
    from dreamlift.apps.presets import find_preset
    from dreamlift.config.short import override
    from dreamlift.runs.settings import read_config

    seed = str(order.get("seed", 0))
    if like := order.get("like"):
        return override(read_config(root / like), {"seed": seed})
    picture, prompt = order.get("picture") or "", order.get("prompt") or ""
    config = replace(find_preset(order.get("preset") or default_preset(bool(picture), False, overrides)), prompt=prompt)
    if picture:
        config = with_image(config, picture)
    return with_cameras(override(config, {**overrides, "seed": seed}), reporter)


def said(error: BaseException) -> str:
    """An error's message; of an unexpected one, also its kind."""
    if is_out_of_memory(error):
        from dreamlift.memory import out_of_memory

        return out_of_memory(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{str(error.filename)!r} cannot be used: {error.strerror}"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return str(error) if kinds & KNOWN else f"unexpected {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
