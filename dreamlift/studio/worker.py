"""The process of one run of the studio: ``python -m dreamlift.studio.worker FOLDER [SETTING VALUE ...]``.

It imports what a run needs, says which presets there are, waits for its order on standard input, carries it out as ``dreamlift
generate`` and ``dreamlift resume`` do, and ends. It stops as after SIGINT, with a checkpoint, when it is told to and when the
server has gone. A process of its own: a run that fails, or that is stopped, takes nothing with it, and its memory is freed.
With ``--check`` in the folder's place it only checks the settings.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlift.studio.broadcast import Broadcast
from dreamlift.studio.wire import Link, Message
from dreamlift.system.failures import explained
from dreamlift.system.startup import tune_process
from dreamlift.system.text import one_line

if TYPE_CHECKING:
    from dreamlift.config.schema import Config
    from dreamlift.runs.carry_out import Order


PHOTOS = "photos."  # of settings that only runs from a picture have


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

    def left_alone(self) -> None:
        """The server has gone, and with it the reader of this process's standard error: printing must not fail."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        self.stop()


def main(arguments: list[str]) -> int:
    """Wait for an order and carry it out."""
    tune_process()
    if arguments[0] == "--check":
        return check(dict(zip(arguments[1::2], arguments[2::2], strict=True)))
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
        status, error = "failed", one_line(explained(problem))
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
    return Link(source, sink, inbox.received, inbox.left_alone)


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


def _carried_out(message: Message, root: Path, overrides: dict[str, str], reporter: Broadcast) -> str:
    """How the run ended: finished or stopped."""
    from dreamlift.runs.carry_out import Order, carry_out
    from dreamlift.runs.progress import warnings_to
    from dreamlift.runs.run import new_folder, slugify

    if resumed := message.get("resume"):
        return "finished" if carry_out(Order(resume=root / resumed), reporter).finished else "stopped"
    root.mkdir(parents=True, exist_ok=True)
    with marked(message.get("picture") or "") as mark:
        with warnings_to(reporter):
            order = order_of(message, root, overrides, reporter)
        assert order.config is not None
        folder = new_folder(root / slugify(order.config.prompt or "picture"))
        try:
            return "finished" if carry_out(replace(order, out=folder), reporter).finished else "stopped"
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # of a run that wrote nothing
            mark.wanted = folder.exists()


@dataclass
class Mark:
    """Whether the run's folder is there at the end, so that the run's picture has to stay."""

    wanted: bool = False


@contextlib.contextmanager
def marked(picture: str) -> Iterator[Mark]:
    """Keep a visitor's picture (:class:`dreamlift.studio.folder.Runs`) from now on; here, since a server may be killed."""
    from dreamlift.studio.folder import USED, holder

    mark, file = Mark(), Path(picture).with_suffix(USED) if picture else None
    fresh = file is not None and not file.exists()  # other runs may use it as well
    if file is not None:
        file.write_text(holder(), encoding="utf-8")  # until the run's config.yaml says that it needs the picture
    try:
        yield mark
    finally:
        if file is not None and fresh and not mark.wanted:
            file.unlink(missing_ok=True)
        elif file is not None:
            file.write_text("", encoding="utf-8")


def order_of(message: Message, root: Path, overrides: dict[str, str], reporter: Broadcast) -> Order:
    """A new run: its settings, and its preset for ``run.json``.

    Args:
        message: ``prompt``, ``preset``, ``seed`` and ``picture`` (a file); or ``like``, a run in ``root``, and ``seed``.

    Raises:
        ValueError: a prompt, preset, seed or picture that cannot be used.
    """
    from dreamlift.apps.cutout import with_cameras
    from dreamlift.config.short import override
    from dreamlift.runs.carry_out import Order
    from dreamlift.runs.run import read_status
    from dreamlift.runs.settings import read_config

    seed = str(message.get("seed", 0))
    if like := message.get("like"):
        preset = read_status(root / like).get("preset")
        config = override(read_config(root / like), {"seed": seed})
        return Order(config, preset=preset if isinstance(preset, str) else "")
    config, preset = config_of(
        message.get("prompt") or "", message.get("picture") or "", message.get("preset") or "", {**overrides, "seed": seed}
    )
    return Order(with_cameras(config, reporter), preset=preset)


def config_of(prompt: str, picture: str, preset: str, settings: dict[str, str]) -> tuple[Config, str]:
    """The settings of a new run, and the name of its preset.

    Args:
        picture: a file; "": none. Settings of photos are for runs that have one.
        preset: "": the default for what is given.

    Raises:
        ValueError: a preset or a setting that cannot be used.
    """
    from dreamlift.apps.cutout import default_preset, with_image
    from dreamlift.apps.presets import find_preset
    from dreamlift.config.short import override

    preset = preset or default_preset(bool(picture), False, settings)
    config = replace(find_preset(preset), prompt=prompt)
    if picture:
        config = with_image(config, picture)
    else:
        settings = {name: value for name, value in settings.items() if not name.startswith(PHOTOS)}
    return override(config, settings), preset


def check(settings: dict[str, str]) -> int:
    """Print in one line why the settings of every run cannot be used; returns the exit code."""
    try:
        check_settings(settings)
    except Exception as error:
        print(one_line(explained(error)), file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


def check_settings(settings: dict[str, str]) -> None:
    """Check the settings of every run with the presets that are chosen automatically, for words and for pictures.

    Settings that fit one of the two are accepted, since they may be meant for it; those of photos have to fit the latter.

    Raises:
        ValueError: they do not fit; the message of the setting.
    """
    from dreamlift.plugins import load_plugins

    load_plugins()
    of_words, of_pictures = _trouble("", settings), _trouble("picture.png", settings)
    if of_pictures is not None and (of_words is not None or any(name.startswith(PHOTOS) for name in settings)):
        raise of_words or of_pictures


def _trouble(picture: str, settings: dict[str, str]) -> ValueError | None:
    """Why the settings cannot be used, as far as that is known without a picture and without loading weights."""
    from dreamlift.config.schema import check_stages
    from dreamlift.lifting import find_device
    from dreamlift.priors.engine import available
    from dreamlift.priors.loading.sources import locate
    from dreamlift.stages.base import with_priors
    from dreamlift.stages.tuned import tuned_name

    try:
        config, _ = config_of("a thing", picture, "", settings)
        check_stages(config)
        config.asset.check()
        available(config.engine, find_device(config.device))
        choices = dict.fromkeys(choice for stage in with_priors(config.stages) for choice in stage.choices)
        for choice in filter(None, choices):
            if not tuned_name(choice):
                locate(choice.name, choice.settings, weights=False)
    except ValueError as error:
        return error
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
