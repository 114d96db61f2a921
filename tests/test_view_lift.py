"""The lift of a picture: rendering against closed forms and projections, its training data, and its file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from dreamlift.cameras import centered, orbit_cameras, project, rays_of
from dreamlift.priors.zero123.lift import (
    CELL,
    DENSITY,
    HALF_DEPTH,
    SCALE,
    SIDE,
    SLICES,
    Lift,
    Volume,
    load_lift,
    make_lift,
    save_lift,
    see,
    shown,
)
from dreamlift.toybox.training.lift import LiftTraining, draw_lesson, draw_points, lift_loss, solid_error, target_rays, widened
from dreamlift.toybox.training.pairs import EXTENT, POINTS, Pairs, frames_of, make_object, make_pairs, solid_of, view_cameras


@pytest.fixture(scope="module")
def known() -> Pairs:
    """Three objects at 64 pixels."""
    return make_pairs(range(3))


def volume(grid, frame=(0.0, 0.0, SCALE), elevation=0.0, far=1e6):
    angle = torch.tensor([elevation])
    return Volume(grid[None], torch.zeros(1, 4, 64, 64), torch.tensor([frame]), torch.tensor([1 / far]), angle, angle)


def test_a_slab_has_the_opacity_and_the_depth_of_its_closed_form():
    """Constant density s over a depth d: opacity 1 - exp(-s d); mean depth of what absorbs, 1/s - d exp(-s d) / opacity."""
    grid = torch.zeros(CELL, SLICES, SIDE, SIDE)
    grid[0, 8:24] = 0.1  # from -0.5 to 0.5 in depth
    grid[1:4] = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1, 1)
    origins, directions = torch.tensor([[[0.1, 0.05, 3.0]]]), torch.tensor([[[0.0, 0.0, -1.0]]])
    found = [see(volume(grid), origins, directions, torch.full((1, 1), shift)) for shift in (0.1, 0.5, 0.9)]
    s, d = DENSITY * 0.1, 2 * HALF_DEPTH * 16 / SLICES
    opacity = 1 - math.exp(-s * d)
    assert torch.stack([each.opacity for each in found]).mean() == pytest.approx(opacity, abs=0.01)
    assert (found[1].rgb / found[1].opacity)[0, 0].tolist() == pytest.approx([0.2, 0.5, 0.9], abs=1e-5)
    place = torch.stack([each.place[0, 0] / each.opacity[0, 0] for each in found]).mean(0)
    mean_depth = 1 / s - d * math.exp(-s * d) / opacity
    assert place.tolist() == pytest.approx([0.1, 0.05, 0.5 - mean_depth], abs=0.02)


@pytest.mark.parametrize(("azimuth", "elevation", "turn"), [(0.0, 0.0, 0.0), (0.8, 0.5, 1.3), (-2.0, -0.1, 2.5)])
def test_a_lump_is_seen_where_it_projects_to(azimuth, elevation, turn):
    """A lump of the grid at a known point, against the projection of that point by another camera, and its picture's own."""
    frame, far = (0.1, -0.15, 0.9), 2.8
    row, column, slice_ = 9, 20, 22
    grid = torch.zeros(CELL, SLICES, SIDE, SIDE)
    grid[0, slice_ - 1 : slice_ + 2, row - 1 : row + 2, column - 1 : column + 2] = 0.05  # thin: all of it is seen
    u, v, w = ((index + 0.5) / SIDE * 2 - 1 for index in (column, row, slice_))
    # Along the axes of the picture's camera; depths are in units of the picture's own frame, like far.
    right, up, away = (u - frame[0]) / frame[2], (frame[1] - v) / frame[2], w * HALF_DEPTH * SCALE / frame[2]
    own = orbit_cameras(*torch.tensor([[azimuth], [elevation], [3.0], [0.5]]), 64)
    nearer = 1 + w * HALF_DEPTH / far
    right, up = right * nearer, up * nearer
    c2w = own.c2w[0, :3, :3]  # columns: right, down, forward
    point = c2w @ torch.tensor([right, -up, away])
    there = view_cameras(torch.tensor([azimuth + turn]), torch.tensor([0.3]), 64)
    found = shown(volume(grid, frame, elevation, far), there, torch.tensor([azimuth]), torch.tensor([[1.0, 1.0, 1.0]]))
    opacity = (found[0, 6] + 1) / 2
    mesh = torch.stack(torch.meshgrid(*[torch.arange(SIDE) + 0.5] * 2, indexing="ij"))
    centre = (mesh * opacity).sum((1, 2)) / opacity.sum() * 2
    pixel = project(there, point[None])[0][0, 0]
    assert centre.flip(0).tolist() == pytest.approx(pixel.tolist(), abs=0.7)
    s, c = math.sin(azimuth), math.cos(azimuth)
    place = found[0, 3:6].flatten(1).sum(1) - (opacity - 1).sum()
    wanted = [float(point[0] * c - point[2] * s), float(point[1]), float(point[0] * s + point[2] * c)]
    assert (place / opacity.sum()).tolist() == pytest.approx(wanted, abs=0.03)
    corner = found[0, :, 0, 0]
    assert corner.tolist() == pytest.approx([1, 1, 1, -1, -1, -1, -1], abs=1e-6)  # the backdrop, no place, nothing


