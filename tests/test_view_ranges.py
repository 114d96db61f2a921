"""Views about a photo: the ranges of DreamGaussian and stable-dreamfusion by their own formulas, and angles by trigonometry."""

from __future__ import annotations

import math
import random

import pytest
import torch

from dreamlift.cameras import CameraSampler, orbit_cameras, view_angles
from dreamlift.config.schema import Config, check_stages
from dreamlift.schedules import Linear
from dreamlift.stages.lift import Lift
from dreamlift.stages.teacher import Teacher, angle_scale
from dreamlift.types import Cameras


def views(*places: tuple[float, float], distance: float = 3.0, fov_deg: float = 30.0) -> Cameras:
    """Cameras at (azimuth, elevation) in degrees."""
    azimuth, elevation = (torch.tensor(values) * math.pi / 180 for values in zip(*places, strict=True))
    ones = torch.ones(len(places))
    return orbit_cameras(azimuth, elevation, distance * ones, math.radians(fov_deg) * ones, 16)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


# Angles


def test_angles_are_those_of_the_spherical_law_of_cosines():
    rng = random.Random(1)
    places = [(rng.uniform(-180, 180), rng.uniform(-80, 80)) for _ in range(6)]
    found = view_angles(views(*places), views(*places[:3], distance=1.0))
    for i, (a, e) in enumerate(places):
        for j, (b, f) in enumerate(places[:3]):
            a_, e_, b_, f_ = (math.radians(v) for v in (a, e, b, f))
            cosine = math.sin(e_) * math.sin(f_) + math.cos(e_) * math.cos(f_) * math.cos(a_ - b_)
            assert float(found[i, j]) == pytest.approx(math.acos(max(-1.0, min(1.0, cosine))), abs=2e-3)


def test_angles_near_the_photo_and_opposite_to_it_are_exact():
    """The arc cosine of a single-precision product would be off by 0.03 degrees."""
    found = torch.rad2deg(view_angles(views((0.0, 20.0), (0.01, 20.0), (180.0, -20.0)), views((0.0, 20.0))))[:, 0]
    assert found.tolist() == pytest.approx([0.0, 0.01 * math.cos(math.radians(20.0)), 180.0], abs=1e-4)


def test_the_angle_weight_is_stable_dreamfusions():
    cameras, one = views((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (0.0, 60.0)), views((0.0, 0.0))
    assert angle_scale(1.0, cameras, one).tolist() == pytest.approx([0.0, 0.5, 1.0, 1 / 3], abs=1e-6)
    assert angle_scale(0.4, cameras, one).tolist() == pytest.approx([0.6, 0.8, 1.0, 0.6 + 0.4 / 3], abs=1e-6)
    # Of several photos the nearest, over 180 degrees / their number.
    two = views((0.0, 0.0), (180.0, 0.0))
    assert angle_scale(1.0, cameras, two).tolist() == pytest.approx([0.0, 1.0, 0.0, 2 / 3], abs=1e-6)
    near = views((0.0, 0.0), (10.0, 0.0))
    assert angle_scale(1.0, cameras, near).tolist() == pytest.approx([0.0, 160 / 180, 1.0, 2 / 3], abs=1e-6)  # at most 1
    assert angle_scale(0.0, cameras, one) is None
    assert angle_scale(1.0, cameras, None) is None


# Ranges


@pytest.mark.parametrize("elevation", [-60.0, -20.0, 0.0, 15.0, 45.0, 70.0])
def test_elevations_about_the_photo_are_dreamgaussians(elevation):
    sampler = CameraSampler(views=500, elevation_deg=(-30.0, 30.0), elevation_about_deg=30.0, angle_share=1.0)
    photo = views((0.0, elevation))
    # main.py, for min_ver -30 and max_ver 30: relative to the photo's elevation, which is added afterwards
    low = max(min(-30.0, -30.0 - elevation), -80.0 - elevation) + elevation
    high = min(max(30.0, 30.0 - elevation), 80.0 - elevation) + elevation
    assert sampler.ranges(0.3, photo)[1] == pytest.approx((low, high), abs=1e-4)
    found = torch.rad2deg(sampler(0.3, generator(), photo).elevation)
    assert low - 1e-3 <= float(found.min()) < low + 2.0
    assert high - 2.0 < float(found.max()) <= high + 1e-3


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.3, 0.4, 1.0])
def test_ranges_widen_as_stable_dreamfusions(progress):
    full = {"azimuth_deg": (-120.0, 100.0), "elevation_deg": (-15.0, 45.0), "distance": (3.0, 3.5), "fov_deg": (10.0, 30.0)}
    sampler = CameraSampler(views=400, **full, widen=Linear(0.2, 1.0, 0.0, 0.4))
    photo = views((20.0, 10.0), distance=3.2, fov_deg=20.0)
    r = min(1.0, 0.2 + 2.0 * progress)
    wanted = [
        (default * (1 - r) + low * r, default * (1 - r) + high * r)
        for default, (low, high) in zip((20.0, 10.0, 3.2, 20.0), full.values(), strict=True)
    ]
    found = sampler.ranges(progress, photo)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    cameras = sampler(progress, generator(), photo)
    fov = torch.rad2deg(2 * torch.atan(0.5 * cameras.height / cameras.K[:, 1, 1]))
    drawn = torch.rad2deg(cameras.azimuth), torch.rad2deg(cameras.elevation), cameras.distance, fov
    for values, (low, high) in zip(drawn, wanted, strict=True):
        assert low - 1e-3 <= float(values.min()) < float(values.max()) <= high + 1e-3
        assert float(values.max() - values.min()) > 0.9 * (high - low)


