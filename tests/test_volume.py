"""Volume rendering against closed forms, hand-worked numbers and brute force; kernels against their torch twins."""

import math

import pytest
import torch

from dreamlift.scenes.nerf import volume
from dreamlift.scenes.nerf.regularizers import depth_variance, distortion, orientation, total_variation
from dreamlift.scenes.regularizers import opaque, sparsity
from dreamlift.system import jit
from dreamlift.types import RaySamples

needs_kernels = pytest.mark.skipif(not jit.fast_kernels_available(), reason='needs numba: pip install "numba"')


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def random_rays(count, rng, dtype=torch.float32):
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=-1) * 3
    targets = torch.rand(count, 3, generator=rng) * 2.4 - 1.2  # some rays miss the cube
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    return origins.to(dtype), directions.to(dtype), torch.rand(count, generator=rng).to(dtype)


def random_samples(counts, rng, dtype=torch.float32):
    """Rays with the given numbers of samples, of random lengths and with gaps."""
    edges = [torch.rand(2 * n, generator=rng).sort().values.view(n, 2) * 3 + 1 for n in counts]
    edges = torch.cat(edges).to(dtype)
    indices = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    samples = RaySamples(indices, edges[:, 0].contiguous(), edges[:, 1].contiguous())
    return samples, volume.ray_offsets(samples, len(counts))


def naive(density, values, samples, rays, stop=0.0):
    """One ray and one sample after another, in Python."""
    weights = []
    sums = [torch.zeros(2 + values.shape[1], dtype=density.dtype) for _ in range(rays)]
    light, last = torch.ones((), dtype=density.dtype), -1
    for i, ray in enumerate(samples.ray_indices.tolist()):
        if ray != last:
            light, last = torch.ones((), dtype=density.dtype), ray
        alpha = 1 - torch.exp(-density[i] * (samples.ends[i] - samples.starts[i]))
        w = light * alpha if light >= stop else torch.zeros_like(alpha)
        light = light * (1 - alpha)
        middle = 0.5 * (samples.starts[i] + samples.ends[i])
        weights.append(w)
        sums[ray] = sums[ray] + w * torch.cat([torch.stack([torch.ones_like(middle), middle]), values[i]])
    return torch.stack(weights), torch.stack(sums)


def flat(out):
    return out.weights, torch.cat([out.opacity[:, None], out.depth_sum[:, None], out.values], dim=1)


def test_hand_worked_weights():
    """tau = ln 2 twice halves the light twice: weights 1/2 and 1/4, opacity 3/4."""
    samples = RaySamples(torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    density = torch.tensor([math.log(2), math.log(2) / 2])
    values = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.4]])
    for call in (volume.composite, volume.composite_torch):
        out = call(density, values, samples, torch.tensor([0, 2]))
        torch.testing.assert_close(out.weights, torch.tensor([0.5, 0.25]))
        torch.testing.assert_close(out.opacity, torch.tensor([0.75]))
        torch.testing.assert_close(out.depth_sum, torch.tensor([0.5 * 1.5 + 0.25 * 3.0]))
        torch.testing.assert_close(out.values, torch.tensor([[0.5, 0.25, 0.1]]))


def test_twin_against_naive_loop_and_gradcheck(rng):
    samples, offsets = random_samples([3, 0, 5, 1, 0], rng, torch.float64)
    density = (torch.rand(9, generator=rng, dtype=torch.float64) * 2).requires_grad_()
    values = torch.rand(9, 2, generator=rng, dtype=torch.float64).requires_grad_()
    weights, sums = flat(volume.composite(density, values, samples, offsets, 0.6))
    want_weights, want_sums = naive(density, values, samples, 5, 0.6)
    assert (want_weights == 0).any()  # the threshold was met
    torch.testing.assert_close(weights, want_weights)
    torch.testing.assert_close(sums, want_sums)
    assert torch.autograd.gradcheck(
        lambda d, v: flat(volume.composite(d, v, samples, offsets, 0.6)), (density, values), eps=1e-7
    )


