"""The camera and the placement of photos, against pictures whose truth is known by construction."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from view_helpers import save_port, save_view

from dreamlift.apps.cutout import with_cameras
from dreamlift.config.schema import Config
from dreamlift.guidance.sds import SDS
from dreamlift.images.camera import Viewpoint, find_viewpoint, prepared, prepared_photos
from dreamlift.images.camera_scores import difference_deg, estimate_camera, lowest, resampled, vertex, wrapped_deg
from dreamlift.images.placement import placed
from dreamlift.priors.base import Prior, cosine_schedule
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import find
from dreamlift.priors.zero123.lift import load_lift, save_lift
from dreamlift.prompts import Embeds, NoViews
from dreamlift.reading.photos import ELEVATION_DEG, Photo
from dreamlift.runs.progress import Silent
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.teacher import Teacher
from dreamlift.toybox.training.pairs import BLACK, framed, view_cameras
from dreamlift.toybox.world.render import Lighting, render
from dreamlift.toybox.world.things import make_thing
from dreamlift.types import Conditioning, TextStates

# The search for the camera


class Formula(Prior):
    """A prior whose one true picture is a formula of the camera; ``sides`` 2: it is the same after half a turn."""

    def __init__(self, sides: int = 1) -> None:
        self.sides, self.resolution, self.device, self.calls = sides, 8, torch.device("cpu"), 0

    def picture(self, azimuth, elevation):
        """``(B, 3, 8, 8)``"""
        phase = torch.linspace(0, 2 * math.pi, 64).view(8, 8)
        around = torch.cos(self.sides * azimuth[:, None, None] - phase)
        high = torch.sin(elevation[:, None, None] + 0.02 * phase)
        return torch.stack([around, high, around * 0.5], dim=1) * 0.3

    def encode(self, rgb):
        return rgb.permute(0, 3, 1, 2)

    def decode(self, latents):
        return latents.permute(0, 2, 3, 1)

    def embed_text(self, prompts):
        return TextStates(torch.zeros(len(prompts), 1, 1))

    def schedule(self, t):
        return cosine_schedule(t)

    def adapted(self, rank, targets, rng, camera_input="angles"):
        raise NotImplementedError

    def save_memory(self, memory):
        pass

    def predict_noise(self, x_t, t, cond, guidance_scale):
        self.calls += len(x_t)
        alpha, sigma = self.schedule(t)
        # A little of the noise is left in x0, so that no two draws agree exactly.
        x0 = self.picture(cond.cameras.azimuth, cond.cameras.elevation) + 0.02 * torch.sin(
            7 * x_t + 3 * cond.cameras.azimuth[0]
        )
        return (x_t - alpha * x0) / sigma


class Told(Embeds):
    def at(self, cameras, backdrops=(), show="color"):
        return Conditioning(torch.zeros(len(cameras), 1, 1), torch.zeros(len(cameras), 1, 1), cameras=cameras)


def taken(prior, azimuth, elevation):
    angles = (torch.tensor([math.radians(value)]) for value in (azimuth, elevation))
    return prior.decode(prior.picture(*angles))[0]


@pytest.mark.parametrize(("azimuth", "elevation"), [(-128.0, 31.0), (176.0, 4.0), (3.0, 55.0)])
def test_the_camera_is_found_where_the_prior_is_exact(azimuth, elevation):
    prior = Formula()
    found = estimate_camera(prior, Told(), taken(prior, azimuth, elevation), [azimuth + 7.0])
    assert difference_deg(torch.tensor(found.azimuth), torch.tensor(azimuth)) < 3.0
    assert found.elevation == pytest.approx(elevation, abs=3.0)
    assert found.agreement == 1.0
    assert found.sided
    assert found.steady
    assert -180.0 <= found.azimuth < 180.0
    assert 200 <= prior.calls <= 300


def test_a_camera_beyond_the_range_is_not_relied_upon():
    prior = Formula()
    found = estimate_camera(prior, Told(), taken(prior, 20.0, -40.0))
    assert found.elevation == -10.0
    assert not found.steady


def test_two_equal_sides_are_named_and_not_relied_upon():
    prior = Formula(sides=2)
    found = estimate_camera(prior, Told(), taken(prior, 40.0, 20.0), [-140.0])
    assert min(difference_deg(torch.tensor(found.azimuth), torch.tensor([40.0, -140.0]))) < 4.0
    apart = difference_deg(torch.tensor(found.azimuth), torch.tensor(found.second_azimuth))
    assert apart == pytest.approx(180.0, abs=8.0)


def test_minima_on_a_circle_and_of_a_parabola():
    around = torch.tensor([0.1, 0.5, 0.4, 0.9, 0.3, 0.8, 0.2])
    assert lowest(around, 3).tolist() == [0, 4, 2]  # 6 is lower than 4, but the neighbour of 0
    assert lowest(torch.tensor([3.0, 2.0, 1.0]), 2).tolist() == [2, 1]
    at = torch.tensor([-10.0, 0.0, 10.0, 20.0])
    errors = torch.stack([(at - 7.0).square(), at, -at, torch.zeros(4)])
    assert vertex(errors, at).tolist() == pytest.approx([7.0, -10.0, 20.0, -10.0 + 10.0])
    rows = torch.tensor([[0.0], [1.0]])
    means = resampled(rows.expand(2, 1), torch.Generator().manual_seed(0))
    assert set(means.flatten().tolist()) == {0.0, 0.5, 1.0}
    assert (wrapped_deg(190.0), wrapped_deg(-180.0), wrapped_deg(180.0)) == (-170.0, -180.0, -180.0)


# The placement


def ellipse(size, center, radius):
    """``(S, S, 4)``: a shaded ellipse, as a closed form; ``center`` and ``radius`` (longest) are parts of the side."""
    fine = 4 * size
    y, x = torch.meshgrid(*[(torch.arange(fine) + 0.5) / fine] * 2, indexing="ij")
    u, v = (x - center[0]) / radius, (y - center[1]) / (0.6 * radius)
    alpha = (u**2 + v**2 < 1).float()
    rgb = torch.stack([0.5 + 0.4 * torch.sin(3 * u), 0.4 + 0.3 * v, 0.3 + 0.2 * torch.cos(2 * u - v)], dim=-1).clamp(0, 1)
    both = torch.cat([rgb * alpha[..., None], alpha[..., None]], dim=-1).view(size, 4, size, 4, 4).mean(dim=(1, 3))
    return torch.cat([both[..., :3] / both[..., 3:].clamp_min(1e-6), both[..., 3:]], dim=-1)


@pytest.mark.parametrize(("center", "radius"), [((0.5, 0.5), 0.30), ((0.47, 0.53), 0.36), ((0.56, 0.44), 0.22)])
def test_an_object_is_placed(center, radius):
    reference, wanted, backdrop = ellipse(128, (0.5, 0.5), 0.39), ellipse(64, center, radius), torch.tensor([0.9, 1.0, 0.8])
    over = wanted[..., :3] * wanted[..., 3:] + (1 - wanted[..., 3:]) * backdrop
    found = placed(reference, backdrop, 2 * radius, (center[0] - 0.5, center[1] - 0.5))
    assert (found - over).abs().mean() < 0.01


# What a run gets


@pytest.fixture(scope="module")
def car(tmp_path_factory):
    """A photo of a car from azimuth -50, elevation 25, and a truth that no network has a part in."""
    thing, path = make_thing("car", "red", 5), tmp_path_factory.mktemp("photo") / "car.png"
    around = torch.tensor([math.radians(-50.0)]), torch.tensor([math.radians(25.0)])
    with torch.inference_mode():
        camera = framed(thing, view_cameras(*around, 128), torch.tensor([0.78]), torch.zeros(1, 2))
        seen = render(thing, camera, Lighting(), BLACK)
    rgba = torch.cat([seen.rgb / seen.opacity.clamp_min(1e-6), seen.opacity], dim=-1)[0].clamp(0, 1)
    Image.fromarray((rgba.numpy() * 255).round().astype(np.uint8)).save(path)
    return path


def test_the_embedded_text_prior_sees_the_camera_of_a_named_toy(car):
    notes = []
    found = prepared(Photo(str(car)), "a red car", None, notes.append)
    assert found.elevation_deg == pytest.approx(25.0, abs=12.0)
    assert found.azimuth_deg == pytest.approx(-50.0, abs=20.0)
    assert (found.ratio, found.shift) == (0.78, (0.0, 0.0))  # nobody needs it placed
    assert len(notes) == 1
    assert "car.png: the photo's camera: azimuth" in notes[0]
    assert "estimated as a car; --azimuth and --elevation override" in notes[0]
    assert prepared(found, "a red car", None, notes.append) == found  # the numbers stand in config.yaml: nothing is left to do
    assert len(notes) == 1


def test_the_ratio_is_that_of_the_priors_frame(car, tmp_path, monkeypatch):
    """1.05 half sides per unit in the reference, of which the object takes 0.78: 0.74286 units to each side."""
    view, port = find(PriorChoice(str(save_view(tmp_path / "view")))), find(PriorChoice(str(save_port(tmp_path / "p", "kxic"))))
    asked = []

    def look(reference, prompt, azimuth, *_):
        asked.append((prompt, azimuth))
        return Viewpoint(azimuth or 30.0, 11.0)

    monkeypatch.setattr("dreamlift.images.camera.find_viewpoint", look)
    found = prepared(Photo(str(car)), "", view)
    # Half of the height at the origin, distance x tan(fov / 2), is 1.07696 here and 0.67004 below.
    assert (found.azimuth_deg, found.elevation_deg, found.shift) == (30.0, 11.0, (0.0, 0.0))
    assert found.ratio == pytest.approx(0.74286 / 1.07696, abs=1e-3)
    near = prepared(Photo(str(car), elevation_deg=5.0, azimuth_deg=7.0, distance=4.2, fov_deg=23.0), "", view)
    assert (near.azimuth_deg, near.elevation_deg) == (7.0, 5.0)
    assert near.ratio == pytest.approx(0.74286 / 0.85449, abs=1e-3)
    notes = []
    moved = prepared(Photo(str(car), elevation_deg=5.0, distance=3.8, fov_deg=20.0), "", view, notes.append)  # of 0.67004
    assert (moved.ratio, moved.distance) == (pytest.approx(0.74286 / 1.07696, abs=1e-3), pytest.approx(6.1077, abs=1e-3))
    assert notes == [f"{car.name}: its camera is placed at a distance of {moved.distance:g}, from which a field of view of "
                     "20 degrees shows the object whole"]  # fmt: skip
    assert asked == [("", None)]  # an elevation that is told asks nothing
    assert prepared(Photo(str(car), azimuth_deg=7.0), "", view).azimuth_deg == 7.0
    assert asked[-1] == ("", 7.0)
    prepared(Photo(str(car), azimuth_deg=0.0), "", view)
    assert asked[-1] == ("", 0.0)  # the user's own word
    given = Photo(str(car), elevation_deg=5.0, ratio=0.7)
    assert prepared(given, "", view) == given
    assert prepared(Photo(str(car), elevation_deg=5.0), "", port).ratio == 0.78  # the ports' photos fill as much as references
    square = Photo(str(car), ratio=None)
    assert prepared(square, "", view) == square
    monkeypatch.setattr("dreamlift.images.camera.find_viewpoint", lambda *_: Viewpoint())
    notes = []
    assert prepared(Photo(str(car)), "", view, notes.append).elevation_deg == ELEVATION_DEG
    assert "a default: nothing in it tells the true one" in notes[0]


def test_the_elevation_that_the_lift_of_the_runs_prior_estimates(tmp_path):
    """The plumbing from the photo to its camera: a lift whose head has no weights answers with its bias."""
    folder = save_view(tmp_path / "view")
    lift = load_lift(folder / "lift")
    with torch.no_grad():
        lift.head.weight.zero_()
        lift.head.bias.copy_(torch.tensor([math.sin(0.7), math.cos(0.7), 0.0]))
    save_lift(lift, folder / "lift", torch.float32)
    view, reference = find(PriorChoice(str(folder))), torch.rand(32, 32, 4, generator=torch.Generator().manual_seed(0))
    found = find_viewpoint(reference, "", None, view)
    assert (found.source, found.elevation, found.azimuth) == ("shape", pytest.approx(math.degrees(0.7), abs=1e-2), 0.0)
    assert "estimated by its shape; --azimuth and --elevation override" in found.described()
    assert find_viewpoint(reference, "", -20.0, view).azimuth == -20.0


def test_only_runs_that_use_their_photos_look_at_them(car, monkeypatch):
    monkeypatch.setattr("dreamlift.images.camera.find_viewpoint", lambda *_: Viewpoint(0.0, 44.0))
    teacher = Teacher(PriorChoice("toybox"), SDS(), NoViews())
    plain = Config(prompt="a car", photos=(Photo(str(car)),), stages=(Lift(teachers=(teacher,)),))
    assert with_cameras(plain, Silent()) is plain
    stages = (replace(plain.stages[0], photometric=Photometric()),)
    compared = with_cameras(replace(plain, stages=stages), Silent())
    assert compared.photos[0].elevation_deg == 44.0
    assert compared.photos[0].ratio == 0.78
    assert prepared_photos((), "", []) == ()
