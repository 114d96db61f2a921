"""A run's folder, prompt, metrics and signals: what is refused, and with which words."""

import errno
import json
import os
import random
import signal
import threading
import time
import unicodedata

import pytest
import torch
from run_helpers import HASH, names, refused, saved

from dreamlift.prompts import check_prompt
from dreamlift.runs.run import Run, read_metrics, slugify
from dreamlift.system.signals import stop_signals


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "run", "a mug", config_hash=HASH, config_text="steps: 3\n") as made:
        yield made


# Prompts and folder names

SLUGS = {
    "../../../x": "x", "/abs": "abs", "a ceramic mug, blue": "a-ceramic-mug-blue", "--help": "help", "CON": "con-asset",
    "nul": "nul-asset", "com1.": "com1-asset", "mug...": "mug", "=cmd|' /C calc'!A0": "cmd-c-calc-a0", "...": "asset",
    "<script>alert(1)</script>": "script-alert-1-script", "${oc.env:HOME}": "oc-env-home", "3": "3", "null": "null",
    "a: b, {c": "a-b-c", "a=b": "a-b", "🫖": "asset", "🫖 teapot": "teapot", "青い茶碗": "青い茶碗",
    "\\\\host\\c$": "host-c",
    "cafe\u0301": "caf\u00e9", "caf\u00e9": "caf\u00e9", "C:\\x": "c-x", "\u0301\u0301": "asset", "İ": "i\u0307",
}  # fmt: skip


@pytest.mark.parametrize("prompt", SLUGS)
def test_slugs_by_hand(prompt):
    assert slugify(prompt) == SLUGS[prompt]


def test_slugs_are_safe_for_every_character(tmp_path):
    pick = random.Random(0)
    for _ in range(2000):
        slug = slugify("".join(chr(pick.choice([pick.randrange(128), pick.randrange(0x110000)])) for _ in range(90)))
        assert not set(slug) & set('/\\:*?"<>|.\0 ')
        assert slug == slug.strip(". -")
        assert slug.isprintable()
        assert 1 <= len(slug.encode()) <= 160
        assert unicodedata.normalize("NFC", slug) == slug
    (tmp_path / slugify("茶" * 900)).mkdir()


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", 'the prompt is empty: describe the object, such as "a ceramic mug"'),
        (" \t\u3000 ", "the prompt is empty"),
        ("\u200b\u200d\ufeff", "the prompt is empty"),
        ("a\0b", "the prompt has a control character (U+0000) at character 2: remove it"),
        ("a \x1b[31mred\x1b[0m mug", "a control character (U+001B) at character 3"),
        ("a\tb", "a control character (U+0009)"),
        ("a\x9bb", "a control character (U+009B)"),
        ("a\ud800", "a control character (U+D800)"),
        ("a \u202egum", "a text-direction override (U+202E) at character 3: remove it"),
        ("a \u2066gum", "a text-direction override (U+2066)"),
        ("a\nb", "the prompt has more than one line: write it on one line (a file of prompts goes to `dreamlift batch`)"),
        ("a\r\nb", "the prompt has more than one line"),
        ("a\u2028b", "the prompt has more than one line"),
        ("x" * 1001, "the prompt has 1001 characters (1001 bytes), accepted: at most 1000 characters (4096 bytes)"),
        ("x" * 10_000, "the prompt has 10000 characters"),
        # NFC can only make text longer for a few characters; this one grows from two bytes to six.
        ("\u0344" * 900, "the prompt has 1800 characters"),
    ],
)
def test_bad_prompts_are_refused(prompt, expected, tmp_path):
    refused(lambda: check_prompt(prompt), expected, kind=ValueError)
    refused(lambda: Run.create(tmp_path / "run", prompt), expected, kind=ValueError)
    assert names(tmp_path) == []


def test_good_prompts_stay_themselves():
    for prompt in [*SLUGS, "x" * 1000, "🫖" * 1000, "<b> & ]]>", "نص عربي", "👩‍🚀", "null", "[1,2]", "!"]:
        if any(unicodedata.category(c)[0] not in "MZ" for c in prompt):
            assert check_prompt(f"  {prompt} \n") == unicodedata.normalize("NFC", prompt)
    with pytest.raises(TypeError, match="the prompt must be text, got int"):
        check_prompt(3)


def test_folders_of_equal_prompts_at_the_same_second_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20250101-000000")
    prompts = ["a mug", "A  mug!", "a/mug", "cafe\u0301", "caf\u00e9"]
    folders = []
    for prompt in prompts:
        with Run.create(None, prompt, root=tmp_path / "outputs") as run:
            folders.append(run.folder.name)
    assert folders == [
        "a-mug-20250101-000000", "a-mug-20250101-000000-2", "a-mug-20250101-000000-3",
        "caf\u00e9-20250101-000000", "caf\u00e9-20250101-000000-2",
    ]  # fmt: skip


# The folder


