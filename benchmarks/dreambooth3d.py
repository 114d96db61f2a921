"""How near is the asset of a few photos to their subject? Subjects whose truth is known, by the preset dreambooth3d-toy.

    python benchmarks/dreambooth3d.py [--subjects 6] [--jobs 2] [--sheet assets.png]
    python benchmarks/dreambooth3d.py --subjects 1 --quick            # a look: few steps, rows of its own

Six things of the procedural world, whose kinds the prior knows and whose looks no words name: the colours of their parts are
permuted, and three have half of their parts from another thing of the kind. Five photos each, from azimuths of -60 to 60
degrees, each in its own light, before a plain backdrop; the cameras are told. Rows:

    the preset           the asset of the whole run
    its pseudo views     the repainted pictures, at their own cameras
    words                the text prior's asset for the best words, the kind and its main colour, by the preset magic3d-toy,
                         whose two stages are the last two of dreambooth3d-toy
    nearest photo        the photo with the nearest camera, in place of each view and placed as the truth is
    partial alone        the partial tuning's weights, lifted: the first stages and a mesh
    full alone           the full tuning's weights, lifted (the paper's DreamBooth+Fusion)
    on a wooden box      the final weights in a context, against the subject in that context;
    wearing a blue hat   only kinds with a head

    PSNR     of eight views at other cameras over a plain backdrop, 64 pixels, after the fit of scale and shift
    IoU      of the volumes after that fit (pictures have none, and are not fitted)
    cosine   of the judge's embeddings of the view and of the truth
    azimuth  error by the judge, degrees, median of the views; not of the house, whose sides are alike
    kind     share of the views in which the judge sees the right kind
    drift    share of eight pictures of "a red KIND", drawn by the final weights, in which the judge sees this kind and colour
             (in the row "words": by the untuned prior)

Rows are kept in benchmarks/results/dreambooth3d.json and made again only where the settings or the weights have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from held_out import FIRST, photo_camera, photograph
from processes import in_processes, keep

from dreamlift.apps.presets import find_preset
from dreamlift.config.build import config_hash
from dreamlift.config.schema import Config
from dreamlift.config.subject import in_context, with_subject
from dreamlift.presets.toybox import PALE
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.loading.sources import locate, revision_of
from dreamlift.reading.photos import Photo
from dreamlift.stages.finetune import Finetune
from dreamlift.stages.lift import Lift
from dreamlift.stages.repaint import Repaint

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from dreamlift.toybox.world.parts import Rgb
    from dreamlift.toybox.world.things import Thing
    from dreamlift.types import Cameras, Mesh

RESULTS = Path(__file__).parent / "results" / "dreambooth3d.json"
SUBJECTS = (("duck", False), ("robot", False), ("house", False), ("rabbit", True), ("train", True), ("snowman", True))
"""Their kinds, and whether half of the parts are those of another thing of the kind."""
CONTEXTS = ("on a wooden box", "wearing a blue hat")
AZIMUTHS, SIDE, FOV_DEG, VIEW = (-60, -30, 0, 30, 60), 256, 45.0, 64  # of the photos, degrees and pixels; of a compared view
BACKDROP = (0.86, 0.88, 0.90)
FIGURES = {"psnr": 1, "iou": 3, "cosine": 3, "azimuth": 0, "kind": 2, "drift": 2, "seconds": 0}
QUICK = {Lift: 6, Finetune: 2}


class Subject(NamedTuple):
    """One subject."""

    kind: str
    seed: int
    mixed: bool

    def thing(self, context: str = "") -> Thing:
        """The subject, in a context: its colours are permuted, those of the hat and the box are not."""
        from dreamlift.toybox.world.things import COLORS, fitted, make_thing

        hat, box = ("blue" if "hat" in context else ""), "box" in context
        made = make_thing(self.kind, "red", self.seed, hat=hat, box=box)
        other = {part.name: part for part in make_thing(self.kind, "red", self.seed + 1).parts}
        parts, colors = list(made.parts), list(COLORS.values())
        own = [part for part in make_thing(self.kind, "red", self.seed).parts if not part.name.startswith("hat")]
        order = np.random.default_rng([self.seed, 0xC0]).permutation(len(colors))
        new = {rgb: colors[order[place % len(colors)]] for place, rgb in enumerate(dict.fromkeys(part.rgb for part in own))}
        names = {part.name for part in own}
        for place, part in enumerate(parts):
            if part.name in names:
                shape = other[part.name].shape if self.mixed and place % 2 and part.name in other else part.shape
                parts[place] = replace(part, rgb=new[part.rgb], shape=shape)
        return fitted(replace(made, parts=tuple(parts), center=(0.0, 0.0, 0.0), scale=1.0))

    @property
    def main_color(self) -> str:
        """The name of the body's colour."""
        from dreamlift.toybox.world.things import COLORS

        return next(name for name, rgb in COLORS.items() if rgb == self.thing().parts[0].rgb)