def test_cells_take_their_share_of_the_pictures_colours():
    """A plane of cells that face the picture's camera, half of whose colour is the picture's, where it has one."""
    grid = torch.zeros(CELL, SLICES, SIDE, SIDE)
    grid[0, 14:18], grid[1], grid[4] = 50.0, 0.2, 0.5
    picture = torch.zeros(1, 4, 64, 64)
    picture[0, 0, :, :32], picture[0, 3, :, :32] = 0.8, 1.0  # red on the left, nothing on the right
    origins, directions = torch.tensor([[[-0.5, 0.1, 3.0], [0.5, 0.1, 3.0]]]), torch.tensor([[[0.0, 0.0, -1.0]] * 2])
    found = see(volume(grid)._replace(picture=picture), origins, directions)
    assert found.rgb[0, 0].tolist() == pytest.approx([0.5, 0.0 + 0.5 * 0.0, 0.0], abs=1e-4)
    assert found.rgb[0, 1].tolist() == pytest.approx([0.2, 0.0, 0.0], abs=1e-4)


def test_frames_tell_where_the_origin_is_and_how_large_things_are():
    cameras = orbit_cameras(*torch.tensor([[0.3, 2.0], [0.4, -0.1], [4.0, 3.0], [0.5, 0.7]]), 64)
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[:, 20:50, 25:40] = True
    cameras = centered(cameras, masks, torch.tensor([0.78, 0.7]))
    found = frames_of(cameras)
    size = 0.01  # seen from the side, at the origin's depth
    right = cameras.c2w[:, :3, 0] * size
    for index in range(2):
        pixels, _ = project(cameras, torch.stack([torch.zeros(3), right[index]]))
        centre, side = pixels[index] / 32 - 1
        assert found[index, :2].tolist() == pytest.approx(centre.tolist(), abs=1e-4)
        assert float(found[index, 2]) == pytest.approx(float(side[0] - centre[0]) / size, rel=1e-3)


def test_rays_of_targets_are_those_of_their_cameras():
    azimuth, elevation = np.array([0.7, -2.0]), np.array([0.4, -0.2])
    cameras = view_cameras(*(torch.from_numpy(v).float() for v in (azimuth, elevation)), SIDE)
    rays = rays_of(cameras)
    for row, column in ((0, 0), (5, 20), (31, 16)):
        u, v = ((index + 0.5) / SIDE * 2 - 1 for index in (column, row))
        origins, directions = target_rays(np.stack([azimuth, elevation], axis=-1), np.array([u, u]), np.array([v, v]))
        assert np.allclose(origins, rays.origins[:, row, column], atol=1e-5)
        assert np.allclose(directions, rays.directions[:, row, column], atol=1e-5)


def test_the_places_of_a_lesson_lie_on_its_rays_and_project_into_its_picture(known):
    lesson = draw_lesson(known, LiftTraining(batch=24, rays=200), 0)
    full = lesson.opacity[..., 0] > 0.999
    assert 0.05 < full.float().mean() < 0.6
    away = lesson.place - lesson.origins
    off = (away - (away * lesson.directions).sum(-1, keepdim=True) * lesson.directions).norm(dim=-1)
    assert off[full].median() < 0.01
    # Seen from as far as cameras are on the average, along the axes of the reference, the object's points are where its picture
    # is opaque.
    e = lesson.elevation[:, None]
    x, y, z = lesson.place.unbind(-1)
    up = y * e.cos() - z * e.sin()
    away = (-y * e.sin() - z * e.cos()) * lesson.frame[:, None, 2] / SCALE
    scale = lesson.frame[:, None, 2] / (1 + away / 3.3)
    u, v = lesson.frame[:, None, 0] + scale * x, lesson.frame[:, None, 1] - scale * up
    seen = torch.nn.functional.grid_sample(lesson.pictures[:, 3:], torch.stack([u, v], -1)[:, None], align_corners=False)[
        :, 0, 0
    ]
    assert seen[full].gt(0.5).float().mean() > 0.95  # upside down it is .73
    again = draw_lesson(known, LiftTraining(batch=24, rays=200), 0)
    assert all(torch.equal(a, b) for a, b in zip(lesson, again, strict=True))


def test_points_of_a_lesson_are_solid_where_the_picture_shows_the_object(known):
    lesson = draw_lesson(known, LiftTraining(batch=24, rays=8, points=2000), 0)
    e = lesson.elevation[:, None]
    x, y, z = lesson.points.unbind(-1)
    away = (-y * e.sin() - z * e.cos()) * lesson.frame[:, None, 2] / SCALE
    scale = lesson.frame[:, None, 2] / (1 + away / 3.3)
    u, v = lesson.frame[:, None, 0] + scale * x, lesson.frame[:, None, 1] - scale * (y * e.cos() - z * e.sin())
    where = torch.stack([u, v], -1)[:, None]
    seen = torch.nn.functional.grid_sample(lesson.pictures[:, 3:], where, align_corners=False)[:, 0, 0] > 0.5
    assert seen[lesson.solid > 0].float().mean() > 0.95
    assert seen[lesson.solid == 0].float().mean() < 0.6


