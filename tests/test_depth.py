"""Depth of photos: orientation, scaling and preparation, against hand-worked values and with tiny random networks."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
)

from dreamlift.images import depth as depths
from dreamlift.images.depth import Preparation, estimate_depth, load_depth_model
from dreamlift.types import Pictures


def pictures(count=2, side=40):
    rgb = torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(3))
    alpha = torch.zeros(count, side, side, 1)
    alpha[:, 8:32, 10:30] = 1.0
    return Pictures(rgb, alpha)


def depth_anything(folder, kind="relative"):
    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14, out_features=stages,
        reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=8, depth_estimation_type=kind, max_depth=20,
    )  # fmt: skip
    network = DepthAnythingForDepthEstimation(config)
    with torch.no_grad():  # a random network's answers differ by less than 1e-6 over a picture, or are cut off at 0
        for name, value in network.head.named_parameters():
            value.copy_(200 * value if name.endswith("weight") else value + 1)
    network.save_pretrained(folder)
    settings = {"size": {"height": 30, "width": 30}, "ensure_multiple_of": 14, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return str(folder)


class Fixed(torch.nn.Module):
    """Answers with the input's red channel, and keeps its inputs."""

    dtype = torch.float32

    def __init__(self, **config):
        super().__init__()
        self.config, self.seen = SimpleNamespace(**{"model_type": "depth_anything", **config}), []

    def forward(self, pixel_values):
        self.seen.append(pixel_values)
        return SimpleNamespace(predicted_depth=pixel_values[:, 0])


def answered(monkeypatch, given, **config):
    network = Fixed(**config)
    side = given.rgb.shape[1]
    monkeypatch.setattr(depths, "load_depth_model", lambda model: (network, Preparation(side, (0.0,) * 3, (1.0,) * 3)))
    return estimate_depth(given, "model"), network


@pytest.mark.parametrize(("config", "sign"), [
    ({}, -1), ({"depth_estimation_type": "relative"}, -1), ({"depth_estimation_type": "metric"}, 1),
    ({"model_type": "dpt"}, -1), ({"model_type": "zoedepth"}, 1), ({"model_type": "depth_pro"}, 1), ({"model_type": "glpn"}, 1),
])  # fmt: skip
def test_inverse_depth_is_turned_round_and_depth_is_not(monkeypatch, config, sign):
    given = pictures()
    found, _ = answered(monkeypatch, given, **config)
    for b in range(2):
        inside = given.alpha[b, ..., 0] == 1
        red, own = given.rgb[b, ..., 0][inside], found[b, ..., 0][inside]
        assert float(torch.corrcoef(torch.stack([red, own]))[0, 1]) == pytest.approx(sign, abs=1e-4)
        assert (float(own.min()), float(own.max())) == (0.0, 1.0)
        assert bool((found[b, ..., 0][~inside] == 0).all())


def test_the_object_is_shown_over_white(monkeypatch):
    given = pictures()
    _, network = answered(monkeypatch, given)
    for picture, seen in zip(given.rgb, network.seen, strict=True):
        wanted = picture.clone()
        wanted[:8] = wanted[32:] = wanted[:, :10] = wanted[:, 30:] = 1.0
        torch.testing.assert_close(seen[0].movedim(0, -1), wanted, atol=1e-5, rtol=0)


def test_a_flat_answer_has_no_depth_and_is_finite(monkeypatch):
    given = pictures()
    given.rgb[:] = 0.5
    found, _ = answered(monkeypatch, given)
    assert bool((found == 0).all())


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_a_depth_anything_network_is_read_and_asked_as_its_files_say(tmp_path, kind):
    folder, given = depth_anything(tmp_path / "model", kind), pictures()
    network, preparation = load_depth_model(folder)
    assert preparation == Preparation(28, (0.5,) * 3, (0.25,) * 3)  # the largest multiple of 14 up to 30
    found = estimate_depth(given, folder)
    over = (given.rgb * given.alpha + 1 - given.alpha).movedim(-1, 1)
    x = torch.nn.functional.interpolate(over, (28, 28), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        answer = network(pixel_values=(x - 0.5) / 0.25).predicted_depth[:, None]
    answer = torch.nn.functional.interpolate(answer, (40, 40), mode="bilinear")[:, 0]
    for b in range(2):
        wanted, own = answer[b, 8:32, 10:30], found[b, 8:32, 10:30, 0]
        wanted = wanted if kind == "metric" else -wanted
        torch.testing.assert_close(own, (wanted - wanted.min()) / (wanted.max() - wanted.min()), atol=1e-3, rtol=0)


def test_a_network_without_a_preprocessor_gets_the_usual_one(tmp_path):
    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        is_hybrid=False, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
    )  # fmt: skip
    DPTForDepthEstimation(config).save_pretrained(tmp_path)
    network, preparation = load_depth_model(str(tmp_path))
    assert network.config.model_type == "dpt"
    assert preparation == Preparation(512)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", ["nobody/nothing", "missing-folder", ""])
def test_a_model_that_is_not_there_is_one_line(name):
    with pytest.raises(ValueError, match=r"cannot be loaded .*; give the folder or hub name of one with \.safetensors") as caught:
        load_depth_model(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_pickled_weights_are_not_read(tmp_path):
    folder = depth_anything(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_depth_model(folder)
