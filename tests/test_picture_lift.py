"""Lifting from one photo with an exact teacher, which renders the true thing: what the photo, the teacher, the angle weight and
steps without a teacher each bring."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from lift_helpers import generate_words, run_main, small_pictures
from PIL import Image
from stage_helpers import begun, steps_of

from dreamlift.cameras import PosedCameras, fibonacci_cameras, orbit_cameras
from dreamlift.config.schema import Config
from dreamlift.guidance.sds import SDS
from dreamlift.meshing.isosurface import find_threshold
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.prompts import NoViews
from dreamlift.scenes.background import Solid
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher
from dreamlift.system.streams import random_stream
from dreamlift.toybox.world.render import render
from dreamlift.toybox.world.things import make_thing
from dreamlift.toybox.world.truth import cell_centers
from dreamlift.types import Cameras, Pictures, Task

SIZE = 24
THING = make_thing("duck", "yellow", 5)
POOL = fibonacci_cameras(12, -20.0, 80.0, 2.6, 45.0, SIZE)  # few views, so that the teacher's pictures are rendered once


@cache
def seen(azimuth: float, elevation: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours over white ``(H, W, 3)`` and opacity of the true thing from a camera (radians)."""
    with torch.no_grad():
        made = render(THING, camera(azimuth, elevation), shading="albedo", supersample=1)
    return (made.albedo + 1 - made.opacity)[0], made.opacity[0]


def camera(azimuth: float, elevation: float) -> Cameras:
    return orbit_cameras(*torch.tensor([[azimuth], [elevation], [2.6], [math.radians(45.0)]]), SIZE)


class Exact(GaussianPrior):
    """Predicts the true thing's picture from each camera, in colours that ``fade`` mixes with grey."""

    def __init__(self, fade: float = 0.0) -> None:
        super().__init__(torch.zeros(1, 3, SIZE, SIZE), torch.ones(1))
        self.fade = fade

    def predict_noise(self, x_t, t, cond, guidance_scale=1.0):
        places = zip(cond.cameras.azimuth.tolist(), cond.cameras.elevation.tolist(), strict=True)
        rgb, opacity = (torch.stack(values) for values in zip(*(seen(*place) for place in places), strict=True))
        x0 = rgb + self.fade * opacity * (0.5 - rgb)
        alpha, sigma = self.schedule(t)
        return (x_t - alpha * x0.permute(0, 3, 1, 2)) / sigma


PHOTO = camera(0.0, math.radians(20.0))


def photo() -> Pictures:
    rgb, alpha = (values[None] for values in seen(0.0, math.radians(20.0)))
    return Pictures((rgb - 1 + alpha) / alpha.clamp_min(1e-6), alpha, PHOTO)


STAGE = Lift(
    steps=40,
    cameras=PosedCameras(POOL, 2),
    scene=Nerf(Voxel((17, 33), (0.0, 0.0), "exp", Blob("cone", 2.0, 0.5)), background=Solid(), samples_per_ray=24),
    teachers=(Teacher(None, SDS(1.0, 0.3, 0.6, weighting="x0"), NoViews()),),
    weights=Weights(),
    photometric=Photometric(rgb=200.0, mask=200.0, resolution=(SIZE,)),
)  # fmt: skip


def lifted(stage: Lift, prior: Exact | None = None) -> tuple[float, float]:
    """(IoU of the occupancy, PSNR in dB of the photo's view) after the stage."""
    work = begun(Config(stages=(stage,)), prior or Exact(), task=Task("a duck", photos=photo()))
    assert all(step.note == "" for step in steps_of(work))
    points, scene = cell_centers(32), work.scene.eval()
    with torch.no_grad():
        density = scene.density(points)
        front = scene.render(PHOTO, random_stream(), background=torch.ones(3)).rgb
    inside, truth = density > find_threshold(density.view(32, 32, 32), 2.0 / 32), THING.occupancy(points)
    error = float((front - seen(0.0, math.radians(20.0))[0]).square().mean())
    return float((inside & truth).sum() / (inside | truth).sum()), -10 * math.log10(error)


def test_the_photo_and_the_teacher_each_bring_what_the_other_lacks():
    # Measured: IoU and front view of both 0.87 and 27 dB, of the teacher alone 0.88 and 21 dB, of the photo alone 0.48, 32 dB.
    (shape, front), (taught, blurred), (flat, exact) = (
        lifted(stage) for stage in (STAGE, replace(STAGE, photometric=None), replace(STAGE, teachers=()))
    )
    assert min(shape, taught) > flat + 0.25
    assert min(front, exact) > blurred + 3.0
    assert shape > taught - 0.05


def test_the_angle_weight_leaves_the_photos_view_to_the_photo():
    """A teacher whose colours are faded spoils the front view unless its gradients vanish there; the shape stays."""
    (shape, front), (weighted_shape, weighted_front) = (
        lifted(replace(STAGE, teachers=(replace(STAGE.teachers[0], angle_weight=share),)), Exact(0.5)) for share in (0.0, 1.0)
    )
    assert weighted_front > front + 3.0
    assert weighted_shape > shape - 0.03


# The run's record


def test_run_json_states_the_photos_camera(cwd, stub, monkeypatch):
    small_pictures(monkeypatch)
    rgba = np.zeros((32, 32, 4), dtype=np.uint8)
    rgba[8:24, 8:24] = 255
    Image.fromarray(rgba, "RGBA").save(cwd / "mug.png")
    words = ["--photos=[{path: mug.png, azimuth_deg: 30, elevation_deg: 12}]", "--photometric={resolution: [16]}", "--steps=1"]
    assert run_main(*generate_words(stub, "out", *words)) == 0
    (stated,) = json.loads((cwd / "out" / "run.json").read_text())["photos"]
    assert stated["path"] == str(cwd / "mug.png")
    camera = {name: stated[name] for name in ("azimuth_deg", "elevation_deg", "distance", "fov_deg")}
    assert camera == {"azimuth_deg": 30.0, "elevation_deg": 12.0, "distance": 2.6, "fov_deg": 45.0}
