"""What goes wrong ends in one line of printable text with the fix, at most 300 characters, before anything expensive."""

import hashlib
import io
import json
import random
import re
import shutil
import sys
import time
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lift_helpers import generate_words, refused, run_main, status_of
from rich.console import Console

from dreamlift.config.build import config_hash, load_yaml, save_yaml
from dreamlift.config.schema import Config
from dreamlift.config.yaml import MAX_BYTES
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import find
from dreamlift.priors.pixel import PixelPrior
from dreamlift.prompts import NoViews
from dreamlift.runs.checkpoints import RunError, load_latest
from dreamlift.runs.progress import Live, Plain
from dreamlift.system.failures import is_out_of_memory
from dreamlift.system.text import MAX_MESSAGE, one_line, printable, read_text
from dreamlift.types import Task

HOSTILE = "a \x1b[31mred\x1b]0;title\x07 \u202egum\u2066 \x9b2J\r\nmug \u200b\U000e0041"


# Messages


def test_messages_are_one_printable_line_with_both_of_their_ends():
    pick = random.Random(0)
    alphabet = [chr(code) for code in (*range(0x300), *range(0x2000, 0x2070), 0xD800, 0xFEFF, 0x1F600, 0xE0001)]
    for length in (0, 1, 299, 300, 301, 5000, 100_000):
        text = "".join(pick.choices(alphabet, k=length))
        shown = one_line(text)
        assert len(shown) <= MAX_MESSAGE
        assert all(each == " " or unicodedata.category(each)[0] not in "CZ" for each in shown)
        shown.encode("utf-8")  # no half surrogates
    for length in (1, 150, 270):
        text = "there is no file: " + "x" * length
        assert one_line(text) == text
    shown = one_line("the setting x is wrong: " + "y" * 100_000 + "; give it another value")
    assert shown.startswith("the setting x is wrong: yyy")
    assert shown.endswith("yyy; give it another value")
    assert one_line("a\n\tb  c") == "a b c"
    assert printable("a\n\x1b\u202e") == "a\\n\\x1b\\u202e"
    assert one_line("caf\u00e9 \u8336 \U0001fad6") == "caf\u00e9 \u8336 \U0001fad6"


@pytest.mark.parametrize("kind", [Plain, Live])
def test_nothing_of_a_prompt_is_a_command_to_the_terminal(kind, capsys, monkeypatch):
    """Everything a reporter prints passes through one function: notes, parts of the run, results."""
    reporter, out = kind(), io.StringIO()
    if kind is Live:
        reporter.console = Console(file=out, width=400)
    reporter.stage(f"lifting {HOSTILE}")
    reporter.note(HOSTILE)
    reporter.done({"asset": f"/tmp/{HOSTILE}/asset.glb"})
    said = out.getvalue() + capsys.readouterr().err
    assert said.count("\\x1b[31mred") == 3
    assert said.count("\\u202egum") == 3
    assert len(said.splitlines()) == 3
    assert said.replace("\n", "").isprintable()


def test_long_and_hostile_words_of_the_command_line_are_cut_and_escaped(cwd, capsys):
    long = "x" * 100_000
    for words in (
        ["generate", "a mug", "--prior", long],
        ["generate", "a mug", "--config", long[:4000]],
        ["generate", "a mug", "--preset", f"{HOSTILE}{long}"],
        ["generate", "a mug", "--out", f"~{HOSTILE}"],
        ["generate", "a mug", f"--{long}"],
        ["generate", "a mug", f"--a.{'b' * 1000}", HOSTILE],
        ["generate", "a mug", "--steps", f"{HOSTILE}{long}"],
        ["generate", "a mug", "--plugin", f"{HOSTILE}.py"],
        ["resume", f"{HOSTILE}"],
        [HOSTILE],
    ):
        refused(capsys, cwd, words)


# What is read has a limit


def test_a_config_of_three_gigabytes_is_refused_before_it_is_read(cwd, capsys):
    with open("large.yaml", "wb") as file:
        file.truncate(3 << 30)  # sparse: nothing of it is on the disk
    begun = time.monotonic()
    with pytest.raises(ValueError, match=f"has 3,221,225,472 bytes; accepted: at most {MAX_BYTES:,} bytes"):
        read_text("large.yaml", MAX_BYTES)
    assert time.monotonic() - begun < 0.1
    assert run_main("generate", "--config", "large.yaml") == 2
    assert "'large.yaml' has 3,221,225,472 bytes" in capsys.readouterr().err


def test_a_file_without_a_size_is_read_up_to_the_limit(cwd):
    assert "model name" in read_text("/proc/cpuinfo", 1 << 20) or sys.platform != "linux"
    if sys.platform == "linux":
        with pytest.raises(ValueError, match="accepted: at most 10 bytes"):
            read_text("/proc/cpuinfo", 10)
        with pytest.raises(ValueError, match="is not a regular file"):
            read_text("/dev/zero", 10)


