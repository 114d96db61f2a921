"""The reporter that tells the studio's server what a run does, and draws what its visitors ask for between two steps.

Drawing takes at most a share of a run's time, however many visitors ask: after a picture that took s seconds the next one is
drawn no sooner than after s (1 / SHARE - 1) seconds. Visitors who ask for the same view share one picture.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlift.runs.progress import Reporter
from dreamlift.studio.wire import Link, Message
from dreamlift.system.text import one_line
from dreamlift.types import Step

if TYPE_CHECKING:
    from dreamlift.lifting import Job

SHARE = 0.25  # of a run's time, that drawing for visitors may take
SIZES = (96, 128, 192, 256, 384, 512)  # pixels a side
QUICK, SLOW = 0.04, 0.16  # seconds a picture; below and above these its size changes
PAIR_EVERY = 0.7  # seconds between two pictures of a teacher's estimate
TURN = 0.5  # radians a second, of visitors who have not turned the object themselves
MAX_ASKING = 400  # visitors whose wishes are kept


class Broadcast(Reporter):
    """Also a run's inbox: ``received`` and ``gone`` are a :class:`~dreamlift.studio.wire.Link`'s."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.job: Job | None = None
        self.lock = threading.Lock()
        self.looks: dict[str, Message] = {}  # the newest wish of each visitor, in order of their first unanswered one
        self.paired = False  # whether somebody looks at the teacher's estimate
        self.size, self.free_at, self.pair_at, self.begun = 1, 0.0, 0.0, time.monotonic()
        self.off = False

    def received(self, message: Message) -> None:
        """Take a visitor's wish; in the reader's thread."""
        with self.lock:
            if message.get("type") == "look" and len(self.looks) < MAX_ASKING:
                self.looks[str(message.get("visitor"))] = message
            elif message.get("type") == "leave":
                self.looks.pop(str(message.get("visitor")), None)
            elif message.get("type") == "pair":
                self.paired = bool(message.get("wanted"))

    def send(self, message: Message, data: bytes = b"", losable: bool = False) -> None:
        """Tell the server, if there is one."""
        if self.link is not None:
            self.link.send(message, data, losable)

    def attach(self, job: Job) -> None:
        self.job = job

    def begin(self, folder: Path, settings: dict[str, Any]) -> None:
        total = self.job.config.total_steps if self.job else 0
        index = self.job.index if self.job else 0
        said = {name: settings.get(name) for name in ("prompt", "seed")}
        self.send({"type": "begin", "name": folder.resolve().name, "folder": str(folder.resolve()), "total": total,
                   "index": index, **said})  # fmt: skip

    def stage(self, name: str) -> None:
        self.send({"type": "stage", "text": one_line(name)})

    def counted(self, name: str, index: int, total: int, terms: dict[str, float]) -> None:
        self.send({"type": "stage", "text": f"{name} {index + 1}/{total}"}, losable=True)

    def note(self, text: str) -> None:
        self.send({"type": "note", "text": one_line(text)})

    def done(self, summary: dict[str, Any]) -> None:
        """The page learns it from the end of the run."""

    def step(self, step: Step, total: int) -> None:
        terms = {"loss": step.loss, **step.terms}
        finite = {name: float(f"{value:.5g}") for name, value in terms.items() if math.isfinite(value)}
        self.send({"type": "step", "index": step.index, "total": total, "terms": finite}, losable=True)
        if self.off or self.job is None or self.link is None:
            return
        try:
            self._show(step)
        except Exception as error:  # a picture for a visitor must not end a run
            self.off = True
            self.note(f"the live view is off for this run ({type(error).__name__}: {error}); the run goes on")

    def _show(self, step: Step) -> None:
        """Draw for the visitors who have waited longest, or the teacher's estimate, if it is time for it."""
        now = time.monotonic()
        if now < self.free_at:
            return
        if self.paired and now >= self.pair_at:
            self.pair_at = now + PAIR_EVERY
            self._draw_pair(step)
        elif self.job is not None and self.job.work.scenes and (asked := self._next()) is not None:
            self._draw(step, *asked)  # but for stages that tune a prior or repaint pictures: wishes wait for the next one
        else:
            return
        self.free_at = time.monotonic() + (time.monotonic() - now) * (1 / SHARE - 1)

    def _next(self) -> tuple[Message, list[str]] | None:
        """The view that was asked for first, and the visitors who want it."""
        with self.lock:
            if not self.looks:
                return None
            first = next(iter(self.looks.values()))
            alike = [name for name, each in self.looks.items() if each.get("view") == first.get("view")]
            for name in alike:
                del self.looks[name]
            return first, alike

    def _draw(self, step: Step, wish: Message, visitors: list[str]) -> None:
        from dreamlift.studio.look import Look, draw, jpeg, wants_clay

        assert self.job is not None
        work, view = self.job.work, wish["view"]
        azimuth, elevation, distance, clay = view
        turned = azimuth is None
        look = Look((TURN * (time.monotonic() - self.begun)) if turned else azimuth, elevation, distance, clay)
        begun, size = time.monotonic(), SIZES[self.size]
        stage = self.job.config.stages[self.job.number]
        picture = draw(work.scenes[0], look, size, wants_clay(stage) if clay is None else clay)
        data, cost = jpeg(picture), time.monotonic() - begun
        self.send({"type": "frame", "visitors": visitors, "index": step.index, "azimuth": look.azimuth, "turned": turned,
                   "elevation": elevation, "size": size}, data)  # fmt: skip
        if cost < QUICK:
            self.size = min(self.size + 1, len(SIZES) - 1)
        elif cost > SLOW:
            self.size = max(self.size - 1, 0)

    def _draw_pair(self, step: Step) -> None:
        from dreamlift.stages.lift import LiftWork
        from dreamlift.studio.look import jpeg, pair

        assert self.job is not None
        if not isinstance(self.job.work, LiftWork) or (found := pair(self.job.work, step)) is None:
            return
        seen, guess = jpeg(found[0]), jpeg(found[1])
        self.send({"type": "pair", "index": step.index, "show": found[2], "first": len(seen)}, seen + guess)

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            del self.job  # its networks can be freed
        self.job = None
