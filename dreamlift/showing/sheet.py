"""A sheet to choose from: variations of one prompt side by side, ranked by the judge where it knows the words.

Variations are runs with different seeds, or the particles of one run. ``sheet.png`` has a row for each, the best first, with
eight views and its rank and name; ``ranking.json`` has the figures. The order is by these figures, each deciding where those
before it are equal: no second front; the share of views with the right thing and color; without texture, the share with the
right thing; the overlap of the outlines with true things of the kind (:mod:`dreamlift.toybox.judging.score`).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.cameras import turntable
from dreamlift.export.glb import load_glb, png_bytes
from dreamlift.export.video import to_bytes
from dreamlift.runs.progress import Reporter
from dreamlift.system.files import atomic_write_bytes, atomic_write_text
from dreamlift.texturing.draw import render_mesh
from dreamlift.toybox.judging.judge import load_judge, understand
from dreamlift.toybox.judging.score import Score, fitted, score_mesh

SIDE, VIEWS = 160, 8  # pixels a side of a view, and views of a row
LABEL = 22  # pixels of the line of text above a row
SHEET, RANKING = "sheet.png", "ranking.json"


@dataclass(frozen=True)
class Variation:
    """One asset of a sheet."""

    name: str  # such as "seed 3"
    glb: Path


@dataclass(frozen=True)
class Ranked:
    """A variation with its place."""

    variation: Variation
    score: Score | None  # None: the judge does not know the words


def rank(variations: Sequence[Variation], prompt: str, reporter: Reporter) -> list[Ranked]:
    """The variations, best first; in their own order, with a note, where the judge knows no noun of ``prompt``."""
    judge, _ = load_judge()
    wanted = understand(prompt)
    if wanted.category not in judge.categories:
        reporter.note(
            f"the judge does not know what {prompt!r} names, so the sheet is not ranked; its order is that of the names"
        )
        return [Ranked(each, None) for each in variations]
    found = []
    for each in variations:
        reporter.stage(f"judging {each.name}")
        found.append(Ranked(each, score_mesh(load_glb(each.glb), wanted, judge).score))
    return sorted(found, key=_key)  # which keeps the order of equal ones


def _key(ranked: Ranked) -> tuple[float, ...]:
    score = ranked.score
    assert score is not None
    named = score.category if math.isnan(score.both) else score.both
    janus, iou = (0.0 if math.isnan(value) else value for value in (score.janus, score.silhouette_iou))
    return janus, -named, -score.category_textureless, -iou


def save_sheet(variations: Sequence[Variation], prompt: str, folder: Path, reporter: Reporter) -> list[Ranked]:
    """Write ``sheet.png`` and ``ranking.json`` to ``folder``; returns the order.

    Raises:
        ValueError: a file is no GLB of one mesh.
        OSError: a file cannot be written.
    """
    ranked = rank(variations, prompt, reporter)
    rows = []
    for place, each in enumerate(ranked, start=1):
        cameras = turntable(VIEWS, distance=2.6, fov_deg=42.0, size=SIDE)
        views = to_bytes(render_mesh(fitted(load_glb(each.variation.glb)), cameras).rgb)
        rows += [label(f"{place}.  {describe(each)}" if each.score else describe(each)), np.concatenate(list(views), axis=1)]
    atomic_write_bytes(folder / SHEET, png_bytes(np.concatenate(rows)))
    told = {"prompt": prompt, "ranked_by": "judge" if ranked and ranked[0].score else "name", "assets": listed(ranked, folder)}
    atomic_write_text(folder / RANKING, json.dumps(told, indent=1) + "\n")
    return ranked


def listed(ranked: Sequence[Ranked], folder: Path) -> list[dict[str, Any]]:
    """The order as plain data: names, files below ``folder``, figures."""
    return [
        {"name": each.variation.name, "asset": each.variation.glb.relative_to(folder).as_posix(), **figures(each)}
        for each in ranked
    ]


def figures(ranked: Ranked) -> dict[str, Any]:
    """The judge's figures; None in place of NaN, which JSON does not have."""
    found = asdict(ranked.score) if ranked.score else {}
    return {name: None if math.isnan(value) else round(value, 4) for name, value in found.items()}


def describe(ranked: Ranked) -> str:
    """One line: the name, and what the judge saw."""
    score = ranked.score
    if score is None:
        return ranked.variation.name
    named = "thing" if math.isnan(score.both) else "thing and color"
    share = score.category if math.isnan(score.both) else score.both
    front = "" if math.isnan(score.janus) else ", two fronts" if score.janus else ", one front"
    return (
        f"{ranked.variation.name}: {named} right in {share:.0%} of the views, in clay {score.category_textureless:.0%}{front}, "
        f"outline {score.silhouette_iou:.2f}"
    )


def label(text: str) -> np.ndarray:
    """A line of black text on white, ``(LABEL, VIEWS * SIDE, 3)``."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (VIEWS * SIDE, LABEL), "white")
    ImageDraw.Draw(picture).text((6, 3), text, fill="black", font=ImageFont.load_default(size=14))
    return np.asarray(picture)


def choices(ranked: Sequence[Ranked]) -> str:
    """The order, one line each."""
    out = io.StringIO()
    for place, each in enumerate(ranked, start=1):
        print(f"{place}. {describe(each)}" if each.score else f"-  {describe(each)}", file=out)
    return out.getvalue().rstrip()
