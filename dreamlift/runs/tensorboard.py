"""A run's curves in TensorBoard (``pip install "dreamlift[tensorboard]"``): ``tensorboard --logdir outputs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreamlift.runs.progress import Silent
from dreamlift.types import Step


class TensorBoard(Silent):
    """Writes the loss and terms of every step as scalars to ``tensorboard/`` in the run's folder.

    Raises:
        ValueError: the package tensorboard is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError('--log tensorboard needs a package: pip install "dreamlift[tensorboard]"') from None
        self.make, self.writer = SummaryWriter, None

    def begin(self, folder: Path, settings: dict[str, Any]) -> None:
        self.writer: Any = self.make(str(folder / "tensorboard"))

    def step(self, step: Step, total: int) -> None:
        for name, value in {"loss": step.loss, **step.terms}.items():
            self.writer.add_scalar(name, value, step.index)

    def done(self, summary: dict[str, Any]) -> None:
        self.writer.close()
