"""Further distillation losses, each against what its paper says it reduces to."""

from __future__ import annotations

import math

import pytest
import torch
from guidance_helpers import ToldPrior

from dreamlift.cameras import turntable
from dreamlift.guidance.base import Guidance
from dreamlift.guidance.csd import CSD
from dreamlift.guidance.hifa import HiFA
from dreamlift.guidance.ism import ISM
from dreamlift.guidance.nfsd import NFSD
from dreamlift.guidance.reconstruction import Reconstruction
from dreamlift.guidance.refine import Refine
from dreamlift.guidance.rfds import RFDS
from dreamlift.guidance.sds import SDS
from dreamlift.guidance.sjc import SJC
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.prompts import NoViews, embed_prompt
from dreamlift.types import Conditioning, GuidanceOutput, TextStates


class Straight(ToldPrior):
    """The same density on the straight paths of rectified flow."""

    def schedule(self, t):
        return 1.0 - t.view(-1, 1, 1, 1), t.view(-1, 1, 1, 1)


def rng(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def told(batch: int, wanted: float, other: float = 0.0, empty: float | None = None) -> Conditioning:
    prompt, negative = (torch.full((batch, 1, 1), value).double() for value in (wanted, other))
    blank = None if empty is None else torch.full((batch, 1, 1), empty).double()
    return Conditioning(prompt, negative, empty_prompt_embeds=blank)


def learn(loss: Guidance, prior: GaussianPrior, x: torch.Tensor, cond: Conditioning) -> tuple[torch.Tensor, GuidanceOutput]:
    """The gradient of each picture, and what came out."""
    x = x.detach().requires_grad_()
    out = loss(prior, x, cond, 0.0, rng(), None)
    (gradient,) = torch.autograd.grad(out.loss, x)
    return gradient * len(x), out


def pictures(count: int, channels: int = 1) -> torch.Tensor:
    return torch.rand(count, channels, 2, 2, generator=rng(1)).double()


def test_nfsd_without_a_negative_prompt_is_csd_at_high_noise():
    prior, x, cond = ToldPrior(0.4), pictures(3), told(3, 0.8)
    got, _ = learn(NFSD(7.5, t_min=0.3, t_max=0.9), prior, x, cond)
    want, _ = learn(CSD(7.5, 0.3, 0.9), prior, x, cond)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("t", [0.1, 0.19, 0.21, 0.6])
def test_nfsd_by_its_formula(t):
    prior, x = ToldPrior(0.4), pictures(2)
    got, out = learn(NFSD(3.0, t_min=t, t_max=t, weighting="uniform"), prior, x, told(2, 0.8, -0.5, 0.1))
    stream = rng()
    torch.rand(2, generator=stream)  # the times
    eps = torch.randn(x.shape, generator=stream).to(x)
    alpha, sigma = prior.schedule(out.t)
    x_t = alpha * x + sigma * eps
    wanted, unwanted, plain = (prior.exact(x_t, out.t, torch.full((2, 1, 1), m)) for m in (0.8, -0.5, 0.1))
    domain = plain if t < 0.2 else plain - unwanted
    torch.testing.assert_close(got, domain + 3.0 * (wanted - plain), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("loss", [NFSD(7.5), Reconstruction(6.0, 0.5)])
def test_nothing_is_asked_twice(loss):
    prior, asked = ToldPrior(0.4), []

    def counted(x_t, t, cond, guidance_scale=1.0):
        asked.append(len(x_t) * (1 if guidance_scale in (0.0, 1.0) else 2))
        return ToldPrior.predict_noise(prior, x_t, t, cond, guidance_scale)

    prior.predict_noise = counted
    learn(loss, prior, pictures(3), told(3, 0.8))
    assert sum(asked) == 2 * 3  # with the prompt and without


def test_inversion_knows_nothing_of_a_negative_prompt():
    prior, x, t = ToldPrior(0.4), pictures(2), 0.4
    loss = ISM(1.0, 0.1, 0.1, t, t, "uniform")
    plain, negative = (learn(loss, prior, x, told(2, 0.8, *rest))[0] for rest in ((0.1,), (-0.5, 0.1)))
    torch.testing.assert_close(negative, plain)


def test_the_empty_prompt_comes_along_with_a_negative_one():
    def embed(texts: list[str]) -> TextStates:
        return TextStates(torch.tensor([float(len(text)) for text in texts]).view(-1, 1, 1))

    without, given = (embed_prompt("a mug", negative, NoViews(), embed) for negative in ("", "ugly"))
    assert without.empty is None
    assert float(without.negative.states) == 0.0
    assert given.empty is not None
    assert (float(given.negative.states), float(given.empty.states)) == (4.0, 0.0)
    assert given.prompt.states.shape == without.prompt.states.shape
    cond = given.at(turntable(2, size=4))
    assert cond.negative_prompt_embeds.flatten().tolist() == [4.0, 4.0]
    assert cond.empty_prompt_embeds is not None
    assert cond.empty_prompt_embeds.flatten().tolist() == [0.0, 0.0]


def test_sjc_is_sds_with_weight_one_and_the_plain_score_without_variance_reduction():
    prior, x, cond = ToldPrior(0.4), pictures(2), told(2, 0.8)
    got, _ = learn(SJC(5.0, t_min=0.2, t_max=0.8), prior, x, cond)
    want, _ = learn(SDS(5.0, 0.2, 0.8, "uniform"), prior, x, cond)
    torch.testing.assert_close(got, want)
    # Both have the same mean, which the Gaussian gives in closed form; the reduced one scatters less.
    n, t, value = 20_000, 0.5, 0.2
    x = torch.full((n, 1, 1, 1), value).double()
    full, reduced = (learn(SJC(1.0, flag, t, t), prior, x, told(n, 0.8))[0].flatten() for flag in (False, True))
    alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    mean = sigma * alpha * (value - 0.8) / (alpha**2 * 0.16 + sigma**2)
    assert float(full.mean()) == pytest.approx(mean, abs=0.03)
    assert float(reduced.mean()) == pytest.approx(mean, abs=0.01)
    assert float(full.std()) > 3 * float(reduced.std())


def test_rfds_is_the_velocity_minus_the_straight_one():
    prior, x, cond, t = Straight(0.4), pictures(3), told(3, 0.8), 0.35
    got, out = learn(RFDS(1.0, t, t), prior, x, cond)
    stream = rng()
    torch.rand(3, generator=stream)
    eps = torch.randn(x.shape, generator=stream).to(x)
    x_t = (1 - t) * x + t * eps
    # E[v | x_t] of x ~ N(m, s^2), eps ~ N(0, 1): both conditional means are linear in x_t.
    variance = (1 - t) ** 2 * 0.16 + t**2
    offset = x_t - (1 - t) * 0.8
    velocity = t / variance * offset - (0.8 + (1 - t) * 0.16 / variance * offset)
    torch.testing.assert_close(got, velocity - (eps - x), atol=1e-6, rtol=1e-5)
    assert out.x0.shape == x.shape


def test_hifa_adds_the_pictures_to_the_latents():
    prior, x, cond = ToldPrior(0.1), 0.4 + 0.2 * pictures(2, 3), told(2, 0.5)
    latents, out = learn(HiFA(1.0, 0.0, 0.3, 0.3), prior, x, cond)
    torch.testing.assert_close(latents, x - out.x0, atol=1e-6, rtol=1e-5)
    assert float((out.x0 - 0.5).abs().max()) < 0.5  # so that the decoder, which clips, is the identity
    both, shown = learn(HiFA(1.0, 0.25, 0.3, 0.3), prior, x, cond)
    torch.testing.assert_close(both, 1.25 * latents, atol=1e-6, rtol=1e-5)
    assert float(shown.metrics["rgb"]) == pytest.approx(float((x - out.x0).square().sum()) / 2, rel=1e-5)
    start, end = (HiFA().t_max(progress) for progress in (0.0, 1.0))  # pyright: ignore[reportCallIssue]
    assert (start, end) == pytest.approx((0.98, 0.3))


def test_reconstruction_rescales_the_guided_estimate():
    prior, x, cond = ToldPrior(0.6), pictures(4), told(4, 0.8, -0.4)
    plain, guided = (learn(SDS(s, 0.6, 0.6, "x0"), prior, x, cond)[1].x0 for s in (1.0, 6.0))
    # Where the words say a mean alone, guidance shifts the estimate and keeps its range; here they also say how wide it is.
    assert float(guided.mean()) > float(plain.mean()) + 0.5
    gradient, none = learn(Reconstruction(6.0, 0.0, 0.6, 0.6), prior, x, cond)
    torch.testing.assert_close(none.x0, guided)
    torch.testing.assert_close(gradient, x - guided, atol=1e-6, rtol=1e-5)
    wide = Wide(0.6)
    plain, guided = (learn(SDS(s, 0.6, 0.6, "x0"), wide, x, cond)[1].x0 for s in (1.0, 6.0))
    assert float(guided.std()) > 1.5 * float(plain.std())
    for phi in (0.5, 1.0):
        got = learn(Reconstruction(6.0, phi, 0.6, 0.6), wide, x, cond)[1].x0
        torch.testing.assert_close(got, phi * guided * plain.std() / guided.std() + (1 - phi) * guided)


class Wide(ToldPrior):
    """The words widen the estimate instead of shifting it."""

    def predict_noise(self, x_t, t, cond, guidance_scale=1.0):
        return self.exact(x_t, t, torch.zeros(len(x_t), 1, 1)) * (2.0 - guidance_scale)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HiFA(lambda_rgb=-1.0), "lambda_rgb is -1"),
        (lambda: Reconstruction(rescale=1.5), "rescale is 1.5; accepted: 0 to 1"),
        (lambda: NFSD(scale=-1.0), "must not be negative"),
        (lambda: RFDS(t_min=0.9, t_max=0.1), "t_min is 0.9"),
        (lambda: SJC(guidance_scale=-2.0), "guidance_scale is -2"),
    ],
)
def test_bad_settings(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_refinement_ends_where_the_probability_flow_of_a_gaussian_ends(scale):
    # For N(m, s^2) the flow is known: (x_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2) keeps its value down to t = 0, where it is
    # (x_0 - m) / s. Guidance moves m to uncond + s (cond - uncond).
    std, prior, x = 0.4, ToldPrior(0.4), pictures(2)
    loss = Refine(scale, 0.6, 0.6, steps=2000)
    cond, t = told(2, 0.8, 0.1), torch.full((2,), 0.6).double()
    alpha, sigma = prior.schedule(t)
    x_t = alpha * x + sigma * torch.randn(x.shape, generator=rng()).double()
    mean = 0.1 + scale * (0.8 - 0.1)
    want = mean + std * (x_t - alpha * mean) / (alpha.square() * std**2 + sigma.square()).sqrt()
    torch.testing.assert_close(loss.sample(prior, x_t, cond, t), want, atol=2e-3, rtol=0.0)


def test_refinement_pulls_a_picture_toward_what_was_sampled_from_it():
    prior, x, cond = ToldPrior(0.4), pictures(3), told(3, 0.8)
    gradient, out = learn(Refine(1.0, 0.3, 0.3, steps=20), prior, x, cond)
    torch.testing.assert_close(gradient, x - out.x0)
    one, _ = learn(Refine(1.0, 0.3, 0.3, steps=1), prior, x, cond)
    sds, _ = learn(SDS(1.0, 0.3, 0.3, "x0"), prior, x, cond)
    torch.testing.assert_close(one, sds)  # a single step is the prior's own estimate of x0


def test_a_refined_picture_stays_in_range():
    gradient, out = learn(Refine(50.0, 0.3, 0.3, steps=4, clip_x0=1.0), ToldPrior(0.4), pictures(2), told(2, 0.9))
    assert float(out.x0.abs().max()) <= 1.0
    assert bool(torch.isfinite(gradient).all())


def test_refinement_takes_a_step_at_least():
    with pytest.raises(ValueError, match="steps is 0; it must be at least 1"):
        Refine(steps=0)
