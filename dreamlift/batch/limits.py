"""What a batch may use: attempts, time, memory and disk."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

MIN_FREE = 500_000_000  # bytes that stay free on the disk of the batch's folder


@dataclass(frozen=True)
class Limits:
    """Limits of a batch and of one attempt at an asset."""

    attempts: int = 3
    timeout: float = math.inf  # seconds of an attempt
    memory: float = math.inf  # resident bytes of a worker
    seconds: float = math.inf  # of the command
    disk: float = math.inf  # bytes of the batch's folder


@dataclass
class Room:
    """The space that the batch's folder has and may have."""

    root: Path
    limits: Limits
    sizes: dict[Path, int] = field(default_factory=dict)  # of the assets' folders

    def __post_init__(self) -> None:
        if math.isfinite(self.limits.disk):
            self.sizes = {path: size_of(path) for path in self.root.iterdir() if path.is_dir()}

    def add(self, folder: Path) -> None:
        """Count a finished asset."""
        if math.isfinite(self.limits.disk):
            self.sizes[folder] = size_of(folder)

    def full(self) -> str:
        """Why nothing more is started, or ""."""
        free = shutil.disk_usage(self.root).free
        if free < MIN_FREE:
            return f"{free / 1e6:.0f} MB are free for {self.root}: free some space, and the same command goes on"
        if (used := sum(self.sizes.values())) > self.limits.disk:
            return f"{self.root} has {used / 1e9:.2f} GB, more than --max-disk ({self.limits.disk / 1e9:.2f} GB)"
        return ""


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError:  # it has just been replaced
                continue
    return total