def test_drawn_points_are_weighted_to_a_uniform_draw():
    rng = np.random.default_rng(0)
    solid = np.zeros((2, POINTS, POINTS, POINTS), dtype=bool)
    solid[0, 10:14, 20:25, 3:9] = True
    solid[1, 0:20, 0:3, 30:40] = True
    index, found, weight = draw_points(rng, np.packbits(solid.reshape(2, -1), axis=1), 200_000)
    assert np.array_equal(found, np.take_along_axis(solid.reshape(2, -1), index, axis=1))
    assert weight.mean(axis=1) == pytest.approx([1.0, 1.0], rel=0.02)
    assert (weight * found).mean(axis=1) == pytest.approx(solid.mean(axis=(1, 2, 3)), rel=0.03)
    assert found.mean() > 10 * solid.mean()
    empty = np.zeros((1, POINTS**3 // 8), dtype=np.uint8)
    assert not draw_points(rng, empty, 100)[1].any()


def test_grids_are_widened_as_by_a_box():
    solid = np.random.default_rng(0).random((2, 9, 10, 11)) < 0.01
    for steps in (1, 3):
        brute = [ndimage.binary_dilation(each, np.ones((2 * steps + 1,) * 3)) for each in solid]
        assert np.array_equal(widened(solid, steps), np.stack(brute))


def test_the_error_of_solids_is_the_cross_entropy_of_their_opacity():
    grid = torch.full((1, CELL, SLICES, SIDE, SIDE), 0.3)
    one = torch.ones(1)
    even = Volume(grid, torch.zeros(1, 4, 64, 64), torch.tensor([[0.0, 0.0, SCALE]]), 0.2 * one, 0.3 * one, 0.3 * one)
    found = solid_error(even, torch.tensor([[[0.1, 0.0, 0.1], [0.1, 0.0, 0.1], [5.0, 0.0, 0.0]]]), torch.tensor([[1.0, 0, 0]]))
    chance = 1 - 0.5 ** (0.3 / 0.15)
    assert found[0].tolist() == pytest.approx([-math.log(chance), -math.log(1 - chance), 0.0], rel=1e-4)


def test_an_object_is_solid_at_the_points_of_its_grid_that_are_inside():
    thing = make_object(4)
    bits = np.unpackbits(solid_of(thing)).reshape(POINTS, POINTS, POINTS)
    for i, j, k in ((20, 20, 20), (5, 20, 20), (20, 12, 26), (0, 0, 0)):
        point = torch.tensor([[i, j, k]]) / (POINTS - 1) * 2 * EXTENT - EXTENT
        assert bits[i, j, k] == bool(thing.sdf(point) < 0)
    assert 0.005 < bits.mean() < 0.3


def test_the_elevation_is_used_where_it_is_told():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lift = Lift().eval()
        for weight in lift.parameters():  # new convolutions beside the identities are zero
            weight.data += 0.02 * torch.randn(weight.shape)
    pictures = torch.rand(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    told = torch.tensor([0.9, 0.9])
    with torch.no_grad():
        found = lift(pictures[:1].expand(2, -1, -1, -1), told, torch.tensor([1.0, 0.0]))
    assert found.elevation[0] == told[0]
    assert found.elevation[1] == found.estimate[1]
    assert found.grid.shape == (2, CELL, SLICES, SIDE, SIDE)
    assert float((found.grid[0] - found.grid[1]).abs().mean()) > 1e-5


def test_loss_falls_on_one_lesson_and_reaches_all_weights(known):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lift = Lift((16, 16, 16, 16), 8)
    lesson = draw_lesson(known, LiftTraining(batch=4, rays=128), 0)
    optimizer, losses = torch.optim.Adam(lift.parameters(), 5e-3), []
    for _ in range(25):
        loss = lift_loss(lift, lesson)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in lift.parameters())


def test_a_saved_lift_is_read_back_and_others_are_refused(tmp_path):
    lift = Lift((16, 16, 16, 16), 8)
    save_lift(lift, tmp_path, torch.float32)
    again = load_lift(tmp_path)
    pictures, angle = torch.rand(1, 4, 64, 64), torch.tensor([0.3])
    with torch.no_grad():
        one, other = (each(pictures, angle, torch.ones(1)) for each in (lift, again))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(p.requires_grad for p in again.parameters())
    for config, state in (({}, {}), ({"widths": [16] * 4, "told": 8}, {}), ({"widths": 3, "told": 8}, lift.state_dict())):
        with pytest.raises(ValueError, match="lift of the model is not that of toybox-view"):
            make_lift(config, state)
