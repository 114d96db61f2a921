"""Variations: runs of several seeds in one command, their sheet and ranking, and what is told to differ between runs."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
import torch
from lift_helpers import generate_words, refused, run_main, save_stub, small_pictures, status_of, tree
from PIL import Image

from dreamlift.apps.presets import find_preset
from dreamlift.config.build import config_hash, save_yaml
from dreamlift.config.short import override
from dreamlift.export.glb import load_glb, save_glb
from dreamlift.priors.pixel import PixelPrior
from dreamlift.runs.progress import Silent
from dreamlift.runs.run import Run
from dreamlift.showing.differences import differences, flat, in_words, settings_of
from dreamlift.showing.seeds import save_particles
from dreamlift.showing.sheet import LABEL, SIDE, Ranked, Variation, _key, save_sheet
from dreamlift.toybox.judging.score import Score
from dreamlift.toybox.world.things import make_thing
from dreamlift.toybox.world.truth import mesh_of
from dreamlift.types import EmptySceneError, Mesh


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    return save_stub(tmp_path_factory.mktemp("prior") / "stub")


def score(**values):
    names = (
        "category", "color", "both", "category_textureless", "azimuth_error_deg", "front_from_behind", "janus", "saturation",
        "silhouette_iou", "chamfer",
    )  # fmt: skip
    return Score(**{name: values.get(name, math.nan) for name in names})


# The order


def test_each_figure_decides_where_those_before_it_are_equal():
    good = {"category": 1.0, "both": 1.0, "category_textureless": 0.5, "janus": 0.0, "silhouette_iou": 0.7}
    changes = ({}, {"silhouette_iou": 0.6}, {"category_textureless": 0.4, "silhouette_iou": 0.9}, {"both": 0.9}, {"janus": 1.0})
    places = [_key(Ranked(Variation("a", None), score(**{**good, **change}))) for change in changes]
    assert places == sorted(places)
    assert len(set(places)) == len(places)
    # Without a colour in the prompt there is no "both", and symmetric things have no fronts.
    scores = [score(category=share, category_textureless=1.0, silhouette_iou=0.5) for share in (1.0, 0.0)]
    plain = [_key(Ranked(Variation("a", None), each)) for each in scores]
    assert plain == sorted(plain)


def test_the_sheet_has_the_thing_that_was_asked_for_first(cwd):
    for name, (category, color) in {"chair": ("chair", "red"), "mug": ("mug", "red")}.items():
        save_glb(mesh_of(make_thing(category, color, 3, ""), 32, 600, 32), cwd / f"{name}.glb")
    several = [Variation(name, cwd / f"{name}.glb") for name in ("chair", "mug")]
    ranked = save_sheet(several, "a red mug", cwd, Silent())
    assert [each.variation.name for each in ranked] == ["mug", "chair"]
    told = json.loads((cwd / "ranking.json").read_text())
    assert [row["asset"] for row in told["assets"]] == ["mug.glb", "chair.glb"]
    assert told["ranked_by"] == "judge"
    assert told["assets"][0]["category"] > told["assets"][1]["category"]
    sheet = np.asarray(Image.open(cwd / "sheet.png"))
    assert sheet.shape == (2 * (SIDE + LABEL), 8 * SIDE, 3)
    assert sheet[:LABEL].min() < 50  # a line of text
    assert (sheet[LABEL + SIDE // 2, SIDE // 2] < 250).any()  # a mug in the middle of the first view


def test_words_that_the_judge_does_not_know_leave_the_order_and_say_so(cwd):
    save_glb(mesh_of(make_thing("mug", "red", 3, ""), 24, 300, 32), cwd / "a.glb")
    notes = Notes()
    ranked = save_sheet([Variation(name, cwd / "a.glb") for name in ("seed 9", "seed 3")], "a dragon", cwd, notes)
    assert [each.variation.name for each in ranked] == ["seed 9", "seed 3"]
    assert "the judge does not know what 'a dragon' names" in notes.notes[0]
    assert json.loads((cwd / "ranking.json").read_text())["ranked_by"] == "name"


# Runs of several seeds


def test_seeds_are_ordinary_runs_that_share_the_prior_and_go_on(cwd, stub, capsys, monkeypatch):
    small_pictures(monkeypatch)
    loads, load = [], PixelPrior.load
    monkeypatch.setattr(PixelPrior, "load", classmethod(lambda cls, *words: (loads.append(1), load(*words))[1]))
    words = generate_words(stub, "several", "--seed", 5, "--seeds", 2, "--steps", 2)
    assert run_main(*words) == 0
    assert len(loads) == 1
    out = capsys.readouterr().out.splitlines()
    assert {line.split(":")[0] for line in out[:2]} in ({"1. seed 5", "2. seed 6"}, {"1. seed 6", "2. seed 5"})
    assert out[2] == "several/sheet.png"
    assert sorted(os.listdir("several")) == ["ranking.json", "seed-5", "seed-6", "sheet.png"]
    assert [status_of(cwd / f"several/seed-{seed}")["seed"] for seed in (5, 6)] == [5, 6]
    assert status_of(cwd / "several/seed-5")["preset"] == "magic3d-toy"  # a prior is named
    # The bytes of a run that was made alone.
    assert run_main(*generate_words(stub, "alone", "--seed", 6, "--steps", 2)) == 0
    assert (cwd / "several/seed-6/asset.glb").read_bytes() == (cwd / "alone/asset.glb").read_bytes()

    # As if the process had been killed in the second run: the same command goes on with it, and leaves the first alone.
    first = tree(cwd / "several/seed-5")
    path = cwd / "several/seed-6/run.json"
    path.write_text(json.dumps(status_of(path.parent) | {"status": "running"}))
    os.unlink(cwd / "several/seed-6/asset.glb")
    capsys.readouterr()
    assert run_main(*words) == 0
    assert "several/seed-5 is finished already" in capsys.readouterr().err
    assert tree(cwd / "several/seed-5") == first
    assert (cwd / "several/seed-6/asset.glb").read_bytes() == (cwd / "alone/asset.glb").read_bytes()
    refused(capsys, cwd, [*words, "--checkpoint-every", "7"], "seed-5 is a run with other settings")


def test_a_seed_that_fails_is_left_out_and_told(cwd, stub, capsys, monkeypatch):
    from dreamlift.runs.carry_out import carry_out

    empty = [0]  # seeds

    def failing(order, reporter):
        if order.config.seed in empty:
            raise EmptySceneError("the scene is empty")
        return carry_out(order, reporter)

    small_pictures(monkeypatch)
    monkeypatch.setattr("dreamlift.showing.seeds.carry_out", failing)
    assert run_main(*generate_words(stub, "several", "--seeds", 2, "--steps", 2)) == 0
    out, err = capsys.readouterr()
    assert "note: seed 0: the scene is empty" in err
    assert out.startswith("1. seed 1: ")
    empty.append(1)
    assert run_main(*generate_words(stub, "others", "--seeds", 2)) == 1
    assert "no seed gave an asset; seed 0: the scene is empty" in capsys.readouterr().err


def test_seeds_that_cannot_be_used_are_refused(cwd, stub, capsys):
    (cwd / "full").mkdir()
    (cwd / "full" / "mine.txt").write_text("kept")
    refused(capsys, cwd, generate_words(stub, "full", "--seeds", 2), "full holds 'mine.txt', and nothing is overwritten")
    refused(capsys, cwd, generate_words(stub, "a", "--seeds", 1), "--seeds is 1; accepted: 2 to 1000")
    refused(capsys, cwd, generate_words(stub, "a", "--seeds", 2, "--seed", 2**63 - 1), "beyond the largest seed")


def saved_run(folder, prompt="a red mug", preset="toybox", status="finished", **changes):
    """A run's folder as a finished run leaves it, but without an asset."""
    config = override(find_preset(preset), {"prompt": prompt, **changes}, text=False)
    info = {"preset": preset, "seed": config.seed}
    with Run.create(folder, prompt, config_text=save_yaml(config), config_hash=config_hash(config), info=info) as run:
        run.set_status(status, {})
    return folder


