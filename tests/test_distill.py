"""Guidance distillation: what the student learns is what a lift would be taught with guidance."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch

from dreamlift import load_prior
from dreamlift.cameras import orbit_cameras
from dreamlift.config.short import override
from dreamlift.guidance.base import denoise
from dreamlift.presets import PRESETS
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import find
from dreamlift.priors.network import camera_features
from dreamlift.stages.located import locate_priors
from dreamlift.toybox.training.distill import guided_x0, negative_of
from dreamlift.toybox.training.geometry import sample_maps
from dreamlift.toybox.training.network import load_folder, make_networks, save_folder
from dreamlift.toybox.training.prior import draw_batch, x0_loss
from dreamlift.toybox.training.steps.loop import Training
from dreamlift.types import Conditioning

FOLDER = find(PriorChoice("toybox-geometry")).parts.folder


def test_the_target_is_what_a_lift_is_taught_with_guidance():
    """Against the priors' and losses' own code, which knows nothing of training."""
    teacher, prior = load_folder(FOLDER), load_prior("toybox-geometry")
    place = torch.deg2rad(torch.tensor([[30.0, -100.0], [20.0, 60.0]]))
    cameras = orbit_cameras(place[0], place[1], torch.full((2,), 2.6), torch.full((2,), math.radians(45.0)), 64)
    x_t, t = torch.randn((2, *teacher.shape), generator=torch.Generator().manual_seed(3)), torch.tensor([900, 500])
    captions = ["a red mug, places, front view", "a cat, normals, back view"]
    with torch.no_grad():
        told, plain = (teacher.encode_text(teacher.tokenize(words)) for words in (captions, ["places", "normals"]))
        want = denoise(prior, x_t, Conditioning(told, plain, cameras=cameras), t / 999, 4.0, 1.0)[1]
    camera = camera_features(cameras.azimuth, cameras.elevation)
    torch.testing.assert_close(guided_x0(teacher, x_t, t, captions, camera, 4.0), want, atol=2e-3, rtol=0)


def test_a_negative_prompt_stays_unguided():
    teacher = load_folder(FOLDER)
    x_t, t, camera = torch.randn((1, *teacher.shape)), torch.tensor([700]), torch.zeros(1, 8)
    with torch.no_grad():
        want = teacher.predict_x0(x_t, t, teacher.encode_text(teacher.tokenize(["places"])), camera)
    torch.testing.assert_close(guided_x0(teacher, x_t, t, ["places"], camera, 4.0), want, atol=1e-5, rtol=0)
    assert [negative_of(words) for words in ("a mug, normals, side view", "a mug", "")] == ["normals", "", ""]


def test_negative_prompts_learn_without_a_camera():
    """As a lift asks for them; the other captions are told it in three of four pictures."""
    settings = replace(Training(), batch=64, size=16)
    batches = [draw_batch(sample_maps(0, 16), settings, step, (12, 8, 8)) for step in range(4)]
    told = [(words in ("places", "normals"), bool(camera.abs().sum())) for each in batches
            for words, camera in zip(each.captions, each.camera, strict=True)]  # fmt: skip
    negative = [given for alone, given in told if alone]
    others = [given for alone, given in told if not alone]
    assert len(negative) > 10 and not any(negative)  # noqa: PT018
    assert 0.65 < sum(others) / len(others) < 0.85


def test_a_student_that_is_its_teacher_has_nothing_to_learn_without_guidance():
    networks, settings = load_folder(FOLDER), replace(Training(), batch=4, size=64)
    batch = draw_batch(sample_maps(0, 64), settings, 0, networks.shape)
    with torch.no_grad():
        own, guided, pictures = (x0_loss(networks, batch, networks, scale) for scale in (1.0, 4.0, 0.0))
    assert float(own) < 0.02 * float(pictures)  # what is left is clipped
    assert float(guided) > 2.0 * float(own)


def test_guidance_on_top_of_distilled_guidance_is_told(tmp_path):
    """The folder says what was distilled into it; a run with guidance on top is told, one without is not."""
    save_folder(make_networks(["a", "red", "mug"], 16, (8, 16)), tmp_path / "prior", guided=4.0)
    assert find(PriorChoice(str(tmp_path / "prior"))).guided == 4.0
    assert find(PriorChoice("toybox")).guided == 1.0
    prior = {"stages.0.teachers.0.prior.name": str(tmp_path / "prior")}
    config = override(PRESETS["toybox-field"], prior)
    with pytest.warns(UserWarning, match="prior gives guidance of scale 4 in one pass, and guidance_scale 7.5 comes on"):
        locate_priors(config.stages, "a red mug", False, True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = override(config, {"stages.0.teachers.0.guidance.guidance_scale": "1"})
        locate_priors(plain.stages, "a red mug", False, True)
