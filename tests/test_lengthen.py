"""Runs that are given more steps: what continues, what is written down, what is refused."""

import json
import shutil
import signal

import pytest
from lift_helpers import checkpoint_of, generate_words, refused, run_main, small_pictures, status_of, tree
from run_helpers import same

from dreamlift.config.build import load_yaml
from dreamlift.config.schema import Config
from dreamlift.guidance.sds import SDS
from dreamlift.runs import carry_out, settings
from dreamlift.runs.run import Run, read_metrics
from dreamlift.stages.lift import Lift


@pytest.fixture
def quick(monkeypatch):
    small_pictures(monkeypatch)


@pytest.fixture
def no_files(monkeypatch):
    """The end of a run without its meshing and pictures."""
    monkeypatch.setattr(carry_out, "finish", lambda *_: None)
    monkeypatch.setattr(carry_out, "write_results", lambda *_: {"metrics": {"roundtrip_psnr": 0.0, "faces": 0.0}})


class KilledError(BaseException):
    """Nothing catches it, as with a killed process."""


def config_of(folder):
    return load_yaml(Config, (folder / "config.yaml").read_text(encoding="utf-8"))


def state_of(folder):
    """The index, scenes, optimiser and learned parameters at the end."""
    work = checkpoint_of(folder)[1]["work"]
    return {name: work[name] for name in ("index", "scenes", "learned", "optimizer")}


def result_of(folder):
    return [state_of(folder), read_metrics(folder)]


@pytest.mark.parametrize("more", [[], ["--particles", "2"]], ids=["one", "two particles"])
def test_a_longer_run_is_the_one_that_was_long_from_the_beginning(cwd, no_files, stub, more):
    """Bit by bit: the scene, Adam's moments, the random numbers; and so is one that was interrupted."""
    assert run_main(*generate_words(stub, "whole", "--steps", "10", "--stages.0.schedule_steps", "6", *more)) == 0
    assert run_main(*generate_words(stub, "run", *more)) == 0
    shutil.copytree(cwd / "run", cwd / "cut")
    assert run_main("resume", "run", "--steps", "10") == 0
    assert same(result_of(cwd / "run"), result_of(cwd / "whole"))
    stage, end = config_of(cwd / "run").stages[-1], 12 if more else 6
    assert (stage.steps, stage.schedule_steps) == (10, 6)
    assert status_of(cwd / "run")["status"] == "finished"

    with pytest.MonkeyPatch.context() as patched:
        log = Run.log

        def stopping(self, index, values):
            log(self, index, values)
            if index == end + 1:
                signal.raise_signal(signal.SIGINT)

        patched.setattr(Run, "log", stopping)
        assert run_main("resume", "cut", "--steps", "10") == 130
    assert status_of(cwd / "cut")["step"] == end + 2
    assert run_main("resume", "cut") == 0
    assert same(result_of(cwd / "cut"), result_of(cwd / "whole"))


