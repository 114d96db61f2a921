"""The scene of Gaussians: fitting, resuming, lighting, and meshing."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dreamlift.cameras import rays_of, turntable
from dreamlift.config.build import load_yaml, save_yaml
from dreamlift.meshing.geometry import is_closed, signed_volume
from dreamlift.scenes import SCENES
from dreamlift.scenes.background import Learned, Random, Solid
from dreamlift.scenes.gaussians.densify import Densify
from dreamlift.scenes.gaussians.harmonics import C0
from dreamlift.scenes.gaussians.initial import turns
from dreamlift.scenes.gaussians.scene import TERMS, Gaussians
from dreamlift.texturing.draw import render_mesh
from dreamlift.texturing.extract import Extract
from dreamlift.types import EmptySceneError, Mesh, Shading

SMALL = Gaussians(count=120, capacity=200, sh_degree=1, background=Learned(), densify=Densify(every=3, gradient=1e-5))
RADIUS = 0.6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ball_pictures(cameras, background):
    """A ball whose colour is its position, on ``background``: colours, and what it covers."""
    rays = rays_of(cameras)
    b = (rays.origins * rays.directions).sum(-1)
    root = b.square() - rays.origins.square().sum(-1) + RADIUS**2
    points = rays.origins + (-b - root.clamp(min=0).sqrt())[..., None] * rays.directions
    return torch.where((root > 0)[..., None], 0.5 + points / 1.4, background), (root > 0)[..., None].float()


def fit(settings, steps, cameras, views=2, seed=3):
    """Plain squared errors of colours and opacities against pictures of the ball."""
    scene, rng = settings.build(generator(seed)), generator(seed)
    optimizer = torch.optim.Adam(scene.param_groups(), betas=(0.9, 0.99), eps=1e-15)
    for index in range(steps):
        first = int(torch.randint(0, len(cameras) - views + 1, (1,), generator=rng))
        chosen, background = cameras[slice(first, first + views)], torch.rand(3, generator=rng)
        out = scene.render(chosen, rng, background=background)
        want, covered = ball_pictures(chosen, background)
        loss = (out.rgb - want).square().mean() + (out.opacity - covered).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scene.after_step(index, index / steps, rng, out, optimizer)
    return scene.eval()


def psnr(a, b):
    return -10 * math.log10(float((a - b).square().mean()))


@pytest.fixture(scope="module")
def fitted():
    densify = Densify(every=20, gradient=2e-4, prune_opacity=0.02)
    settings = Gaussians(count=500, capacity=1000, densify=densify)
    return fit(settings, 120, turntable(8, elevation_deg=20.0, size=32))


def train(scene, optimizer, rng, first, last):
    """Steps whose pictures, light and backgrounds are random, with every regulariser."""
    cameras = turntable(3, size=16)
    for index in range(first, last):
        shading = Shading(torch.ones(3), torch.tensor([0.0, 0.5, 1.0]), torch.randn(3, 3, generator=rng) * 3)
        out = scene.render(cameras, rng, shading, progress=index / 12, normals=True)
        loss = (out.rgb - 0.3).square().mean() + sum(scene.regularize(out, index / 12).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scene.after_step(index, index / 12, rng, out, optimizer)


def test_a_fit_to_eight_pictures_of_a_ball(fitted):
    """120 steps of two 32x32 views: 24 dB on the pictures, 21 dB between and above them, on a new background."""
    for cameras, least in ((turntable(8, elevation_deg=20.0, size=32), 24), (turntable(5, elevation_deg=35.0, size=32), 21)):
        with torch.no_grad():
            out = fitted.render(cameras, generator(), background=torch.tensor([0.1, 0.6, 0.3]))
        want, covered = ball_pictures(cameras, torch.tensor([0.1, 0.6, 0.3]))
        assert psnr(out.rgb, want) > least
        assert float((out.opacity - covered).abs().mean()) < 0.05


def test_depth_and_normals_of_the_fitted_ball(fitted):
    cameras = turntable(4, elevation_deg=10.0, size=32)
    with torch.no_grad():
        out = fitted.render(cameras, generator(), normals=True)
    rays = rays_of(cameras)
    points = rays.origins + out.depth * rays.directions
    radii = points.norm(dim=-1)
    inner = radii.new_zeros(radii.shape, dtype=torch.bool)
    inner[:, 11:21, 11:21] = True
    assert abs(float(radii[inner].median()) - RADIUS) < 0.12  # a soft ball is seen a little below its outline
    cosine = (normalize(out.normal, dim=-1) * normalize(points, dim=-1)).sum(-1)[inner]
    assert float(cosine.median()) > 0.8
    assert (out.normal.norm(dim=-1) <= out.opacity[..., 0] + 1e-5).all()


def test_the_mesh_of_the_fitted_ball(fitted):
    """Closed, outward, of the ball's radius, and with its colours."""
    mesh = fitted.to_mesh(Extract(resolution=64, texture_size=128, faces=2000))
    merged, index = np.unique(mesh.vertices.round(5), axis=0, return_inverse=True)  # seams have doubled vertices
    assert is_closed(index[mesh.faces])
    volume = signed_volume(merged, index[mesh.faces])
    assert (3 * volume / (4 * math.pi)) ** (1 / 3) == pytest.approx(RADIUS, rel=0.06)
    cameras = turntable(4, elevation_deg=20.0, size=32)
    with torch.no_grad():
        out = fitted.render(cameras, generator(), background=torch.ones(3))
    found = render_mesh(mesh, cameras)
    assert psnr(found.rgb, out.rgb) > 20
    covered, seen = found.opacity > 0.5, out.opacity > 0.5
    assert float((covered & seen).sum() / (covered | seen).sum()) > 0.88


