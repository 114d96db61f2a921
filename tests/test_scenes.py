"""Whole radiance-field scenes: closed forms, resuming, occupancy, shading, backgrounds, and a short fit."""

import itertools
import math

import pytest
import torch

from dreamlift.cameras import rays_of, turntable
from dreamlift.config.build import load_yaml, save_yaml
from dreamlift.scenes import SCENES
from dreamlift.scenes.background import Learned, Random, Solid
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.occupancy import Occupancy
from dreamlift.scenes.nerf.scene import TERMS, Nerf
from dreamlift.scenes.nerf.volume import intersect_cube
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.types import RenderOutput, Shading

SETTINGS = {
    "voxel": Nerf(Voxel((9, 17), (0.0, 0.3)), samples_per_ray=32, occupancy=Occupancy(16, every=2, warmup=4)),
    "hashgrid": Nerf(
        Hashgrid(levels=4, log2_rows=10, base_resolution=4, hidden=16),
        Learned(),
        Occupancy(16, every=2, warmup=4),
        samples_per_ray=32,
    ),
}


NOTHING = torch.zeros(1, 1, 1, 3)
UNUSED = (RenderOutput(NOTHING, NOTHING, NOTHING, None), torch.optim.SGD([NOTHING]))  # a nerf looks at neither


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def box(density, **changes):
    """A voxel scene of constant density: the raw value is the inverse of softplus, as there is no blob."""
    scene = Nerf(Voxel((3,), (0.0,), blob=Blob("none")), early_stop_eps=0.0, **changes).build(generator())
    scene.field.levels[0].data[..., 0] = math.log(math.expm1(density))
    return scene.eval()


