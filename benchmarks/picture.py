"""How good are the assets made from one photo? Objects whose truth is known, lifted by the shipped presets.

    python benchmarks/picture.py [--counts 16 8 4] [--cameras told estimated] [--jobs 2]
    python benchmarks/picture.py --counts 2 1 1 --cameras told               # a look
    python benchmarks/picture.py --cameras told --elevation-error 20         # what a wrong elevation costs
    python benchmarks/picture.py --cameras told --angle-weight 0             # what the angle weight buys; so --mask-weight 0
    python benchmarks/picture.py --cameras told --no-place                   # colours in place of places
    python benchmarks/picture.py --cameras told -- --stages.1.weights.normal_consistency 0

16 toys, 8 composites and 4 things of kinds that the view-conditioned prior was not taught, none of them in a training set;
photos from -10 to 50 degrees above level and from any side, with a clean mask. "told": the run is given the elevation;
"estimated": it is not. Everything is compared in the photo's frame, in which its camera is at azimuth 0:

    IoU       of the volumes, on a grid of 64^3 over the bounding sphere's cube; scale and shift fitted, no rotation
    Chamfer   symmetric mean distance of the surfaces after that fit; the true radius is 0.85
    dB, SSIM  of eight other views after that fit, 128 pixels over white, in the photo's light
    front     PSNR of the file at the photo's camera as the run knows it, without a fit, 256 pixels over white

"hull" is the photo's silhouette alone: the cone of its rays between two planes, as far apart as the silhouette's shorter side
is long; "inflated" the same, as deep as a ball is over a disk (benchmarks/solids.py). Both know the photo's camera.

Rows are kept in benchmarks/results/picture.json and made again only where the settings or the prior's weights have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from held_out import GROUPS, Held, held_object, photo_camera, photograph
from processes import in_processes, keep

from dreamlift.apps.presets import find_preset
from dreamlift.config.build import config_hash
from dreamlift.config.schema import Config
from dreamlift.config.short import override
from dreamlift.priors.loading.sources import locate, revision_of
from dreamlift.reading.photos import Photo
from dreamlift.stages.base import Stage, with_priors
from dreamlift.stages.lift import Lift

if TYPE_CHECKING:
    from torch import Tensor

    from dreamlift.types import Cameras, Mesh

RESULTS = Path(__file__).parent / "results" / "picture.json"
SOLIDS = ("hull", "inflated")
FIGURES = ("iou", "chamfer", "psnr", "ssim", "front_psnr", "front_ssim", "seconds", "memory_gb", "elevation_error")
FOV_DEG, SIZE = 45.0, 256  # of the photos
VIEW_SIZE, SURFACE = 128, 96  # pixels of a compared view; cells of the true surface


class Task(NamedTuple):
    """One object by one method."""

    label: str  # such as "zero123-toy told"
    group: str
    index: int
    config: Config | None  # None: a silhouette's solid
    key: str  # of its settings and of the priors' weights
    picture: Path | None  # where the asset is drawn
    judged: str = ""  # the caption by which the judge looks at the asset; "": it does not


class Shot(NamedTuple):
    """How an object was photographed."""

    azimuth: float  # radians
    elevation: float  # radians
    camera: Cameras
    photo: Tensor  # (S, S, 4)
    light: Any


def shot_of(held: Held, index: int) -> Shot:
    """The photo of the ``index``-th object of its group: elevations are spread evenly over -10 to 50 degrees."""
    from dreamlift.toybox.world.render import sample_lighting

    rng = np.random.default_rng([held.seed, 0x12])
    azimuth = float(rng.uniform(-math.pi, math.pi))
    elevation = math.radians(-10.0 + 60.0 * (((index + 0.5) * 0.6180339887) % 1.0))
    camera, light = photo_camera(held.thing, azimuth, elevation, FOV_DEG, SIZE), sample_lighting(rng, azimuth)
    return Shot(azimuth, elevation, camera, photograph(held.thing, camera, light)[0], light)


def main() -> None:
    arguments = parsed()
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    tasks = [task for label in SOLIDS for task in tasks_of(arguments, label)] if arguments.solids else []
    tasks += [task for camera in arguments.cameras for task in tasks_of(arguments, camera)]
    print(table(completed(tasks, arguments.results, arguments.jobs)))


def completed(tasks: list[Task], results: Path, jobs: int) -> list[dict[str, Any]]:
    """The rows of ``tasks``; those that the file ``results`` lacks are measured and added to it."""
    rows = {row["key"]: row for row in json.loads(results.read_text())} if results.is_file() else {}
    for row in measured([task for task in tasks if task.key not in rows], jobs):
        rows[row["key"]] = row
        keep(results, rows.values(), lambda row: (row["label"], row["group"], row["index"], row["key"]))
    return [rows[task.key] for task in tasks]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs=3, default=(16, 8, 4), help=f"objects of each group: {', '.join(GROUPS)}")
    parser.add_argument("--preset", default="zero123-toy")
    parser.add_argument("--cameras", nargs="*", choices=("told", "estimated"), default=("told", "estimated"))
    parser.add_argument("--named", action="store_true", help="the prompt is the object's caption; else there is none")
    parser.add_argument("--elevation-error", type=float, default=0.0, help="degrees added to the elevation that is told")
    parser.add_argument("--angle-weight", type=float, help="of all teachers")
    parser.add_argument("--mask-weight", type=float, help="of the photo's mask in all stages")
    parser.add_argument("--no-place", action="store_true", help="teachers show colours in place of places")
    parser.add_argument("--no-solids", dest="solids", action="store_false", help="without the silhouette's solids")
    parser.add_argument("--seed", type=int, default=0, help="of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the rows are kept")
    parser.add_argument(
        "--pictures", type=Path, default=Path("outputs/picture"), help="photos, and the assets from eight sides"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="after --, settings as of generate")
    return parser.parse_args()


def tasks_of(arguments: argparse.Namespace, method: str) -> Iterator[Task]:
    """The objects by one method: "told", "estimated", or one of the solids."""
    base, changes = (None, "") if method in SOLIDS else changed(find_preset(arguments.preset), arguments)
    for group, count in zip(GROUPS, arguments.counts, strict=True):
        for index in range(count):
            name, held = f"{group}-{index:02d}", held_object(group, index)
            if base is None:
                key = f"{method} {name}"
                yield Task(method, group, index, None, key, None)
                continue
            path = arguments.pictures / f"photo-{name}.png"
            shot_elevation = save_photo(held, index, path)
            wrong = arguments.elevation_error if method == "told" else 0.0
            told = min(89.0, shot_elevation + wrong) if method == "told" else None
            photo = replace(next(iter(base.photos), Photo(str(path))), path=str(path), mask="alpha", elevation_deg=told)
            prompt = held.caption if arguments.named else ""
            config = replace(base, photos=(photo,), prompt=prompt, seed=arguments.seed)
            label = f"{arguments.preset} {method}{f' {wrong:+g} deg' if wrong else ''}{changes}{' named' if prompt else ''}"
            yield Task(label, group, index, config, key_of(config, name), arguments.pictures / f"{label} {name}.png")


def save_photo(held: Held, index: int, path: Path) -> float:
    """Write the photo unless it is there; returns its elevation in degrees."""
    from PIL import Image

    shot = shot_of(held, index)
    if not path.is_file():
        Image.fromarray((shot.photo.numpy() * 255).round().astype(np.uint8)).save(path)
    return math.degrees(shot.elevation)


def changed(config: Config, arguments: argparse.Namespace) -> tuple[Config, str]:
    """The preset's config with the ablations, and what they are called."""
    stages, said = config.stages, ""
    if arguments.no_place:
        stages, said = tuple(map(without_places, stages)), said + " no places"
    if arguments.angle_weight is not None:
        stages = tuple(
            stage.with_teachers(tuple(replace(each, angle_weight=arguments.angle_weight) for each in stage.teachers))
            for stage in with_priors(stages)
        )
        said += f" angle {arguments.angle_weight:g}"
    if arguments.mask_weight is not None:
        stages = tuple(
            replace(stage, photometric=replace(stage.photometric, mask=arguments.mask_weight))
            if isinstance(stage, Lift) and stage.photometric else stage for stage in stages
        )  # fmt: skip
        said += f" mask {arguments.mask_weight:g}"
    config = replace(config, stages=stages)
    words = [word for word in arguments.settings if word != "--"]
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise SystemExit(f"after -- come settings with their values, such as --steps 100, not {' '.join(words)!r}")
    given = {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)}
    return override(config, given), said + "".join(f" {name} {value}" for name, value in given.items())


