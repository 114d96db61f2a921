"""Variational score distillation: the exact one recovers a distribution, the LoRA one starts as its prior and learns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from lift_helpers import changed, save_stub, taught
from run_helpers import same
from stage_helpers import begun, steps_of
from torch import nn

from dreamlift.cameras import CameraSampler, orbit_cameras
from dreamlift.guidance.sds import SDS
from dreamlift.guidance.vsd import VSD, Variational
from dreamlift.presets import PRESETS
from dreamlift.priors.base import Adapted
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.lora.lora import LoRA
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.types import Conditioning


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Exact(Adapted):
    """The score of the particles themselves, as they are now: what a LoRA of infinite size, trained for ever, would be."""

    def __init__(self, particles: torch.Tensor) -> None:
        super().__init__()
        self.particles = particles

    def predict_noise(self, x_t, t, cond):
        now = self.particles.detach()
        return GaussianPrior(now, torch.full((len(now),), 1e-3)).predict_noise(x_t, t, cond)


def lifted(loss, prior: GaussianPrior, particles: torch.Tensor, steps: int, learnt: Variational | None = None) -> torch.Tensor:
    """Particles ``(N, C, 1, 1)`` after ``steps`` of ``loss`` with a falling learning rate, as ``(N, C)``.

    VSD's second score is that of the particles themselves, or the one that is ``learnt`` on the way.
    """
    x, stream = particles.clone().requires_grad_(), rng(3)
    state = learnt or (Variational(Exact(x), 1e-4) if isinstance(loss, VSD) else None)
    cond = Conditioning(torch.zeros(len(x), 1, 1), torch.zeros(len(x), 1, 1))
    optimizer = torch.optim.Adam([{"params": [x], "lr": 0.02}, *(learnt.param_groups() if learnt else [])], betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps) + 1e-4
        optimizer.zero_grad()
        out = loss(prior, x, cond, step / steps, stream, state)
        (out.loss if out.learning is None else out.loss + out.learning).backward()
        optimizer.step()
    return x.detach().view(len(x), -1)


def spread(points: torch.Tensor) -> float:
    """Standard deviation of points ``(N, D)``, over all dimensions."""
    return float(points.var(dim=0, unbiased=False).mean().sqrt())


@pytest.mark.parametrize("size", [1, 2])
def test_exact_vsd_keeps_the_spread_that_sds_loses(size):
    std, mean = 0.5, 0.3
    prior = GaussianPrior(torch.full((1, size, 1, 1), mean), torch.tensor([std]))
    begin = torch.randn(8, size, 1, 1, generator=rng(1))
    vsd = lifted(VSD(1.0, t_max=0.98, weighting="alpha_sigma"), prior, begin, 1500)
    sds = lifted(SDS(1.0, 0.02, 0.98, "alpha_sigma"), prior, begin, 2500)
    assert spread(vsd) == pytest.approx(std, rel=0.1)
    assert spread(sds) < 0.05 * std
    assert float((vsd.mean(dim=0) - mean).abs().max()) < 0.1
    assert float((sds - mean).abs().max()) < 0.1


def test_exact_vsd_keeps_the_spread_inside_each_of_two_modes():
    std = 0.2
    prior = GaussianPrior(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1), torch.full((2,), std))
    begin = torch.cat([0.5 * torch.randn(8, 1, 1, 1, generator=rng(seed)) + mean for seed, mean in ((1, -1.0), (2, 1.0))])
    vsd = lifted(VSD(1.0, t_max=0.98, weighting="alpha_sigma"), prior, begin, 1500)
    sds = lifted(SDS(1.0, 0.02, 0.98, "alpha_sigma"), prior, begin, 1500)
    for side in (-1.0, 1.0):
        inside, fallen = vsd[vsd[:, 0] * side > 0], sds[sds[:, 0] * side > 0]
        assert len(inside) == 8
        assert float(inside.mean()) == pytest.approx(side, abs=0.05)
        assert spread(inside) == pytest.approx(std, rel=0.1)
        assert spread(fallen) < 0.3 * std


class Denoiser(nn.Module):
    """v_hat of points ``(B, 2)`` at alpha, sigma ``(B, 1)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, alpha, sigma):
        return self.layers(torch.cat([x, alpha, sigma, alpha * sigma, sigma.square()], dim=1))