def train(scene, rng, first, last):
    optimizer = torch.optim.Adam(scene.param_groups())
    cameras = turntable(2, size=16)
    for index in range(first, last):
        out = scene.render(cameras, rng, normals=True)
        loss = out.rgb.square().mean() + sum(scene.regularize(out, index / 10).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scene.after_step(index, (index + 1) / 10, rng, *UNUSED)


@pytest.mark.parametrize("density", [0.3, 2.0])
def test_homogeneous_box_follows_beer_lambert(density):
    """Opacity 1 - exp(-sigma L) on a chord L, and the mean depth of light absorbed on it."""
    scene, cameras = box(density, samples_per_ray=256, bounds=0.7), turntable(3, size=24)
    with torch.no_grad():
        out = scene.render(cameras, generator(), background=torch.zeros(3))
    rays = rays_of(cameras)
    near, far = intersect_cube(rays.origins.reshape(-1, 3).double(), rays.directions.reshape(-1, 3).double(), 0.7)
    length = (far - near).clamp(min=0)
    want = 1 - torch.exp(-density * length)
    torch.testing.assert_close(out.opacity.reshape(-1).double(), want, rtol=1e-4, atol=1e-5)
    # The mean of an exponential law of rate sigma cut at L: 1/sigma - L exp(-sigma L) / (1 - exp(-sigma L)).
    hit = length > 0.05
    depth = near + 1 / density - length * torch.exp(-density * length) / want.clamp(min=1e-9)
    torch.testing.assert_close(out.depth.reshape(-1).double()[hit], depth[hit], rtol=0, atol=2e-3)
    torch.testing.assert_close(out.rgb[..., 0], 0.5 * out.opacity[..., 0])  # raw colour 0 is grey


def test_jittered_renders_keep_the_closed_form():
    """The pieces always cover the whole chord, so a homogeneous box has no noise at all."""
    scene, cameras = box(1.0, samples_per_ray=8), turntable(1, size=12)
    still = scene.render(cameras, generator(), background=torch.zeros(3)).opacity
    scene.train()
    for seed in range(3):
        noisy = scene.render(cameras, generator(seed), background=torch.zeros(3)).opacity
        torch.testing.assert_close(noisy, still, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_state_dict_restores_a_run_bit_for_bit(name):
    settings, rng = SETTINGS[name], generator(1)
    scene = settings.build(generator())
    train(scene, rng, 0, 6)
    kept, noise = {k: v.clone() for k, v in scene.state_dict().items()}, rng.get_state()
    assert not bool(kept["occupancy.occupied"].all())
    cameras = turntable(1, size=16)
    want = scene.render(cameras, rng, normals=True)
    other = settings.build(generator(99))
    other.load_state_dict(kept)
    rng.set_state(noise)
    got = other.render(cameras, rng, normals=True)
    for a, b in zip((want.rgb, want.depth, want.normal), (got.rgb, got.depth, got.normal), strict=True):
        assert torch.equal(a, b)
    results = []
    for one in (scene, other):
        rng.set_state(noise)
        train(one, rng, 6, 9)
        results.append(one.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in kept)


@pytest.mark.parametrize("name", SETTINGS)
def test_torchs_global_generator_is_left_alone(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(SETTINGS[name].build(generator()), generator(1), 0, 2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", SETTINGS)
def test_skipping_empty_space_keeps_the_picture(name):
    scene = SETTINGS[name].build(generator())
    for index in range(30):
        scene.after_step(index, 1.0, generator(index), *UNUSED)
    scene.eval()
    cameras = turntable(2, size=32)
    skipped = scene.render(cameras, generator(), background=torch.zeros(3))
    share = scene.occupancy.occupied.float().mean()
    scene.occupancy.occupied.fill_(True)
    full = scene.render(cameras, generator(), background=torch.zeros(3))
    assert share < 0.7
    assert skipped.aux["weights"].shape[0] < 0.8 * full.aux["weights"].shape[0]
    torch.testing.assert_close(skipped.rgb, full.rgb, rtol=0, atol=5e-3)
    torch.testing.assert_close(skipped.opacity, full.opacity, rtol=0, atol=1e-2)


def test_occupancy_never_empties_and_lets_a_scene_grow():
    scene = Nerf(Voxel((9,), (0.0,), blob=Blob("none")), occupancy=Occupancy(8, every=1, warmup=0)).build(generator())
    scene.field.levels[0].data[..., 0] = -30.0  # nothing anywhere
    scene.after_step(0, 0.0, generator(), *UNUSED)
    assert scene.occupancy.occupied.any()
    scene.field.levels[0].data[7, 7, 7, 0] = 20.0
    scene.after_step(1, 0.0, generator(), *UNUSED)
    assert scene.occupancy.occupied[6:, 6:, 6:].all()  # the new corner and a rim around it
    assert not scene.occupancy.occupied[:4].all()


def test_early_termination_is_bounded_by_its_threshold():
    scene = box(40.0)
    cameras = turntable(2, size=16)
    full = scene.render(cameras, generator(), background=torch.ones(3))
    object.__setattr__(scene.settings, "early_stop_eps", 1e-2)
    stopped = scene.render(cameras, generator(), background=torch.ones(3))
    assert (stopped.aux["weights"] == 0).float().mean() > 0.5
    assert (full.opacity - stopped.opacity).abs().max() < 1e-2


@pytest.mark.parametrize("name", SETTINGS)
def test_a_render_in_pieces_equals_the_whole(name, monkeypatch):
    scene, cameras = SETTINGS[name].build(generator()).eval(), turntable(3, size=16)
    shading = Shading(torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0.0, 1.0, 0.0]), torch.ones(3, 3) * 2)
    whole = scene.render(cameras, generator(), shading, normals=True)
    monkeypatch.setattr("dreamlift.scenes.nerf.scene.SAMPLES_AT_ONCE", 1000)
    with torch.no_grad():
        pieces = scene.render(cameras, generator(), shading, normals=True)
    for field in ("rgb", "opacity", "depth", "normal"):
        torch.testing.assert_close(getattr(pieces, field), getattr(whole, field))


@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_of_a_lit_render_by_finite_differences(name):
    """d(everything rendered, every regulariser)/d(all parameters) in float64, along one random direction."""
    scene, cameras = SETTINGS[name].build(generator()).double().eval(), turntable(2, size=6)
    scene.after_step(0, 1.0, generator(), *UNUSED)
    shading = Shading(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5]), torch.tensor([[2.0, 2, 2], [0.0, 3, 0]]))
    parameters = list(scene.parameters())
    for parameter in parameters:
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator(3), dtype=torch.float64)

    def value():
        out = scene.render(cameras, generator(), shading, normals=True)
        # The stopped weights of "orientation" are no derivative: it is left out.
        terms = scene.regularize(out, 0.0, tuple(name for name in TERMS if name != "orientation"), generator(8))
        shown = [(x * torch.linspace(0.5, 1.5, x.numel()).view_as(x)).mean() for x in (out.rgb, out.normal, out.depth)]
        return sum(shown) + sum(terms.values())

    grads = torch.autograd.grad(value(), parameters)
    moves = [torch.randn(p.shape, generator=generator(5), dtype=torch.float64) for p in parameters]
    ends = []
    for step in (1e-6, -2e-6):
        for parameter, move in zip(parameters, moves, strict=True):
            parameter.data += step * move
        ends.append(float(value().detach()))
    want = sum(float((g * m).sum()) for g, m in zip(grads, moves, strict=True))
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(want, rel=1e-3)