def test_the_particles_of_a_run_have_a_sheet(cwd):
    saved_run(cwd / "run", particles=2)
    (cwd / "run/particle-2").mkdir()
    for place, seed in (("run", 0), ("run/particle-2", 1)):
        save_glb(mesh_of(make_thing("mug", "red", seed, ""), 24, 300, 32), cwd / place / "asset.glb")
    ranked = save_particles(cwd / "run", Silent())
    assert {each.variation.name for each in ranked} == {"particle 1", "particle 2"}
    sheet = (cwd / "run/sheet.png").read_bytes()
    assert save_particles(saved_run(cwd / "one"), Silent()) == ()
    (cwd / "run/ranking.json").unlink()  # as after a kill between the run's end and its sheet
    (cwd / "run/sheet.png").unlink()
    assert run_main("resume", "run") == 0
    assert (cwd / "run/sheet.png").read_bytes() == sheet
    assert (cwd / "run/ranking.json").is_file()


# What differs


def test_seed_preset_and_changed_settings_are_named(cwd):
    runs = [
        saved_run(cwd / "a"), saved_run(cwd / "b", seed=4), saved_run(cwd / "c", steps=300, device="cpu"),
        saved_run(cwd / "d", preset="vsd-toy"),
    ]  # fmt: skip
    same = differences([settings_of(run) for run in runs[:1] * 2])
    assert same == [{}, {}]
    told = [in_words(each) for each in differences([settings_of(run) for run in runs[:3]])]
    assert told == ["seed 0, steps 200", "seed 4, steps 200", "seed 0, steps 300"]
    told = [in_words(each) for each in differences([settings_of(run) for run in runs])]
    assert told[3].startswith("seed 0, preset vsd-toy, steps ")
    assert told[2] == "seed 0, preset toybox, steps 300"