class Learnt(GaussianPrior):
    """A Gaussian whose score a small network has learnt, so that a LoRA has something to adapt."""

    adapts = True

    def __init__(self, exact: GaussianPrior, steps: int = 1500) -> None:
        super().__init__(exact.means, exact.stds)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network, stream = Denoiser(), rng(7)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-3)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps) + 1e-5
            x, eps = (torch.randn(128, 2, 1, 1, generator=stream) for _ in range(2))
            x, t = exact.means + exact.stds * x, torch.rand(128, generator=stream).clamp(1e-3, 1 - 1e-3)
            alpha, sigma = self.schedule(t)
            error = self.noise_by(self.network, alpha * x + sigma * eps, t) - eps
            optimizer.zero_grad()
            (error / alpha).square().mean().backward()
            optimizer.step()
        self.network.requires_grad_(False)

    def noise_by(self, network, x_t, t):
        alpha, sigma = self.schedule(t)
        return alpha * network(x_t.flatten(1), alpha.flatten(1), sigma.flatten(1)).view_as(x_t) + sigma * x_t

    def predict_noise(self, x_t, t, cond, guidance_scale=1.0):
        return self.noise_by(self.network, x_t, t)

    def adapted(self, rank, targets, rng, camera_input="angles"):
        return LearntWithLora(self, LoRA(self.network, rank, targets, rng))


class LearntWithLora(Adapted):
    def __init__(self, prior: Learnt, lora: LoRA) -> None:
        super().__init__()
        self.prior, self.lora = prior, lora

    def predict_noise(self, x_t, t, cond):
        return self.prior.noise_by(self.lora, x_t, t)


def test_vsd_with_a_lora_spreads_as_the_exact_one_does():
    prior = Learnt(GaussianPrior(torch.full((1, 2, 1, 1), 0.3), torch.tensor([0.5])))
    begin = torch.randn(8, 2, 1, 1, generator=rng(1))
    loss = VSD(1.0, t_max=0.98, weighting="alpha_sigma", rank=1, targets="all", lora_lr=1e-2, lora_target="v")
    exact, found = lifted(loss, prior, begin, 1500), lifted(loss, prior, begin, 1500, loss.init(prior, rng(4)))
    assert spread(found) == pytest.approx(spread(exact), rel=0.15)
    assert spread(found) == pytest.approx(0.5, rel=0.15)
    assert float((found.mean(dim=0) - 0.3).abs().max()) < 0.1
    assert spread(lifted(SDS(1.0, 0.02, 0.98, "alpha_sigma"), prior, begin, 1500)) < 0.1


def test_low_rank_changes_by_hand():
    network = nn.Sequential(nn.Linear(6, 5), nn.Conv2d(3, 4, 2))
    linear, x = network[0], torch.randn(7, 6)
    lora = LoRA(network, 2, "all", rng(), gamma=3.0)
    assert set(lora.weights()) == {"0.weight", "1.weight"}
    assert {name.split(".")[0] for name, _ in lora.named_parameters()} == {"down", "up"}  # the network is no part of it
    for name in ("0.weight", "1.weight"):
        torch.testing.assert_close(lora.weights()[name].formed(), dict(network.named_parameters())[name])
    with torch.no_grad():
        for value in lora.up.values():
            value.normal_(generator=rng(1))
    alone = LoRA(linear, 2, "all", rng(), gamma=3.0)
    alone.up["weight"].data = lora.up["0/weight"].data
    a, b = alone.down["weight"], alone.up["weight"]
    torch.testing.assert_close(alone(x), linear(x) + 1.5 * (x @ a.T) @ b.T)
    alone(x).square().sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    kernel = lora.weights()["1.weight"] - network[1].weight  # whatever else is done with a weight is done with W'
    want = 1.5 * torch.einsum("or,rk->ok", lora.up["1/weight"], lora.down["1/weight"]).view(4, 3, 2, 2)
    torch.testing.assert_close(kernel, want)
    with pytest.raises(ValueError, match="nothing to adapt at rank 2"):
        LoRA(network, 2, "attention", rng())
    with pytest.raises(ValueError, match="nothing to adapt at rank 9"):
        LoRA(network, 9, "all", rng())


