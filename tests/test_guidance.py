"""Distillation losses against closed forms, autograd and finite differences; prompts by hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_helpers import ToldPrior

from dreamlift.cameras import orbit_cameras
from dreamlift.guidance import GUIDANCE
from dreamlift.guidance.base import Guidance, inject, limit_norm, weight_of
from dreamlift.guidance.csd import CSD
from dreamlift.guidance.diffusion_loss import DiffusionLoss
from dreamlift.guidance.inversion import invert
from dreamlift.guidance.ism import ISM
from dreamlift.guidance.sdi import SDI
from dreamlift.guidance.sds import SDS
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.prompts import WORDINGS, Backdrop, Compass, FourViews, compass_words, embed_prompt
from dreamlift.types import Conditioning, TextStates


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blank(batch: int) -> Conditioning:
    return Conditioning(torch.zeros(batch, 1, 1), torch.zeros(batch, 1, 1))


def test_every_module_with_a_loss_is_in_the_table():
    import importlib
    import pkgutil

    import dreamlift.guidance as package

    found = set()
    for module in pkgutil.iter_modules(package.__path__):
        for value in vars(importlib.import_module(f"dreamlift.guidance.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Guidance) and value is not Guidance:
                found.add(value)
    assert found == set(GUIDANCE.values())


def test_injected_gradient_is_exact_over_batch():
    x = torch.randn(3, 2, 4, 4, requires_grad=True)
    g = torch.randn(3, 2, 4, 4)
    inject(x, g).backward()
    torch.testing.assert_close(x.grad, g / 3, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weighting", ["sigma2", "uniform", "alpha_sigma", "x0"])
def test_sds_gradient_matches_the_closed_form_of_a_gaussian(weighting):
    # For N(mu, s^2): E[w (eps_hat - eps)] = w alpha sigma (x - mu) / (alpha^2 s^2 + sigma^2), at a fixed t.
    mu, s, t, n = 0.5, 0.3, 0.4, 20_000
    prior = GaussianPrior(torch.full((1, 1, 1, 1), mu), torch.tensor([s]))
    x = torch.full((n, 1, 1, 1), -0.2, requires_grad=True)
    SDS(1.0, t, t, weighting)(prior, x, blank(n), 0.0, rng(), None).loss.backward()
    assert x.grad is not None
    alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    w = {"sigma2": sigma**2, "uniform": 1.0, "alpha_sigma": alpha * sigma, "x0": sigma / alpha}[weighting]
    expected = w * alpha * sigma * (-0.2 - mu) / (alpha**2 * s**2 + sigma**2)
    # loss is a mean over the batch, so the sum of the gradients is the mean of w (eps_hat - eps)
    assert float(x.grad.sum()) == pytest.approx(expected, abs=0.02)


def test_x0_weighting_is_x_minus_x0():
    prior = GaussianPrior(torch.randn(4, 1, 4, 4, generator=rng(1)), torch.full((4,), 0.2))
    x = torch.randn(2, 1, 4, 4, generator=rng(2), requires_grad=True)
    out = SDS(1.0, 0.2, 0.7, "x0")(prior, x, blank(2), 0.0, rng(3), None)
    out.loss.backward()
    torch.testing.assert_close(x.grad, (x.detach() - out.x0) / 2, atol=1e-5, rtol=1e-4)


def test_sds_descends_to_the_mean():
    mu = torch.randn(1, 1, 3, 3, generator=rng(5))
    prior = GaussianPrior(mu, torch.tensor([0.5]))
    x = torch.zeros(1, 1, 3, 3, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.02)
    stream = rng(6)
    for i in range(600):
        optimizer.zero_grad()
        SDS(1.0, 0.02, 0.98, "sigma2")(prior, x, blank(1), i / 600, stream, None).loss.backward()
        optimizer.step()
    assert float((x.detach() - mu).abs().max()) < 0.1


def test_clipping_bounds_x0_and_agrees_where_nothing_is_clipped():
    prior = GaussianPrior(torch.full((1, 1, 2, 2), 3.0), torch.tensor([0.1]))
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    clipped = SDS(1.0, 0.3, 0.3, "x0", clip_x0=1.0)(prior, x, blank(1), 0.0, rng(), None)
    assert float(clipped.x0.max()) == 1.0
    clipped.loss.backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, -1.0), atol=1e-4, rtol=0)
    free = SDS(1.0, 0.3, 0.3, "x0")(prior, x, blank(1), 0.0, rng(), None)
    loose = SDS(1.0, 0.3, 0.3, "x0", clip_x0=100.0)(prior, x, blank(1), 0.0, rng(), None)
    torch.testing.assert_close(free.x0, loose.x0, atol=1e-4, rtol=1e-4)


def test_limit_norm_scales_and_removes_what_is_not_finite():
    g = torch.ones(2, 1, 2, 2)
    g[1] *= 10
    g[0, 0, 0, 0] = float("nan")
    out = limit_norm(g, 2.0)
    assert float(out[1].square().mean().sqrt()) == pytest.approx(2.0)
    assert float(out[0, 0, 0, 0]) == 0.0
    assert float(out[0, 0, 1, 1]) == 1.0


def test_weights_by_hand():
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    got = [float(weight_of(name, alpha, sigma)) for name in ("sigma2", "uniform", "alpha_sigma", "x0")]
    assert got == pytest.approx([0.64, 1.0, 0.48, 0.8 / 0.6])


def test_diffusion_loss_gradient_by_finite_differences():
    prior = GaussianPrior(torch.randn(3, 1, 2, 2, generator=rng(1)).double(), torch.full((3,), 0.4).double())
    loss = DiffusionLoss(1.0, 0.2, 0.8, "sigma2")
    x = torch.randn(1, 1, 2, 2, generator=rng(2)).double().requires_grad_()
    loss(prior, x, blank(1), 0.0, rng(9), None).loss.backward()
    assert x.grad is not None
    for i in range(4):
        bump = torch.zeros(4).double()
        bump[i] = 1e-6
        bump = bump.view(1, 1, 2, 2)
        with torch.no_grad():
            high = loss(prior, x + bump, blank(1), 0.0, rng(9), None).loss
            low = loss(prior, x - bump, blank(1), 0.0, rng(9), None).loss
        assert float(x.grad.flatten()[i]) == pytest.approx(float((high - low) / 2e-6), rel=1e-4, abs=1e-7)


def test_the_jacobian_is_what_sds_leaves_out():
    # With one Gaussian d eps_hat / d x_t = sigma / (alpha^2 s^2 + sigma^2): DiffusionLoss = SDS * 2 alpha * that.
    s, t = 0.5, 0.3
    prior = GaussianPrior(torch.zeros(1, 1, 2, 2), torch.tensor([s]))
    x = torch.randn(1, 1, 2, 2, generator=rng(2), requires_grad=True)
    (without,) = torch.autograd.grad(SDS(1.0, t, t, "uniform")(prior, x, blank(1), 0.0, rng(4), None).loss, x)
    (full,) = torch.autograd.grad(DiffusionLoss(1.0, t, t, "uniform")(prior, x, blank(1), 0.0, rng(4), None).loss, x)
    alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    torch.testing.assert_close(full, without * 2 * alpha * sigma / (alpha**2 * s**2 + sigma**2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "words"),
    [
        (0, 0, "front view"),
        (90, 10, "left view"),
        (-90, 10, "right view"),
        (180, 10, "back view"),
        (-180, 10, "back view"),
        (44, 40, "front left view, from above"),
        (-44, -5, "front right view, from below"),
        (135, 0, "back left view"),
        (23, 0, "front left view"),
        (22, 0, "front view"),
    ],
)
def test_compass_words(azimuth, elevation, words):
    assert compass_words(math.radians(azimuth), math.radians(elevation)) == words


def test_left_is_where_the_objects_left_hand_is():
    # The object faces +z with +y up, so its left hand is at up x forward = +x; the camera there is at azimuth 90.
    cameras = orbit_cameras(torch.tensor([math.pi / 2]), torch.zeros(1), torch.ones(1) * 3, torch.ones(1), 8)
    left_hand = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(cameras.c2w[0, :3, 3] / 3, left_hand, atol=1e-6, rtol=0)
    assert compass_words(math.pi / 2, 0.0) == "left view"


@pytest.mark.parametrize(
    ("azimuth", "elevation", "word"),
    [
        (0, 0, "front"),
        (44, 0, "front"),
        (46, 0, "side"),
        (-90, 0, "side"),
        (136, 0, "back"),
        (180, 0, "back"),
        (10, 61, "overhead"),
    ],
)
def test_four_views_thresholds(azimuth, elevation, word):
    assert FourViews().weights(math.radians(azimuth), math.radians(elevation)) == {f"{word} view": 1.0}


@pytest.mark.parametrize("wording", [*[kind() for kind in WORDINGS.values()], FourViews(perp_neg=1.0), Compass(True, 1.0)])
def test_wordings_are_closed_and_their_shares_sum_to_one(wording):
    for azimuth in range(-180, 360, 7):
        for elevation in (-30, 0, 36, 70):
            place = (math.radians(azimuth), math.radians(elevation))
            shares = wording.weights(*place)
            assert sum(shares.values()) == pytest.approx(1.0)
            assert set(shares) <= set(wording.phrases())
            assert set(wording.opposites(*place)) <= set(wording.phrases())
            assert all(weight <= 0 for weight in wording.opposites(*place).values())


def test_prompt_embeds_blend_and_carry_negatives():
    def embed(texts: list[str]) -> TextStates:
        seen.extend(texts)
        return TextStates(torch.arange(len(texts)).float().view(-1, 1, 1))

    seen: list[str] = []
    embeds = embed_prompt("a mug", "ugly", FourViews(perp_neg=1.0), embed)
    assert seen == ["a mug, front view", "a mug, side view", "a mug, back view", "a mug, overhead view", "ugly", ""]
    cameras = orbit_cameras(torch.tensor([math.pi / 4]), torch.zeros(1), torch.ones(1), torch.ones(1), 4)
    cond = embeds.at(cameras)
    assert float(cond.prompt_embeds) == pytest.approx(0.5)  # half front (0), half side (1)
    assert float(cond.negative_prompt_embeds) == 4.0
    assert cond.perp_embeds is not None
    assert cond.perp_weights is not None
    assert cond.perp_embeds.flatten().tolist() == [0.0, 1.0]
    assert float(cond.perp_weights[0, 0]) == pytest.approx(-(4 * math.exp(-0.25) - 2.426))


def test_the_words_of_a_backdrop_come_before_the_view():
    def embed(texts: list[str]) -> TextStates:
        seen.extend(texts)
        return TextStates(torch.arange(len(texts)).float().view(-1, 1, 1))

    seen: list[str] = []
    pale, dark, night = Backdrop(), Backdrop("dark background", (0.1, 0.1, 0.1)), Backdrop("dark background", (0.0, 0.0, 0.1))
    embeds = embed_prompt("a mug", "", FourViews(perp_neg=1.0), embed, [pale, dark, night])
    assert seen[0] == "a mug, front view"
    assert seen[4:] == [f"a mug, dark background, {side} view" for side in ("front", "side", "back", "overhead")] + [""]
    cameras = orbit_cameras(torch.tensor([0.0, 0.0, math.pi]), torch.zeros(3), torch.ones(3), torch.ones(1), 4)
    cond = embeds.at(cameras, [pale, night, dark])
    assert cond.prompt_embeds.flatten().tolist() == [0.0, 4.0, 6.0]
    assert cond.perp_embeds is not None
    assert cond.perp_embeds[..., 0, 0].tolist() == [[0.0, 1.0], [4.0, 5.0], [4.0, 5.0]]


@pytest.mark.parametrize("color", [(255.0, 255.0, 255.0), (0.0, -0.1, 0.0), (0.0, 0.0, math.nan)])
def test_a_backdrop_is_a_color(color):
    with pytest.raises(ValueError, match=r"accepted: three numbers in \[0, 1\]"):
        Backdrop("white background", color)


def told(batch: int, wanted: float, other: float = 0.0) -> Conditioning:
    return Conditioning(torch.full((batch, 1, 1), wanted).double(), torch.full((batch, 1, 1), other).double())


def gradient_of(
    loss: Guidance, prior: GaussianPrior, x: torch.Tensor, cond: Conditioning, progress: float = 0.0
) -> torch.Tensor:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(prior, x, cond, 0.0, rng(7), None).loss, x)
    return gradient


def test_csd_is_the_classifier_part_of_guided_sds():
    prior, x, cond = ToldPrior(0.4), torch.randn(3, 1, 2, 2, generator=rng(1)).double(), told(3, 0.8, -0.1)
    one, seven = (gradient_of(SDS(s, 0.1, 0.9), prior, x, cond) for s in (1.0, 7.0))
    part = gradient_of(CSD(1.0, 0.1, 0.9), prior, x, cond)
    torch.testing.assert_close(seven - one, 6.0 * part)
    torch.testing.assert_close(gradient_of(CSD(2.5, 0.1, 0.9), prior, x, cond), 2.5 * part)
    assert float(part.abs().min()) > 1e-4


def test_inversion_follows_the_probability_flow():
    # For N(m, s^2) its exact solution from time r to t is linear: z = (x - alpha m) / sqrt(alpha^2 s^2 + sigma^2) stays.
    m, s, start = 0.3, 0.5, 0.1
    prior, x = ToldPrior(s), torch.linspace(-1, 1.5, 5).double().view(5, 1, 1, 1)
    t = torch.tensor([0.2, 0.4, 0.6, 0.8, 0.95]).double()

    def spread(at: torch.Tensor) -> torch.Tensor:
        alpha, sigma = prior.schedule(at)
        return (alpha.square() * s**2 + sigma.square()).sqrt()

    begin = torch.full_like(t, start)
    z = (x - prior.schedule(begin)[0] * m) / spread(begin)
    want = prior.schedule(t)[0] * m + z * spread(t)
    gaps = [float((invert(prior, x, told(5, m), t, steps, 1.0, start) - want).abs().max()) for steps in (10, 40, 160)]
    assert gaps[2] < 0.02
    assert gaps[0] > 2.5 * gaps[1] > 6 * gaps[2]  # first order: a quarter of the stride, a quarter of the error
    early = torch.full_like(t, 0.05)  # before the start there is nowhere to go
    torch.testing.assert_close(invert(prior, x, told(5, m), early, 3, 1.0, start), x)


@pytest.mark.parametrize("settings", [{"inversion_steps": 0}, {"eta": 1.0}])
def test_sdi_without_inversion_is_sds(settings):
    prior, x, cond = ToldPrior(0.4), torch.randn(2, 1, 2, 2, generator=rng(1)).double(), told(2, 0.8)
    loss = SDI(t_min=0.3, t_max=0.6, weighting="sigma2", mean=False, **settings)
    torch.testing.assert_close(gradient_of(loss, prior, x, cond), gradient_of(SDS(7.5, 0.3, 0.6), prior, x, cond))


def test_sdi_is_repeatable_without_a_draw_and_pulls_toward_the_words():
    prior, cond = ToldPrior(0.2), told(1, 0.8)
    x = torch.zeros(1, 1, 2, 2).double()
    loss = SDI(guidance_scale=1.0, inversion_scale=1.0, eta=0.0, t_min=0.5, t_max=0.5, mean=False)
    first = loss(prior, x, cond, 0.0, rng(1), None)
    again = loss(prior, x, cond, 0.0, rng(2), None)
    torch.testing.assert_close(first.x0, again.x0)
    for _ in range(60):
        x = x - 0.5 * gradient_of(loss, prior, x, cond)
    torch.testing.assert_close(x, torch.full_like(x, 0.8), atol=0.02, rtol=0)


def test_ism_by_hand_where_nothing_is_inverted():
    s_, t_, std, x, m = 0.35, 0.4, 0.5, 0.7, 0.8
    loss = ISM(guidance_scale=3.0, delta=t_ - s_, stride=0.0, t_min=t_, t_max=t_, weighting="uniform")
    got = gradient_of(loss, ToldPrior(std), torch.full((1, 1, 1, 1), x).double(), told(1, m))
    stream = rng(7)
    torch.rand(1, generator=stream)  # the time
    eps = float(torch.randn((1, 1, 1, 1), dtype=torch.float64, generator=stream))

    def exact(value: float, at: float, mean: float) -> float:
        alpha, sigma = math.cos(math.pi * at / 2), math.sin(math.pi * at / 2)
        return sigma * (value - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    alphas, sigmas = ([f(math.pi * at / 2) for at in (s_, t_)] for f in (math.cos, math.sin))
    x_s = alphas[0] * x + sigmas[0] * eps
    eps_s = exact(x_s, s_, 0.0)
    x_t = alphas[1] * (x_s - sigmas[0] * eps_s) / alphas[0] + sigmas[1] * eps_s
    plain = exact(x_t, t_, 0.0)
    assert float(got) == pytest.approx(plain + 3.0 * (exact(x_t, t_, m) - plain) - eps_s, rel=1e-5)


def test_ism_without_words_has_nothing_to_say_over_a_short_interval():
    prior, x = ToldPrior(0.5), torch.randn(4, 1, 2, 2, generator=rng(3)).double()
    long, short = (
        gradient_of(ISM(1.0, delta, 0.1, 0.6, 0.6, "uniform"), prior, x, told(4, 0.0)).norm() for delta in (0.1, 0.001)
    )
    assert float(short) < 0.02 * float(long)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SDI(eta=1.5), "eta is 1.5; accepted: 0 to 1"),
        (lambda: SDI(inversion_steps=-1), "inversion_steps is -1"),
        (lambda: ISM(stride=-0.1), "stride is -0.1"),
        (lambda: CSD(scale=-1.0), "must not be negative"),
    ],
)
def test_bad_settings_of_losses(make, words):
    with pytest.raises(ValueError, match=words):
        make()