@pytest.mark.parametrize("device", ["cpu"])
def test_state_dict_and_optimiser_resume_bit_for_bit(device):
    """12 steps at once are 7, a save, a fresh scene, a load, and 5: parameters, buffers, and Adam's moments."""
    straight = SMALL.build(generator(), device)
    adam = torch.optim.Adam(straight.param_groups())
    shapes = {name: value.shape for name, value in straight.state_dict().items()}
    rng = generator(1)
    train(straight, adam, rng, 0, 7)
    kept = {name: value.clone() for name, value in straight.state_dict().items()}
    moments, noise = {"state": _copied(adam.state_dict())}, rng.get_state()
    assert int(straight.alive.sum()) != 120  # something was added or removed before the save
    train(straight, adam, rng, 7, 12)
    other = SMALL.build(generator(99), device)
    other.load_state_dict(kept)
    again = torch.optim.Adam(other.param_groups())
    again.load_state_dict(moments["state"])
    rng.set_state(noise)
    train(other, again, rng, 7, 12)
    result, wanted = other.state_dict(), straight.state_dict()
    assert {name: value.shape for name, value in result.items()} == shapes
    assert not torch.equal(kept["means"], wanted["means"])
    assert all(torch.equal(result[name], wanted[name]) for name in wanted)
    states = zip(adam.state_dict()["state"].values(), again.state_dict()["state"].values(), strict=True)
    assert all(torch.equal(one[key], two[key]) for one, two in states for key in ("exp_avg", "exp_avg_sq"))