@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1, "dilation": 2, "bias": False}, {"groups": 2}])
def test_a_low_rank_convolution_is_that_of_the_formed_kernel(settings):
    layer, x = nn.Conv2d(4, 6, 3, **settings), torch.randn(2, 4, 9, 9, generator=rng(2))
    lora = LoRA(layer, 2, "all", rng(), gamma=3.0)
    with torch.no_grad():
        lora.up["weight"].normal_(generator=rng(1))
    kernel = layer.weight + (1.5 * lora.up["weight"] @ lora.down["weight"]).view_as(layer.weight)
    rest = {name: settings[name] for name in settings if name != "bias"}
    want = nn.functional.conv2d(x, kernel, layer.bias, **rest)
    found, learnt = lora(x), list(lora.parameters())
    torch.testing.assert_close(found, want)
    for mine, theirs in zip(*(torch.autograd.grad(out.square().sum(), learnt) for out in (found, want)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_half_precision_and_what_the_weights_look_like():
    layer = nn.Linear(64, 48).half().requires_grad_(False)
    lora, x = LoRA(layer, 4, "all", rng()), torch.randn(32, 64, generator=rng(2)).half()
    with torch.no_grad():
        lora.up["weight"].normal_(generator=rng(1))
    weight = lora.weights()["weight"]
    assert (weight.shape, weight.size(0), weight.dim(), weight.dtype) == ((48, 64), 48, 2, torch.float16)
    want = x.float() @ (layer.weight.float() + lora.up["weight"] @ lora.down["weight"]).T + layer.bias.float()
    torch.testing.assert_close(lora(x).float(), want, atol=2e-2, rtol=2e-2)
    lora(x).float().square().mean().backward()
    assert all(each.grad is not None and each.grad.dtype == torch.float32 for each in lora.parameters())
    assert layer.weight.grad is None


def test_it_may_learn_at_the_times_that_it_is_asked_at(prior):
    x, cond = situation(prior)
    seen = []

    def watched(x_t, t, told):
        seen.append(t)
        return torch.zeros_like(x_t, requires_grad=True)

    for lora_t in ("all", "taught"):
        loss = VSD(t_min=0.4, t_max=0.5, lora_t=lora_t)
        state = loss.init(prior, rng(1))
        state.predict_noise = watched
        for seed in range(20):
            loss.lora_loss(prior, x, cond, rng(seed), state)
    every, taught = torch.cat(seen[:20]), torch.cat(seen[20:])
    assert every.min() < 0.2
    assert every.max() > 0.8
    assert taught.min() >= 0.4
    assert taught.max() <= 0.5


@pytest.fixture(scope="module", params=["sees cameras", "takes none"])
def prior(request, tmp_path_factory):
    """A small network that has a place for cameras, and one that has none."""
    import json

    folder = save_stub(tmp_path_factory.mktemp("stub") / "prior")
    if request.param == "takes none":
        from safetensors.torch import load_file, save_file

        path = folder / "unet" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"time_cond_proj_dim": None}))
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({k: v for k, v in load_file(weights).items() if "cond_proj" not in k}, weights)
    return load_prior(folder, torch.device("cpu"))


def situation(prior):
    cameras = orbit_cameras(torch.tensor([0.3, 2.0]), torch.zeros(2), torch.ones(2) * 3, torch.ones(2), 32)
    text = prior.embed_text(["a red mug", "a red mug", ""]).states
    return torch.randn(2, 12, 16, 16, generator=rng(5)), Conditioning(text[:2], text[2:].expand(2, -1, -1), cameras=cameras)


def test_at_first_the_renders_score_is_the_priors_so_nothing_moves(prior):
    x, cond = situation(prior)
    loss = VSD(guidance_scale=1.0, t_min=0.3, t_max=0.7)
    state = loss.init(prior, rng(1))
    t = torch.tensor([0.4, 0.6])
    torch.testing.assert_close(state.predict_noise(x, t, cond), prior.predict_noise(x, t, cond, 1.0))
    x = x.requires_grad_()
    out = loss(prior, x, cond, 0.0, rng(2), state)
    (gradient,) = torch.autograd.grad(out.loss, x, retain_graph=True)
    assert float(gradient.abs().max()) < 1e-5
    learnt = torch.autograd.grad(out.learning, list(state.parameters()), allow_unused=True)
    assert any(each is not None and float(each.abs().max()) > 0 for each in learnt)
    assert not any(parameter.requires_grad for parameter in prior.network.unet.parameters())
    assert prior.network.unet.class_embedding is None


