"""The state of a tuning on disk: one ``.safetensors`` file, replaced as a whole."""

from __future__ import annotations

from pathlib import Path

from dreamlift.priors.files.tensors import read_tensors
from dreamlift.tuning.files import write_tensors
from dreamlift.tuning.tuner import Tuner

STATE = "checkpoint/state.safetensors"


def save_state(tuner: Tuner, folder: Path) -> None:
    """Write the state into a tuning's ``folder``. Raises OSError."""
    (folder / STATE).parent.mkdir(exist_ok=True)
    write_tensors(folder / STATE, tuner.state_dict(), {})


def load_state(tuner: Tuner, folder: Path) -> int:
    """Restore the state in ``folder``, if there is one; returns the number of finished steps.

    Raises:
        ValueError: the file is damaged, or belongs to another tuning; one line with the fix.
    """
    file = folder / STATE
    if file.is_file():
        tensors, _ = read_tensors(file)
        try:
            tuner.load_state_dict(tensors)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{file} does not fit this tuning ({error}): remove it to begin again, or give another --out"
            ) from error
    return tuner.index
