"""DDIM sampling of view-conditioned priors against loops written here, and the measure of how well a picture is known."""

import json
import math

import numpy as np
import pytest
import torch
from big_helpers import close, first_pipeline
from torch.nn import functional
from view_helpers import photo, save_port, save_view, targets

from dreamlift.priors.base import Prior
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.zero123 import familiarity as measure
from dreamlift.priors.zero123.familiarity import familiarity, least_db, unfamiliar
from dreamlift.priors.zero123.rays import ray_features
from dreamlift.priors.zero123.sampling import sample, sample_cameras, sampling_times
from dreamlift.prompts import NoViews
from dreamlift.toybox.training.view import begin_with, make_view_networks, sample_views
from dreamlift.types import Pictures


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
    assert float((trained[0] - trained[1]).abs().mean()) > 0.1


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


# --- familiarity


class Copier(Prior):
    """A prior whose samples are the picture over its backdrop, moved and scaled, with an error of ``error``."""

    def __init__(self, error: float, blank: bool = False) -> None:
        self.resolution, self.device, self.error, self.blank = 32, torch.device("cpu"), error, blank
        self.latent_bound = 1.0

    def embeds(self, task, wording, backdrops):
        prior, (backdrop,) = self, backdrops

        class Told:
            def at(self, cameras, backdrops=(), show="color"):
                rgba = task.photos.reference.permute(0, 3, 1, 2)
                rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)
                small = functional.interpolate(rgba, (24, 24), mode="area")
                placed = functional.pad(small, (2, 6, 5, 3))  # three quarters as large, and moved
                color = torch.tensor(backdrop.color).view(3, 1, 1)
                inside = placed[:, 3:] > 0.5
                prior.answer = placed[:, :3] + (1 - placed[:, 3:]) * color + prior.error * inside
                prior.answer = prior.answer if not prior.blank else torch.ones(1, 3, 32, 32) * color
                return None

        return Told()

    def encode(self, rgb):
        return rgb.permute(0, 3, 1, 2)

    def decode(self, latents):
        return latents.permute(0, 2, 3, 1)

    def schedule(self, t):
        alpha = (1 - t).clamp_min(0.0).view(-1, 1, 1, 1)
        return alpha, (1 - alpha**2).sqrt()

    def predict_noise(self, x_t, t, cond, guidance_scale):
        alpha, sigma = self.schedule(t)
        return (x_t - alpha * self.answer) / sigma

    def embed_text(self, prompts):
        raise NotImplementedError

    adapted = save_memory = embed_text


def disc(size=32):
    """A colourful disc on transparent ground, with its camera."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    alpha = (x**2 + y**2 < 0.6).float()[..., None]
    rgb = torch.stack([0.1 + 0.2 * (x + 1), 0.5 * (y + 1), torch.full_like(x, 0.4)], dim=-1)
    rgba = torch.cat([rgb, alpha], dim=-1)[None]
    return Pictures(rgba[..., :3], rgba[..., 3:], targets((0.0,), (20.0,)), reference=rgba)


def test_familiarity_is_the_psnr_of_the_prior_s_own_answer_wherever_it_lies():
    copied = familiarity(Copier(0.0), disc(), steps=2)
    assert copied > 22.0  # but for the resampling
    # an error of .2 on every channel inside the mask: -20 log10(.2) = 13.98 dB
    assert familiarity(Copier(0.2), disc(), steps=2) == pytest.approx(13.98, abs=1.0)
    assert familiarity(Copier(0.0, blank=True), disc(), steps=2) == 0.0


def test_a_warning_needs_a_measured_limit(priors, folders, monkeypatch):
    prior, pictures = priors["view"], photo().photos
    assert least_db(folders["view"]) is None
    assert unfamiliar(prior, pictures) == ""
    found = familiarity(prior, pictures, seeds=2, steps=2)
    assert math.isfinite(found)
    monkeypatch.setattr(measure, "familiarity", lambda *_: 11.0)
    try:
        for least, warned in ((10.9, False), (11.1, True)):
            (folders["view"] / "familiarity.json").write_text(json.dumps({"least_db": least}))
            assert bool(unfamiliar(prior, pictures)) == warned
        assert "11.0 dB; usual: 11.1 or more" in unfamiliar(prior, pictures)
    finally:
        (folders["view"] / "familiarity.json").unlink()


def test_the_limit_is_a_quantile_of_held_out_objects_and_strangers_are_counted(monkeypatch):
    from dreamlift.toybox.training import familiar
    from dreamlift.toybox.training.pairs import Pairs

    rng = np.random.default_rng(0)
    alpha = np.zeros((3, 1, 16, 16, 1), dtype=np.uint8)
    alpha[..., 4:12, 4:12, :] = 255
    colors = rng.integers(0, 256, (3, 1, 16, 16, 3)).astype(np.uint8) * (alpha > 0)
    views = np.array([[[0.5, 0.2]]] * 3)
    pairs = Pairs(np.concatenate([colors, alpha], axis=-1), colors, colors, views, views, views, views)
    one = familiar.picture(pairs, 1)
    close(one.rgb, torch.from_numpy(colors[1] / 255).float())  # opaque: not premultiplied
    assert (float(one.cameras.azimuth[0]), float(one.cameras.elevation[0])) == pytest.approx((0.5, 0.2))
    other = familiar.stranger(one, 3)
    assert torch.equal(other.alpha, one.alpha)
    assert float((other.rgb - one.rgb).abs().mean()) > 0.05

    known = {float(familiar.picture(pairs, i).rgb.mean()): 20.0 + i for i in range(3)}
    monkeypatch.setattr(familiar, "familiarity", lambda _, each: known.get(float(each.rgb.mean()), 15.0))
    found = familiar.calibrate(None, pairs, 10)  # pyright: ignore
    assert found["least_db"] == 20.1  # 5 % of 20, 21, 22
    assert found["strangers_below"] == 1.0
