"""Output of a run's progress: a bar on a terminal, a line every few seconds elsewhere, or JSON events for programs."""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlift.system.text import one_line, printable
from dreamlift.types import Counted, Event, Note, StageBegan, Step

if TYPE_CHECKING:
    from dreamlift.lifting import Job

PLAIN_EVERY = 5.0  # seconds between two plain lines


class Reporter(ABC):
    """Receives the events of a run. Subclass it to log elsewhere; :class:`Several` passes events to several reporters."""

    @abstractmethod
    def stage(self, name: str) -> None:
        """A part of the run begins, such as a stage or meshing."""

    @abstractmethod
    def step(self, step: Step, total: int) -> None:
        """One of ``total`` steps is finished."""

    @abstractmethod
    def note(self, text: str) -> None:
        """A message to the user, in one line."""

    @abstractmethod
    def done(self, summary: dict[str, Any]) -> None:
        """The run or another command has succeeded; ``summary`` has its results as plain data."""

    def attach(self, job: Job) -> None:
        """The run that is about to begin or to go on. A reporter may look at it between events, and must change nothing."""
        return

    def begin(self, folder: Path, settings: dict[str, Any]) -> None:
        """The run's folder was created or reopened; ``settings`` is the config as plain data."""
        return

    def counted(self, name: str, index: int, total: int, terms: dict[str, float]) -> None:
        """Entry ``index`` of ``total`` of the work ``name``, other than a lift's, is finished; ``terms`` are its figures."""
        return

    def stopped(self, signal: str, folder: Path) -> None:
        """A signal, such as "SIGTERM", has stopped the run at a checkpoint in its folder."""
        self.note(f"stopped by {signal}; continue with: dreamlift resume {folder}")

    def close(self) -> None:
        """The run is over, well or not; called once at the end."""
        return

    def event(self, event: Event, total: int) -> None:
        """Pass an event of :func:`dreamlift.lifting.lift` to the method for its type."""
        if isinstance(event, StageBegan):
            if event.count > 1:
                self.stage(f"stage {event.number + 1} of {event.count}")
        elif isinstance(event, Note):
            self.note(event.text)
        elif isinstance(event, Counted):
            self.counted(event.name, event.index, event.total, {})
        else:
            self.step(event, total)
            if event.note:
                self.note(event.note)


class Silent(Reporter):
    """No output."""

    def stage(self, name: str) -> None: ...

    def step(self, step: Step, total: int) -> None: ...

    def note(self, text: str) -> None: ...

    def done(self, summary: dict[str, Any]) -> None: ...


class Several(Reporter):
    """Passes everything to several reporters, in order."""

    def __init__(self, *reporters: Reporter) -> None:
        self.reporters = reporters

    def event(self, event: Event, total: int) -> None:
        for reporter in self.reporters:
            reporter.event(event, total)

    def stage(self, name: str) -> None:
        for reporter in self.reporters:
            reporter.stage(name)

    def step(self, step: Step, total: int) -> None:
        for reporter in self.reporters:
            reporter.step(step, total)

    def note(self, text: str) -> None:
        for reporter in self.reporters:
            reporter.note(text)

    def done(self, summary: dict[str, Any]) -> None:
        for reporter in self.reporters:
            reporter.done(summary)

    def attach(self, job: Job) -> None:
        for reporter in self.reporters:
            reporter.attach(job)

    def begin(self, folder: Path, settings: dict[str, Any]) -> None:
        for reporter in self.reporters:
            reporter.begin(folder, settings)

    def counted(self, name: str, index: int, total: int, terms: dict[str, float]) -> None:
        for reporter in self.reporters:
            reporter.counted(name, index, total, terms)

    def stopped(self, signal: str, folder: Path) -> None:
        for reporter in self.reporters:
            reporter.stopped(signal, folder)

    def close(self) -> None:
        for reporter in self.reporters:
            reporter.close()


