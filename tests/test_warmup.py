"""Compilation beforehand: which kernels it covers, when a second process starts, and the verb."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from filelock import FileLock

from dreamlift.cli import main
from dreamlift.config.build import load_yaml
from dreamlift.config.schema import Config
from dreamlift.presets import PRESETS
from dreamlift.runs import warmup
from dreamlift.runs.warmup import is_warm, short, warm, warm_beside
from dreamlift.stages.photometric import Photometric
from dreamlift.system import jit

pytestmark = pytest.mark.skipif(not jit.fast_kernels_available(), reason="needs numba")
CONFIG = replace(PRESETS["toybox"], prompt="a red mug", device="cpu")


@pytest.fixture(autouse=True)
def own_stamps(tmp_path, monkeypatch):
    """A folder for the notes of what is warm; kernels stay where they are."""
    stamp = warmup._stamp
    monkeypatch.setattr(warmup, "_stamp", lambda config: tmp_path / "stamps" / stamp(config).name)
    monkeypatch.setattr(warmup, "plugin_names", list)  # other tests may have imported some
    monkeypatch.setattr(warmup, "available_host", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return tmp_path / "stamps"


def test_it_compiles_every_kernel_of_a_run():
    code = """
import json, sys, tempfile
from dataclasses import replace
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from dreamlift.config.short import override
from dreamlift.presets import PRESETS
from dreamlift.runs.carry_out import Order, carry_out
from dreamlift.runs.progress import Silent
from dreamlift.runs.warmup import warm

def known():
    return {f"{name}.{key} {signature}" for name, module in list(sys.modules.items()) if name.startswith("dreamlift")
            for key, value in vars(module).items() if isinstance(value, Dispatcher) for signature in value.signatures}

config = replace(PRESETS["toybox"], prompt="a red mug", device="cpu")
warm(config)
before = known()
with tempfile.TemporaryDirectory() as folder:
    config = override(config, {"steps": "2", "stages.1.steps": "2", "mesh.faces": "2000", "mesh.texture_size": "128"})
    assert carry_out(Order(config, Path(folder) / "run"), Silent()).finished
print(json.dumps([len(before), sorted(known() - before)]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    count, missing = json.loads(done.stdout.splitlines()[-1])
    assert count > 30
    assert missing == []


def test_the_short_run_keeps_the_scenes_and_needs_no_prior():
    config = short(replace(CONFIG, particles=3, engine="onnx"))
    assert config.engine == "torch"
    assert [stage.scene for stage in config.stages] == [stage.scene for stage in CONFIG.stages]
    assert config.particles == 1
    assert all(stage.steps <= 4 for stage in config.stages)
    assert all(teacher.prior.loaded is not None for stage in config.stages for teacher in stage.teachers)


def test_a_second_process_gets_the_config_once(monkeypatch, own_stamps):
    started = []

    class Process:
        def __init__(self, command, **_):
            self.command, self.stdin = command, self
            started.append(self)

        def write(self, text):
            self.text = text

        def close(self): ...

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert warm_beside(CONFIG) is started[0]
    assert started[0].command[1:] == ["-c", warmup.MAIN, *sys.path]
    assert load_yaml(Config, started[0].text, "standard input") == CONFIG
    own_stamps.mkdir()
    warmup._stamp(CONFIG).touch()
    assert warm_beside(CONFIG) is None
    assert is_warm(CONFIG)
    assert not is_warm(PRESETS["dreamgaussian-toy"])  # other kernels
    monkeypatch.setenv("DREAMLIFT_KERNELS", "0")
    assert is_warm(PRESETS["dreamgaussian-toy"])
    assert len(started) == 1


@pytest.mark.parametrize("why", ["a plugin", "little memory", "one core", "another kind of run"])
def test_no_process_starts_where_it_is_of_no_use(why, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    config = CONFIG
    if why == "a plugin":
        monkeypatch.setattr(warmup, "plugin_names", lambda: ["my_losses.py"])
    elif why == "little memory":
        monkeypatch.setattr(warmup, "available_host", lambda: 10**9)
    elif why == "one core":
        monkeypatch.setattr(os, "cpu_count", lambda: 1)
    else:
        config = replace(CONFIG, stages=(replace(CONFIG.stages[0], photometric=Photometric()),))
    assert warm_beside(config) is None


def test_one_process_warms_at_a_time(monkeypatch, own_stamps):
    made = []
    monkeypatch.setattr(warmup, "warm", made.append)
    monkeypatch.setattr(os, "nice", lambda by: None)  # it cannot be undone
    own_stamps.mkdir()
    with FileLock(own_stamps / "warmup.lock"):
        warmup.beside(CONFIG)
    assert made == []
    warmup.beside(CONFIG)
    assert made == [CONFIG]


def test_a_process_that_cannot_start_is_no_error(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert warm_beside(CONFIG) is None


def test_the_verb_says_what_it_did(monkeypatch, capsys, own_stamps):
    made = []
    monkeypatch.setattr(warmup, "warm", made.append)
    assert main(["warmup", "--preset", "toybox"]) == 0
    assert made[0].stages == PRESETS["toybox"].stages
    assert f"are compiled, in {os.environ['NUMBA_CACHE_DIR']}" in capsys.readouterr().out
    own_stamps.mkdir()
    warmup._stamp(CONFIG).touch()
    assert main(["warmup"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert len(made) == 1
    monkeypatch.setenv("DREAMLIFT_KERNELS", "0")
    assert main(["warmup"]) == 2
    assert "there is nothing to compile" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_an_error_of_the_verb(monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main(["warmup"]) == 1
    assert "cache cannot be written; set XDG_CACHE_HOME" in capsys.readouterr().err
    assert warm_beside(CONFIG) is None


def test_the_second_process_imports_nothing_from_the_current_folder(tmp_path):
    (tmp_path / "dreamlift").mkdir()
    (tmp_path / "dreamlift" / "__init__.py").write_text("raise SystemExit(3)")
    code = f"{warmup.MAIN.replace('main()', 'print(main.__module__)')}"
    done = subprocess.run([sys.executable, "-c", code, *sys.path], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "dreamlift.runs.warmup")


def test_what_has_a_photometric_term_is_refused():
    stage = replace(CONFIG.stages[0], photometric=Photometric())
    with pytest.raises(ValueError, match="without a photometric term"):
        warm(replace(CONFIG, stages=(stage,)))
