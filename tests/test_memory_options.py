"""Options that need less memory change nothing else, and are on where they are asked for."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from big_helpers import CPU, third_pipeline
from lift_helpers import generate_words, run_main, small_pictures
from memory_helpers import saved_bytes
from mvdream_helpers import save_port

from dreamlift.cameras import CameraSampler
from dreamlift.guidance.vsd import VSD
from dreamlift.lifting import prepare
from dreamlift.optimize import random_stream
from dreamlift.presets.toybox import FIELD
from dreamlift.priors import load_prior
from dreamlift.priors.footprint import footprint
from dreamlift.priors.saving import Memory
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.types import Conditioning


def close(got, expected_):
    torch.testing.assert_close(got, expected_, atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A folder of Stable Diffusion 3's shape."""
    folder = tmp_path_factory.mktemp("flow") / "model"
    third_pipeline(True).save_pretrained(folder)
    return folder


@pytest.fixture(params=["xl", "third", "stub"])
def folder(request, stub, xl_folder, flow):
    return {"stub": stub, "xl": xl_folder, "third": flow}[request.param]


def loaded(*args, **options) -> Any:
    return load_prior(*args, **options)


def asked(prior: Any, text):
    """Guided predictions for two pictures with Perp-Neg, and the batches that the network saw."""
    network = prior.transformer if hasattr(prior, "transformer") else prior.network.unet
    batches = []
    hook = network.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    latents = prior.encode(torch.rand(2, 16, 16, 3, generator=random_stream("pictures")))
    cond = Conditioning(text[[0, 2]], text[[1, 1]], text[[2, 0]][:, None], torch.full((2, 1), -0.5))
    with torch.no_grad():
        noise = prior.predict_noise(latents, torch.tensor([0.3, 0.7]), cond, 5.0)
    hook.remove()
    return noise, batches


def test_one_by_one(folder):
    plain, low = (loaded(folder, CPU, memory=Memory(micro_batch=int(on))) for on in (False, True))
    text = plain.embed_text(["a red mug", "", "a mug"])
    (whole, together), (parts, apart) = asked(plain, text), asked(low, text)
    assert (together, apart) == ([6], [1] * 6)
    close(parts, whole)
    if hasattr(low, "autoencoder"):
        assert low.autoencoder.vae.use_slicing
        assert not plain.autoencoder.vae.use_slicing


def test_views_that_see_each_other_stay_together(tmp_path):
    save_port(tmp_path)
    assert footprint(tmp_path).together == 4
    rng = random_stream("views")
    cameras = CameraSampler(views=8, orbit=4)(0.0, rng)
    prior, results = load_prior(tmp_path, CPU), []
    text, times = prior.embed_text(["a red mug", ""]), torch.tensor([0.3, 0.7]).repeat_interleave(4)
    x = torch.randn(8, *prior.encode(torch.rand(1, 16, 16, 3)).shape[1:], generator=rng)
    for on in (False, True):
        prior = loaded(tmp_path, CPU, memory=Memory(micro_batch=int(on)))
        batches = []
        prior.network.unet.register_forward_pre_hook(lambda _, args, batches=batches: batches.append(len(args[0])))
        cond = Conditioning(text[[0] * 8], text[[1] * 8], cameras=cameras)
        with torch.no_grad():
            results.append((prior.predict_noise(x, times, cond, 5.0), batches))
    close(results[1][0], results[0][0])
    assert [batches for _, batches in results] == [[16], [4] * 4]
    with pytest.raises(ValueError, match=r"leave memory\.attention_slices off"):
        load_prior(tmp_path, CPU, memory=Memory(attention_slices=True))


def test_attention_slices(folder):
    from diffusers.models.attention_processor import SlicedAttnProcessor

    if (folder / "transformer").is_dir():
        with pytest.raises(ValueError, match=r"leave memory\.attention_slices off"):
            load_prior(folder, CPU, memory=Memory(attention_slices=True))
        return
    plain, low = (loaded(folder, CPU, memory=Memory(attention_slices=on)) for on in (False, True))
    text = plain.embed_text(["a red mug", "", "a mug"])
    close(asked(low, text)[0], asked(plain, text)[0])
    assert all(isinstance(kind, SlicedAttnProcessor) for kind in low.network.unet.attn_processors.values())
    assert not any(isinstance(kind, SlicedAttnProcessor) for kind in plain.network.unet.attn_processors.values())


def test_checkpoints_of_the_autoencoder(folder, stub):
    if folder == stub:
        return  # a pixel prior has no autoencoder
    grads, kept = [], []
    for on in (False, True):
        prior = loaded(folder, CPU, memory=Memory(gradient_checkpointing=on))
        rgb = torch.rand(2, 16, 16, 3, generator=random_stream("rgb")).requires_grad_()
        latents, size = saved_bytes(lambda prior=prior, rgb=rgb: prior.encode(rgb))
        back, more = saved_bytes(lambda prior=prior, latents=latents: prior.decode(latents))
        (back.square().sum() + latents.square().sum()).backward()
        grads.append(rgb.grad)
        weights = sum(p.numel() for p in prior.autoencoder.vae.parameters()) * 4
        kept.append((size - weights, more - weights))
    close(grads[1], grads[0])
    assert float(grads[0].abs().max()) > 1e-3
    assert kept[1][0] < kept[0][0]
    assert kept[1][1] < kept[0][1]


