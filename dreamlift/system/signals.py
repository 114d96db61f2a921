"""SIGINT and SIGTERM as a request to stop, so that work in progress can be saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stop:
    """Whether a signal requested the run to stop, and which one."""

    def __init__(self) -> None:
        self.requested = False
        self.name = ""  # such as "SIGTERM"


@contextlib.contextmanager
def stop_signals(at_once: bool = False, stop: Stop | None = None) -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into ``stop.requested``, so that the step can be finished and saved.

    A later SIGINT raises KeyboardInterrupt; with ``at_once`` the first signal does. The previous handlers are restored at
    the end. Outside the main thread Python accepts no handlers, and the flag stays False.

    Args:
        stop: that of an outer block, which is then set here, too; None: a new one.
    """
    stop = stop or Stop()

    def handle(number: int, _: FrameType | None) -> None:
        again = stop.requested and number == signal.SIGINT
        stop.requested, stop.name = True, signal.Signals(number).name
        if again or at_once:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set outside Python
