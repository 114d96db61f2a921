"""The toybox: shapes against closed forms, pictures against brute force, and the conventions of its things."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from dreamlift.cameras import orbit_cameras, rays_of, turntable
from dreamlift.meshing.geometry import is_closed, signed_volume
from dreamlift.texturing.draw import render_mesh
from dreamlift.toybox.world import sdf, truth
from dreamlift.toybox.world.parts import COLORS, PATTERNS, Part, Thing
from dreamlift.toybox.world.render import (
    Background,
    Lighting,
    is_symmetric,
    render,
    sample_pictures,
    sample_views,
    starting_depths,
    trace,
)
from dreamlift.toybox.world.things import (
    ATTRIBUTES,
    CATEGORIES,
    FIT_RADIUS,
    GROUPS,
    SYNONYMS,
    Description,
    can_wear,
    describe,
    held_out,
    make_thing,
)  # fmt: skip

SHAPES = {  # name -> a shape within [-1, 1]^3 and its volume
    "sphere": (sdf.sphere(0.7), 4 / 3 * math.pi * 0.7**3),
    "ellipsoid": (sdf.ellipsoid(0.9, 0.5, 0.6), 4 / 3 * math.pi * 0.9 * 0.5 * 0.6),
    "box": (sdf.box(0.8, 0.5, 0.3), 8 * 0.8 * 0.5 * 0.3),
    "cylinder": (sdf.cylinder(0.6, 0.4), math.pi * 0.6**2 * 0.8),
    "cone": (sdf.cone(0.7, 0.3, 0.5), math.pi / 3 * 1.0 * (0.7**2 + 0.7 * 0.3 + 0.3**2)),
    "bar": (sdf.bar((-0.5, 0.0, 0.0), (0.5, 0.0, 0.0), 0.3), math.pi * 0.3**2 * 1.0 + 4 / 3 * math.pi * 0.3**3),
    "torus": (sdf.torus(0.6, 0.25), 2 * math.pi**2 * 0.6 * 0.25**2),
    "prism": (sdf.prism([(-0.8, -0.5), (0.8, -0.5), (0.0, 0.7)], 0.4), 0.5 * 1.6 * 1.2 * 0.8),
    "ogive": (sdf.ogive(0.5, 0.5), 4 / 3 * math.pi * 0.5**3),  # as high as wide, it is a ball
    "turned box": (sdf.place(sdf.box(0.6, 0.3, 0.2), (0.1, 0.0, -0.1), (20.0, 50.0, -70.0)), 8 * 0.6 * 0.3 * 0.2),
    "hollowed": (sdf.difference(sdf.sphere(0.8), sdf.sphere(0.5)), 4 / 3 * math.pi * (0.8**3 - 0.5**3)),
}


def cube(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def thing_of(shape: sdf.Shape, color: str = "red") -> Thing:
    return Thing("toy", color, (Part("body", shape, COLORS[color]),))


@pytest.mark.parametrize("name", SHAPES)
def test_occupied_volume_matches_the_closed_form(name: str) -> None:
    shape, volume = SHAPES[name]
    count = 200_000
    share = float(thing_of(shape).occupancy(cube(count)).float().mean())
    spread = 8.0 * math.sqrt(volume / 8.0 * (1.0 - volume / 8.0) / count)
    assert abs(8.0 * share - volume) < 4.5 * spread


def test_exact_distances_worked_by_hand() -> None:
    def at(shape: sdf.Shape, *point: float) -> float:
        return float(shape(*(torch.tensor([value]) for value in point)))

    assert at(sdf.sphere(0.5), 2.0, 0.0, 0.0) == pytest.approx(1.5)
    assert at(sdf.box(1.0, 1.0, 1.0), 4.0, 5.0, 0.0) == pytest.approx(5.0)
    assert at(sdf.box(1.0, 1.0, 1.0, 0.2), 0.0, 0.0, 0.5) == pytest.approx(-0.5)
    assert at(sdf.cylinder(1.0, 2.0), 4.0, 6.0, 0.0) == pytest.approx(5.0)
    assert at(sdf.cone(1.0, 1.0, 2.0), 4.0, 6.0, 0.0) == pytest.approx(5.0)
    assert at(sdf.torus(1.0, 0.2), 0.0, 3.0, 0.0) == pytest.approx(1.8)
    # A quarter turn about z lays an upright cylinder along x; one about y brings +z to +x.
    assert at(sdf.place(sdf.cylinder(0.1, 1.0), turn_deg=(0.0, 0.0, 90.0)), 1.5, 0.0, 0.0) == pytest.approx(0.5)
    tip = sdf.place(sdf.bar((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), 0.1), turn_deg=(0.0, 90.0, 0.0))
    assert at(tip, 1.5, 0.0, 0.0) == pytest.approx(0.4, abs=1e-6)


def test_smooth_minimum_never_exceeds_the_minimum_and_equals_it_far_from_the_crease() -> None:
    a, b = cube(1000).unbind(-1)[:2]
    smooth, plain = sdf.smooth_minimum(a, b, 0.2), torch.minimum(a, b)
    far = (a - b).abs() > 0.2
    assert bool((smooth <= plain).all())
    torch.testing.assert_close(smooth[far], plain[far])
    assert float((plain - smooth).max()) <= 0.05 + 1e-6  # a quarter of the radius, where a = b


@pytest.mark.parametrize("category", CATEGORIES)
def test_distances_are_lipschitz(category: str) -> None:
    points = cube(6000).double()
    step = 1e-5 * torch.nn.functional.normalize(cube(6000, 1).double(), dim=-1)
    for seed in range(2):
        thing = make_thing(category, "blue", seed)
        slope = (thing.sdf(points + step) - thing.sdf(points)).abs() / step.norm(dim=-1)
        assert float(slope.max()) <= 1.05


@pytest.mark.parametrize("category", CATEGORIES)
def test_things_are_centred_and_fit_their_sphere(category: str) -> None:
    line = torch.linspace(-1.0, 1.0, 48)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).reshape(-1, 3)
    thing = make_thing(category, "blue", 5)
    near = grid[thing.sdf(grid) < 0.015]  # thin tips lie between the samples, so count what nearly touches
    assert FIT_RADIUS - 0.06 < float(near.norm(dim=-1).max()) < FIT_RADIUS + 0.045
    assert float((0.5 * (near.amin(0) + near.amax(0))).abs().max()) < 0.05


def first_occupied(thing: Thing, origins: Tensor, directions: Tensor, step: float = 0.008) -> Tensor:
    """Depth ``(N,)`` of the first of densely spaced samples that is inside; infinite where none is."""
    depths = torch.arange(float(origins[0].norm()) - 1.0, float(origins[0].norm()) + 1.0, step)
    points = origins[:, None] + depths[None, :, None] * directions[:, None]
    inside = thing.occupancy(points.reshape(-1, 3)).view(len(origins), -1)
    return torch.where(inside.any(1), depths[inside.float().argmax(1)], torch.full((len(origins),), math.inf))


@pytest.mark.parametrize("category", CATEGORIES)
def test_traced_pictures_match_dense_marching(category: str) -> None:
    thing = make_thing(category, "green", 4)
    azimuth, elevation, distance, fov = torch.tensor([[0.8], [0.4], [2.5], [0.8]])
    cameras = orbit_cameras(azimuth, elevation, distance, fov, 24)
    picture = render(thing, cameras, supersample=1)
    bundle = rays_of(cameras)
    brute = first_occupied(thing, bundle.origins.reshape(-1, 3), bundle.directions.reshape(-1, 3))
    seen, expected = picture.opacity.reshape(-1) > 0.5, brute.isfinite()
    # Rays that graze an edge may go either way: a hit is declared from a distance of 0.002, of up to 0.01 at the last.
    assert int((seen != expected).sum()) <= 0.05 * int(expected.sum())
    both = seen & expected
    error = (picture.depth.reshape(-1) - brute)[both].abs()
    assert float(error.median()) < 0.012
    assert float((error < 0.05).float().mean()) > 0.94


def test_the_shared_first_march_changes_no_hit() -> None:
    thing, cameras = make_thing("chair", "red", 0), turntable(2, size=64)
    bundle = rays_of(cameras)
    origins, directions = bundle.origins.reshape(-1, 3), bundle.directions.reshape(-1, 3)
    plain, _ = trace(thing, origins, directions, torch.zeros(len(origins)))
    skipping, _ = trace(thing, origins, directions, starting_depths(thing, cameras).reshape(-1))
    one, other = set(plain.tolist()), set(skipping.tolist())
    assert len(one ^ other) <= 0.01 * len(one)


def test_normals_of_a_ball_point_outward() -> None:
    picture = render(thing_of(sdf.sphere(0.8)), turntable(3, size=32), supersample=1)
    bundle = rays_of(turntable(3, size=32))
    seen = picture.opacity[..., 0] > 0.5
    points = (bundle.origins + picture.depth * bundle.directions)[seen]
    cosine = (torch.nn.functional.normalize(points, dim=-1) * picture.normal[seen]).sum(-1)
    assert float(cosine.min()) > 0.99


def part_center(category: str, name: str, seed: int) -> Tensor:
    """Mean position ``(3,)`` of the surface that a part makes or paints."""
    thing, points = make_thing(category, "purple", seed), cube(60_000)
    points = points[thing.sdf(points).abs() < 0.03]
    index = [part.name for part in thing.parts].index(name)
    return points[thing.part_labels(points) == index].mean(0)


@pytest.mark.parametrize(
    ("category", "part", "axis", "sign"),
    [
        ("mug", "handle", 0, 1),
        ("teapot", "spout", 0, 1),
        ("teapot", "handle", 0, -1),
        ("chair", "back", 2, -1),
        ("car", "lights", 2, 1),
        ("duck", "beak", 2, 1),
        ("airplane", "cockpit", 2, 1),
        ("robot", "eyes", 2, 1),
        ("house", "door", 2, 1),
        ("snowman", "nose", 2, 1),
        ("rocket", "porthole", 2, 1),
    ],
)
def test_things_face_the_front(category: str, part: str, axis: int, sign: int) -> None:
    for seed in range(2):
        assert sign * float(part_center(category, part, seed)[axis]) > 0.1


def test_the_mug_has_its_only_handle_on_plus_x_and_is_hollow() -> None:
    thing = make_thing("mug", "red", 1)
    points = cube(100_000)
    inside = points[thing.occupancy(points)]
    right, left = inside[inside[:, 0] > inside[:, 0].max() - 0.1], inside[inside[:, 0] < inside[:, 0].min() + 0.1]
    assert float(right[:, 2].abs().max()) < 0.15 < float(left[:, 2].abs().max())
    assert not bool(thing.occupancy(part_center("mug", "inside", 1)[None]))


def test_paint_recolours_without_changing_the_shape() -> None:
    body = Part("body", sdf.sphere(0.6), COLORS["red"])
    patch = Part("patch", sdf.place(sdf.sphere(0.3), (0.0, 0.0, 0.6)), COLORS["blue"], paint=True)
    bare, painted, points = Thing("toy", "red", (body,)), Thing("toy", "red", (body, patch)), cube(500)
    torch.testing.assert_close(bare.sdf(points), painted.sdf(points))
    poles = torch.tensor([[0.0, 0.0, 0.6], [0.0, 0.0, -0.6]])
    assert painted.part_labels(poles).tolist() == [1, 0]
    torch.testing.assert_close(painted.albedo(poles), torch.tensor([COLORS["blue"], COLORS["red"]]))


@pytest.mark.parametrize("color", COLORS)
def test_lit_colours_keep_their_name(color: str) -> None:
    picture = render(thing_of(sdf.sphere(0.8), color), turntable(4, size=32))
    seen = picture.rgb[picture.opacity[..., 0] > 0.99].mean(0)
    gaps = {name: float((seen - torch.tensor(rgb)).norm()) for name, rgb in COLORS.items()}
    assert min(gaps, key=lambda name: gaps[name]) == color


def test_background_and_shading() -> None:
    thing, cameras = make_thing("duck", "yellow", 0), turntable(2, size=32)
    backdrop = Background((0.2, 0.4, 0.6), (0.4, 0.2, 0.1))
    plain = render(thing, cameras, background=backdrop, shading="albedo")
    torch.testing.assert_close(plain.rgb[0, 0, 0], torch.tensor(backdrop.top))
    torch.testing.assert_close(plain.rgb[0, -1, 0], torch.tensor(backdrop.bottom))
    solid = plain.opacity[..., 0] > 1.0 - 1e-6
    torch.testing.assert_close(plain.rgb[solid], plain.albedo[solid])
    clay = render(thing, cameras, background=backdrop, shading="clay").rgb[solid]
    assert float((clay.amax(-1) - clay.amin(-1)).max()) < 1e-6
    with pytest.raises(ValueError, match="accepted: lit, albedo, clay"):
        render(thing, cameras, shading="toon")


def test_pictures_follow_from_their_seed() -> None:
    (first, second, *_), (again, *_), (other, *_) = sample_pictures(7), sample_pictures(7), sample_pictures(8)
    assert second.description == first.description  # several views of one thing, each in its own light
    assert second.azimuth != first.azimuth
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert (first.description, first.style) == (again.description, again.style)
    assert (first.azimuth, first.elevation) == (again.azimuth, again.elevation)
    assert first.rgb.shape == (64, 64, 3)
    assert first.rgb.dtype == np.uint8
    assert not np.array_equal(first.rgb, other.rgb)
    assert first.description.category in CATEGORIES
    assert first.description.color in COLORS


def test_views_stay_in_their_range() -> None:
    views = sample_views(np.random.default_rng(0), 50, 64)
    assert -10.01 < math.degrees(float(views.elevation.min())) < math.degrees(float(views.elevation.max())) < 60.01
    assert float(views.distance.min()) > 1.9
    assert views.width == views.height == 64


def test_a_light_a_camera_changes_only_its_own_picture() -> None:
    thing, cameras = make_thing("duck", "yellow", 0), turntable(3, size=32)
    dim, plain = Lighting(key=0.1, softness=0.0), Lighting()
    mixed = render(thing, cameras, [plain, dim, plain], [Background()] * 3, shading=["lit", "lit", "clay"]).rgb
    torch.testing.assert_close(mixed[0], render(thing, cameras, plain).rgb[0])
    torch.testing.assert_close(mixed[1], render(thing, cameras, dim).rgb[1])
    torch.testing.assert_close(mixed[2], render(thing, cameras, plain, shading="clay").rgb[2])
    assert float((mixed[1] - render(thing, cameras, plain).rgb[1]).abs().max()) > 0.05


def test_one_seed_gives_one_shape_in_every_colour() -> None:
    points = cube(2000)
    torch.testing.assert_close(make_thing("car", "red", 3).sdf(points), make_thing("car", "blue", 3).sdf(points))
    assert not torch.allclose(make_thing("car", "red", 3).sdf(points), make_thing("car", "red", 4).sdf(points))


def test_names_and_errors() -> None:
    assert Description("mug", "red").caption() == "a red mug"
    assert Description("ice_cream", "orange").caption() == "an orange ice cream"
    assert Description("duck", "red", "tall", "orange").caption() == "a tall red duck wearing an orange hat"
    assert Description("bear", "red", box=True).caption("teddy bear", colored=False) == "a teddy bear on a wooden box"
    with pytest.raises(ValueError, match="unknown category 'dragon'; the toybox has: mug"):
        make_thing("dragon", "red", 0)
    with pytest.raises(ValueError, match="unknown color 'beige'; the toybox has: red"):
        make_thing("mug", "beige", 0)
    with pytest.raises(ValueError, match="unknown attribute 'fluffy'; the toybox has: tall"):
        make_thing("mug", "red", 0, "fluffy")
    with pytest.raises(ValueError, match="no 'blue' hat for a mug; accepted: categories with a head only"):
        make_thing("mug", "red", 0, hat="blue")


def test_the_world_is_large_and_its_words_are_its_own() -> None:
    assert len(CATEGORIES) == sum(len(group) for group in GROUPS.values()) >= 40
    assert len(COLORS) >= 12
    assert len(GROUPS) >= 8
    assert set(SYNONYMS) <= set(CATEGORIES)
    nouns = [noun for nouns in SYNONYMS.values() for noun in nouns]
    assert len(set(nouns) | set(CATEGORIES)) == len(nouns) + len(CATEGORIES)  # no word has two meanings


def test_held_out_combinations_are_never_drawn_for_training() -> None:
    drawn = [describe(np.random.default_rng(seed)) for seed in range(800)]
    assert not [told for told in drawn if held_out(told.category, told.color, told.accessory)]
    assert {told.accessory for told in drawn} == {"", "hat", "box"}
    assert {told.attribute for told in drawn} == set(ATTRIBUTES)
    share = np.mean([held_out(category, color) for category in CATEGORIES for color in COLORS])
    assert 0.07 < share < 0.18
    assert any(
        held_out(t.category, t.color, t.accessory) for t in (describe(np.random.default_rng(i), False) for i in range(60))
    )


@pytest.mark.parametrize(("attribute", "factor"), [("tall", 1.4), ("short", 0.68)])
def test_stretching_changes_the_proportions_by_its_factor(attribute: str, factor: float) -> None:
    points = cube(100_000)

    def aspect(word: str) -> float:
        inside = points[make_thing("bottle", "red", 3, word).occupancy(points)]
        extent = inside.amax(0) - inside.amin(0)
        return float(extent[1] / extent[0])

    assert aspect(attribute) / aspect("") == pytest.approx(factor, rel=0.06)


@pytest.mark.parametrize("finish", PATTERNS)
def test_a_finish_recolours_the_main_colour_only(finish: str) -> None:
    plain, made, points = make_thing("car", "red", 2), make_thing("car", "red", 2, finish), cube(4000)
    torch.testing.assert_close(plain.sdf(points), made.sdf(points))
    before, after = plain.albedo(points), made.albedo(points)
    main = (before - torch.tensor(COLORS["red"])).abs().amax(-1) < 1e-6
    torch.testing.assert_close(before[~main], after[~main])
    changed = ((before - after).abs().amax(-1) > 0.1)[main].float().mean()
    assert 0.1 < float(changed) < 0.9


def test_a_metallic_thing_mirrors_the_sky() -> None:
    plain, shiny = (render(make_thing("bell", "blue", 2, word), turntable(2, size=48)) for word in ("", "metallic"))
    solid = plain.opacity[..., 0] > 0.99
    torch.testing.assert_close(plain.albedo, shiny.albedo)
    assert float(shiny.rgb[solid].mean(-1).std()) > 1.3 * float(plain.rgb[solid].mean(-1).std())


def test_accessories_stand_where_they_belong() -> None:
    points = cube(60_000)
    for category in [name for name in CATEGORIES if can_wear(name)]:
        thing = make_thing(category, "red", 1, hat="blue")
        inside = points[thing.occupancy(points)]
        hat = inside[thing.part_labels(inside) == [part.name for part in thing.parts].index("hat")]
        assert float(hat[:, 1].mean()) > 0.3  # near the top
        assert len(hat) > 5
    boxed = make_thing("mug", "red", 1, box=True)
    inside = points[boxed.occupancy(points)]
    names = [part.name for part in boxed.parts]
    wood = inside[boxed.part_labels(inside) >= names.index("box")]
    assert float(wood[:, 1].max()) < float(inside[boxed.part_labels(inside) == names.index("body")][:, 1].mean())


def test_symmetry_is_told_from_the_shape() -> None:
    assert is_symmetric(make_thing("chair", "red", 0))
    assert not is_symmetric(make_thing("mug", "red", 0))
    assert not is_symmetric(make_thing("teapot", "red", 0))


def test_the_true_mesh_has_the_occupied_volume_and_looks_like_the_pictures(tmp_path, monkeypatch) -> None:
    thing = make_thing("duck", "yellow", 1, hat="blue")
    mesh = truth.mesh_of(thing, resolution=72, faces=6000, texture_size=256)
    share = float(truth.occupancy_grid(thing, 64).float().mean())
    assert signed_volume(mesh.vertices, mesh.faces) == pytest.approx(8.0 * share, rel=0.03)
    _, welded = np.unique(mesh.vertices, axis=0, return_inverse=True)  # the unwrapping cuts the surface at its seams
    assert is_closed(welded.reshape(-1)[mesh.faces])
    cameras = turntable(3, size=64)
    picture = render(thing, cameras, background=Background((1, 1, 1), (1, 1, 1)), shading="albedo").rgb
    other = render_mesh(mesh, cameras, background=torch.ones(3)).rgb
    assert float(-10 * torch.log10((picture - other).square().mean())) > 22.0
    target = tmp_path / "duck.glb"
    monkeypatch.setattr(truth, "mesh_of", lambda _: mesh)
    monkeypatch.setattr("sys.argv", ["truth", "duck", "--hat", "blue", "--out", str(target)])
    truth.main()
    assert trimesh.load(target).geometry
    monkeypatch.setattr("sys.argv", ["truth", "mug", "--hat", "blue", "--out", str(target)])
    with pytest.raises(SystemExit) as error:
        truth.main()
    assert error.value.code == 2
