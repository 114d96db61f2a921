"""Objects before textured backgrounds, cut out by their colours, against masks that are known."""

import math

import numpy as np
import pytest
from PIL import Image

from dreamlift.images import grabcut, matting
from dreamlift.images.grabcut import cut_colors, overlap
from dreamlift.images.matting import cut_out

pytest.importorskip("cv2")


def gravel(size=160, seed=0):
    """Grey and brown stones of several sizes, ``(size, size, 3)`` in [0, 1]."""
    rng = np.random.default_rng(seed)
    made = np.zeros((size, size, 3))
    for cells, weight in ((10, 0.2), (40, 0.15), (160, 0.08)):
        noise = (rng.random((cells, cells)) * 255).astype(np.uint8)
        made += weight * (np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BILINEAR)) / 255)[..., None]
    return made + np.array([0.36, 0.33, 0.28])


def duck(size=160):
    """A yellow body and an orange beak on gravel, lit from above; the picture and the true mask."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    body = ((x - 0.5) / 0.22) ** 2 + ((y - 0.55) / 0.2) ** 2 < 1
    beak = (np.abs(x - 0.3) < 0.1) & (np.abs(y - 0.45) < 0.04)
    made = gravel(size) * (1 - 0.4 * np.exp(-(((x - 0.5) / 0.3) ** 2) - ((y - 0.72) / 0.1) ** 2))[..., None]  # its soft shadow
    light = (1.05 - 0.5 * y)[..., None]
    made = np.where(body[..., None], light * [0.95, 0.8, 0.15], made)
    made = np.where(beak[..., None], light * [0.95, 0.4, 0.1], made)
    rgb = (made.clip(0, 1) * 255).round().astype(np.uint8)
    return np.dstack([rgb, np.full((size, size), 255, np.uint8)]), body | beak


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def test_an_object_on_gravel_is_found_and_the_user_is_asked_to_look():
    picture, truth = duck()
    found = cut_out(picture, whole=True)
    assert found.way == "grabcut"
    assert iou(found.alpha >= 0.5, truth) > 0.95
    assert found.notes[0].startswith(
        "its background is not plain: the object is cut out by its colours (GrabCut); look whether"
    )
    assert (cut_out(picture, whole=True).alpha == found.alpha).all()
    named = cut_out(picture, "grabcut", whole=True)
    assert (named.alpha == found.alpha).all()
    assert named.notes == ()


def test_a_plain_background_is_left_to_the_border():
    picture, truth = duck()
    picture[~truth, :3] = 240
    assert cut_out(picture).way == "border"


def test_a_table_with_a_wall_behind_it_is_no_plain_background(monkeypatch):
    """The border is mostly table; a strip of wall reaches from side to side and belongs to no object."""
    y, x = (np.mgrid[:160, :160] + 0.5) / 160
    disc = ((x - 0.5) / 0.2) ** 2 + ((y - 0.5) / 0.25) ** 2 < 1
    made = np.full((160, 160, 4), (200, 190, 170, 255), np.uint8)
    made[8:36] = (90, 120, 160, 255)
    made[disc, :3] = (200, 30, 40)
    found = cut_out(made, whole=True)
    assert found.way == "grabcut"
    assert iou(found.alpha >= 0.5, disc) > 0.97
    assert cut_out(made, "border", whole=True).way == "border"
    monkeypatch.setattr(matting, "is_installed", lambda: False)
    kept = cut_out(made, whole=True)
    assert kept.way == "border"
    assert "cut off by the picture's left and right border" in kept.notes[0]


@pytest.mark.parametrize("color", [(205, 50, 40), (235, 232, 228), (40, 60, 200)])
@pytest.mark.parametrize("half", [0.55, 0.9])
def test_a_tight_crop_before_a_plain_background_is_no_wall(color, half):
    """An ellipse that is cut off at two sides: flood fill finds it whole, while GrabCut's border is background."""
    y, x = (np.mgrid[:240, :400] + 0.5) / np.array([240, 400]).reshape(2, 1, 1)
    truth = ((x - 0.5) / half) ** 2 + ((y - 0.5) / 0.4) ** 2 < 1
    made = np.full((240, 400, 4), 255, np.uint8)
    made[truth, :3] = color
    found = cut_out(made, whole=True)
    assert found.way == "border"
    assert iou(found.alpha >= 0.5, truth) > 0.98
    assert "cut off by the picture's left and right border" in found.notes[0]


def test_what_has_no_object_is_refused(monkeypatch):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for rgb in (noise, np.zeros((6, 200, 3), np.uint8)):
        assert cut_colors(rgb) is None
    opaque = np.dstack([noise, np.full((64, 64), 255, np.uint8)])
    for mask in ("auto", "grabcut"):
        with pytest.raises(ValueError, match="its colours do not tell the object: cut it out yourself"):
            cut_out(opaque, mask)
    for module in (grabcut, matting):
        monkeypatch.setattr(module, "is_installed", lambda: False)
    with pytest.raises(ValueError, match=r'or pip install "dreamlift\[image\]", to cut it by colours'):
        cut_out(opaque)
    with pytest.raises(ValueError, match=r"--mask grabcut needs OpenCV, which is not installed: pip install"):
        cut_out(opaque, "grabcut")


def test_the_overlap_of_colours_is_that_of_its_formula():
    red, blue = np.array([[250, 0, 0]] * 4, np.uint8), np.array([[0, 0, 250]] * 4, np.uint8)
    assert overlap(red, blue) == 0.0
    assert overlap(red, red) == pytest.approx(1.0)
    assert overlap(np.concatenate([red, blue]), blue) == pytest.approx(math.sqrt(0.5))