class Task(NamedTuple):
    """All rows of one subject."""

    subject: Subject
    config: Config
    key: str
    pictures: Path
    quick: bool


def main() -> None:
    arguments = parsed()
    known = {row["key"]: row for row in json.loads(arguments.results.read_text())} if arguments.results.is_file() else {}
    tasks = [task_of(arguments, index) for index in range(arguments.subjects)]
    for found in measured([task for task in tasks if f"{task.key} the preset" not in known], arguments.jobs):
        known |= {row["key"]: row for row in found}
        keep(arguments.results, known.values(), lambda row: row["key"])
    keys = {task.key for task in tasks}
    if arguments.sheet:
        sheet([task.pictures for task in tasks]).save(arguments.sheet, optimize=True)
    print(table([row for row in known.values() if row["key"].split(" ")[0] in keys]))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=len(SUBJECTS), choices=range(1, len(SUBJECTS) + 1))
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the rows are kept")
    parser.add_argument("--pictures", type=Path, default=Path("outputs/dreambooth3d"), help="photos, weights, views of assets")
    parser.add_argument("--jobs", type=int, default=1, help="subjects at a time, each on its share of the cores")
    parser.add_argument("--sheet", type=Path, help="PNG: assets alone and in contexts, each above its truth; of new rows")
    return parser.parse_args()


def sheet(folders: list[Path]) -> Image.Image:
    """The views of the subjects' assets, alone and in contexts, each above its truth's, one below the other."""
    from PIL import Image

    names = ["preset", *(context.replace(" ", "-") for context in CONTEXTS)]
    files = [file for folder in folders for name in names if (file := folder / f"{name}.png").is_file()]
    rows = [Image.open(file).convert("RGB") for file in files]
    found, down = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white"), 0
    for row in rows:
        found.paste(row, (0, down))
        down += row.height
    return found


def subject_of(index: int) -> Subject:
    """The ``index``-th of :data:`SUBJECTS`."""
    kind, mixed = SUBJECTS[index]
    return Subject(kind, FIRST + 100 * index, mixed)


def task_of(arguments: argparse.Namespace, index: int) -> Task:
    """The run of the ``index``-th subject; its photos are written unless they are there."""
    subject = subject_of(index)
    kind = subject.kind
    folder = arguments.pictures / (f"{kind}-quick" if arguments.quick else kind)
    photos = tuple(save_photo(subject, number, folder) for number in range(len(AZIMUTHS)))
    config = replace(with_subject(find_preset("dreambooth3d-toy"), kind), photos=photos)
    config = quicker(config) if arguments.quick else config
    named = tuple(replace(photo, path=f"{kind} {number}") for number, photo in enumerate(photos))
    weights = hashlib.sha256(revision_of(locate("toybox")).encode()).hexdigest()[:16]
    return Task(subject, config, config_hash(replace(config, photos=named))[:16] + weights, folder, arguments.quick)


def quicker(config: Config) -> Config:
    """The config with few steps and few views."""
    stages = [replace(stage, steps=QUICK[type(stage)]) if type(stage) in QUICK else stage for stage in config.stages]
    stages = [replace(stage, class_count=4) if isinstance(stage, Finetune) else stage for stage in stages]
    stages = [replace(stage, views=3) if isinstance(stage, Repaint) else stage for stage in stages]
    return replace(config, stages=tuple(stages), mesh=replace(config.mesh, resolution=48, faces=1000, texture_size=128))


def save_photo(subject: Subject, number: int, folder: Path) -> Photo:
    """One photo with its camera: a plain backdrop, its own light."""
    from PIL import Image

    from dreamlift.toybox.world.render import sample_lighting

    rng = np.random.default_rng([subject.seed, number, 0xF0])
    azimuth, elevation = math.radians(AZIMUTHS[number]), math.radians(rng.uniform(-5.0, 40.0))
    file = folder / f"photo-{number}.png"
    if not file.is_file():
        thing, light = subject.thing(), sample_lighting(rng, azimuth)
        seen = photograph(thing, photo_camera(thing, azimuth, elevation, FOV_DEG, SIDE), light)[0].numpy()
        rgb = seen[..., :3] * seen[..., 3:] + (1.0 - seen[..., 3:]) * np.array(BACKDROP)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((rgb * 255).round().astype(np.uint8)).save(file)
    return Photo(str(file), azimuth_deg=AZIMUTHS[number], elevation_deg=round(math.degrees(elevation), 1))