def _copied(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value


def test_roll_back_to_an_older_state_in_place():
    """The same scene goes on from a copy as it did the first time."""
    scene = SMALL.build(generator())
    adam = torch.optim.Adam(scene.param_groups())
    kept, moments = {k: v.clone() for k, v in scene.state_dict().items()}, _copied(adam.state_dict())
    train(scene, adam, generator(1), 0, 6)
    first = {k: v.clone() for k, v in scene.state_dict().items()}
    scene.load_state_dict(kept)
    adam.load_state_dict(moments)
    train(scene, adam, generator(1), 0, 6)
    assert all(torch.equal(first[name], value) for name, value in scene.state_dict().items())


def test_torchs_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    scene = SMALL.build(generator())
    train(scene, torch.optim.Adam(scene.param_groups()), generator(1), 0, 4)
    assert torch.equal(before, torch.get_rng_state())


def test_after_step_watches_the_screen_and_forgets_the_moments_of_changed_rows():
    """Pushes are mean norms of screen gradients in half pictures; a cloned row's Adam moments are zero, others stay."""
    # 20 pixels wide, so a pixel's gradient counts ten times.
    scene = Gaussians(count=30, capacity=50, densify=Densify(every=2, gradient=1e-12, split_above=9.0)).build(generator())
    adam, cameras = torch.optim.Adam(scene.param_groups()), turntable(2, size=20)

    def step(index):
        out = scene.render(cameras, generator())
        adam.zero_grad()
        out.rgb.square().mean().backward()
        adam.step()
        scene.after_step(index, index / 10, generator(), out, adam)
        return out

    out = step(0)
    pushed = out.aux["means2d"].grad.norm(dim=-1) * 10
    assert out.aux["seen"].all()
    torch.testing.assert_close(scene.pushes[:30], pushed.sum(0))
    assert (scene.sightings[:30] == 2).all()
    assert not scene.pushes[30:].any()
    step(1)
    assert int(scene.alive.sum()) == 50
    assert not scene.pushes.any()
    moment = adam.state[scene.means]["exp_avg"]
    assert not moment[30:].any()
    assert (moment[:30].abs().sum(1) > 0).all()


def test_positions_have_a_learning_rate_schedule_of_their_own():
    """The same as Adam with a rate that falls exponentially to a tenth at half of the run, by torch's own Adam."""
    settings = Gaussians(
        count=40, capacity=40, means_lr=0.01, means_lr_end=0.001, means_until=0.5, densify=Densify(every=0), sh_degree=1
    )  # with colours that are not clamped
    scene, other = settings.build(generator()), settings.build(generator())
    adam, plain = torch.optim.Adam(scene.param_groups()), torch.optim.Adam(other.param_groups())
    cameras = turntable(2, size=12)
    for index in range(8):
        for one, optimizer in ((scene, adam), (other, plain)):
            out = one.render(cameras, generator(index))
            optimizer.zero_grad()
            (out.rgb - 0.2).square().mean().backward()
            if one is other:
                optimizer.param_groups[0]["lr"] = 0.01 * 0.1 ** min(index / 8 / 0.5, 1)
            optimizer.step()
            if one is scene:
                one.after_step(index, index / 8, generator(), out, optimizer)
    torch.testing.assert_close(scene.means, other.means, rtol=1e-5, atol=1e-6)
    assert adam.param_groups[0]["lr"] == 0.01


def test_a_scene_that_begins_on_a_mesh_looks_like_it():
    """A ball with a colour for each vertex: 23 dB against the mesh's own render."""
    from dreamlift.meshing.isosurface import isosurface

    axis = torch.linspace(-0.8, 0.8, 24)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    vertices, faces = isosurface(0.6 - grid.norm(dim=-1), 0.0, -0.8, 0.8)
    mesh = Mesh(vertices.numpy(), faces.numpy().astype(np.int32), vertex_colors=(0.5 + vertices / 1.4).numpy())
    settings = Gaussians(count=3000, capacity=3000, sh_degree=1)
    scene, cameras = settings.build(generator(), initial_mesh=mesh).eval(), turntable(4, size=32)
    assert (scene.means.norm(dim=-1) - 0.6).abs().max() < 0.02
    with torch.no_grad():
        out = scene.render(cameras, generator(), background=torch.ones(3), normals=True)
    want = render_mesh(mesh, cameras)
    assert psnr(out.rgb, want.rgb) > 23
    middle = normalize(out.normal[:, 12:20, 12:20], dim=-1)
    assert float((middle * normalize(want.normal[:, 12:20, 12:20], dim=-1)).sum(-1).median()) > 0.9


def test_light_by_hand(fitted):
    """A light behind the camera shows the full colour in the middle, one behind the ball only the ambient part."""
    cameras = turntable(1, elevation_deg=0.0, size=33)

    def middle(lambertian, textureless, z):
        shading = Shading(torch.tensor([lambertian]), torch.tensor([textureless]), torch.tensor([[0.0, 0.0, z]]), ambient=0.25)
        with torch.no_grad():
            return fitted.render(cameras, generator(), shading, background=torch.zeros(3)).rgb[0, 15:18, 15:18].mean((0, 1))

    plain = middle(0.0, 0.0, 4.0)
    torch.testing.assert_close(middle(1.0, 0.0, 4.0), plain, rtol=0.25, atol=0)
    torch.testing.assert_close(middle(1.0, 0.0, -4.0), 0.25 * plain, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        opacity = fitted.render(cameras, generator()).opacity[0, 15:18, 15:18].mean()
    torch.testing.assert_close(middle(0.0, 1.0, -4.0), opacity.expand(3), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(middle(1.0, 1.0, -4.0), 0.25 * opacity.expand(3), rtol=1e-4, atol=1e-4)


def test_light_teaches_places():
    """A lit, textureless picture has a gradient with respect to positions, finite everywhere."""
    scene = Gaussians(count=300, capacity=300, opacity=0.8).build(generator())
    shading = Shading(torch.ones(2), torch.ones(2), torch.tensor([[1.0, 2, 3], [-2.0, 1, 2]]))
    out = scene.render(turntable(2, size=16), generator(), shading)
    plain = scene.render(turntable(2, size=16), generator(), dataclasses.replace(shading, lambertian=torch.zeros(2)))
    grads = [torch.autograd.grad(one.rgb.mean(), scene.means)[0] for one in (out, plain)]
    assert grads[0].isfinite().all()
    assert float((grads[0] - grads[1]).norm()) > 0.1 * float(grads[1].norm())


def test_gradient_of_a_lit_render_by_finite_differences():
    """d(everything rendered, every regulariser)/d(all parameters) in float64, along one random direction."""
    settings = Gaussians(count=60, capacity=64, opacity=0.6, sh_degree=2, background=Solid((0.3, 0.4, 0.5)))
    scene, cameras = settings.build(generator()).double().eval(), turntable(2, size=10)
    shading = Shading(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5]), torch.tensor([[2.0, 2, 2], [0.0, 3, 0]]))
    parameters = list(scene.parameters())
    for parameter in parameters:
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator(3), dtype=torch.float64)

    def value():
        out = scene.render(cameras, generator(), shading, normals=True)
        shown = [(x * torch.linspace(0.5, 1.5, x.numel()).view_as(x)).mean() for x in (out.rgb, out.normal, out.depth)]
        return sum(shown) + sum(scene.regularize(out, 0.0).values())

    grads = torch.autograd.grad(value(), parameters)
    moves = [torch.randn(p.shape, generator=generator(5), dtype=torch.float64) for p in parameters]
    ends = []
    for step in (1e-7, -2e-7):
        for parameter, move in zip(parameters, moves, strict=True):
            parameter.data += step * move
        ends.append(float(value().detach()))
    want = sum(float((g * m).sum()) for g, m in zip(grads, moves, strict=True))
    assert (ends[0] - ends[1]) / 2e-7 == pytest.approx(want, rel=1e-3)


