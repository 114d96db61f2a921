"""The latent prior's networks: a stock Stable Diffusion folder, and an autoencoder that learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dreamlift.priors.kinds import load_prior
from dreamlift.priors.latent import LatentPrior
from dreamlift.priors.loading.sources import KNOWN, locate
from dreamlift.toybox.training.dataset import gather
from dreamlift.toybox.training.latent import load_vae, make_latent_networks
from dreamlift.toybox.training.network import begin_with, load_folder, save_folder
from dreamlift.toybox.training.prior import Batch, sample_grid, x0_loss
from dreamlift.toybox.training.vae import Training, draw_batch, measure, train, vae_loss
from dreamlift.toybox.world.render import sample_pictures
from dreamlift.types import Conditioning

WORDS = ["a", "red", "blue", "mug", "chair", "view", "front"]


@pytest.fixture(scope="module")
def rendered():
    return gather([row for seed in range(3) for row in sample_pictures(seed, 32, kinds=("mug", "car"))])


@pytest.fixture(scope="module")
def trained(rendered):
    with torch.random.fork_rng():
        return train(Training(steps=150, batch=6, warmup=5, size=32), rendered, (16, 16))


@pytest.fixture(scope="module")
def networks(trained):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_latent_networks(WORDS, trained, 32, (8, 16))


@pytest.fixture(scope="module")
def folder(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent") / "prior"
    save_folder(networks, folder, half=False)
    return folder


def test_the_autoencoder_learns_and_its_latents_get_unit_deviation(rendered, trained):
    x = torch.from_numpy(rendered.rgb).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.no_grad():
        latents = trained.encode(x).latent_dist.mean
        back = trained.decode(latents).sample
    flat = x.mean(dim=(2, 3), keepdim=True)  # the best that one colour a picture can do
    assert float((back - x).square().mean()) < 0.5 * float((flat - x).square().mean())
    assert float((latents * trained.config.scaling_factor).std()) == pytest.approx(1.0, abs=0.01)
    found = measure(trained, rendered)
    errors = ((back.clamp(-1, 1) - x) / 2).square().mean((1, 2, 3))
    assert found["psnr_db"] == pytest.approx(float((-10 * errors.log10()).mean()), abs=1e-3)


def test_its_loss_by_hand(rendered, trained):
    batch = draw_batch(rendered, trained, Training(batch=4), 0)
    torch.manual_seed(0)
    reader = torch.nn.Conv2d(4, 3, 1)
    got = vae_loss(trained, reader, batch)
    stats = trained.encode(batch.rgb).latent_dist
    mean, variance = stats.mean, stats.std.square()
    back = trained.decode(mean + stats.std * batch.eps).sample.detach().numpy().astype(np.float64)
    error = back - batch.rgb.numpy()
    steps = sum(np.abs(np.diff(error, axis=axis)).mean() for axis in (2, 3))
    # Red against blue, green against both; the first counts as much as a pixel's difference in one channel.
    red, green, blue = np.moveaxis(error, 1, 0)
    hue = (np.abs(2.7 * (red - blue)) + np.abs(5.1 * green - 2.6 * (red + blue))).mean() / 2 / np.hypot(2.7, 2.7)
    cells = batch.rgb.numpy().astype(np.float64).reshape(4, 3, 16, 2, 16, 2).mean((3, 5))
    axes = np.array([[0.95, 0.95, 0.95], [2.7, 0, -2.7], [-2.6, 5.1, -2.6]])
    weight, bias = (x.detach().numpy().astype(np.float64) for x in (reader.weight[:, :, 0, 0], reader.bias))
    told = np.einsum("ac,bcij->baij", weight, mean.detach().numpy()) + bias[:, None, None]
    read = np.abs(told - np.einsum("ac,bcij->baij", axes, cells)).mean()
    kl = 0.5 * float((mean.square() + variance - 1 - variance.log()).mean())
    assert float(got.detach()) == pytest.approx(np.abs(error).mean() + steps + hue + 0.3 * read + 1e-4 * kl, rel=1e-4)


def test_it_learns_from_windows(rendered, trained):
    batch = draw_batch(rendered, trained, Training(batch=3, crop=16), 5)
    assert batch.rgb.shape == (3, 3, 16, 16)
    assert batch.eps.shape == (3, 4, 8, 8)
    again = draw_batch(rendered, trained, Training(batch=3, crop=16), 5)
    assert torch.equal(batch.rgb, again.rgb)
    whole = draw_batch(rendered, trained, Training(batch=3), 5)
    for window, picture in zip(batch.rgb, whole.rgb, strict=True):  # the same pictures are drawn whatever the window
        windows = picture.unfold(1, 16, 1).unfold(2, 16, 1)
        assert bool((windows == window[:, None, None]).all(dim=(0, 3, 4)).any())


def test_it_goes_on_from_a_saved_one(rendered, trained, tmp_path):
    trained.save_pretrained(tmp_path)
    again = train(Training(steps=1, batch=2, lr=0.0, warmup=1, size=32), rendered, init=tmp_path)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)


def test_the_stock_pipeline_draws_what_our_sampler_draws(networks, folder):
    from diffusers import DDIMScheduler, DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder)  # without a precision: all networks have to have one
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    latents = torch.randn((1, *networks.shape), generator=torch.Generator().manual_seed(5))
    stock = pipeline(["a red mug"], num_inference_steps=20, guidance_scale=3.0, latents=latents, output_type="pt").images
    ours = sample_grid(networks, ["a red mug"], seed=5, guidance_scale=3.0)
    torch.testing.assert_close(ours, stock.permute(0, 2, 3, 1), atol=2e-3, rtol=0.0)
    assert float(stock.std()) > 0.01


def test_the_embedded_one_is_opened_and_sampled_by_the_stock_pipeline():
    from diffusers import DDIMScheduler, DiffusionPipeline

    folder = locate("toybox-latent")
    pipeline = DiffusionPipeline.from_pretrained(folder)  # without a precision: all networks have to have one
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    prompts = ["a red mug, front view", "a blue chair, front view"]
    drawn = pipeline(
        prompts, num_inference_steps=12, guidance_scale=3.0, generator=torch.Generator().manual_seed(0), output_type="pt"
    )
    pictures = drawn.images
    assert pictures.shape == (2, 3, 128, 128)
    centre = pictures[:, :, 48:80, 48:80].mean((2, 3))
    assert float(centre[0, 0] - centre[0, 2]) > 0.2  # the red one is red
    assert float(centre[1, 2] - centre[1, 0]) > 0.2  # the blue one is blue


def test_renders_keep_their_colors_through_the_embedded_autoencoder(rendered):
    """True renders, with the linear map of colours too: hues come back, each axis of colour apart."""
    prior = load_prior(locate("toybox-latent"), torch.device("cpu"))
    assert (KNOWN["toybox-latent"].resolution, KNOWN["toybox-latent"].space) == (prior.resolution, "latent")
    x = torch.from_numpy(rendered.rgb).float() / 255
    latents = prior.encode(x)
    assert float(latents.std()) == pytest.approx(1.0, abs=0.25)
    prior.autoencoder.use_linear_map()
    for z, least in ((latents, 0.9), (prior.encode(x), 0.8)):
        back = prior.decode(z)
        for axis in ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-0.5, 1.0, -0.5)):
            one, other = (torch.nn.functional.avg_pool2d(p @ torch.tensor(axis), p.shape[1] // 16).flatten() for p in (x, back))
            assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) > least


def test_our_prior_loads_it_as_a_latent_one(networks, folder):
    prior = load_prior(folder, torch.device("cpu"))
    assert isinstance(prior, LatentPrior)
    assert prior.resolution == 32
    rgb = torch.rand(2, 32, 32, 3)
    torch.testing.assert_close(prior.encode(rgb), networks.encode(rgb.permute(0, 3, 1, 2) * 2 - 1))
    text = prior.embed_text(["a blue chair"]).states
    torch.testing.assert_close(text, networks.encode_text(networks.tokenize(["a blue chair"])))
    x, step = torch.randn(1, *networks.shape), torch.tensor([700])
    alpha, sigma = prior.schedule(step / 999)
    eps = prior.predict_noise(x, step / 999, Conditioning(text, text), 1.0)
    with torch.no_grad():
        velocity = networks.unet(x, step, text).sample
    torch.testing.assert_close(eps, alpha * velocity + sigma * x, atol=1e-5, rtol=1e-4)


def test_the_networks_learn_on_latents_and_the_autoencoder_stays(networks, rendered):
    rgb = torch.from_numpy(rendered.rgb[:4]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    eps = torch.randn((4, *networks.shape), generator=torch.Generator().manual_seed(0))
    told, t = torch.zeros((4, 2), dtype=torch.long), torch.tensor([100, 500, 800, 999])
    loss = x0_loss(networks, Batch(rgb, ["a red mug"] * 4, torch.zeros(4, 8), t, eps, told, torch.zeros(4, dtype=torch.bool)))
    gradients = torch.autograd.grad(loss, networks.parameters(), allow_unused=True)
    used = {id(p) for p, g in zip(networks.parameters(), gradients, strict=True) if g is not None and float(g.abs().sum()) > 0}
    assert {id(p) for p in networks.unet.parameters()} <= used
    assert not any(p.requires_grad for p in networks.vae.parameters())
    assert not any("vae" in key for key in networks.state_dict())


def test_it_goes_on_from_a_saved_folder_with_more_words(networks, folder, tmp_path):
    again = load_folder(folder)
    assert again.vae is not None
    vae = load_vae(folder / "vae")
    vae.save_pretrained(tmp_path)
    assert str(folder) not in (tmp_path / "config.json").read_text()  # no paths of the machine that trained it
    new = make_latent_networks([*WORDS, "green", "apple"], vae, 32, (8, 16))
    begin_with(new, folder)
    x, t = torch.randn(1, *networks.shape), torch.tensor([300])
    with torch.no_grad():
        one, other = (n.predict_x0(x, t, n.encode_text(n.tokenize(["a red mug"]))) for n in (again, new))
    torch.testing.assert_close(one, other)
