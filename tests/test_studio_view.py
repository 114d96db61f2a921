"""Rendering for a visitor changes nothing: scenes, random generators, and the bytes of a whole run."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lift_helpers import TINY, run_main, small_pictures, tree
from PIL import Image
from run_helpers import same

from dreamlift.cameras import turntable
from dreamlift.runs.progress import Several, Silent
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.studio.broadcast import Broadcast
from dreamlift.studio.look import Look, draw
from dreamlift.system.streams import random_stream

SCENES = {
    "nerf": Nerf(field=Voxel(resolutions=(9, 17), switch_on=(0.0, 0.5)), samples_per_ray=24),
    "tetmesh": TetMesh(),
    "gaussians": Gaussians(),
}


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("clay", [False, True])
def test_a_visitors_picture_leaves_the_scene_as_it_was(name, clay):
    scene = SCENES[name].build(random_stream(0)).train()
    next(iter(scene.children())).eval()  # a part that a scene keeps in another mode
    before = {key: value.clone() for key, value in scene.state_dict().items()}
    modes, own = [module.training for module in scene.modules()], torch.get_rng_state()
    picture = draw(scene, Look(0.3, 0.2, 3.0), 24, clay)
    assert picture.shape == (24, 24, 3)
    assert same(before, dict(scene.state_dict()))
    assert modes == [module.training for module in scene.modules()]
    assert torch.equal(own, torch.get_rng_state())
    assert not any(parameter.grad is not None for parameter in scene.parameters())
    assert torch.is_grad_enabled()


def test_the_picture_is_that_of_the_camera_asked_for():
    scene = SCENES["tetmesh"].build(random_stream(0)).train()
    cameras = turntable(4, elevation_deg=0.0, distance=3.0, fov_deg=42.0, size=24)
    with torch.no_grad():
        ours = scene.eval().render(cameras[1:2], random_stream("x"), background=torch.ones(3)).rgb[0]
    picture = draw(scene, Look(np.pi / 2, 0.0, 3.0), 24, False)
    assert np.abs(picture / 255 - ours.numpy()).max() < 0.01
    clay = draw(scene, Look(np.pi / 2, 0.0, 3.0), 24, True)
    inside = ~(picture == 255).all(axis=-1)
    assert inside.mean() > 0.05
    assert np.ptp(clay[inside].astype(int), axis=-1).max() == 0  # grey,
    assert clay[inside].std() > 5  # and shaded


class Crowd:
    """A link whose visitors ask for another view, and for the teacher's estimate, before every step."""

    def __init__(self, reporter):
        self.reporter, self.heard = reporter, []
        reporter.received({"type": "pair", "wanted": True})
        self.ask()

    def ask(self):
        for number in range(3):
            view = [None if number == 0 else 0.7 * number + 0.1 * len(self.heard), 0.2, 3.0, [None, True, False][number]]
            self.reporter.received({"type": "look", "visitor": f"v{number}", "view": view})

    def send(self, message, data=b"", losable=False):
        self.heard.append((message, data))
        if message["type"] == "step":
            self.ask()
            self.reporter.free_at = self.reporter.pair_at = 0.0


class Watched(Broadcast):
    """Alternates between visitors and the pair as fast as steps allow."""

    def __init__(self):
        super().__init__()
        self.link = Crowd(self)

    def step(self, step, total):
        self.paired = step.index % 2 == 0
        super().step(step, total)