def measured(tasks: list[Task], jobs: int) -> Any:
    """The rows of each task, as they are ready."""
    for number, found in enumerate(in_processes(measure, tasks, jobs), 1):
        print(f"{number}/{len(tasks)} {found[0]['subject']}: {found[0]['figures']}", flush=True)
        yield found


def measure(task: Task) -> list[dict[str, Any]]:
    """All rows of one subject."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    subject, truth = task.subject, task.subject.thing()
    begun = time.perf_counter()
    mesh, pseudo, shelf = whole(task)
    found = {"the preset": against(mesh, truth, task, "preset") | {"seconds": time.perf_counter() - begun}}
    found["the preset"] |= {"drift": drift(PriorChoice(str(shelf / "final")), subject.kind)}
    found["its pseudo views"] = pictures(pseudo.rgb, pseudo.cameras, truth, subject.kind, PALE.color)
    found["nearest photo"] = pictures(*nearest(task, truth), truth, subject.kind)
    words = f"a {subject.main_color} {subject.kind}"
    plain = replace(find_preset("magic3d-toy"), prompt=words)
    found["words"] = against(lifted(quicker(plain) if task.quick else plain), truth, task, "words")
    found["words"] |= {"drift": drift(PriorChoice(), subject.kind)}
    for name in ("partial", "full"):
        found[f"{name} alone"] = against(lifted(alone(task.config, shelf / name)), truth, task, name)
    for context in CONTEXTS:
        try:
            there = subject.thing(context)
        except ValueError:  # no head for a hat
            continue
        config = in_context(task.config, shelf.parent, context)
        found[context] = against(lifted(config), there, task, context)
    rows = []
    for label, figures in found.items():
        plain_figures = {name: None if math.isnan(value) else round(value, 4) for name, value in figures.items()}
        rows.append({"label": label, "subject": subject.kind, "key": f"{task.key} {label}", "figures": plain_figures})
    return rows


def whole(task: Task) -> tuple[Mesh, Any, Path]:
    """The asset of the run, its pseudo views, and the folder of its weights."""
    from dreamlift.lifting import finish, lift, load, resolve
    from dreamlift.stages.tuned import Shelf
    from dreamlift.types import StageBegan

    folder, pseudo = task.pictures / "tuned", None
    job = load(resolve(task.config), shelf=Shelf(folder))
    for event in lift(job):
        if isinstance(event, StageBegan) and event.handover.pictures is not None:
            pseudo = event.handover.pictures
    return finish(job).mesh, pseudo, folder


def alone(config: Config, folder: Path) -> Config:
    """The preset's last lifts by one set of weights, without its pseudo views."""
    *_, field, mesh = config.stages
    prior = PriorChoice(str(folder.resolve()))
    stages = tuple(replace(stage.with_choices((prior,)), photometric=None) for stage in (field, mesh))
    return replace(config, stages=stages, photos=(), subject=None)


def lifted(config: Config) -> Mesh:
    from dreamlift.api import generate

    return generate(config.prompt, config, progress=False).mesh


def against(mesh: Mesh, truth: Thing, task: Task, name: str) -> dict[str, float]:
    """The figures of an asset; its views beside the truth's are drawn."""
    import torch

    from dreamlift.export.video import contact_sheet
    from dreamlift.texturing.draw import render_mesh
    from dreamlift.toybox.judging.volume import fit_volume

    fit = fit_volume(mesh, truth.occupancy)
    mesh = replace(mesh, vertices=fit.apply(mesh.vertices))
    cameras = views()
    drawn = render_mesh(mesh, cameras, torch.tensor(BACKDROP)).rgb
    sheet = torch.cat([drawn, seen(truth, cameras)])
    (task.pictures / f"{name.replace(' ', '-')}.png").write_bytes(contact_sheet(sheet, columns=8))
    return {"iou": fit.iou, **pictures(drawn, cameras, truth, task.subject.kind)}


def views() -> Cameras:
    """Eight cameras that took no photo."""
    import torch

    from dreamlift.cameras import orbit_cameras

    azimuth = torch.deg2rad(22.5 + 45.0 * torch.arange(8))
    elevation = torch.deg2rad(torch.tensor([0.0, 30.0] * 4))
    ones = torch.ones(8)
    return orbit_cameras(azimuth, elevation, 2.6 * ones, math.radians(FOV_DEG) * ones, VIEW)