def test_a_new_run_holds_its_config_and_status(run):
    assert names(run.folder) == [".lock", "config.yaml", "events.jsonl", "run.json"]
    assert (run.folder / "config.yaml").read_text() == "steps: 3\n"
    run.set_status("finished", {"seed": 7, "loss": float("nan")})
    found = json.loads((run.folder / "run.json").read_text())
    assert (found["prompt"], found["status"], found["seed"], found["loss"]) == ("a mug", "finished", 7, "nan")
    assert found["config_hash"] == HASH
    assert "created" in found
    run.close()
    assert names(run.folder) == ["config.yaml", "events.jsonl", "run.json"]


def test_nothing_is_overwritten(run, tmp_path):
    before = (run.folder / "run.json").read_bytes()
    refused(lambda: Run.create(run.folder, "a cup"), "holds a run already: resume that one, or give --out another folder")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    refused(lambda: Run.create(tmp_path / "mine", "a cup"), "is not empty, and nothing is overwritten: give --out a new")
    refused(lambda: Run.create(tmp_path / "mine" / "thesis.tex", "a cup"), "is a file: give --out a new or an empty")
    refused(lambda: Run.create(tmp_path / "mine" / "thesis.tex" / "x", "a cup"), "cannot create the run folder")
    assert (run.folder / "run.json").read_bytes() == before
    assert names(tmp_path / "mine") == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", "a cup").close()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "holds no run (there is no run.json): give the folder of a run"),
        ("{", "was changed and cannot be read"),
        ("[]", "was changed and cannot be read"),
        ('{"schema": 99}', "was written by a newer dreamlift (schema 99): upgrade dreamlift"),
        ('{"schema": 1, "prompt": "x", "config_hash": "other"}', "belongs to another config (hash 'other', now 'c0ff"),
    ],
)  # fmt: skip
def test_folders_that_are_no_run_of_this_config_are_refused(content, expected, tmp_path):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    refused(lambda: Run.open(tmp_path, config_hash=HASH), expected)


# Metrics


def test_metrics_are_cut_back_to_the_checkpoint(run):
    for index in range(5):
        run.log(index, {"loss": 1 / (index + 1), "step": 99})
        if index == 2:
            run.save_checkpoint(3, saved(3))
    with open(run.folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 5, "lo')
    assert [line["step"] for line in read_metrics(run.folder)] == [0, 1, 2, 3, 4]
    before = (run.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    run.close()
    with Run.open(run.folder, config_hash=HASH) as again:
        found = again.load_latest()
        again.resume(found)
        assert (found.index, found.work["step"]) == (3, 3)
        assert (run.folder / "metrics.jsonl").read_bytes() == b"".join(before[:3])
        again.log(3, {"loss": float("nan"), "grad": float("-inf"), "t": torch.tensor(0.5), "n": 3})
    assert read_metrics(run.folder)[-1] == {"step": 3, "loss": "nan", "grad": "-inf", "t": 0.5, "n": 3}
    events = [json.loads(line)["event"] for line in (run.folder / "events.jsonl").read_text().splitlines()]
    assert events == ["created", "checkpoint", "resumed"]


def test_half_lines_take_no_whole_line_with_them(run):
    run.log(0, {"loss": 1.0})
    with open(run.folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 1, "\xff')
    run.log(1, {"loss": 2.0})
    assert [line["loss"] for line in read_metrics(run.folder)] == [1.0, 2.0]
    assert run.load_latest() is None
    run.resume(None)
    assert read_metrics(run.folder) == []
    assert read_metrics(run.folder / "nowhere") == []


def test_a_half_written_line_is_taken_back(run, monkeypatch):
    run.log(0, {"loss": 1.0})
    real, sizes = os.write, []

    def short(descriptor, data):
        sizes.append(len(data))
        if len(sizes) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:5])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", short)
        refused(lambda: run.log(1, {"loss": 2.0}), "metrics.jsonl: No space left on device; free some space")
    assert (run.folder / "metrics.jsonl").read_bytes() == b'{"step": 0, "loss": 1.0}\n'


# Signals


def test_the_first_signal_asks_and_the_second_interrupts():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_signals() as stop:
        assert (stop.requested, stop.name) == (False, "")
        signal.raise_signal(signal.SIGINT)
        assert (stop.requested, stop.name) == (True, "SIGINT")
        signal.raise_signal(signal.SIGTERM)  # what asks politely stays polite
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_at_once_the_first_signal_interrupts(number):
    with stop_signals(at_once=True) as stop, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert stop.name == number.name


def test_sigterm_is_a_request():
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 5
        while not stop.requested and time.monotonic() < deadline:
            time.sleep(0.001)
    assert stop.name == "SIGTERM"


def test_handlers_come_back_after_an_error_and_threads_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stop_signals():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before
    seen = []

    def work():
        with stop_signals() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_leftovers_of_a_killed_process_are_removed(run):
    run.save_checkpoint(1, saved(1))
    (run.folder / ".tmp-abc").write_text("x")
    (run.folder / "checkpoints" / ".tmp-abc").mkdir()
    (run.folder / "checkpoints" / ".tmp-abc" / "state.json").write_text("x")
    (run.folder / "checkpoints" / "notes.txt").write_text("mine")
    run.close()
    Run.open(run.folder, config_hash=HASH).close()
    assert names(run.folder / "checkpoints") == ["notes.txt", "step-000001"]
    assert names(run.folder) == ["checkpoints", "config.yaml", "events.jsonl", "run.json"]