def test_a_runs_files_are_bit_identical_with_and_without_visitors(stub, cwd, monkeypatch):
    """The asset, its textures and pictures, and every checkpoint: both stages, a field and its mesh."""
    small_pictures(monkeypatch)
    monkeypatch.setattr("dreamlift.studio.broadcast.PAIR_EVERY", 0.0)
    two = [word for word in TINY if word != "--stages.1=null"]
    words = ["generate", "a red mug", "--prior", str(stub), *two, "--stages.1.steps=4", "--stages.1.cameras.resolution=[32]",
             "--checkpoint_every", "2", "--keep_checkpoints", "9"]  # fmt: skip
    assert run_main(*words, "--out", "alone") == 0
    crowd = Watched()
    monkeypatch.setattr("dreamlift.runs.reporters.choose", lambda *_: Several(Silent(), crowd))
    assert run_main(*words, "--out", "watched") == 0
    told = [message for message, _ in crowd.link.heard]
    frames = [message for message in told if message["type"] == "frame"]
    assert not [message for message in told if message["type"] == "note" and "off" in message["text"]]
    assert {message["index"] for message in frames} >= {1, 3, 5, 7, 9}  # in both stages
    assert len([message for message in told if message["type"] == "pair"]) >= 4
    alone, watched = tree(cwd / "alone"), tree(cwd / "watched")
    named = [path for path in alone if path.name not in ("run.json", "events.jsonl") and ".lock" not in path.name]
    assert sum(path.name == "tensors.safetensors" for path in named) == 5
    assert "asset.glb" in map(str, named)
    assert [str(path) for path in named if alone[path] != watched[path]] == []


def test_pictures_are_jpegs_and_visitors_of_one_view_share_one(stub, cwd, monkeypatch):
    small_pictures(monkeypatch)
    reporter = Broadcast()
    crowd = Crowd.__new__(Crowd)
    crowd.reporter, crowd.heard = reporter, []
    crowd.ask = lambda: [
        reporter.received({"type": "look", "visitor": f"v{n}", "view": [None, 0.2, 3.0, None]}) for n in range(50)
    ]
    reporter.link = crowd
    crowd.ask()
    monkeypatch.setattr("dreamlift.runs.reporters.choose", lambda *_: reporter)
    assert run_main("generate", "a red mug", "--prior", str(stub), *TINY, "--out", "run") == 0
    frames = [(message, data) for message, data in crowd.heard if message["type"] == "frame"]
    assert len(frames) <= 6  # one a step, not fifty
    assert all(len(message["visitors"]) == 50 for message, _ in frames)
    with Image.open(io.BytesIO(frames[0][1])) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (frames[0][0]["size"],) * 2


def test_drawing_takes_a_share_of_the_time(monkeypatch):
    """By a clock of its own: a drawing of 1 s is followed by 3 s without one."""
    now, drawn = [0.0], []
    monkeypatch.setattr("dreamlift.studio.broadcast.time.monotonic", lambda: now[0])
    reporter = Broadcast()
    reporter.attach(SimpleNamespace(work=SimpleNamespace(scenes=(None,))))

    def one(*_):
        drawn.append(now[0])
        now[0] += 1.0

    monkeypatch.setattr(reporter, "_draw", one)
    for _ in range(100):
        reporter.received({"type": "look", "visitor": "v", "view": [0.0, 0.2, 3.0, None]})
        reporter._show(None)
        now[0] += 0.25
    assert drawn[:3] == [0.0, 4.0, 8.0]
    now[0] += 9.0
    reporter.received({"type": "look", "visitor": "v", "view": [0.0, 0.2, 3.0, None]})
    reporter.job.work.scenes = ()  # a stage without a scene: the wish is kept for the next one
    reporter._show(None)
    assert list(reporter.looks) == ["v"]


def test_a_picture_that_fails_does_not_end_a_run(stub, cwd, monkeypatch):
    small_pictures(monkeypatch)
    reporter = Watched()

    def broken(*_):
        raise RuntimeError("no picture")

    monkeypatch.setattr("dreamlift.studio.look.draw", broken)
    monkeypatch.setattr("dreamlift.studio.look.pair", broken)
    monkeypatch.setattr("dreamlift.runs.reporters.choose", lambda *_: reporter)
    assert run_main("generate", "a red mug", "--prior", str(stub), *TINY, "--out", "run") == 0
    notes = [message["text"] for message, _ in reporter.link.heard if message["type"] == "note"]
    assert sum("the live view is off for this run (RuntimeError: no picture)" in text for text in notes) == 1
