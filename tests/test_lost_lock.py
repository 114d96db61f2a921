"""A run whose folder another host has taken over, after its own machine was suspended or cut off: it writes nothing more."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from lift_helpers import status_of, tree
from run_helpers import HASH, refused, saved

from dreamlift.presets import PRESETS
from dreamlift.runs import carry_out, results
from dreamlift.runs import lock as locks
from dreamlift.runs.progress import Silent
from dreamlift.runs.run import Run
from dreamlift.types import Note


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "run", "a mug", config_hash=HASH, config_text="steps: 3\n") as made:
        yield made


def taken_over(lock, seconds):
    """The lock as a machine finds it that was suspended for ``seconds``, while another host has begun with the folder."""
    record = json.loads(lock.path.read_text())
    lock.path.write_text(json.dumps(record | {"host": "another-host", "token": "another"}))
    lock.record = lock.record | {"renewed": time.time() - seconds}


def test_after_a_suspension_the_holder_looks_before_it_writes(run):
    """The next renewal is up to 30 s away by the clock of the process, which has stood still."""
    before = tree(run.folder)
    taken_over(run.lock, 1)
    assert not locks.is_lost(run.lock), "after a renewal on time the record is not read before each write"
    taken_over(run.lock, locks.VALID + 100)
    theirs = run.lock.path.read_bytes()
    writes = (
        lambda: run.log(0, {"loss": 1.0}), lambda: run.event("checkpoint", {}), lambda: run.set_status("finished", {}),
        lambda: run.save_checkpoint(1, saved(1)), lambda: run.resume(None),
    )  # fmt: skip
    for write in writes:
        refused(write, f"another process has taken over {run.folder}: this one stops and writes nothing more to it")
    run.close()
    assert tree(run.folder) == before | {run.lock.path.relative_to(run.folder): theirs}


def test_after_a_suspension_in_which_nobody_came_the_run_goes_on(run):
    os.utime(run.lock.path, (0, 0))
    run.lock.record = run.lock.record | {"renewed": time.time() - locks.VALID - 100}
    run.log(0, {"loss": 1.0})
    assert time.time() - run.lock.path.stat().st_mtime < 60, "it is renewed first, so that nobody comes while it writes"


def a_job():
    resolved = SimpleNamespace(priors=[[]], device="cpu")
    return SimpleNamespace(config=replace(PRESETS["toybox"], prompt="a mug"), engines=(), number=0, resolved=resolved, index=0)


@pytest.mark.parametrize("moment", ["lift", "finish", "save_files", "show_asset"])
def test_a_run_that_loses_its_folder_writes_no_further_results(run, monkeypatch, moment):
    """Meshing and the files take minutes: what another process has begun meanwhile is left to it."""
    found, done = [], []

    def at(name, made=None, file=""):
        def call(*_):
            done.append(name)
            if file:
                (run.folder / file).write_text("x")
            if name == moment:
                taken_over(run.lock, locks.VALID + 100)
                found.append(tree(run.folder))
            return made

        return call

    asset = SimpleNamespace(others=(), config=a_job().config)
    monkeypatch.setattr(carry_out, "lift", at("lift", [Note("a note")]))
    monkeypatch.setattr(carry_out, "finish", at("finish", asset))
    monkeypatch.setattr(results, "save_files", at("save_files", file="asset.glb"))
    monkeypatch.setattr(results, "show_asset", at("show_asset", {"roundtrip_psnr": 30.0, "faces": 9.0}, "view.html"))
    refused(lambda: carry_out._carry_out(run, a_job(), Silent(), 0.0), "another process has taken over")
    assert done[-1] == moment
    assert tree(run.folder) == found[0]
    assert status_of(run.folder)["status"] == "running"
