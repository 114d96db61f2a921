"""Cameras and lights against hand-worked positions, an independent projection, and their stated ranges."""

from __future__ import annotations

import math

import pytest
import torch

from dreamlift.cameras import (
    CameraSampler,
    PosedCameras,
    fibonacci_cameras,
    look_at,
    orbit_cameras,
    project,
    rays_of,
    spherical_to_cartesian,
    turntable,
)
from dreamlift.shading.lighting import Lighting


def orbit(azimuth_deg: float, elevation_deg: float, size: int = 9):
    value = (torch.tensor([v]) for v in (math.radians(azimuth_deg), math.radians(elevation_deg), 3.0, 0.8))
    return orbit_cameras(*value, size)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "expected"),
    [(0, 0, (0, 0, 3)), (90, 0, (3, 0, 0)), (180, 0, (0, 0, -3)), (-90, 0, (-3, 0, 0)), (0, 90, (0, 3, 0))],
)
def test_positions_by_hand(azimuth, elevation, expected):
    got = spherical_to_cartesian(*(torch.tensor([v]) for v in (math.radians(azimuth), math.radians(elevation), 3.0)))
    torch.testing.assert_close(got[0], torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("azimuth", [0, 37, 120, -75, 180])
@pytest.mark.parametrize("elevation", [-60, 0, 45, 89.9, 90])
def test_frames_are_right_handed_opencv(azimuth, elevation):
    rotation = orbit(azimuth, elevation).c2w[0, :3, :3]
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(3), atol=1e-5, rtol=0)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1.0, abs=1e-5)
    if elevation < 89:
        assert float(rotation[1, 1]) < 0  # the camera's down is the world's down


def test_the_pole_continues_the_front():
    below, above = orbit(0, 89.99).c2w[0, :3, :3], orbit(0, 90).c2w[0, :3, :3]
    torch.testing.assert_close(below, above, atol=1e-3, rtol=0)


def test_what_is_right_of_the_object_in_the_picture():
    # From the front, +x is on the right of the picture and +y at the top.
    pixels, depth = project(orbit(0, 0), torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]))
    assert pixels[0, 0, 0] > 4.5
    assert pixels[0, 1, 1] < 4.5
    torch.testing.assert_close(depth[0], torch.tensor([3.0, 3.0, 2.5]))


def test_rays_go_through_the_pixels_that_their_points_project_to():
    cameras = fibonacci_cameras(5, -30, 80, 2.5, 50.0, 7)
    rays = rays_of(cameras)
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(5, 7, 7))
    for b in range(5):
        points = rays.origins[b] + 1.7 * rays.directions[b]
        pixels, _ = project(cameras[b : b + 1], points.view(-1, 3))
        v, u = torch.meshgrid(torch.arange(7) + 0.5, torch.arange(7) + 0.5, indexing="ij")
        torch.testing.assert_close(pixels[0], torch.stack([u, v], -1).view(-1, 2), atol=1e-3, rtol=0)


def test_field_of_view_is_the_angle_between_the_edges():
    cameras = orbit(20, 10, size=101)
    top, bottom = rays_of(cameras).directions[0, 0, 50], rays_of(cameras).directions[0, -1, 50]
    # between the centres of the first and last pixel: a little less than the full 0.8 rad
    half = math.atan(math.tan(0.4) * 100 / 101)
    assert math.acos(float(top @ bottom)) == pytest.approx(2 * half, abs=1e-4)


def test_look_at_another_target():
    position, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[-1.0, 0.5, 0.0]])
    c2w = look_at(position, target, torch.tensor([[0.0, 1.0, 0.0]]))
    forward = (target - position) / (target - position).norm()
    torch.testing.assert_close(c2w[0, :3, 2], forward[0])
    assert float(c2w[0, 1, 0]) == pytest.approx(0.0, abs=1e-6)  # no roll


