"""Objects are cut out of pictures: against brute force, hand-worked alpha, and the true masks of rendered toys."""

from collections import deque

import numpy as np
import pytest
from picture_helpers import backdrops, iou, jpeg, noisy, over, shot

from dreamlift.images import matting
from dreamlift.images.border import cut_border, oklab, plain_background
from dreamlift.images.components import SPECK, components, connected, without_specks
from dreamlift.images.edges import box_mean, grown, own_colors, shrunk, soft_edges
from dreamlift.images.matting import cut_out

# Masks


def flooded(mask, seeds):
    """The mask's part that breadth-first search reaches from ``seeds``."""
    found, queue = np.zeros_like(mask), deque(zip(*np.nonzero(mask & seeds), strict=True))
    for place in queue:
        found[place] = True
    while queue:
        y, x = queue.popleft()
        for place in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            inside = 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]
            if inside and mask[place] and not found[place]:
                found[place] = True
                queue.append(place)
    return found


def spiral(side=31):
    mask = np.zeros((side, side), bool)
    y, x, (dy, dx) = 0, 0, (0, 1)
    mask[0, 0] = True
    for length in [side - 1, *np.repeat(np.arange(side - 1, 1, -2), 2)]:
        for _ in range(length):
            y, x = y + dy, x + dx
            mask[y, x] = True
        dy, dx = dx, -dy
    return mask


