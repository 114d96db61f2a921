"""Photos as a run uses them: placed before their cameras, as references, and as settings with one-line errors."""

import math

import numpy as np
import pytest
import torch
from picture_helpers import BLACK, jpeg, over, shot
from PIL import Image

from dreamlift.cameras import orbit_cameras, project
from dreamlift.config.build import load_yaml, save_yaml
from dreamlift.config.schema import Config
from dreamlift.images.fit import box_of
from dreamlift.images.photos import REFERENCE_SIDE, SIDE, read_photos, resolved_photo
from dreamlift.reading.photos import ELEVATION_DEG, RATIO, Photo
from dreamlift.toybox.world.render import render
from dreamlift.toybox.world.things import make_thing


def saved(path, picture, **options):
    Image.fromarray(picture).save(path, **options)
    return str(path)


def square(side=64, low=16, high=40):
    picture = np.zeros((side, side, 4), np.uint8)
    picture[low:high, low:high] = (200, 30, 30, 255)
    return picture


def test_a_photo_of_any_size_is_placed_and_framed(tmp_path):
    picture = np.full((150, 300, 3), 240, np.uint8)
    picture[30:90, 200:280] = (30, 60, 160)
    photo = Photo(saved(tmp_path / "a phöto.png", picture), ratio=0.5, shift=(0.1, 0.0))
    pictures = read_photos([photo])
    assert pictures.rgb.shape == (1, SIDE, SIDE, 3)
    assert pictures.alpha.shape == (1, SIDE, SIDE, 1)
    assert pictures.reference.shape == (1, REFERENCE_SIDE, REFERENCE_SIDE, 4)
    left, top, right, bottom = box_of(pictures.alpha[0, ..., 0].numpy())
    assert ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top) == pytest.approx(
        (0.6 * SIDE, 0.5 * SIDE, 0.5 * SIDE, 0.375 * SIDE), abs=1.5
    )  # fmt: skip
    left, top, right, bottom = box_of(pictures.reference[0, ..., 3].numpy())
    wanted = (0.5 * REFERENCE_SIDE, 0.5 * REFERENCE_SIDE, RATIO * REFERENCE_SIDE)
    assert ((left + right) / 2, (top + bottom) / 2, right - left) == pytest.approx(wanted, abs=1.0)
    inside = pictures.alpha[0, ..., 0] > 0.99
    torch.testing.assert_close(
        pictures.rgb[0][inside], (torch.tensor([30, 60, 160]) / 255).expand(int(inside.sum()), 3), atol=0.02, rtol=0
    )
    assert (pictures.cameras.width, pictures.cameras.height) == (SIDE, SIDE)


def test_the_cameras_are_those_of_the_settings(tmp_path):
    path = saved(tmp_path / "a.png", square())
    photos = [Photo(path, azimuth_deg=30, elevation_deg=-10, distance=3.0, fov_deg=50.0), Photo(path)]
    cameras = read_photos(photos).cameras
    values = torch.tensor([[math.radians(30), 0.0], [math.radians(-10), math.radians(ELEVATION_DEG)], [3.0, 2.6],
                           [math.radians(50), math.radians(45)]])  # fmt: skip
    wanted = orbit_cameras(*values, SIDE)
    torch.testing.assert_close(cameras.c2w, wanted.c2w)
    torch.testing.assert_close(cameras.K, wanted.K)


def test_a_placed_photo_is_what_its_camera_sees(tmp_path):
    """A toy's render, cropped anyhow before a gradient: placed by the true ratio and shift it lies over the render again."""
    thing, size = make_thing("duck", "yellow", 4), 160
    values = (math.radians(40.0), math.radians(20.0), 2.6, math.radians(45.0))
    cameras = orbit_cameras(*(torch.tensor([value]) for value in values), size)
    with torch.inference_mode():
        made = render(thing, cameras, background=BLACK)
    opacity = made.opacity[0].numpy()
    left, top, right, bottom = box_of(opacity[..., 0])
    ratio = max(right - left, bottom - top) / size
    shift = (0.5 * (left + right) / size - 0.5, 0.5 * (top + bottom) / size - 0.5)
    seen = over((made.rgb[0].numpy(), opacity), np.linspace(0.95, 0.8, size)[:, None, None])
    path = saved(tmp_path / "a.png", seen[int(top) - 9 : int(bottom) + 12, int(left) - 12 : int(right) + 6])
    placed = read_photos([Photo(path, azimuth_deg=40, elevation_deg=20, ratio=ratio, shift=shift)], side=size)
    error = placed.alpha[0].numpy() - opacity
    assert np.abs(error).mean() < 0.01
    points = torch.tensor([[0.0, 0.0, 0.0]])
    pixel, _ = project(placed.cameras, points)
    assert pixel.flatten().tolist() == pytest.approx([size / 2, size / 2], abs=1e-3)  # the last bits differ between processors


