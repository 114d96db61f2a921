"""MVDream's prior against its network in plain torch (attention by hand) and against a stock U-Net, at small size."""

import json
from dataclasses import replace

import pytest
import torch
from mvdream_helpers import PUBLISHED, TINY, Original, save_port
from safetensors.torch import load_file, save_file
from stage_helpers import begun

from dreamlift.cameras import CameraSampler, turntable
from dreamlift.guidance import GUIDANCE
from dreamlift.guidance.base import draw_t
from dreamlift.guidance.reconstruction import Reconstruction
from dreamlift.guidance.sds import SDS
from dreamlift.guidance.vsd import VSD
from dreamlift.presets import PRESETS
from dreamlift.presets.toybox import TOYBOX
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.lora.original_names import stock_keys
from dreamlift.priors.mvdream import MVDreamPrior, camera_matrices, join_views, load_network, stock_settings
from dreamlift.system.streams import random_stream
from dreamlift.types import Conditioning, LoraFile

CPU = torch.device("cpu")
ELEVATION = 15.0
COS, SIN = 0.9659258, 0.2588190  # of 15 degrees


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """(folder as the public port's, its network in plain torch)."""
    folder = tmp_path_factory.mktemp("port") / "model"
    folder.mkdir()
    return folder, save_port(folder)


