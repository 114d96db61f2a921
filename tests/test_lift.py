"""Whole runs with their folder: every file is there and can be read, and nothing that goes wrong loses the work."""

import base64
import errno
import html
import math
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import trimesh
from lift_helpers import (
    TINY,
    as_killed,
    checkpoint_of,
    generate_words,
    run_main,
    save_stub,
    small_pictures,
    status_of,
    strict_json,
    tree,
)
from PIL import Image
from run_helpers import names, same
from safetensors.torch import load_file, save_file

from dreamlift.apps.evaluate import find_items
from dreamlift.config.build import config_hash, load_yaml
from dreamlift.config.schema import Config
from dreamlift.runs import carry_out
from dreamlift.runs.run import read_metrics
from dreamlift.stages.lift import LiftWork

FILES = ["asset.glb", "checkpoints", "config.yaml", "events.jsonl", "metrics.jsonl", "preview.png", "run.json",
         "turntable.webp", "view.html"]  # fmt: skip
PROMPT = 'a red "mug" & <script>alert(1)</script>'


@pytest.fixture
def quick(monkeypatch):
    small_pictures(monkeypatch)


def read_trimesh(path):
    (mesh,) = trimesh.load_scene(path).geometry.values()
    return mesh


# A run that ends well


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, the process): two stages' first and the embedded prior, as a user starts them."""
    cwd = tmp_path_factory.mktemp("finished")
    command = [
        sys.executable,
        "-m",
        "dreamlift.cli",
        "generate",
        PROMPT,
        *TINY,
        "--preset=magic3d-toy",
        "--seed=3",
        "--out=run",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == 0, done.stderr
    assert names(cwd) == ["run"], "something was written outside of --out"
    return cwd / "run", done


def test_all_files_of_a_run_are_there(finished):
    folder, _ = finished
    assert names(folder) == FILES
    assert names(folder / "checkpoints") == ["step-000006"]
    config = load_yaml(Config, (folder / "config.yaml").read_text())
    (stage,) = config.stages
    assert (config.prompt, stage.teachers[0].prior.name, stage.steps, config.seed) == (PROMPT, "toybox", 6, 3)
    events = [strict_json(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["created", "checkpoint"]
    lines = [strict_json(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(6))
    assert all(line["loss"] > 0 and line["grad_norm"] > 0 and 0 < line["t"] < 1 for line in lines)


def test_the_status_says_what_made_the_run(finished):
    folder, _ = finished
    found = status_of(folder)
    assert (found["status"], found["prompt"], found["seed"], found["prior"]) == ("finished", PROMPT, 3, "toybox")
    assert re.fullmatch("[0-9a-f]{16,40}", found["prior_revision"])
    assert found["config_hash"] == config_hash(load_yaml(Config, (folder / "config.yaml").read_text()))
    assert found["packages"]["torch"] == torch.__version__
    assert {"numpy", "diffusers", "transformers", "trimesh"} <= set(found["packages"])
    assert 0 < found["seconds"] < 120
    assert 0.1 < found["peak_memory_gb"] < 10
    assert 15 < found["metrics"]["roundtrip_psnr"] <= 100
    mesh = read_trimesh(folder / "asset.glb")
    assert (found["metrics"]["faces"], found["metrics"]["vertices"]) == (len(mesh.faces), len(mesh.vertices))


def test_the_asset_has_a_texture_to_another_reader(finished):
    mesh = read_trimesh(finished[0] / "asset.glb")
    picture = mesh.visual.material.baseColorTexture
    assert picture.size == (64, 64)
    assert np.asarray(picture.convert("RGB")).std() > 1
    assert 50 < len(mesh.faces) <= 500
    assert mesh.visual.uv.shape == (len(mesh.vertices), 2)
    assert np.abs(mesh.vertices).max() <= 1.0


def test_the_pictures_show_the_asset_from_all_sides(finished):
    folder, _ = finished
    with Image.open(folder / "preview.png") as sheet:
        assert sheet.size == (8 * 128, 2 * 128)  # the scene above, the file below
        pixels = np.asarray(sheet.convert("RGB")).astype(float)
    views = pixels.reshape(2, 128, 8, 128, 3).swapaxes(1, 2)
    assert (views.std(axis=(2, 3, 4)) > 5).all(), "a view shows nothing"
    error = np.square((views[0] - views[1]) / 255).mean()
    assert -10 * math.log10(error) == pytest.approx(status_of(folder)["metrics"]["roundtrip_psnr"], abs=0.1)
    with Image.open(folder / "turntable.webp") as film:
        assert (film.n_frames, film.size) == (36, (384, 384))


def test_the_page_holds_the_asset_and_shows_the_prompt_as_text(finished):
    folder, _ = finished
    page = (folder / "view.html").read_text(encoding="utf-8")
    assert base64.b64encode((folder / "asset.glb").read_bytes()).decode() in page
    assert f"<h1>{html.escape(PROMPT)}</h1>" in page
    assert PROMPT not in page


def test_json_events_are_one_object_a_line(finished):
    folder, done = finished
    events = [strict_json(line) for line in done.stdout.splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(6))
    assert {event["event"] for event in events} == {"stage", "step", "note", "done"}
    last = events[-1]
    assert last["event"] == "done"
    assert last["asset"].endswith("asset.glb")
    assert last["roundtrip_psnr"] == pytest.approx(status_of(folder)["metrics"]["roundtrip_psnr"], abs=0.05)
    # The embedded prior has a small vocabulary: what it does not know is said before the first step.
    kinds = [event["event"] for event in events]
    assert kinds.index("note") < kinds.index("step")
    assert any("does not know" in event.get("text", "") for event in events)


def test_a_run_is_made_again_from_its_own_config(finished, cwd, quick):
    folder, _ = finished
    before = tree(folder)
    assert run_main("generate", "--config", folder / "config.yaml", "--out", "again") == 0
    assert (cwd / "again" / "asset.glb").read_bytes() == (folder / "asset.glb").read_bytes()
    assert same(checkpoint_of(cwd / "again"), checkpoint_of(folder))
    assert run_main("generate", "--config", folder / "config.yaml", "--out", "other", "--seed", "4") == 0
    assert (cwd / "other" / "asset.glb").read_bytes() != (folder / "asset.glb").read_bytes()
    assert tree(folder) == before


def test_export_makes_every_format_and_changes_no_setting(cwd, quick, stub, capsys):
    assert run_main(*generate_words(stub, "run")) == 0
    kept = {name: (cwd / "run" / name).read_bytes() for name in ("asset.glb", "config.yaml", "metrics.jsonl")}
    capsys.readouterr()
    assert run_main("export", "run", "--format", "glb, OBJ,ply") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [os.path.join("run", f"asset.{kind}") for kind in ("glb", "obj", "mtl", "png", "ply")]
    assert all((cwd / "run" / name).read_bytes() == data for name, data in kept.items())
    sizes = {
        len(trimesh.load(path, force="mesh", process=False).faces) for path in printed if path.endswith(("glb", "obj", "ply"))
    }
    assert len(sizes) == 1
    assert names(cwd) == ["run"]
    assert not [name for name in names(cwd / "run") if name.startswith(".")]

    assert run_main("export", "run", "--faces", "100", "--texture-size", "32", "--json") == 0
    events = [strict_json(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1] == {"event": "done", "files": [os.path.join("run", "asset.glb")]}
    mesh = read_trimesh(cwd / "run" / "asset.glb")
    assert len(mesh.faces) <= 100
    assert mesh.visual.material.baseColorTexture.size == (32, 32)
    assert (cwd / "run" / "config.yaml").read_bytes() == kept["config.yaml"]


def test_a_run_killed_while_it_writes_its_files_comes_to_the_same_end(cwd, quick, stub):
    assert run_main(*generate_words(stub, "run")) == 0
    glb, metrics = (cwd / "run" / "asset.glb").read_bytes(), read_metrics(cwd / "run")
    as_killed(cwd / "run")
    (cwd / "run" / "asset.glb").unlink()
    assert run_main("resume", "run") == 0
    assert (cwd / "run" / "asset.glb").read_bytes() == glb
    assert read_metrics(cwd / "run") == metrics
    assert status_of(cwd / "run")["status"] == "finished"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_meshing_stops_the_run_for_later(cwd, quick, stub, capsys, monkeypatch, number):
    with monkeypatch.context() as patched:
        patched.setattr("dreamlift.runs.carry_out.finish", lambda *_: signal.raise_signal(number))
        assert run_main(*generate_words(stub, "run")) == 130
    assert f"stopped by {number.name}; continue with: dreamlift resume run" in capsys.readouterr().err
    assert (status_of(cwd / "run")["status"], status_of(cwd / "run")["step"]) == ("stopped", 6)
    seen = []
    finish = carry_out.finish
    monkeypatch.setattr(carry_out, "finish", lambda *words: (seen.append(status_of(cwd / "run")["status"]), finish(*words))[1])
    assert run_main("resume", "run") == 0
    assert seen == ["running"]
    assert status_of(cwd / "run")["status"] == "finished"


def test_resume_says_that_the_prior_is_another_one(cwd, quick, tmp_path, capsys):
    prior = save_stub(tmp_path / "prior")
    assert run_main(*generate_words(prior, "run")) == 0
    before = status_of(cwd / "run")["prior_revision"]
    as_killed(cwd / "run")
    capsys.readouterr()
    assert run_main("resume", "run") == 0
    assert "have changed since" not in capsys.readouterr().err
    weights = prior / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    save_file({name: value * 1.01 for name, value in state.items()}, weights)
    as_killed(cwd / "run")
    assert run_main("resume", "run") == 0
    assert "have changed since this run began" in capsys.readouterr().err
    assert status_of(cwd / "run")["prior_revision"] != before


# Runs that fail


def failed(capsys, words, *expected):
    """The one line of a run that failed; what was said before it are stages and steps."""
    assert run_main(*words) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("dreamlift: error: ")]
    assert err.endswith(line + "\n")
    assert all(part in line for part in expected), line
    return line


@pytest.mark.parametrize("where", ["export.glb.atomic_write_bytes", "runs.results.atomic_write_bytes"])
def test_a_full_disk_at_the_end_loses_no_work(cwd, quick, stub, capsys, monkeypatch, where):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    name = "asset.glb" if "glb" in where else "preview.png"
    with monkeypatch.context() as patched:
        patched.setattr(f"dreamlift.{where}", full)
        failed(capsys, generate_words(stub, "run"), f"cannot write run/{name}: No space left on device", "resume run` goes on")
    folder = cwd / "run"
    status = status_of(folder)
    assert status["status"] == "failed"
    assert "No space left on device" in status["error"]
    assert name not in names(folder)
    assert not [found for found in names(folder) if found.startswith(".")]
    assert checkpoint_of(folder)[0] == 6
    assert run_main("export", "run") == 0
    assert len(read_trimesh(folder / "asset.glb").faces) > 50
    assert run_main("resume", "run") == 0
    assert status_of(folder)["status"] == "finished"
    assert names(folder) == FILES


def test_a_full_disk_while_exporting_keeps_the_old_file(cwd, quick, stub, capsys, monkeypatch):
    assert run_main(*generate_words(stub, "run")) == 0
    before = tree(cwd)

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("dreamlift.export.glb.atomic_write_bytes", full)
    capsys.readouterr()
    failed(
        capsys, ["export", "run", "--faces", "50"], "cannot write run/asset.glb: No space left on device", "export run` goes on"
    )
    assert tree(cwd) == before


def test_every_particle_is_exported_and_their_diversity_told(cwd, quick, stub, capsys):
    assert run_main(*generate_words(stub, "run"), "--particles", "2") == 0
    folder = cwd / "run"
    each = ["asset.glb", "preview.png", "turntable.webp", "view.html"]
    assert names(folder) == sorted([*FILES, "particle-2", "ranking.json", "sheet.png"])
    assert names(folder / "particle-2") == each
    status = status_of(folder)
    assert checkpoint_of(folder)[0] == 12
    assert len(status["particles"]) == 2
    assert status["particles"][0] == status["metrics"]
    assert (folder / "asset.glb").read_bytes() != (folder / "particle-2" / "asset.glb").read_bytes()
    assert 0.0 <= status["diversity"] <= 2.0
    assert "diversity of the 2 particles" in capsys.readouterr().err
    found = find_items([folder])
    assert [item.name for item in found] == ["run", "run/particle-2"]
    assert run_main("export", "run", "--format", "ply") == 0
    assert (folder / "asset.ply").is_file()
    assert (folder / "particle-2" / "asset.ply").is_file()
    assert run_main("export", "run", "--faces", "60") == 0
    again = status_of(folder)
    for place, found in zip((folder, folder / "particle-2"), again["particles"], strict=True):
        assert found["faces"] == len(read_trimesh(place / "asset.glb").faces) <= 60
    assert again["metrics"] == again["particles"][0]
    assert again["diversity"] != status["diversity"]


def test_an_empty_scene_makes_no_asset(cwd, quick, stub, capsys, monkeypatch):
    take = LiftWork.step

    def emptied(work):
        step = take(work)
        if work.finished:
            with torch.no_grad():
                for level in work.scene.field.levels:
                    level[..., 0] = -1e3
        return step

    monkeypatch.setattr(LiftWork, "step", emptied)
    failed(capsys, generate_words(stub, "run"), "the scene is empty")
    assert status_of(cwd / "run")["status"] == "failed"
    assert "EmptySceneError" in status_of(cwd / "run")["error"]
    failed(capsys, ["export", "run", "--format", "glb,obj,ply"], "the scene is empty")
    assert not [name for name in names(cwd / "run") if name.startswith("asset")]


def test_a_run_that_diverges_fails_with_advice(cwd, quick, stub, capsys, monkeypatch):
    monkeypatch.setattr("dreamlift.stages.lift.find_trouble", lambda *_: "the loss is not finite")
    failed(capsys, generate_words(stub, "run"), "step 0: the loss is not finite", "Lower adam.lr_scale")
    assert status_of(cwd / "run")["status"] == "failed"
    lines = [strict_json(line) for line in (cwd / "run" / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["created"] + ["rolled back"] * 3
    assert not (cwd / "run" / "asset.glb").exists()
    failed(capsys, ["export", "run"], "run has no checkpoint yet: resume the run with `dreamlift resume run`")


def test_events_of_a_step_that_was_rolled_back_are_json(cwd, quick, stub, capsys, monkeypatch):
    from dreamlift.guidance.sds import SDS

    call, calls = SDS.__call__, []

    def broken_once(self, prior, latents, cond, progress, rng, state):
        out = call(self, prior, latents, cond, progress, rng, state)
        calls.append(progress)
        return out if len(calls) != 3 else type(out)(out.loss * float("nan"), out.x0, out.t, {"grad_rms": float("inf")})

    monkeypatch.setattr(SDS, "__call__", broken_once)
    assert run_main(*generate_words(stub, "run"), "--json") == 0
    events = [strict_json(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == [0, 1, 2, 0, 1, 2, 3, 4, 5]
    assert any("rolled back to step 0" in event.get("text", "") for event in events)


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_is_used(cwd, quick, stub, capsys):
    config = cwd / "mine.yaml"
    config.write_text("checkpoint_every: 4\n")
    words = ["generate", "a red mug", "--config", config, "--prior", stub, *TINY, "--out", "run"]
    assert run_main(*words) == 0
    glb = (cwd / "run" / "asset.glb").read_bytes()
    newest = cwd / "run" / "checkpoints" / "step-000006" / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\xff")
    as_killed(cwd / "run")
    capsys.readouterr()
    assert run_main("resume", "run") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: the checkpoint ")]
    assert len(notes) == 1
    assert "step-000006 is not used: tensors.safetensors was changed" in notes[0]
    assert (cwd / "run" / "asset.glb").read_bytes() == glb