def test_runs_whose_settings_are_not_known_have_no_words(cwd):
    (cwd / "x").mkdir()
    assert differences([settings_of(cwd / "x"), settings_of(saved_run(cwd / "a", seed=2))]) == [{}, {}]


def test_nested_settings_become_dotted_names():
    plain = {"a": 1, "b": {"c": [1, 2]}, "d": [{"e": 1}, {"e": [{"f": 2}]}], "g": {}, "h": []}
    assert flat(plain) == {"a": 1, "b.c": [1, 2], "d.0.e": 1, "d.1.e.0.f": 2, "g": {}, "h": []}


def test_long_values_and_many_settings_are_cut():
    words = in_words({"seed": 1, "note": "x" * 50, **{f"s{n}": n for n in range(5)}})
    assert words == f"seed 1, note {'x' * 21}..., s0 0, s1 1 and 3 more"


def test_evaluate_names_what_differs_and_json_has_every_row(cwd, capsys):
    for name, seed in (("a", 0), ("b", 3)):
        saved_run(cwd / name, seed=seed)
        save_glb(mesh_of(make_thing("mug", "red", seed, ""), 24, 300, 32), cwd / name / "asset.glb")
    assert run_main("evaluate", "a", "b", "--out", "e") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines if line.startswith("a red mug")] == ["seed 0", "seed 3"]
    assert run_main("evaluate", "a", "b", "--out", "f", "--json") == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["name"], row["differs"]) for row in last["runs"]] == [("a", {"seed": 0}), ("b", {"seed": 3})]
    rows = json.loads((cwd / "f/evaluation.json").read_text())["runs"]
    assert last["runs"] == rows
    assert last["seconds"] == "nan"  # of the mean, which no run has
    assert isinstance(load_glb(cwd / "a/asset.glb"), Mesh)
    assert torch.tensor(last["category"]) >= 0
