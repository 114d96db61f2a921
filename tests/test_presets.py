"""The named settings: each is a whole config, can be written and read back, and fits the parts that it names."""

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from stage_helpers import begun, steps_of

from dreamlift.cameras import CameraSampler, orbit_cameras, turntable
from dreamlift.config.build import (
    ConfigError,
    apply_overrides,
    config_hash,
    describe_fields,
    from_plain,
    load_yaml,
    save_yaml,
    to_plain,
)
from dreamlift.config.schema import Config, check_stages
from dreamlift.config.short import describe, override
from dreamlift.config.table import PATH
from dreamlift.presets import ABOUT, PRESETS, TOYBOX
from dreamlift.presets.table import make_table
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.loading.sources import KNOWN
from dreamlift.reading.photos import Photo
from dreamlift.scenes import SCENES
from dreamlift.scenes.background import Solid
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.schedules import Linear, value_at
from dreamlift.stages.base import with_priors
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import OF_NORMALS, Weights
from dreamlift.stages.tuned import base_of, base_priors
from dreamlift.system.streams import random_stream
from dreamlift.toybox.training.dataset import BACKDROPS
from dreamlift.tuning.words import SubjectWords
from dreamlift.types import Handover, Mesh, Pictures, Task

EACH = pytest.mark.parametrize("name", PRESETS)
EACH_STAGE = pytest.mark.parametrize(
    ("name", "number"),
    [
        (name, number)
        for name, config in PRESETS.items()
        for number, stage in enumerate(config.stages)
        if isinstance(stage, Lift)
    ],
)
FIXED = Path(__file__).parent / "presets.json"
PROGRESS = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]


@EACH
def test_a_preset_round_trips(name):
    config = PRESETS[name]
    text = save_yaml(config)
    assert load_yaml(Config, text) == config
    assert from_plain(Config, to_plain(config)) == config
    assert save_yaml(load_yaml(Config, text)) == text
    assert config_hash(load_yaml(Config, text)) == config_hash(config)


@EACH
def test_every_setting_of_a_preset_can_be_given_as_it_is_listed(name):
    config = PRESETS[name]
    rows = {row[0]: row[2] for row in describe_fields(config)}
    assert apply_overrides(config, rows) == config
    assert apply_overrides(Config(), rows) == config  # so the list is the whole preset
    short = {row[0]: row[2] for row in describe(config)}
    assert len(short) == len(rows)
    assert override(config, short) == config


def test_presets_stay_as_they_are():
    """A preset's value changes on purpose only, together with ``presets.json`` (``python tests/test_presets.py`` writes it)."""
    text = FIXED.read_text(encoding="utf-8")
    known, now = json.loads(text), json.loads(fixed())
    assert set(known) == set(now)
    assert {name for name in now if known[name] != now[name]} == set()
    assert text == fixed()


def fixed():
    """The text of ``presets.json``: the plain form of every preset, one a line."""
    plain = {name: to_plain(preset.config) for name, preset in sorted(ABOUT.items())}
    lines = [f'"{name}":' + json.dumps(plain[name], sort_keys=True, separators=(",", ":")) for name in plain]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def test_the_table_of_settings_is_up_to_date():
    assert PATH.read_text(encoding="utf-8") == make_table(), "run: python -m dreamlift.presets.table"


def test_presets_differ():
    hashes = {name: config_hash(config) for name, config in PRESETS.items()}
    assert hashes.pop("sweetdreamer-toy") == hashes["toybox"]  # the default does what SweetDreamer does
    assert len(set(hashes.values())) == len(hashes)
    assert PRESETS["toybox"] is TOYBOX
    assert all(config.prompt == "" for config in PRESETS.values())


@EACH
def test_a_preset_names_a_known_prior(name):
    stages = with_priors(PRESETS[name].stages)
    choices = [base_of(choice, base_priors(stages), "prior") for stage in stages for choice in stage.choices]
    assert choices
    assert all(choice.name in KNOWN for choice in choices)
    assert PRESETS[name].stages[0].choices[0] is not None  # a preset says what it was made for


