"""The settings of every run, which are checked before the studio starts; and a process for runs that cannot start."""

from __future__ import annotations

import asyncio
import sys

import pytest
from lift_helpers import refused, run_main
from studio_helpers import OFFERS

from dreamlift.studio import child as child_module
from dreamlift.studio.broadcast import Broadcast
from dreamlift.studio.child import TRIES, Child, check_settings
from dreamlift.studio.folder import Refused, Runs
from dreamlift.studio.hub import MAX_WAITING, Hub
from dreamlift.studio.worker import check, order_of


@pytest.fixture
def given(monkeypatch):
    """The settings that ``dreamlift studio`` would start with."""
    found = []
    monkeypatch.setattr("dreamlift.studio.serve.run_studio", lambda root, place, overrides, tell: found.append(overrides))
    return found


def test_settings_are_given_as_to_generate(given, tmp_path):
    words = ["--steps", "20", "--engine", "torch", "--device=cpu", "--checkpoint_every", "2", "--checkpoint-every", "3",
             "--prior", "toybox", "--faces", "500", "--no-texture", "--mask", "alpha", "--format", "glb,stl",
             "--scene.samples_per_ray", "24", "--stages.1.steps=30", "--negative", "blurred"]  # fmt: skip
    assert run_main("studio", *words) == 0
    assert given == [{
        "steps": "20", "engine": "torch", "device": "cpu", "checkpoint_every": "3", "prior.name": "toybox", "mesh.faces": "500",
        "mesh.texture": "false", "photos.0.mask": "alpha", "asset.formats": '["glb", "stl"]', "scene.samples_per_ray": "24",
        "stages.1.steps": "30", "negative": "blurred",
    }]  # fmt: skip
    assert check(given[0]) == 0
    config = order_of({"prompt": "a red mug", "seed": 4}, tmp_path, given[0], Broadcast()).config
    assert [stage.steps for stage in config.stages] == [20, 30]
    assert (config.engine, config.checkpoint_every, config.seed, config.negative) == ("torch", 3, 4, "blurred")
    assert config.photos == ()  # that of a picture is for runs that have one
    assert run_main("studio") == 0
    assert given[1] == {}


@pytest.mark.parametrize(
    "words", [["--seed", "3"], ["--preset", "vsd-toy"], ["--lora", "x"], ["--config", "x"], ["--mesh", "x"]]
)
def test_what_is_chosen_on_the_page_and_inputs_are_no_settings_of_every_run(given, capsys, words):
    assert run_main("studio", *words) == 2
    assert f"unrecognized arguments: {' '.join(words)}" in capsys.readouterr().err
    assert given == []


BAD = {
    "stages.0.stepz=5": ("stages.0.stepz", "steps"), "stages.7.steps=5": ("stages.7",), "steps=x": ("steps",),
    "engine=tensorflow": ("engine",), "device=abacus": ("unknown device 'abacus'",),
    "prior.name=toibox": ("unknown prior", "toybox"), "photos.0.fov_deg=x": ("photos.0.fov_deg",),
    "asset.formats=[doc]": ("unknown format 'doc'",),
}  # fmt: skip


@pytest.mark.parametrize("setting", BAD)
def test_settings_that_fit_no_run_are_said_in_one_line(setting, capsys):
    name, _, value = setting.partition("=")
    assert check({name: value}) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert all(part in err for part in BAD[setting]), err


def test_settings_for_pictures_alone_are_accepted():
    assert check({"photos.0.azimuth_deg": "30", "mask": "x"}) == 2  # the second one is none
    assert check({"photos.0.azimuth_deg": "30"}) == 0


def test_the_studio_does_not_start_with_settings_that_fit_no_run(cwd, capsys):
    refused(capsys, cwd, ["studio", "--port", "0", "--stages.0.stepz", "5"], "stages.0.stepz", "did you mean")


def test_a_check_that_fails_otherwise_says_why(monkeypatch):
    monkeypatch.setattr(child_module, "worker_command", lambda *_: [sys.executable, "-c", "raise SystemExit('no torch here')"])
    with pytest.raises(child_module.RunError, match="the process that carries out runs fails: no torch here"):
        check_settings({"steps": "2"})


# A process for runs that cannot start


async def started(hub, code, seconds=20.0):
    """A :class:`Child` of ``code``, when no more processes are started, and what it told the terminal."""
    told = []
    child = Child(hub, [*code], told.append)
    child.start()
    end = asyncio.get_running_loop().time() + seconds
    while child.process is not None or child.failures < TRIES:
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.02)
    return child, told


def orders(hub, count):
    for seed in range(count):
        hub.order({"prompt": "a red mug", "seed": seed})


SAYS = "import sys; print('Traceback', file=sys.stderr); raise SystemExit('ImportError: no torch here\\n')"


@pytest.mark.parametrize("code", [[sys.executable, "-c", SAYS], ["/no/such/python"]])
def test_what_keeps_the_process_from_starting_is_said_to_visitors_and_in_the_terminal(tmp_path, code, capfd):
    hub = Hub(Runs(tmp_path))
    visitor = hub.enter()
    orders(hub, 3)
    _, told = asyncio.run(started(hub, code))
    why = "ImportError: no torch here" if "-c" in code else "'/no/such/python' cannot be used: No such file or directory"
    assert told == [f"no run can be started, since its process fails: {why}"]
    assert capfd.readouterr().err.count("Traceback") == (TRIES if "-c" in code else 0)  # as it was before
    runs = [message["run"] for message in visitor.reports if message["type"] == "run"]
    assert [run["number"] for run in runs if run["status"] == "failed"] == [1, 2, 3]
    assert {run["error"] for run in runs if run["status"] == "failed"} == {told[0]}
    assert not hub.waiting
    assert hub.state()["trouble"] == told[0]
    hub.heard({"type": "ready", "presets": OFFERS}, b"")
    assert hub.state()["trouble"] == ""


def test_a_new_order_tries_again(tmp_path):
    hub, count = Hub(Runs(tmp_path)), tmp_path / "count"
    code = [sys.executable, "-c", f"open({str(count)!r}, 'a').write('x')"]

    async def twice():
        child, told = await started(hub, code)
        orders(hub, 1)
        while child.process is not None or hub.waiting:
            await asyncio.sleep(0.02)
        return told

    told = asyncio.run(twice())
    assert count.read_text() == "x" * 2 * TRIES
    assert set(told) == {"no run can be started, since its process fails: it has said nothing"}
    assert hub.live.status == "failed"


def test_room_for_several_is_asked_before_the_first(tmp_path):
    hub = Hub(Runs(tmp_path))
    orders(hub, MAX_WAITING - 1)
    hub.check_room(1)
    with pytest.raises(Refused, match="2 more runs do not fit: 12 may wait, and 11 do"):
        hub.check_room(2)
