"""Visibility by every backend against brute force, and gradients of pictures against supersampling and finite differences."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from dreamlift.cameras import orbit_cameras, project, turntable
from dreamlift.meshing.isosurface import isosurface
from dreamlift.raster.soft import antialias, draw, edges_of, edges_torch, raster_points
from dreamlift.raster.visibility import available_backends, choose_backend, visible_faces

BACKENDS = available_backends("cpu")


def camera(size: int = 32, azimuth: float = 0.0, elevation: float = 0.0, distance: float = 3.0):
    one = torch.ones(1, dtype=torch.float64)
    return orbit_cameras(azimuth * one, elevation * one, distance * one, math.radians(40.0) * one, size)


def ball(cells: int, radius: float = 0.6) -> tuple[torch.Tensor, torch.Tensor]:
    axis = torch.linspace(-1, 1, cells, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    vertices, faces = isosurface(radius - points.norm(dim=-1), 0.0, -1.0, 1.0)
    return torch.nn.functional.normalize(vertices, dim=-1) * radius, faces


def coverage(vertices, faces, cameras, backend=None):
    seen = raster_points(vertices, faces, cameras, backend)
    mask = seen.picture(torch.ones(len(seen.pixel), 1, dtype=vertices.dtype))
    return antialias(mask, seen, vertices, faces, edges_of(faces), cameras)


def colored(vertices, faces, colors, cameras, backend=None, whole=False):
    """Pictures with colour times coverage, coverage and depth times coverage; ``whole`` draws them in one call."""
    seen = raster_points(vertices, faces, cameras, backend)
    values = torch.cat([seen.interpolate(colors), torch.ones_like(seen.depth), seen.depth], dim=1)
    if whole:
        return draw(values, seen, vertices, faces, edges_of(faces), cameras)
    return antialias(seen.picture(values), seen, vertices, faces, edges_of(faces), cameras)


def supersampled(vertices, faces, cameras, factor: int = 16):
    """Coverage by ``factor^2`` plain samples a pixel, from the reference."""
    from dreamlift.cameras import rescaled

    hit = (visible_faces(vertices, faces, rescaled(cameras, factor), "torch") >= 0).double()
    b, h, w = hit.shape
    return hit.view(b, h // factor, factor, w // factor, factor).mean(dim=(2, 4))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_sees_what_the_reference_sees(backend):
    rng = np.random.default_rng(0)
    soup = torch.from_numpy(rng.normal(size=(240, 3)))
    meshes = [(soup, torch.arange(240).view(80, 3), 4.0), (*ball(24), 3.0), (soup * 0.5, torch.arange(240).view(80, 3), 0.3)]
    for vertices, faces, distance in meshes:
        cameras = turntable(2, 20.0, distance, 50.0, 48)
        want, got = (visible_faces(vertices, faces, cameras, name) for name in ("torch", backend))
        assert (want >= 0).float().mean() > 0.1
        assert (want == got).float().mean() > 0.9999


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_has_the_gradients_of_finite_differences(backend):
    """Of all vertices and colours along random directions: what moves inside, and the outlines."""
    vertices, faces = ball(9)
    cameras = camera(24, 0.3, 0.4)
    g = torch.Generator().manual_seed(0)
    colors = torch.rand(len(vertices), 3, generator=g, dtype=torch.float64)
    weights = torch.randn(1, 24, 24, 5, generator=g, dtype=torch.float64)
    moves = [torch.randn(x.shape, generator=g, dtype=torch.float64) * 0.1 for x in (vertices, colors)]

    def value(v, c):
        return (colored(v, faces, c, cameras, backend) * weights).sum()

    leaves = [vertices.clone().requires_grad_(), colors.clone().requires_grad_()]
    grads = torch.autograd.grad(value(*leaves), leaves)
    step = 1e-6
    for k in range(2):
        ends = []
        for sign in (1, -1):
            moved = [x + sign * step * moves[i] * (i == k) for i, x in enumerate((vertices, colors))]
            ends.append(float(value(*moved)))
        want = float((grads[k] * moves[k]).sum())
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(want, rel=2e-3)


def twins(vertices, faces, cameras, dtype, whole=True):
    """(picture of colours, coverage and depth, its gradients) by the compiled kernels and by torch, and the share of pixels
    where they chose the same face."""
    g = torch.Generator().manual_seed(1)
    colors = torch.rand(len(vertices), 3, generator=g, dtype=torch.float64).to(dtype)
    weights = torch.randn(len(cameras), cameras.height, cameras.width, 5, generator=g, dtype=torch.float64).to(dtype)
    found, ids = [], []
    for backend in ("numba", "torch"):
        leaves = [x.to(dtype).clone().requires_grad_() for x in (vertices, colors)]
        picture = colored(leaves[0], faces, leaves[1], cameras, backend, whole)
        assert picture.dtype == dtype
        found.append((picture, *torch.autograd.grad(picture, leaves, weights)))
        ids.append(raster_points(leaves[0], faces, cameras, backend).ids)
    return *found, float((ids[0] == ids[1]).double().mean())


@pytest.mark.skipif("numba" not in BACKENDS, reason="without numba torch's is the only one")
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("distance", [4.0, 0.3])
def test_compiled_pictures_and_gradients_are_those_of_torch(distance, whole):
    """In float64 to rounding: a soup of crossing triangles, from outside and from within, and a ball of small ones."""
    soup = torch.from_numpy(np.random.default_rng(3).normal(size=(120, 3)))
    meshes = [(soup, torch.arange(120).view(40, 3)), ball(24)]
    for vertices, faces in meshes:
        cameras = turntable(3, 20.0, distance, 50.0, 40)
        cameras = dataclasses.replace(cameras, c2w=cameras.c2w.double(), K=cameras.K.double())
        mine, twin, same = twins(vertices, faces, cameras, torch.float64, whole)
        assert same == 1
        for got, want in zip(mine, twin, strict=True):
            assert float((got - want).detach().norm()) <= 1e-11 * float(want.detach().norm())


@pytest.mark.skipif("numba" not in BACKENDS, reason="without numba torch's is the only one")
def test_compiled_pictures_in_single_precision_are_those_of_torch():
    vertices, faces = ball(24)
    mine, twin, same = twins(vertices, faces, turntable(2, 20.0, 3.0, 50.0, 64), torch.float32)
    assert same > 0.999
    for got, want in zip(mine, twin, strict=True):
        assert float((got - want).detach().norm()) <= 1e-3 * float(want.detach().norm())


@pytest.mark.skipif("numba" not in BACKENDS, reason="it tests the compiled kernels")
def test_the_number_of_threads_changes_no_bit():
    vertices, faces = ball(20)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(twins(vertices, faces, turntable(3, 20.0, 3.0, 50.0, 96), torch.float32)[0])
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.skipif("numba" not in BACKENDS, reason="it tests the compiled kernels")
def test_what_is_frozen_gets_no_gradient():
    vertices, faces = ball(12)
    for fixed, moving in ((0, 1), (1, 0)):
        leaves = [vertices.clone(), torch.rand(len(vertices), 3, dtype=torch.float64)]
        leaves[moving].requires_grad_()
        colored(leaves[0], faces, leaves[1], camera(16), "numba").sum().backward()
        assert leaves[fixed].grad is None
        assert bool(leaves[moving].grad.any())


def test_perspective_correct_interpolation_of_positions_gives_the_rays_points():
    vertices, faces = ball(12)
    cameras = camera(32, 0.5, 0.2)
    seen = raster_points(vertices, faces, cameras)
    pixels, _ = project(cameras, seen.interpolate(vertices))
    row, column = torch.div(seen.pixel, 32, rounding_mode="floor"), seen.pixel % 32
    torch.testing.assert_close(pixels[0], torch.stack([column, row], dim=1) + 0.5, atol=1e-9, rtol=0, check_dtype=False)


@pytest.mark.parametrize("turn", [0.0, 0.3, 0.8, 1.2, 2.0, 2.9])
def test_coverage_of_a_triangle_is_its_area(turn):
    """Against the closed form, and each pixel against 256 samples."""
    angles = torch.tensor([0.0, 2.2, 4.1], dtype=torch.float64) + turn
    vertices = torch.stack([0.8 * angles.cos(), 0.8 * angles.sin(), torch.zeros(3, dtype=torch.float64)], dim=1)
    faces, cameras = torch.tensor([[0, 1, 2]]), camera(32)
    cover = coverage(vertices, faces, cameras)[..., 0]
    (p, q, r) = project(cameras, vertices)[0][0]
    area = 0.5 * abs(float((q - p)[0] * (r - p)[1] - (q - p)[1] * (r - p)[0]))
    assert float(cover.sum()) == pytest.approx(area, rel=0.01)
    assert 0 <= float(cover.min()) <= float(cover.max()) <= 1
    error = (cover - supersampled(vertices, faces, cameras)).abs()
    aliased = ((visible_faces(vertices, faces, cameras) >= 0).double() - supersampled(vertices, faces, cameras)).abs()
    assert float(error.mean()) < 0.4 * float(aliased.mean())


@pytest.mark.parametrize("cells", [10, 24, 48])
def test_the_growth_of_a_balls_outline_is_the_gradient_of_its_coverage(cells):
    """d(area)/d(radius) of the outline in pixels, for triangles larger and far smaller than a pixel.

    The outline of a sphere of radius R at distance D has the radius f tan(asin(R / D)): area pi f^2 R^2 / (D^2 - R^2).
    """
    vertices, faces = ball(cells)
    radius, distance, size = 0.6, 3.0, 48
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    areas, slopes = [], []
    for azimuth in (0.0, 0.4, 0.9):
        area = coverage(vertices * scale, faces, camera(size, azimuth, 0.3)).sum()
        areas.append(float(area.detach()))
        slopes.append(float(torch.autograd.grad(area, scale)[0]))
    focal = 0.5 * size / math.tan(math.radians(20))
    rest = distance**2 - radius**2
    polyhedron = 0.04 if cells == 10 else 0.006  # how much a mesh lies inside of its ball
    assert np.mean(areas) == pytest.approx(math.pi * focal**2 * radius**2 / rest, rel=polyhedron)
    slope = math.pi * focal**2 * 2 * radius * distance**2 / rest**2 * radius
    assert np.mean(slopes) == pytest.approx(slope, rel=0.05)


def test_a_shift_moves_coverage_as_a_supersampled_picture_says():
    """Over a range of sub-pixel shifts, where pixels change hands: the mean is right, and jumps are small.

    Those that are left come from corners of the outline, where it turns from steep to flat within a pixel.
    """
    vertices, faces = ball(16, 0.5)
    cameras, column = camera(24), torch.arange(24, dtype=torch.float64) + 0.5
    step = 0.01
    found, truth, hard = [], [], []
    for k in range(12):
        moved = vertices + torch.tensor([step * k, 0.0, 0.0], dtype=torch.float64)
        found.append(float((coverage(moved, faces, cameras)[0, :, :, 0] * column).sum()))
        truth.append(float((supersampled(moved, faces, cameras)[0] * column).sum()))
        hard.append(float(((visible_faces(moved, faces, cameras)[0] >= 0) * column).sum()))
    found_steps, true_steps, hard_steps = np.diff(found), np.diff(truth), np.diff(hard)
    assert np.mean(found_steps) == pytest.approx(np.mean(true_steps), rel=0.02)
    assert np.abs(found_steps - true_steps).max() < 0.2 * np.abs(hard_steps - true_steps).max()


def test_something_smaller_than_a_pixel_keeps_its_coverage_in_range():
    for width in (0.01, 0.05, 0.09):
        corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=torch.float64) * width / 2
        middle = 3.0 * math.tan(math.radians(20)) / 8  # of the pixel right of and above the middle
        vertices = corners + torch.tensor([middle, middle, 0.0], dtype=torch.float64)
        cover = coverage(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), camera(8))
        pixel = 2 * 3.0 * math.tan(math.radians(20)) / 8
        assert float(cover.min()) >= 0
        assert float(cover.sum()) == pytest.approx((width / pixel) ** 2, rel=1e-6)


def test_what_lies_behind_does_not_shine_through():
    """A far square whose edge ends behind a near one leaves no trace."""
    square = torch.tensor([[-0.6, -0.6, 0], [0.6, -0.6, 0], [0.6, 0.6, 0], [-0.6, 0.6, 0]], dtype=torch.float64)
    near, far = square + torch.tensor([0, 0, 0.5]), square * 0.7 + torch.tensor([0.0, 0, -0.5])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    cameras = camera(32)
    alone = coverage(near, faces, cameras)
    both, joined = torch.cat([near, far]), torch.cat([faces, faces + 4])
    colors = torch.tensor([[1.0, 0, 0]] * 4 + [[0.0, 1, 0]] * 4, dtype=torch.float64)
    picture = colored(both, joined, colors, cameras)
    torch.testing.assert_close(picture[..., 0:1], alone)
    assert not picture[..., 1].any()
    # The other way round the small one's outline is blended into the large one, not into the background.
    swapped = colored(both, joined, colors, camera(32, math.pi))
    torch.testing.assert_close(swapped[..., 0] + swapped[..., 1], swapped[..., 3])
    assert float(swapped[..., 1].sum()) == pytest.approx(float(coverage(far, faces, camera(32, math.pi)).sum()), rel=1e-6)


def test_edges_have_their_faces():
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    edges = edges_of(faces)
    rows = {(tuple(sorted(e)), tuple(sorted(f))) for e, f in zip(edges.ends.tolist(), edges.faces.tolist(), strict=True)}
    assert rows == {((1, 2), (0, 1)), ((0, 1), (-1, 0)), ((0, 2), (-1, 0)), ((1, 3), (-1, 1)), ((2, 3), (-1, 1))}
    _, closed = ball(8)
    found = edges_of(closed)
    assert bool((found.faces >= 0).all())
    assert len(found.ends) * 2 == len(closed) * 3
    assert len(edges_of(torch.zeros(0, 3, dtype=torch.int64)).ends) == 0


def test_edges_are_those_of_torch_in_their_order():
    """Of any faces: edges of three and more faces, a vertex with many, corners that are one vertex."""
    rng = np.random.default_rng(0)
    wheel = np.stack([np.zeros(300, int), np.arange(1, 301), np.roll(np.arange(1, 301), -1)], axis=1)
    for faces in (rng.integers(0, 12, (90, 3)), rng.integers(0, 400, (500, 3)), wheel, rng.permutation(wheel), wheel[:0]):
        mine, twin = (make(torch.from_numpy(faces)) for make in (edges_of, edges_torch))
        assert torch.equal(mine.ends, twin.ends)
        assert torch.equal(mine.faces, twin.faces)


def test_nothing_to_see_gives_an_empty_picture_with_a_graph():
    vertices = torch.zeros(0, 3, requires_grad=True)
    cover = coverage(vertices, torch.zeros(0, 3, dtype=torch.int64), turntable(2, size=8))
    assert cover.shape == (2, 8, 8, 1)
    assert not cover.any()


def test_backends_are_chosen_and_refused_by_name(monkeypatch):
    vertices, faces = ball(6)
    assert choose_backend("cpu") in BACKENDS
    assert choose_backend("mps") == "torch"
    monkeypatch.setenv("DREAMLIFT_RASTER", "torch")
    assert choose_backend("cpu") == "torch"
    with pytest.raises(ValueError, match="unknown raster backend 'opengl'; accepted: torch, numba"):
        visible_faces(vertices, faces, turntable(1, size=8), "opengl")
    monkeypatch.setenv("DREAMLIFT_KERNELS", "0")
    with pytest.raises(ValueError, match=r"'numba' is not available on 'cpu'; accepted: torch \(numba needs"):
        visible_faces(vertices, faces, turntable(1, size=8), "numba")
