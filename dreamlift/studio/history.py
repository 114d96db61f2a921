"""The curves of a run's terms, thinned to a few hundred points however long the run is."""

from __future__ import annotations

import math
from typing import Any

POINTS = 400  # above which every second one is left out
TERMS = 16  # terms that are kept


class History:
    """Points (step, values). Where there are more than ``POINTS``, every second one is left out."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.terms: dict[str, list[float | None]] = {}
        self.stride = 1

    def add(self, step: int, values: dict[str, Any]) -> None:
        """Add the values of a step; those after it are forgotten, as when a run was rolled back."""
        while self.steps and self.steps[-1] >= step:
            self._drop_last()
        if self.steps and step - self.steps[-1] < self.stride:
            return
        for name in values:
            if name not in self.terms and len(self.terms) < TERMS:
                self.terms[name] = [None] * len(self.steps)
        self.steps.append(step)
        for name, column in self.terms.items():
            value = values.get(name)
            known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            column.append(float(f"{value:.5g}") if known else None)
        if len(self.steps) > POINTS:
            self.stride *= 2
            self.steps = self.steps[::2]
            self.terms = {name: column[::2] for name, column in self.terms.items()}

    def plain(self) -> dict[str, Any]:
        """``{"steps": [...], "terms": {name: [...]}}``; None where a term has no value."""
        return {"steps": list(self.steps), "terms": {name: list(column) for name, column in self.terms.items()}}

    def _drop_last(self) -> None:
        self.steps.pop()
        for column in self.terms.values():
            column.pop()