def test_lambertian_shading_by_hand():
    """A light behind the camera lights a blob's middle fully; from the far side only the ambient part is left."""
    scene = Nerf(Voxel(blob=Blob("cone", 60.0, 0.5))).build(generator()).eval()
    cameras, zero, one = turntable(1, elevation_deg=0.0, size=33), torch.zeros(1), torch.ones(1)

    def middle(lambertian, textureless, z):
        shading = Shading(lambertian, textureless, torch.tensor([[0.0, 0.0, z]]), ambient=0.25)
        with torch.no_grad():
            return float(scene.render(cameras, generator(), shading, background=torch.zeros(3)).rgb[0, 16, 16, 0])

    assert middle(zero, zero, 4.0) == pytest.approx(0.5, abs=0.01)
    assert middle(one, zero, 4.0) == pytest.approx(0.5, abs=0.02)
    assert middle(one, zero, -4.0) == pytest.approx(0.5 * 0.25, abs=0.02)
    assert middle(one, one, 4.0) == pytest.approx(1.0, abs=0.04)
    assert middle(zero, one, -4.0) == pytest.approx(1.0, abs=0.01)


def test_rendered_normals_face_the_camera():
    scene = Nerf().build(generator()).eval()
    out = scene.render(turntable(4, size=17), generator(), normals=True)
    middle = torch.nn.functional.normalize(out.normal[:, 8, 8], dim=-1)
    toward = -rays_of(turntable(4, size=17)).directions[:, 8, 8]
    assert ((middle * toward).sum(-1) > 0.98).all()


def test_regularizers_are_named_and_differentiable():
    scene = SETTINGS["voxel"].build(generator())
    out = scene.render(turntable(1, size=12), generator(), normals=True)
    assert set(scene.regularize(out, 0.0)) == set(TERMS) - {"normal_smooth_3d"}  # which needs random numbers
    terms = scene.regularize(out, 0.0, rng=generator())
    assert set(terms) == set(TERMS)
    for name, term in terms.items():
        assert term.ndim == 0, name
        grads = torch.autograd.grad(term, scene.field.levels[0], retain_graph=True)
        assert grads[0].isfinite().all(), name
    assert set(scene.regularize(out, 0.0, only=("tv",))) == {"tv"}
    with pytest.raises(ValueError, match="sparsity, opaque"):
        scene.regularize(out, 0.0, only=("fog",))


def test_smooth_normals_by_their_definitions():
    """The picture of the normals differenced pixel by pixel, and the density's differences at moved points."""
    field = Hashgrid(levels=4, log2_rows=10, base_resolution=4, hidden=16, blob=Blob("none"))  # nowhere without a gradient
    scene = Nerf(field, samples_per_ray=16).build(generator()).double()
    for parameter in scene.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator(3), dtype=torch.float64)
    cameras = turntable(2, size=5)
    out = scene.render(cameras, generator(), normals=True)
    found = scene.regularize(out, 0.0, ("normal_smooth", "normal_smooth_3d"), generator(7))
    total = 0.0
    pixels = [[[torch.zeros(3)] * 5 for _ in range(5)] for _ in range(2)]
    for b, y, x in itertools.product(range(2), range(5), range(5)):
        n, o = out.normal[b, y, x].detach(), float(out.opacity[b, y, x].detach())
        pixels[b][y][x] = (n / max(float(n.norm()), 1e-9) + 1) / 2 * o
    for b, i, j in itertools.product(range(2), range(4), range(5)):
        total += float(
            (pixels[b][i + 1][j] - pixels[b][i][j]).square().sum() + (pixels[b][j][i + 1] - pixels[b][j][i]).square().sum()
        )
    assert float(found["normal_smooth"].detach()) == pytest.approx(total / (2 * 4 * 5 * 3), rel=1e-5)
    rays, aux = rays_of(cameras), out.aux
    starts, index = 0.5 * (aux["starts"] + aux["ends"]), aux["ray_indices"]
    origins, directions = (values.reshape(-1, 3).double() for values in (rays.origins, rays.directions))
    points = origins[index] + directions[index] * starts[:, None]
    shifts = 0.01 * torch.randn(points.shape, generator=generator(7)).double()
    normals = []
    for at in (points, (points + shifts).clamp(-1.0, 1.0)):
        ahead = [scene.density((at + 0.01 * axis).clamp(-1.0, 1.0)) for axis in torch.eye(3)]
        gradient = (torch.stack(ahead, 1) - scene.density(at)[:, None]).detach() / 0.01
        normals.append(-gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-9))
    wanted = float((normals[0] - normals[1]).abs().mean())
    assert wanted > 1e-3
    assert float(found["normal_smooth_3d"].detach()) == pytest.approx(wanted, rel=1e-3)


