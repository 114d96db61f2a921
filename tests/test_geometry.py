"""The prior of places and normals: its training pictures, its words, and what its teachers may show."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreamlift.apps.options import build_parser
from dreamlift.apps.start import config_of
from dreamlift.cameras import orbit_cameras
from dreamlift.cli import split_overrides
from dreamlift.presets import PRESETS
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.files.nouns import check_nouns, maps_of
from dreamlift.priors.kinds import Located, find
from dreamlift.priors.network import camera_features
from dreamlift.priors.parts import FolderParts
from dreamlift.priors.pixel import PixelPrior
from dreamlift.prompts import Compass
from dreamlift.stages.teacher import shown
from dreamlift.toybox.training import geometry
from dreamlift.toybox.training.dataset import BACKDROPS, vocabulary
from dreamlift.toybox.training.geometry import MAPS, gather, load_shards, make_shard, map_pictures, sample_maps
from dreamlift.toybox.training.network import load_folder, make_networks, nouns_known
from dreamlift.toybox.training.prior import draw_batch, train
from dreamlift.toybox.training.steps.loop import Training
from dreamlift.toybox.world.render import render
from dreamlift.toybox.world.things import make_thing
from dreamlift.types import RenderOutput, Task

PLAIN = torch.full((3,), math.radians(45.0))


def cameras_at(azimuth_deg, elevation_deg, size=32):
    count = len(azimuth_deg)
    place = torch.deg2rad(torch.tensor([azimuth_deg, elevation_deg], dtype=torch.float32))
    return orbit_cameras(place[0], place[1], torch.full((count,), 2.6), PLAIN[:count], size)


def test_the_maps_are_what_a_teacher_is_shown_of_the_same_thing():
    """``shown`` makes them of rays and depths of a render, ``map_pictures`` of the points that were hit."""
    cameras, thing = cameras_at([20.0, -130.0, 90.0], [70.0, -10.0, 30.0]), make_thing("mug", "red", 3)
    maps, opacity = map_pictures(thing, cameras, supersample=1)
    seen = render(thing, cameras, supersample=1)
    picture = RenderOutput(seen.rgb, seen.opacity, seen.depth, seen.normal)
    assert torch.equal(opacity, seen.opacity.squeeze(-1))
    for number, show in enumerate(MAPS):
        torch.testing.assert_close(maps[:, number], shown(picture, show, cameras), atol=1e-5, rtol=0)
    assert float(maps[:, :, 0, 0].abs().max()) == 0.0  # the corners are black


def test_a_cameras_own_side_is_near_to_it():
    """Seen from +x, the visible places have larger x than seen from -x, by about the thing's thickness."""
    maps, opacity = map_pictures(make_thing("ghost", "white", 0), cameras_at([90.0, -90.0], [0.0, 0.0]))
    right, left = ((each[0, ..., 0].sum() / mask.sum()) * 2 - 1 for each, mask in zip(maps, opacity, strict=True))
    assert float(right) > 0.15 and float(left) < -0.15  # noqa: PT018


def test_mirrored_maps_are_those_of_the_mirrored_camera():
    thing, size = make_thing("duck", "yellow", 5), 32
    maps, opacity = map_pictures(thing, cameras_at([35.0], [20.0], size))
    pictures = (each.mul(255).add(0.5).to(torch.uint8).numpy() for each in (maps, opacity))
    data = replace(sample_maps(0, size), mirrored=np.ones(10, dtype=bool))
    again, mask = pictures
    data = replace(data, maps=np.repeat(again, 10, 0), opacity=np.repeat(mask, 10, 0), azimuth=np.full(10, math.radians(35.0)))
    drawn = data.draw(np.random.default_rng(0), 64)
    want = map_pictures(thing, cameras_at([-35.0], [20.0], size))[0][0] * 255
    assert 16 < drawn.flips.sum() < 48
    assert 4 < (drawn.rows % 2).sum() < 30
    for row, flip, rgb, azimuth in zip(drawn.rows, drawn.flips, drawn.rgb, drawn.azimuth, strict=True):
        target = want[row % 2].numpy() if flip else again[0, row % 2]
        assert np.abs(rgb - target).mean() < 1.0
        assert azimuth == pytest.approx(math.radians(-35.0 if flip else 35.0))


def test_captions_name_the_map_and_the_negative_one_as_well():
    data = gather([sample_maps(seed, 16) for seed in range(3)])
    known, seen = set(vocabulary(more=tuple(MAPS.values()))), {"places": set(), "normals": set()}
    for row in range(2 * len(data)):
        for number in range(8):
            caption = data.caption(row, np.random.default_rng([row, number]), False, number % 3 - 1)
            word = ("places", "normals")[row % 2]
            assert set(caption.replace(",", " , ").split()) <= known
            assert word in caption.split(", ")
            seen[word].add(caption == word)
    assert seen == {"places": {True, False}, "normals": {True, False}}
    assert {"places", "normals"}.isdisjoint(vocabulary())
    assert len(BACKDROPS) == 2


