"""What a run's folder says after more than one command: exported with other options, stopped and resumed."""

import base64
import math
import signal
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lift_helpers import generate_words, run_main, small_pictures, status_of, tree
from PIL import Image
from run_helpers import names

from dreamlift.export.glb import load_glb
from dreamlift.runs import carry_out
from dreamlift.runs.run import Run


@pytest.fixture
def quick(monkeypatch):
    small_pictures(monkeypatch)


def test_what_shows_an_asset_is_written_with_it(cwd, quick, stub):
    """The page holds the new file, pictures and figures are of it, and no coarser version of the old one is left."""
    run = cwd / "run"
    assert run_main(*generate_words(stub, "run", "--lod", "3", "--format", "obj,ply")) == 0
    mine = ["asset_lod9.glb", "asset_lod1.txt"]
    for name in mine:
        (run / name).write_text("not an export's")
    before = tree(run)
    shown = ["preview.png", "run.json", "turntable.webp", "view.html"]
    assert run_main("export", "run", "--format", "stl", "--faces", "60", "--lod", "1") == 0
    assert run_main("export", "run", "--format", "obj", "--faces", "60", "--lod", "2") == 0
    gone = set(before) - set(tree(run))
    assert {str(path) for path in gone} == {"asset_lod2.obj", "asset_lod2.mtl", "asset_lod2.png"}
    assert all((run / name).read_bytes() == before[Path(name)] for name in [*shown, "asset.glb", "asset_lod2.glb"])

    assert run_main("export", "run", "--format", "glb", "--faces", "60", "--lod", "1") == 0
    left = {name for name in names(run) if "_lod" in name}
    assert left == {"asset_lod1.obj", "asset_lod1.mtl", "asset_lod1.png", "asset_lod1.ply", "asset_lod2.ply", *mine}
    assert all((run / name).read_bytes() != before[Path(name)] for name in shown)
    assert base64.b64encode((run / "asset.glb").read_bytes()).decode() in (run / "view.html").read_text(encoding="utf-8")
    status = status_of(run)
    assert (status["status"], status["metrics"]["faces"]) == ("finished", len(load_glb(run / "asset.glb").faces))
    with Image.open(run / "preview.png") as sheet:
        views = np.asarray(sheet.convert("RGB")).reshape(2, 32, 8, 32, 3).astype(float)
    error = np.square((views[0] - views[1]) / 255).mean()
    assert -10 * math.log10(error) == pytest.approx(status["metrics"]["roundtrip_psnr"], abs=0.3)


@pytest.mark.parametrize("end", ["whole", "stopped", "failed", "killed"])
def test_a_runs_seconds_are_those_of_all_its_processes(cwd, quick, stub, monkeypatch, end):
    """Six steps of ten seconds each by a clock of the test's own: sixty, in how many processes ever."""

    class KilledError(BaseException):
        """Nothing catches it, as with a killed process."""

    now, log = [500.0], Run.log

    def slow(run, index, values):
        if index == 4 and end in ("failed", "killed"):
            raise {"failed": RuntimeError, "killed": KilledError}[end]
        if index == 3 and end == "stopped":
            signal.raise_signal(signal.SIGTERM)
        now[0] += 10.0
        log(run, index, values)

    monkeypatch.setattr(carry_out, "time", SimpleNamespace(monotonic=lambda: now[0]))
    (cwd / "mine.yaml").write_text("checkpoint_every: 2\n")
    with monkeypatch.context() as patched, suppress(RuntimeError, KilledError):
        patched.setattr(Run, "log", slow)
        run_main(*generate_words(stub, "run", "--config", "mine.yaml"))
    status = {"whole": "finished", "stopped": "stopped", "failed": "failed", "killed": "running"}[end]
    found = status_of(cwd / "run")
    assert (found["status"], found["seconds"]) == (status, 60.0 if end == "whole" else 40.0)
    if end != "whole":
        now[0] = 3.0  # another process's clock begins anywhere
        monkeypatch.setattr(Run, "log", lambda run, index, values: (now.append(now.pop() + 10.0), log(run, index, values)))
        assert run_main("resume", "run") == 0
        assert status_of(cwd / "run")["seconds"] == 60.0
