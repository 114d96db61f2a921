"""Splatting against closed forms, hand-worked numbers, Monte Carlo and finite differences; kernels against the twin."""

import math

import numpy as np
import pytest
import torch
import trimesh

from dreamlift.cameras import turntable
from dreamlift.scenes.gaussians import harmonics, initial, splat
from dreamlift.system import jit
from dreamlift.types import Cameras, Mesh

needs_kernels = pytest.mark.skipif(not jit.fast_kernels_available(), reason='needs numba: pip install "numba"')


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def front(size=33, focal=40.0, distance=4.0, dtype=torch.float64):
    """A camera on +z that looks at the origin; the middle of the picture is the middle of a pixel."""
    c2w = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=dtype))[None].clone()
    c2w[0, 2, 3] = distance
    K = torch.tensor([[[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]], dtype=dtype)
    zero = torch.zeros(1, dtype=dtype)
    return Cameras(c2w, K, size, size, zero, zero, zero + distance)


def round_ones(means, scale, opacities, colors, dtype=torch.float64):
    count = len(means)
    quats = torch.tensor([[1.0, 0, 0, 0]], dtype=dtype).repeat(count, 1)
    scales = torch.full((count, 3), scale, dtype=dtype)
    splats = (torch.tensor(means, dtype=dtype), quats, scales, torch.tensor(opacities, dtype=dtype))
    return splats, torch.tensor([colors], dtype=dtype)


def random_scene(count, rng, dtype=torch.float32, views=2, channels=4):
    means = torch.rand(count, 3, generator=rng) - 0.5
    quats = torch.randn(count, 4, generator=rng)
    log_scales = torch.randn(count, 3, generator=rng) * 0.5 - 2.8
    opacities = torch.rand(count, generator=rng) * 1.2 - 0.1  # some are over 0.99, some are nothing
    features = torch.rand(views, count, channels, generator=rng)
    values = (means, quats, log_scales, opacities.clamp(0, 1), features)
    return [value.to(dtype).requires_grad_() for value in values]


def picture(values, cameras):
    means, quats, log_scales, opacities, features = values
    out = splat.render_splats((means, quats, log_scales.exp(), opacities), features, cameras)
    return torch.cat([out.features, out.opacity], dim=-1)


def test_one_gaussian_leaves_its_footprint():
    """A round one on the axis: variance v + 0.3 with v = (f s / z)^2, thinned by v / (v + 0.3), none under 1/255."""
    splats, colors = round_ones([[0.0, 0, 0]], 0.3, [0.8], [[1.0, 0.5, 0.25]])
    out = splat.render_splats(splats, colors, front())
    variance = (40.0 * 0.3 / 4.0) ** 2 + 0.3
    offset = torch.arange(33, dtype=torch.float64) - 16
    want = 0.8 * (variance - 0.3) / variance * torch.exp(-(offset[:, None].square() + offset.square()) / (2 * variance))
    want[want < 1 / 255] = 0
    assert 300 < int((want > 0).sum()) < 500  # an ellipse within the picture
    torch.testing.assert_close(out.opacity[0, ..., 0], want)
    torch.testing.assert_close(out.features[0], want[..., None] * colors[0, 0])


def test_a_turned_gaussian_is_an_ellipse_the_right_way_round():
    """Long axis turned from x by 30 degrees about the view axis: world +y is up, so it rises to the right."""
    angle = math.radians(30)
    quats = torch.tensor([[math.cos(angle / 2), 0, 0, math.sin(angle / 2)]], dtype=torch.float64)
    covs = splat.covariances(3 * quats, torch.tensor([[0.4, 0.1, 0.1]], dtype=torch.float64))
    seen = splat.project_splats(torch.zeros(1, 3, dtype=torch.float64), covs, front())
    long, short = (10 * 0.4) ** 2, (10 * 0.1) ** 2
    c, s = math.cos(angle), math.sin(angle)
    want = [long * c * c + short * s * s + 0.3, -(long - short) * s * c, long * s * s + short * c * c + 0.3]
    torch.testing.assert_close(seen.covs2d[0, 0], torch.tensor(want, dtype=torch.float64))
    torch.testing.assert_close(seen.means2d[0, 0], torch.tensor([16.5, 16.5], dtype=torch.float64))


def test_projected_covariance_against_monte_carlo(rng):
    """Points drawn from small Gaussians and projected exactly have the linear approximation's covariance."""
    cameras = turntable(3, size=64)
    means, quats = torch.rand(4, 3, generator=rng) - 0.5, torch.randn(4, 4, generator=rng)
    scales = torch.rand(4, 3, generator=rng) * 0.03 + 0.005
    seen = splat.project_splats(means, splat.covariances(quats, scales), cameras)
    noise = torch.randn(4, 40_000, 3, generator=rng)
    # R as a rotation of vectors by the quaternion product q v q*, not by the matrix under test.
    w, v = torch.nn.functional.normalize(quats, dim=-1).split([1, 3], dim=-1)
    moved = noise * scales[:, None]
    cross = torch.linalg.cross(v[:, None].expand_as(moved), moved)
    moved = moved + 2 * w[:, None] * cross + 2 * torch.linalg.cross(v[:, None].expand_as(moved), cross)
    points = means[:, None] + moved
    for view in range(3):
        local = (points - cameras.c2w[view, :3, 3]) @ cameras.c2w[view, :3, :3]
        pixels = local[..., :2] / local[..., 2:] * cameras.K[view, 0, 0] + 32
        for i in range(4):
            found = torch.cov(pixels[i].T)
            xx, xy, yy = (seen.covs2d[view, i] - torch.tensor([0.3, 0, 0.3])).tolist()
            torch.testing.assert_close(found, torch.tensor([[xx, xy], [xy, yy]]), rtol=0.05, atol=0.03 * max(xx, yy))
            torch.testing.assert_close(pixels[i].mean(0), seen.means2d[view, i], rtol=0, atol=0.1)


@pytest.mark.parametrize("nearer_first", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearer_of_two_hides_the_other(nearer_first, dtype):
    """In the middle: 0.6 a of the near one, (1 - 0.6 a) 0.5 b of the far one, in whatever order they are given.

    a and b are what the filter leaves: v / (v + 0.3) with v = (40 * 0.2 / z)^2 at z = 3 and z = 5.
    """
    means, opacities, colors = [[0.0, 0, 1.0], [0.0, 0, -1.0]], [0.6, 0.5], [[1.0, 0, 0], [0, 1.0, 0]]
    order = slice(None) if nearer_first else slice(None, None, -1)
    splats, features = round_ones(means[order], 0.2, opacities[order], colors[order], dtype)
    out = splat.render_splats(splats, features, front(dtype=dtype))
    near, far = 0.6 * (64 / 9) / (64 / 9 + 0.3), 0.5 * (64 / 25) / (64 / 25 + 0.3)
    want = torch.tensor([near, (1 - near) * far, 0.0], dtype=dtype)
    torch.testing.assert_close(out.features[0, 16, 16], want)
    torch.testing.assert_close(out.opacity[0, 16, 16], want.sum()[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_is_at_most_099_and_light_runs_out(dtype):
    """Each opaque one passes a hundredth: after two the light is 1e-4, which still counts; the fourth is not drawn."""
    means = [[0.0, 0, 1.0 - 0.1 * i] for i in range(5)]
    colors = [[float(i == k) for i in range(5)] for k in range(5)]
    splats, features = round_ones(means, 0.5, [1.0] * 5, colors, dtype)
    middle = splat.render_splats(splats, features, front(dtype=dtype)).features[0, 16, 16].tolist()
    assert middle[:2] == pytest.approx([0.99, 0.0099], rel=1e-4)
    assert middle[3:] == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_behind_or_beside_the_picture_is_not_drawn(dtype):
    means = [[0.0, 0, 5.0], [0.0, 0, 4.0], [30.0, 0, 0], [0.0, -30, 0]]
    splats, features = round_ones(means, 0.1, [0.9] * 4, [[1.0]] * 4, dtype)
    out = splat.render_splats(splats, features, front(dtype=dtype))
    assert not out.opacity.any()
    assert not out.seen.any()
    empty = [value[:0] for value in splats]
    assert not splat.render_splats(tuple(empty), features[:, :0], front(dtype=dtype)).opacity.any()


def test_the_box_loses_nothing(rng):
    """Brute force: every Gaussian in every pixel, one after another, in Python order of depth."""
    values = [value.detach() for value in random_scene(12, rng, torch.float64)]
    cameras = turntable(2, size=20)
    cameras = Cameras(cameras.c2w.double(), cameras.K.double(), 20, 20, *[x.double() for x in (
        cameras.azimuth, cameras.elevation, cameras.distance)])  # fmt: skip
    means, quats, log_scales, opacities, features = values
    seen = splat.project_splats(means, splat.covariances(quats, log_scales.exp()), cameras)
    want = np.zeros((2, 20, 20, 5))
    for view in range(2):
        for y in range(20):
            for x in range(20):
                light = 1.0
                for i in seen.depths[view].argsort().tolist():
                    a, b, c = seen.covs2d[view, i].tolist()
                    d = np.array([x + 0.5, y + 0.5]) - seen.means2d[view, i].numpy()
                    thin = math.sqrt(((a - 0.3) * (c - 0.3) - b * b) / (a * c - b * b))
                    alpha = min(0.99, float(opacities[i]) * thin * math.exp(-0.5 * d @ np.linalg.inv([[a, b], [b, c]]) @ d))
                    if alpha < 1 / 255 or light < 1e-4:
                        continue
                    want[view, y, x] += light * alpha * np.array([*features[view, i].tolist(), 1.0])
                    light *= 1 - alpha
    torch.testing.assert_close(picture(values, cameras), torch.from_numpy(want))


@needs_kernels
@pytest.mark.parametrize(("count", "size"), [(1, 8), (40, 20), (700, 45)])
@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_equal_the_twin_forward_and_backward(count, size, threads, rng, monkeypatch):
    """Pictures to 1e-5, gradients to 1e-4 of their largest. The sizes are no multiples of a tile."""
    values, cameras = random_scene(count, rng), turntable(2, distance=2.0, size=size)
    probe = torch.randn(2, size, size, 5, generator=rng)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    monkeypatch.setattr(splat.splat_numba, "LEAST", 1)
    try:
        fast = picture(values, cameras)
        fast_grads = torch.autograd.grad((fast * probe).sum(), values)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setenv("DREAMLIFT_KERNELS", "0")
    slow = picture(values, cameras)
    slow_grads = torch.autograd.grad((slow * probe).sum(), values)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-5)
    for one, other in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * float(other.abs().max()) + 1e-12)


@needs_kernels
def test_kernels_do_not_depend_on_the_number_of_threads(rng, monkeypatch):
    means, quats, log_scales, opacities, features = random_scene(300, rng)
    projected = splat.project_splats(means, splat.covariances(quats, log_scales.exp()), turntable(2, size=40))
    items, _ = splat.collect(projected, opacities, features, 40, 40)
    values = [value.detach().requires_grad_() for value in (items.means2d, items.conics, items.opacities, items.features)]
    monkeypatch.setattr(splat.splat_numba, "LEAST", 1)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = splat.splat_numba.composite(tuple(values), (items.limits, items.boxes, items.views), (40, 40, 2))
        found.append([*out, *torch.autograd.grad(out[0].square().sum() + out[1].sum(), values)])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gradients_by_finite_differences(rng):
    """d(picture)/d(everything) in float64, along three random directions."""
    values, cameras = random_scene(60, rng, torch.float64), turntable(2, size=16)
    probe = torch.rand(2, 16, 16, 5, generator=rng, dtype=torch.float64)
    grads = torch.autograd.grad((picture(values, cameras) * probe).sum(), values)
    for _ in range(3):
        moves = [torch.randn(value.shape, generator=rng, dtype=torch.float64) for value in values]
        ends = []
        for step in (1e-7, -1e-7):
            moved = [value.detach() + step * move for value, move in zip(values, moves, strict=True)]
            ends.append(float((picture(moved, cameras) * probe).sum()))
        want = sum(float((grad * move).sum()) for grad, move in zip(grads, moves, strict=True))
        assert (ends[0] - ends[1]) / 2e-7 == pytest.approx(want, rel=1e-4)


def test_bands_of_rows_change_nothing(rng, monkeypatch):
    values, cameras = random_scene(80, rng, torch.float64), turntable(2, size=24)
    whole = picture(values, cameras)
    whole_grads = torch.autograd.grad(whole.square().sum(), values)
    monkeypatch.setattr(splat, "PAIRS_AT_ONCE", 500)
    parts = picture(values, cameras)
    torch.testing.assert_close(parts, whole)
    for one, other in zip(torch.autograd.grad(parts.square().sum(), values), whole_grads, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        assert torch.equal(picture(values, cameras), parts)


def test_bands_hold_as_many_pairs_as_are_allowed(rng, monkeypatch):
    values, cameras = random_scene(200, rng), turntable(2, size=24)
    means, quats, log_scales, opacities, features = values
    seen = splat.project_splats(means, splat.covariances(quats, log_scales.exp()), cameras)
    items, _ = splat.collect(seen, opacities, features, 24, 24)
    monkeypatch.setattr(splat, "PAIRS_AT_ONCE", 2000)
    bands = splat.row_bands(items, 24, 2)
    assert [first for first, _ in bands[1:]] == [last for _, last in bands[:-1]]
    assert (bands[0][0], bands[-1][1]) == (0, 48)
    assert len(bands) > 2
    held = [len(splat._pairs(items, first, last, 24)[0]) for first, last in bands]
    assert max(held) <= 2000
    assert sum(held) == int((items.boxes[:, 2:] - items.boxes[:, :2] + 1).prod(1).sum())


def test_normals_are_the_shortest_axes_toward_the_camera(rng):
    normals = torch.nn.functional.normalize(torch.randn(20, 3, generator=rng), dim=-1)
    quats = initial.turns(normals) * 2
    scales = torch.tensor([0.2, 0.3, 0.05]).expand(20, 3)
    toward = torch.randn(2, 20, 3, generator=rng)
    found = splat.axis_normals(quats, scales, toward)
    want = normals * (normals * toward).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(found, want, rtol=0, atol=1e-5)


def test_quaternions_that_turn_z_onto_normals(rng):
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=rng), dim=-1)
    normals = torch.cat([normals, torch.tensor([[0.0, 0, 1], [0, 0, -1], [1, 0, 0]])])
    torch.testing.assert_close(splat.rotations(initial.turns(normals))[..., 2], normals, rtol=0, atol=1e-5)


def test_spherical_harmonics_are_the_field_s_own():
    """Against SciPy's complex harmonics, combined to real ones, with the signs of the original code's table."""
    special = pytest.importorskip("scipy.special")
    rng = np.random.default_rng(0)
    d = rng.normal(size=(40, 3))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    polar, azimuth = np.arccos(d[:, 2]), np.arctan2(d[:, 1], d[:, 0])
    columns = []
    for degree in range(4):
        for m in range(-degree, degree + 1):
            y = special.sph_harm_y(degree, abs(m), polar, azimuth)  # with the Condon-Shortley phase
            real = y.real if m >= 0 else y.imag
            # The original keeps that phase: (-y, z, -x) for degree 1.
            columns.append(real * (math.sqrt(2) if m else 1.0))
    found = harmonics.sh_basis(torch.from_numpy(d), 3)
    torch.testing.assert_close(found, torch.from_numpy(np.stack(columns, axis=1)))


def test_colours_of_harmonics(rng):
    colors = torch.rand(30, 3, generator=rng)
    directions = torch.nn.functional.normalize(torch.randn(2, 30, 3, generator=rng), dim=-1)
    shown = harmonics.colors_of(harmonics.sh0_of(colors), torch.zeros(30, 0, 3), directions)
    torch.testing.assert_close(shown, colors.expand(2, -1, -1))
    higher = torch.zeros(30, 3, 3)
    higher[:, 1, 0] = 0.3  # red grows along +z
    shown = harmonics.colors_of(harmonics.sh0_of(torch.full((30, 3), 0.5)), higher, directions)
    torch.testing.assert_close(shown[..., 0], 0.5 + 0.3 * math.sqrt(3 / (4 * math.pi)) * directions[..., 2])
    torch.testing.assert_close(shown[..., 1:], torch.full((2, 30, 2), 0.5))


def test_a_colour_beyond_the_range_can_come_back():
    sh0 = torch.full((1, 1, 3), 4.0, requires_grad=True)
    shown = harmonics.colors_of(sh0, torch.zeros(1, 0, 3), torch.tensor([[[0.0, 0, 1]]]))
    assert (shown == 1).all()
    shown.sum().backward()
    torch.testing.assert_close(sh0.grad, torch.full((1, 1, 3), harmonics.C0))


@pytest.mark.parametrize("kind", ["ball", "mesh"])
def test_the_spacing_of_many_points_is_the_mean_of_what_pairs_say(kind, monkeypatch):
    cube = trimesh.creation.box((1.0, 1.0, 1.0))
    mesh = Mesh(cube.vertices.astype(np.float32), cube.faces.astype(np.int32))

    def scales():
        rng = torch.Generator().manual_seed(0)
        found = initial.splats_in_ball(3000, 0.5, 0.1, rng) if kind == "ball" else initial.splats_on_mesh(mesh, 3000, rng)
        return found.log_scales[:, 0].exp()

    pairs = scales()
    monkeypatch.setattr(initial, "EXACT", 100)
    worked_out = scales()
    assert float(worked_out.max()) == float(worked_out.min())
    assert float(worked_out[0]) == pytest.approx(float(pairs.square().mean().sqrt()), rel=0.06)  # edges: fewer neighbours


def test_spacing_is_the_distance_to_neighbours():
    line = torch.stack([torch.arange(9.0), torch.zeros(9), torch.zeros(9)], dim=1)
    found = initial.spacing(line, chunk=4)
    assert float(found[4]) == pytest.approx(math.sqrt((1 + 1 + 4) / 3))
    assert float(found[0]) == pytest.approx(math.sqrt((1 + 4 + 9) / 3))
    assert initial.spacing(torch.zeros(1, 3)).tolist() == pytest.approx([0.1])
