"""Figures of shape and surface, against solids, surfaces and pictures whose figures have closed forms."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import trimesh
from asset_helpers import sphere
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation
from scipy.special import j1

from dreamlift.apps import evaluate as evaluating
from dreamlift.export.glb import save_glb
from dreamlift.runs.progress import Plain
from dreamlift.toybox.judging import references, shape
from dreamlift.toybox.judging.judge import Verdict
from dreamlift.toybox.judging.opening import hollow, water_levels
from dreamlift.toybox.judging.pictures import blotchiness, deviation, sharpness, steepness
from dreamlift.toybox.judging.surfaces import bound_of, compared, roughness_deg
from dreamlift.toybox.judging.volume import Fitted, Volume, fit_best, fit_volume, grid_points, volume_iou
from dreamlift.toybox.world.things import CATEGORIES, Description, make_thing
from dreamlift.toybox.world.truth import cell_centers, surface_of
from dreamlift.types import Mesh


def of(found: trimesh.Trimesh) -> Mesh:
    return Mesh(np.asarray(found.vertices, np.float32), np.asarray(found.faces, np.int32))


def joined(*meshes: Mesh) -> Mesh:
    """All in one mesh."""
    first = np.cumsum([0, *[len(each.vertices) for each in meshes]])
    faces = [each.faces + offset for each, offset in zip(meshes, first[:-1], strict=True)]
    return Mesh(np.concatenate([each.vertices for each in meshes]), np.concatenate(faces).astype(np.int32))


def cube(side: float) -> Mesh:
    return of(trimesh.creation.box((side, side, side)))


def flipped(mesh: Mesh) -> Mesh:
    return replace(mesh, faces=np.ascontiguousarray(mesh.faces[:, ::-1]))


def moved(mesh: Mesh, *by: float) -> Mesh:
    return replace(mesh, vertices=mesh.vertices + np.array(by, np.float32))


def cup(height: float = 1.0, outer: float = 0.4, inner: float = 0.34, floor: float = 0.1) -> Mesh:
    """A cup on y = 0, open above: a profile turned about the y axis."""
    profile = [(0, 0), (outer, 0), (outer, height), (inner, height), (inner, floor), (0, floor)]
    found = trimesh.creation.revolve(np.array(profile), sections=64)
    assert found.is_watertight
    return replace(of(found), vertices=np.asarray(found.vertices, np.float32)[:, [0, 2, 1]], faces=of(found).faces[:, ::-1])


# --- volumes


def test_balls_that_overlap_have_the_iou_of_a_lens():
    radius, apart = 0.5, 0.3
    lens = math.pi * (4 * radius + apart) * (2 * radius - apart) ** 2 / 12
    expected = lens / (2 * 4 / 3 * math.pi * radius**3 - lens)
    ball = moved(sphere(32, radius), apart, 0, 0)
    true = (cell_centers(64).norm(dim=-1) < radius).view(64, 64, 64)
    assert volume_iou(ball, true) == pytest.approx(expected, abs=0.01)
    points = grid_points(64)
    points = points[points.norm(dim=-1) < radius]
    volume = Volume(ball)
    found = volume.overlap(points, 2 / 64, torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -apart, 0.0, 0.0]]))
    assert found.tolist() == pytest.approx([expected, 1.0], abs=0.012)
    assert volume.size == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.01)


def test_a_moved_ball_is_fitted_back():
    mesh = sphere(24, 0.7)
    changed = replace(mesh, vertices=(mesh.vertices * 1.3 + [0.1, -0.2, 0.05]).astype(np.float32))
    found = fit_volume(changed, lambda points: points.norm(dim=-1) < 0.7)
    assert found.iou > 0.97
    assert found.scale == pytest.approx(1 / 1.3, rel=0.02)
    assert np.abs(found.apply(changed.vertices).mean(0)).max() < 0.01


def test_a_ball_against_a_cube_of_its_volume():
    """The best ball inside a cube: what lies in both over what lies in either, by counting on a fine grid."""
    axis = (np.arange(120) + 0.5) / 120 * 2 - 1
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    solid, far = np.maximum(np.maximum(abs(x), abs(y)), abs(z)) < 0.5, np.sqrt(x**2 + y**2 + z**2)
    best = max((solid & (far < r)).sum() / (solid | (far < r)).sum() for r in np.linspace(0.45, 0.75, 61))
    found = fit_volume(sphere(24, 0.5), lambda points: points.abs().amax(-1) < 0.5)
    assert found.iou == pytest.approx(best, abs=0.02)


def test_the_member_of_the_largest_overlap_is_chosen_and_a_torn_mesh_has_an_inside():
    ball = sphere(24, 0.6)
    torn = replace(ball, faces=ball.faces[20:])  # without a cap at a pole
    insides = [lambda p: p.abs().amax(-1) < 0.5, lambda p: p.norm(dim=-1) < 0.6, lambda p: p[:, :2].norm(dim=-1) < 0.2]
    index, found = fit_best(torn, insides)
    assert index == 1
    assert found.iou > 0.96


# --- surfaces


def test_chamfer_of_concentric_boxes():
    """From the inner one the gap everywhere; from the outer one the distance to a box, by its formula on a fine grid."""
    inner, outer = 0.4, 0.5
    line = np.linspace(-outer, outer, 401)
    beyond = np.maximum(np.abs(line) - inner, 0)
    back = np.sqrt((outer - inner) ** 2 + beyond[:, None] ** 2 + beyond**2).mean()
    found = compared(bound_of(cube(2 * inner)), bound_of(cube(2 * outer)))
    assert found.chamfer == pytest.approx(0.5 * (outer - inner + back), rel=0.02)
    assert found.normal_deg < 0.1


def test_cavities_count_and_overlaps_do_not():
    outer, inner = 0.6, 0.3
    whole, core = cube(2 * outer), cube(2 * inner)
    shell = compared(bound_of(joined(whole, flipped(core))), bound_of(whole))
    expected = 0.5 * (outer - inner) * inner**2 / (outer**2 + inner**2)
    assert shell.chamfer == pytest.approx(expected, rel=0.06)
    assert compared(bound_of(joined(whole, core)), bound_of(whole)).chamfer == pytest.approx(0, abs=1e-5)


def test_normals_of_a_turned_cube():
    fine = of(trimesh.creation.box((1, 1, 1)).subdivide().subdivide())
    spin = Rotation.from_euler("y", 20, degrees=True).as_matrix().astype(np.float32)
    turned = replace(fine, vertices=fine.vertices @ spin.T)
    assert compared(bound_of(turned), bound_of(fine)).normal_deg == pytest.approx(20, abs=0.2)  # four of six sides


def test_roughness_of_a_sphere():
    found = of(trimesh.creation.icosphere(subdivisions=6, radius=0.7))
    near = 0.03 * 2  # in radii
    assert roughness_deg(bound_of(found)) == pytest.approx(math.degrees(near / math.sqrt(2)), rel=0.06)


def sheet(height, size: int = 160) -> Mesh:
    """A square of side 1 at ``height(x)`` above the plane y = 0, facing up."""
    line = np.linspace(0, 1, size)
    x, z = (each.ravel() for each in np.meshgrid(line, line, indexing="ij"))
    a = (np.arange(size - 1)[:, None] * size + np.arange(size - 1)).ravel()
    faces = np.concatenate([np.stack([a, a + 1, a + size], 1), np.stack([a + 1, a + size + 1, a + size], 1)])
    return Mesh(np.stack([x, height(x), z], 1).astype(np.float32), faces.astype(np.int32))


def test_roughness_of_waves():
    """Slopes a k cos(k x): the mean squared difference over a disk of radius r is (a k)^2 (1 - 2 J1(k r) / (k r))."""
    amplitude, waves, near = 0.002, 12, 0.03
    k = 2 * math.pi * waves
    expected = amplitude * k * math.sqrt(1 - 2 * j1(k * near) / (k * near))
    found = roughness_deg(bound_of(sheet(lambda x: amplitude * np.sin(k * x))))
    assert found == pytest.approx(math.degrees(expected), rel=0.04)


def test_the_two_sides_of_a_thin_wall_are_not_rough():
    assert roughness_deg(bound_of(of(trimesh.creation.box((1.0, 0.01, 1.0))))) < 25  # its edges only
    assert roughness_deg(bound_of(sheet(lambda x: 0 * x))) == pytest.approx(0, abs=0.1)


# --- openings


def test_the_hollow_of_a_cup_with_and_without_a_lid():
    vessel = cup()
    assert hollow(vessel) == pytest.approx(0.9, abs=1e-5)
    assert hollow(moved(replace(vessel, vertices=vessel.vertices * 3), 5, -2, 1)) == pytest.approx(0.9, abs=1e-5)
    lid = of(trimesh.creation.box((0.9, 0.02, 0.9)))
    assert hollow(joined(vessel, moved(lid, 0, 1.0, 0))) == 0
    assert hollow(joined(vessel, moved(of(trimesh.creation.box((0.6, 0.02, 0.6))), 0, 0.5, 0))) == pytest.approx(0.49, abs=0.01)
    assert hollow(cup(floor=0.97)) == 0  # a dent of 0.03 is none
    assert hollow(sphere(16)) == 0


def test_what_stands_above_the_rim_changes_nothing():
    handle = moved(of(trimesh.creation.box((0.1, 0.6, 0.1))), 0.45, 1.0, 0)  # on the wall
    assert hollow(joined(cup(), handle)) == pytest.approx(0.9 / 1.3, abs=1e-3)
    notch = cup()
    high = notch.vertices[:, 1] > 0.99
    aside = notch.vertices[:, 0] > 0.2
    notch = replace(notch, vertices=notch.vertices - np.array([0, 0.4, 0], np.float32) * (high & aside)[:, None])
    assert hollow(notch) == pytest.approx(0.5, abs=0.05)  # it runs over at the lowest place of the rim


def test_water_stands_as_high_as_the_lowest_way_out():
    """Against relaxation to the fixed point of w = max(h, min over the neighbours of w)."""
    rng = np.random.default_rng(0)
    heights, outlets = rng.random((24, 24)), rng.random((24, 24)) > 0.99
    out = outlets.copy()
    out[[0, -1]] = out[:, [0, -1]] = True
    levels = np.where(out, heights, 2.0)
    for _ in range(600):
        padded = np.pad(levels, 1, constant_values=2.0)
        least = np.minimum.reduce([padded[2:, 1:-1], padded[:-2, 1:-1], padded[1:-1, 2:], padded[1:-1, :-2]])
        levels = np.where(out, heights, np.maximum(heights, np.minimum(levels, least)))
    assert np.array_equal(water_levels(heights, outlets), levels)


def test_a_tube_is_no_vessel_and_a_cup_may_be_torn():
    tube = of(trimesh.creation.annulus(r_min=0.3, r_max=0.4, height=1.0))
    assert hollow(replace(tube, vertices=tube.vertices[:, [0, 2, 1]])) == 0
    fine = trimesh.Trimesh(cup().vertices, cup().faces, process=False).subdivide_to_size(0.05)
    vessel = of(fine)
    keep = np.random.default_rng(0).random(len(vessel.faces)) > 0.01
    assert hollow(replace(vessel, faces=vessel.faces[keep])) == pytest.approx(0.9, abs=1e-5)


# --- pictures


def test_blotchiness_of_noise():
    rng = np.random.default_rng(0)
    flat = np.full((1, 96, 96, 3), 0.5)
    noise = torch.from_numpy(flat + 0.05 * rng.standard_normal(flat.shape))
    ramp = torch.from_numpy(flat + 0.01 * (np.arange(96) - 48)[None, None, :, None])
    opaque = torch.ones(1, 96, 96, dtype=torch.bool)
    own = float(deviation(noise)[:, 8:-8, 8:-8].median())
    assert own == pytest.approx(0.05 * math.sqrt(80 / 81), rel=0.02)
    step = 0.01 * math.sqrt((9**2 - 1) / 12)  # of nine values in a row
    assert blotchiness(noise, ramp, torch.from_numpy(flat), opaque) == pytest.approx(own / step, rel=0.02)
    assert blotchiness(ramp, torch.from_numpy(flat), torch.from_numpy(flat), opaque) == pytest.approx(step * 255, rel=0.01)
    assert math.isnan(blotchiness(noise, ramp, ramp, opaque))  # nowhere one colour
    assert math.isnan(blotchiness(noise, ramp, torch.from_numpy(flat), ~opaque))


def test_sharpness_of_blurred_steps():
    hard = np.zeros((96, 96, 3))
    hard[:, 48:] = (0.8, 0.3, 0.5)
    opaque = torch.ones(1, 96, 96, dtype=torch.bool)
    opaque, hard = opaque.expand(2, 96, 96), np.stack([hard, hard])
    true = torch.from_numpy(hard)
    assert float(steepness(true)[0, 48, 48]) == pytest.approx(0.5)
    for sigma in (1.5, 2.0):
        soft = torch.from_numpy(gaussian_filter1d(hard, sigma, axis=2))
        # By central differences, over two pixels; the window cuts off the ends of a wide edge.
        steep = 0.5 * math.erf(1 / (sigma * math.sqrt(2)))
        assert sharpness(soft, true, opaque) == pytest.approx(steep / 0.5, rel=0.12)
    faint = torch.from_numpy(0.02 * hard)
    assert sharpness(faint, true, opaque) < 0.3  # an edge that is hardly there
    assert math.isnan(sharpness(true, torch.from_numpy(0 * hard), opaque))


# --- whole assets


class Named:
    """A judge that sees mugs everywhere."""

    categories = ("mug", "chair")

    def judge(self, pictures: torch.Tensor) -> Verdict:
        rows = len(pictures)
        return Verdict(torch.tensor([[0.9, 0.1]]).expand(rows, 2), *(torch.zeros(rows, 1) for _ in range(4)))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a mug", Description("mug", "red")),
        ("a tall blue cup", Description("mug", "blue", "tall")),
        ("a white duck wearing a red hat", Description("duck", "white", hat="red")),
        ("a mug wearing a red hat", Description("mug", "red")),  # it has no head
        ("a green car on a wooden box", Description("car", "green", box=True)),
        ("a hamburger", None),
    ],
)
def test_what_a_prompt_describes(prompt, expected):
    assert shape.described(prompt) == expected


def test_a_moved_thing_is_the_fitted_mesh():
    thing = make_thing("mug", "red", 3, "tall")
    fit = Fitted(1.1, (0.1, -0.2, 0.05), 1.0)
    points = grid_points(24)
    back = (points - torch.tensor(fit.shift)) / fit.scale
    assert torch.equal(shape.moved(thing, fit).occupancy(points), thing.occupancy(back))


def test_a_true_mug_and_one_with_a_lid(monkeypatch):
    for name, value in (("MEMBERS", 2), ("SIZE", 96), ("VIEWS", 2), ("RESOLUTION", 48)):
        monkeypatch.setattr(shape, name, value)
    shape.members.cache_clear()
    wanted = Description("mug", "red", "short")  # unlike those of other tests, whose members are cached
    thing = make_thing("mug", "red", 1, "short")
    found = shape.shape_of_thing(thing, wanted, Named())
    assert found.member == 1
    best = found.shape
    assert best.volume_iou > 0.97
    assert best.chamfer_inside < 0.004
    assert best.hollow_ratio == pytest.approx(1.0, abs=0.1)
    assert best.normal_deg < 2
    assert best.roughness == pytest.approx(1.0, abs=0.1)
    assert best.sharpness == pytest.approx(1.0, abs=0.1)
    assert best.blotchiness < 1.2
    assert (best.clay_20, best.clay_55) == (1.0, 1.0)
    mug = surface_of(thing, 48)
    low, high = mug.vertices.min(0), mug.vertices.max(0)
    plug = of(trimesh.creation.cylinder(radius=0.45 * (high - low)[2], height=0.1))
    lid = moved(replace(plug, vertices=plug.vertices[:, [0, 2, 1]] * [1, -1, 1]), *mug.vertices.mean(0) * [1, 0, 1])
    closed = joined(mug, moved(lid, 0, high[1] - 0.05, 0))
    assert hollow(closed) < 0.1 * best.hollow
    shape.members.cache_clear()
    shape.member_surface.cache_clear()
    shape.true_hollow.cache_clear()
    shape.cameras.cache_clear()


@pytest.mark.parametrize(
    ("kind", "depth"), [("mug", 0.55), ("goblet", 0.35), ("bowl", 0.22), ("vase", 0.12), ("watering_can", 0.21), ("teapot", 0)]
)
def test_the_worlds_vessels_are_open(kind, depth):
    """Also vases under their flowers and cans under their arch; teapots have lids."""
    found = [hollow(surface_of(make_thing(kind, "red", seed), 64)) for seed in range(2)]
    assert np.mean(found) == pytest.approx(depth, abs=0.05)
    assert (np.mean(found) > 0.1) == (kind in shape.VESSELS)


def test_evaluate_adds_the_figures_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "load_judge", lambda: (Named(), {"category": 0.9}))
    monkeypatch.setattr(evaluating, "score_mesh", lambda *_: scored())
    figures = dict.fromkeys(shape.FIGURES, 0.25)
    monkeypatch.setattr(evaluating, "shape_of", lambda *_: shape.Shaped(shape.Shape(**figures), 7, Fitted(1, (0, 0, 0), 0.25)))
    save_glb(cup(), tmp_path / "cup.glb")
    items = [evaluating.Item(name, tmp_path / "cup.glb", name, math.nan, math.nan) for name in ("a red mug", "a hamburger")]
    report, found = evaluating.evaluate(items, Plain(), shape=True)
    row, other = report["runs"]
    assert (row["volume_iou"], row["member"]) == (0.25, 7)
    assert set(row["true"]) == set(shape.FIGURES)
    assert math.isnan(other["volume_iou"])
    assert report["mean"]["hollow"] == 0.25
    printed = evaluating.describe(report).splitlines()
    assert any(line.startswith("shape ") and line.split()[1:] == list(references.HEADS.values()) for line in printed)
    assert any("a true one" in line for line in printed)
    assert max(map(len, printed)) < 128
    (tmp_path / "report").mkdir()
    evaluating.save_report(report, found, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text())["runs"][1]["volume_iou"] is None
    assert "volume_iou" in (tmp_path / "report" / "index.html").read_text()
    quick = evaluating.evaluate(items, Plain())[0]
    assert "volume_iou" not in quick["runs"][0]
    assert "volume_iou" not in quick["mean"]


def scored():
    from dreamlift.toybox.judging.score import Score, Scored

    picture = torch.zeros(8, 8, 8, 3)
    return Scored(Score(**dict.fromkeys(Score.__dataclass_fields__, 0.5)), picture, picture, ("mug",) * 8, torch.ones(8, 2))


def test_true_things_of_every_kind_have_figures():
    table = json.loads(references.TABLE.read_text())
    assert set(table) == set(CATEGORIES)
    for kind in CATEGORIES:
        found = references.true_figures(Description(kind, "red"), Named())
        assert 0.6 < found["volume_iou"] <= 1, kind
        assert found["chamfer_inside"] < 0.05, kind
    mug = references.true_figures(Description("mug", "blue"), Named())
    assert mug["hollow"] > 0.4
    assert asdict(shape.Shape(**mug))["hollow_ratio"] == pytest.approx(1.0, abs=0.2)


def test_a_true_thing_on_a_box_is_measured_with_its_box(monkeypatch):
    seen = []

    def measured(thing, wanted, judge):
        seen.append((len(thing.parts), wanted))
        return shape.Shaped(shape.Shape(**dict.fromkeys(shape.FIGURES, 0.5)), 3, Fitted(1, (0, 0, 0), 0.5))

    monkeypatch.setattr(references, "shape_of_thing", measured)
    wanted, judge = Description("goblet", "orange", box=True), Named()
    for _ in range(2):
        assert references.true_figures(wanted, judge) == dict.fromkeys(shape.FIGURES, 0.5)
    assert seen == [(len(make_thing("goblet", "orange", references.SEED, "", "", True).parts), wanted)]  # once
