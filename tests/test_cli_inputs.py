"""What the command line is given: bad input is refused in one line with nothing written, odd input is only text."""

import argparse
import json
import os
import unicodedata
from dataclasses import replace

import pytest
import yaml
from lift_helpers import WORDS, generate_words, refused, run_main

from dreamlift.config.build import load_yaml, save_yaml
from dreamlift.config.schema import Config
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import Located
from dreamlift.runs import lock as locks
from dreamlift.runs.carry_out import Outcome
from dreamlift.stages.lift import Lift

# Prompts


REFUSED = {
    "nothing": ("", "the prompt is empty"),
    "spaces": (" \t ", "the prompt is empty"),
    "invisible": ("\u200b\u200d", "the prompt is empty"),
    "too long": ("x" * 1001, "accepted: at most 1000 characters"),
    "ten kilobytes": ("mug " * 2500, "accepted: at most 1000 characters"),
    "too many bytes": ("\U0001fad6" * 1000 + "x" * 200, "4096 bytes"),
    "NUL": ("a\0mug", "a control character (U+0000) at character 2: remove it"),
    "two lines": ("a mug\na car", "the prompt has more than one line"),
    "line separator": ("a mug\u2028a car", "the prompt has more than one line"),
    "escape": ("a \x1b[31mred mug", "a control character (U+001B)"),
    "right to left": ("a \u202egum", "a text-direction override (U+202E)"),
    "half a surrogate": ("a \udcff mug", "a control character (U+DCFF)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_prompts_are_refused(cwd, capsys, no_steps, name):
    prompt, said = REFUSED[name]
    err = refused(capsys, cwd, ["generate", prompt], said)
    assert err.isascii()  # nothing of the prompt reaches the terminal


# These look like something else to a shell, a path, YAML, a browser or a spreadsheet.
TRICKY = [
    "../../../x", "/abs", "~root", "${oc.env:HOME}", "3", "null", "true", "[1,2]", "a: b, {c", "a=b", "#x", "- a", "&a",
    "\U0001fad6 teapot", "\u8336\u7897", "un cafe\u0301", "CON", "NUL", "mug...", "mug.", "...",
    "<script>alert(1)</script>", "=cmd|' /C calc'!A0", "%s %d {0}", "'\"`\\", "a" * 999,
]  # fmt: skip


@pytest.mark.parametrize("prompt", TRICKY)
def test_odd_prompts_are_text_and_nothing_else(cwd, no_steps, stub, prompt):
    assert run_main("generate", prompt, "--prior", stub) == 0
    (folder,) = (cwd / "outputs").iterdir()
    assert [path.name for path in cwd.iterdir()] == ["outputs"]
    assert folder.is_dir()
    assert len(folder.name.encode()) < 200
    assert not set(folder.name) & set('<>:"/\\|?*.$~ ')
    assert folder.name.split("-")[0].upper() not in ("CON", "NUL") or "asset" in folder.name
    meant = unicodedata.normalize("NFC", prompt)
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    assert load_yaml(Config, text).prompt == meant
    assert yaml.safe_load(text)["prompt"] == meant
    assert json.loads((folder / "run.json").read_text())["prompt"] == meant


@pytest.mark.parametrize("prompt", ["--help", "-v", "--steps", "--guidance.guidance_scale", "--", "--x.y=3"])
def test_prompts_that_begin_with_a_dash_go_after_two_dashes(cwd, no_steps, stub, prompt):
    assert run_main("generate", "--prior", stub, "--seed", "3", "--guidance.guidance_scale", "5", "--", prompt) == 0
    (folder,) = (cwd / "outputs").iterdir()
    config = load_yaml(Config, (folder / "config.yaml").read_text())
    assert (config.prompt, config.seed, config.stages[0].teachers[0].guidance.guidance_scale) == (prompt, 3, 5.0)


def test_the_two_spellings_of_an_accent_are_one_prompt_and_equal_slugs_two_folders(cwd, no_steps, stub):
    for prompt in ("caf\u00e9", "cafe\u0301", "Caf\u00e9!"):
        assert run_main("generate", prompt, "--prior", stub) == 0
    folders = list((cwd / "outputs").iterdir())
    assert len(folders) == 3
    prompts = sorted(json.loads((folder / "run.json").read_text())["prompt"] for folder in folders)
    assert prompts == sorted(["caf\u00e9", "caf\u00e9", "Caf\u00e9!"])


def test_what_the_prior_does_not_read_is_said(cwd, capsys, monkeypatch, stub):
    monkeypatch.setattr("dreamlift.runs.carry_out._carry_out", lambda run, *_: Outcome(run.folder, True, None))
    assert run_main("generate", "red mug " * 40, "--prior", stub, "--out", "long") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == ["note: the prompt is longer than 77 tokens: the rest is ignored"]
    assert run_main("generate", "a red taepot", "--prior", stub, "--out", "typo") == 0
    assert f"the prior {stub.name} does not know 'taepot'; similar known words: teapot" in capsys.readouterr().err
    assert run_main("generate", " ".join(WORDS[:4]), "--prior", stub, "--out", "fine") == 0
    assert "note: " not in capsys.readouterr().err


# Options


HOME = "there is no home folder ~no-such-user; write the whole path"
FETCHED = "cannot be used: addresses are not fetched; download it first"
BAD_OPTIONS = {
    "preset": (["--preset", "toybx"], "unknown preset 'toybx' (did you mean toybox", "`dreamlift presets` lists all of them"),
    "prior": (["--prior", "toybax"], "unknown prior 'toybax' (did you mean 'toybox'?)", "or a .safetensors checkpoint"),
    "prior folder": (["--prior", "."], "is not a diffusers folder"),
    "prior escape": (["--prior", "\x1b[31m"], r"unknown prior '\x1b[31m'"),
    "prior not cached": (["--prior", "sd-2.1-base"], "HF_HUB_OFFLINE is set", "--prior toybox needs no download"),
    "hub name": (["--prior", "nobody/nothing"], "'nobody/nothing' is not available", "is not in the local cache"),
    "setting": (["--guidance.guidence_scale", "5"], "unknown name", "did you mean 'guidance.guidance_scale'?"),
    "section": (["--guidence.t_min", "0.1"], "unknown name", "did you mean 'guidance'?"),
    "section of a later stage": (["--stages.1.guidence.t_min", "0.1"], "stages.1.guidence: unknown name, accepted: steps,"),
    "missing stage": (["--stages.3.steps", "9"], "stages.3: no such entry; accepted: 0 to 2 (2 adds one)"),
    "kind of a new stage": (["--stages.2.steps", "9"], "stages.2.type: missing, accepted: lift"),
    "deeper": (["--scene.resolutions=[9]"], "did you mean 'scene.field.resolutions'?"),
    "choice": (["--guidance.type", "sdss"], "guidance.type: got 'sdss', accepted: sds", "did you mean 'sds'?"),
    "no value": (["--guidance.guidance_scale"], "--guidance.guidance_scale needs a value"),
    "whole and part": (["--cameras", "{}", "--cameras.views", "9"], "unrecognized arguments: --cameras"),
    "word for a number": (["--steps", "ten"], "error: --steps: got 'ten', accepted: a whole number"),
    "fraction": (["--steps", "1.5"], "steps: got '1.5', accepted: a whole number"),
    "negative steps": (["--steps", "-5"], "steps is -5; it must be at least 1"),
    "no steps": (["--steps", "0"], "error: --steps is 0; it must be at least 1"),
    "no stages": (["--stages.0=null", "--stages.1=null"], "stages is empty; a run needs at least one stage"),
    "setting of old": (["--memory.one_by_one", "true"], "memory.one_by_one: unknown name, accepted: micro_batch,"),
    "stages of old": (
        ["--then.0.steps", "9"],
        "then: older config formats had this name; in a config file it is now further entries of stages",
    ),
    "negative seed": (["--seed=-1"], "error: --seed is -1; accepted: 0 to 2^63 - 1"),
    "large seed": (["--seed", str(2**63)], "accepted: 0 to 2^63 - 1"),
    "nan": (["--adam.lr_scale", "nan"], "adam.lr_scale: got 'nan', accepted: a number"),
    "infinite": (["--adam.lr_scale", "1e999"], "adam.lr_scale: got inf, accepted: a finite number"),
    "nan schedule": (["--adam.lr_scale", "{type: constant, value: .nan}"], "adam.lr_scale.value: got '.nan'"),
    "coarse mesh": (["--mesh.resolution", "4"], "mesh: resolution is 4; accepted: 8 to 512"),
    "no faces": (["--faces", "0"], "error: --faces is 0"),
    "texture": (["--texture-size", "1000000"], "error: --texture-size is 1000000"),
    "grid": (["--scene.field.resolutions", "[9,18]"], "scene.field: Voxel.resolutions are (9, 18); they must grow"),
    "device": (["--device", "gpu"], "unknown device 'gpu'; accepted: auto, cpu, cuda"),
    "device without values": (["--device", "meta"], "unknown device 'meta'; accepted: auto, cpu, cuda"),
    "no such device": (["--device", "cuda:99"], "device 'cuda:99' is not available"),
    "unknown option": (["--stepz", "5"], "unrecognized arguments: --stepz 5", "dreamlift generate --help"),
    "line end": (["--step\nz"], "unrecognized arguments: --step z"),
    "second prompt": (["a car"], "unrecognized arguments: a car"),
    "option without value": (["--steps"], "argument --steps: expected one argument"),
    "config and preset": (["--config", "c.yaml", "--preset", "toybox"], "give one of them"),
    "no config": (["--config", "nowhere.yaml"], "there is no config file 'nowhere.yaml'"),
    "no such user's mesh": (["--preset", "texture-toy", "--mesh", "~no-such-user/a.glb"], "'~no-such-user/a.glb'", HOME),
    "no such user's folder": (["--out", "~no-such-user/a"], "'~no-such-user/a'", HOME),
    "no such user's prior": (["--prior", "~no-such-user/a"], "'~no-such-user/a'", HOME),
    "no such user's LoRA": (["--lora", "~no-such-user/a.safetensors"], "'~no-such-user/a.safetensors'", HOME),
    "config is a folder": (["--config", "."], ". is not a run folder: it has no config.yaml"),
    "elevation": (["--image", "a.png", "--elevation", "100"], "error: --elevation is 100; accepted: -90 to 90, or null"),
    "no number": (["--image", "a.png", "--elevation", "up"], "error: --elevation: got 'up', accepted: a number | null"),
    "elevations": (["--photos", "a.png", "b.png", "--elevation", "0,100"], "error: --elevation is 100; accepted: -90 to 90"),
    "field of view": (["--photos", "a.png", "b.png", "--fov", "300"], "error: --fov is 300; accepted: 1 to 170"),
    "setting of a photo": (["--image", "a.png", "--photos.0.elevation_deg", "100"], "error: photos.0: elevation_deg is 100"),
    "weight": (["--weight", "many"], "error: --weight: got 'many'"),
    "address of a picture": (["--image", "https://a.org/b.png?c=1"], "the photo 'https://a.org/b.png?c=1'", FETCHED),
    "addresses of photos": (
        ["--photos", "http://a.org/b.png", "http://a.org/c.png"],
        "the photo 'http://a.org/b.png'",
        FETCHED,
    ),
    "address of a file": (["--image", "file:///tmp/a b.png"], "cannot be used: give the path itself: /tmp/a b.png"),
    "address of a mesh": (["--preset", "texture-toy", "--mesh", "https://a.org/b.glb"], "file 'https://a.org/b.glb'", FETCHED),
    "address of a LoRA": (["--lora", "https://a.org/b.safetensors"], "file 'https://a.org/b.safetensors'", FETCHED),
}
ADDRESSES = {
    "prompt": (["generate", "https://a.org/b.png"], "download the picture first", "then give its path as --image"),
    "views": (["views", "https://a.org/b.png"], "the photo 'https://a.org/b.png' cannot be used", "download it first"),
    "dreambooth": (
        ["dreambooth", "ftp://a.org/b.png", "--class", "duck"],
        "the photo 'ftp://a.org/b.png'",
        "download it first",
    ),
    "long": (["cutout", f"https://a.org/{'b' * 900}.png"], "the photo 'https://a.org/bbb", "then give the path of the file"),
}


OWN_OPTIONS = {
    "views": (["views", "a.png", "--photo-elevation", "100"], "error: --photo-elevation is 100; accepted: -90 to 90"),
    "height": (["views", "a.png", "--elevation", "100"], "error: --elevation is 100; accepted: -90 to 90"),
    "dreambooth": (["dreambooth", "a.png", "--class", "duck", "--elevation", "100"], "error: --elevation is 100; accepted"),
    "rate": (["dreambooth", "a.png", "--class", "duck", "--text-lr", "7"], "error: --text-lr is 7; accepted: above 0"),
    "invert": (["invert", "a.png", "--init", "duck", "--lr", "7"], "error: --lr is 7; accepted: above 0"),
}


@pytest.mark.parametrize("name", OWN_OPTIONS)
def test_errors_name_the_option_that_was_given(cwd, capsys, name):
    words, expected = OWN_OPTIONS[name]
    refused(capsys, cwd, words, expected)


@pytest.mark.parametrize("name", ADDRESSES)
def test_addresses_are_not_fetched_by_any_verb(cwd, capsys, name):
    words, *expected = ADDRESSES[name]
    assert run_main(*words) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert all(part in said[0] for part in expected), said
    assert list(cwd.iterdir()) == []


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_refused(cwd, capsys, name):
    options, *expected = BAD_OPTIONS[name]
    refused(capsys, cwd, ["generate", "a red mug", *options], *expected)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_CONFIGS = {
    "bomb": (BOMB, "config.yaml is not readable: "),
    "nested": ("a: " + "[" * 50_000, "config.yaml is not readable: "),
    "code": ("prompt: !!python/object/apply:os.system ['touch pwned']\n", "config.yaml is not readable: "),
    "twice": ("seed: 3\nseed: 4\n", "line 2, column 1: the key 'seed' is given twice"),
    "unknown": ("sed: 3\n", "sed: unknown name", "did you mean 'seed'?"),
    "unknown in a stage": (
        "stages: [{type: lift, stps: 3}]\n",
        "stages[0].stps: unknown name",
        "did you mean 'stages[0].steps'?",
    ),
    "wrong type": ("stages: [{type: lift, steps: many}]\n", "stages[0].steps: got 'many', accepted: a whole number"),
    "no kind of stage": ("stages: [{steps: 3}]\n", "stages[0].type: missing, accepted: lift"),
    "no stages": ("stages: []\n", "stages is empty; a run needs at least one stage"),
    "flag for a number": ("seed: true\n", "seed: got True, accepted: a whole number"),
    "negative": ("stages: [{type: lift, steps: -1}]\n", "stages[0]: steps is -1"),
    "nan": ("stages: [{type: lift, adam: {lr_scale: .nan}}]\n", "stages[0].adam.lr_scale: got nan, accepted: a finite number"),
    "list": ("- 1\n", "accepted: a mapping"),
    "text": ("just words\n", "accepted: a mapping"),
    "not UTF-8": (b"prompt: caf\xe9\n", "is not UTF-8 text"),
    "zeros": (b"\0" * 1000, "config.yaml is not readable: "),
    "empty": ("", "the prompt is empty"),  # all defaults, so no prompt
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_config_files_are_refused(cwd, capsys, name):
    text, *expected = BAD_CONFIGS[name]
    (cwd / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(capsys, cwd, ["generate", "--config", "config.yaml"], *expected)


OLD = {  # a config file's top-level lines before there were stages and teachers, and where the setting is now
    "scene: {type: voxel}": "scene: older config formats had this name; in a config file it is now stages[0].scene",
    "steps: 300": "steps: older config formats had this name; in a config file it is now stages[0].steps",
    "guidance: {type: sds}": "in a config file it is now stages[0].teachers[0].guidance",
    "then: [{steps: 3}]": "then: older config formats had this name; in a config file it is now further entries of stages",
    "prior: sd-1.5": "prior: older config formats had this name; in a config file it is now stages[0].teachers[0].prior.name",
    "additions: {loras: []}": "it is now stages[0].teachers[0].prior.loras and .embeddings",
    "start: mug.glb": "start: older config formats had this name; in a config file it is now initial_mesh",
    "see_cameras: true": "it is now stages[0].teachers[0].prior.camera_conditioning",
    "linear_latents: true": "it is now stages[0].teachers[0].prior.linear_encoder",
}


@pytest.mark.parametrize("line", OLD)
def test_an_old_config_is_refused_with_the_settings_new_place(cwd, capsys, line):
    (cwd / "config.yaml").write_text(f"prompt: a mug\n{line}\n")
    refused(capsys, cwd, ["generate", "--config", "config.yaml"], f"config.yaml: {line.split(':')[0]}: ", OLD[line])
    refused(capsys, cwd, ["resume", "."], OLD[line])  # a run of before


def test_a_config_is_the_starting_point_and_options_come_on_top(cwd, no_steps, stub):
    stages = f"stages:\n- type: lift\n  teachers: [{{prior: {stub}, guidance: {{type: sds, t_max: 0.9}}}}]\n"
    given = load_yaml(Config, f"prompt: a mug\nseed: 5\n{stages}")
    (cwd / "mine.yaml").write_text(save_yaml(given))
    assert run_main("generate", "--config", "mine.yaml", "--out", "run", "--seed", "6", "--guidance.t_min=0.1") == 0
    config = load_yaml(Config, (cwd / "run" / "config.yaml").read_text())
    guidance = config.stages[0].teachers[0].guidance
    assert (config.prompt, config.seed, guidance.t_min, guidance.t_max) == ("a mug", 6, 0.1, 0.9)


def test_a_relative_prior_is_found_again_from_elsewhere(cwd, no_steps, stub, monkeypatch):
    monkeypatch.chdir(stub.parent)
    assert run_main("generate", "a mug", "--prior", stub.name, "--out", cwd / "run") == 0
    config = load_yaml(Config, (cwd / "run" / "config.yaml").read_text())
    assert [teacher.prior.name for stage in config.stages for teacher in stage.teachers] == [str(stub.resolve())] * 2


def test_options_of_the_prior_go_together(cwd, capsys, no_steps, stub):
    options = ["--prior", stub, "--camera-conditioning", "false", "--prior.linear_encoder=false"]
    assert run_main("generate", "a mug", *options, "--out", "run") == 0
    config = load_yaml(Config, (cwd / "run" / "config.yaml").read_text())
    expected = PriorChoice(str(stub), camera_conditioning=False)
    assert [teacher.prior for stage in config.stages for teacher in stage.teachers] == [expected] * 2
    linear = ["--linear-encoder", "true"]  # a pixel prior has no encoder
    refused(capsys, cwd, ["generate", "x", "--prior", stub, *linear], "without an encoder; leave linear_encoder off")
    refused(
        capsys, cwd, ["generate", "x", *options, "--prior-config", "sdxl"], "--prior-config is for a one-file checkpoint only"
    )
    refused(capsys, cwd, ["generate", "x", "--prior", "m.safetensors", "--prior-config", "sdxl"], "no checkpoint file 'm.safe")


def test_folders_in_use_are_refused_before_the_prior_is_loaded(cwd, capsys, monkeypatch, stub):
    def load(*_):
        raise AssertionError("the prior was loaded")

    monkeypatch.setattr(Located, "load", load)
    monkeypatch.setattr(Located, "read", load)
    (cwd / "full").mkdir()
    (cwd / "full" / "photo.png").write_bytes(b"mine")
    refused(capsys, cwd, generate_words(stub, "full"), "full is not empty, and nothing is overwritten: give --out")
    refused(capsys, cwd, generate_words(stub, "full/photo.png"), "photo.png is a file: give --out")
    (cwd / "full" / "run.json").write_text("{}")
    refused(capsys, cwd, generate_words(stub, "full"), "full holds a run already: `dreamlift resume full`")


def test_a_folder_that_cannot_be_made_is_named(cwd, capsys, no_steps, stub):
    (cwd / "file").write_bytes(b"")
    refused(
        capsys, cwd, generate_words(stub, "file/a/run"), "file/a/run cannot be made, since file is a file: give --out another"
    )
    if os.path.isdir("/proc/self"):
        told = refused(
            capsys, cwd, generate_words(stub, "/proc/x"), "no folder can be made there; choose another --out", code=1
        )
        assert "during a run" not in told


def test_an_empty_folder_will_do(cwd, no_steps, stub):
    (cwd / "run").mkdir()
    for name in locks.NAMES:
        (cwd / "run" / name).write_text("left by a run that never began")
    assert run_main(*generate_words(stub, "run")) == 0
    assert (cwd / "run" / "run.json").is_file()


def test_a_config_without_stages_has_those_of_the_default_preset(tmp_path):
    from dreamlift.apps.start import config_in
    from dreamlift.presets import PRESETS

    (tmp_path / "a.yaml").write_text("prompt: a red mug\nseed: 3\n")
    assert config_in(tmp_path / "a.yaml") == replace(PRESETS["toybox"], prompt="a red mug", seed=3)
    (tmp_path / "b.yaml").write_text("stages: [{type: lift, steps: 7}]\n")
    (stage,) = config_in(tmp_path / "b.yaml").stages
    assert stage == Lift(steps=7)


def test_options_that_change_no_file_are_said():
    from dreamlift.apps.options import without_effect
    from dreamlift.presets import PRESETS

    given = argparse.Namespace(print_size="80mm", splats_axes="y-down")
    config = PRESETS["toybox"]
    assert [text.split()[0] for text in without_effect(given, config)] == ["--print-size", "--splats-axes"]
    printed = replace(config, asset=replace(config.asset, formats=("glb", "3mf")))
    assert [text.split()[0] for text in without_effect(given, printed)] == ["--splats-axes"]
    assert without_effect(argparse.Namespace(print_size=None, splats_axes="y-up"), PRESETS["luciddreamer"]) == []
