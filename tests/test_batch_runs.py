"""Whole batches with real processes: killed, stopped, poisoned, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from lift_helpers import TINY

from dreamlift.cli import main
from dreamlift.system.processes import started

POISON = """
import os, signal
from dreamlift.priors.kinds import Located
read = Located.read
def harmful(self, task, *others, **more):
    if "poison" in task.prompt:
        os.kill(os.getpid(), signal.SIGSEGV)
    return read(self, task, *others, **more)
Located.read = harmful
"""


def begun(folder, *words):
    command = [sys.executable, "-m", "dreamlift.cli", "batch", "--out", "runs", "--json", *map(str, words)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events_until(process, kind):
    """The events up to the first of a kind, or to the end."""
    found = []
    for line in process.stdout:
        found.append(json.loads(line))
        if found[-1]["event"] == kind:
            break
    return found


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_killed_batch_goes_on_and_a_poison_prompt_costs_itself_alone(cwd, capsys):
    (cwd / "list.csv").write_text("prompt,seed\na red mug,0\na poison mug,0\na red mug,1\na red mug,2\n")
    (cwd / "poison.py").write_text(POISON)
    words = ["list.csv", "--jobs", 2, "--attempts", 2, "--plugin", "poison.py", *TINY]
    first = begun(cwd, *words)
    assert events_until(first, "done")[-1]["event"] == "done"
    claims = [json.loads(path.read_text()) for path in cwd.glob("runs/*/.asset/claim-*")]
    first.send_signal(signal.SIGKILL)
    first.wait()
    workers = {tuple(pair) for claim in claims for pair in claim["processes"] if pair[0] != first.pid}
    end = time.monotonic() + 20
    while any(started(pid) == begun for pid, begun in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(started(pid) == begun for pid, begun in workers)  # they end with their coordinator
    second = begun(cwd, *words)
    told = events_until(second, "end")
    second.communicate()
    assert second.returncode == 3
    assert (told[-1]["assets"], told[-1]["done"], told[-1]["failed"]) == (4, 3, 1)
    assert told[-1]["made"] + 1 <= 4
    assert "SIGSEGV" in next(iter(told[-1]["reasons"].values()))
    good = sorted(cwd.glob("runs/a-red-mug-*"))
    assert len(good) == 3
    for folder in good:
        assert (folder / "asset.glb").is_file()
        assert [event["event"] for event in read(folder / "events.jsonl")].count("created") == 1
        assert json.loads((folder / "run.json").read_text())["preset"] == "toybox"
        assert [line["step"] for line in read(folder / "metrics.jsonl")] == [*range(6)]
    before = {path: path.stat().st_mtime_ns for folder in good for path in folder.rglob("*")}
    assert main(["batch", "--out", "runs"]) == 3  # the one that was given up stays so
    errors = capsys.readouterr().err
    again = "1 was given up: `dreamlift batch --out runs --retry-failed` tries it again"
    assert errors.splitlines()[-1] == f"dreamlift: 3 of 4 are made and {again}"
    assert "nothing to do" not in errors
    assert main(["status", "runs"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].strip() == again
    assert main(["resume", str(good[0])]) == 0
    assert "is finished, so there is nothing to resume" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for folder in good for path in folder.rglob("*")} == before
    assert main(["gallery", *map(str, cwd.glob("runs/[!.]*")), "--out", "page"]) == 0  # assets are ordinary runs


def test_a_signal_stops_at_a_checkpoint_and_the_same_command_goes_on(cwd):
    (cwd / "list.txt").write_text("a red mug\n")
    long = [word for word in TINY if not word.startswith("--steps")]
    process = begun(cwd, "list.txt", *long, "--steps=100000")
    end = time.monotonic() + 200
    while not list(cwd.glob("runs/a-red-mug-*/metrics.jsonl")) and time.monotonic() < end:
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "dreamlift: stopped by SIGINT; the same command goes on, and what is finished stays"
    (folder,) = cwd.glob("runs/a-red-mug-*")
    assert json.loads((folder / "run.json").read_text())["status"] == "stopped"
    assert json.loads((folder / ".asset" / "end-0001").read_text())["outcome"] == "stopped"
    assert len(list((folder / "checkpoints").iterdir())) == 1
    assert list((cwd / "runs" / ".batch" / "workers").iterdir()) == []
    assert list((cwd / "runs" / ".batch" / "logs").iterdir()) == []
    process = begun(cwd, "--attempts", 1)
    while not (folder / ".asset" / "claim-0002").exists() and time.monotonic() < end:
        time.sleep(0.02)
        assert process.poll() is None, process.stderr.read()
    for pid, _ in reversed(json.loads((folder / ".asset" / "claim-0002").read_text())["processes"]):
        os.kill(pid, signal.SIGTERM)  # to all of them, the worker first, while it prepares the run
    _, errors = process.communicate()
    assert (process.returncode, errors.splitlines()[-1][:30]) == (130, "dreamlift: stopped by SIGTERM;")
    assert json.loads((folder / ".asset" / "end-0002").read_text())["outcome"] == "stopped"
    assert not (folder / ".asset" / "failed").exists()


def test_what_a_killed_beginning_leaves_is_removed_and_other_files_are_kept(tmp_path):
    from dreamlift.batch.workers.making import remove_unbegun
    from dreamlift.runs.run import Run, RunError

    (tmp_path / ".asset").mkdir()
    for name in ("config.yaml", "events.jsonl", ".tmp-0123", ".asset/claim-0001"):
        (tmp_path / name).write_text("x")
    remove_unbegun(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".asset"]
    with Run.create(tmp_path, "a mug"):  # the ledger does not count as content
        pass
    (tmp_path / "run.json").unlink()
    (tmp_path / "mine.txt").write_text("x")
    remove_unbegun(tmp_path)
    with pytest.raises(RunError, match="not empty"):
        Run.create(tmp_path, "a mug")
    assert (tmp_path / "mine.txt").exists()


def test_errors_of_an_asset_are_told_apart(tmp_path):
    from dreamlift.batch.workers.making import outcome_of
    from dreamlift.runs.run import RunError
    from dreamlift.types import EmptySceneError

    full = RunError("cannot write")
    full.__cause__ = OSError(28, "No space left on device")
    cases = {"disk": full, "refused": EmptySceneError("empty"), "memory": RuntimeError("DefaultCPUAllocator: no memory"),
             "busy": RunError("x is in use by process 7"), "error": RuntimeError("a defect")}  # fmt: skip
    assert {name: outcome_of(error, tmp_path) for name, error in cases.items()} == {name: name for name in cases}
    assert outcome_of(ValueError("bad"), tmp_path) == "refused"
    assert outcome_of(OSError(5, "Input/output error"), tmp_path) == "error"


def test_a_prior_that_has_gone_is_no_fault_of_an_asset(tmp_path, monkeypatch):
    """Its folder, a file of settings, the weights, the tokenizer, or all on a shared disk that does not answer."""
    from dreamlift.batch.workers.making import outcome_of
    from dreamlift.priors.choice import PriorChoice
    from dreamlift.priors.kinds import find
    from dreamlift.priors.parts import FolderParts

    def outcome(act):
        with pytest.raises(ValueError, match=r".") as caught:
            act()
        return outcome_of(caught.value, tmp_path)

    def stale(_):
        raise OSError(116, "Stale file handle")

    folder = tmp_path / "prior"
    parts = FolderParts(folder)
    acts = [
        lambda: find(PriorChoice(str(folder))),
        lambda: parts.config("unet"),
        lambda: parts.tensors("unet", torch.float32),
        lambda: parts.tokenizer("tokenizer"),
        parts.noise_schedule,
    ]
    assert [outcome(act) for act in acts] == ["prior"] * len(acts)
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "model.safetensors").write_bytes(b"")
    assert [outcome(act) for act in acts] == ["prior"] * len(acts)
    monkeypatch.setattr("dreamlift.priors.kinds.revision_of", stale)
    assert outcome(lambda: find(PriorChoice("toybox"))) == "prior"


def test_a_batch_on_ray_makes_each_asset_once(cwd, capsys):
    ray = pytest.importorskip("ray", reason='Ray is not installed (pip install "dreamlift[cluster]")')
    (cwd / "list.csv").write_text("prompt,seed\na red mug,0\na poison mug,0\n")
    (cwd / "poison.py").write_text(POISON)
    words = ["--jobs", "1", "--attempts", "1", "--plugin", str(cwd / "poison.py"), *TINY]
    try:
        assert main(["batch", "list.csv", "--out", "runs", "--ray", "local", *words]) == 3
    finally:
        ray.shutdown()
    (done,) = cwd.glob("runs/*/.asset/done")
    (failed,) = cwd.glob("runs/*/.asset/failed")
    assert (done.parents[1] / "asset.glb").is_file()
    assert "its actor has ended" in json.loads(failed.read_text())["reason"]
    assert main(["batch", "--out", "runs"]) == 3
