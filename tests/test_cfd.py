"""Consistent flow distillation: its noise is white in every view and stays on the surface; in 2D its flow samples the prior."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from lift_helpers import changed, taught
from stage_helpers import begun, steps_of

from dreamlift.cameras import orbit_cameras, rays_of
from dreamlift.guidance.cfd import CFD, NoiseField
from dreamlift.guidance.sds import SDS
from dreamlift.presets import PRESETS
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.types import Conditioning, RenderOutput


def rng(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ball(azimuths_deg: list[float], elevation_deg: float = 10.0, size: int = 24, radius: float = 0.7):
    """Cameras, where their rays meet a ball around the origin, and which do (in closed form)."""
    count = len(azimuths_deg)
    azimuth = torch.deg2rad(torch.tensor(azimuths_deg))
    elevation = torch.full((count,), math.radians(elevation_deg))
    cameras = orbit_cameras(azimuth, elevation, torch.full((count,), 2.5), torch.full((count,), math.radians(40.0)), size, size)
    rays = rays_of(cameras)
    half = -(rays.origins * rays.directions).sum(-1)
    root = half.square() - rays.origins.square().sum(-1) + radius**2
    depth = torch.where(root > 0, half - root.clamp_min(0).sqrt(), torch.full_like(half, 99.0))
    return cameras, depth, root > 0


def points_of(cameras, depth: torch.Tensor) -> torch.Tensor:
    rays = rays_of(cameras)
    return rays.origins + depth[..., None] * rays.directions


def test_the_noise_of_every_view_is_white():
    """Noise is linear in the field: with each cell as a channel of its own, the map from cells to pixels is orthonormal."""
    cameras, depth, solid = ball([0.0, 77.0], size=16)
    field = NoiseField(24, (1, 8, 8), rng(), torch.device("cpu"))
    field.cells = torch.eye(len(field.cells))
    field.backdrop = torch.zeros(len(field.cells), 8, 8)
    for view in field.seen(points_of(cameras, depth), solid):
        rows = view.flatten(1).T  # (64, cells)
        shown = rows.square().sum(1) > 0
        torch.testing.assert_close((rows @ rows.T)[shown][:, shown], torch.eye(int(shown.sum())))
        area = solid.float().mean(dim=(1, 2))[0]
        assert abs(float(shown.float().mean()) - float(area)) < 0.15


def test_a_turned_camera_sees_the_turned_noise():
    field = NoiseField(40, (4, 12, 12), rng(), torch.device("cpu"))
    first, depth, solid = ball([0.0])
    second, depth2, solid2 = ball([17 * 360.0 / field.columns])
    own = field.seen(points_of(first, depth), solid)
    grid = field.cells.view(field.rows, field.columns, -1)
    field.cells = grid.roll(17, dims=1).reshape(field.cells.shape)
    other = field.seen(points_of(second, depth2), solid2)
    same = (own - other).abs().amax(dim=1) < 1e-4
    assert float(same.float().mean()) > 0.9  # a cell at the border of two pixels may go to the other one, by rounding


def test_near_views_share_the_noise_and_far_ones_do_not():
    field = NoiseField(160, (4, 12, 12), rng(), torch.device("cpu"))
    cameras, depth, solid = ball([0.0, 1.0, 180.0])
    views = field.seen(points_of(cameras, depth), solid)
    middle = views[:, :, 4:8, 4:8].flatten(1)  # well inside the ball
    near, far = (torch.corrcoef(torch.stack([middle[0], middle[i]]))[0, 1] for i in (1, 2))
    assert near > 0.6
    assert abs(far) < 0.35


def test_pixels_without_a_surface_get_the_backdrop():
    cameras, depth, solid = ball([0.0, 50.0])
    field = NoiseField(40, (3, 12, 12), rng(), torch.device("cpu"))
    views = field.seen(points_of(cameras, depth), solid)
    torch.testing.assert_close(views[:, :, 0, 0], field.backdrop[:, 0, 0].expand(2, -1))
    nothing = field.seen(points_of(cameras, depth), torch.zeros_like(solid))
    torch.testing.assert_close(nothing, field.backdrop.expand(2, -1, -1, -1))


def test_renewed_noise_keeps_its_variance():
    field = NoiseField(160, (4, 12, 12), rng(), torch.device("cpu"))
    before = field.cells.clone()
    field.renew(0.36, rng(4))
    assert float(field.cells.std()) == pytest.approx(1.0, abs=0.01)
    assert float((before * field.cells).mean()) == pytest.approx(0.8, abs=0.01)  # sqrt(1 - 0.36)
    same = field.cells.clone()
    field.renew(0.0, rng(4))
    assert torch.equal(field.cells, same)


def test_in_2d_its_flow_ends_in_samples_where_sds_collapses():
    """dx = (eps_hat - eps) d(sigma / alpha), the paper's flow of the clean variable, from t = 1 down to 0.

    With x ~ N(m, s^2) the ODE's solution at r = sigma / alpha is m + (sqrt(s^2 + r^2) - r) eps, and at its end m + s eps.
    """
    mean, std = 0.3, 0.2
    prior = GaussianPrior(torch.full((1, 1, 40, 40), mean), torch.tensor([std]))
    cond = Conditioning(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))

    def flow(loss_of) -> torch.Tensor:
        x, ratios = torch.zeros(1, 1, 40, 40), torch.logspace(2, -2, 2000).tolist()  # sigma / alpha = tan(pi t / 2)
        for here, there in pairwise(ratios):
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(loss_of(math.atan(here) * 2.0 / math.pi, x), x)
            x = (x - gradient * (here - there)).detach()
        return x

    def cfd(t: float, x: torch.Tensor) -> torch.Tensor:
        return CFD(1.0, t, t, gamma=0.0, weighting="uniform", normalize=False)(prior, x, cond, 0.0, rng(), field).loss

    stream = rng(5)

    def sds(t: float, x: torch.Tensor) -> torch.Tensor:
        return SDS(1.0, t, t, weighting="uniform")(prior, x, cond, 0.0, stream, None).loss

    field = NoiseField(8, (1, 40, 40), rng(), torch.device("cpu"))
    sampled = flow(cfd)
    torch.testing.assert_close(sampled, mean + (math.hypot(std, 0.01) - 0.01) * field.backdrop[None], atol=2e-3, rtol=0.0)
    assert float(sampled.std()) == pytest.approx(std, rel=0.1)
    assert float(flow(sds).std()) < 0.5 * std  # fresh noise averages out


def small(size: int, guidance: CFD, **changes):
    """The toybox's first stage with this loss, and few pixels."""
    config = taught(PRESETS["toybox-field"], guidance=guidance)
    return changed(config, cameras=replace(config.stages[0].cameras, resolution=(size,)), **changes)