@pytest.mark.parametrize("turn", [150.0, -170.0, 350.0])
def test_the_whole_circle_opens_about_the_photo(turn):
    sampler = CameraSampler(views=200, widen=0.25)
    photo = views((turn, 10.0))
    cameras = sampler(0.0, generator(), photo)
    apart = (torch.rad2deg(cameras.azimuth) - turn + 180.0) % 360.0 - 180.0
    assert -45.01 < float(apart.min()) < -43.0
    assert 43.0 < float(apart.max()) < 45.01


def test_views_like_the_photos_have_its_lens_and_turn_with_it():
    sampler = CameraSampler(views=50, azimuth_deg=(-10.0, 30.0), distance=(1.0, 9.0), fov_deg=(5.0, 90.0), like_photo=True)
    cameras = sampler(0.5, generator(), views((100.0, 0.0), distance=3.8, fov_deg=20.0))
    torch.testing.assert_close(cameras.distance, torch.full((50,), 3.8))
    half = torch.rad2deg(torch.atan(0.5 * cameras.height / cameras.K[:, 1, 1]))
    torch.testing.assert_close(half, torch.full((50,), 10.0))
    azimuth = torch.rad2deg(cameras.azimuth)
    assert 90.0 <= float(azimuth.min()) < 92.0
    assert 128.0 < float(azimuth.max()) <= 130.01


def test_without_a_photo_ranges_open_from_their_middle():
    sampler = CameraSampler(elevation_deg=(0.0, 60.0), distance=(2.0, 4.0), fov_deg=(40.0, 40.0), widen=0.5)
    assert sampler.ranges(0.0) == ((-90.0, 90.0), (15.0, 45.0), (2.5, 3.5), (40.0, 40.0))


def test_a_photo_changes_no_bit_of_a_sampler_that_does_not_ask_for_it():
    sampler = CameraSampler(views=3, position_jitter=0.1, angle_share=0.5)
    plain, beside = sampler(0.2, generator()), sampler(0.2, generator(), views((70.0, 40.0)))
    assert bool((plain.c2w == beside.c2w).all())
    assert bool((plain.K == beside.K).all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"like_photo": True, "fill": 1.0}, "like_photo takes the distance from the photo; set fill to null"),
        ({"like_photo": True, "relative": True}, "like_photo takes the distance from the photo"),
        ({"elevation_about_deg": -1.0}, "elevation_about_deg is -1; accepted: 0 to 90"),
        ({"widen": 1.5}, "widen leaves"),
        ({"widen": Linear(0.5, -0.5)}, "widen leaves"),
    ],
)
def test_values_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CameraSampler(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": CameraSampler(like_photo=True)}, "cameras.like_photo is set, but there is no photo; give --image FILE"),
        ({"cameras": CameraSampler(elevation_about_deg=30.0)}, "cameras.elevation_about_deg is set, but there is no photo"),
        ({"teachers": (Teacher(), Teacher(angle_weight=0.5))}, "teachers.1.angle_weight is set, but there is no photo"),
    ],
)
def test_what_needs_a_photo_says_so(changes, message):
    with pytest.raises(ValueError, match=rf"^stages\.0: {message}"):
        check_stages(Config(stages=(Lift(**changes),)))


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_the_angle_weight_is_a_share(value):
    with pytest.raises(ValueError, match=rf"angle_weight is {value}; accepted: 0 to 1"):
        Teacher(angle_weight=value)
