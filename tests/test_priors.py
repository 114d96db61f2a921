"""Priors against closed forms, brute force, and diffusers' own schedulers and pipelines at small size."""

from __future__ import annotations

import math

import pytest
import torch

from dreamlift.cameras import fibonacci_cameras, orbit_cameras
from dreamlift.priors.base import classifier_free_guidance, perp_neg
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.exact.empirical import EmpiricalPrior
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.loading import sources
from dreamlift.priors.parts import FolderParts
from dreamlift.priors.quick_text import find_encoder
from dreamlift.priors.text import complaints
from dreamlift.types import Conditioning

CPU = torch.device("cpu")


def blank(batch: int) -> Conditioning:
    return Conditioning(torch.zeros(batch, 1, 1), torch.zeros(batch, 1, 1))


def test_gaussian_score_is_autograd_of_its_log_density():
    torch.manual_seed(0)
    means = torch.randn(3, 2, 2, 2).double()
    stds, weights = torch.tensor([0.3, 0.7, 1.1]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    prior = GaussianPrior(means, stds, weights)
    x = torch.randn(4, 2, 2, 2).double().requires_grad_()
    t = torch.tensor([0.1, 0.4, 0.7, 0.95]).double()
    alpha, sigma = prior.schedule(t)
    log_p = torch.zeros(4).double()
    for b in range(4):
        parts = []
        for k in range(3):
            std = torch.sqrt(alpha[b].squeeze() ** 2 * stds[k] ** 2 + sigma[b].squeeze() ** 2)
            normal = torch.distributions.Normal(alpha[b].squeeze() * means[k], std)
            parts.append(weights[k].log() + normal.log_prob(x[b]).sum())
        log_p[b] = torch.stack(parts).logsumexp(0)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    torch.testing.assert_close(prior.predict_noise(x, t, blank(4)), -sigma * score)


def test_gaussian_mean_of_sds_direction_matches_closed_form():
    # E[eps_hat - eps] = alpha sigma (x - mu) / (alpha^2 s^2 + sigma^2), by Monte Carlo over eps.
    mu, s, n = 0.7, 0.4, 200_000
    prior = GaussianPrior(torch.full((1, 1, 1, 1), mu), torch.tensor([s]))
    x = torch.full((n, 1, 1, 1), -0.3)
    eps = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    for t in (0.1, 0.5, 0.9):
        alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
        got = (prior.predict_noise(alpha * x + sigma * eps, torch.full((n,), t), blank(n)) - eps).mean()
        expected = alpha * sigma * (-0.3 - mu) / (alpha**2 * s**2 + sigma**2)
        assert abs(float(got) - expected) < 0.01


def test_empirical_score_is_the_brute_force_softmax():
    torch.manual_seed(1)
    cameras = fibonacci_cameras(5, -20, 60, 3.0, 45.0, 4)
    pictures = torch.rand(5, 4, 4, 3)
    prior = EmpiricalPrior(pictures, cameras, bandwidth=math.inf)
    x_t, t = torch.randn(2, 3, 4, 4), torch.tensor([0.3, 0.8])
    alpha, sigma = (value.flatten() for value in prior.schedule(t))
    expected = torch.zeros_like(x_t)
    for b in range(2):
        clean = [picture.permute(2, 0, 1) * 2 - 1 for picture in pictures]
        logs = torch.stack([-((x_t[b] - alpha[b] * c) ** 2).sum() / (2 * sigma[b] ** 2) for c in clean])
        share = logs.softmax(0)
        x0 = sum(share[i] * clean[i] for i in range(5))
        expected[b] = (x_t[b] - alpha[b] * x0) / sigma[b]
    torch.testing.assert_close(prior.predict_noise(x_t, t, blank(2)), expected, atol=1e-4, rtol=1e-4)


def test_empirical_prior_returns_the_picture_of_the_asked_camera():
    cameras = fibonacci_cameras(6, -20, 60, 3.0, 45.0, 4)
    pictures = torch.rand(6, 4, 4, 3)
    prior = EmpiricalPrior(pictures, cameras)
    x_t, t = torch.randn(6, 3, 4, 4), torch.full((6,), 0.9)
    cond = Conditioning(torch.zeros(6, 1, 1), torch.zeros(6, 1, 1), cameras=cameras)
    alpha, sigma = prior.schedule(t)
    x0 = (x_t - sigma * prior.predict_noise(x_t, t, cond)) / alpha
    torch.testing.assert_close(prior.decode(x0), pictures, atol=1e-3, rtol=0)


def test_guidance_is_uncond_plus_s_times_the_difference():
    uncond, cond = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])
    assert classifier_free_guidance(uncond, cond, 7.5).tolist() == [8.5, -13.0]
    assert classifier_free_guidance(uncond, cond, 1.0).tolist() == cond.tolist()


