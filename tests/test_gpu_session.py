"""Measurements and trainings with a time limit: what they do when it is reached. The figures themselves need a GPU."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from dreamlift.toybox.training.network import make_networks
from dreamlift.toybox.training.prior import Training, draw_batch, train
from dreamlift.toybox.training.steps.learning import learning_rate

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def full_size(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("full_size")


def run(full_size, monkeypatch, *options: str) -> int:
    """The exit code of ``benchmarks/full_size.py`` with tiny models on a CPU."""
    monkeypatch.setattr("sys.argv", ["full_size.py", "--device", "cpu", "--small", *options])
    try:
        full_size.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_what_fits_follows_from_the_longest_part_of_its_kind(full_size):
    now = [0.0]
    deadline = full_size.Deadline(100.0, 0.0, lambda: now[0])
    assert deadline.fits("loading")  # nothing is known yet
    for end in (30.0, 40.0):
        with deadline.part("loading"):
            now[0] = end
    assert deadline.longest == {"loading": 30.0}
    assert deadline.fits("loading")  # 30 s, and 60 are left
    now[0] = 75.0
    assert not deadline.fits("loading")
    assert deadline.fits("measuring")
    now[0] = 100.0
    assert not deadline.fits("measuring")
    assert full_size.Deadline(0.0, 0.0, lambda: now[0]).left == float("inf")


def test_one_model_serves_all_sizes_and_a_failure_stops_no_other_row(full_size, monkeypatch, tmp_path, capsys):
    made, measured, step_of = [], [], full_size.measure
    make = full_size.MODELS["sd-2.1-base"]
    monkeypatch.setitem(full_size.MODELS, "sd-2.1-base", lambda *given: (made.append(given), make(*given)))
    monkeypatch.setitem(full_size.MODELS, "sdxl", lambda *_: 1 / 0)

    def measure(job, size, *more):
        measured.append(job)
        return step_of(job, size, *more)

    monkeypatch.setattr(full_size, "measure", measure)
    options = ("--models", "sdxl", "sd-2.1-base", "--losses", "sds", "--sizes", "8", "16", "--steps", "1")
    assert run(full_size, monkeypatch, *options, "--json", str(tmp_path / "rows.json")) == 1
    found = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["model"], row["loss"], row["size"], row["steps"]) for row in found["rows"]] == [
        ("sd-2.1-base", "sds", 8, 1), ("sd-2.1-base", "sds", 16, 1),
    ]  # fmt: skip
    assert all(row["step_ms"] > 0 and row["floor_ms"] > 0 and row["ratio"] > 0 and row["load_s"] > 0 for row in found["rows"])
    assert [(row["model"], row["size"]) for row in found["failed"]] == [("sdxl", 8), ("sdxl", 16)]
    assert found["failed"][0]["why"] == "ZeroDivisionError: division by zero"
    assert (found["device"], found["small"], found["skipped"]) == ("CPU", True, [])
    assert len(made) == 1
    assert len(measured) == 2
    assert measured[0] is measured[1]
    assert "sd-2.1-base   sds       16" in capsys.readouterr().out


def test_past_the_deadline_rows_are_left_out_and_named(full_size, monkeypatch, tmp_path, capsys):
    file = tmp_path / "rows.json"
    options = ("--models", "sdxl", "sd3-medium", "--sizes", "64", "--seconds", "1e-9", "--json", str(file))
    assert run(full_size, monkeypatch, *options) == 1  # not one row
    found = json.loads(file.read_text())
    assert found["rows"] == found["failed"] == []
    expected = [("sdxl", "sds"), ("sdxl", "vsd"), ("sd3-medium", "sds")]  # there is no VSD for the last one
    assert [(row["model"], row["loss"]) for row in found["skipped"]] == expected
    assert "sdxl          vsd       64  skipped: making it no longer fits" in capsys.readouterr().out


def test_the_learning_rate_decays_towards_whichever_end_comes_first():
    at = [learning_rate(step, 1000, 2.0, 100, 0.6, spent) for step, spent in ((300, 0.0), (300, 0.8), (800, 0.1), (300, 1.5))]
    half = 2.0 * (0.05 + 0.95 * 0.5)  # the middle of the decay from 0.6 to 1
    assert at == pytest.approx([2.0, half, half, 0.1])


def test_a_training_ends_in_time_saves_and_goes_on(tmp_path, monkeypatch):
    from test_toybox_prior import pictures

    room, now, drawn = "dreamlift.toybox.training.prior", [0.0], []
    monkeypatch.setattr("dreamlift.toybox.training.dataset.load_shards", lambda *_: pictures())
    monkeypatch.setattr(f"{room}.make_networks", lambda words, size: make_networks(words, size, (8, 16)))
    monkeypatch.setattr("dreamlift.toybox.training.steps.loop.time.time", lambda: now[0])

    def draw(data, settings, index, shape, taught):
        now[0] += 10.0  # a step takes ten seconds
        drawn.append(index)
        return draw_batch(data, settings, index, shape, taught=taught)

    monkeypatch.setattr(f"{room}.draw_batch", draw)
    settings = Training(steps=1000, batch=2, size=16, warmup=2, seconds=25.0)
    for calls in (1, 2):
        train(settings, tmp_path, tmp_path, "cpu", 500, kinds=("mug",))
        with safe_open(tmp_path / "training.safetensors", "pt") as file:
            assert int(file.metadata()["step"]) == 3 * calls
    assert drawn == list(range(6))  # none is done twice and none is left out
    assert [json.loads(row)["step"] for row in (tmp_path / "loss.jsonl").read_text().splitlines()] == [0, 2, 5]
    assert (tmp_path / "prior" / "model_index.json").is_file()
    assert np.isfinite([json.loads(row)["loss"] for row in (tmp_path / "loss.jsonl").read_text().splitlines()]).all()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--budget", "soon"], "--budget is 'soon'; accepted: whole seconds, 1 or more"),
        (["--train", "other"], "--train is 'other'; accepted: toybox"),
        (["--parts", "tests cooking"], "--parts has 'cooking'; accepted: tests timings training"),
        (["--out"], "--out needs a value"),
        (["--fast"], "unknown option --fast; see --help"),
    ],
)
def test_wrong_options_of_the_script_are_one_line(options, error):
    done = subprocess.run(["bash", str(BENCHMARKS / "gpu_session.sh"), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert error in done.stderr
    assert len(done.stderr.splitlines()) == 1