def without_places(stage: Stage) -> Stage:
    """The stage without the teachers that show places; if it has no others, they show colours."""
    others = tuple(teacher for teacher in stage.teachers if teacher.show != "place")
    return stage.with_teachers(others or tuple(replace(teacher, show="color") for teacher in stage.teachers))


def key_of(config: Config, name: str) -> str:
    """Of the settings (apart from where the photo lies), the object, and the priors' weights. Those of the text prior are among
    them where it may estimate the photo's camera."""
    priors = {"toybox"} if any(photo.elevation_deg is None for photo in config.photos) else set()
    priors |= {teacher.prior.name for stage in with_priors(config.stages) for teacher in stage.teachers if teacher.prior}
    revisions = "".join(sorted(revision_of(locate(prior)) for prior in priors))
    photos = tuple(replace(photo, path=name) for photo in config.photos)
    return config_hash(replace(config, photos=photos))[:16] + hashlib.sha256(revisions.encode()).hexdigest()[:16]


def measured(tasks: list[Task], jobs: int) -> Iterator[dict[str, Any]]:
    """The rows of ``tasks``, as they are ready."""
    for number, row in enumerate(in_processes(measure, tasks, jobs), 1):
        told = row.get("error") or " ".join(f"{name} {row['figures'][name]}" for name in FIGURES)
        print(f"{number}/{len(tasks)} {row['label']} {row['group']} {row['index']}: {told}", flush=True)
        yield row