def test_shards_repeat_and_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "SHARD", 20)
    first, again = (make_shard(tmp_path / name, 2, 16) for name in "ab")
    assert first.read_bytes() == again.read_bytes()
    data = load_shards(tmp_path / "a", 16)
    assert data.maps.shape == (20, 2, 16, 16, 3)
    assert np.rad2deg(data.elevation).min() < 10 and np.rad2deg(data.elevation).max() > 60  # noqa: PT018
    with pytest.raises(FileNotFoundError, match=r"no maps in .*geometry --data"):
        load_shards(tmp_path / "none", 16)


def test_a_batch_tells_the_cameras_of_what_it_shows(monkeypatch):
    data = gather([sample_maps(seed, 16) for seed in range(2)])
    batch = draw_batch(data, Training(batch=32, size=16), 1, (12, 8, 8))
    told = batch.camera.abs().sum(-1) > 0
    assert 8 < int(told.sum()) < 32
    features = camera_features(torch.from_numpy(data.azimuth), torch.from_numpy(data.elevation))
    mirror = camera_features(-torch.from_numpy(data.azimuth), torch.from_numpy(data.elevation))
    gaps = torch.cdist(batch.camera[told], torch.cat([features, mirror])).amin(1)
    assert float(gaps.max()) < 5e-3  # the distances' own rounding


def test_a_prior_that_was_trained_on_maps_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "SHARD", 10)
    make = "dreamlift.toybox.training.prior.make_networks"
    monkeypatch.setattr(make, lambda words, size: make_networks(words, size, (8, 16)))
    monkeypatch.setattr("dreamlift.toybox.training.prior.save_grid", lambda *_, **__: None)
    make_shard(tmp_path / "data", 0, 16, ("mug",))
    train(
        Training(steps=2, batch=2, size=16, warmup=1), tmp_path / "run", tmp_path / "data", "cpu", 2, kinds=("mug",), maps=True
    )
    prior = tmp_path / "run" / "prior"
    assert maps_of(prior) == {"place": "places", "normal": "normals"}
    found = find(PriorChoice(str(prior)))
    found.check_task("place", Compass(), False)
    with pytest.raises(ValueError, match="show is color, but this prior draws places and normals only: set show to place or"):
        found.check_task("color", Compass(), False)
    assert {"places", "normals"} <= set(load_folder(prior).tokenizer.get_vocab())


def test_a_prior_of_colors_is_shown_no_places():
    colors = find(PriorChoice("toybox"))
    assert colors.maps == {}
    colors.check_task("normal", Compass(), False)  # as Fantasia3D does
    with pytest.raises(ValueError, match="show is place, but this prior draws colors: use the prior toybox-geometry"):
        colors.check_task("place", Compass(), False)
    assert "maps" not in nouns_known(make_networks(["mug"], 16, (8, 16)).tokenizer)


@pytest.mark.parametrize(
    ("maps", "show", "prompt", "negative"),
    [
        ({"place": "places"}, "place", "a mug, places", "places"),
        ({"place": "places"}, "color", "a mug", ""),
        ({"place": ""}, "place", "a mug", ""),
        ({}, "color", "a mug", ""),
    ],
)
def test_the_prompts_name_what_is_shown(tmp_path, monkeypatch, maps, show, prompt, negative):
    (tmp_path / "nouns.json").write_text(json.dumps({"maps": maps}))
    read = SimpleNamespace(task=None)

    def keep(parts, choice, task, *_):
        read.task = task

    monkeypatch.setattr(PixelPrior, "read", keep)
    located = Located(PriorChoice(), PixelPrior, FolderParts(tmp_path), "")
    located.read(Task("a mug"), Compass(), (), torch.device("cpu"), "torch", show)
    assert (read.task.prompt, read.task.negative) == (prompt, negative)
    check_nouns("a dragon", tmp_path, "mine")  # without a list of nouns any word is taken


@pytest.mark.parametrize(
    ("words", "preset"),
    [
        ([], "toybox"),
        (["--prior", "sd-1.5"], "magic3d-toy"),
        (["--lora", "clay.safetensors"], "magic3d-toy"),
        (["--embedding", "clay.safetensors"], "magic3d-toy"),
        (["--show", "normal"], "magic3d-toy"),
        (["--stages.0.teachers.0.prior.name", "sd-1.5"], "magic3d-toy"),
        (["--stages.1.steps", "7"], "toybox"),
        (["--preset", "toybox-field", "--prior", "sd-1.5"], "toybox-field"),
    ],
)
def test_another_prior_is_shown_colors(words, preset):
    """Places are drawn by ``toybox-geometry`` alone: who names a prior without a preset has stages that are taught colours."""
    rest, overrides = split_overrides(["generate", "a mug", *words])
    config = config_of(build_parser().parse_args(rest), overrides)
    assert [stage.scene for stage in config.stages] == [stage.scene for stage in PRESETS[preset].stages]
    shows = [teacher.show for stage in config.stages for teacher in stage.teachers]
    assert shows[0] == ("normal" if "normal" in words else PRESETS[preset].stages[0].teachers[0].show)