def test_normals_of_discs_are_their_axes_and_of_balls_the_depth_s():
    """Discs that lie obliquely on a plane z = 0 show their own tilt; balls on it show the plane."""
    line = torch.linspace(-0.9, 0.9, 25)
    places = torch.stack([*torch.meshgrid(line, line, indexing="ij"), torch.zeros(25, 25)], -1).view(-1, 3)
    tilt = normalize(torch.tensor([0.3, 0.0, 1.0]), dim=0)
    for thickness, want in ((1e-3, tilt), (0.06, torch.tensor([0.0, 0.0, 1.0]))):
        scene = Gaussians(count=625, capacity=625).build(generator()).eval()
        scene.means.data, scene.quats.data = places, turns(tilt.expand(625, 3))
        scene.log_scales.data = torch.tensor([0.06, 0.06, thickness]).log().repeat(625, 1)
        scene.logit_opacities.data.fill_(3.0)
        out = scene.render(turntable(1, elevation_deg=0.0, size=24), generator(), normals=True)
        torch.testing.assert_close(normalize(out.normal[0, 12, 12], dim=0), want, rtol=0, atol=0.05)


def test_regularizers_are_named_and_differentiable():
    scene = SMALL.build(generator())
    assert set(scene.regularize(scene.render(turntable(1, size=12), generator()), 0.0)) == {"sparsity", "opaque"}
    out = scene.render(turntable(1, size=12), generator(), normals=True)
    terms = scene.regularize(out, 0.0)
    assert set(terms) == set(TERMS) == {"sparsity", "opaque", "normal_smooth"}
    o = out.opacity.detach()
    assert float(terms["sparsity"].detach()) == pytest.approx(float((o**2 + 0.01).sqrt().mean()))
    for term in terms.values():
        assert torch.autograd.grad(term, scene.means, retain_graph=True)[0].isfinite().all()
    with pytest.raises(ValueError, match="sparsity, opaque"):
        scene.regularize(out, 0.0, only=("orientation",))


