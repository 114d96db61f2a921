"""What all visitors of the studio share: the run in progress, the runs that wait, and who looks at it from where."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

from dreamlift.studio.folder import Refused, Runs
from dreamlift.studio.history import History
from dreamlift.studio.wire import Message

MAX_WAITING = 12  # runs
TICK = 0.2  # seconds between two reports of steps to visitors
BEHIND = 64  # reports that wait for a visitor, beyond which they are replaced by the whole state


class Visitor:
    """One page that is open: what it is still to be sent. Of pictures only the newest one is kept."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(6)
        self.reports: deque[Message] = deque()
        self.pictures: dict[str, tuple[Message, bytes]] = {}
        self.something = asyncio.Event()
        self.view: list[Any] | None = None  # a wish for which no picture has come
        self.next: list[Any] | None = None  # a newer one
        self.paired = self.gone = False

    def tell(self, message: Message) -> None:
        self.reports.append(message)
        self.something.set()

    def show(self, message: Message, data: bytes) -> None:
        self.pictures[message["type"]] = (message, data)
        self.something.set()


class Live:
    """The run in progress, or the one that ended last."""

    def __init__(self, number: int, order: Message) -> None:
        self.number, self.order = number, order
        self.name = str(order.get("resume") or "")
        self.prompt, self.seed = str(order.get("prompt") or ""), order.get("seed", 0)
        self.status, self.stage, self.error = "loading", "starting", ""
        self.index, self.total = 0, 0
        self.notes: deque[str] = deque(maxlen=12)
        self.history = History()
        self.fresh: list[tuple[int, dict[str, float]]] = []  # steps that visitors have not been told

    def plain(self) -> dict[str, Any]:
        names = ("number", "name", "prompt", "seed", "status", "stage", "error", "index", "total")
        return {**{name: getattr(self, name) for name in names}, "notes": list(self.notes)}


