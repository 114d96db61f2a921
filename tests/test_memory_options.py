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
from big_helpers import CPU, conditioned, third_pipeline
from lift_helpers import generate_words, run_main, small_pictures, taught
from memory_helpers import saved_bytes
from mvdream_helpers import save_port

from dreamlift.cameras import CameraSampler
from dreamlift.guidance.vsd import VSD
from dreamlift.lifting import load, resolve
from dreamlift.presets import PRESETS
from dreamlift.presets.toybox import FIELD
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.parts import FolderParts
from dreamlift.priors.saving import Memory
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.system.streams import random_stream


def close(got, expected_):
    torch.testing.assert_close(got, expected_, atol=1e-4, rtol=1e-3)


def near(got, expected_):
    """Equal but for rounding of the largest values: guidance makes small differences of large ones."""
    size = float(expected_.abs().max())
    assert size > 1e-3
    torch.testing.assert_close(got, expected_, atol=1e-4 * size, rtol=0)


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


def watched(network):
    """The sizes of the batches that a network is called with from now on, and the handle that ends it."""
    batches = []
    return batches, network.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))


def asked(prior: Any, text):
    """Guided predictions for two pictures with Perp-Neg, their gradient, and the batches that the network saw."""
    batches, hook = watched(prior.transformer if hasattr(prior, "transformer") else prior.network.unet)
    with torch.no_grad():
        latents = prior.encode(torch.rand(2, 16, 16, 3, generator=random_stream("pictures")))
    latents.requires_grad_()
    others = None if text.pooled is None else text.pooled[[2, 0]][:, None]
    cond = replace(
        conditioned(text, [0, 2], [1, 1]), perp_embeds=text.states[[2, 0]][:, None], perp_weights=torch.full((2, 1), -0.5),
        perp_pooled_embeds=others,
    )  # fmt: skip
    noise = prior.predict_noise(latents, torch.tensor([0.3, 0.7]), cond, 5.0)
    noise.square().sum().backward()
    hook.remove()
    return noise.detach(), latents.grad, batches


# 2 pictures x (negative, prompt, one of Perp-Neg) are 6 for the network
@pytest.mark.parametrize(("size", "expected"), [(1, [1] * 6), (2, [2] * 3), (4, [4, 2]), (5, [5, 1]), (9, [6])])
def test_micro_batches(folder, size, expected):
    plain, low = (loaded(folder, CPU, memory=Memory(micro_batch=number)) for number in (0, size))
    text = plain.embed_text(["a red mug", "", "a mug"])
    (whole, gradient, together), (parts, gradient_parts, apart) = asked(plain, text), asked(low, text)
    assert (together, apart) == ([6], expected)
    close(parts, whole)
    near(gradient_parts, gradient)
    if hasattr(low, "autoencoder"):
        assert low.autoencoder.vae.use_slicing
        assert not plain.autoencoder.vae.use_slicing


@pytest.mark.parametrize(("size", "expected"), [(1, [1] * 3), (2, [2, 1])])
def test_micro_batches_of_an_adapted_network(xl_folder, size, expected):
    answers = []
    for number in (0, size):
        prior = loaded(xl_folder, CPU, memory=Memory(micro_batch=number))
        state = prior.adapted(4, "attention", random_stream("lora"))
        rng = random_stream("weights")
        with torch.no_grad():
            for parameter in state.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
        text, cameras = prior.embed_text(["a red mug", "", "a mug"]), CameraSampler(views=3)(0.0, rng)
        cond = replace(conditioned(text, [0, 2, 0], [1, 1, 1]), cameras=cameras)
        batches, _ = watched(state.lora.holder[0])
        noise = state.predict_noise(torch.randn(3, 4, 8, 8, generator=rng), torch.tensor([0.1, 0.4, 0.8]), cond)
        noise.square().sum().backward()
        answers.append((noise.detach(), [p.grad for p in state.parameters() if p.grad is not None], batches))
    (whole, gradients, together), (parts, gradients_parts, apart) = answers
    assert (together, apart) == ([3], expected)
    close(parts, whole)
    assert len(gradients) == len(gradients_parts) > 4
    for one, other in zip(gradients, gradients_parts, strict=True):
        near(other, one)


def test_micro_batches_are_not_negative():
    with pytest.raises(ValueError, match="micro_batch is -1; accepted: 0"):
        Memory(micro_batch=-1)


def test_views_that_see_each_other_stay_together(tmp_path):
    save_port(tmp_path)
    rng = random_stream("views")
    cameras = CameraSampler(views=8, orbit=4)(0.0, rng)
    prior, results = load_prior(tmp_path, CPU), []
    assert prior.views == 4
    text, times = prior.embed_text(["a red mug", ""]), torch.tensor([0.3, 0.7]).repeat_interleave(4)
    x = torch.randn(8, *prior.encode(torch.rand(1, 16, 16, 3)).shape[1:], generator=rng)
    for size in (0, 1, 4, 7, 8, 12, 30):
        prior = loaded(tmp_path, CPU, memory=Memory(micro_batch=size))
        batches, _ = watched(prior.network.unet)
        cond = replace(conditioned(text, [0] * 8, [1] * 8), cameras=cameras)
        with torch.no_grad():
            results.append((prior.predict_noise(x, times, cond, 5.0), batches))
    for noise, _ in results[1:]:
        close(noise, results[0][0])
    fours, eights = [4] * 4, [8] * 2
    assert [batches for _, batches in results] == [[16], fours, fours, fours, eights, [12, 4], [16]]
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
    (parts, gradient_parts, _), (whole, gradient, _) = asked(low, text), asked(plain, text)
    close(parts, whole)
    near(gradient_parts, gradient)
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
        cond = conditioned(text, [0, 0], [1, 1])
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
        scene = Nerf(field, samples_per_ray=16, chunk_rays=at_once).build(random_stream("scene")).train()
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
    loaded, alive = [], []
    original = FolderParts.network

    def network(self, part, *more):
        gc.collect()
        alive.append([name for name, found in loaded if found() is not None])
        found = original(self, part, *more)
        loaded.append((part, weakref.ref(found)))
        return found

    monkeypatch.setattr(FolderParts, "network", network)
    job = load(
        resolve(taught(replace(PRESETS["toybox-field"], prompt="a red mug", engine="torch"), prior=PriorChoice(str(stub))))
    )
    assert [name for name, _ in loaded] == ["text_encoder", "unet"]
    assert alive == [[], []]
    assert loaded[1][1]() is job.work.ready.priors[0].network.unet
