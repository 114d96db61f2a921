"""A run's curves in Weights & Biases (``pip install "dreamlift[wandb]"``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreamlift.runs.progress import Silent
from dreamlift.types import Step


class WandB(Silent):
    """Logs the loss and terms of every step to a run of the project ``dreamlift``; wandb's environment variables apply.

    Raises:
        ValueError: the package wandb is not installed.
    """

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError:
            raise ValueError('--log wandb needs a package: pip install "dreamlift[wandb]"') from None
        self.wandb: Any = wandb
        self.run: Any = None

    def begin(self, folder: Path, settings: dict[str, Any]) -> None:
        self.run = self.wandb.init(project="dreamlift", name=folder.name, dir=str(folder), config=settings, resume="allow")

    def step(self, step: Step, total: int) -> None:
        self.run.log({"loss": step.loss, **step.terms}, step=step.index)

    def done(self, summary: dict[str, Any]) -> None:
        self.run.summary.update(summary)
        self.run.finish()