def test_backgrounds_and_an_empty_picture():
    scene = dataclasses.replace(SMALL, background=Solid((0.2, 0.4, 0.6))).build(generator())
    scene.logit_opacities.data.fill_(-20.0)
    cameras = turntable(2, size=8)
    out = scene.render(cameras, generator(), normals=True)
    torch.testing.assert_close(out.rgb[0, 0, 0], torch.tensor([0.2, 0.4, 0.6]))
    assert not out.opacity.any()
    assert not out.normal.any()
    for given in (torch.zeros(3), torch.rand(2, 3), torch.rand(2, 8, 8, 3)):
        shown = scene.render(cameras, generator(), background=given).rgb
        torch.testing.assert_close(
            shown, given.expand(2, 8, 8, 3) if given.dim() != 2 else given[:, None, None].expand_as(shown)
        )
    random = dataclasses.replace(SMALL, background=Random()).build(generator())
    assert not torch.equal(random.render(cameras, generator(1)).rgb, random.render(cameras, generator(2)).rgb)
    random.eval()
    assert torch.equal(random.render(cameras, generator(1)).rgb, random.render(cameras, generator(2)).rgb)
    with pytest.raises(EmptySceneError):
        scene.to_mesh(Extract(resolution=16, texture_size=32))


def test_settings_survive_yaml_and_tell_what_is_wrong():
    assert load_yaml(Gaussians, save_yaml(SMALL)) == SMALL
    assert SCENES["gaussians"] is Gaussians
    for changes, message in (
        ({"count": 9, "capacity": 5}, "count is 9"), ({"sh_degree": 4}, "0, 1, 2, 3"), ({"opacity": 1.0}, "opacity is 1"),
        ({"means_lr": 0.0}, "means_lr"), ({"capacity": 10**9}, "capacity"), ({"means_until": 0.0}, "means_until"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Gaussians(**changes)
    for changes, message in (
        ({"start_progress": 0.9, "end_progress": 0.2}, "start_progress"), ({"gradient": 0.0}, "gradient"),
        ({"every": -1}, "every"), ({"prune_opacity": 1.0}, "prune_opacity"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Densify(**changes)


def test_sizes_are_told():
    scene = SMALL.build(generator())
    own = sum(value.numel() for value in scene.rows().values())
    assert SMALL.parameter_count() == own == 200 * (11 + 12)
    assert SMALL.step_bytes(4, 64) > SMALL.step_bytes(2, 64) > 0


def test_colours_of_degree_zero_stay_in_range():
    scene = Gaussians(count=20, capacity=20).build(generator())
    adam = torch.optim.Adam(scene.param_groups(), lr=1.0)
    scene.sh0.data.fill_(9.0)
    out = scene.render(turntable(1, size=8), generator())
    scene.after_step(0, 0.0, generator(), out, adam)
    torch.testing.assert_close(0.5 + C0 * scene.sh0, torch.ones_like(scene.sh0))