def test_perp_neg_removes_only_the_perpendicular_part():
    uncond = torch.zeros(1, 1, 1, 2)
    cond = torch.tensor([[[[1.0, 0.0]]]])
    negative = torch.tensor([[[[[3.0, 4.0]]]]])  # (1, N=1, C, h, w): 3 along the wanted direction, 4 across
    out = perp_neg(uncond, cond, negative, torch.tensor([[-0.5]]), 2.0)
    # by hand: 2 * ((1, 0) - 0.5 * (0, 4)) = (2, -4); the part along the wanted direction did nothing
    assert out.flatten().tolist() == [2.0, -4.0]


def tiny_folder(tmp_path, kind: str):
    """A diffusers folder with random weights: "pixel" through our own network code, "latent" by stock classes."""
    from dreamlift.toybox.training.network import make_networks, make_tokenizer, save_folder

    torch.manual_seed(0)
    if kind == "pixel":
        save_folder(make_networks(["a", "red", "mug"], 32, (8, 16)), tmp_path)
        return tmp_path
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                          num_attention_heads=2, max_position_embeddings=77, pad_token_id=0, eos_token_id=1,
                          bos_token_id=2)  # fmt: skip
    parts = {
        "text_encoder": CLIPTextModel(text),
        "vae": AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                             block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4),
        "unet": UNet2DConditionModel(sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
                                     down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                                     up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16,
                                     attention_head_dim=2),
        "scheduler": DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        "tokenizer": make_tokenizer(["a", "red", "mug"]),
    }  # fmt: skip
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "scheduler": '
        '["diffusers", "DDPMScheduler"], "tokenizer": ["transformers", "PreTrainedTokenizerFast"], "text_encoder": '
        '["transformers", "CLIPTextModel"], "vae": ["diffusers", "AutoencoderKL"]}'
    )
    return tmp_path


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_network_priors_agree_with_diffusers_scheduler(tmp_path, kind):
    """x0 from our eps is the x0 that diffusers' own scheduler computes from the raw network output."""
    from diffusers import DDIMScheduler

    prior = load_prior(tiny_folder(tmp_path, kind), CPU)
    text = prior.embed_text(["a red mug", ""]).states
    latents = prior.encode(torch.rand(1, 20, 20, 3))
    assert latents.shape[1:] == ((12, 16, 16) if kind == "pixel" else (4, 16, 16))  # pixels come packed by 2
    cond = Conditioning(text[:1], text[1:])
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "scheduler", clip_sample=False)
    scheduler.set_timesteps(1000)
    step = 500
    t = torch.tensor([step / 999])
    eps_hat = prior.predict_noise(latents, t, cond, 1.0)
    alpha, sigma = prior.schedule(t)
    raw = prior.network.unet(latents, torch.tensor([step]), text[:1]).sample[:, : latents.shape[1]]
    expected = scheduler.step(raw, step, latents).pred_original_sample
    torch.testing.assert_close((latents - sigma * eps_hat) / alpha, expected, atol=1e-4, rtol=1e-4)


