"""The figures of an asset's shape as a table, each beside what a true thing of its kind has (``benchmarks/true_shapes.py``)."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

from dreamlift.toybox.judging.shape import FIGURES

TABLE = Path(__file__).parent / "true_shapes.json"
HEADS = dict(
    zip(
        FIGURES,
        ("vol", "chamf", "hollow", "/true", "normal", "rough", "clay20", "clay55", "blotch", "sharp"),
        strict=True,
    )
)
"""Columns of the printed table."""


@cache
def true_figures(kind: str) -> dict[str, float]:
    """The figures of a true thing of ``kind``, by their names; NaN where they are not known."""
    rows = json.loads(TABLE.read_text()) if TABLE.is_file() else {}
    found = rows.get(kind, {})
    return {name: math.nan if found.get(name) is None else float(found[name]) for name in FIGURES}
