"""ProlificDreamer's ladder on the embedded prior: what each of its steps adds, in one picture and in figures.

    python benchmarks/ladder.py [--prompt "a red mug"] [--out docs/pictures/ladder.png]

Rows, from above: SDS on 32-pixel renders (shown to the prior at its 64); on 64-pixel renders; with t that falls during the
run; and VSD in the place of SDS. Everything else is the default preset's.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from dreamlift.system.startup import tune_process

tune_process()

from dreamlift.api import generate  # noqa: E402
from dreamlift.config.schema import Config  # noqa: E402
from dreamlift.config.short import override  # noqa: E402
from dreamlift.export.video import contact_sheet  # noqa: E402
from dreamlift.presets import PRESETS  # noqa: E402
from dreamlift.system.files import atomic_write_bytes  # noqa: E402
from dreamlift.toybox.judging.judge import load_judge, understand  # noqa: E402
from dreamlift.toybox.judging.score import score_mesh  # noqa: E402

LADDER: dict[str, Config] = {
    "32 pixels": override(PRESETS["dreamfusion-toy"], {"cameras.resolution": "[32]"}),
    "+ 64 pixels": PRESETS["dreamfusion-toy"],
    "+ annealed t": PRESETS["toybox-field"],
    "+ VSD": PRESETS["vsd-toy"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of every run; default: the presets'")
    parser.add_argument("--out", type=Path, default=Path("ladder.png"))
    arguments = parser.parse_args()
    (judge, _), wanted = load_judge(), understand(arguments.prompt)
    rows: list[torch.Tensor] = []
    print(f"{'step':14s} category  color  shape alone  saturation  silhouette IoU  seconds")
    for name, config in LADDER.items():
        begun = time.perf_counter()
        if arguments.steps is not None:
            config = override(config, {"steps": str(arguments.steps)})
        asset = generate(arguments.prompt, replace(config, seed=arguments.seed), progress=False)
        seconds = time.perf_counter() - begun
        found = score_mesh(asset.mesh, wanted, judge).score
        print(f"{name:14s} {found.category:8.2f} {found.color:6.2f} {found.category_textureless:12.2f} "
              f"{found.saturation:11.2f} {found.silhouette_iou:15.2f} {seconds:8.0f}", flush=True)  # fmt: skip
        rows.append(asset.views)
        atomic_write_bytes(arguments.out, contact_sheet(torch.cat(rows), columns=8))


if __name__ == "__main__":
    main()