def with_photo(config):
    """The config with a path in the entry that states a photo's camera, if it has one; with a subject where it tunes."""
    if config.tunes:
        return replace(config, photos=(Photo("a.png"),), subject=SubjectWords("mug"))
    return replace(config, photos=tuple(replace(photo, path="a.png") for photo in config.photos))


def task_of(config):
    """A red square as the photo, for a preset that needs one."""
    if not config.photos:
        return None
    (photo,) = config.photos
    alpha = torch.zeros(1, 16, 16, 1)
    alpha[:, 4:12, 4:12] = 1.0
    turn, height, fov = (torch.tensor([math.radians(v)]) for v in (photo.azimuth_deg or 0.0, 20.0, photo.fov_deg))
    cameras = orbit_cameras(turn, height, torch.tensor([photo.distance]), fov, 16)
    return Task("a mug", photos=Pictures(alpha * torch.tensor([0.8, 0.1, 0.1]), alpha, cameras))


def begins_with(config, number):
    """What a stage's scene begins as: a small box, where it begins with a mesh."""
    place = config.places()[number]
    if not place.has_mesh and not (number == 0 and config.stages[0].scene.needs_initial_mesh):
        return None
    box = trimesh.creation.box((0.9, 0.7, 0.5))
    return Mesh(box.vertices.astype(np.float32), box.faces.astype(np.int32))


def small(scene):
    """The same scene with less to compute."""
    if isinstance(scene, Nerf):
        return replace(scene, samples_per_ray=32)
    if isinstance(scene, TetMesh):
        return replace(scene, resolution=12)
    return replace(scene, capacity=300, count=200) if isinstance(scene, Gaussians) else scene


@EACH
def test_the_stages_of_a_preset_can_follow_each_other(name):
    config = with_photo(PRESETS[name])
    scene = getattr(config.stages[0], "scene", None)
    check_stages(replace(config, initial_mesh="a.glb") if scene and scene.needs_initial_mesh else config)


@EACH
def test_a_preset_for_a_photo_says_that_it_needs_one(name):
    config = PRESETS[name]
    if config.photos:
        with pytest.raises(ValueError, match=r"stages\.0: photometric\.source is photos, but .* give --image FILE"):
            check_stages(config)
    compared = [stage.photometric for stage in config.stages if isinstance(stage, Lift) and stage.photometric is not None]
    assert bool(config.photos) == any(each.source == "photos" for each in compared)


def test_every_weight_is_of_some_scenes_term():
    terms = {term for kind in SCENES.values() for term in kind.terms}
    assert {field.name for field in dataclasses.fields(Weights)} == terms


@EACH_STAGE
def test_the_regularisers_of_a_preset_are_terms_of_its_scene(name, number):
    stage = PRESETS[name].stages[number]
    scene = small(stage.scene).build(random_stream(), initial_mesh=begins_with(PRESETS[name], number))
    cameras = replace(stage.cameras, resolution=(8,))(0.5, random_stream())
    for progress in PROGRESS:
        on = stage.weights.at(progress)
        normals = bool(OF_NORMALS & set(on))
        render = scene.train().render(cameras, random_stream(), progress=progress, normals=normals)
        terms = scene.regularize(render, progress, tuple(on), random_stream())
        assert set(terms) == set(on), "a term that is on has no value"
        assert all(bool(torch.isfinite(value)) and value.ndim == 0 for value in terms.values())


@EACH_STAGE
def test_the_schedules_of_a_preset_stay_in_range(name, number):
    stage = PRESETS[name].stages[number]
    for guidance in (teacher.guidance for teacher in stage.teachers):
        for progress in PROGRESS:
            low, high = value_at(guidance.t_min, progress), value_at(guidance.t_max, progress)
            assert 0.0 < low <= high < 1.0
        scale = getattr(guidance, "guidance_scale", None)
    assert (guidance.scale if scale is None else scale) >= 1.0
    assert value_at(stage.adam.lr_scale, 0.0) > 0.0


@pytest.fixture(scope="module")
def network(stub):
    return load_prior(stub)