def test_checkpoints_of_an_adapted_network_know_its_weights(xl_folder):
    # Computed again with the base's weights, the gradient would be another one.
    grads, kept = [], []
    for on in (False, True):
        prior = load_prior(xl_folder, CPU, memory=Memory(gradient_checkpointing=on))
        text, loss = prior.embed_text(["a red mug", ""]), VSD(1.0, 0.3, 0.6, lora_lr=1.0)
        state = loss.init(prior, random_stream("lora"))
        rng = random_stream("weights")
        with torch.no_grad():
            for parameter in state.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
        latents = torch.randn(2, 4, 8, 8, generator=rng)
        cond = Conditioning(text[[0, 0]], text[[1, 1]])
        error, size = saved_bytes(partial(loss.lora_loss, prior, latents, cond, random_stream("t"), state))
        error.backward()
        kept.append(size)
        grads.append([parameter.grad for parameter in state.parameters() if parameter.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 4
    for one, other in zip(*grads, strict=True):
        close(other, one)
    assert max(float(grad.abs().max()) for grad in grads[0]) > 1e-4
    assert kept[1] < kept[0]


@pytest.mark.parametrize("lit", [False, True])
@pytest.mark.parametrize(
    "field", [Voxel((5, 9), (0.0, 0.0)), Hashgrid(levels=4, log2_rows=8, hidden=8)], ids=["voxel", "hashgrid"]
)
def test_rays_piece_by_piece(field, lit):
    terms = ("sparsity", "distortion", "depth_variance", "orientation", *(["tv"] if isinstance(field, Voxel) else []))
    results = []
    for at_once in (0, 50):
        config = replace(FIELD, scene=Nerf(field, samples_per_ray=16, chunk_rays=at_once))
        scene = config.scene.build(random_stream("scene")).train()
        cameras = replace(FIELD.cameras, resolution=(12,))(0.5, random_stream("cameras"))
        shading = replace(FIELD.lighting, lambertian=1.0)(cameras, 0.5, random_stream("light")) if lit else None
        render, size = saved_bytes(
            lambda scene=scene, cameras=cameras, shading=shading: scene.render(
                cameras, random_stream("rays"), shading, normals=True
            )
        )
        assert render.normal is not None
        raw = scene.regularize(render, 0.5, terms)
        assert set(raw) == set(terms)
        (render.rgb.square().sum() + render.normal.sum() + 10 * sum(raw.values())).backward()
        results.append((render, raw, [parameter.grad for parameter in scene.parameters()], size))
    (whole, terms_whole, grads_whole, size_whole), (parts, terms_parts, grads_parts, size_parts) = results
    for name in ("rgb", "opacity", "depth", "normal"):
        close(getattr(parts, name), getattr(whole, name))
    assert set(parts.aux) == set(whole.aux)
    for name, value in whole.aux.items():
        close(parts.aux[name], value)
    for name, value in terms_whole.items():
        close(terms_parts[name], value)
    for one, other in zip(grads_whole, grads_parts, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-3)
    assert max(float(grad.abs().max()) for grad in grads_whole) > 1e-3
    assert size_parts < 0.5 * size_whole


def test_a_run_with_all_options_makes_the_same(cwd, stub, monkeypatch):
    small_pictures(monkeypatch)
    options = ["--memory.micro_batch=1", "--memory.gradient_checkpointing=true", "--scene.chunk_rays=300"]
    assert run_main(*generate_words(stub, "plain", "--steps=2")) == 0
    assert run_main(*generate_words(stub, "low", "--steps=2", *options)) == 0
    lines = [
        [json.loads(line) for line in (cwd / name / "metrics.jsonl").read_text().splitlines()] for name in ("plain", "low")
    ]
    for one, other in zip(*lines, strict=True):
        assert other == pytest.approx(one, rel=1e-3)


def test_text_encoders_and_networks_are_never_in_memory_together(stub, monkeypatch):
    from dreamlift.priors import network

    loaded, alive = [], []
    original = network.load_part

    def load(kind, folder, *more):
        gc.collect()
        alive.append([name for name, part in loaded if part() is not None])
        part = original(kind, folder, *more)
        loaded.append((folder.name, weakref.ref(part)))
        return part

    monkeypatch.setattr(network, "load_part", load)
    prepare(replace(FIELD, prompt="a red mug", prior=str(stub)))
    assert [name for name, _ in loaded] == ["text_encoder", "unet"]
    assert alive == [[], []]
