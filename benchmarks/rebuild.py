"""Does SDS alone rebuild a known object? The teacher is the exact score of 24 posed renders, so no network is involved.

    python benchmarks/rebuild.py

For a teapot, a chair, a mug and a table of the toy world: intersection over union of the occupancy at 48^3 against the
true one, and PSNR on 12 held-out views. The blob that every run starts from is measured first, as the floor. The mug has
settings of its own.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace

import torch

from dreamlift.system.startup import tune_process

tune_process()

from dreamlift.cameras import PosedCameras, fibonacci_cameras, orbit_cameras  # noqa: E402
from dreamlift.config.schema import Config  # noqa: E402
from dreamlift.guidance.sds import SDS  # noqa: E402
from dreamlift.lifting import lift, load, resolve  # noqa: E402
from dreamlift.meshing.isosurface import find_threshold  # noqa: E402
from dreamlift.meshing.solid import solidity  # noqa: E402
from dreamlift.presets.toybox import FIELD  # noqa: E402
from dreamlift.priors.choice import PriorChoice  # noqa: E402
from dreamlift.priors.exact.empirical import EmpiricalPrior  # noqa: E402
from dreamlift.prompts import NoViews  # noqa: E402
from dreamlift.scenes.background import Solid  # noqa: E402
from dreamlift.scenes.base import Scene  # noqa: E402
from dreamlift.scenes.nerf.field import Blob  # noqa: E402
from dreamlift.scenes.nerf.scene import Nerf  # noqa: E402
from dreamlift.scenes.nerf.voxel import Voxel  # noqa: E402
from dreamlift.schedules import Linear  # noqa: E402
from dreamlift.stages.lift import Lift  # noqa: E402
from dreamlift.stages.settings import Adam, Weights  # noqa: E402
from dreamlift.stages.teacher import Teacher  # noqa: E402
from dreamlift.system.streams import random_stream  # noqa: E402
from dreamlift.toybox.world.render import Background, render  # noqa: E402
from dreamlift.toybox.world.things import COLORS, Thing, make_thing  # noqa: E402
from dreamlift.toybox.world.truth import cell_centers  # noqa: E402
from dreamlift.types import Cameras, Step  # noqa: E402

GREY = (0.5, 0.5, 0.5)
SIZE = 96  # pixels of the posed renders
LIFT = replace(
    FIELD,
    steps=400,
    scene=Nerf(
        field=Voxel((25, 49, 97), (0.0, 0.0, 0.2), activation="exp", blob=Blob("cone", 3.0, 0.6), lr=0.1),
        background=Solid(GREY),
        samples_per_ray=96,
    ),
    teachers=(Teacher(None, SDS(guidance_scale=1.0, t_min=0.02, t_max=Linear(0.98, 0.3), weighting="x0"), NoViews()),),
    weights=Weights(sparsity=30.0, opaque=Linear(0.0, 100.0, 0.5, 1.0), distortion=Linear(0.0, 200.0, 0.3, 0.7), tv=1.0),
    adam=Adam(lr_scale=Linear(1.0, 0.05, 0.3, 1.0)),
)
# The mug's cavity is found from an all but empty start, and its floor needs more smoothness than the table's legs bear.
MUG = replace(
    LIFT,
    steps=600,
    scene=replace(LIFT.scene, samples_per_ray=128, field=Voxel(activation="exp", blob=Blob("cone", 0.0, 0.6), lr=0.1)),
    weights=replace(LIFT.weights, tv=40.0),
)
STAGES = {"mug": MUG}  # of the others: LIFT


@torch.no_grad()
def iou_of(scene: Scene, thing: Thing, size: int = 48) -> float:
    """Occupancy IoU at ``size^3``; what is solid is found as for a mesh, without a look at the truth."""
    points = cell_centers(size)
    density = scene.density(points).view(size, size, size)
    cell = 2.0 / size
    inside = solidity(density, cell, find_threshold(density, cell)).flatten() > 0.5
    truth = thing.occupancy(points)
    return float((inside & truth).sum() / (inside | truth).sum())


@torch.no_grad()
def psnr_of(scene: Scene, thing: Thing, count: int = 12) -> float:
    """Mean PSNR in dB over held-out views."""
    cameras = fibonacci_cameras(count, -5.0, 55.0, 2.7, 45.0, 64)
    truth = render(thing, cameras, background=Background(GREY, GREY)).rgb
    scene.eval()
    picture = scene.render(cameras, random_stream("held-out")).rgb
    scene.train()
    return float((-10 * torch.log10((picture - truth).square().mean((1, 2, 3)))).mean())


def known_object(category: str, color: str) -> Thing:
    """One thing of the toy world.

    The mug is a short one, spotted inside and out. From outside an evenly coloured cavity looks the same as a full mug
    with a lid of that colour, and the bottom of a deep one is hardly seen.
    """
    if category != "mug":
        return make_thing(category, color, 7)
    mug = make_thing(category, color, 7, "short")
    parts = tuple(replace(part, rgb=COLORS[color]) if part.name == "inside" else part for part in mug.parts)
    return replace(mug, parts=parts, finish="spotted")


def posed(count: int, low_deg: float = -50.0, high_deg: float = 85.0) -> Cameras:
    """``count`` cameras on a spiral, even in elevation: more of them look from above and below than by area."""
    turn = torch.arange(count) + 0.5
    azimuth = torch.remainder(turn * math.pi * (3.0 - math.sqrt(5.0)), 2.0 * math.pi) - math.pi
    elevation = torch.deg2rad(low_deg + (high_deg - low_deg) * turn / count)
    ones = torch.ones(count)
    return orbit_cameras(azimuth, elevation, 2.7 * ones, math.radians(45.0) * ones, SIZE)


def rebuild(category: str, stage: Lift, pictures: int = 24, color: str = "red") -> tuple[Scene, Thing]:
    """Lift one thing of the toy world from the exact score of its renders."""
    thing, cameras = known_object(category, color), posed(pictures)
    prior = EmpiricalPrior(render(thing, cameras, background=Background(GREY, GREY)).rgb, cameras)
    teacher = replace(stage.teachers[0], prior=PriorChoice.of(prior))
    stage = replace(stage, cameras=PosedCameras(cameras, 2), teachers=(teacher,))
    job = load(resolve(Config(prompt=f"a {color} {category}", device="cpu", stages=(stage,))))
    for event in lift(job):
        if isinstance(event, Step) and event.note:
            print(event.note)
    return job.work.scenes[0], thing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--categories", nargs="+", default=["teapot", "chair", "mug", "table"])
    parser.add_argument("--steps", type=int, help="default: 400, of the mug 600")
    arguments = parser.parse_args()
    print(f"{'object':10s} {'start IoU':>9s} {'IoU':>6s} {'PSNR dB':>8s} {'s':>6s}")
    for category in arguments.categories:
        begun = time.perf_counter()
        stage = STAGES.get(category, LIFT)
        stage = replace(stage, steps=arguments.steps or stage.steps)
        scene, thing = rebuild(category, stage)
        seconds = time.perf_counter() - begun
        blank = stage.scene.build(random_stream(0))
        print(f"{category:10s} {iou_of(blank, thing):9.2f} {iou_of(scene, thing):6.3f} "
              f"{psnr_of(scene, thing):8.1f} {seconds:6.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
