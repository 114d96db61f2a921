"""What the figures of ``dreamlift evaluate --shape`` are of true things: each kind's thing of one seed, as if it were an asset.

    python benchmarks/true_shapes.py [--kinds mug chair] [--seeds 100] [--jobs 2]

    python benchmarks/true_shapes.py --prompts "a black airplane on a wooden box"     # any words, and nothing is stored

The seed is none of those of the members with which assets are compared. The table is kept in the package and printed beside the
figures of assets; rows of kinds that are not named are kept. With --prompts the share of eight views in colour that the judge
names rightly is printed as well, the mean over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from processes import in_processes

from dreamlift.system.files import atomic_write_text
from dreamlift.toybox.judging.references import SEED, TABLE
from dreamlift.toybox.world.things import CATEGORIES


def measure(task: tuple[str, tuple[int, ...]]) -> tuple[str, dict[str, float | None], float]:
    """The kind, the means of its figures over the seeds, and the seconds per thing."""
    from dreamlift.toybox.judging.judge import load_judge
    from dreamlift.toybox.judging.shape import FIGURES, shape_of_thing
    from dreamlift.toybox.world.things import Description

    kind, seeds = task
    began, judge = time.perf_counter(), load_judge()[0]
    plain = Description(kind, "red")
    rows = [shape_of_thing(plain.thing(seed), plain, judge).shape for seed in seeds]
    found: dict[str, float | None] = {}
    for name in FIGURES:
        values = [value for row in rows if not math.isnan(value := getattr(row, name))]
        found[name] = round(sum(values) / len(values), 4) if values else None
    return kind, found, (time.perf_counter() - began) / len(seeds)


def measure_prompt(task: tuple[str, tuple[int, ...]]) -> tuple[str, dict[str, float], float]:
    """The prompt, the means over the seeds of what its true things have, and the seconds per thing."""
    from dreamlift.toybox.judging.judge import load_judge
    from dreamlift.toybox.judging.score import VIEWS, around, background_for
    from dreamlift.toybox.judging.shape import FIGURES, described, shape_of_thing
    from dreamlift.toybox.world.render import Background, Lighting, render

    prompt, seeds = task
    began, judge, wanted, rows = time.perf_counter(), load_judge()[0], described(prompt), []
    assert wanted is not None, f"no kind of the toybox in {prompt!r}"
    paper = background_for(wanted.color)
    for seed in seeds:
        thing = wanted.thing(seed)
        seen = judge.judge(render(thing, around(VIEWS), Lighting(), Background(paper, paper)).rgb)
        named = seen.category.argmax(dim=1) == judge.categories.index(wanted.category)
        shape = shape_of_thing(thing, wanted, judge).shape
        rows.append({"category": float(named.float().mean()), **{name: getattr(shape, name) for name in FIGURES}})
    return prompt, {key: round(sum(row[key] for row in rows) / len(rows), 3) for key in rows[0]}, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=tuple(CATEGORIES), default=tuple(CATEGORIES), metavar="KIND")
    parser.add_argument("--prompts", nargs="+", default=(), help="print what true things with these words have, instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=(SEED,), help="of the things that are measured")
    parser.add_argument("--jobs", type=int, default=1, help="kinds at a time, each on its share of the cores")
    parser.add_argument("--out", type=Path, default=TABLE)
    arguments = parser.parse_args()
    if arguments.prompts:
        asked = [(prompt, tuple(arguments.seeds)) for prompt in arguments.prompts]
        for prompt, values, _ in in_processes(measure_prompt, asked, arguments.jobs):
            print(f"{prompt}: " + "  ".join(f"{name} {value}" for name, value in values.items()), flush=True)
        return
    rows: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    tasks = [(kind, tuple(arguments.seeds)) for kind in arguments.kinds]
    for kind, found, seconds in in_processes(measure, tasks, arguments.jobs):
        print(f"{kind:14s} {seconds:5.1f} s  " + "  ".join(f"{name} {value}" for name, value in found.items()), flush=True)
        rows[kind] = found
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows[name])}" for name in CATEGORIES if name in rows)
        atomic_write_text(arguments.out, "{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
