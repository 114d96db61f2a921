"""The studio as a process of its own: runs, two visitors, one who leaves, and the server stopped in the middle of a run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from lift_helpers import TINY, checkpoint_of, run_main, status_of
from run_helpers import same
from studio_helpers import Process, Visitor, ask, post, until

from dreamlift.config.build import config_hash, save_yaml
from dreamlift.runs.run import Run
from dreamlift.studio.broadcast import Broadcast
from dreamlift.studio.worker import offers, order_of

LONG = ["--stages.0.steps=3000" if word.startswith("--steps") else word for word in TINY]
SHORT = ["--stages.0.steps=12" if word.startswith("--steps") else word for word in TINY]


def settings(stub, words=LONG):
    return [*words, f"--prior.name={stub}"]


@pytest.fixture(scope="module")
def studio(stub, tmp_path_factory):
    made = Process(tmp_path_factory.mktemp("runs") / "outputs", *settings(stub))
    yield made
    made.close()


def ready(port):
    """Wait until runs can be started; returns a visitor."""
    visitor = Visitor(port)
    until(lambda: visitor.hear("state", 120)[0]["presets"])
    return visitor


def begun(visitor, status="running"):
    return until(lambda: (run := visitor.hear("run", 120)[0]["run"])["status"] == status and run)


def test_two_visitors_watch_a_run_one_leaves_and_it_is_stopped_and_continued(studio):
    first, second = ready(studio.port), Visitor(studio.port)
    second.hear("state")
    status, made = post(studio.port, "/api/start", {"prompt": "a red mug", "seed": 5})
    assert status == 200
    run = begun(first)
    assert (run["number"], run["seed"], run["total"]) == (made["number"], 5, 3000)
    first.look(0.0)
    second.look(2.0, 0.9)
    first.tell({"type": "pair", "wanted": True})
    (one, data), (other, more) = first.hear("frame"), second.hear("frame")
    assert (one["azimuth"], other["azimuth"]) == (0.0, 2.0)
    assert data.startswith(b"\xff\xd8")
    assert more.startswith(b"\xff\xd8")
    assert data != more
    pair, pictures = first.hear("pair")
    assert pictures.startswith(b"\xff\xd8")
    assert pictures[pair["first"] :].startswith(b"\xff\xd8")
    second.look()
    second.close()  # and is not waited for
    before = first.hear("steps")[0]["index"]
    assert until(lambda: (now := first.hear("steps")[0]["index"]) > before and now)
    first.look(1.0)
    assert first.hear("frame")[0]["azimuth"] == 1.0
    assert post(studio.port, "/api/resume", {"run": run["name"]})[0] == 409
    assert post(studio.port, "/api/stop", {"number": made["number"]})[0] == 200
    stopped = begun(first, "stopped")
    about = json.loads(ask(studio.port, "GET", f"/api/runs/{stopped['name']}")[2])
    assert status_of(studio.root / stopped["name"])["preset"] == "magic3d-toy"  # a prior is named
    assert about["status"] == "stopped"
    assert not about["view"]
    assert post(studio.port, "/api/resume", {"run": run["name"]})[0] == 200
    again = begun(first)
    assert again["name"] == run["name"]
    assert again["index"] == stopped["index"] > 0
    assert post(studio.port, "/api/stop", {"number": again["number"]})[0] == 200
    begun(first, "stopped")
    first.close()


def test_the_worker_offers_what_runs_with_what_ships_and_says_errors_in_one_line(tmp_path):
    found = {each["name"]: each for each in offers()}
    assert (found["toybox"]["needs"], found["zero123-toy"]["needs"]) == ("words", "picture")
    assert "texture-toy" not in found  # it needs a mesh,
    assert "dreamfusion-sd" not in found  # and this one a prior that does not ship
    order = order_of({"prompt": "a red mug", "seed": 3}, tmp_path, {"stages.0.steps": "7"}, Broadcast())
    assert (order.config.stages[0].steps, order.config.seed) == (7, 3)
    with pytest.raises(ValueError, match="unknown preset 'nothing'"):
        order_of({"prompt": "a mug", "preset": "nothing"}, tmp_path, {}, Broadcast())


def test_a_run_records_its_preset_and_four_more_like_it_have_the_same(tmp_path):
    given = [({}, "toybox"), ({"preset": "vsd-toy"}, "vsd-toy")]
    for number, (more, preset) in enumerate(given):
        order = order_of({"prompt": "a red mug", **more}, tmp_path, {}, Broadcast())
        assert order.preset == preset
        info = {"preset": order.preset} if number else {}
        Run.create(tmp_path / preset, "a red mug", config_text=save_yaml(order.config),
                   config_hash=config_hash(order.config), info=info).close()  # fmt: skip
    assert order_of({"prompt": "a mug"}, tmp_path, {"prior.name": "toybox"}, Broadcast()).preset == "magic3d-toy"
    like = order_of({"like": "vsd-toy", "seed": 9}, tmp_path, {}, Broadcast())
    assert (like.preset, like.config.seed, like.config.stages) == ("vsd-toy", 9, order.config.stages)
    assert order_of({"like": "toybox", "seed": 9}, tmp_path, {}, Broadcast()).preset == ""  # of a run that has none


def test_a_server_that_is_stopped_leaves_a_run_that_can_be_continued(stub, tmp_path, monkeypatch):
    """To the bytes of one that was never interrupted."""
    root = tmp_path / "outputs"
    words = settings(stub, SHORT)
    server = Process(root, *words)
    try:
        visitor = ready(server.port)
        assert post(server.port, "/api/start", {"prompt": "a red mug"})[0] == 200
        begun(visitor)
        out = server.signal(signal.SIGINT)
    finally:
        server.close()
    (folder,) = [path for path in root.iterdir() if not path.name.startswith(".")]
    state = status_of(folder)["status"]
    assert state in ("stopped", "finished")
    if state == "stopped":
        assert f"dreamlift resume {folder}" in out
    monkeypatch.chdir(tmp_path)
    assert run_main("resume", folder) == 0
    assert run_main("generate", "--config", folder / "config.yaml", "a red mug", "--out", "alone") == 0
    assert status_of(folder)["status"] == "finished"
    assert (folder / "asset.glb").read_bytes() == Path("alone/asset.glb").read_bytes()
    assert same(checkpoint_of(folder)[1]["work"]["scenes"], checkpoint_of(Path("alone"))[1]["work"]["scenes"])


def test_a_server_that_is_killed_stops_its_run_with_a_checkpoint(stub, tmp_path):
    server = Process(tmp_path / "outputs", *settings(stub))
    try:
        visitor = ready(server.port)
        assert post(server.port, "/api/start", {"prompt": "a red mug"})[0] == 200
        name = begun(visitor)["name"]
        visitor.hear("steps")
        server.process.kill()
        folder = tmp_path / "outputs" / name
        until(lambda: status_of(folder)["status"] == "stopped")
        assert checkpoint_of(folder)[0] > 0
        until(lambda: not (folder / ".lock").exists())
    finally:
        server.close()
