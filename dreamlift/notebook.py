"""Notebooks: a bar and a picture that renew themselves while the events of a run pass by, and an asset that turns.

    from dreamlift.lifting import finish, lift, load, resolve
    from dreamlift.notebook import watch

    job = load(resolve(config))
    for step in watch(lift(job)):
        ...  # any event of the run; read step.guidance, step.render, step.terms
    finish(job)  # shows itself turning

Outside IPython :func:`watch` passes the events on and shows nothing.
"""

from __future__ import annotations

import base64
import html
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from dreamlift.types import Counted, Event, Note, StageBegan, Step

PAGE_BYTES = 12_000_000  # of a viewer page in a notebook; of a larger asset an animation is shown
FRAMES, SIDE = 24, 256  # of that animation
SHOWN = 256  # pixels a side of the picture beside the bar, to which smaller renders are enlarged


def watch(events: Iterable[Event], every: float = 0.5) -> Iterator[Event]:
    """Pass the events of :func:`dreamlift.lifting.lift` on, and show how far the run is and its newest render.

    Args:
        every: seconds between two pictures; at the end of a stage the last one is always shown.

    Yields:
        The events, unchanged and in order; nothing is computed in advance.
    """
    if not in_ipython():
        yield from events
        return
    from IPython.display import HTML, display

    shown = _Shown()
    handle: Any = display(HTML(shown.html()), display_id=True)
    last, step = -every, None
    for event in events:
        shown.take(event)
        step = event if isinstance(event, Step) else step
        done = isinstance(event, Step) and event.index + 1 == shown.end
        if done or time.monotonic() - last >= every:
            shown.draw(step)
            handle.update(HTML(shown.html()))
            last = time.monotonic()
        yield event
    shown.draw(step)
    handle.update(HTML(shown.html()))


def in_ipython() -> bool:
    """Whether this process is an IPython session: a notebook, or IPython in a terminal."""
    shell = sys.modules.get("IPython")
    return shell is not None and shell.get_ipython() is not None


class _Shown:
    """What is shown of a run: its stage, bar, figures, notes and picture."""

    def __init__(self) -> None:
        self.stage, self.words, self.notes = "", "", list[str]()
        self.done, self.end, self.first = 0, 0, 0  # steps; the index after the stage's last, and that of its first
        self.picture = ""  # data URI
        self.begun = time.monotonic()

    def take(self, event: Event) -> None:
        if isinstance(event, StageBegan):
            self.stage = f"stage {event.number + 1} of {event.count}" if event.count > 1 else ""
            self.first, self.end, self.begun = self.done, event.end, time.monotonic()
        elif isinstance(event, Note):
            self.notes.append(event.text)
        elif isinstance(event, Counted):
            self.words = f"{event.name} {event.index + 1} of {event.total}"
        else:
            self.done = event.index + 1
            terms = "  ".join(f"{name} {value:.3g}" for name, value in event.terms.items())
            self.words = f"step {self.done}" + (f" of {self.end}" if self.end else "") + f"  {terms}"
            self.notes += [event.note] * bool(event.note)

    def draw(self, step: Step | None) -> None:
        """Make the picture of a step; one without a render keeps the picture before it."""
        if step is not None and step.render is not None:
            self.picture = picture_of(step)

    def html(self) -> str:
        share = (self.done - self.first) / (self.end - self.first) if self.end > self.first else 0.0
        speed = (self.done - self.first) / max(time.monotonic() - self.begun, 1e-9)
        left = f"  {round((self.end - self.done) / speed)} s left" if share and self.done < self.end else ""
        words = html.escape("  ".join(filter(None, (self.stage, self.words))) + left)
        notes = "".join(f"<div>note: {html.escape(text)}</div>" for text in self.notes[-3:])
        picture = f'<img alt="the newest render" src="{self.picture}" style="display:block">' if self.picture else ""
        return f'<div><progress value="{share:.4f}" max="1"></progress> <code>{words}</code>{notes}{picture}</div>'


def picture_of(step: Step) -> str:
    """The first two renders of a step side by side as a data URI (PNG), at least :data:`SHOWN` pixels high."""
    from dreamlift.export.video import contact_sheet

    assert step.render is not None
    rgb = step.render.rgb[:2].detach().float().cpu().clamp(0, 1)
    factor = max(1, -(-SHOWN // rgb.shape[1]))
    rgb = rgb.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    return data_uri("image/png", contact_sheet(rgb, columns=2))


def frame(page: str, width: int = 480, height: int = 400) -> str:
    """A viewer page in a frame of its own, which may run its script and nothing else."""
    source = html.escape(page, quote=True)
    return f'<iframe sandbox="allow-scripts" width="{width}" height="{height}" style="border:0" srcdoc="{source}"></iframe>'


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
