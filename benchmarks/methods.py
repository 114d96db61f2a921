"""Every distillation loss on the same prompts and seeds, with the embedded prior: which buys what?

    python benchmarks/methods.py [--prompts 16] [--seeds 4] [--presets vsd-toy csd-toy ...] [--jobs 2]
    python benchmarks/methods.py --seeds 1 --presets toybox-field toybox     # what the mesh stage buys
    python benchmarks/methods.py --seeds 1 --plugin min_snr.py --presets min-snr-toy     # a loss of your own (docs/extend.md)

The judge reads the exported files. Rows are kept in benchmarks/results/methods.json and made again only where a preset's
settings or the prior's weights have changed, so the table can grow over many evenings. Diversity is the mean distance of the
judge's embeddings over the seeds of a prompt; PSNR is the exported file against its scene; MB are the file's; seconds are from
the prompt to the file, in a process that has done it before. "truth" is the world's own thing in an asset's place: what a
figure can be at best. The picture methods.png shows the files of four prompts, a row a preset, as far as their pictures are
in --pictures.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from quality import choose_prompts

from dreamlift.config.build import config_hash
from dreamlift.config.schema import Config
from dreamlift.config.short import override
from dreamlift.guidance.sds import SDS
from dreamlift.plugins import load_plugins
from dreamlift.presets import PRESETS
from dreamlift.presets.toybox import TOYS
from dreamlift.priors.loading.sources import is_embedded, locate, revision_of
from dreamlift.runs.run import slugify
from dreamlift.stages.base import with_priors
from dreamlift.system.files import atomic_write_text
from dreamlift.system.startup import tune_process

if TYPE_CHECKING:
    from torch import Tensor

    from dreamlift.types import Mesh

# The losses of the toy presets, and SDS as DreamFusion has it, whose effects (saturation, one thing for all seeds) are known.
SDS_100 = override(PRESETS["dreamfusion-toy"], {"guidance": SDS(guidance_scale=100.0, weighting="x0")})


def priors_of(config: Config) -> list[str]:
    """The names of all priors of a run."""
    return [teacher.prior.name for stage in with_priors(config.stages) for teacher in stage.teachers if teacher.prior]


def is_compared(config: Config) -> bool:
    """Whether words and the embedded priors are all that a run needs."""
    scene = getattr(config.stages[0], "scene", None)
    return all(map(is_embedded, priors_of(config))) and not (scene is not None and scene.needs_initial_mesh)


def add_plugins(words: list[str]) -> None:
    """Import what ``--plugin`` names among ``words``, here and (by the environment) in the processes of the pool."""
    named = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--plugin"]
    if named:
        known = filter(None, [os.environ.get("DREAMLIFT_PLUGINS"), *(str(Path(name).resolve()) for name in named)])
        os.environ["DREAMLIFT_PLUGINS"] = ",".join(known)
    load_plugins()


add_plugins(sys.argv[1:])
CONFIGS = {name: config for name, config in PRESETS.items() if is_compared(config)} | {"sds-100": SDS_100}
TRUTH = "truth"
# A colour of each, some of them held out, with a hat or on a box.
KINDS = ("mug", "teapot", "chair", "table", "lamp", "house", "hat", "robot", "car", "rocket", "boat", "airplane", "tree",
         "mushroom", "duck", "snowman")  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "methods.json"
COLUMNS = ("category", "color", "both", "category_textureless", "azimuth_error_deg", "janus", "saturation",
           "silhouette_iou", "seconds", "psnr", "mb")  # fmt: skip
SIZE, SIDES = 128, (1, 6, 4)  # of the picture: pixels of a view; the front left, the right, the back


class Task(NamedTuple):
    """One run."""

    preset: str
    prompt: str
    seed: int
    key: str  # of its settings and of the prior's weights
    picture: Path | None  # where its sides are drawn, if at all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--plugin", action="append", metavar="FILE", help="a plugin with presets of one's own (docs/extend.md)")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--presets", nargs="+", choices=[*CONFIGS, TRUTH], default=[*TOYS, "sds-100", TRUTH], metavar="PRESET")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the rows are kept")
    parser.add_argument("--pictures", type=Path, default=Path("outputs/methods"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    arguments = parser.parse_args()
    hidden, shown = choose_prompts(arguments.prompts, "toybox", KINDS)  # the same whichever presets are asked for
    prompts, drawn = [*hidden, *shown], [*hidden[:2], *shown[:2]]
    tasks = [task for preset in arguments.presets
             for task in tasks_of(preset, prompts, arguments.seeds, drawn, arguments.pictures)]  # fmt: skip
    rows = {row["key"]: row for row in json.loads(arguments.results.read_text())} if arguments.results.is_file() else {}
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    for row in measured([task for task in tasks if task.key not in rows], arguments.jobs):
        rows[row["key"]] = row
        keep(arguments.results, rows.values())
    print(f"{'preset':22s}{'runs':>5s} " + " ".join(f"{name[:9]:>9s}" for name in (*COLUMNS, "diversity")))
    for preset in arguments.presets:
        own = [rows[task.key] for task in tasks if task.preset == preset and "figures" in rows[task.key]]
        if own:
            print(f"{preset:22s}{len(own):5d} " + " ".join(f"{value:9.3f}" for value in summary(own)))
    save_picture(arguments.pictures, arguments.presets, drawn)


def tasks_of(preset: str, prompts: list[str], seeds: int, drawn: list[str], pictures: Path) -> list[Task]:
    """The runs of one preset, seed by seed: a table of the first seed is whole before the next one begins."""
    config, found = CONFIGS.get(preset, SDS_100), []
    revision = TRUTH if preset == TRUTH else "".join(sorted({revision_of(locate(name)) for name in priors_of(config)}))
    for seed in range(seeds):
        for prompt in prompts:
            key = config_hash(replace(config, prompt=prompt, seed=seed))[:16] + revision[:16]
            picture = pictures / f"{preset}-{slugify(prompt)}.png" if seed == 0 and prompt in drawn else None
            found.append(Task(preset, prompt, seed, key, picture))
    return found


def measured(tasks: list[Task], jobs: int) -> Iterable[dict[str, Any]]:
    """The rows of ``tasks``, as they are ready."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // jobs))
    if not tasks:
        return
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(tasks)), tune_process) as pool:
        for number, row in enumerate(pool.imap_unordered(measure, tasks), 1):
            told = row.get("error") or " ".join(f"{name[:8]} {row['figures'][name]}" for name in COLUMNS[:4])
            print(f"{number}/{len(tasks)} {row['preset']} {row['prompt']!r} seed {row['seed']}: {told}", flush=True)
            yield row