def test_sampler_keeps_its_ranges_and_stratifies():
    sampler = CameraSampler(views=4, resolution=(16, 32), elevation_deg=(-10, 60), fov_deg=(40, 55), fill=1.0)
    for seed in range(30):
        cameras = sampler(0.3, torch.Generator().manual_seed(seed))
        assert cameras.width == cameras.height == 16
        degrees = cameras.elevation * 180 / math.pi
        assert bool(((degrees >= -10.01) & (degrees <= 60.01)).all())
        # one azimuth in each quarter of the circle, up to the common shift
        turns = ((cameras.azimuth / (2 * math.pi)) % 1.0).sort().values
        gaps = torch.cat([turns[1:] - turns[:-1], turns[:1] + 1 - turns[-1:]])
        assert float(gaps.max()) < 0.5 + 1e-5
        # a ball of radius 1 touches the upper and lower edge: sin(fov / 2) = 1 / distance
        fov = 2 * torch.atan(0.5 * 16 / cameras.K[:, 1, 1])
        torch.testing.assert_close(torch.sin(fov / 2) * cameras.distance, torch.ones(4), atol=1e-4, rtol=0)
    assert sampler(0.7, torch.Generator()).width == 32
    assert sampler(1.0, torch.Generator()).width == 32


def test_an_orbit_is_even_and_on_one_height():
    sampler = CameraSampler(views=8, orbit=4, distance=(0.8, 1.0), relative=True, fov_deg=(15, 60))
    for seed in range(30):
        cameras = sampler(0.0, torch.Generator().manual_seed(seed))
        turns = (cameras.azimuth / (2 * math.pi)).view(2, 4)
        torch.testing.assert_close(turns.diff(dim=1) % 1.0, torch.full((2, 3), 0.25), atol=1e-5, rtol=0)
        assert len(cameras.elevation.unique()) == 2  # each group has its own
        half = 0.5 * cameras.height / cameras.K[:, 1, 1]  # tan(fov / 2)
        for values in (cameras.elevation, cameras.distance, half):
            assert bool((values.view(2, 4) == values.view(2, 4)[:, :1]).all())
        shown = cameras.distance * half  # half the height that the picture shows at the origin
        assert 0.8 - 1e-4 <= float(shown.min()) <= float(shown.max()) <= 1.0 + 1e-4
    with pytest.raises(ValueError, match="orbit is 4 and views 6; views must be a multiple of orbit"):
        CameraSampler(views=6, orbit=4)


def test_elevations_are_uniform_on_the_sphere():
    sampler = CameraSampler(views=4000, elevation_deg=(-90, 90))
    height = torch.sin(sampler(0.0, torch.Generator().manual_seed(0)).elevation)
    # Archimedes: heights on a sphere are uniform in [-1, 1]; a Kolmogorov-Smirnov bound at 4000 draws
    steps = torch.arange(1, 4001) / 4000
    assert float((height.sort().values * 0.5 + 0.5 - steps).abs().max()) < 1.63 / math.sqrt(4000)


def test_posed_cameras_are_drawn_without_repeats():
    pool = fibonacci_cameras(6, 0, 50, 3.0, 45.0, 8)
    drawn = PosedCameras(pool, 6)(0.0, torch.Generator().manual_seed(1))
    assert sorted(drawn.azimuth.tolist()) == sorted(pool.azimuth.tolist())


def test_turntable_starts_in_front_and_goes_round():
    cameras = turntable(4, elevation_deg=0.0)
    positions = cameras.c2w[:, :3, 3] / 3.0
    expected = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]])
    torch.testing.assert_close(positions, expected, atol=1e-6, rtol=0)


def test_lighting_shares_and_side():
    cameras = turntable(400, elevation_deg=20.0)
    rng = torch.Generator().manual_seed(0)
    assert Lighting()(cameras, 0.5, rng) is None
    assert Lighting(lambertian=1.0, start_progress=0.5)(cameras, 0.4, rng) is None
    shading = Lighting(lambertian=0.75, textureless=0.5, distance=(2.0, 3.0))(cameras, 0.5, rng)
    assert shading is not None
    assert float(shading.lambertian.mean()) == pytest.approx(0.75, abs=0.08)
    assert float(shading.textureless.mean()) == pytest.approx(0.375, abs=0.08)
    assert bool((shading.textureless <= shading.lambertian).all())  # clay only where it is lit
    distance = shading.light.norm(dim=-1)
    assert bool(((distance >= 2.0 - 1e-4) & (distance <= 3.0 + 1e-4)).all())
    toward = (shading.light * cameras.c2w[:, :3, 3]).sum(-1)
    assert float((toward > 0).float().mean()) > 0.9  # on the camera's side
    with pytest.raises(ValueError, match=r"lambertian is 1.5; accepted: 0 to 1"):
        Lighting(lambertian=1.5)
