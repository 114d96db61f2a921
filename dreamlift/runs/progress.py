"""How a run is shown: a live bar on a terminal, a plain line now and then elsewhere, or JSON events for programs."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any, Protocol

from dreamlift.types import Step

PLAIN_EVERY = 5.0  # seconds between two plain lines


class Reporter(Protocol):
    """Where a run's news go."""

    def stage(self, name: str) -> None: ...

    def step(self, step: Step, total: int) -> None: ...

    def note(self, text: str) -> None: ...

    def done(self, summary: dict[str, Any]) -> None: ...


class Plain:
    """One line every few seconds, on standard error."""

    def __init__(self) -> None:
        self.begun, self.first, self.last = time.monotonic(), -1, time.monotonic()

    def stage(self, name: str) -> None:
        print(name, file=sys.stderr, flush=True)

    def step(self, step: Step, total: int) -> None:
        now = time.monotonic()
        if self.first < 0:
            self.begun, self.first = now, step.index
        if now - self.last < PLAIN_EVERY and step.index + 1 < total:
            return
        self.last = now
        print(describe(step, total, now - self.begun, self.first), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(f"note: {text}", file=sys.stderr, flush=True)

    def done(self, summary: dict[str, Any]) -> None:
        for name, value in summary.items():
            print(f"{name}: {value}", file=sys.stderr, flush=True)


class Json:
    """One JSON object a line, on standard output."""

    def stage(self, name: str) -> None:
        _emit({"event": "stage", "name": name})

    def step(self, step: Step, total: int) -> None:
        _emit({"event": "step", "step": step.index, "steps": total, "loss": step.loss, "terms": step.terms})

    def note(self, text: str) -> None:
        _emit({"event": "note", "text": text})

    def done(self, summary: dict[str, Any]) -> None:
        _emit({"event": "done", **summary})


class Live:
    """A progress bar that stays in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[terms]}"), TimeRemainingColumn(), console=self.console, transient=True,
        )  # fmt: skip
        self.task, self.begun, self.first = None, 0.0, 0

    def stage(self, name: str) -> None:
        if self.task is not None:
            self.bar.stop()
            self.task = None
        self.console.print(name, highlight=False, markup=False)

    def step(self, step: Step, total: int) -> None:
        now = time.monotonic()
        if self.task is None:
            self.task = self.bar.add_task("lifting", total=total, completed=step.index, terms="")
            self.bar.start()
            self.begun, self.first = now, step.index
        speed = (step.index - self.first) / max(now - self.begun, 1e-9)
        self.bar.update(self.task, completed=step.index + 1, terms=f"{_terms(step)} {speed:.1f} it/s")

    def note(self, text: str) -> None:
        self.console.print(f"note: {text}", highlight=False, markup=False)

    def done(self, summary: dict[str, Any]) -> None:
        for name, value in summary.items():
            self.console.print(f"{name}: {value}", highlight=False, markup=False, soft_wrap=True)


def choose(as_json: bool) -> Reporter:
    """The reporter for this process: JSON if asked for, a bar if a person looks on, else plain lines."""
    if as_json:
        return Json()
    return Live() if sys.stderr.isatty() else Plain()


def describe(step: Step, total: int, seconds: float, first: int) -> str:
    """``step 120/300  grad 0.012  t 0.41  3.1 it/s  58 s left``; ``seconds`` have passed since step ``first`` was done."""
    words = f"step {step.index + 1}/{total}  {_terms(step)}"
    if step.index == first:
        return words
    speed = (step.index - first) / max(seconds, 1e-9)
    return f"{words}  {speed:.1f} it/s  {(total - step.index - 1) / speed:.0f} s left"


def _terms(step: Step) -> str:
    shown = {"grad_rms": "grad", "t": "t"}
    return "  ".join(f"{shown.get(name, name)} {value:.3g}" for name, value in step.terms.items() if name != "grad_norm")


def _emit(record: dict[str, Any]) -> None:
    print(json.dumps(_finite(record), allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become text."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