def measure(task: Task) -> dict[str, Any]:
    """One object by one method: a row."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    row: dict[str, Any] = {name: getattr(task, name) for name in ("label", "group", "index", "key")}
    held = held_object(task.group, task.index)
    shot = shot_of(held, task.index)
    row |= {"kind": held.thing.category, "elevation": round(math.degrees(shot.elevation), 1)}
    try:
        figures = solid(task, held, shot) if task.config is None else lifted(task, task.config, held, shot)
    except (RuntimeError, ValueError) as error:  # a run that diverged or left nothing is a result too
        return row | {"error": str(error).splitlines()[0]}
    return row | {"figures": {name: None if math.isnan(value) else round(value, 4) for name, value in figures.items()}}


def lifted(task: Task, config: Config, held: Held, shot: Shot) -> dict[str, float]:
    """The figures of a run's file."""
    from dreamlift.api import generate
    from dreamlift.apps.front_view import compare_front
    from dreamlift.export.glb import load_glb
    from dreamlift.images.photos import read_photos

    begun = time.perf_counter()
    asset = generate(config.prompt, config, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        file = asset.save(Path(folder) / "asset.glb")
        seconds, mesh = time.perf_counter() - begun, load_glb(file)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    photo = asset.config.photos[0]
    front = compare_front(mesh, read_photos((photo,), side=SIZE), True).figures
    figures = compared(spun_mesh(mesh, -math.radians(photo.azimuth_deg)), held, shot, task.picture)
    error = abs((photo.elevation_deg or 0.0) - math.degrees(shot.elevation))
    own = {"front_psnr": front["front_psnr"], "front_ssim": front["front_ssim"], "elevation_error": error}
    return figures | own | {"seconds": seconds, "memory_gb": memory} | (judged(mesh, task.judged) if task.judged else {})


def judged(mesh: Mesh, caption: str) -> dict[str, float]:
    """What the judge says of an asset in the world's frame, in which the front is at azimuth 0."""
    from dreamlift.toybox.judging.judge import load_judge, understand
    from dreamlift.toybox.judging.score import around, rear, score_mesh

    judge, wanted = load_judge()[0], understand(caption)
    found = score_mesh(mesh, wanted, judge)
    sides = zip(found.seen_as, rear(around(len(found.seen_as)).azimuth).tolist(), strict=True)
    behind = [kind == wanted.category for kind, is_rear in sides if is_rear]
    score = found.score
    return {
        "category": score.category, "behind": fmean(behind), "shape": score.category_textureless,
        "front_from_behind": score.front_from_behind, "janus": score.janus, "azimuth": score.azimuth_error_deg,
    }  # fmt: skip


def solid(task: Task, held: Held, shot: Shot) -> dict[str, float]:
    """The figures of a silhouette's solid."""
    from solids import hull

    from dreamlift.apps.front_view import compare_front
    from dreamlift.types import Pictures

    mesh = hull(shot.photo, shot.camera, task.label == "inflated")
    picture = Pictures(shot.photo[None, ..., :3], shot.photo[None, ..., 3:], shot.camera)
    front = compare_front(mesh, picture, True).figures
    nothing = {"seconds": math.nan, "memory_gb": math.nan, "elevation_error": 0.0}
    own = {"front_psnr": front["front_psnr"], "front_ssim": front["front_ssim"]}
    return compared(spun_mesh(mesh, -shot.azimuth), held, shot, task.picture) | own | nothing


def compared(mesh: Mesh, held: Held, shot: Shot, picture: Path | None) -> dict[str, float]:
    """The figures of a mesh in the photo's frame against the truth."""
    import torch

    from dreamlift.apps.ssim import ssim
    from dreamlift.cameras import orbit_cameras
    from dreamlift.export.psnr import psnr
    from dreamlift.export.video import contact_sheet
    from dreamlift.meshing.isosurface import isosurface
    from dreamlift.texturing.draw import render_mesh
    from dreamlift.texturing.extract import sample_grid
    from dreamlift.toybox.judging.score import chamfer, sample_surface
    from dreamlift.toybox.judging.volume import fit_volume
    from dreamlift.types import Mesh

    fit = fit_volume(mesh, lambda points: held.thing.occupancy(spun(points, shot.azimuth)))
    mesh = replace(mesh, vertices=fit.apply(mesh.vertices))
    grid = sample_grid(lambda points: -held.thing.sdf(spun(points, shot.azimuth)), 1.0, SURFACE)
    vertices, faces = isosurface(grid, 0.0, -1.0, 1.0)
    true = Mesh(vertices.numpy(), faces.numpy().astype(np.int32))

    azimuth = torch.deg2rad(22.5 + 45.0 * torch.arange(8))
    elevation = torch.deg2rad(torch.tensor([0.0, 30.0] * 4))
    ones = torch.ones(8)
    views = (elevation, 2.6 * ones, math.radians(FOV_DEG) * ones, VIEW_SIZE)
    drawn = render_mesh(mesh, orbit_cameras(azimuth, *views)).rgb
    truth = photograph(held.thing, orbit_cameras(azimuth + shot.azimuth, *views), shot.light)
    wanted = truth[..., :3] * truth[..., 3:] + (1 - truth[..., 3:])
    if picture is not None:
        picture.write_bytes(contact_sheet(torch.cat([drawn, wanted]), columns=8))
    return {
        "iou": fit.iou, "scale": fit.scale, "chamfer": chamfer(sample_surface(mesh), sample_surface(true)),
        "psnr": fmean(psnr(a, b) for a, b in zip(drawn, wanted, strict=True)), "ssim": ssim(drawn, wanted),
    }  # fmt: skip


def spun(points: Tensor, angle: float) -> Tensor:
    """Points ``(N, 3)`` turned about the vertical axis, from azimuth 0 to ``angle`` (radians)."""
    import torch

    from dreamlift.cameras import turned

    return turned(points, torch.tensor(angle, dtype=torch.float64))


def spun_mesh(mesh: Mesh, angle: float) -> Mesh:
    """A mesh turned in the same way."""
    import torch

    normals = None if mesh.vertex_normals is None else spun(torch.from_numpy(mesh.vertex_normals), angle).numpy()
    return replace(mesh, vertices=spun(torch.from_numpy(mesh.vertices), angle).numpy(), vertex_normals=normals)


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The means, as a table in Markdown."""
    rows = list(rows)
    heads = ("IoU", "Chamfer", "dB, 8 views", "SSIM", "front dB", "front SSIM", "s", "GB", "elevation off, deg")
    lines = [f"| method | objects | {' | '.join(heads)} | failed |", "|---" * (3 + len(heads)) + "|"]
    for label in dict.fromkeys(row["label"] for row in rows):
        for group in GROUPS:
            own = [row for row in rows if (row["label"], row["group"]) == (label, group)]
            found = [row["figures"] for row in own if "figures" in row]
            cells = []
            for name in FIGURES:
                values = [figures[name] for figures in found if figures[name] is not None]
                digits = {"iou": 3, "chamfer": 4, "ssim": 3, "front_ssim": 3, "memory_gb": 2, "seconds": 0}.get(name, 1)
                cells.append(f"{fmean(values):.{digits}f}" if values else "-")
            if own:
                lines.append(f"| {label} | {len(own)} {group} | {' | '.join(cells)} | {len(own) - len(found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