def test_schedules_stay_at_their_ends(cwd, no_files, stub, monkeypatch):
    """And do so when the run is lengthened once more, and in a run from its config."""
    seen, call = [], SDS.__call__

    def watched(self, prior, latents, cond, progress, rng, state):
        seen.append(progress)
        return call(self, prior, latents, cond, progress, rng, state)

    monkeypatch.setattr(SDS, "__call__", watched)
    assert run_main(*generate_words(stub, "run")) == 0
    assert run_main("resume", "run", "--steps", "8") == 0
    assert run_main("resume", "run", "--steps", "9") == 0
    assert seen == pytest.approx([*(i / 6 for i in range(6)), 1, 1, 1])
    assert config_of(cwd / "run").stages[-1].schedule_steps == 6
    hashes = status_of(cwd / "run")
    assert len(set(hashes["earlier_hashes"])) == 2
    assert hashes["config_hash"] not in hashes["earlier_hashes"]
    events = [json.loads(line) for line in (cwd / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["steps"] for event in events if event["event"] == "lengthened"] == [8, 9]
    assert Lift(steps=6).with_steps(6) == Lift(steps=6)
    with pytest.raises(ValueError, match="schedule_steps is 0"):
        Lift(schedule_steps=0)


@pytest.mark.parametrize("moment", range(5))
def test_a_process_killed_while_it_changes_the_settings_loses_nothing(cwd, no_files, stub, monkeypatch, moment):
    assert run_main(*generate_words(stub, "run")) == 0
    moments = []

    def killing(call):
        def wrapped(*words, **more):
            for when in ("before", "after"):
                if len(moments) == moment:
                    raise KilledError
                moments.append(when)
                if when == "before":
                    out = call(*words, **more)
            return out

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(Run, "set_status", killing(Run.set_status))
        patched.setattr(settings, "atomic_write_text", killing(settings.atomic_write_text))
        with pytest.raises(KilledError):
            run_main(
                "resume", "run", "--steps", "10", "--debug"
            )  # without it, the command line turns every error into one line
    (cwd / "run" / ".lock").unlink(missing_ok=True)
    assert run_main("resume", "run") == 0  # it is a usable run, of the old length or of the new one
    assert status_of(cwd / "run")["status"] == "finished"
    assert run_main("resume", "run", "--steps", "10") == 0
    assert state_of(cwd / "run")["index"] == 10
    assert [line["step"] for line in read_metrics(cwd / "run")] == list(range(10))


def test_a_finished_run_is_left_as_it_is(cwd, quick, stub, capsys, monkeypatch):
    assert run_main(*generate_words(stub, "run")) == 0
    before = tree(cwd / "run")
    monkeypatch.setattr(carry_out, "load", None)
    for words in (["resume", "run"], ["resume", "run", "--steps", "6"]):
        capsys.readouterr()
        assert run_main(*words) == 0
        out, err = capsys.readouterr()
        assert out == ""
        assert err == (
            "note: run is finished, so there is nothing to resume; dreamlift resume run --steps N gives it more steps, "
            "dreamlift export run writes its files again\n"
        )
    assert run_main("resume", "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"].startswith("run is finished")
    assert tree(cwd / "run") == before


def test_what_cannot_be_lengthened_is_refused_in_one_line(cwd, no_files, stub, capsys):
    assert run_main(*generate_words(stub, "run", "--particles", "2")) == 0
    capsys.readouterr()
    refused(capsys, cwd, ["resume", "run", "--steps", "4"], "6 steps of the last stage are done: give --steps at least 6")
    refused(capsys, cwd, ["resume", "run", "--steps", "0"], "steps is 0; it must be at least 1")
    assert run_main("resume", "run", "--steps", "many") == 2
    assert "invalid int value: 'many'" in capsys.readouterr().err
    shutil.rmtree(cwd / "run" / "checkpoints")
    refused(capsys, cwd, ["resume", "run", "--steps", "8"], "its checkpoints were removed", "generate --config", code=1)


def test_a_stopped_run_may_end_earlier_or_later(cwd, no_files, stub, monkeypatch):
    """Stopped after 4 of 6 steps, of the first of two stages: the last stage gets other lengths."""
    words = [word for word in generate_words(stub, "run") if word != "--stages.1=null"]
    words += ["--stages.1.steps=3", "--stages.1.cameras.resolution=[16]", "--stages.1.scene.resolution=8"]
    log = Run.log

    def stopping(self, index, values):
        log(self, index, values)
        if index == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "log", stopping)
        assert run_main(*words) == 130
    assert run_main("resume", "run", "--steps", "2") == 0
    assert (state_of(cwd / "run")["index"], config_of(cwd / "run").stages[1].schedule_steps) == (8, 3)
    assert run_main("resume", "run", "--steps", "4") == 0
    stages = config_of(cwd / "run").stages
    assert (state_of(cwd / "run")["index"], stages[0].steps, stages[1].steps, stages[1].schedule_steps) == (10, 6, 4, 3)