def test_an_uncropped_photo_with_a_mask_is_used_as_it_is(tmp_path):
    picture = square(64, 10, 30)
    pictures = read_photos([Photo(saved(tmp_path / "a.png", picture), ratio=None)], side=64)
    np.testing.assert_array_equal(pictures.alpha[0, ..., 0].numpy(), picture[..., 3] / 255)
    np.testing.assert_allclose(pictures.rgb[0].numpy(), (picture[..., :3] / 255), atol=1e-6)
    left, top, right, bottom = box_of(pictures.reference[0, ..., 3].numpy())
    assert (left + right, top + bottom) == pytest.approx((REFERENCE_SIDE, REFERENCE_SIDE), abs=1)


def test_an_uncropped_photo_must_be_square(tmp_path):
    path = saved(tmp_path / "a.png", square()[:50])
    with pytest.raises(
        ValueError, match=r"a\.png' cannot be used: it has 64 x 50 pixels, and with ratio null it is used uncropped"
    ):
        read_photos([Photo(path, ratio=None)])


def test_what_should_be_known_is_told_with_the_files_name(tmp_path):
    notes = []
    picture = np.full((90, 90, 3), 255, np.uint8)
    picture[40:, 20:60] = (9, 60, 120)
    read_photos([Photo(saved(tmp_path / "cut off.png", picture))], notes.append)
    assert notes == [
        "cut off.png: the object is cut off by the picture's lower border, and will end there: take a picture with all of it",
        "cut off.png: the object is only 50 pixels long: its details cannot be seen; take a larger picture",
    ]


def test_jpeg_photos_of_toys_have_the_references_of_clean_ones(tmp_path):
    made = shot("mug", "red", 1, size=160)
    backdrop = np.linspace(0.95, 0.75, 160)[:, None, None]
    clean = np.dstack([np.clip(made[0] / np.maximum(made[1], 1e-6), 0, 1), made[1]])
    names = {"own.png": (clean * 255 + 0.5).astype(np.uint8), "photo.png": jpeg(over(made, backdrop), 90)}
    own, photo = (read_photos([Photo(saved(tmp_path / name, values))]).reference[0] for name, values in names.items())
    over_white = [values[..., :3] * values[..., 3:] + 1 - values[..., 3:] for values in (own, photo)]
    assert -10 * math.log10(float((over_white[0] - over_white[1]).square().mean())) > 25.0


# Settings


@pytest.mark.parametrize(("given", "told"), [
    ({"mask": ""}, "mask is empty; accepted: auto, alpha, border"),
    ({"distance": 0.0}, "distance is 0; accepted: 0.01 to 10000"),
    ({"fov_deg": 0.5}, "fov_deg is 0.5; accepted: 1 to 170"),
    ({"azimuth_deg": 400.0}, "azimuth_deg is 400; accepted: -360 to 360"),
    ({"elevation_deg": 91.0}, "elevation_deg is 91; accepted: -90 to 90, or null"),
    ({"ratio": 0.0}, "ratio is 0; accepted: 0.05 to 1, or null"),
    ({"ratio": 1.1}, "ratio is 1.1; accepted"),
    ({"shift": (0.6, 0.0)}, r"shift is \[0.6, 0\]; accepted: two numbers from -0.5 to 0.5"),
    ({"ratio": None, "shift": (0.1, 0.0)}, "shift moves an object that is placed by ratio, which is null"),
])  # fmt: skip
def test_settings_out_of_range(given, told):
    with pytest.raises(ValueError, match=told):
        Photo("a.png", **given)


def test_a_photo_survives_the_config_file():
    photo = Photo("a b/ü.png", "u2netp", 10.0, None, 2.0, 30.0, None)
    config = Config(prompt="a mug", photos=(photo, Photo("c.png", ratio=0.6, shift=(0.1, -0.2), elevation_deg=3.0)))
    assert load_yaml(Config, save_yaml(config), "config.yaml").photos == config.photos


def test_a_resolved_photo_has_whole_paths_and_a_number_for_its_elevation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"")
    notes = []
    found = resolved_photo(Photo("a.png", "model.onnx"), notes.append)
    assert (found.path, found.mask) == (str(tmp_path / "a.png"), str(tmp_path / "model.onnx"))
    assert found.elevation_deg == ELEVATION_DEG
    assert notes == [f"a.png: its elevation is not given; {ELEVATION_DEG:g} degrees above level are assumed (--elevation)"]
    assert resolved_photo(found, notes.append) == found
    assert len(notes) == 1
    assert resolved_photo(Photo("a.png", "u2netp")).mask == "u2netp"
