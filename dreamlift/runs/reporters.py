"""The choice of a reporter for a process."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dreamlift.runs.progress import Json, Live, Plain, Reporter, Several
from dreamlift.runs.tensorboard import TensorBoard
from dreamlift.runs.wandb import WandB

LOGS = {"tensorboard": TensorBoard, "wandb": WandB}


def choose(as_json: bool, logs: Sequence[str] = ()) -> Reporter:
    """The reporter for this process: JSON, a bar on a terminal or in a notebook, otherwise plain lines; and the ``logs``.

    Args:
        logs: names in :data:`LOGS`.

    Raises:
        ValueError: a log's package is not installed.
    """
    shown = Json() if as_json else Live() if sys.stderr.isatty() or in_notebook() else Plain()
    return Several(shown, *(LOGS[name]() for name in dict.fromkeys(logs))) if logs else shown


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel, which can show a live bar without a terminal."""
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"
