"""How good are the assets? Many prompts through the shipped command, then ``dreamlift evaluate`` on the files.

    python benchmarks/quality.py [--quick | --count 16] [--jobs 2] [--shape] [-- --guidance.guidance_scale 4]

48 prompts (12 with --quick, N with --count N): half of them combinations of kind, colour, hat and box that the prior was never
shown. What comes after -- is passed on to generate, so that settings can be compared; give each its own --runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dreamlift.apps.evaluate import describe, evaluate, find_items, means, save_report
from dreamlift.priors.loading.sources import locate
from dreamlift.runs.progress import Plain
from dreamlift.runs.run import slugify
from dreamlift.toybox.judging.references import HEADS as SHAPE_HEADS
from dreamlift.toybox.training.network import kinds_known, load_folder
from dreamlift.toybox.world.things import CATEGORIES, COLORS, Description, can_wear, held_out

FIGURES = ("category", "color", "both", "category_textureless", "azimuth_error_deg", "front_from_behind", "janus",
           "silhouette_iou")  # fmt: skip
"""Of these the means over the held-out prompts and over the others are printed beside the table."""


def choose_prompts(count: int, prior: str, only: Sequence[str] = tuple(CATEGORIES)) -> tuple[list[str], list[str]]:
    """(held-out prompts, shown prompts), ``count // 2`` of each, spread over colours and the kinds of a prior (of ``only``).

    One held-out thing in six wears a hat and one in six stands on a box; more do where too few pairs of kind and colour
    are held out.
    """
    kinds, colors = [kind for kind in kinds_known(load_folder(locate(prior)).tokenizer) if kind in only], list(COLORS)
    turns = [(kind, colors[(5 * i + turn) % len(colors)]) for turn in range(len(colors)) for i, kind in enumerate(kinds)]
    hidden: list[Description] = []
    used: dict[str, int] = {}
    half, share = count // 2, count // 12
    for accessory, total in {"": half - 2 * share, "hat": half - share, "box": half}.items():
        pool = [(kind, color) for kind, color in turns
                if held_out(kind, color, accessory) and (accessory != "hat" or can_wear(kind))]  # fmt: skip
        for kind, color in _spread(pool, total - len(hidden), used):
            other = colors[(colors.index(color) + len(colors) // 2) % len(colors)]
            hidden.append(Description(kind, color, hat=other if accessory == "hat" else "", box=accessory == "box"))
    shown = _spread([pair for pair in turns if not held_out(*pair)], half, used)
    return [each.caption() for each in hidden], [Description(*pair).caption() for pair in shown]


def _spread(pairs: list[tuple[str, str]], count: int, used: dict[str, int]) -> list[tuple[str, str]]:
    """Up to ``count`` of the pairs, those of the least ``used`` words first: all have come before one comes often."""
    pool, found = list(pairs), []
    while pool and len(found) < count:
        found.append(min(pool, key=lambda pair: (used.get(pair[0], 0), used.get(pair[1], 0))))
        pool.remove(found[-1])
        for word in found[-1]:
            used[word] = used.get(word, 0) + 1
    return found


def lift_all(jobs: list[tuple[str, Path, list[str]]], workers: int) -> list[Path]:
    """Run the shipped command for each (prompt, parent folder, further words); a run that is there already is kept.

    Raises:
        SystemExit: runs failed, after all the others have been made; their folders are named.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if workers > 1 else {})

    def lift(job: tuple[str, Path, list[str]]) -> Path:
        prompt, parent, extra = job
        folder = parent / slugify(prompt)
        if not (folder / "asset.glb").is_file():
            command = [sys.executable, "-m", "dreamlift.cli", "generate", prompt, "--out", str(folder), *extra]
            subprocess.run(command, stderr=subprocess.DEVNULL, env=environment)  # run.json says why one failed
        return folder

    with ThreadPoolExecutor(workers) as pool:
        folders = list(pool.map(lift, jobs))
    if failed := [str(folder) for folder in folders if not (folder / "asset.glb").is_file()]:
        raise SystemExit(f"these runs failed; remove their folders to try again: {', '.join(failed)}")
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12 prompts instead of 48")
    parser.add_argument("--count", type=int, default=48, help="so many prompts, half of them held out; an even number")
    parser.add_argument("--prompts", nargs="+", help="these instead")
    parser.add_argument("--runs", type=Path, default=Path("outputs/quality"), help="folders are kept and reused")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    parser.add_argument("--shape", action="store_true", help="also the figures of docs/evaluate-shape.md, seconds an asset")
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="after --, passed on to generate")
    arguments = parser.parse_args()
    count = 12 if arguments.quick else arguments.count
    if not arguments.prompts and (count < 2 or count % 2):
        parser.error(f"--count is {count}; accepted: an even number from 2, since half of the prompts are held out")
    extra = [word for word in arguments.settings if word != "--"]
    hidden, shown = ([], arguments.prompts) if arguments.prompts else choose_prompts(count, "toybox")
    folders = lift_all([(prompt, arguments.runs, extra) for prompt in [*hidden, *shown]], arguments.jobs)
    report, scored = evaluate(find_items(folders), Plain(), shape=arguments.shape)
    save_report(report, scored, arguments.runs)
    print(describe(report))
    groups = {"held out": report["runs"][: len(hidden)], "shown": report["runs"][len(hidden) :]} if hidden else {}
    for name, rows in groups.items():
        found = means(rows)
        keys = [*FIGURES, *(SHAPE_HEADS if arguments.shape else ())]
        print(f"{name:9s} " + ", ".join(f"{key} {found[key]:.3f}" for key in keys))


if __name__ == "__main__":
    main()
