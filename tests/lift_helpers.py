"""What the tests of whole runs share: a prior that is small and ready at once, and settings for a run of seconds."""

import json
from dataclasses import replace

import torch

from dreamlift.cli import main
from dreamlift.config.build import config_hash, load_yaml
from dreamlift.config.schema import Config
from dreamlift.runs.checkpoints import load_latest
from dreamlift.toybox.training.network import make_networks, save_folder

WORDS = [
    "a", "an", "red", "mug", "teapot", "front", "back", "left", "right", "view", "from", "above", "below", "dark", "background",
]  # fmt: skip
TINY = [
    "--stages.1=null",
    "--steps=6", "--scene.field.resolutions=[9,17]", "--scene.field.switch_on=[0,0.5]", "--scene.samples_per_ray=24",
    "--cameras.resolution=[32]", "--mesh.resolution=32", "--mesh.texture_size=64", "--mesh.faces=500",
]  # fmt: skip


def save_stub(folder):
    """A diffusers folder with random weights: its pictures mean nothing, but it is loaded and asked as any other."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_folder(make_networks(WORDS, size=32, channels=(8, 16)), folder)
    (folder / "nouns.json").unlink()  # tests ask it for anything
    return folder


def run_main(*words):
    """The exit code, also where argparse exits by itself."""
    try:
        return main([str(word) for word in words])
    except SystemExit as error:
        return error.code


def generate_words(prior, out, *more, prompt="a red mug"):
    return ["generate", prompt, "--prior", str(prior), *TINY, "--out", str(out), *map(str, more)]


def changed(config, number=0, **changes):
    """A config with other settings of one stage, counted from 0."""
    stages = list(config.stages)
    stages[number] = replace(stages[number], **changes)
    return replace(config, stages=tuple(stages))


def taught(config, number=0, **changes):
    """A config with other settings of the first teacher of one stage."""
    first, *others = config.stages[number].teachers
    return changed(config, number, teachers=(replace(first, **changes), *others))


def small_pictures(monkeypatch):
    """Fewer and smaller result pictures, where the test does not look at them."""
    from dreamlift import cameras

    monkeypatch.setattr("dreamlift.lifting.VIEW_SIZE", 32)
    monkeypatch.setattr("dreamlift.runs.results.turntable", lambda count, **kw: cameras.turntable(3, **kw | {"size": 32}))


def tree(folder):
    """Every file below a folder with its bytes."""
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(capsys, folder, words, *expected, code=2):
    """One line on standard error (what the run needs may be said before), nothing elsewhere, and no file made or changed."""
    before = tree(folder)
    assert run_main(*words) == code
    out, err = capsys.readouterr()
    err = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("memory: "))
    assert err.startswith("dreamlift: error: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    assert len(err) <= len("dreamlift: error: ") + 300 + 1
    assert err[:-1].isprintable()
    assert all(part in err for part in expected), err
    assert out == ""
    assert tree(folder) == before
    return err


def strict_json(text):
    """JSON has no NaN, which Python's reader would let pass."""

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def status_of(folder):
    return strict_json((folder / "run.json").read_text(encoding="utf-8"))


def as_killed(folder):
    """Make a finished run one whose process was killed after its last step, before it said that it was finished."""
    path = folder / "run.json"
    path.write_text(json.dumps(status_of(folder) | {"status": "running"}), encoding="utf-8")


def checkpoint_of(folder):
    config = load_yaml(Config, (folder / "config.yaml").read_text(encoding="utf-8"))
    return load_latest(folder / "checkpoints", config_hash(config))
