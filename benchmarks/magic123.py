"""One photo and its words, lifted by one teacher or by two: what each of Magic123's two priors does.

    python benchmarks/magic123.py [--count 16] [--ratios 0.1 0.3 1] [--jobs 2]
    python benchmarks/magic123.py --count 2                                     # a look

Magic123 (Qian et al. 2023, https://arxiv.org/abs/2306.17843, section 4.3) says that the teacher of words alone ("2D") imagines,
that the view-conditioned one alone ("3D") is consistent and plain, and that the ratio of their weights is the knob. Here the
truth is known: held-out toys of ``benchmarks/picture.py``, with its photos and measures, and the photo's camera and the caption
told. All methods have the photo, the stages and the settings of ``magic123-toy``; they differ in the teachers' weights:

    2D alone      the words' teacher, ``toybox-geometry`` and then ``toybox``, with the weight 1
    3D alone      the views' teacher, ``toybox-view``, with the weight 1
    words R       both: the views' teacher with the weight 1, the words' with R
    zero123-toy   the preset without words, whose backdrop is white

Beside picture.py's figures, the judge's: how often it recognises the kind from eight sides, in grey clay, and from the three
sides behind; how often it takes a side behind for the front; two fronts; and its azimuth.

Rows are kept in benchmarks/results/magic123.json and made again only where the settings or the priors' weights have changed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

import picture
from held_out import held_object
from picture import Task, key_of, save_photo, shot_of, table

from dreamlift.apps.presets import find_preset
from dreamlift.config.schema import Config
from dreamlift.stages.base import with_priors

RESULTS = Path(__file__).parent / "results" / "magic123.json"
JUDGED = {"category": "kind", "behind": "kind from behind", "shape": "kind in clay", "front_from_behind": "front from behind",
          "janus": "two fronts", "azimuth": "azimuth off, deg"}  # fmt: skip


def methods(ratios: list[float]) -> dict[str, Config]:
    """The configs by label."""
    both = find_preset("magic123-toy")
    found = {"2D alone": weighted(both, 1.0, 0.0), "3D alone": weighted(both, 0.0, 1.0)}
    found |= {f"words {ratio:g}": weighted(both, ratio, 1.0) for ratio in ratios}
    return found | {"zero123-toy": find_preset("zero123-toy")}


def weighted(config: Config, words: float, views: float) -> Config:
    """The config with these weights of the teachers; one with the weight 0 is left out, and so is its prior."""
    weights = {"toybox-geometry": words, "toybox": words, "toybox-view": views}
    stages = []
    for stage in with_priors(config.stages):
        named = [(teacher, weights[teacher.prior.name]) for teacher in stage.teachers if teacher.prior]
        stages.append(stage.with_teachers(tuple(replace(teacher, weight=weight) for teacher, weight in named if weight)))
    return replace(config, stages=tuple(stages))


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    for label, base in methods(arguments.ratios).items():
        for index in range(arguments.count):
            name, held = f"toy-{index:02d}", held_object("toy", index)
            path = arguments.pictures / f"photo-{name}.png"
            elevation = save_photo(held, index, path)
            azimuth = math.degrees(shot_of(held, index).azimuth)
            photo = replace(base.photos[0], path=str(path), mask="alpha", elevation_deg=elevation, azimuth_deg=azimuth)
            prompt = "" if label == "zero123-toy" else held.caption
            config = replace(base, photos=(photo,), prompt=prompt)
            drawn = arguments.pictures / f"{label} {name}.png"
            yield Task(label, "toy", index, config, key_of(config, name), drawn, held.caption)


def judged(rows: list[dict]) -> str:
    """The judge's figures as a table in Markdown: means, of the azimuth the median."""
    lines = [f"| method | {' | '.join(JUDGED.values())} |", "|---" * (1 + len(JUDGED)) + "|"]
    for label in dict.fromkeys(row["label"] for row in rows):
        found = [row["figures"] for row in rows if row["label"] == label and "figures" in row]
        cells = []
        for name in JUDGED:
            values = [figures[name] for figures in found if figures.get(name) is not None]
            mean = median if name == "azimuth" else fmean
            cells.append(f"{mean(values):.{1 if name == 'azimuth' else 3}f}" if values else "-")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=16, help="toys")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.3, 1.0], help="weights of the words' teacher")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the rows are kept")
    parser.add_argument("--pictures", type=Path, default=Path("outputs/magic123"), help="photos and assets from eight sides")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    arguments = parser.parse_args()
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    rows = picture.completed(list(tasks(arguments)), arguments.results, arguments.jobs)
    print(table(rows), "", judged(rows), sep="\n")


if __name__ == "__main__":
    main()
