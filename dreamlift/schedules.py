"""Schedules: functions from progress (the finished fraction of a stage's steps, in [0, 1]) to a number.

Progress instead of a step count keeps a schedule's shape when the number of steps changes. A setting annotated
``float | Schedule`` also accepts a plain number; :func:`value_at` evaluates both.

Sources: threestudio's ``C()`` (Guo et al. 2023, ``threestudio/utils/misc.py``,
https://github.com/threestudio-project/threestudio) reads ``[start_step, start_value, end_value, end_step]``, here
:class:`Linear`; its jumps such as ``[5000, 0.98, 0.5, 5001]`` are :class:`Switch`. :class:`Sqrt` is the time annealing
of HiFA (Zhu and Zhuang 2023, https://arxiv.org/abs/2305.18766). In DreamGaussian and SDI one :class:`Linear` is both
bounds of t.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Constant:
    """A constant value."""

    value: float  # the value, finite

    def __post_init__(self) -> None:
        _require_finite(value=self.value)

    def __call__(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """``start_value`` until ``start``, linear interpolation, ``end_value`` from ``end`` on.

    threestudio's ``[start_step, start_value, end_value, end_step]`` over N steps is
    ``Linear(start_value, end_value, start_step / N, end_step / N)``.
    """

    start_value: float  # value until progress `start`, finite
    end_value: float  # value from progress `end` on, finite
    start: float = 0.0  # progress at which the linear change begins, in [0, 1)
    end: float = 1.0  # progress at which the linear change ends, in (start, 1]

    def __post_init__(self) -> None:
        _require_finite(start_value=self.start_value, end_value=self.end_value, start=self.start, end=self.end)
        if not 0.0 <= self.start < self.end <= 1.0:
            raise ValueError(f"start and end are progress with 0 <= start < end <= 1, got {self.start} and {self.end}")

    def __call__(self, progress: float) -> float:
        return _between((self.start, self.start_value), (self.end, self.end_value), progress)


@dataclass(frozen=True)
class Piecewise:
    """Linear interpolation between ``points``; constant before the first and after the last."""

    points: tuple[tuple[float, float], ...]  # one or more (progress, value) pairs, progress increasing within [0, 1]

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("points is empty: give at least one (progress, value) pair")
        for at, value in self.points:
            _require_finite(points=at)
            _require_finite(points=value)
        places = [at for at, _ in self.points]
        rising = all(left < right for left, right in itertools.pairwise(places))
        if not rising or places[0] < 0.0 or places[-1] > 1.0:
            raise ValueError(f"points must rise in progress, within [0, 1], got progress {places}")

    def __call__(self, progress: float) -> float:
        # Interpolate towards the first point that is not passed yet; after the last point its value stays.
        previous = self.points[0]
        for point in self.points:
            if progress <= point[0]:
                return _between(previous, point, progress)
            previous = point
        return previous[1]


@dataclass(frozen=True)
class Exponential:
    """Exponential change from ``start_value`` at progress ``start`` to ``end_value`` at ``end``; before ``start`` a warm-up.

    Latent-NeRF's learning rate in threestudio (100 of 10,000 steps from 0.1 to 1, then to 0.1) is
    ``Exponential(1.0, 0.1, 0.01, 1.0, warm_up=0.1)``.
    """

    start_value: float  # value at progress `start`, finite, positive
    end_value: float  # value from progress `end` on, finite, positive
    start: float = 0.0  # progress at which the exponential change begins, in [0, 1)
    end: float = 1.0  # progress at which the exponential change ends, in (start, 1]
    warm_up: float | None = None  # value at progress 0, with a linear change to `start_value` until `start`; null: none

    def __post_init__(self) -> None:
        Linear(self.start_value, self.end_value, self.start, self.end)  # checks the ranges
        if min(self.start_value, self.end_value) <= 0.0:
            raise ValueError(f"start_value and end_value must be positive, got {self.start_value} and {self.end_value}")
        if self.warm_up is not None:
            _require_finite(warm_up=self.warm_up)

    def __call__(self, progress: float) -> float:
        if progress < self.start:
            first = self.start_value if self.warm_up is None else self.warm_up
            return _between((0.0, first), (self.start, self.start_value), progress)
        ends = math.log(self.start_value), math.log(self.end_value)
        return math.exp(_between((self.start, ends[0]), (self.end, ends[1]), progress))


@dataclass(frozen=True)
class Sqrt:
    """HiFA's time annealing ``t = t_max - (t_max - t_min) sqrt(p)`` with ``start_value = t_max, end_value = t_min``.

    It changes fast at first and slowly later. threestudio's ``hifa.yaml`` goes from 0.98 to 0.3.
    """

    start_value: float  # value at progress 0, finite
    end_value: float  # value at progress 1, finite

    def __post_init__(self) -> None:
        _require_finite(start_value=self.start_value, end_value=self.end_value)

    def __call__(self, progress: float) -> float:
        root = math.sqrt(progress)
        return self.start_value * (1.0 - root) + self.end_value * root


@dataclass(frozen=True)
class Switch:
    """``before`` until progress ``at``, and ``after`` from there on.

    ProlificDreamer's largest t (Wang et al. 2023) is 0.98 for 5k of 25k steps and then 0.5: ``Switch(0.98, 0.5, 0.2)``.
    """

    before: float  # value before progress `at`, finite
    after: float  # value from progress `at` on, finite
    at: float  # progress at which the value changes, in [0, 1]

    def __post_init__(self) -> None:
        _require_finite(before=self.before, after=self.after, at=self.at)
        if not 0.0 <= self.at <= 1.0:
            raise ValueError(f"at is progress in [0, 1], got {self.at}")

    def __call__(self, progress: float) -> float:
        return self.before if progress < self.at else self.after


Schedule: TypeAlias = Constant | Linear | Piecewise | Exponential | Sqrt | Switch

SCHEDULES = {
    "constant": Constant,
    "linear": Linear,
    "piecewise": Piecewise,
    "exponential": Exponential,
    "sqrt": Sqrt,
    "switch": Switch,
}


def value_at(schedule: float | Schedule, progress: float) -> float:
    """The value of a plain number or of a schedule at ``progress``.

    Raises:
        ValueError: ``progress`` is outside [0, 1] or NaN, as when a step index is passed by mistake.
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress is a fraction of the run in [0, 1] (step / steps), got {progress}")
    return float(schedule) if isinstance(schedule, (int, float)) else schedule(progress)


def _between(left: tuple[float, float], right: tuple[float, float], at: float) -> float:
    """Linear interpolation between two (progress, value) points, exact at both and constant outside of them."""
    if at <= left[0]:
        return left[1]
    if at >= right[0]:
        return right[1]
    share = (at - left[0]) / (right[0] - left[0])
    return left[1] * (1.0 - share) + right[1] * share


def _require_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}")