def measure(task: Task) -> dict[str, Any]:
    """One run, its file judged: a row."""
    import torch

    from dreamlift.toybox.judging.judge import load_judge, understand
    from dreamlift.toybox.judging.score import score_mesh

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # numba changes it when it loads
    row: dict[str, Any] = {name: getattr(task, name) for name in ("preset", "prompt", "seed", "key")}
    try:
        mesh, pictures, further = true_thing(task) if task.preset == TRUTH else lifted(task)
    except (RuntimeError, ValueError) as error:  # a run that diverged or left nothing is a result too
        return row | {"error": str(error).splitlines()[0]}
    scored = score_mesh(mesh, understand(task.prompt), load_judge()[0])
    if task.picture is not None:
        strip = torch.cat([pictures[side] for side in SIDES], dim=1).clamp(0, 1)
        Image.fromarray((strip.numpy() * 255).round().astype(np.uint8)).save(task.picture)
    figures = asdict(scored.score) | further
    plain = {name: None if math.isnan(value) else round(value, 4) for name, value in figures.items()}
    code = (scored.embedding * 127.0).round().to(torch.int8).numpy().tobytes()
    return row | {"figures": plain, "embedding": base64.b64encode(code).decode()}


def lifted(task: Task) -> tuple[Mesh, Tensor, dict[str, float]]:
    """The mesh in a run's file, its pictures from 8 sides, and what the run has to say of itself."""
    from dreamlift.api import generate
    from dreamlift.export.glb import load_glb
    from dreamlift.export.psnr import psnr
    from dreamlift.texturing.draw import render_mesh

    begun = time.perf_counter()
    asset = generate(task.prompt, replace(CONFIGS[task.preset], seed=task.seed), progress=False)
    with tempfile.TemporaryDirectory() as folder:
        file = asset.save(Path(folder) / "asset.glb")
        seconds, mb, mesh = time.perf_counter() - begun, file.stat().st_size / 1e6, load_glb(file)
    pictures = render_mesh(mesh, asset.cameras, 1.0).rgb
    return mesh, pictures, {"seconds": seconds, "mb": mb, "psnr": psnr(pictures, asset.views)}


