"""A second kind of stage, in one class with its work: it has no scene and leaves posed pictures, from which a lift goes on."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from lift_helpers import run_main, small_pictures, status_of
from run_helpers import same
from stage_helpers import FIELD

from dreamlift.cameras import CameraSampler, turntable
from dreamlift.config.build import save_yaml
from dreamlift.config.schema import Config
from dreamlift.lifting import lift, load, resolve
from dreamlift.plugins import register
from dreamlift.runs.checkpoints import load_latest, save_checkpoint
from dreamlift.scenes.nerf.occupancy import Occupancy
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.stages import STAGES
from dreamlift.stages.base import SavedState, Stage, Work
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.system.streams import random_stream
from dreamlift.texturing.extract import Extract
from dreamlift.types import Pictures, RenderOutput, StageBegan, Step


@dataclass(frozen=True, kw_only=True)
class Album(Stage):
    """Draws pictures of a disk, one a step."""

    leaves_pictures: ClassVar[bool] = True

    steps: int = 3  # pictures

    def total_steps(self, particles):
        return self.steps

    def check(self, place):
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")

    def begin(self, ready):
        return Drawing(self, ready)


class Drawing(Work):
    SIZE = 8

    def __init__(self, stage, ready):
        self.ready, self.steps = ready, stage.steps
        self.index, self.end = ready.place.first, ready.place.first + stage.steps
        self.drawn = torch.zeros(0, self.SIZE, self.SIZE, 3)

    def step(self):
        color = torch.rand(3, generator=random_stream(self.ready.place.seed, self.index))
        y, x = torch.meshgrid(*[torch.linspace(-1, 1, self.SIZE)] * 2, indexing="ij")
        disk = (x**2 + y**2 < 0.5)[None, ..., None].float()
        self.drawn = torch.cat([self.drawn, disk * color])
        self.index += 1
        render = RenderOutput(disk * color, disk, torch.ones_like(disk), None)
        return Step(self.index - 1, 0.0, {}, turntable(1, size=self.SIZE), render, ())

    def leave(self, settings: Extract):
        alpha = (self.drawn.sum(-1, keepdim=True) > 0).float()
        return replace(self.ready.handover, pictures=Pictures(self.drawn, alpha, turntable(self.steps, size=self.SIZE)))

    def state_dict(self):
        return {"index": self.index, "drawn": self.drawn}

    def load_state_dict(self, saved):
        self.index, self.drawn = saved["index"], saved["drawn"]


FITTING = Lift(
    steps=4,
    cameras=CameraSampler(views=1, resolution=(8,)),
    scene=Nerf(field=FIELD, samples_per_ray=12, occupancy=Occupancy(resolution=8, every=2, warmup=2)),
    teachers=(),
    photometric=Photometric(source="handover", views=2, resolution=(8,)),
)
CONFIG = Config(prompt="a disk", stages=(Album(), FITTING))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr("dreamlift.plugins._added", set())
    monkeypatch.setitem(STAGES, "album", Album)  # removed after the test
    del STAGES["album"]
    register("stage", "album", Album)


def test_its_pictures_reach_the_next_stage():
    job = load(resolve(CONFIG))
    events = list(lift(job))
    began = [event for event in events if isinstance(event, StageBegan)]
    assert [event.number for event in began] == [0, 1]
    pictures = began[1].handover.pictures
    assert pictures.rgb.shape == (3, 8, 8, 3)
    assert torch.equal(pictures.rgb[1, 4, 4], torch.rand(3, generator=random_stream(0, 1)))
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.index for step in steps] == list(range(7))
    assert all(set(step.terms) >= {"photo_rgb", "photo_mask"} for step in steps[3:])


@pytest.mark.parametrize("done", range(8))
def test_a_run_continues_from_any_step_of_either_stage(tmp_path, done):
    whole = load(resolve(CONFIG))
    for _ in lift(whole):
        pass
    first = load(resolve(CONFIG))
    if done:
        for event in lift(first):
            if isinstance(event, Step) and event.index + 1 == done:
                break
    save_checkpoint(tmp_path, done, first.saved().to_dict(), "hash")
    saved = SavedState.from_dict(load_latest(tmp_path, "hash")[1])
    resumed = load(resolve(CONFIG, saved), saved)
    for _ in lift(resumed):
        pass
    assert same(resumed.saved().to_dict(), whole.saved().to_dict())


def test_the_command_line_runs_it(cwd, monkeypatch, capsys):
    small_pictures(monkeypatch)
    (cwd / "album.yaml").write_text(save_yaml(CONFIG))
    options = ["--steps", "2", "--mesh.resolution", "16", "--mesh.faces", "200", "--mesh.texture_size", "32"]
    assert run_main("generate", "--config", "album.yaml", *options, "--out", "run") == 0
    assert "lifting 'a disk' on cpu, into run" in capsys.readouterr().err
    assert status_of(cwd / "run")["status"] == "finished"
    assert len((cwd / "run" / "metrics.jsonl").read_text().splitlines()) == 2 + 4


def test_a_lift_from_pictures_needs_a_stage_that_leaves_some():
    with pytest.raises(ValueError, match="no stage before this one leaves pictures"):
        resolve(replace(CONFIG, stages=(FITTING,)))