def test_a_density_that_grows_along_one_axis_is_smooth():
    scene = Nerf(Voxel((3,), (0.0,), blob=Blob("none"))).build(generator())
    scene.field.levels[0].data[..., 0] = torch.tensor([3.0, 2.0, 1.0]).view(3, 1, 1)  # along z
    out = scene.render(turntable(1, elevation_deg=0.0, size=6), generator(), normals=True)
    terms = scene.regularize(out, 0.0, ("normal_smooth", "normal_smooth_3d"), generator(1))
    assert float(terms["normal_smooth_3d"].detach()) == pytest.approx(0.0, abs=1e-5)
    differences = [out.opacity.detach().diff(dim=axis).square().mean() for axis in (1, 2)]
    wanted = float(sum(differences)) * (0.25 + 0.25 + 1.0) / 3  # the picture is o (1/2, 1/2, 1)
    assert float(terms["normal_smooth"].detach()) == pytest.approx(wanted, rel=1e-4)


def test_backgrounds():
    directions = rays_of(turntable(64, size=4)).directions
    solid = Solid((0.2, 0.4, 0.6)).build(generator())
    torch.testing.assert_close(solid(directions, generator()), torch.tensor([0.2, 0.4, 0.6]).expand_as(directions))
    random = Random().build(generator())
    colors = random(directions, generator())
    assert (colors == colors[:, :1, :1]).all()
    assert colors[:, 0, 0].std(0).min() > 0.2
    random.eval()
    assert (random(directions, generator()) == 1).all()
    learned = Learned(random_probability=0.5).build(generator())
    plain = (learned(directions, generator()).flatten(1, 2).std(1) < 1e-6).all(-1)
    assert 0.2 < plain.float().mean() < 0.8
    assert learned.param_groups()[0]["name"] == "background"
    shared, rng = Learned(random_probability=0.5, shared=True).build(generator()), generator()
    draws = [shared(directions, rng) for _ in range(64)]
    same = torch.tensor([bool((draw == draw[:1, :1, :1]).all()) for draw in draws])  # one colour for all views
    assert 0.2 < same.float().mean() < 0.8
    assert len({tuple(draw[0, 0, 0].tolist()) for draw, one in zip(draws, same, strict=True) if one}) == int(same.sum())


def test_a_given_background_replaces_the_scenes_own():
    scene, cameras = box(1.0, background=Solid((1.0, 0.0, 0.0))), turntable(2, size=8)
    plain = scene.render(cameras, generator())
    image = torch.rand(2, 8, 8, 3, generator=generator())
    for given, full in (
        (torch.zeros(3), torch.zeros(3)),
        (image[:, 0, 0], image[:, :1, :1]),
        (image, image),
    ):
        out = scene.render(cameras, generator(), background=given)
        torch.testing.assert_close(out.rgb, 0.5 * out.opacity + (1 - out.opacity) * full)
    torch.testing.assert_close(plain.rgb[..., 0], 1 - 0.5 * plain.opacity[..., 0])


def test_a_camera_that_sees_nothing_can_still_be_trained_on():
    scene = Nerf(background=Learned()).build(generator())
    scene.occupancy.occupied.fill_(False)
    out = scene.render(turntable(1, size=8), generator(), normals=True)
    assert not out.opacity.any()
    (out.rgb.mean() + sum(scene.regularize(out, 0.0).values())).backward()


def test_settings_survive_yaml():
    for settings in SETTINGS.values():
        assert load_yaml(Nerf, save_yaml(settings)) == settings
    assert SCENES["nerf"] is Nerf
    with pytest.raises(ValueError, match="samples"):
        Nerf(samples_per_ray=1)


def test_a_short_fit_recovers_a_coloured_ball():
    """60 steps of plain MSE against pictures of a ball whose colour is its position."""
    rng = generator(3)
    scene = Nerf(Voxel((9, 17, 33), (0.0, 0.0, 0.3))).build(rng)
    optimizer = torch.optim.Adam(scene.param_groups(), betas=(0.9, 0.99))

    def ball(cameras):
        rays = rays_of(cameras)
        b = (rays.origins * rays.directions).sum(-1)
        root = b.square() - rays.origins.square().sum(-1) + 0.36
        points = rays.origins + (-b - root.clamp(min=0).sqrt())[..., None] * rays.directions
        return 0.5 + points / 1.4, (root > 0)[..., None]

    def error(cameras, background):
        color, hit = ball(cameras)
        out = scene.render(cameras, rng, background=background)
        return (out.rgb - torch.where(hit, color, background)).square().mean()

    for index in range(60):
        views = turntable(8, elevation_deg=float(torch.rand(1, generator=rng) * 80 - 40), size=32)
        pick = int(torch.randint(0, 7, (1,), generator=rng))
        loss = error(views[slice(pick, pick + 2)], torch.rand(3, generator=rng))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scene.after_step(index, (index + 1) / 60, rng, *UNUSED)
    scene.eval()
    with torch.no_grad():
        assert float(error(turntable(4, elevation_deg=20.0, size=32), torch.zeros(3))) < 0.006
        inner, outer = scene.density(torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.9, 0.0]]))
    assert inner > 20 * outer
