"""What the tests of run folders share."""

import dataclasses

import numpy as np
import pytest
import torch

from dreamlift.runs.run import RunError
from dreamlift.stages.base import SavedState
from dreamlift.types import Handover

HASH = "c0ffee" * 10


def refused(call, *expected, kind=RunError):
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in expected), message


def same(a, b):
    """Equal in structure, types and bits."""
    if isinstance(a, torch.Tensor):
        bits = [x.resolve_conj().contiguous().reshape(-1).view(torch.uint8) if x.numel() else x for x in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return type(b) is float and a.hex() == b.hex()
    return type(a) is type(b) and a == b


def numbers(step, size=1000):
    return {"step": step, "weights": np.full(size, step, dtype=np.float32)}


def saved(step, work=None):
    """A run's state after ``step`` steps of its first stage; what its work holds is :func:`numbers` by default."""
    return SavedState(0, step, Handover(), numbers(step) if work is None else work)


def names(folder):
    return sorted(path.name for path in folder.iterdir())