@pytest.fixture(scope="module")
def prior(port):
    return load_prior(port[0], CPU)


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def views(count=4):
    """Latents, times (shared by an object), text and cameras of ``count`` pictures."""
    rng = torch.Generator().manual_seed(3)
    cameras = CameraSampler(views=count, orbit=4)(0.0, rng)
    t = (0.2 + 0.6 * torch.rand(count // 4, generator=rng)).repeat_interleave(4)
    text = torch.randn(2, count, 7, 16, generator=rng)
    return torch.randn(count, 4, 8, 8, generator=rng), t, Conditioning(text[0], text[1], cameras=cameras)


def test_cameras_are_told_as_the_published_code_does():
    """Rows of MVDream's ``get_camera(4, elevation=15, azimuth_start=90)``, worked out by hand."""
    front = [[0, -SIN, COS, COS], [1, 0, 0, 0], [0, COS, SIN, SIN], [0, 0, 0, 1]]
    left = [[-1, 0, 0, 0], [0, -SIN, COS, COS], [0, COS, SIN, SIN], [0, 0, 0, 1]]
    told = camera_matrices(turntable(4, elevation_deg=ELEVATION, distance=2.7))
    assert told.shape == (4, 16)
    close(told[0], torch.tensor(front, dtype=torch.float32).flatten())
    close(told[1], torch.tensor(left, dtype=torch.float32).flatten())


@torch.no_grad()
def test_the_network_predicts_as_the_original(port, prior):
    network = port[1]
    assert isinstance(prior, MVDreamPrior)
    assert (prior.views, prior.resolution) == (4, 16)
    x, t, cond = views(8)
    steps, cameras = (t * 999).round().long(), camera_matrices(cond.cameras)
    wanted = network(x, steps, cond.prompt_embeds, cameras, 4)
    empty = network(x, steps, cond.negative_prompt_embeds, cameras, 4)
    assert float((wanted - empty).abs().mean()) > 1e-2
    close(prior.predict_noise(x, t, cond, 1.0), wanted)
    close(prior.predict_noise(x, t, cond, 5.0), empty + 5.0 * (wanted - empty))
    # what the comparison would miss if views or cameras had no effect
    assert float((network(x, steps, cond.prompt_embeds, cameras, 1) - wanted).abs().mean()) > 1e-3
    assert float((network(x, steps, cond.prompt_embeds, 0 * cameras, 4) - wanted).abs().mean()) > 1e-3


def test_the_published_size_has_stable_diffusions_layers():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        original, stock = Original(PUBLISHED), UNet2DConditionModel(**stock_settings(PUBLISHED))
    names = stock_keys(stock)
    got = {names[name]: value.shape for name, value in original.state_dict().items()}
    assert got == {name: value.shape for name, value in stock.state_dict().items()}
    # 865,910,724 of Stable Diffusion 2.1, and the MLP of 16 -> 1280 -> 1280
    assert sum(shape.numel() for shape in got.values()) == 865_910_724 + 17 * 1280 + 1281 * 1280


@torch.no_grad()
def test_one_view_without_a_camera_is_the_stock_network(port):
    from diffusers import UNet2DConditionModel

    network = load_network(port[0] / "unet", torch.float32)
    for weight in network.class_embedding.parameters():
        weight.zero_()
    settings = {name: value for name, value in stock_settings(TINY).items() if "class_embed" not in name}
    stock = UNet2DConditionModel(**settings)
    stock.load_state_dict({name: v for name, v in network.state_dict().items() if not name.startswith("class_embedding")})
    x, t, cond = views()
    expected = stock(x, t * 999, cond.prompt_embeds).sample
    join_views(network, 1)
    close(network(x, t * 999, cond.prompt_embeds, class_labels=torch.randn(4, 16)).sample, expected)
    join_views(network, 4)
    assert (
        float((network(x, t * 999, cond.prompt_embeds, class_labels=torch.randn(4, 16)).sample - expected).abs().max()) > 0.01
    )


@torch.no_grad()
def test_views_see_each_other_and_no_other_object(prior):
    x, t, cond = views(8)
    before = prior.predict_noise(x, t, cond, 1.0)
    x[1] += 1.0
    change = (prior.predict_noise(x, t, cond, 1.0) - before).abs().amax((1, 2, 3))
    assert bool((change[:4] > 1e-3).all())
    assert float(change[4:].max()) < 1e-5


@torch.no_grad()
def test_permuted_views_give_permuted_answers(prior):
    x, t, cond = views()
    order = torch.tensor([2, 0, 3, 1])
    mixed = Conditioning(cond.prompt_embeds[order], cond.negative_prompt_embeds[order], cameras=cond.cameras[order])
    expected = prior.predict_noise(x, t, cond, 3.0)[order]
    close(prior.predict_noise(x[order], t, mixed, 3.0), expected)


@torch.no_grad()
def test_only_self_attention_is_joint(port):
    network = load_network(port[0] / "unet", torch.float32)
    for name, weight in network.named_parameters():
        if ".attn1.to_out" in name:
            weight.zero_()
    x, t, cond = views()
    cameras = camera_matrices(cond.cameras)
    alone = [
        network(x[i : i + 1], t[i] * 999, cond.prompt_embeds[i : i + 1], class_labels=cameras[i : i + 1]) for i in range(4)
    ]
    join_views(network, 4)
    together = network(x, t * 999, cond.prompt_embeds, class_labels=cameras).sample
    close(together, torch.cat([out.sample for out in alone]))


def test_what_it_cannot_work_with_is_refused(prior, port):
    x, t, cond = views()
    with pytest.raises(ValueError, match=r"4 views of an object together.*given 3 pictures with their cameras"):
        prior.predict_noise(x[:3], t[:3], cond, 1.0)
    with pytest.raises(ValueError, match=r"given 4 pictures with no cameras"):
        prior.predict_noise(x, t, replace(cond, cameras=None), 1.0)
    with pytest.raises(ValueError, match="leave camera_conditioning on"):
        load_prior(PriorChoice(str(port[0]), camera_conditioning=False), CPU)
    with pytest.raises(ValueError, match="use --guidance"):
        VSD().init(prior, torch.Generator())
    with pytest.raises(ValueError, match=r"cameras.orbit is 1, but this prior denoises 4 views"):
        begun(replace(TOYBOX, prompt="a mug"), prior)


NOT_AS_PUBLISHED = r"config.json differs from MVDream's published config"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config, weights: config.pop("channel_mult"), f"{NOT_AS_PUBLISHED}: 'channel_mult'"),
        (lambda config, weights: config.update(num_res_blocks=[2, 2, 2]), NOT_AS_PUBLISHED),
        (lambda config, weights: weights.pop("out.2.bias"), "1 of them are missing, unknown or .* such as conv_out.bias"),
        (lambda config, weights: weights.update({"image_embed.latents": torch.zeros(1)}), "such as image_embed.latents"),
        (lambda config, weights: weights.update({"out.2.bias": torch.zeros(8)}), "of another shape, such as conv_out.bias"),
        (lambda config, weights: weights.clear(), r"no .safetensors weights"),
    ],
)
def test_other_layouts_are_refused_in_one_line(port, tmp_path, change, message):
    config, weights = dict(TINY), load_file(port[0] / "unet" / "diffusion_pytorch_model.safetensors")
    change(config, weights)
    (tmp_path / "config.json").write_text(json.dumps(config))
    if weights:
        save_file(weights, tmp_path / "weights.safetensors")
    else:
        (tmp_path / "weights.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=message) as caught:
        load_network(tmp_path, torch.float32)
    assert "\n" not in str(caught.value)


def test_broken_files_are_named(port, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not valid JSON"):
        load_network(tmp_path, torch.float32)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    whole = (port[0] / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half.safetensors is cut off \(.* bytes\): fetch it again"):
        load_network(tmp_path, torch.float32)


def test_views_of_an_object_share_their_time(prior):
    rng, latents = torch.Generator().manual_seed(0), torch.zeros(8, 4, 2, 2)
    t = draw_t(prior, latents, 0.1, 0.9, 0.0, rng).view(2, 4)
    assert bool((t == t[:, :1]).all())
    assert float((t[0] - t[1]).abs().min()) > 0.0
    one_by_one = GaussianPrior(torch.zeros(1, 1, 1, 1), torch.ones(1))
    assert len(draw_t(one_by_one, latents, 0.1, 0.9, 0.0, rng).unique()) == 8


@torch.no_grad()
def test_the_reconstruction_loss_rescales_object_by_object(prior):
    x, _, cond = views(8)
    out = Reconstruction(5.0, 0.5, 0.3, 0.8)(prior, x, cond, 0.0, torch.Generator().manual_seed(0), None)
    alpha, sigma = prior.schedule(out.t)
    rng = torch.Generator().manual_seed(0)
    torch.rand(2, generator=rng)
    x_t = alpha * x + sigma * torch.randn(x.shape, generator=rng)
    guided, plain = ((x_t - sigma * prior.predict_noise(x_t, out.t, cond, s)) / alpha for s in (5.0, 1.0))
    for own in (slice(0, 4), slice(4, 8)):
        close(out.x0[own], 0.5 * guided[own] + 0.5 * guided[own] * plain[own].std() / guided[own].std())


@pytest.mark.parametrize("loss", ["preset", "sds"])
def test_two_steps_of_the_preset(prior, loss):
    full = PRESETS["mvdream"]
    (stage,) = full.stages
    (teacher,) = stage.teachers
    cameras, scene = replace(stage.cameras, resolution=(8, 12)), replace(stage.scene, samples_per_ray=32)
    teacher = teacher if loss == "preset" else replace(teacher, guidance=SDS(50.0))
    stage = replace(stage, steps=2, cameras=cameras, scene=scene, teachers=(teacher,))
    work = begun(replace(full, prompt="a mug", negative="", stages=(stage,)), prior)
    before = [parameter.detach().clone() for parameter in work.scene.parameters()]
    steps = [work.step() for _ in range(2)]
    assert work.finished
    assert [(step.cameras.width, step.note) for step in steps] == [(8, ""), (12, "")]
    for step in steps:
        (out,) = step.guidance
        assert len(out.t.unique()) == len(step.cameras.elevation.unique()) == 1
        assert step.terms["grad_norm"] > 0.0
    assert any(not torch.equal(a, b) for a, b in zip(before, work.scene.parameters(), strict=True))


def test_the_presets_cameras_are_its_rows():
    sampler = PRESETS["mvdream"].stages[0].cameras
    assert (sampler(0.49, random_stream()).width, sampler(0.5, random_stream()).width) == (64, 256)
    for seed in range(20):
        cameras = sampler(0.0, random_stream(seed))
        shown = cameras.distance * torch.tan(torch.atan(0.5 * cameras.height / cameras.K[:, 1, 1]))
        assert len(shown.unique()) == 1
        assert 0.8 - 1e-4 <= float(shown[0]) <= 1.0 + 1e-4


@pytest.mark.parametrize("name", sorted(GUIDANCE.keys() - {"vsd"}))
def test_every_loss_but_vsds_runs_on_it(prior, name):
    x, _, cond = views()
    x.requires_grad_()
    loss, rng = GUIDANCE[name](), torch.Generator().manual_seed(0)
    loss(prior, x, cond, 0.5, rng, loss.init(prior, rng)).loss.backward()
    assert bool((x.grad.abs().amax((1, 2, 3)) > 0).all())


@torch.no_grad()
def test_the_negative_prompt_alone_is_told_the_camera_too(prior):
    x, t, cond = views()
    swapped = replace(cond, prompt_embeds=cond.negative_prompt_embeds)
    close(prior.predict_noise(x, t, cond, 0.0), prior.predict_noise(x, t, swapped, 1.0))


@torch.no_grad()
def test_a_lora_is_added_to_its_layers(port, tmp_path):
    """By the names that trainers of Stable Diffusion 2 use, which are not the port's."""
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    before = load_prior(port[0], CPU).network.unet.get_submodule(name).weight
    down, up = torch.randn(2, before.shape[1]), torch.randn(before.shape[0], 2)
    key = f"lora_unet_{name.replace('.', '_')}"
    file = tmp_path / "style.safetensors"
    save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.0)}, file)
    prior = load_prior(PriorChoice(str(port[0]), loras=(LoraFile(str(file), 0.6),)), CPU)
    torch.testing.assert_close(prior.network.unet.get_submodule(name).weight, before + 0.3 * up @ down)
