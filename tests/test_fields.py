"""The voxel and hash-grid fields against slow loops, torch's own sampling, and finite differences."""

import math

import pytest
import torch

from dreamlift.scenes.nerf import hashgrid, voxel
from dreamlift.scenes.nerf.field import Blob, activate_density
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.system import jit

needs_kernels = pytest.mark.skipif(not jit.fast_kernels_available(), reason='needs numba: pip install "numba"')
SMALL = {
    "voxel": Voxel(resolutions=(5, 9), switch_on=(0.0, 0.5)),
    "hashgrid": Hashgrid(levels=4, log2_rows=9, base_resolution=4, hidden=16, start_levels=2, start_at=0.5),
}


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def points_in_cube(count, rng, dtype=torch.float32, edge=1.0):
    return ((torch.rand(count, 3, generator=rng) * 2 - 1) * edge).to(dtype)


@pytest.mark.parametrize("resolutions", [(5, 9, 17), (4, 7, 19), (3,)])
def test_combined_grid_is_the_sum_of_its_levels(rng, resolutions):
    """One sample of the combined grid equals the sum of F.grid_sample on every level plus the blob's own grid."""
    field = Voxel(resolutions, tuple(0.0 for _ in resolutions)).build(1.0, rng)
    for level in field.levels:
        level.data.normal_(generator=rng)
    points = points_in_cube(500, rng, edge=1.1)  # some outside: the border counts
    bias = torch.cat([field.bias[..., None], torch.zeros(*field.bias.shape, 3)], -1)
    want = torch.zeros(500, 4)
    for grid in (bias, *field.levels):
        volume = grid.detach().permute(3, 0, 1, 2)[None]
        where = points.view(1, -1, 1, 1, 3)
        read = torch.nn.functional.grid_sample(volume, where, align_corners=True, padding_mode="border")
        want = want + read.view(4, -1).T
    first, others = voxel.sample_grid(field.combined(), points, 1.0)
    torch.testing.assert_close(torch.cat([first[:, None], others], 1).detach(), want, rtol=1e-4, atol=1e-4)