MASKS = {
    **{f"random {share}": np.random.default_rng(int(100 * share)).random((37, 53)) < share for share in (0.1, 0.45, 0.6, 0.8)},
    "spiral": spiral(), "comb": np.arange(40 * 30).reshape(40, 30) % 30 % 2 == 0, "full": np.ones((5, 7), bool),
    "empty": np.zeros((5, 7), bool), "one": np.eye(1, dtype=bool), "diagonal": np.eye(9, dtype=bool),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_components_are_those_of_a_search(name):
    mask = MASKS[name]
    labels, sizes = components(mask)
    assert ((labels > 0) == mask).all()
    np.testing.assert_array_equal(sizes, np.bincount(labels.reshape(-1), minlength=len(sizes)))
    first = [int(np.flatnonzero(labels.reshape(-1) == label)[0]) for label in range(1, len(sizes))]
    assert first == sorted(first)
    for label in range(1, len(sizes)):
        seed = np.zeros_like(mask)
        seed.reshape(-1)[first[label - 1]] = True
        np.testing.assert_array_equal(labels == label, flooded(mask, seed))


def test_components_are_those_of_scipy():
    from scipy import ndimage

    mask = np.random.default_rng(5).random((200, 301)) < 0.59  # near the percolation threshold: long winding parts
    wanted, count = ndimage.label(mask)
    labels, sizes = components(mask)
    assert len(sizes) == count + 1
    assert len(set(zip(labels[mask].tolist(), wanted[mask].tolist(), strict=True))) == count


@pytest.mark.parametrize("name", MASKS)
def test_flood_fill_is_that_of_a_search(name):
    mask = MASKS[name]
    seeds = np.zeros_like(mask)
    seeds[0] = seeds[:, -1] = True
    np.testing.assert_array_equal(connected(mask, seeds), flooded(mask, seeds))


def test_specks_are_dropped():
    mask = np.zeros((60, 60), bool)
    mask[:50, :50] = True  # 2500 pixels, of which 0.4 % are 10
    mask[55:58, 55:58] = True
    assert SPECK == 0.004
    found = without_specks(mask)
    assert found.sum() == 2500
    mask[55:59, 55:59] = True
    assert without_specks(mask).sum() == 2516


@pytest.mark.parametrize("radius", range(8))
def test_masks_grow_by_squares(radius):
    mask = np.random.default_rng(0).random((40, 53)) < 0.02
    wanted = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        wanted[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = True
    np.testing.assert_array_equal(grown(mask, radius), wanted)
    np.testing.assert_array_equal(shrunk(~mask, radius), ~wanted)


def test_box_means_are_sums_over_squares():
    values = np.random.default_rng(0).random((9, 11, 2)).astype(np.float32)
    found = box_mean(values, 2)
    for y in range(9):
        for x in range(11):
            part = values[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].reshape(-1, 2)
            np.testing.assert_allclose(found[y, x], part.sum(axis=0) / 25, atol=1e-5)


# Edges


def test_the_opacity_of_edge_pixels_is_that_of_the_blend():
    """A red square before blue, with a column of a quarter and a row of 0.7."""
    alpha = np.zeros((40, 40), np.float32)
    alpha[10:30, 10:30], alpha[10:30, 9], alpha[30, 10:30] = 1.0, 0.25, 0.7
    red, blue = np.array([0.9, 0.1, 0.2]), np.array([0.1, 0.2, 0.8])
    rgb = (alpha[..., None] * red + (1 - alpha[..., None]) * blue).astype(np.float32)
    found = soft_edges(rgb, alpha >= 0.5)
    np.testing.assert_allclose(found, alpha, atol=5e-3)
    own = own_colors(rgb, alpha)
    np.testing.assert_allclose(own[alpha > 0], np.broadcast_to(red, own[alpha > 0].shape), atol=0.06)
    np.testing.assert_allclose(rgb[20, 9], 0.25 * red + 0.75 * blue, atol=1e-6)  # what it was before


def test_where_both_sides_look_alike_the_hard_mask_counts():
    mask = np.zeros((30, 30), bool)
    mask[10:20, 10:20] = True
    found = soft_edges(np.full((30, 30, 3), 0.5, np.float32), mask)
    np.testing.assert_allclose(found[15, 5:15], [0, 0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1, 1], atol=1e-5)


# A plain background


def test_oklab_of_known_colours():
    """From the source's own table of sRGB's corners."""
    table = {(255, 255, 255): (1, 0, 0), (0, 0, 0): (0, 0, 0), (255, 0, 0): (0.6279554, 0.2248631, 0.1258463),
             (0, 255, 0): (0.8664396, -0.2338874, 0.1794985), (0, 0, 255): (0.4520137, -0.0324570, -0.3115281)}  # fmt: skip
    found = oklab(np.array(list(table), np.uint8))
    np.testing.assert_allclose(found, np.array(list(table.values())), atol=2e-4)


def test_the_background_is_fitted_to_the_border_though_an_object_reaches_it():
    y, x = np.meshgrid(np.linspace(-1, 1, 80), np.linspace(-1, 1, 100), indexing="ij")
    wanted = np.stack([0.7 + 0.1 * x - 0.2 * y + 0.05 * x * y - 0.04 * y * y, 0.01 * x, 0 * x], axis=-1).astype(np.float32)
    lab = wanted.copy()
    lab[40:, 30:60] = (0.4, 0.2, 0.1)
    plain = plain_background(lab)
    np.testing.assert_allclose(plain.color, wanted, atol=1e-3)
    assert 0.85 < plain.share < 0.95
    assert plain.noise < 1e-4


TOYS = {"mug": ("mug", "red", 1), "duck": ("duck", "yellow", 4), "chair": ("chair", "blue", 3)}


@pytest.fixture(scope="module")
def shots():
    return {name: shot(*toy, size=160) for name, toy in TOYS.items()}


# Measured at 160 pixels: least intersection over union of three toys over six backgrounds.
@pytest.mark.parametrize(
    ("change", "least"), [(lambda p: p, 0.95), (jpeg, 0.92), (noisy, 0.93)], ids=["plain", "jpeg", "noise"]
)
def test_masks_of_toys(shots, change, least):
    for name, made in shots.items():
        for told, backdrop in backdrops(160).items():
            found = cut_border(change(over(made, backdrop)))
            assert found is not None, (name, told)
            assert iou(found, made[1]) > least, (name, told, iou(found, made[1]))


def test_soft_edges_of_toys_follow_the_true_opacity(shots):
    made = shots["mug"]
    found, truth = cut_border(over(made, (0.7, 0.75, 0.8))), made[1][..., 0]
    assert np.abs(found - truth).mean() < 0.004
    band = (truth > 0.05) & (truth < 0.95)
    assert np.corrcoef(found[band], truth[band])[0, 1] > 0.9


def test_the_hole_of_a_handle_is_no_part_of_the_mug(shots):
    made = shots["mug"]
    outside = components(made[1][..., 0] < 0.5)
    holes = [label for label in range(1, len(outside[1])) if outside[1][label] > 40][1:]
    assert holes  # the handle is seen from this side
    found = cut_border(over(made, (1.0, 1.0, 1.0)))
    for label in holes:
        assert found[outside[0] == label].mean() < 0.15


@pytest.mark.parametrize("backdrop", ["white", "blue", "gradient"])
def test_a_white_thing_on_white_is_found_where_its_shading_shows(backdrop):
    """Measured: 0.848, 0.836 and 0.744; its lit side is as bright as the background."""
    made = shot("rabbit", "white", 5)
    found = cut_border(over(made, backdrops(192)[backdrop]))
    assert iou(found, made[1]) > {"white": 0.8, "blue": 0.8, "gradient": 0.7}[backdrop]


def test_several_things_and_thin_parts():
    picture = np.full((120, 160, 3), 230, np.uint8)
    picture[30:90, 20:60] = (200, 30, 30)
    picture[40:80, 100:140] = (30, 30, 200)
    picture[60:62, 60:100] = (30, 120, 30)  # a bar of two pixels between them
    truth = (picture != 230).any(axis=-1)
    np.testing.assert_array_equal(cut_border(picture) >= 0.5, truth)
    picture[60:62, 60:100] = 230
    cutout = cut_out(np.dstack([picture, np.full((120, 160), 255, np.uint8)]))
    assert any("2 separate parts" in note for note in cutout.notes)


def test_a_thing_that_is_cut_off_by_the_border_is_cut_out_and_told():
    picture = np.full((120, 100, 4), 255, np.uint8)
    picture[40:, 30:70, :3] = (10, 100, 40)
    cutout = cut_out(picture, "border")
    assert iou(cutout.alpha, picture[..., 0] == 10) == 1.0
    assert cutout.notes == (
        "the object is cut off by the picture's lower border, and will end there: take a picture with all of it",
    )


@pytest.mark.parametrize("seed", range(3))
def test_textured_backgrounds_are_refused(seed):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    assert cut_border(over(shot("duck", "yellow", 4), blocks / 255)) is None


# The order, and what is told


def square(side=64, low=16, high=48, alpha=255):
    picture = np.zeros((side, side, 4), np.uint8)
    picture[low:high, low:high] = (200, 30, 30, alpha)
    return picture


def test_the_pictures_own_alpha_comes_first():
    picture = square()
    picture[..., :3] = np.random.default_rng(0).integers(0, 256, (*picture.shape[:2], 3))  # no plain border
    cutout = cut_out(picture)
    left, top, right, bottom = cutout.window
    assert (cutout.way, cutout.frame, cutout.notes) == ("alpha", (64, 64), ("the object is only 32 pixels long: its details "
            "cannot be seen; take a larger picture",))  # fmt: skip
    np.testing.assert_array_equal(cutout.alpha, picture[top:bottom, left:right, 3] / np.float32(255))
    np.testing.assert_array_equal(cutout.rgb, picture[top:bottom, left:right, :3] / np.float32(255))


def test_round_corners_are_no_mask():
    picture = np.full((100, 100, 4), 255, np.uint8)
    picture[20:90, 20:80, :3] = (10, 100, 40)
    picture[:2, :2, 3] = picture[-2:, -2:, 3] = 0
    cutout = cut_out(picture)
    assert cutout.way == "border"
    assert iou(cutout.alpha, picture[cutout.window[1] : cutout.window[3], cutout.window[0] : cutout.window[2], 0] == 10) == 1.0


def test_an_alpha_channel_that_never_reaches_zero_is_stretched():
    picture = square()
    picture[..., 3] = 127 + picture[..., 3] // 2
    cutout = cut_out(picture)
    assert cutout.notes[0] == "its alpha channel goes from 127 to 254 and is stretched to 0 to 255"
    assert set(np.unique(cutout.alpha).tolist()) == {0.0, 1.0}


def test_values_beyond_an_alpha_channel_s_two_levels_do_not_count():
    """Resizing leaves them beside edges; by the least and the largest value the background was opaque by a seventh."""
    picture = np.full((40, 40, 4), 127, dtype=np.uint8)
    picture[10:30, 10:30, 3] = 230
    picture[9, 10:30, 3], picture[11, 10:30, 3] = 103, 255
    cutout = cut_out(picture)
    assert cutout.notes[0] == "its alpha channel goes from 127 to 230 and is stretched to 0 to 255"
    assert set(np.unique(cutout.alpha).tolist()) == {0.0, 1.0}


def test_a_picture_that_was_trimmed_to_its_object_is_not_cut_off():
    disc = np.zeros((80, 80, 4), np.uint8)
    y, x = np.indices((80, 80)) - 39.5
    disc[x * x + y * y < 40 * 40] = (9, 90, 90, 255)
    assert cut_out(disc).notes == ()
    wide = np.pad(disc, ((9, 9), (9, 9), (0, 0)))
    assert cut_out(wide).notes == ()
    (told,) = cut_out(wide[:60]).notes
    assert told.startswith("the object is cut off by the picture's lower border")


REFUSED = {
    "alpha of an opaque picture": (np.full((32, 32, 4), 255, np.uint8), "alpha", "it has no transparency, so its alpha"),
    "nothing there": (np.full((32, 32, 4), 255, np.uint8), "border", "nothing in it differs from its background"),
    "half transparent": (square(alpha=100), "alpha", "it is transparent everywhere"),
    "a dot": (square(low=30, high=33), "alpha", "there is no object in it"),
    "unknown": (square(), "u2nep", r"unknown mask 'u2nep' \(did you mean u2netp\?\); accepted: auto, alpha, border, grabcut, "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_out(name):
    picture, mask, told = REFUSED[name]
    with pytest.raises(ValueError, match=told):
        cut_out(picture, mask)


@pytest.mark.parametrize("way", ["alpha", "border"])
def test_a_small_thing_in_a_large_picture_keeps_its_pixels(way, monkeypatch):
    monkeypatch.setattr(matting, "WORK", 192)
    side = 3 * 192
    picture = np.full((side, side, 4), 255, np.uint8)
    y, x = np.indices((100, 75))
    texture = ((x + y) % 2 * 60).astype(np.uint8)  # lost where it is reduced
    picture[225:325, 375:450] = np.dstack([texture, texture + 20, texture, np.full_like(texture, 255)])
    truth = np.zeros((side, side), bool)
    truth[225:325, 375:450] = True
    if way == "alpha":
        picture[..., 3] = 255 * truth
    cutout = cut_out(picture)
    left, top, right, bottom = cutout.window
    assert cutout.way == way
    assert cutout.alpha.shape == (bottom - top, right - left)
    assert iou(cutout.alpha, truth[top:bottom, left:right]) > 0.995
    assert cutout.rgb[250 - top : 300 - top, 400 - left : 430 - left, 0].std() > 0.1
    whole = cut_out(picture, whole=True)
    assert whole.window == (0, 0, side, side)
    assert whole.alpha.shape == (192, 192)
    assert iou(whole.alpha, truth[1::3, 1::3]) > 0.95
