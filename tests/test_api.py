"""The package as a library: what a notebook's user types first."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lift_helpers import save_stub
from run_helpers import same

import dreamlift
from dreamlift.api import as_setting
from dreamlift.guidance.csd import CSD
from dreamlift.presets import PRESETS
from dreamlift.runs.progress import Silent
from dreamlift.runs.reporters import in_notebook
from dreamlift.types import StageBegan, Step

SMALL = {
    "stages__1": None, "steps": 3, "scene__field__resolutions": [9, 17], "scene__field__switch_on": [0, 0.5],
    "scene__samples_per_ray": 24, "cameras__resolution": [32], "mesh__resolution": 24, "mesh__texture_size": 64,
    "mesh__faces": 300,
}  # fmt: skip


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return str(save_stub(tmp_path_factory.mktemp("prior") / "stub"))


class Heard(Silent):
    """Keeps what a run tells."""

    def __init__(self):
        self.events, self.summaries = [], []

    def event(self, event, total):
        self.events.append(event)

    def done(self, summary):
        self.summaries.append(summary)


@pytest.fixture(scope="module")
def made(prior):
    heard = Heard()
    asset = dreamlift.generate("a red mug", prior=prior, seed=3, guidance__guidance_scale=5, progress=heard, **SMALL)
    return asset, heard


def test_settings_are_given_by_name(made):
    asset, _ = made
    stage = asset.config.stages[0]
    assert (asset.seed, stage.steps, len(asset.config.stages)) == (3, 3, 1)
    assert stage.teachers[0].guidance.guidance_scale == 5.0
    assert stage.scene.field.resolutions == (9, 17)
    with pytest.raises(ValueError, match=re.escape("guidance.scale: unknown name")):
        dreamlift.generate("a red mug", guidance__scale=5)
    with pytest.raises(ValueError, match=r"unknown preset 'vsd' .*vsd-toy"):
        dreamlift.generate("a red mug", preset="vsd")


def test_the_reporter_hears_every_event(made):
    asset, heard = made
    assert [type(event) for event in heard.events] == [StageBegan] + [Step] * 3
    assert heard.summaries == [{"asset": repr(asset)}]


def test_an_asset_shows_itself(made):
    asset, _ = made
    assert re.fullmatch(r"Asset\('a red mug', seed 3, [\d,]+ faces, [\d,]+ vertices\)", repr(asset))
    shown = asset._repr_html_()
    assert shown.startswith("<iframe")
    assert len(shown) > 10_000


def test_a_settings_object_and_a_config_do_the_same(prior, made):
    config = made[0].config
    loss = CSD(scale=5.0)
    by_name = dreamlift.generate("a red mug", prior=prior, seed=3, guidance=loss, progress=False, **SMALL)
    stage = config.stages[0]
    teachers = (dataclasses.replace(stage.teachers[0], guidance=loss),)
    whole = dataclasses.replace(config, stages=(dataclasses.replace(stage, teachers=teachers),))
    by_config = dreamlift.generate("a red mug", whole, progress=False)
    assert same(vars(by_name.mesh), vars(by_config.mesh))


def test_a_pool_keeps_the_prior(prior, monkeypatch):
    from dreamlift.priors.kinds import Priors
    from dreamlift.priors.pixel import PixelPrior

    loads, load = [], PixelPrior.load
    monkeypatch.setattr(PixelPrior, "load", classmethod(lambda cls, *words: (loads.append(1), load(*words))[1]))
    pool = Priors()
    for seed in (0, 1):
        dreamlift.generate("a red mug", prior=prior, seed=seed, pool=pool, progress=False, **SMALL)
    assert len(loads) == 1


def test_assets_are_judged(made):
    report = dreamlift.evaluate(made[0])
    (row,) = report["runs"]
    assert row["prompt"] == "a red mug"
    assert 0.0 <= row["category"] <= 1.0
    assert report["judge"]


def test_values_are_python_s_own():
    assert as_setting(Path("a") / "b") == os.path.join("a", "b")
    assert as_setting(np.float32(0.5)) == 0.5
    assert as_setting(PRESETS["toybox"].stages[0]) is PRESETS["toybox"].stages[0]
    for settings, said in (
        ({"negative": None}, "negative: got None, accepted: text"),
        ({"negative": True}, "negative: got True, accepted: text"),
        ({"steps": "5"}, "steps: got '5', accepted: a whole number"),
        ({"guidance": CSD}, "guidance: got"),
        ({"guidance": PRESETS["toybox"].stages[0].scene}, "guidance: got a Nerf, accepted"),
        ({"steps": 5, "stages__0__steps": 7}, "stages.0.steps and steps are the same setting"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            dreamlift.generate("a red mug", **settings)
    with pytest.raises(ValueError, match="config and preset are two starting points"):
        dreamlift.generate("a red mug", PRESETS["toybox"], preset="toybox")


def test_the_package_lists_what_it_offers():
    assert {"generate", "Asset", "Config", "presets", "load_prior", "evaluate", "register"} <= set(dir(dreamlift))
    assert all(getattr(dreamlift, name) is not None for name in dreamlift.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dreamlift.nothing
    code = "import sys, dreamlift; dir(dreamlift); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_notebook_is_told_from_a_terminal(monkeypatch):
    assert not in_notebook()
    kernel = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    assert in_notebook()