class Hub:
    """Args: runs: the runs' folder. send: tells the run's process. watch: there is one run, started elsewhere."""

    def __init__(self, runs: Runs, watch: bool = False) -> None:
        self.runs, self.watch = runs, watch
        self.send: Callable[[Message], None] = lambda message: None
        self.wanted: Callable[[], None] = lambda: None  # called when an order is waiting
        self.visitors: dict[str, Visitor] = {}
        self.presets: list[dict[str, Any]] = []
        self.waiting: deque[Live] = deque()
        self.live: Live | None = None
        self.numbers = itertools.count(1)
        self.seen = False  # whether somebody has looked at all
        self.trouble = ""  # why no run can be carried out
        runs.wanted = self.wanted_pictures

    @property
    def busy(self) -> bool:
        return self.live is not None and self.live.status in ("loading", "running", "stopping")

    # what visitors ask for

    def order(self, order: Message) -> Live:
        """Queue a run. Raises Refused: too many are waiting."""
        self.check_room()
        made = Live(next(self.numbers), order)
        self.waiting.append(made)
        self.wanted()
        self.tell_queue()
        return made

    def check_room(self, count: int = 1) -> None:
        """Raise Refused where ``count`` further runs cannot wait."""
        room = MAX_WAITING - len(self.waiting)
        if room <= 0:
            raise Refused(429, f"{MAX_WAITING} runs are waiting already: remove one, or wait for one to end")
        if room < count:
            raise Refused(429, f"{count} more runs do not fit: {MAX_WAITING} may wait, and {len(self.waiting)} do; remove some")

    def wanted_pictures(self) -> set[str]:
        """The visitors' pictures of the runs that wait, and of the one in progress."""
        own = [*self.waiting, *([self.live] if self.live is not None and self.busy else [])]
        return {str(each.order["picture"]) for each in own if each.order.get("picture")}

    def take_order(self) -> Live | None:
        """The next run, which begins; None: none is waiting, or one is in progress."""
        if self.busy or not self.waiting:
            return None
        self.live = self.waiting.popleft()
        self.tell_run()
        self.tell_queue()
        return self.live

    def stop(self, number: int) -> None:
        """Stop the run of this number, or take it out of the queue. Raises Refused: there is none."""
        if self.live is not None and self.busy and self.live.number == number:
            self.live.status, self.live.stage = "stopping", "stopping: the step is finished and saved"
            self.send({"type": "stop"})
            self.tell_run()
            return
        for each in self.waiting:
            if each.number == number:
                self.waiting.remove(each)
                self.tell_queue()
                return
        raise Refused(404, "this run is not running any more")

    def enter(self) -> Visitor:
        visitor, self.seen = Visitor(), True
        self.visitors[visitor.name] = visitor
        visitor.tell(self.state())
        return visitor

    def leave(self, visitor: Visitor) -> None:
        self.visitors.pop(visitor.name, None)
        visitor.gone = True
        if visitor.view is not None:
            self.send({"type": "leave", "visitor": visitor.name})
        if visitor.paired:
            visitor.paired = False
            self._tell_paired()

    def look(self, visitor: Visitor, view: list[Any]) -> None:
        """Ask for a picture from a visitor's camera. One wish of each visitor is with the run at a time."""
        visitor.next = view
        self._ask(visitor)

    def pair(self, visitor: Visitor, wanted: bool) -> None:
        if visitor.paired != wanted:
            visitor.paired = wanted
            self._tell_paired()

    def _ask(self, visitor: Visitor) -> None:
        if visitor.view is None and visitor.next is not None and self.live is not None and self.live.status == "running":
            visitor.view, visitor.next = visitor.next, None
            self.send({"type": "look", "visitor": visitor.name, "view": visitor.view})

    def _tell_paired(self) -> None:
        self.send({"type": "pair", "wanted": any(each.paired for each in self.visitors.values())})

    # what the run's process says

    def heard(self, message: Message, data: bytes) -> None:
        """Take a message of the run's process."""
        kind, live = message.get("type"), self.live
        if kind == "ready":
            self.presets, self.trouble = message["presets"], ""
            self.tell(self.state())
        elif live is None:
            return
        elif kind == "frame":
            for name in message.pop("visitors"):
                if (visitor := self.visitors.get(name)) is not None:
                    visitor.view = None
                    visitor.show(message, data)
                    self._ask(visitor)
        elif kind == "pair":
            for visitor in self.visitors.values():
                if visitor.paired:
                    visitor.show(message, data)
        elif kind == "step":
            live.index, live.total = message["index"] + 1, message["total"]
            live.history.add(message["index"], message["terms"])
            live.fresh.append((message["index"], message["terms"]))
        else:
            self._changed(live, kind, message)

    def _changed(self, live: Live, kind: Any, message: Message) -> None:
        if kind == "begin":
            live.name, live.total, live.index = message["name"], message["total"], message["index"]
            live.prompt, live.seed = message.get("prompt") or "from a picture", message.get("seed")
            live.status = "running" if live.status == "loading" else live.status
            self._tell_paired()
            for visitor in self.visitors.values():
                visitor.view = None
                self._ask(visitor)
            self.runs.changed()
        elif kind == "stage":
            live.stage = message["text"]
        elif kind == "note":
            live.notes.append(message["text"])
        elif kind == "end":
            self.ended(message["status"], message["error"])
            return
        self.tell_run()

    def ended(self, status: str, error: str) -> None:
        """The run is over, in one way or another; once."""
        if self.live is None or not self.busy:
            return
        self.tick()
        self.live.status, self.live.error, self.live.stage = status, error, ""
        for visitor in self.visitors.values():
            visitor.view = None
        self.runs.changed()
        self.tell_run()

    def give_up(self, text: str) -> None:
        """No run can be carried out, for a reason that all visitors are told: those that wait have failed."""
        self.trouble = text
        while self.take_order() is not None:
            self.ended("failed", text)
        self.tell(self.state())

    # what visitors are told

    def state(self) -> Message:
        """All that a page shows that has just been opened."""
        live = self.live
        return {"type": "state", "presets": self.presets, "watch": self.watch, "run": live.plain() if live else None,
                "curves": live.history.plain() if live else None, "trouble": self.trouble, **self._queue()}  # fmt: skip

    def tell(self, message: Message) -> None:
        for visitor in self.visitors.values():
            if len(visitor.reports) >= BEHIND:
                visitor.reports.clear()
                visitor.tell(self.state())
            else:
                visitor.tell(message)

    def tell_run(self) -> None:
        if self.live is not None:
            self.tell({"type": "run", "run": self.live.plain()})

    def tell_queue(self) -> None:
        self.tell({"type": "queue", **self._queue()})

    def _queue(self) -> dict[str, Any]:
        return {"queue": [{"number": each.number, "prompt": each.prompt, "seed": each.seed} for each in self.waiting]}

    def tick(self) -> None:
        """Tell all visitors the steps since the last time."""
        if self.live is not None and self.live.fresh:
            fresh, self.live.fresh = self.live.fresh[-100:], []
            live = self.live
            self.tell({"type": "steps", "number": live.number, "index": live.index, "total": live.total, "points": fresh})

    async def ticking(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(TICK)
                self.tick()