class Plain(Reporter):
    """One line every few seconds, on standard error."""

    def __init__(self) -> None:
        self.name, self.begun, self.first, self.last = "", time.monotonic(), -1, time.monotonic()
        self.end = 0  # of the stage

    def event(self, event: Event, total: int) -> None:
        if isinstance(event, StageBegan):
            self.first, self.end = -1, event.end
        super().event(event, total)

    def stage(self, name: str) -> None:
        print(one_line(name), file=sys.stderr, flush=True)

    def step(self, step: Step, total: int) -> None:
        self._show("step", step.index, total, step.terms, self.end)

    def counted(self, name: str, index: int, total: int, terms: dict[str, float]) -> None:
        self._show(name, index, total, terms, 0)

    def _show(self, name: str, index: int, total: int, terms: dict[str, float], end: int) -> None:
        now = time.monotonic()
        if self.first < 0 or name != self.name:
            self.name, self.begun, self.first = name, now, index
        if now - self.last < PLAIN_EVERY and index + 1 < total:
            return
        self.last = now
        print(describe(name, index, total, terms, (now - self.begun, self.first), end), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(f"note: {one_line(text)}", file=sys.stderr, flush=True)

    def done(self, summary: dict[str, Any]) -> None:
        for name, value in summary.items():
            print(printable(f"{name}: {value}"), file=sys.stderr, flush=True)


class Json(Reporter):
    """One JSON object per line, on standard output."""

    def stage(self, name: str) -> None:
        _emit({"event": "stage", "name": name})

    def step(self, step: Step, total: int) -> None:
        _emit({"event": "step", "step": step.index, "steps": total, "loss": step.loss, "terms": step.terms})

    def counted(self, name: str, index: int, total: int, terms: dict[str, float]) -> None:
        _emit({"event": name, "step": index, "steps": total, "terms": terms})

    def note(self, text: str) -> None:
        _emit({"event": "note", "text": text})

    def done(self, summary: dict[str, Any]) -> None:
        _emit({"event": "done", **summary})


class Live(Reporter):
    """A progress bar, and the time that the stage still takes; the figures have what is left of the line."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[terms]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=self.console, transient=True, expand=True,
        )  # fmt: skip
        self.task, self.name, self.begun, self.first, self.end = None, "", 0.0, 0, 0

    def event(self, event: Event, total: int) -> None:
        if isinstance(event, StageBegan):
            self.end = event.end
            self._stop()
        super().event(event, total)

    def _stop(self) -> None:
        """Remove the bar, whose times are those of a stage."""
        if self.task is not None:
            self.bar.stop()
            self.bar.remove_task(self.task)
            self.task = None

    def stage(self, name: str) -> None:
        self._stop()
        self.console.print(one_line(name), highlight=False, markup=False)

    def step(self, step: Step, total: int) -> None:
        self._show("lifting", step.index, total, step.terms, self.end)

    def counted(self, name: str, index: int, total: int, terms: dict[str, float]) -> None:
        self._show(name, index, total, terms, 0)

    def _show(self, name: str, index: int, total: int, terms: dict[str, float], end: int) -> None:
        now = time.monotonic()
        if self.task is None or name != self.name:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task = self.bar.add_task(name, total=total, completed=index, terms="", left="")
            self.bar.start()
            self.name, self.begun, self.first = name, now, index
        left = rate = ""
        if index > self.first:
            speed = (index - self.first) / max(now - self.begun, 1e-9)
            left, rate = time_left(index, total, speed, end), f"{speed:.1f} it/s  "
        self.bar.update(self.task, completed=index + 1, left=left, terms=rate + _terms(terms))

    def close(self) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        self.console.print(f"note: {one_line(text)}", highlight=False, markup=False)

    def done(self, summary: dict[str, Any]) -> None:
        for name, value in summary.items():
            self.console.print(printable(f"{name}: {value}"), highlight=False, markup=False, soft_wrap=True)


def describe(
    name: str, index: int, total: int, terms: dict[str, float], since: tuple[float, int], end: int = 0
) -> str:  # fmt: skip
    """``step 120/300  grad 0.012  t 0.41  3.1 it/s  58 s left``.

    Args:
        since: seconds that have passed since an entry was done, and its index.
        end: as that of :func:`time_left`.
    """
    seconds, first = since
    words = f"{name} {index + 1}/{total}  {_terms(terms)}".rstrip()
    if index == first:
        return words
    speed = (index - first) / max(seconds, 1e-9)
    return f"{words}  {speed:.1f} it/s  {time_left(index, total, speed, end)}"


def time_left(index: int, total: int, speed: float, end: int = 0) -> str:
    """``58 s left``, or ``1:40 left in this stage`` where other stages follow: their steps take another time.

    Args:
        index: of the entry that was finished last. speed: entries a second.
        end: index of the first entry after the stage; 0: there are no stages.
    """
    seconds = round(((end or total) - index - 1) / speed)
    minutes, rest = divmod(seconds, 60)
    clock = f"{seconds} s" if seconds < 100 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else \
        f"{minutes}:{rest:02}"  # fmt: skip
    return f"{clock} left{' in this stage' if 0 < end < total else ''}"


def _terms(terms: dict[str, float]) -> str:
    shown = {"grad_rms": "grad", "t": "t"}
    return "  ".join(f"{shown.get(name, name)} {value:.3g}" for name, value in terms.items() if name != "grad_norm")


def _emit(record: dict[str, Any]) -> None:
    print(json.dumps(_finite(record), allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    """NaN and infinity as text, since JSON does not have them."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def warnings_to(reporter: Reporter) -> Iterator[None]:
    """Show each different warning of the package once, as a note; warnings of other libraries are not shown."""
    own, seen = str(Path(__file__).parents[1]), set()

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        text = str(message)
        if filename.startswith(own) and text not in seen:
            seen.add(text)
            reporter.note(text)

    with warnings.catch_warnings():
        for category in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = show
        yield