def true_thing(task: Task) -> tuple[Mesh, Tensor, dict[str, float]]:
    """The world's own thing in the asset's place, of a seed that no outline is compared with."""
    from dreamlift.cameras import turntable
    from dreamlift.texturing.draw import render_mesh
    from dreamlift.toybox.judging.judge import understand
    from dreamlift.toybox.world.things import make_thing
    from dreamlift.toybox.world.truth import mesh_of

    begun, told = time.perf_counter(), understand(task.prompt)
    hat = task.prompt.split(" hat")[0].split()[-1] if " wearing " in task.prompt else ""
    mesh = mesh_of(make_thing(told.category, told.color, 1000 + task.seed, told.attribute, hat, " box" in task.prompt))
    pictures = render_mesh(mesh, turntable(8, distance=2.9, fov_deg=42.0, size=SIZE), 1.0).rgb
    return mesh, pictures, {"seconds": time.perf_counter() - begun, "mb": math.nan, "psnr": math.nan}


def keep(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write the rows, one a line."""
    ordered = sorted(rows, key=lambda row: (row["preset"], row["seed"], row["prompt"], row["key"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, "[\n" + ",\n".join(json.dumps(row) for row in ordered) + "\n]\n")


def summary(rows: list[dict[str, Any]]) -> list[float]:
    """Means over the rows that have something to say, in the order of the columns, and the diversity."""

    import torch

    from dreamlift.toybox.judging.score import diversity

    def mean(values: list[float]) -> float:
        return fmean(values) if values else math.nan

    spreads = []
    for prompt in {row["prompt"] for row in rows}:
        codes = [row["embedding"] for row in rows if row["prompt"] == prompt]
        points = [np.frombuffer(base64.b64decode(code), np.int8).reshape(8, -1) / np.float32(127.0) for code in codes]
        if len(points) > 1:
            spreads.append(diversity([torch.from_numpy(each) for each in points]))
    found = [[row["figures"][name] for row in rows if row["figures"][name] is not None] for name in COLUMNS]
    return [*map(mean, found), mean(spreads)]


def save_picture(folder: Path, presets: list[str], prompts: list[str]) -> None:
    """``methods.png``: each preset's files of the prompts, seed 0, where they were drawn."""
    width = len(SIDES) * SIZE
    sheet = Image.new("RGB", (110 + len(prompts) * width, len(presets) * SIZE), "white")
    pen = ImageDraw.Draw(sheet)
    for row, preset in enumerate(presets):
        pen.text((4, row * SIZE + SIZE // 2), preset, fill="black")
        for column, prompt in enumerate(prompts):
            file = folder / f"{preset}-{slugify(prompt)}.png"
            if file.is_file():
                sheet.paste(Image.open(file), (110 + column * width, row * SIZE))
    sheet.save(folder / "methods.png")


if __name__ == "__main__":
    main()