def seen(truth: Thing, cameras: Cameras, backdrop: Rgb = BACKDROP) -> Tensor:
    """The truth in the default light ``(B, S, S, 3)``."""
    import torch

    from dreamlift.toybox.world.render import Background, Lighting, render

    with torch.inference_mode():
        return render(truth, cameras, Lighting(), Background(backdrop, backdrop)).rgb.clone()


def pictures(drawn: Tensor, cameras: Cameras, truth: Thing, kind: str, backdrop: Rgb = BACKDROP) -> dict[str, float]:
    """The figures of pictures ``(B, S, S, 3)`` from ``cameras``, over a backdrop."""
    import torch

    from dreamlift.export.psnr import psnr
    from dreamlift.toybox.judging.judge import azimuth_error_deg, load_judge
    from dreamlift.toybox.world.truth import is_asymmetric

    judge, wanted = load_judge()[0], seen(truth, cameras, backdrop)
    verdict, right = judge.judge(drawn), judge.judge(wanted)
    named = verdict.category.argmax(dim=1) == judge.categories.index(kind)
    error = azimuth_error_deg(verdict.azimuth, cameras.azimuth).median() if is_asymmetric(kind) else math.nan
    return {
        "psnr": fmean(psnr(a, b) for a, b in zip(drawn, wanted, strict=True)),
        "cosine": float(torch.nn.functional.cosine_similarity(verdict.embedding, right.embedding).mean()),
        "azimuth": float(error), "kind": float(named.float().mean()),
    }  # fmt: skip


def nearest(task: Task, truth: Thing) -> tuple[Tensor, Cameras]:
    """For each view the photo with the nearest camera, placed in its frame as the truth is, and the views' cameras."""
    import torch

    from dreamlift.cameras import view_angles
    from dreamlift.images.photos import cameras_of, read_photos
    from dreamlift.toybox.world.render import Lighting

    photos, cameras, found = task.config.photos, views(), []
    masks = photograph(truth, cameras, Lighting())[..., 3] > 0.5
    for mask, number in zip(masks, view_angles(cameras, cameras_of(photos, VIEW)).argmin(dim=1).tolist(), strict=True):
        place = torch.nonzero(mask).float()
        low, high = place.amin(dim=0), place.amax(dim=0) + 1.0
        down, right = (0.5 * (low + high) / VIEW - 0.5).tolist()
        placed = replace(photos[number], ratio=float((high - low).max()) / VIEW, shift=(right, down))
        picture = read_photos((placed,), side=VIEW)
        found.append(picture.rgb[0] * picture.alpha[0] + (1.0 - picture.alpha[0]) * torch.tensor(BACKDROP))
    return torch.stack(found), cameras


def drift(choice: PriorChoice, kind: str) -> float:
    """The share of eight pictures of "a red KIND" in which the judge sees this kind and colour."""
    from dreamlift.toybox.judging.judge import load_judge
    from dreamlift.toybox.world.things import COLORS

    judge = load_judge()[0]
    verdict = judge.judge(sides_of(choice, f"a red {kind}")[0])
    kinds, colors = verdict.category.argmax(dim=1), verdict.color.argmax(dim=1)
    right = (kinds == judge.categories.index(kind)) & (colors == list(COLORS).index("red"))
    return float(right.float().mean())


def sides_of(choice: PriorChoice, prompt: str) -> tuple[Tensor, Cameras]:
    """What a prior draws of ``prompt`` from eight sides ``(8, S, S, 3)``, each from noise of its own, and their cameras."""
    import torch

    from dreamlift.priors.kinds import find
    from dreamlift.system.streams import random_stream
    from dreamlift.tuning.class_pictures import ClassPicture, cameras_of, draw, split

    prior = find(choice).load(torch.device("cpu"))
    wanted = [ClassPicture("", prompt, 45.0 * number, 15.0) for number in range(8)]
    text = dict(zip((prompt, ""), split(prior.embed_text([prompt, ""])), strict=True))
    cameras = cameras_of(wanted, prior)
    assert cameras is not None
    return draw(prior, wanted, text, [random_stream("sides", number) for number in range(8)], True), cameras


def table(rows: list[dict[str, Any]]) -> str:
    """The means over the subjects, as a table in Markdown."""
    lines = [f"| row | subjects | {' | '.join(FIGURES)} |", "|---" * (2 + len(FIGURES)) + "|"]
    order = ("the preset", "its pseudo views", "nearest photo", "words", "partial alone", "full alone", *CONTEXTS)
    for label in order:
        own = [row["figures"] for row in rows if row["label"] == label]
        cells = []
        for name, digits in FIGURES.items():
            values = [figures[name] for figures in own if figures.get(name) is not None]
            cells.append(f"{fmean(values):.{digits}f}" if values else "-")
        lines.append(f"| {label} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
