"""The command line: its verbs, exit codes and what a process of it does. What it is given: test_cli_inputs.py."""

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from lift_helpers import generate_words, refused, run_main, taught, tree
from PIL import Image

import dreamlift
from dreamlift.apps.options import FILE_FLAGS, FILES, SETTINGS
from dreamlift.cli import VERBS, exit_code, main, split_overrides, with_negative_lists
from dreamlift.config.build import load_yaml
from dreamlift.config.kinds import fields_of
from dreamlift.config.schema import Config
from dreamlift.presets import ABOUT, PRESETS
from dreamlift.presets.toybox import COLORED
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import Located
from dreamlift.priors.loading.sources import KNOWN
from dreamlift.reading.photos import Photo
from dreamlift.runs.run import RunError
from dreamlift.types import EmptySceneError
from dreamlift.verbs import build_parser


def python(*words, cwd, **more):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment, **more)


# Verbs


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--debug"], 2, "a verb is missing, such as generate"),
        (["genrate", "a mug"], 2, "invalid choice: 'genrate'"),
        (["generate"], 2, "the prompt is empty"),
        (["resume"], 2, "the following arguments are required: run"),
        (["resume", "nowhere"], 2, "nowhere is not a run folder"),
        (["resume", ".", "--guidance.t_min", "0.1"], 2, "resume takes no settings, but --guidance.t_min was given"),
        (["settings", "--mesh.faces=5"], 2, "settings takes no settings, but --mesh.faces"),
        (["settings", "--preset", "nope"], 2, "unknown preset 'nope'"),
        (["presets", "--mesh.faces=5"], 2, "presets takes no settings"),
        (["priors", "--mesh.faces=5"], 2, "priors takes no settings"),
        (["doctor", "--mesh.faces=5"], 2, "doctor takes no settings"),
        (["completion", "bash", "--mesh.faces=5"], 2, "completion takes no settings"),
        (["completion", "fsh"], 2, "invalid choice: 'fsh'"),
        (["export", "nowhere"], 2, "nowhere is not a run folder"),
        (["export", ".", "--seed.x", "1"], 2, "export takes settings of the mesh and its files only"),
        (["generate", "x", "--lod", "9"], 2, "--lod is 9; accepted: 1 to 8"),
        (["generate", "x", "--pivot", "top"], 2, "--pivot: got 'top', accepted: center | base | mesh"),
        (["generate", "x", "--scale", "0"], 2, "--scale is 0; accepted: 0.0001 to 10000 meters, or null"),
        (["generate", "x", "--format", "glb,fbx"], 2, "unknown format 'fbx'; accepted: glb, obj, ply, stl, 3mf, usdz"),
        (["generate", "x", "--normal-map", "--no-texture"], 2, "mesh: normal_map needs a texture's UVs"),
    ],
)
def test_misused_verbs_are_refused(cwd, capsys, words, code, said):
    refused(capsys, cwd, words, said, code=code)


