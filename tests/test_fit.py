"""Objects are framed: hand-worked boxes and blends, and a direct resampling."""

import numpy as np
import pytest

from dreamlift.images.fit import box_of, fitted, resampled
from dreamlift.images.matting import Cutout, cut_out

RED = np.array([0.9, 0.1, 0.2], np.float32)


def cutout(alpha, rgb=RED):
    alpha = np.asarray(alpha, np.float32)
    height, width = alpha.shape
    colors = np.broadcast_to(np.asarray(rgb, np.float32), (height, width, 3))
    return Cutout(colors, alpha, (0, 0, width, height), (width, height), "alpha")


def rectangle(height, width, top, bottom, left, right):
    """Opacity of a rectangle with fractional sides: each pixel's covered area."""

    def covered(count, low, high):
        edges = np.arange(count + 1)
        return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, 1)

    return np.outer(covered(height, top, bottom), covered(width, left, right))


@pytest.mark.parametrize("sides", [(5, 25, 8, 20), (5.3, 25.6, 8.8, 20.1), (0, 40, 0, 50), (0.25, 39.75, 3, 4.9)])
def test_the_box_of_a_rectangle_is_exact(sides):
    top, bottom, left, right = sides
    assert box_of(rectangle(40, 50, *sides)) == pytest.approx((left, top, right, bottom), abs=1e-5)


@pytest.mark.parametrize("ratio", [0.5, 0.78, 1.0])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.1, -0.05)])
@pytest.mark.parametrize("sides", [(50.5, 110.25, 20.0, 130.75), (10, 90, 60, 80)])
def test_the_longest_side_and_the_centre_are_where_they_are_asked_for(ratio, shift, sides):
    side = 128
    found = fitted(cutout(rectangle(160, 150, *sides)), side, ratio, shift)
    left, top, right, bottom = box_of(found[..., 3])
    height, width = sides[1] - sides[0], sides[3] - sides[2]
    scale = ratio * side / max(height, width)
    middle = np.array([0.5 + shift[0], 0.5 + shift[1]]) * side
    inside = ratio < 1 or shift == (0.0, 0.0)
    if inside:
        assert (right - left, bottom - top) == pytest.approx((scale * width, scale * height), abs=0.6)
        assert (0.5 * (left + right), 0.5 * (top + bottom)) == pytest.approx(tuple(middle), abs=0.4)
        assert found[..., 3].sum() == pytest.approx(scale * scale * width * height, rel=0.02)
    np.testing.assert_allclose(
        found[found[..., 3] > 0.01][:, :3], np.broadcast_to(RED, (int((found[..., 3] > 0.01).sum()), 3)), atol=2e-3
    )


def test_colours_from_behind_do_not_enter_the_edge():
    """A white square whose transparent surroundings are black: its edge stays white. Plain resampling would grey it."""
    alpha = rectangle(64, 64, 16, 48, 16, 48)
    colors = np.where(alpha[..., None] > 0, 1.0, 0.0)
    found = fitted(cutout(alpha, colors), 50, 0.63)
    soft = (found[..., 3] > 0.02) & (found[..., 3] < 0.98)
    assert soft.sum() > 50
    np.testing.assert_allclose(found[soft][:, :3], 1.0, atol=1e-3)
    assert found[..., :3][found[..., 3] == 0].max(initial=0) == 0


def test_two_pixels_become_their_blend():
    """Opacities 1 and 0.5, colours 1 and 0: opacity 0.75, colour (1 * 1 + 0.5 * 0) / 1.5."""
    alpha = np.tile([1.0, 0.5], (4, 8))
    colors = np.tile([1.0, 0.0], (4, 8))[..., None].repeat(3, axis=-1)
    # The filter is two output pixels wide, so that of a repeating pattern it takes the mean.
    wide = np.pad(alpha, ((6, 6), (0, 0)), mode="edge"), np.pad(colors, ((6, 6), (0, 0), (0, 0)), mode="edge")
    found = resampled(cutout(*wide), (0.0, 0.0, 16.0, 16.0), 4)
    np.testing.assert_allclose(found[1:3, 1:3, 3], 0.75, atol=0.02)
    np.testing.assert_allclose(found[1:3, 1:3, 0], 1 / 1.5, atol=0.02)


@pytest.mark.parametrize(
    "box", [(-10.5, -3.0, 29.5, 37.0), (5.25, 8.5, 25.25, 28.5), (-40.0, -40.0, 80.0, 80.0), (30.0, 30.0, 60.0, 60.0)]
)
def test_a_part_that_reaches_beyond_the_picture_is_that_of_a_padded_one(box):
    from PIL import Image

    rng = np.random.default_rng(0)
    given = cutout(rng.random((33, 39)), rng.random((33, 39, 3)))
    found = resampled(given, box, 24)
    margin = 120
    channels = np.concatenate([given.rgb * given.alpha[..., None], given.alpha[..., None]], axis=-1)
    padded = np.pad(channels, ((margin, margin), (margin, margin), (0, 0)))
    moved = tuple(value + margin for value in box)
    wanted = np.stack([
        np.asarray(Image.fromarray(np.ascontiguousarray(padded[..., c])).resize((24, 24), Image.Resampling.HAMMING, box=moved))
        for c in range(4)
    ], axis=-1)  # fmt: skip
    np.testing.assert_allclose(found[..., 3], wanted[..., 3], atol=1e-5)
    np.testing.assert_allclose(found[..., :3] * found[..., 3:], wanted[..., :3], atol=2e-3)


def test_an_uncropped_picture_keeps_its_frame():
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[4:20, 30:50] = (200, 30, 30, 255)
    found = fitted(cut_out(picture, whole=True), 32, None)
    np.testing.assert_array_equal(found[..., 3] > 0.9, (picture[::2, ::2, 3] == 255))
    wide = np.zeros((64, 60, 4), np.uint8)
    wide[4:20, 30:50] = (200, 30, 30, 255)
    with pytest.raises(ValueError, match=r"it has 60 x 64 pixels, .* crop it to a square, or give a ratio"):
        fitted(cut_out(wide, whole=True), 32, None)
