"""Settings to and from YAML and command-line text: round trips, refusals, and the exact words of the errors."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal, Optional, Protocol

import pytest
import yaml

from dreamlift.config.build import (
    ConfigError,
    apply_overrides,
    config_hash,
    describe_fields,
    from_plain,
    load_yaml,
    save_yaml,
    to_plain,
)
from dreamlift.schedules import Constant, Linear, Piecewise, Schedule, Sqrt, Switch

# These strings look like something else in YAML, in a shell or in another config library.
TRICKY = [
    "3", "null", "~", "true", "no", "[1,2]", "{a: 1}", "a: b, {c", "a=b", "${oc.env:HOME}", "--help", "1e-3", "1:30",
    "2024-01-01", "", " ", "  padded  ", "#x", "- a", "&a", "*a", "!x", "%x", "@x", "`x`", "'", '"', "a\nb\n", "\t",
    "=", "<<", "0x1f", "010", ".nan", "-.inf", "mug 🫖 茶碗", "e\u0301", "\u202e", "\x85", "\u2028", "\ufeffx",
    "<script>", "x" * 999,
]  # fmt: skip


class Guidance(Protocol):
    def __call__(self) -> float: ...


@dataclass(frozen=True)
class SDS:
    guidance_scale: float = 100.0  # s in uncond + s (cond - uncond); >= 0
    t_max: float | Schedule = 0.98  # largest diffusion time
    weighting: Literal["sds", "uniform"] = "sds"

    def __post_init__(self) -> None:
        if self.guidance_scale < 0:
            raise ValueError(f"guidance_scale must be >= 0,\n got {self.guidance_scale}")

    def __call__(self) -> float:
        return self.guidance_scale


@dataclass(frozen=True)
class VSD:
    guidance_scale: float = 7.5
    # The learning rate of the LoRA,
    # after ProlificDreamer.
    lora_lr: float = 1e-4

    def __call__(self) -> float:
        return self.lora_lr


@dataclass(frozen=True)
class Views:
    fov_deg: tuple[float, float] = (40.0, 70.0)
    sizes: tuple[int, ...] = (64,)
    names: tuple[str, ...] = ("front", "side")


@dataclass(frozen=True)
class Everything:
    prompt: str = "a mug"
    steps: int = 1000
    lr: float = 0.01
    quiet: bool = False
    note: Optional[str] = None  # noqa: UP045 - both spellings of Optional are accepted
    seed: int | None = 0
    device: Literal["auto", "cpu", 3] = "auto"
    cameras: Views = field(default_factory=lambda: Views(sizes=(64, 128)))
    mesh: Views | None = None
    guidance: Guidance = field(default=SDS(50.0), metadata={"choices": {"sds": SDS, "vsd": VSD}})
    sparsity: Schedule = field(default=Constant(1.0))
    extra: tuple[Guidance, ...] = field(default=(), metadata={"choices": {"sds": SDS, "vsd": VSD}})
    zoom: Linear | Sqrt | None = None
    cells: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Needed:
    prompt: str
    steps: int = 1


def random_config(seed: int) -> Everything:
    pick = random.Random(seed)

    def number() -> float:
        return pick.choice([pick.gauss(0, 1) * 10.0 ** pick.randint(-300, 300), 0.1, -0.0, 5e-324, 1e22, 3.0])

    def schedule() -> Schedule:
        points = ((0.0, number()), (1 / 3, number()))
        return pick.choice([Constant(number()), Linear(number(), 0.0, 0.25), Piecewise(points), Switch(1.0, 2.0, 0.5)])

    def guidance() -> Guidance:
        return pick.choice([SDS(abs(number()), schedule(), "uniform"), SDS(t_max=number()), VSD(number(), number())])

    return Everything(
        prompt=pick.choice(TRICKY), steps=pick.randint(-(10**20), 10**20), lr=number(), quiet=pick.random() < 0.5,
        note=pick.choice([None, *TRICKY]), seed=pick.choice([None, 7]), device=pick.choice(["auto", "cpu", 3]),
        cameras=Views((number(), number()), tuple(range(pick.randint(0, 3))), tuple(pick.sample(TRICKY, 3))),
        mesh=pick.choice([None, Views()]), guidance=guidance(), sparsity=schedule(),
        extra=tuple(guidance() for _ in range(pick.randint(0, 2))),
        zoom=pick.choice([None, Linear(1.0, 2.0), Sqrt(2.0, number())]),
        cells=((1, pick.choice(TRICKY)),) * pick.randint(0, 2),
    )  # fmt: skip


def refused(call, *expected: str) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in expected), message
    return message


# Round trips


@pytest.mark.parametrize("seed", range(60))
def test_round_trip(seed):
    config = random_config(seed)
    plain = to_plain(config)
    assert from_plain(Everything, plain) == config
    assert from_plain(Everything, json.loads(json.dumps(plain))) == config
    text = save_yaml(config)
    assert load_yaml(Everything, text) == config
    assert save_yaml(load_yaml(Everything, text)) == text
    assert config_hash(load_yaml(Everything, text)) == config_hash(config)


def test_saved_yaml_means_the_same_to_a_plain_reader():
    # PyYAML's own SafeLoader follows YAML 1.1: what it would read otherwise must have been quoted.
    for seed in range(20):
        config = random_config(seed)
        assert from_plain(Everything, yaml.safe_load(save_yaml(config))) == config


def test_saved_yaml_reads_well():
    text = save_yaml(Everything(guidance=SDS(t_max=Linear(0.98, 0.5)), lr=1e-5))
    assert "lr: 1.0e-05\n" in text
    assert "  fov_deg: [40.0, 70.0]\n" in text
    assert "guidance:\n  type: sds\n  guidance_scale: 100.0\n  t_max:\n    type: linear\n    start_value: 0.98\n" in text


def test_numbers_by_annotation():
    read = load_yaml(Everything, "lr: 1\nsteps: 7\ncameras: {fov_deg: [1, 2e1]}\nguidance: {type: sds, t_max: 1}")
    assert (read.lr, read.steps, read.cameras.fov_deg, read.guidance.t_max) == (1.0, 7, (1.0, 20.0), 1.0)
    assert all(isinstance(value, float) for value in (read.lr, *read.cameras.fov_deg, read.guidance.t_max))
    assert to_plain(Everything(lr=1))["lr"] == 1.0
    assert isinstance(to_plain(Everything(lr=1))["lr"], float)
    assert config_hash(Everything(lr=1)) == config_hash(Everything(lr=1.0))


def test_partial_files_keep_the_other_settings():
    assert load_yaml(Everything, "") == load_yaml(Everything, "# nothing\n") == Everything()
    assert load_yaml(Everything, "\ufeffcameras:\r\n  fov_deg: [1, 2]\r\n").cameras == Views((1.0, 2.0), (64, 128))
    # Without a type, or with the same, the default object's settings stay; another class starts from its own.
    assert load_yaml(Everything, "guidance: {weighting: uniform}").guidance == SDS(50.0, weighting="uniform")
    assert load_yaml(Everything, "guidance: {type: sds}").guidance == SDS(50.0)
    assert load_yaml(Everything, "guidance: {type: vsd}").guidance == VSD()


def test_schedules_in_yaml():
    assert load_yaml(Everything, "sparsity: 3").sparsity == Constant(3.0)
    assert load_yaml(Everything, "guidance: {t_max: 0.5}").guidance.t_max == 0.5
    text = "guidance: {t_max: {type: piecewise, points: [[0, 1], [1, 0.5]]}}"
    assert load_yaml(Everything, text).guidance.t_max == Piecewise(((0.0, 1.0), (1.0, 0.5)))


def test_hash_is_the_same_in_another_process_and_sees_every_change():
    code = "import dreamlift.config.build as c, dreamlift.schedules as s; print(c.config_hash(s.Linear(0.98, 0.1)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert found == config_hash(Linear(0.98, 0.1))
    assert len(found) == 64
    hashes = {config_hash(random_config(seed)) for seed in range(60)}
    assert len(hashes) == len({save_yaml(random_config(seed)) for seed in range(60)})
    assert config_hash(Everything(lr=0.1)) != config_hash(Everything(lr=math.nextafter(0.1, 1)))


# Overrides


@pytest.mark.parametrize("text", TRICKY)
def test_text_stays_exactly_the_text(text):
    changed = apply_overrides(Everything(), {"prompt": text, "note": text})
    assert (changed.prompt, changed.note) == (text, text)


def test_overrides_follow_the_annotation():
    changed = apply_overrides(
        Everything(),
        {
            "guidance.guidance_scale": "7.5", "cameras.fov_deg": "[40,55]", "cameras.sizes": "[ 1, 2 ]", "steps": "12",
            "cameras.names": '[1, null, "a, b", true]', "quiet": "true", "seed": "null", "device": "3", "lr": "1e-3",
            "cells": "[[1, 2]]", "sparsity": "2", "mesh": "{sizes: []}",
        },
    )  # fmt: skip
    assert changed == Everything(
        guidance=SDS(7.5), cameras=Views((40.0, 55.0), (1, 2), ("1", "null", "a, b", "true")), steps=12, quiet=True,
        seed=None, device=3, lr=1e-3, cells=((1, "2"),), sparsity=Constant(2.0), mesh=Views(sizes=()),
    )  # fmt: skip


@pytest.mark.parametrize("turn", [1, -1])
def test_type_switches_to_the_other_class_in_any_order(turn):
    given = {"guidance.type": "vsd", "guidance.lora_lr": "1e-2"}
    changed = apply_overrides(Everything(guidance=SDS(3.0)), dict(list(given.items())[::turn]))
    assert changed.guidance == VSD(lora_lr=1e-2)
    same = {"guidance.type": "sds", "guidance.weighting": "uniform"}
    assert apply_overrides(Everything(guidance=SDS(3.0)), same).guidance == SDS(3.0, weighting="uniform")


def test_schedules_by_override():
    parts = {"type": "linear", "start_value": "0.98", "end_value": "0.5"}
    by_part = apply_overrides(Everything(), {f"guidance.t_max.{name}": text for name, text in parts.items()})
    whole = apply_overrides(Everything(), {"guidance.t_max": "{type: linear, start_value: 0.98, end_value: 0.5}"})
    assert by_part.guidance == whole.guidance == SDS(50.0, Linear(0.98, 0.5))
    assert apply_overrides(whole, {"guidance.t_max.end": "0.5"}).guidance.t_max == Linear(0.98, 0.5, 0.0, 0.5)
    assert apply_overrides(whole, {"guidance.t_max": "0.7"}).guidance.t_max == 0.7


def test_ranges_are_checked_once_after_all_overrides():
    @dataclass(frozen=True)
    class Range:
        low: float = 0.0
        high: float = 1.0

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low must be <= high")

    assert apply_overrides(Range(), {"low": "5", "high": "6"}) == Range(5.0, 6.0)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"steps": "1.5"}, ["steps: got '1.5', accepted: a whole number"]),
        ({"steps": "1_000"}, ["steps: got '1_000', accepted: a whole number"]),
        ({"steps": "true"}, ["steps: got 'true', accepted: a whole number"]),
        ({"steps": ""}, ["steps: got '', accepted: a whole number"]),
        ({"steps": "9" * 5000}, ["steps: got '9999", "...", "accepted: a whole number"]),
        ({"lr": "nan"}, ["lr: got 'nan', accepted: a number"]),
        ({"lr": "1e999"}, ["lr: got inf, accepted: a finite number"]),
        ({"lr": "${oc.env:HOME}"}, ["lr: got '${oc.env:HOME}', accepted: a number"]),
        ({"quiet": "1"}, ["quiet: got '1', accepted: true or false"]),
        ({"device": "cpuu"}, ["device: got 'cpuu', accepted: auto | cpu | 3; did you mean 'cpu'?"]),
        ({"cameras.fov_deg": "40,55"}, ["cameras.fov_deg: got '40,55', accepted: [a number, a number]"]),
        ({"cameras.fov_deg": "[40]"}, ["cameras.fov_deg: got 1 values, accepted: [a number, a number]"]),
        ({"cameras.fov_deg": "[40, x]"}, ["cameras.fov_deg[1]: got 'x', accepted: a number"]),
        ({"cameras.fov_deg": "[40, &a 5]"}, ["cameras.fov_deg: got '[40, &a 5]', which is not readable: line 1"]),
        ({"cameras": "3"}, ["cameras: got '3', accepted: a mapping"]),
        ({"guidance": "vsd"}, ["guidance: got 'vsd', accepted: a mapping with type: sds/vsd"]),
        ({"guidance.type": "sdss"}, ["guidance.type: got 'sdss', accepted: sds, vsd; did you mean 'sds'?"]),
        ({"guidance.guidence_scale": "1"}, ["guidance.guidence_scale: unknown name, accepted: guidance_scale, t_max,",
                                            "did you mean 'guidance.guidance_scale'?"]),
        ({"guidance_scale": "1"}, ["guidance_scale: unknown name", "did you mean 'guidance.guidance_scale'?"]),
        ({"guidance.lora_lr": "1"}, ["guidance.lora_lr: unknown name, accepted: guidance_scale, t_max, weighting"]),
        ({"guidance.guidance_scale": "-1"}, ["guidance: guidance_scale must be >= 0, got -1.0"]),
        ({"guidance.t_max.end": "1"}, ["guidance.t_max.type: missing, accepted: constant, linear"]),
        ({"guidance.t_max.type": "linear"}, ["guidance.t_max.start_value: missing, accepted: a number"]),
        ({"steps.x": "1"}, ["steps: got a mapping with 'x', accepted: a whole number"]),
        ({"guidance": "{type: vsd}", "guidance.lora_lr": "1"}, ["guidance.lora_lr: 'guidance' is given both as"]),
        ({"guidance.lora_lr": "1", "guidance": "{type: vsd}"}, ["guidance: 'guidance' is given both as a whole"]),
        ({"": "1"}, ["'': unknown name"]),
        ({"a\nb": "1"}, [r"'a\nb': unknown name"]),
        ({"cameras.": "1"}, ["cameras.'': unknown name, accepted: fov_deg, sizes, names"]),
    ],
)  # fmt: skip
def test_bad_overrides_are_refused(overrides, expected):
    refused(lambda: apply_overrides(Everything(), overrides), *expected)


# Bad files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: 1.5", ["steps: got 1.5, accepted: a whole number"]),
        ("steps: 1.0", ["steps: got 1.0, accepted: a whole number"]),
        ("steps: true", ["steps: got True, accepted: a whole number"]),
        ("steps: '3'", ["steps: got '3', accepted: a whole number"]),
        ("lr: true", ["lr: got True, accepted: a number"]),
        ("lr: .nan", ["lr: got nan, accepted: a finite number"]),
        ("lr: -.inf", ["lr: got -inf, accepted: a finite number"]),
        (f"lr: 1{'0' * 400}", ["lr: got 1000", "accepted: a finite number"]),
        (f"steps: 1{'0' * 5000}", ["the config is not readable: Exceeds the limit"]),
        ("quiet: 1", ["quiet: got 1, accepted: true or false"]),
        ("quiet: yes", ["quiet: got 'yes', accepted: true or false"]),
        ("prompt: 3", ["prompt: got 3, accepted: text"]),
        ("prompt:", ["prompt: got None, accepted: text"]),
        ("device: '3'", ["device: got '3', accepted: auto | cpu | 3"]),
        ("promt: x", ["promt: unknown name, accepted: prompt, steps,", "did you mean 'prompt'?"]),
        ("cameras: {fov: [1, 2]}", ["cameras.fov: unknown name", "did you mean 'cameras.fov_deg'"]),
        ("cameras: [1]", ["cameras: got [1], accepted: a mapping"]),
        ("cameras:", ["cameras: got None, accepted: a mapping"]),
        ("guidance: {type: 3}", ["guidance.type: got 3, accepted: sds, vsd"]),
        ("guidance: {type: [sds]}", ["guidance.type: got ['sds'], accepted: sds, vsd"]),
        ("extra: [{lora_lr: 1}]", ["extra[0].type: missing, accepted: sds, vsd"]),
        ("extra: [{type: sds, guidance_scale: -1}]", ["extra[0]: guidance_scale must be >= 0, got -1.0"]),
        ("sparsity: {type: linear, start_value: 1, end_value: 0, start: 2}", ["sparsity: start and end are progress"]),
        ("- 1", ["the config: got [1], accepted: a mapping"]),
        ("just text", ["the config: got 'just text', accepted: a mapping"]),
        ("steps: 1\nsteps: 2", ["the config is not readable: line 2, column 1: the key 'steps' is given twice"]),
        ("prompt: &a x", ["line 1, column 9: anchors (&name) and aliases (*name) are not accepted: write"]),
        ("prompt: *a", ["anchors (&name) and aliases (*name) are not accepted"]),
        ("prompt: !!python/object/apply:os.system [id]", ["tags are not accepted, got 'tag:yaml.org,2002:python/"]),
        ("prompt: [", ["the config is not readable: line 1, column 10"]),
        ("prompt: \x00", ["unacceptable character #x0000"]),
        ("? [a]\n: 1", ["a key must be text"]),
        ("--- {}\n--- {}", ["expected a single document"]),
        ("1: 2", ["1: unknown name"]),
        ("<<: {steps: 3}", ["<<: unknown name"]),
        ("prompt: " + "x" * 1_000_000, ["the YAML text is larger than 1,000,000 bytes"]),
    ],
)  # fmt: skip
def test_bad_files_are_refused(text, expected):
    refused(lambda: load_yaml(Everything, text), *expected)


def test_missing_settings_and_paths():
    refused(lambda: load_yaml(Needed, "steps: 3"), "prompt: missing, accepted: text")
    refused(lambda: from_plain(Needed, {"steps": 3}, "jobs[2]"), "jobs[2].prompt: missing, accepted: text")
    refused(lambda: from_plain(SDS, {"guidance_scale": -1}), "guidance_scale must be >= 0, got -1.0")
    assert load_yaml(Needed, "prompt: x") == Needed("x")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Everything(steps=1.5), "steps: got 1.5, accepted: a whole number"),
        (Everything(lr=math.nan), "lr: got nan, accepted: a finite number"),
        (Everything(cameras=Views(fov_deg=(1.0,))), "cameras.fov_deg: got 1 values, accepted: [a number, a number]"),
        (Everything(cameras=Views(sizes=[64])), "cameras.sizes: got [64], accepted: [a whole number, ...]"),
        (Everything(guidance=Views()), "guidance: Views has no name in a config; register it (dreamlift.register)"),
        (Everything(sparsity=1.0), "sparsity: got 1.0, accepted: a number | a mapping with type: constant/linear"),
    ],
)
def test_objects_that_break_their_annotations_are_not_saved(config, expected):
    refused(lambda: to_plain(config), expected)


@pytest.mark.parametrize(
    ("annotation", "metadata"),
    [
        (int | str, {}), (dict[str, int], {}), (Views | SDS, {}), (object, {}), (tuple[int, int] | tuple[str, ...], {}),
        (Guidance, {"choices": {"x": int}}),
    ],
)  # fmt: skip
def test_annotations_that_would_need_guessing_are_a_mistake_of_the_class(annotation, metadata):
    x = ("x", annotation, field(default=None, metadata=metadata))
    broken = dataclasses.make_dataclass("Broken", [x], frozen=True)
    with pytest.raises(TypeError, match=r"Broken\.x"):
        from_plain(broken, {})


# Help


def test_describe_fields():
    rows = {name: rest for name, *rest in describe_fields(Everything(guidance=SDS(t_max=Linear(0.98, 0.5))))}
    assert rows["prompt"] == ["text", "a mug", ""]
    assert rows["steps"] == ["a whole number", "1000", ""]
    assert rows["cameras.fov_deg"] == ["[a number, a number]", "[40.0, 70.0]", ""]
    assert rows["guidance.type"] == ["sds | vsd", "sds", ""]
    assert rows["guidance.guidance_scale"] == ["a number", "100.0", "s in uncond + s (cond - uncond); >= 0"]
    assert rows["guidance.t_max.type"][1:] == ["linear", "largest diffusion time"]
    assert rows["guidance.t_max.end"] == ["a number", "1.0", "progress at which the linear change ends, in (start, 1]"]
    assert rows["seed"] == ["a whole number | null", "0", ""]
    assert rows["device"][0] == "auto | cpu | 3"
    by_vsd = {name: rest for name, *rest in describe_fields(Everything(guidance=VSD()))}
    assert by_vsd["guidance.lora_lr"][2] == "The learning rate of the LoRA, after ProlificDreamer."
    assert "guidance.t_max" not in by_vsd


def test_every_described_setting_can_be_overridden_with_its_own_value():
    config = Everything(guidance=SDS(t_max=Linear(0.98, 0.5)), mesh=Views(), zoom=Sqrt(1.0, 2.0))
    rows = [row for row in describe_fields(config) if not (row[0] == "note" and row[2] == "null")]
    assert len(rows) > 20
    for name, _, value, _ in rows:
        assert apply_overrides(config, {name: value}) == config, name
    assert apply_overrides(config, {name: value for name, _, value, _ in rows}) == config
