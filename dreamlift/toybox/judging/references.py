"""What a true thing has beside the figures of an asset's shape, and the heads of their table."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import cache
from pathlib import Path

from dreamlift.toybox.judging.judge import Judge
from dreamlift.toybox.judging.shape import FIGURES, shape_of_thing
from dreamlift.toybox.world.things import Description

TABLE = Path(__file__).parent / "true_shapes.json"
HEADS = dict(
    zip(
        FIGURES,
        ("vol", "chamf", "hollow", "/true", "normal", "rough", "clay20", "clay55", "blotch", "sharp"),
        strict=True,
    )
)
"""Columns of the printed table."""


SEED = 100  # of the true thing: none of those with which assets are compared


@cache
def true_figures(wanted: Description, judge: Judge) -> dict[str, float]:
    """The figures of a true ``wanted`` thing as if it were an asset, by their names; NaN where they are not known.

    Those of a kind's plain thing are in a table (``benchmarks/true_shapes.py``). With a hat, a box or another word the thing is
    measured here, in about 10 s of one core's time: a box takes most of the picture, so that the judge names few true things
    on boxes.
    """
    if wanted.hat or wanted.box or wanted.attribute:
        return asdict(shape_of_thing(wanted.thing(SEED), wanted, judge).shape)
    rows = json.loads(TABLE.read_text()) if TABLE.is_file() else {}
    found = rows.get(wanted.category, {})
    return {name: math.nan if found.get(name) is None else float(found[name]) for name in FIGURES}