MANY = {
    "stages": ("stages: [" + "{type: lift}, " * 5000 + "]", "stages: got 5,000 values, accepted: at most 1,000"),
    "some stages": ("stages: [" + "{type: lift}, " * 101 + "]", "stages has 101 entries; accepted: at most 100"),
    "resolutions": (
        "stages: [{type: lift, cameras: {resolution: [" + "64, " * 8000 + "]}}]",
        "stages[0].cameras.resolution: got 8,000 values, accepted: at most 1,000",
    ),
    "photos": ("photos: [" + "{path: a.png}, " * 4000 + "]", "photos: got 4,000 values, accepted: at most 1,000"),
    "values": ("stages: [" + "{}, " * 30_000 + "]", "more than 20,000 values"),
    "levels": ("a: " + "[" * 40 + "]" * 40, "nested deeper than 30 levels"),
}


@pytest.mark.parametrize("name", MANY)
def test_thousands_of_entries_are_refused_quickly(name, cwd, capsys):
    text, said = MANY[name]
    (cwd / "config.yaml").write_text(text)
    begun = time.process_time()
    refused(capsys, cwd, ["generate", "a mug", "--config", "config.yaml"], said)
    assert time.process_time() - begun < 3


# Encodings


def test_configs_in_other_encodings_are_read_by_their_mark_or_refused_with_the_place(cwd, capsys, no_steps, stub):
    text = "# gr\u00fcn\nprompt: ein gr\u00fcner Krug\n"
    for name, data in {
        "bom": b"\xef\xbb\xbf" + text.encode(), "crlf": text.replace("\n", "\r\n").encode(), "utf16": text.encode("utf-16"),
        "utf16 be": b"\xfe\xff" + text.encode("utf-16-be"),
    }.items():  # fmt: skip
        (cwd / "config.yaml").write_bytes(data)
        assert run_main("generate", "--config", "config.yaml", "--prior", stub, "--out", name) == 0, name
        assert load_yaml(Config, (cwd / name / "config.yaml").read_text(encoding="utf-8")).prompt == "ein gr\u00fcner Krug"
    capsys.readouterr()
    for name, data, said in (
        ("latin-1", text.encode("latin-1"), "is not UTF-8 text (the byte 0xFC in line 1, column 5; Latin-1"),
        (
            "cp1252",
            "prompt: a\nx: \u201ca\u201d".encode("cp1252"),
            "(the byte 0x93 in line 2, column 4; Latin-1 or Windows-1252?)",
        ),
        ("half UTF-16", text.encode("utf-16")[:-1], "begins as UTF-16 text, but is not: save it as UTF-8"),
    ):
        (cwd / "config.yaml").write_bytes(data)
        assert said in refused(capsys, cwd, ["generate", "--config", "config.yaml"], "'config.yaml' "), name


def test_the_config_of_a_run_is_read_as_carefully(cwd, capsys, no_steps, stub):
    assert run_main("generate", "a mug", "--prior", stub, "--out", "run") == 0
    capsys.readouterr()
    config = cwd / "run" / "config.yaml"
    whole = config.read_bytes()
    for data, said in (
        (whole.replace(b"a mug", b"caf\xe9"), "config.yaml' is not UTF-8 text (the byte 0xE9 in line 1, column 12;"),
        (b"seed: [" * 50, "config.yaml is not readable: line 1"),
        (b"sed: 1", "run/config.yaml: sed: unknown name"),
    ):
        config.write_bytes(data)
        for words in (["resume", "run"], ["export", "run"], ["generate", "--config", "run"]):
            refused(capsys, cwd, words, said)
    # A run with a plugin's part says which plugin, also where it is the config of another run.
    status = json.loads((cwd / "run" / "run.json").read_text())
    (cwd / "run" / "run.json").write_text(json.dumps({**status, "plugins": ["my.py"]}))
    config.write_bytes(whole.replace(b"type: sds", b"type: mine"))
    for words in (["resume", "run"], ["generate", "--config", "run"]):
        refused(capsys, cwd, words, "this run was made with --plugin my.py: give it again")


# Failures in the middle of a run


class BrokenError(Exception):
    """An error that only a prior's own code knows."""