def test_twin_keeps_its_accuracy_behind_many_rays(rng):
    """A ray behind 20,000 dense ones gets the same weights as alone: no running sum crosses rays."""
    samples, offsets = random_samples([40] * 2000, rng)
    density = torch.rand(80000, generator=rng) * 100
    density[-40:] *= 1e-4
    many = volume.composite_torch(density, density[:, None], samples, offsets).weights[-40:]
    last = RaySamples(torch.zeros(40, dtype=torch.int64), samples.starts[-40:], samples.ends[-40:])
    alone = volume.composite_torch(density[-40:], density[-40:, None], last, torch.tensor([0, 40])).weights
    torch.testing.assert_close(many, alone, rtol=1e-6, atol=0)


@needs_kernels
@pytest.mark.parametrize("stop", [0.0, 1e-2])
def test_composite_kernel_against_twin(rng, stop):
    counts = torch.randint(0, 40, (600,), generator=rng).tolist()
    samples, offsets = random_samples(counts, rng)
    results = []
    density = torch.rand(sum(counts), generator=rng) * 8
    values = torch.rand(sum(counts), 5, generator=rng)
    probe = [torch.randn(sum(counts), generator=rng), torch.randn(600, 7, generator=rng)]
    for call in (volume.composite, volume.composite_torch):
        d, v = density.clone().requires_grad_(), values.clone().requires_grad_()
        outs = flat(call(d, v, samples, offsets, stop))
        results.append((*outs, *torch.autograd.grad(outs, (d, v), probe)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5)


@needs_kernels
def test_composite_kernel_with_one_output_used(rng):
    """A regulariser alone differentiates the weights only, a picture alone the sums only."""
    samples, offsets = random_samples([4, 6], rng)
    density = torch.rand(10, generator=rng).requires_grad_()
    for pick in (lambda out: out.weights.square().sum(), lambda out: out.opacity.sum()):
        got, want = (
            torch.autograd.grad(pick(call(density, density[:, None].detach(), samples, offsets)), density)[0]
            for call in (volume.composite, volume.composite_torch)
        )
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_samples_tile_the_cube_and_stay_in_order(rng):
    origins, directions, jitter = random_rays(200, rng, torch.float64)
    samples = volume.sample_rays(origins, directions, 0.8, 16, jitter)
    near, far = volume.intersect_cube(origins, directions, 0.8)
    hit = far > near
    assert 0 < hit.sum() < 200
    assert (samples.ray_indices.bincount(minlength=200) == hit * 16).all()
    torch.testing.assert_close(samples.starts.view(-1, 16)[:, 0], near[hit])
    torch.testing.assert_close(samples.ends.view(-1, 16)[:, -1], far[hit])
    torch.testing.assert_close(samples.ends.view(-1, 16)[:, :-1], samples.starts.view(-1, 16)[:, 1:])
    assert (samples.ends > samples.starts).all()
    inside = volume.sample_points(origins, directions, samples)
    assert inside.abs().max() <= 0.8 + 1e-9


@needs_kernels
@pytest.mark.parametrize("masked", [False, True])
def test_sample_kernel_against_twin(rng, masked):
    origins, directions, jitter = random_rays(2000, rng)
    directions[0] = torch.tensor([0.0, 0.0, 1.0])  # along an axis, from outside the other two slabs and inside them
    origins[0], origins[1], directions[1] = torch.tensor([0.1, 0.2, -3]), torch.tensor([2.0, 0, -3]), directions[0]
    occupied = torch.rand(8, 8, 8, generator=rng) < 0.4 if masked else None
    got = volume.sample_rays(origins, directions, 1.0, 24, jitter, occupied)
    want = volume.sample_rays_torch(origins, directions, 1.0, 24, jitter, occupied)
    assert torch.equal(got.ray_indices, want.ray_indices)
    torch.testing.assert_close(got.starts, want.starts)
    torch.testing.assert_close(got.ends, want.ends)
    points = volume.sample_points(origins, directions, got)
    twin = origins[got.ray_indices] + (0.5 * (got.starts + got.ends))[:, None] * directions[got.ray_indices]
    torch.testing.assert_close(points, twin)


@needs_kernels
def test_kernels_do_not_depend_on_the_number_of_threads(rng):
    origins, directions, jitter = random_rays(3000, rng)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            s = volume.sample_rays(origins, directions, 1.0, 16, jitter)
            d = volume.sample_points(origins, directions, s).square().sum(-1).requires_grad_()
            out = volume.composite(d, d.detach()[:, None], s, volume.ray_offsets(s, 3000))
            results.append((s.starts, out.values, *torch.autograd.grad(out.values.sum(), d)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_samples_at_all():
    nothing = RaySamples(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0))
    density = torch.zeros(0, requires_grad=True)
    for call in (volume.composite, volume.composite_torch):
        out = call(density, torch.zeros(0, 3), nothing, torch.zeros(4, dtype=torch.int64))
        assert out.opacity.tolist() == [0, 0, 0]
        assert out.values.shape == (3, 3)
        out.opacity.sum().backward()


def test_distortion_and_variance_against_brute_force(rng):
    counts = [5, 0, 7, 1]
    samples, offsets = random_samples(counts, rng, torch.float64)
    weights = torch.rand(13, generator=rng, dtype=torch.float64).requires_grad_()
    m, delta = 0.5 * (samples.starts + samples.ends), samples.ends - samples.starts
    spreads = variances = torch.zeros((), dtype=torch.float64)
    for r in range(4):
        own = range(int(offsets[r]), int(offsets[r + 1]))
        spreads = spreads + sum(weights[i] * weights[j] * (m[i] - m[j]).abs() for i in own for j in own)
        spreads = spreads + sum(weights[i] ** 2 * delta[i] / 3 for i in own)
        if len(own):
            share = weights[own.start : own.stop] / weights[own.start : own.stop].sum()
            mean = (share * m[own.start : own.stop]).sum()
            variances = variances + (share * (m[own.start : own.stop] - mean) ** 2).sum()
    for got, want in (
        (distortion(weights, samples, offsets), spreads / 4),
        (depth_variance(weights, samples, offsets), variances / 3),  # the ray without samples has no opacity
    ):
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(*(torch.autograd.grad(x, weights, retain_graph=True)[0] for x in (got, want)))


def test_opacity_terms_by_hand():
    opacity = torch.tensor([0.0, 0.5, 1.0])
    want = (0.1 + math.sqrt(0.26) + math.sqrt(1.01)) / 3
    assert float(sparsity(opacity)) == pytest.approx(want, rel=1e-6)
    edge = -(0.001 * math.log(0.001) + 0.999 * math.log(0.999))
    assert float(opaque(opacity)) == pytest.approx((2 * edge + math.log(2)) / 3, rel=1e-4)


def test_orientation_by_hand():
    """Only the sample that faces away counts: weight 0.5, cosine 0.6, two rays."""
    weights = torch.tensor([0.5, 0.7], requires_grad=True)
    normals = torch.tensor([[0.0, 0.8, 0.6], [0.0, 0.0, -1.0]], requires_grad=True)
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    term = orientation(weights, normals, directions, rays=2)
    assert float(term.detach()) == pytest.approx(0.5 * 0.36 / 2)
    assert torch.autograd.grad(term, weights, allow_unused=True)[0] is None


def test_total_variation_by_brute_force(rng):
    grid = torch.rand(3, 4, 5, 2, generator=rng)
    total = 0.0
    for axis in range(3):
        n = grid.shape[axis]
        steps = [(grid.select(axis, k + 1) - grid.select(axis, k)).square().mean() for k in range(n - 1)]
        total += float(sum(steps)) / (n - 1)
    assert float(total_variation(grid)) == pytest.approx(total, rel=1e-5)
