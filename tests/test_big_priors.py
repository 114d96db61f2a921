"""Stable Diffusion XL and 3 and FLUX at small size, with random weights: we ask of them what diffusers' own pipelines ask."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from big_helpers import CPU, PROMPTS, autoencoder, clip, close, conditioned, third_pipeline, tokenizer

from dreamlift.cameras import orbit_cameras
from dreamlift.guidance.rfds import RFDS
from dreamlift.guidance.vsd import VSD
from dreamlift.priors.base import combine, perp_neg, stack_text
from dreamlift.priors.flow import FlowPrior
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.latent import Autoencoder, LatentPrior
from dreamlift.priors.parts import FolderParts
from dreamlift.prompts import FourViews, embed_prompt
from dreamlift.types import TextStates


@pytest.fixture(scope="module", params=[True, False], ids=["with T5", "without T5"])
def third(request, tmp_path_factory):
    """(folder, stock pipeline) of Stable Diffusion 3's shape."""
    pipe = third_pipeline(request.param)
    folder = tmp_path_factory.mktemp("third") / "model"
    pipe.save_pretrained(folder)
    return folder, pipe


@pytest.fixture(scope="module", params=[True, False], ids=["dev", "schnell"])
def flux(request, tmp_path_factory):
    """(folder, stock pipeline) of FLUX.1's shape; [dev] is told a guidance scale."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        t5 = T5EncoderModel(T5Config(vocab_size=16, d_model=40, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).eval()
        transformer = FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=40, pooled_projection_dim=16, guidance_embeds=request.param, axes_dims_rope=(2, 2, 4),
        )  # fmt: skip
        pipe = FluxPipeline(
            FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), autoencoder(4, shift_factor=0.1, scaling_factor=0.4),
            clip(16, 2), tokenizer(), t5, tokenizer(), transformer,
        )  # fmt: skip
    folder = tmp_path_factory.mktemp("flux") / "model"
    pipe.save_pretrained(folder)
    return folder, pipe


def test_pooled_states_go_with_the_states():
    """Through the mixing of phrases, Perp-Neg's negatives and the stack that a guided prediction needs."""
    texts: list[str] = []

    def embed_text(prompts: list[str]) -> TextStates:
        texts.extend(prompts)
        rng = torch.Generator().manual_seed(0)
        return TextStates(torch.randn(len(prompts), 5, 8, generator=rng), torch.randn(len(prompts), 3, generator=rng))

    embeds = embed_prompt("a mug", "blurry", FourViews(perp_neg=1.0), embed_text)
    states, pooled = embed_text(list(texts))
    row = {text: number for number, text in enumerate(texts[: len(texts) // 2])}
    front, side = row["a mug, front view"], row["a mug, side view"]
    cond = embeds.at(orbit_cameras(torch.tensor([math.pi / 6, 0.0]), *torch.tensor([[0.0, 0.0], [2.0, 2.0], [0.8, 0.8]]), 8))
    for mixed, known in ((cond.prompt_embeds, states), (cond.pooled_prompt_embeds, pooled)):
        close(mixed[0], 2 / 3 * known[front] + 1 / 3 * known[side])  # at 30 degrees
        close(mixed[1], known[front])
    stack = stack_text(cond, 5.0)
    for got, known in zip(stack, (states, pooled), strict=True):
        blurry, perp = known[[row["blurry"]] * 2], known[[front, front, side, side]]
        close(got, torch.cat([blurry, 2 / 3 * known[[front]] + 1 / 3 * known[[side]], known[[front]], perp]))
    assert cond.empty_pooled_prompt_embeds is not None
    assert torch.equal(cond.empty_pooled_prompt_embeds, pooled[[row[""]] * 2])
    plain = replace(cond, perp_embeds=None)
    for scale, expected in ((0.0, cond.negative_pooled_prompt_embeds), (1.0, cond.pooled_prompt_embeds)):
        assert torch.equal(stack_text(plain, scale).pooled, expected)
    noise = torch.randn(8, 4, 2, 2)
    parts = noise.view(4, 2, 4, 2, 2)
    close(combine(noise, cond, 5.0), perp_neg(parts[0], parts[1], parts[2:].transpose(0, 1), cond.perp_weights, 5.0))


@torch.no_grad()
def test_xl_reads_prompts_and_predicts_as_the_stock_pipeline(xl):
    folder, pipe = xl
    prior = load_prior(folder, CPU)
    assert isinstance(prior, LatentPrior)
    assert prior.resolution == 16
    text = prior.embed_text(PROMPTS)
    wanted, empty, pooled, nothing = pipe.encode_prompt(PROMPTS[0], device=CPU, do_classifier_free_guidance=True)
    states, mine = text
    close(states[:1], wanted)
    close(mine[:1], pooled)
    close(states[1:2], empty)  # zeros, as its settings say
    close(mine[1:2], nothing)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([0.5])
    ids = torch.tensor([[16, 16, 0, 0, 16, 16]]).float()  # as the pipeline makes them for a picture of its own size

    def noise(text: torch.Tensor, pool: torch.Tensor) -> torch.Tensor:
        added = {"text_embeds": pool, "time_ids": ids}
        return pipe.unet(x, torch.tensor([500]), encoder_hidden_states=text, added_cond_kwargs=added).sample

    one, none = noise(wanted, pooled), noise(empty, nothing)
    close(prior.predict_noise(x, t, conditioned(text, [0], [1]), 1.0), one)
    close(prior.predict_noise(x, t, conditioned(text, [0], [1]), 5.0), none + 5.0 * (one - none))


def test_vsd_adapts_xl(xl):
    prior = load_prior(xl[0], CPU)
    loss, text = VSD(1.0, 0.3, 0.6), prior.embed_text(PROMPTS)
    state = loss.init(prior, torch.Generator().manual_seed(0))
    latents = prior.encode(torch.rand(1, 16, 16, 3)).requires_grad_()
    out = loss(prior, latents, conditioned(text, [0], [1]), 0.0, torch.Generator().manual_seed(1), state)
    out.loss.backward()
    assert out.learning is not None
    out.learning.backward()
    assert float(latents.grad.abs().max()) < 1e-4  # the LoRA says what the prior says, so far
    assert any(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in state.parameters())


@torch.no_grad()
def test_the_third_reads_prompts_and_predicts_as_the_stock_pipeline(third):
    folder, pipe = third
    prior = load_prior(folder, CPU)
    assert isinstance(prior, FlowPrior)
    text = prior.embed_text(PROMPTS)
    states, mine = text
    for i, prompt in enumerate(PROMPTS):
        wanted, _, pooled, _ = pipe.encode_prompt(prompt, None, None, device=CPU, do_classifier_free_guidance=False)
        close(states[i : i + 1], wanted)
        close(mine[i : i + 1], pooled)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 0.7])
    cond = conditioned(text, [0, 2], [1, 1])
    velocity = pipe.transformer(
        x, encoder_hidden_states=states[[0, 2]], pooled_projections=mine[[0, 2]], timestep=t * 1000
    ).sample
    eps_hat, (alpha, sigma) = prior.predict_noise(x, t, cond, 1.0), prior.schedule(t)
    close((x - sigma * eps_hat) / alpha, x - sigma * velocity)  # one Euler step of the flow, from t to 0
    guided = prior.predict_noise(x, t, cond, 4.0)
    none = prior.predict_noise(x, t, conditioned(text, [1, 1], [1, 1]), 1.0)
    close(guided, none + 4.0 * (eps_hat - none))


def test_the_third_encodes_as_its_autoencoder_wants_and_teaches(third):
    folder, pipe = third
    prior, picture = load_prior(folder, CPU), torch.rand(1, 16, 16, 3)
    shifted = (pipe.vae.encode(picture.movedim(-1, 1) * 2 - 1).latent_dist.mean - 0.06) * 1.3
    close(prior.encode(picture), shifted)
    back = pipe.vae.decode(shifted / 1.3 + 0.06).sample.movedim(1, -1) * 0.5 + 0.5
    close(prior.decode(shifted), back.clamp(0, 1))
    text = prior.embed_text(PROMPTS)
    rgb = picture.requires_grad_()
    out = RFDS(3.0)(prior, prior.encode(rgb), conditioned(text, [0], [1]), 0.0, torch.Generator().manual_seed(0), None)
    out.loss.backward()
    assert rgb.grad is not None
    assert float(rgb.grad.abs().sum()) > 0
    with pytest.raises(ValueError, match="use another loss, such as --guidance"):
        VSD().init(prior, torch.Generator())


@torch.no_grad()
def test_flux_reads_prompts_and_predicts_as_the_stock_pipeline(flux):
    folder, pipe = flux
    dev = pipe.transformer.config.guidance_embeds
    prior = load_prior(folder, CPU)
    assert isinstance(prior, FlowPrior)
    assert prior.resolution == 256
    text = prior.embed_text(PROMPTS)
    states, mine = text
    for i, prompt in enumerate(PROMPTS):
        wanted, pooled, _ = pipe.encode_prompt(prompt, device=CPU, max_sequence_length=512 if dev else 256)
        close(states[i : i + 1], wanted)
        close(mine[i : i + 1], pooled)
    # One step of the stock pipeline, guided by two answers, ends at t = 0: where our x0 is.
    x = torch.randn(1, 4, 8, 12)
    told = {"guidance_scale": 1.0, "true_cfg_scale": 4.0, "negative_prompt": "a mug", "sigmas": [0.6]}
    pipe.scheduler.register_to_config(use_dynamic_shifting=False)  # or it would take another time than the one given
    out = pipe(
        "a red mug", height=16, width=24, num_inference_steps=1, latents=pipe._pack_latents(x, 1, 4, 8, 12),
        max_sequence_length=512 if dev else 256, output_type="latent", **told,
    ).images  # fmt: skip
    t = torch.tensor([0.6])
    eps_hat, (alpha, sigma) = prior.predict_noise(x, t, conditioned(text, [0], [2]), 4.0), prior.schedule(t)
    close((x - sigma * eps_hat) / alpha, pipe._unpack_latents(out, 16, 24, 2))
    assert float((x - sigma * eps_hat - alpha * x).abs().max()) > 0.01


def test_flux_teaches_and_other_transformers_are_named(flux, tmp_path):
    prior = load_prior(flux[0], CPU)
    prior.autoencoder.resolution = 16
    rgb, text = torch.rand(1, 16, 16, 3, requires_grad=True), prior.embed_text(PROMPTS)
    out = RFDS(3.0)(prior, prior.encode(rgb), conditioned(text, [0], [1]), 0.0, torch.Generator().manual_seed(0), None)
    out.loss.backward()
    assert rgb.grad is not None
    assert float(rgb.grad.abs().sum()) > 0
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "PixArtTransformer2DModel"}')
    with pytest.raises(ValueError, match="is 'PixArtTransformer2DModel'; accepted: SD3Transformer2DModel, Flux"):
        FlowPrior(FolderParts(tmp_path), CPU, torch.float32)


@pytest.mark.parametrize(("said", "expected"), [(True, torch.float32), (None, torch.float16), (False, torch.float16)])
def test_an_autoencoder_runs_in_full_precision_where_its_settings_ask_for_it(tmp_path, said, expected):
    """Those of Stable Diffusion 1.x and 2.x say nothing: they were published before the question came up."""
    autoencoder(4).save_pretrained(tmp_path / "vae")
    file = tmp_path / "vae" / "config.json"
    settings = json.loads(file.read_text())
    del settings["force_upcast"]
    file.write_text(json.dumps(settings if said is None else {**settings, "force_upcast": said}))
    found = Autoencoder(FolderParts(tmp_path), CPU, torch.float16, 8)
    assert found.dtype == next(found.vae.parameters()).dtype == expected