def test_the_name_alone_prints_the_help(cwd, capsys):
    assert run_main("--help") == 0
    told = capsys.readouterr()
    assert run_main() == 0
    assert capsys.readouterr() == told
    assert told.err == ""
    assert all(verb in told.out for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--stesp", "3"], ["unrecognized arguments: --stesp 3; did you mean --steps?"]),
        (["--guidance.scale", "3"], ["guidance.scale: unknown name", "did you mean 'guidance.guidance_scale'?"]),
        (["--scene.samples", "3"], ["scene.samples: unknown name", "did you mean 'scene.samples_per_ray'?"]),
        (["--stages.1.scene.resolutoin", "3"], ["did you mean 'stages.1.scene.resolution'?"]),
        (["--preset", "vsd"], ["unknown preset 'vsd' (did you mean ", "vsd-toy", "prolificdreamer", "`dreamlift presets`"]),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_known_one(cwd, capsys, words, expected):
    refused(capsys, cwd, ["generate", "x", *words], *expected)


def test_every_option_says_what_it_is_for(cwd, capsys):
    parser = build_parser()
    (group,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    verbs = group.choices
    assert set(verbs) == set(VERBS)
    assert all(action.help for action in [*parser._actions, *group._choices_actions] if action is not group)
    for name, verb in verbs.items():
        for action in verb._actions:
            assert action.help, (name, action.option_strings)
    shown = [action for action in verbs["generate"]._actions if action.help != argparse.SUPPRESS]
    assert run_main("generate", "--help") == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    for action in shown:
        assert " ".join(action.help.split()) in words or "-" in action.help, action.dest  # argparse breaks lines at dashes
        assert all(option in text for option in action.option_strings)
    assert len(shown) > 30


def test_presets_are_listed_with_what_they_are_for(cwd, capsys):
    assert run_main("presets") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["preset", "prior"]
    rows = {line.split()[0]: line for line in lines[1:-1]}
    assert list(rows) == list(PRESETS)
    for name, (config, paper, purpose) in ABOUT.items():
        assert all(
            told in rows[name] for told in (paper, purpose, "+".join(str(stage.total_steps(1)) for stage in config.stages))
        )
        named = [prior.name for stage in config.stages for prior in stage.choices if prior is not None]
        assert all(prior in rows[name] for prior in named if not prior.startswith("tuned:"))
    assert tree(cwd) == {}


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_prints_a_script(cwd, capsys, shell):
    assert run_main("completion", shell) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS)
    assert all(word in script for word in ("--texture-size", "--prior-config")) or shell == "tcsh"  # shtab's has verbs only
    found = shutil.which(shell)
    if found is not None and shell != "tcsh":  # tcsh cannot check without running
        assert subprocess.run([found, "-n"], input=script, text=True, capture_output=True, check=True).stderr == ""
    assert tree(cwd) == {}


def test_the_folder_of_a_run_is_a_config(cwd, no_steps, stub):
    assert run_main(*generate_words(stub, "run", "--seed", "7")) == 0
    assert run_main("generate", "--config", "run", "--out", "again") == 0
    assert (cwd / "again" / "config.yaml").read_bytes() == (cwd / "run" / "config.yaml").read_bytes()
    assert run_main("generate", "a blue mug", "--config", "run", "--out", "other", "--seed", "8") == 0
    first, other = (load_yaml(Config, (cwd / name / "config.yaml").read_text()) for name in ("run", "other"))
    assert other == replace(first, prompt="a blue mug", seed=8)


def test_unknown_formats_are_refused(cwd, capsys, no_steps, stub):
    assert run_main(*generate_words(stub, "run")) == 0
    capsys.readouterr()
    refused(
        capsys, cwd, ["export", "run", "--format", "glb,fbx"], "unknown format 'fbx'; accepted: glb, obj, ply, stl, 3mf, usdz"
    )
    refused(capsys, cwd, ["export", "run", "--faces", "many"], "--faces: got 'many', accepted: a whole number")
    (cwd / "run" / "config.yaml").write_text("seed: 3\n")
    refused(capsys, cwd, ["resume", "run"], "run belongs to another config", "start a new run", code=1)


def test_settings_are_taken_out_of_the_words():
    words = ["generate", "--a.b", "1", "x", "--c.d=", "--e.f=g=h", "--a.b", "2", "--", "--i.j", "3"]
    assert split_overrides(words) == (["generate", "x", "--", "--i.j", "3"], {"a.b": "2", "c.d": "", "e.f": "g=h"})
    assert split_overrides(["a.b", "--A.b", "--.b", "--prior", "x.y"])[1] == {}


def test_lists_that_begin_with_a_minus_belong_to_their_option():
    words = ["views", "p.png", "--azimuths", "-30,30", "--elevation", "-5", "--seed=1", "-1,2", "--", "-3,4"]
    assert with_negative_lists(words) == [
        "views", "p.png", "--azimuths=-30,30", "--elevation", "-5", "--seed=1", "-1,2", "--", "-3,4"
    ]  # fmt: skip
    assert with_negative_lists(["--azimuths", "-90:90:45", "--out", "-x,y"])[0] == "--azimuths=-90:90:45"


def test_a_picture_in_place_of_a_prompt_is_told_its_option(tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "duck.png")
    assert main(["generate", str(tmp_path / "duck.png")]) == 2
    assert f"give it as --image {tmp_path / 'duck.png'}" in capsys.readouterr().err


def test_exit_codes():
    codes = {ValueError: 2, RunError: 1, OSError: 1, MemoryError: 1, TypeError: 1, AssertionError: 1, EmptySceneError: 1}
    assert {kind: exit_code(kind("x")) for kind in codes} == codes
    assert exit_code(torch.OutOfMemoryError("CUDA out of memory")) == 1
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert exit_code(caught.value) == 1  # torch's allocator for CPUs has no class of its own


@pytest.mark.parametrize("kind", [AssertionError, RecursionError, type("PanicException", (BaseException,), {})])
def test_a_defect_is_one_line_and_debug_shows_its_traceback(cwd, capsys, monkeypatch, kind):
    def broken(*_):
        raise kind("a\ndefect")

    monkeypatch.setitem(VERBS, "priors", broken)
    told = f"unexpected {kind.__name__}: a defect; the same command with --debug shows where it comes from"
    refused(capsys, cwd, ["priors"], told, code=1)
    for words in (["priors", "--debug"], ["--debug", "priors"]):
        with pytest.raises(kind, match="defect"):
            run_main(*words)
    monkeypatch.setitem(VERBS, "generate", broken)
    refused(capsys, cwd, ["generate", "--", "--debug"], told, code=1)  # a prompt


def test_lack_of_gpu_memory_is_one_line(cwd, capsys, monkeypatch, stub):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has 1 GiB free.")

    monkeypatch.setattr(Located, "read", full)
    refused(capsys, cwd, generate_words(stub, "run"), "CUDA out of memory. Tried to allocate 2 GiB. GPU 0", code=1)


def test_settings_lists_everything_that_can_be_set(cwd, capsys):
    assert run_main("settings") == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert len(set(names)) == len(names) > 50
    assert "--prompt" not in names  # the prompt is given without an option
    targets = [*filter(None, SETTINGS.values()), *FILES.values(), *(target for target, _ in FILE_FLAGS.values())]
    photo = [target.removeprefix("photos.0.") for target in targets if target.startswith("photos.0.")]
    assert set(photo) <= set(fields_of(Photo))  # the default preset has no photo
    for target in (
        each for each in targets if not each.startswith("photos.0.")
    ):  # of some that are not plain values each part is listed
        assert any(name == f"--{target}" or name.startswith(f"--{target}.") for name in names), target
    told = "s in uncond + s (cond - uncond), at least 0; DreamFusion: 100"
    assert f"--guidance.guidance_scale 4.0  (a number)  {told}" in lines
    for name in PRESETS:
        assert run_main("settings", "--preset", name) == 0
        assert f"--prior.name {PRESETS[name].stages[0].choices[0].name}  (text)" in capsys.readouterr().out
    assert tree(cwd) == {}


def test_every_listed_setting_is_taken_back(cwd, capsys, no_steps, stub):
    run_main("settings", "--preset", "magic3d-toy")
    words = []
    for line in capsys.readouterr().out.splitlines():
        name, rest = line.split(" ", 1)
        value = rest.rsplit("  (", 1)[0] if rest.count("  (") == 1 else rest.split("  (", 1)[0]
        if value and name != "--prior.name":
            words.append(f"{name}={value}")
    assert len(words) > 60
    assert run_main("generate", "a mug", "--prior", stub, "--out", "run", *words) == 0
    config = load_yaml(Config, (cwd / "run" / "config.yaml").read_text())
    expected = replace(COLORED, prompt="a mug")
    for number in range(len(expected.stages)):  # a run's own config names the prior of every stage
        expected = taught(expected, number, prior=PriorChoice(str(stub)))
    assert config == expected


def test_priors_and_doctor(cwd, capsys):
    assert run_main("priors") == 0
    shown = capsys.readouterr().out
    for name, source in KNOWN.items():
        assert f"\n{name}\n" in f"\n{shown}"
        assert source.licence in shown
        assert all(address in shown for address in source.addresses)
    code = run_main("doctor")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("ready: " if code == 0 else "not ready: ")
    assert any(line.split() == ["torch", torch.__version__] for line in lines)
    assert tree(cwd) == {}


def test_doctor_says_what_is_missing(cwd, capsys, monkeypatch):
    from dreamlift.apps import doctor

    monkeypatch.setattr(doctor, "REQUIRED", ("torch", "no-such-package"))
    monkeypatch.setattr(doctor, "OPTIONAL", {"no_such_module": ("no-such-extra", "speed")})
    assert run_main("doctor") == 1
    shown = capsys.readouterr().out
    assert "MISSING: pip install no-such-package" in shown
    assert "no-such-extra       not installed: pip install no-such-extra  (speed)" in shown


def test_doctor_says_that_memory_is_short(cwd, capsys, monkeypatch):
    monkeypatch.setattr("dreamlift.memory.available_host", lambda: 10**8)
    assert run_main("doctor") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "free memory         0.1 GB" in lines
    assert any(line.startswith("memory of a run ") and line.endswith(" on cpu: more than is free") for line in lines)
    assert lines[-1].startswith("not ready: ")


# The process


def test_help_and_lists_need_nothing_heavy(cwd):
    code = """
import sys
from dreamlift.cli import main
code = None
try:
    code = main([WORDS])
except SystemExit as error:
    code = error.code
heavy = {"torch", "numpy", "diffusers", "transformers", "trimesh", "PIL", "yaml", "numba"} & set(sys.modules)
print(code, sorted(heavy), file=sys.stderr)
"""
    lists = ("'--help'", "'--version'", "'generate', '--help'", "'priors'", "'settings'", "'settings', '--preset', 'vsd-toy'")
    for words in ("", *lists):
        done = python("-c", code.replace("WORDS", words), cwd=cwd)
        assert done.stderr == "0 []\n", words
        assert done.stdout
    assert dreamlift.__version__ in python("-m", "dreamlift.cli", "--version", cwd=cwd).stdout
    assert tree(cwd) == {}


def test_the_package_imports_little_and_offers_its_names(cwd):
    code = """
import sys, dreamlift
later = {"diffusers", "transformers", "trimesh", "PIL", "numba", "rich"}
assert not later & set(sys.modules)
from dreamlift import Asset, Config, generate
assert callable(generate) and callable(dreamlift.generate) and generate is dreamlift.generate
assert Config.__module__ == "dreamlift.config.schema" and Asset.__module__ == "dreamlift.asset"
assert not {"diffusers", "transformers", "trimesh"} & set(sys.modules)
try:
    dreamlift.nothing
except AttributeError as error:
    print(error)
"""
    done = python("-c", code, cwd=cwd)
    assert (done.stdout, done.stderr) == ("module 'dreamlift' has no attribute 'nothing'\n", "")


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("words", [["settings"], ["priors"], ["--help"]])
def test_a_reader_that_goes_away_is_no_error(cwd, words):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "dreamlift.cli", *words]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=cwd, timeout=60)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode in ((0, 1) if words == ["--help"] else (1,))  # argparse itself may forgive it: it depends on Python


def test_errors_of_a_process_are_one_line(cwd):
    done = python("-m", "dreamlift.cli", "resume", "nowhere", "--guidance.t_max", cwd=cwd)
    expected = "dreamlift: error: --guidance.t_max needs a value\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    assert tree(cwd) == {}


def test_the_function_keeps_its_name_whatever_is_imported_first(cwd):
    code = "import dreamlift.runs.carry_out, dreamlift.lifting; from dreamlift import generate; print(generate.__name__)"
    assert python("-c", code, cwd=cwd).stdout.strip() == "generate"