@EACH_STAGE
def test_two_steps_of_a_preset(name, number, network):
    # The preset's own scene, losses and weights, with few rays: every part fits the others.
    stage = PRESETS[name].stages[number]
    stage = replace(stage, steps=2, cameras=replace(stage.cameras, resolution=(8,)), scene=small(stage.scene))
    if stage.photometric is not None:
        stage = replace(stage, photometric=replace(stage.photometric, resolution=(8,)))
    config, handover = replace(PRESETS[name], stages=(stage,)), Handover(meshes=(begins_with(PRESETS[name], number),))
    if stage.photometric is not None and stage.photometric.source == "handover":
        drawn = turntable(2, size=16)
        handover = replace(handover, pictures=Pictures(torch.rand(2, 16, 16, 3), torch.ones(2, 16, 16, 1), drawn))
    work = begun(config, network, handover=handover, task=task_of(config))
    assert [step.index for step in steps_of(work)] == [0, 1]
    assert all(torch.isfinite(parameter).all() for parameter in work.scene.parameters())
    assert any(float(entry["exp_avg"].abs().max()) > 0 for entry in work.optimizer.state_dict()["state"].values())


def test_a_weight_of_zero_is_off():
    weights = Weights(sparsity=Linear(1.0, 0.0, 0.0, 0.5), opaque=0.0, tv=2.0)
    assert weights.at(0.0) == {"sparsity": 1.0, "tv": 2.0}
    assert weights.at(0.5) == {"tv": 2.0}


@pytest.mark.parametrize("name", ["steps", "particles", "checkpoint_every", "keep_checkpoints"])
def test_counts_begin_at_one(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        replace(TOYBOX.stages[0] if name == "steps" else TOYBOX, **{name: 0})


def test_the_toyboxs_backdrops_are_those_that_its_prior_was_shown():
    assert {each.words: each.color for each in TOYBOX.backdrops} == {k.removeprefix(", "): v for k, v in BACKDROPS.items()}
    for stage in TOYBOX.stages:
        assert isinstance(stage.scene.background, Solid)
        assert stage.scene.background.color == BACKDROPS[""]


def test_the_default_is_the_toybox_on_any_device():
    names = [stage.teachers[0].prior.name for stage in TOYBOX.stages]
    assert (names, TOYBOX.device) == (["toybox-geometry", "toybox"], "auto")
    assert isinstance(TOYBOX.stages[0].cameras, CameraSampler)
    assert not any(KNOWN[name].addresses for name in names)  # embedded: no network is needed


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("cameras.views", "0", "cameras: views is 0; it must be at least 1"),
        ("cameras.resolution", "[]", "resolution is []; give one or several sizes of at least 4 pixels"),
        ("cameras.fov_deg", "[200, 300]", "fov_deg is [200, 300]; accepted: a rising range within 1 to 170"),
        ("cameras.distance", "[0, 0]", "distance is [0, 0]; accepted: a rising range within 0.01 to 10000"),
        ("guidance.t_min", "2", "t_min is 2 and t_max"),
        ("guidance.t_max", "0.01", "accepted: 0 <= t_min <= t_max <= 1"),
        ("guidance.guidance_scale", "-1", "guidance_scale is -1; it must not be negative"),
        ("adam.beta1", "2", "beta1 is 2; accepted: 0 up to, but not including, 1"),
        ("adam.lr_scale", "-1", "lr_scale becomes negative"),
        ("mesh.keep_parts", "5", "keep_parts is 5; accepted: 0 to 1"),
        ("mesh.depth", "-0.1", "depth and threshold must be positive"),
        ("scene.occupancy.every", "0", "every 0, warmup 32; accepted: resolution"),
    ],
)
def test_values_out_of_range_are_named_before_anything_is_loaded(setting, value, message):
    with pytest.raises(ConfigError) as caught:
        override(PRESETS["toybox"], {setting: value})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not str(caught.value).startswith("stages.")  # named as it was given


if __name__ == "__main__":
    FIXED.write_text(fixed(), encoding="utf-8")