def test_linear_latents_are_the_least_squares_fit_to_flat_colours(tmp_path):
    import numpy as np

    folder = tiny_folder(tmp_path, "latent")
    exact, linear = load_prior(folder, CPU), load_prior(PriorChoice(str(folder), linear_encoder=True), CPU)
    picture = torch.rand(1, 16, 16, 3, requires_grad=True)  # a pixel a latent
    got = linear.encode(picture)
    larger = torch.rand(1, 40, 40, 3)
    assert linear.encode(larger).shape == exact.encode(larger).shape == got.shape
    levels = np.linspace(0, 1, 4)
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    flat = torch.from_numpy(colors).float()[:, None, None, :].expand(-1, 16, 16, 3)
    vae = exact.autoencoder
    with torch.no_grad():
        latents = vae.vae.encode(flat.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean[:, :, 3:5, 3:5].mean((2, 3)) * vae.scale
    fitted = np.linalg.lstsq(np.c_[colors, np.ones(64)], latents.numpy(), rcond=None)[0]
    want = np.einsum(
        "bihw,ic->bchw", np.concatenate([picture.detach().movedim(-1, 1).numpy(), np.ones((1, 1, 16, 16))], 1), fitted
    )
    np.testing.assert_allclose(got.detach().numpy(), want, atol=1e-4)
    got.sum().backward()
    # of each channel the same everywhere
    torch.testing.assert_close(picture.grad[0, 0, 0].expand(16, 16, 3), picture.grad[0])
    with pytest.raises(ValueError, match="leave linear_encoder off"):
        load_prior(PriorChoice(str(tiny_folder(tmp_path / "pixels", "pixel")), linear_encoder=True), CPU)


def test_packed_pictures_come_back_whole(tmp_path):
    prior = load_prior(tiny_folder(tmp_path, "pixel"), CPU)
    picture = torch.rand(2, 32, 32, 3)
    latents = prior.encode(picture)
    torch.testing.assert_close(prior.decode(latents), picture)
    # the four pixels of one block are the four channels of one colour
    block = picture[0, 4:6, 8:10, 1].flatten() * 2 - 1
    torch.testing.assert_close(latents[0, 4:8, 2, 4], block)
    assert prior.resolution == 32


def test_the_camera_is_told_to_the_prompt_and_not_to_the_empty_one(tmp_path):
    folder = tiny_folder(tmp_path, "pixel")
    prior, blind = load_prior(folder, CPU), load_prior(PriorChoice(str(folder), camera_conditioning=False), CPU)
    text, x, t = prior.embed_text(["a red mug", ""]).states, torch.randn(2, 12, 16, 16), torch.tensor([0.5, 0.7])
    cameras = orbit_cameras(
        torch.tensor([0.3, 2.0]), torch.tensor([0.1, 0.6]), torch.full((2,), 2.5), torch.full((2,), 0.8), 32
    )
    wanted, empty = text[:1].expand(2, -1, -1), text[1:].expand(2, -1, -1)
    cond = Conditioning(wanted, empty, cameras=cameras)
    unet, steps = prior.network.unet, (t * 999).round().long()
    a, e = torch.tensor([0.3, 2.0]), torch.tensor([0.1, 0.6])
    told = torch.stack(
        [torch.ones(2), a.sin(), a.cos(), (2 * a).sin(), (2 * a).cos(), (3 * a).sin(), (3 * a).cos(), e.sin()], -1
    )
    alpha, sigma = prior.schedule(t)

    def noise(text: torch.Tensor, camera: torch.Tensor | None) -> torch.Tensor:
        out = unet(x, steps, text, timestep_cond=camera).sample[:, :12]
        return (x - alpha * out) / sigma

    def close(got: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)

    seen, unseen, uncond = noise(wanted, told), noise(wanted, None), noise(empty, None)
    assert float((seen - unseen).abs().max()) > 1e-4
    close(noise(wanted, torch.zeros(2, 8)), unseen)  # zeros mean "no camera"
    close(prior.predict_noise(x, t, cond, 1.0), seen)
    close(prior.predict_noise(x, t, cond, 3.0), uncond + 3.0 * (seen - uncond))
    close(prior.predict_noise(x, t, cond, 0.0), uncond)
    close(blind.predict_noise(x, t, cond, 3.0), uncond + 3.0 * (unseen - uncond))
    close(prior.predict_noise(x, t, Conditioning(wanted, empty), 3.0), uncond + 3.0 * (unseen - uncond))


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_guided_batch_equals_separate_calls_and_gradients_reach_the_render(tmp_path, kind):
    prior = load_prior(tiny_folder(tmp_path, kind), CPU)
    text = prior.embed_text(["a red mug", "", "a mug"]).states
    picture = torch.rand(1, 32, 32, 3, requires_grad=True)
    latents = prior.encode(picture)
    t = torch.tensor([0.4])
    one = [prior.predict_noise(latents, t, Conditioning(text[i : i + 1], text[1:2]), 1.0) for i in range(3)]
    both = prior.predict_noise(latents, t, Conditioning(text[:1], text[1:2]), 4.0)
    torch.testing.assert_close(both, one[1] + 4.0 * (one[0] - one[1]), atol=1e-4, rtol=1e-4)
    weights = torch.tensor([[-0.5]])
    perp = prior.predict_noise(latents, t, Conditioning(text[:1], text[1:2], text[None, 2:3], weights), 4.0)
    expected = perp_neg(one[1], one[0], one[2].unsqueeze(1), weights, 4.0)
    torch.testing.assert_close(perp, expected, atol=1e-4, rtol=1e-4)
    latents.sum().backward()
    assert picture.grad is not None
    assert float(picture.grad.abs().min()) >= 0
    assert float(picture.grad.abs().sum()) > 0


def test_pickled_weights_are_never_opened(tmp_path):
    folder = tiny_folder(tmp_path, "pixel")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no \.safetensors weights .*pickled weights are never opened"):
        load_prior(folder, CPU)


def test_unknown_words_and_truncation_are_named():
    from dreamlift.toybox.training.network import make_tokenizer

    tokenizer = make_tokenizer(["a", "red", "mug", "rocket"])

    def said(prompts):
        return list(map(str, complaints(tokenizer, prompts)))

    lines = said(["a red roccket"])
    assert lines == ["the prior does not know 'roccket'; similar known words: rocket"]
    assert "longer than 77 tokens" in said(["red " * 80])[0]
    assert complaints(tokenizer, ["a red mug", ""]) == []
    assert complaints(tokenizer, ["a red mug.", '"a (red) mug!"', "a red, mug ...", "\u201ca red mug\u201d"]) == []
    assert said(["a red roccket!"]) == lines


@pytest.mark.parametrize("name", ["toybox", "toybox-latent"])
def test_punctuation_does_not_change_what_an_embedded_prior_reads(name):
    """Neither with transformers' tokenizer nor with the quick one, which ONNX Runtime uses."""
    parts = FolderParts(sources.locate(name))
    slow, quick = parts.tokenizer("tokenizer"), find_encoder(parts)
    for prompt in (
        "a red mug.",
        "A red mug!",
        "a (red) mug",
        '"a red mug"',
        "a red mug...",
        "a red-mug",
        "\u201ca red mug\u201d",
    ):
        ids = slow(prompt)["input_ids"]
        assert slow.convert_ids_to_tokens(ids) == ["a", "red", "mug", "</s>"]
        assert quick.tokenizer(prompt)["input_ids"] == ids
    assert slow.convert_ids_to_tokens(slow("a mug, front view")["input_ids"])[:3] == ["a", "mug", ","]


def test_unknown_prior_names_the_nearest_and_folders_are_checked(tmp_path):
    with pytest.raises(sources.PriorNotFoundError, match=r"unknown prior 'toybx' .did you mean 'toybox'"):
        sources.locate("toybx")
    with pytest.raises(sources.PriorNotFoundError, match=r"it has no model_index\.json"):
        sources.locate(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(sources.PriorNotFoundError, match="not valid JSON"):
        sources.locate(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(sources.PriorNotFoundError, match="lacks unet, scheduler, tokenizer, text_encoder"):
        sources.locate(str(tmp_path))


def test_offline_the_message_names_every_address_and_the_local_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(sources.PriorNotFoundError) as caught:
        sources.locate("sd-2.1-base")
    text = str(caught.value)
    for address in sources.KNOWN["sd-2.1-base"].addresses:
        assert address in text
    assert "HF_HUB_OFFLINE is set" in text
    assert "--prior FOLDER" in text
