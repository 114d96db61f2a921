"""Every distillation loss on the same prompts and seeds, with the embedded prior: which buys what?

    python benchmarks/methods.py [--prompts 16] [--seeds 4] [--presets vsd-toy csd-toy ...] [--jobs 2]
    python benchmarks/methods.py --seeds 1 --presets toybox-field toybox     # what the mesh stage buys

Each preset's runs go through the shipped command, and the judge reads the files. Diversity is the mean distance of the
judge's embeddings over the seeds of a prompt; PSNR is the exported file against its scene; MB are the file's. The picture
methods.png beside the runs shows the files of the first four prompts, a row a preset.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import fmean

from PIL import Image, ImageDraw
from quality import choose_prompts, lift_all
from rows import file_views

from dreamlift.apps.evaluate import evaluate, find_items, save_report
from dreamlift.apps.progress import Plain
from dreamlift.files import atomic_write_text
from dreamlift.presets import PRESETS
from dreamlift.presets.toybox import TOYS
from dreamlift.run import read_status, slugify

COLUMNS = ("category", "color", "both", "category_textureless", "azimuth_error_deg", "janus", "saturation",
           "silhouette_iou", "seconds")  # fmt: skip


def main() -> None:
    toys = list(TOYS)
    known = [name for name, preset in PRESETS.items() if preset.prior.startswith("toybox") and not preset.scene.needs_start]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--presets", nargs="+", choices=known, default=toys, metavar="PRESET")
    parser.add_argument("--runs", type=Path, default=Path("outputs/methods"), help="folders are kept and reused")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    arguments = parser.parse_args()
    hidden, shown = choose_prompts(arguments.prompts, "toybox", "toybox-latent")  # the same whichever presets are asked for
    table: dict[str, dict[str, float]] = {}
    print(f"{'preset':22s}" + " ".join(f"{name[:9]:>9s}" for name in (*COLUMNS, "diversity", "psnr", "mb")), flush=True)
    for preset in arguments.presets:
        jobs = [
            (prompt, arguments.runs / preset / f"seed-{seed}", ["--preset", preset, "--seed", str(seed)])
            for seed in range(arguments.seeds)
            for prompt in [*hidden, *shown]
        ]
        folders = lift_all(jobs, arguments.jobs)
        report, scored = evaluate(find_items(folders), Plain())
        save_report(report, scored, arguments.runs / preset)
        spread = report["diversity"].values()
        table[preset] = {name: report["mean"][name] for name in COLUMNS} | {
            "diversity": fmean(spread) if spread else math.nan,
            "psnr": fmean(read_status(folder)["metrics"]["roundtrip_psnr"] for folder in folders),
            "mb": fmean((folder / "asset.glb").stat().st_size / 1e6 for folder in folders),
        }
        print(f"{preset:22s}" + " ".join(f"{value:9.3f}" for value in table[preset].values()), flush=True)
        plain = {name: {k: None if math.isnan(v) else v for k, v in row.items()} for name, row in table.items()}
        atomic_write_text(arguments.runs / "methods.json", json.dumps(plain, indent=1) + "\n")
        save_pictures(arguments.runs, list(table), [*hidden[:2], *shown[:2]])


def save_pictures(runs: Path, presets: list[str], prompts: list[str]) -> None:
    """``methods.png``: each preset's files of the prompts, seed 0, from the front left, the right and the back."""
    size, views = 128, (1, 6, 4)
    sheet = Image.new("RGB", (110 + len(prompts) * len(views) * size, len(presets) * size), "white")
    pen = ImageDraw.Draw(sheet)
    for row, preset in enumerate(presets):
        pen.text((4, row * size + size // 2), preset, fill="black")
        for column, prompt in enumerate(prompts):
            pictures = file_views(runs / preset / "seed-0" / slugify(prompt), size)
            for number, view in enumerate(views):
                sheet.paste(pictures[view], (110 + (column * len(views) + number) * size, row * size))
    sheet.save(runs / "methods.png")


if __name__ == "__main__":
    main()
