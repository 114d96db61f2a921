"""What a batch may use: attempts, time, memory and disk."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dreamlift.batch.ledger import ASSET, BATCH

MIN_FREE = 500_000_000  # bytes that stay free on the disk of the batch's folder
MEASURE = 180.0  # seconds between two looks at the size of the batch's folder
UNCOUNTED = frozenset({"ended"})  # of .batch: empty files, one for each finished asset


@dataclass(frozen=True)
class Limits:
    """Limits of a batch and of one attempt at an asset."""

    attempts: int = 3
    timeout: float = math.inf  # seconds of an attempt
    memory: float = math.inf  # resident bytes of a worker
    seconds: float = math.inf  # of the command
    disk: float = math.inf  # bytes of the batch's folder

    def exceeded(self, seconds: float, used: int, where: Callable[[], str]) -> tuple[str, str] | None:
        """The outcome and the reason of an attempt that takes too much; None: it does not.

        Args:
            seconds: since the attempt began.
            used: resident bytes of its process.
            where: returns where it is, such as "step 3/600"; "" before the first step.
        """
        if seconds > self.timeout:
            at = where()
            told = f"at {at}" if at else "before its first step"
            return "timeout", f"it took longer than --timeout {self.timeout:g}s, {told}"
        return ("memory", too_much_memory(used, self.memory)) if used > self.memory else None


def too_much_memory(used: float, limit: float) -> str:
    """What is said of a process that had ``used`` bytes."""
    return (
        f"its process had {used / 1e9:.1f} GB of memory; accepted: {limit / 1e9:.1f} GB (--max-memory): "
        "give it more, or make fewer assets at a time (--jobs)"
    )


@dataclass
class Room:
    """The space that the batch's folder has and may have.

    With a limit, all that is in the folder is measured at the start and every MEASURE seconds, and an asset's folder when an
    attempt at it ends. What finished assets have is remembered, so that the number of assets does not matter.
    """

    root: Path
    limits: Limits
    clock: Callable[[], float] = time.monotonic  # seconds
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of what is in the folder, by name
    fixed: dict[str, str] = field(default_factory=dict)  # done or failed: assets whose sizes do not change any more
    due: float = -math.inf  # when everything is measured next

    def add(self, folder: Path) -> None:
        """Measure an asset's folder: an attempt at it has ended."""
        if math.isfinite(self.limits.disk):
            self.sizes[folder.name] = size_of(folder)

    def full(self) -> str:
        """Why the batch cannot go on, with the fix; or ""."""
        free = shutil.disk_usage(self.root).free
        if free < MIN_FREE:
            return f"{free / 1e6:.0f} MB are free for {self.root}: free some space"
        if not math.isfinite(self.limits.disk):
            return ""
        if self.clock() >= self.due:
            with contextlib.suppress(OSError):  # the last figures hold
                self._measure()
            self.due = self.clock() + MEASURE
        if (used := sum(self.sizes.values())) > self.limits.disk:
            return (
                f"{self.root} has {_shown(used)}, more than --max-disk ({_shown(self.limits.disk)}): "
                "delete what is not needed, or give it more"
            )
        return ""

    def _measure(self) -> None:
        sizes: dict[str, int] = {}
        fixed: dict[str, str] = {}
        with os.scandir(self.root) as found:
            names = [each.name for each in found]
        for name in names:
            known = self.fixed.get(name)
            if known == "failed" and not self._has(name, known):  # it is tried again
                known = None
            # The state comes before the size: nothing is written to the folder after it.
            state = known or next((each for each in ("done", "failed") if self._has(name, each)), None)
            if state is not None:
                fixed[name] = state
            sizes[name] = self.sizes[name] if known else size_of(self.root / name, UNCOUNTED if name == BATCH else frozenset())
        self.sizes, self.fixed = sizes, fixed

    def _has(self, name: str, state: str) -> bool:
        return os.path.exists(self.root / name / ASSET / state)


def _shown(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def size_of(path: Path, left_out: frozenset[str] = frozenset()) -> int:
    """Bytes of a file, or of all files below a folder except folders of the names ``left_out``."""
    if not os.path.isdir(path) or os.path.islink(path):
        return _bytes(path)
    total = 0
    for where, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name not in left_out]
        total += sum(_bytes(os.path.join(where, name)) for name in names)
    return total


def _bytes(path: Path | str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:  # it has just been replaced
        return 0