def test_a_run_is_resumed_bit_by_bit():
    config = small(32, CFD(2.0, gamma=0.1, rows=20, normalize=False), steps=4)
    prior = GaussianPrior(torch.full((1, 3, 32, 32), 0.5), torch.tensor([0.3]))
    whole, parted, again = (begun(config, prior) for _ in range(3))
    list(steps_of(whole))
    parted.step(), parted.step()
    again.load_state_dict(parted.state_dict())
    list(steps_of(again))
    assert all(torch.equal(a, b) for a, b in zip(whole.scene.parameters(), again.scene.parameters(), strict=True))
    assert torch.equal(whole.learned[0].cells, again.learned[0].cells)


def test_the_surface_decides_the_noise():
    """The same pictures with and without a render: the gradient differs where the render shows a thing, and only there."""
    prior = GaussianPrior(torch.zeros(1, 3, 24, 24), torch.tensor([0.5]))
    cameras, depth, solid = ball([20.0])
    render = RenderOutput(torch.zeros(1, 24, 24, 3), solid[..., None].float(), depth[..., None], None)
    loss, x = CFD(1.0, gamma=0.0, rows=40, normalize=False), torch.zeros(1, 3, 24, 24, requires_grad=True)
    field, told = loss.init(prior, rng()), Conditioning(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), cameras=cameras)
    with_it, without = (
        torch.autograd.grad(loss(prior, x, cond, 0.5, rng(), field).loss, x)[0] for cond in (replace(told, render=render), told)
    )
    differs = (with_it != without).any(dim=1)[0]
    # bilinear sampling between pixel centres may take the border in or leave it out
    inside = torch.nn.functional.max_pool2d(-solid.float(), 3, 1, 1)[0] == -1
    near = torch.nn.functional.max_pool2d(solid.float(), 3, 1, 1)[0] == 1
    assert bool(differs[inside].all())
    assert not bool(differs[~near].any())


def test_normalized_gradients_have_one_size_and_the_same_direction():
    prior, x = (
        GaussianPrior(torch.zeros(1, 3, 8, 8), torch.tensor([0.5])),
        torch.rand(2, 3, 8, 8, generator=rng()).requires_grad_(),
    )
    cond, field = Conditioning(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1)), NoiseField(8, (3, 8, 8), rng(), torch.device("cpu"))
    plain, even = (
        2.0 * torch.autograd.grad(CFD(3.0, gamma=0.0, normalize=on)(prior, x, cond, 0.5, rng(), field).loss, x)[0]
        for on in (False, True)
    )
    torch.testing.assert_close(even, plain / plain.abs().mean((1, 2, 3), keepdim=True))


def test_particles_have_noises_of_their_own():
    config = replace(small(16, CFD(2.0, gamma=0.1, rows=20), steps=3), particles=2)
    prior = GaussianPrior(torch.full((1, 3, 16, 16), 0.5), torch.tensor([0.3]))
    work = begun(config, prior)
    (fields,) = work.learned
    before = [field.cells.clone() for field in fields]
    assert not torch.equal(*before)
    work.step()  # the first one's
    assert not torch.equal(fields[0].cells, before[0])
    assert torch.equal(fields[1].cells, before[1])
    again = begun(config, prior)
    again.load_state_dict(work.state_dict())
    assert torch.equal(again.learned[0][0].cells, fields[0].cells)


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"gamma": 1.5}, {"t_min": 0.9, "t_max": 0.1}, {"guidance_scale": -1.0}])
def test_settings_that_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CFD(**wrong)