def test_a_prior_that_raises_fails_the_run_in_one_line(cwd, capsys, stub, monkeypatch):
    def broken(*_):
        raise BrokenError("the server\nis gone")

    monkeypatch.setattr(PixelPrior, "predict_noise", broken)
    assert run_main(*generate_words(stub, "run", "--steps", 2)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("dreamlift: error: step 0: the prior ")
    assert last.endswith("or the loss SDS of teacher 0 failed with BrokenError: the server is gone; --debug shows where")
    assert status_of(cwd / "run")["status"] == "failed"
    assert "BrokenError: the server" in status_of(cwd / "run")["error"]


def test_a_cpu_allocation_that_fails_names_the_settings_that_need_less(cwd, capsys, stub, monkeypatch):
    monkeypatch.setattr(PixelPrior, "predict_noise", lambda *_: torch.empty(1 << 60))
    assert run_main(*generate_words(stub, "run", "--steps", 2)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "DefaultCPUAllocator" in last
    assert "Options that need less: --memory.micro_batch 1" in last
    assert len(last) <= MAX_MESSAGE + len("dreamlift: error: ")


def test_which_errors_are_a_full_memory():
    full = [MemoryError(), RuntimeError("std::bad_alloc"), RuntimeError("CUDA error: out of memory"), OSError(12, "no memory")]
    assert all(map(is_out_of_memory, full))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    others = [RuntimeError("shapes"), ValueError("out of memory"), OSError(28, "no space")]
    assert not any(map(is_out_of_memory, others))


def test_a_run_of_a_device_that_is_gone_is_refused_and_its_checkpoint_stays(cwd, capsys, no_steps, stub):
    assert run_main("generate", "a mug", "--prior", stub, "--out", "run", "--device", "cpu") == 0
    config = load_yaml(Config, (cwd / "run" / "config.yaml").read_text())
    config = replace(config, device="cuda:7")
    (cwd / "run" / "config.yaml").write_text(save_yaml(config))
    status = json.loads((cwd / "run" / "run.json").read_text())
    (cwd / "run" / "run.json").write_text(json.dumps({**status, "config_hash": config_hash(config)}))
    capsys.readouterr()
    refused(capsys, cwd, ["resume", "run"], "device 'cuda:7' is not available")


def test_a_checkpoint_that_was_made_to_fit_its_hashes_is_not_used(tmp_path):
    contents = {
        "no tree": {"tensors.safetensors": b""}, "no JSON": {"state.json": b"{"}, "kind": {"state.json": b'{"pickle": "x"}'},
        "deep": {"state.json": b"[" * 100_000}, "no tensor": {"state.json": b'{"tensor": "1"}'},
        "tensor": {"state.json": b'{"tensor": "1"}', "tensors.safetensors": b"\xff" * 99},
    }  # fmt: skip
    for name, files in contents.items():
        folder = tmp_path / name / "step-000001"
        folder.mkdir(parents=True)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        entries = {file: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for file, data in files.items()}
        manifest = {"schema": 1, "step": 1, "config_hash": "c", "files": entries}
        checksum = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        (folder / "MANIFEST.json").write_text(json.dumps({**manifest, "checksum": checksum}))
        with (
            pytest.warns(RuntimeWarning, match="its content cannot be read"),
            pytest.raises(RunError, match="no usable checkpoint in"),
        ):
            load_latest(tmp_path / name, "c")


def test_a_hub_that_cannot_be_reached_is_said_in_seconds(cwd, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens to this port
    begun = time.monotonic()
    said = "The model hub cannot be reached: connect, or", "; --prior toybox needs no download"
    refused(capsys, cwd, ["generate", "a mug", "--prior", "sd-2.1-base"], *said)
    assert time.monotonic() - begun < 5


def test_code_in_a_priors_folder_is_never_run(tmp_path, stub):
    folder = tmp_path / "prior"
    shutil.copytree(stub, folder)
    trap = "import pathlib; pathlib.Path(__file__).with_name('run').touch()\nclass Mine: pass\n"
    for place in (folder, folder / "unet", folder / "tokenizer", folder / "text_encoder"):
        (place / "mine.py").write_text(trap)
    for file, more in (
        (folder / "model_index.json", {"_class_name": ["mine", "Mine"], "custom_pipeline": "mine", "trust_remote_code": True}),
        (folder / "tokenizer" / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["mine.Mine", None]}}),
        (folder / "text_encoder" / "config.json", {"auto_map": {"AutoModel": "mine.Mine"}}),
    ):
        file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    located = find(PriorChoice(str(folder)))
    located.read(Task("a mug"), NoViews(), (), torch.device("cpu"))
    located.load(torch.device("cpu"))
    assert not list(tmp_path.rglob("run"))


# The document


def test_the_document_names_every_fault_and_only_tests_that_exist():
    root = Path(__file__).parents[1]
    text = (root / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)::(test_\w+)`", text)
    assert len(named) > 60
    for file, test in named:
        assert f"def {test}(" in (root / "tests" / f"{file}.py").read_text(encoding="utf-8"), (file, test)
    rows = re.findall(r"^\| (F?\d+(?:(?:, |-)F?\d+)*) \|", text, re.MULTILINE)
    numbers = {number for row in rows for part in row.split(", ") for number in spread(part)}
    later = {"F11", "F12", "F13", "F16", "14", "33"}
    assert numbers | later == {f"F{i}" for i in range(1, 21)} | {str(i) for i in range(1, 34)}


def spread(part):
    """The numbers of "F3" or "15-18"."""
    first, _, last = part.partition("-")
    mark = "F" * first.startswith("F")
    return [f"{mark}{i}" for i in range(int(first.lstrip("F")), int((last or first).lstrip("F")) + 1)]