@needs_kernels
def test_voxel_kernels_against_twins(rng):
    levels = [torch.randn(n, n, n, 4, generator=rng) for n in (5, 9, 33)]
    bias, points = torch.randn(33, 33, 33, generator=rng), points_in_cube(20000, rng, edge=1.05)
    probe = [torch.randn(20000, generator=rng), torch.randn(20000, 3, generator=rng)]
    results = []
    for combine, sample in (
        (voxel.combine, voxel.sample_grid),
        (voxel.combine_torch, voxel.sample_grid_torch),
    ):
        own = [level.clone().requires_grad_() for level in levels]
        outs = sample(combine(bias, own), points, 1.0)
        results.append((*outs, *torch.autograd.grad(outs, own, probe)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


@needs_kernels
def test_slopes_kernel_against_twin(rng):
    grid, probe = torch.randn(9, 9, 9, 4, generator=rng), torch.randn(9, 9, 9, 4, generator=rng)
    results = []
    for call in (voxel.slopes, voxel.slopes_torch):
        own = grid.clone().requires_grad_()
        out = call(own)
        results.append((out, torch.autograd.grad(out, own, probe)[0]))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@needs_kernels
def test_grid_backward_does_not_depend_on_the_number_of_threads(rng):
    grid, points = torch.randn(17, 17, 17, 4, generator=rng).requires_grad_(), points_in_cube(30000, rng)
    threads, grads = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            first, others = voxel.sample_grid(grid, points, 1.0)
            grads.append(torch.autograd.grad(first.square().sum() + others.square().sum(), grid)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def naive_encoding(table, point, layout, active):
    """Instant-NGP's encoding of one point, with Python's own integers."""
    out = []
    for level, n in enumerate(layout.resolutions):
        rows = table[layout.first[level] : layout.first[level + 1]]
        where = [float(c) * n for c in point]
        corner = [min(math.floor(w), n - 1) for w in where]
        total = torch.zeros(table.shape[1])
        for dx in (0, 1):
            for dy in (0, 1):
                for dz in (0, 1):
                    x, y, z = corner[0] + dx, corner[1] + dy, corner[2] + dz
                    weight = 1.0
                    for w, c, d in zip(where, corner, (dx, dy, dz), strict=True):
                        weight *= (w - c) if d else 1 - (w - c)
                    if (n + 1) ** 3 <= len(rows):
                        row = x + (n + 1) * (y + (n + 1) * z)
                    else:
                        row = (x ^ (y * 2654435761 % 2**32) ^ (z * 805459861 % 2**32)) % len(rows)
                    total = total + weight * rows[row]
        out += total.tolist() if level < active else [0.0] * table.shape[1]
    return out


def test_hash_encoding_against_a_naive_loop(rng):
    settings = Hashgrid(levels=6, log2_rows=10, base_resolution=4, growth=1.9)
    layout = hashgrid.layout_of(settings)
    assert layout.first[1] == 125  # a dense level
    assert layout.first[-1] - layout.first[-2] == 1024  # a hashed one
    table, points = torch.randn(layout.first[-1], 2, generator=rng), torch.rand(40, 3, generator=rng)
    want = torch.tensor([naive_encoding(table, p, layout, 5) for p in points]).T
    for call in (hashgrid.encode, hashgrid.encode_torch):
        torch.testing.assert_close(call(table, points, layout, 5), want, rtol=1e-4, atol=1e-5)


@needs_kernels
def test_hash_kernel_against_twin(rng):
    layout = hashgrid.layout_of(Hashgrid(levels=5, log2_rows=11, base_resolution=6, growth=1.7))
    table, points = torch.randn(layout.first[-1], 2, generator=rng), torch.rand(9000, 3, generator=rng) * 1.2 - 0.1
    probe, results = torch.randn(10, 9000, generator=rng), []
    for call in (hashgrid.encode, hashgrid.encode_torch):
        own = table.clone().requires_grad_()
        out = call(own, points, layout, 4)
        results.append((out, torch.autograd.grad(out, own, probe)[0]))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_gradients_by_finite_differences(rng, name):
    """d(density, colour, normal)/d(every parameter) in float64."""
    field = SMALL[name].build(1.0, rng).double()
    field.advance(1.0)
    for parameter in field.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng, dtype=torch.float64) * 0.3
    points = points_in_cube(6, rng, torch.float64, edge=0.9)
    probe = torch.randn(6, 7, generator=rng, dtype=torch.float64)

    def value():
        found = field.query(points, normals=True)
        return (torch.cat([found.density[:, None], found.albedo, found.normal], 1) * probe).sum()

    for parameter in field.parameters():
        (grad,) = torch.autograd.grad(value(), parameter)
        direction = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        kept = parameter.data.clone()
        ends = []
        for sign in (1, -1):
            parameter.data = kept + sign * 1e-6 * direction
            ends.append(float(value().detach()))
        parameter.data = kept
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float((grad * direction).sum()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", ["cone", "gaussian"])
@pytest.mark.parametrize("name", ["voxel", "hashgrid"])
def test_normals_of_a_fresh_blob_point_outward(rng, name, kind):
    blob = Blob(kind, 10.0, 0.5)
    settings = {"voxel": Voxel(blob=blob), "hashgrid": Hashgrid(levels=4, log2_rows=10, blob=blob)}[name]
    field = settings.build(1.0, rng)
    field.advance(1.0)
    points = points_in_cube(300, rng, edge=0.6)
    points = points[points.norm(dim=-1) > 0.2]
    normal = field.query(points, normals=True).normal
    cosine = (normal * torch.nn.functional.normalize(points, dim=-1)).sum(-1)
    assert cosine.min() > 0.97


@pytest.mark.parametrize("name", SMALL)
def test_density_agrees_with_query(rng, name):
    field = SMALL[name].build(1.0, rng)
    points = points_in_cube(50, rng)
    found = field.query(points)
    torch.testing.assert_close(field.density(points), found.density)
    assert found.normal is None
    assert (found.density >= 0).all()
    assert ((found.albedo > 0) & (found.albedo < 1)).all()


def test_blobs_by_hand():
    points = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    torch.testing.assert_close(Blob("cone", 10.0, 0.5)(points), torch.tensor([10.0, 0.0]))
    torch.testing.assert_close(Blob("gaussian", 5.0, 0.25)(points), torch.tensor([5.0, 5 * math.exp(-2)]))
    assert Blob("none")(points).tolist() == [0, 0]


def test_exp_activation_has_a_bounded_gradient():
    raw = torch.tensor([0.0, 60.0], requires_grad=True)
    activate_density(raw, "exp").sum().backward()
    torch.testing.assert_close(raw.grad, torch.tensor([1.0, math.exp(15.0)]))


def test_levels_join_over_the_run(rng):
    field = SMALL["voxel"].build(1.0, rng)
    assert field.combined().shape == (5, 5, 5, 4)
    field.advance(0.5)
    assert field.combined().shape == (9, 9, 9, 4)
    grid = Hashgrid(levels=16, log2_rows=8).build(1.0, rng)
    active = []
    for progress in (0.0, 0.24, 0.25, 0.3, 0.6, 1.0):
        grid.advance(progress)
        active.append(int(grid.active))
    assert active == [8, 8, 9, 10, 16, 16]


def test_a_new_level_changes_nothing_at_once(rng):
    """The fine voxel level starts at zero: switching it on only refines the blob's own grid."""
    field = Voxel((5, 9), (0.0, 0.5), blob=Blob("none")).build(1.0, rng)
    field.levels[0].data.normal_(generator=rng)
    points = points_in_cube(100, rng)
    before = field.density(points)
    field.advance(1.0)
    torch.testing.assert_close(field.density(points), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Voxel(resolutions=(16, 32), switch_on=(0.0, 0.0)), "must divide"),
        (lambda: Voxel(switch_on=(0.0,)), "one growing progress value"),
        (lambda: Voxel(activation="relu"), "softplus, exp"),
        (lambda: Hashgrid(log2_rows=40), "4..24"),
        (lambda: Blob("cube"), "gaussian, cone, constant, none"),
        (lambda: Blob(std=0.0), "positive"),
    ],
)
def test_wrong_settings_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