def test_both_estimates_are_clipped(prior):
    x, cond = situation(prior)
    loss = VSD(guidance_scale=2.0, t_min=0.5, t_max=0.5, weighting="x0", clip_x0=0.2)
    state = loss.init(prior, rng(1))
    x = x.requires_grad_()
    out = loss(prior, x, cond, 0.0, rng(2), state)
    (gradient,) = torch.autograd.grad(out.loss, x)
    t = torch.full((2,), 0.5)
    stream = rng(2)
    torch.rand(2, generator=stream)  # the draw of t comes before that of the noise
    alpha, sigma = prior.schedule(t)
    x_t = alpha * x.detach() + sigma * torch.randn(x.shape, generator=stream)
    wanted, own = ((x_t - sigma * prior.predict_noise(x_t, t, cond, scale)) / alpha for scale in (2.0, 1.0))
    assert float(own.abs().max()) > 0.2
    torch.testing.assert_close(2 * gradient, own.clamp(-0.2, 0.2) - wanted.clamp(-0.2, 0.2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("target", ["eps", "v"])
def test_the_lora_learns_the_renders_and_their_cameras(prior, target):
    x, cond = situation(prior)
    loss = VSD(rank=4, targets="all", lora_lr=1e-2, lora_target=target, camera_dropout=0.0)
    state, stream = loss.init(prior, rng(1)), rng(2)
    before = {name: value.clone() for name, value in prior.network.unet.state_dict().items()}
    optimizer = torch.optim.Adam(state.param_groups())
    with torch.no_grad():
        first = sum(float(loss.lora_loss(prior, x, cond, rng(i), state)) for i in range(8))
    for _ in range(40):
        optimizer.zero_grad()
        loss.lora_loss(prior, x, cond, stream, state).backward()
        optimizer.step()
    with torch.no_grad():
        last = sum(float(loss.lora_loss(prior, x, cond, rng(i), state)) for i in range(8))
        t = torch.tensor([0.6, 0.6])
        turned = replace(cond, cameras=cond.cameras[[1, 0]])
        told = (state.predict_noise(x, t, cond) - state.predict_noise(x, t, turned)).abs().max()
    assert last < 0.8 * first
    assert float(told) > 1e-4
    assert all(torch.equal(value, before[name]) for name, value in prior.network.unet.state_dict().items())


def test_v_error_is_the_noise_error_over_alpha(prior):
    x, cond = situation(prior)
    state = VSD().init(prior, rng(1))
    one = x[:1], Conditioning(cond.prompt_embeds[:1], cond.negative_prompt_embeds[:1], cameras=cond.cameras[:1])
    with torch.no_grad():
        eps, v = (float(VSD(lora_target=name).lora_loss(prior, *one, rng(3), state)) for name in ("eps", "v"))
    t = float(torch.rand(1, generator=rng(3)))
    assert v * float(prior.schedule(torch.tensor([t]))[0]) ** 2 == pytest.approx(eps, rel=1e-4)


def test_a_run_with_it_resumes_bit_by_bit(prior):
    config = taught(PRESETS["toybox-field"], guidance=VSD(targets="all"))
    field = Voxel(resolutions=(5, 9), switch_on=(0.0, 0.4))
    config = changed(
        config, steps=4, cameras=CameraSampler(views=1, resolution=(16,)),
        scene=replace(config.stages[0].scene, field=field, samples_per_ray=12),
    )  # fmt: skip
    whole, first, second = (begun(config, prior) for _ in range(3))
    seen = list(steps_of(whole))
    assert all(math.isfinite(step.terms["lora_loss"]) for step in seen)
    first.step(), first.step()
    second.load_state_dict(first.state_dict())
    list(steps_of(second))
    assert same(second.state_dict(), whole.state_dict())
    assert whole.state_dict()["learned"][0]


def test_what_cannot_learn_says_so():
    prior = GaussianPrior(torch.zeros(1, 1, 1, 1), torch.ones(1))
    with pytest.raises(ValueError, match="an exact prior has no network to adapt"):
        VSD().init(prior, rng())
    for settings, words in (({"rank": 0}, "rank is 0"), ({"lora_lr": 0.0}, "lora_lr 0"), ({"camera_dropout": 2.0}, "is 2;")):
        with pytest.raises(ValueError, match=words):
            VSD(**settings)
