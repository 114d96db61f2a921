"""DDIM sampling of view-conditioned priors against loops written here, and the measure of how well a picture is known."""

import math

import pytest
import torch
from big_helpers import close, first_pipeline
from torch.nn import functional
from view_helpers import photo, save_port, save_view, targets

from dreamlift.priors.kinds import load_prior
from dreamlift.priors.zero123.rays import ray_features
from dreamlift.priors.zero123.sampling import sample, sample_cameras, sampling_times
from dreamlift.prompts import NoViews
from dreamlift.toybox.training.view import begin_with, make_view_networks, sample_views


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("family")
    return {"port": save_port(root / "port", "kxic"), "view": save_view(root / "view")}


@pytest.fixture(scope="module")
def priors(folders):
    return {name: load_prior(folder) for name, folder in folders.items()}


def test_the_times_are_those_of_the_models_own_samplers(priors):
    leading = [round(999 * t) for t in sampling_times(priors["port"], 50)]
    assert leading == list(range(981, 0, -20))  # Zero-1-to-3's DDIM: uniform, offset by 1
    trailing = [round(999 * t) for t in sampling_times(priors["view"], 20)]
    assert trailing == [998, *range(949, 0, -50)]  # from pure noise, where x0 does not follow from eps
    assert len(sampling_times(priors["port"], 1)) == len(sampling_times(priors["view"], 1000)) - 999 == 1
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"steps is {steps}; accepted: 1 to 1000"):
            sampling_times(priors["port"], steps)


@torch.no_grad()
def test_a_ports_samples_are_those_of_an_independent_loop(priors, folders):
    from diffusers import UNet2DConditionModel

    prior = priors["port"]
    cond = prior.embeds(photo(), NoViews(), ()).at(targets((0.0, 120.0), (20.0, -5.0)))
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    unet = UNet2DConditionModel.from_pretrained(folders["port"] / "unet").eval()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    x, times = noise.double(), [751, 501, 251, 1]
    for now, following in zip(times, [*times[1:], None], strict=True):
        both = torch.cat([x, x]).float()
        beside = torch.cat([torch.zeros(2, 4, 8, 8), cond.image_latents])
        states = torch.cat([torch.zeros_like(cond.prompt_embeds), cond.prompt_embeds])
        plain, wanted = unet(torch.cat([both, beside], dim=1), now, states).sample.double().chunk(2)
        eps = plain + 3.0 * (wanted - plain)
        x0 = (x - (1 - abar[now]).sqrt() * eps) / abar[now].sqrt()
        x = x0 if following is None else abar[following].sqrt() * x0 + (1 - abar[following]).sqrt() * eps
    torch.testing.assert_close(sample(prior, noise, cond, 3.0, 4).double(), x, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("show", ["color", "place"])
def test_the_pixel_models_samples_are_those_of_an_independent_loop(priors, folders, show):
    """In terms of x0, which this network predicts; and nearly those of its trainer, whose first time is one later."""
    prior = priors["view"]
    cond = prior.embeds(photo(), NoViews(), ()).at(targets((0.0, 90.0, 200.0), (20.0, 0.0, 50.0)), (), show)
    networks = make_view_networks(16, channels=(8, 16))
    begin_with(networks, folders["view"])
    networks.unet.eval()
    networks.image_encoder.eval()
    noise = torch.randn((3, 12, 8, 8), generator=torch.Generator().manual_seed(4))
    got = sample(prior, noise, cond, 2.0, 20)

    abar, blank = networks.scheduler.alphas_cumprod, torch.tensor([0.0] * 10 + [float(show == "place")]).expand(3, -1)
    x, times = noise, [998, *range(949, 0, -50)]
    for now, following in zip(times, [*times[1:], None], strict=True):
        plain = networks.predict_x0(x, now, 0 * cond.image_latents, 0 * cond.prompt_embeds, blank)
        wanted = networks.predict_x0(x, now, cond.image_latents, cond.prompt_embeds, cond.pose)
        guided = plain + 2.0 * (wanted - plain)
        eps, x0 = (x - abar[now].sqrt() * guided) / (1 - abar[now]).sqrt(), guided.clamp(-1, 1)
        x = x0 if following is None else abar[following].sqrt() * x0 + (1 - abar[following]).sqrt() * eps
    torch.testing.assert_close(got, x, rtol=1e-3, atol=5e-3)
    turn, up, low = (torch.tensor(angles) * math.pi / 180 for angles in ((0.0, 90.0, 200.0), (20.0,) * 3, (20.0, 0.0, 50.0)))
    rays = ray_features(turn, up, low)
    beside = cond.image_latents
    trained = sample_views(networks, functional.pixel_shuffle(beside[:, :12], 2), beside, cond.pose, rays, 2.0, 20, seed=4)
    assert float((prior.decode(got) - trained).abs().mean()) < 0.05
    # what the comparison would miss if the pose had no effect
    assert float((trained[0] - trained[1]).abs().mean()) > 0.07


def test_the_cameras_of_one_seed_share_their_noise_and_batches_change_nothing(priors):
    prior, embeds = priors["view"], priors["view"].embeds(photo(), NoViews(), ())
    cameras = targets((0.0, 0.0, 90.0), (0.0, 0.0, 0.0))
    one = sample_cameras(prior, embeds, cameras, 2.0, 3, seed=1)
    assert one.shape == (3, 16, 16, 3)
    close(one[0], one[1])
    close(sample_cameras(prior, embeds, cameras, 2.0, 3, seed=1, batch=2), one)
    assert float((sample_cameras(prior, embeds, cameras, 2.0, 3, seed=2) - one).abs().mean()) > 1e-3


def test_a_prior_with_words_is_sampled_too():
    from dreamlift.prompts import embed_prompt

    prior = load_prior(first_pipeline())
    embeds = embed_prompt("a red mug", "", NoViews(), prior.embed_text)
    pictures = sample_cameras(prior, embeds, targets((0.0,), (0.0,)), 2.0, 2)
    assert pictures.shape == (1, 16, 16, 3)
    assert bool(pictures.isfinite().all())
