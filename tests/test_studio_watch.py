"""``--watch``: one page for a command, which shows its runs one after the other and changes nothing."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time

import pytest
from lift_helpers import TINY, refused, run_main
from studio_helpers import Fake, Visitor, ask, make_run, png, until

from dreamlift import verbs
from dreamlift.cli import with_watch
from dreamlift.runs.progress import Silent
from dreamlift.studio import watch
from dreamlift.studio.hub import Live
from dreamlift.studio.serve import Place
from dreamlift.studio.watch import watching

SHORT = ["--stages.0.steps=100" if word.startswith("--steps") else word for word in TINY]
# The prior means nothing: with small steps the scene stays one that can be meshed.
SETTINGS = [*SHORT, "--stages.0.adam.lr_scale=0.01"]


class Told(Silent):
    """The part of the terminal. ``port`` and ``token``: of the address, which is waited for."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    @property
    def address(self):
        text = until(lambda: next((note for note in self.notes if note.startswith("watch it at ")), None))
        port, token = re.fullmatch(r"watch it at http://127\.0\.0\.1:(\d+)/#token=([\w-]{22})", text).groups()
        return int(port), token


def begin(shown, folder):
    """What a run tells at its beginning."""
    shown.begin(folder, {"prompt": folder.name, "seed": 0})


def test_a_page_of_one_run_starts_none_and_shows_no_other(tmp_path):
    root = tmp_path
    make_run(root)
    make_run(root, "other")
    fake = Fake(root, Place(port=0), only="a-red-mug-20260101-000000")
    try:
        assert [run["name"] for run in json.loads(fake.ask("GET", "/api/runs")[2])["runs"]] == ["a-red-mug-20260101-000000"]
        assert fake.ask("GET", "/runs/other/asset.glb")[0] == 404
        fake.hub.live = Live(1, {})
        fake.hub.live.status = "running"
        for path, body in (
            ("start", {"prompt": "a mug"}),
            ("stop", {"number": 1}),
            ("pictures", png()),
            ("more", {}),
            ("resume", {}),
        ):
            status, found = fake.post(f"/api/{path}", body)
            assert (status, found["error"]) == (403, "this page shows one run; `dreamlift studio` starts others")
        assert (fake.hub.live.status, fake.sent) == ("running", [])
        assert not (root / ".pictures").exists()
    finally:
        fake.close()


def test_one_server_shows_one_run_after_the_other_and_waits_after_the_last_only(tmp_path, monkeypatch):
    """By two runs that the test plays: the second begins while the page is open."""
    monkeypatch.setattr("dreamlift.studio.watch.LINGER", 0.2)
    told, folders = Told(), [make_run(tmp_path, name) for name in ("seed-0", "seed-1")]
    with watching(told) as page:
        port, token = told.address
        visitor = Visitor(port, token)
        assert visitor.hear("state")[0]["run"]["number"] == 1
        for number, folder in enumerate(folders, start=1):
            shown = page.show(Silent())
            shown.stage(f"seed {number - 1}")
            begin(shown, folder)
            run = until(lambda: (run := visitor.hear("run")[0]["run"])["status"] == "running" and run)
            assert (run["number"], run["name"], run["prompt"]) == (number, folder.name, folder.name)
            listed = json.loads(ask(port, "GET", "/api/runs", authorization=f"Bearer {token}")[2])["runs"]
            assert [each["name"] for each in listed] == [folder.name]
            shown.done({})
            begun = time.monotonic()
            shown.close()
            assert time.monotonic() - begun < 0.5
            run = until(lambda: (run := visitor.hear("run")[0]["run"])["status"] == "finished" and run)
            assert run["number"] == number
        assert page.server.poll() is None
        assert ask(port, "GET", "/runs/seed-1/asset.glb")[0] == 401
        assert ask(port, "GET", f"/runs/seed-1/asset.glb?ticket={listed[0]['ticket']}")[0] == 200
        time.sleep(1.0)  # as long as the page is open the server stays
        assert page.server.poll() is None
        visitor.close()
    assert page.server.poll() is not None
    assert len([note for note in told.notes if note.startswith("watch it at")]) == 1


def test_a_page_of_a_command_that_fails_before_its_run_says_so_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("dreamlift.studio.watch.LINGER", 0.5)
    told = Told()

    def fail():
        with watching(told) as page:
            visitors.append(Visitor(*told.address))
            page.show(Silent())
            raise ValueError("the photo cannot be used")

    visitors = []
    with pytest.raises(ValueError, match="the photo cannot be used"):
        fail()
    run = until(lambda: (run := visitors[0].hear("run")[0]["run"])["status"] == "failed" and run)
    assert run["error"] == "the photo cannot be used"


def test_several_seeds_start_one_server(no_steps, tmp_path, monkeypatch, capsys):
    started, start = [], watch.start_apart
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "start_apart", lambda *words: (started.append(words), start(*words))[1])
    monkeypatch.setattr("dreamlift.showing.seeds.save_sheet", lambda *_: ())
    words = ["generate", "a red mug", *TINY, "--seeds", "3", "--out", "several", "--watch", "--print-size", "8cm"]
    assert run_main(*words) == 0
    assert len(started) == 1
    err = capsys.readouterr().err
    assert err.count("note: watch it at ") == 1
    assert err.count("--print-size is that of STL and 3MF files") == 1
    assert [line for line in err.splitlines() if line.startswith("seed ")] == [f"seed {n} ({n + 1} of 3)" for n in range(3)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a mug"], (None, "a mug")), (["a mug", "--watch"], (0, "a mug")), (["--watch", "a mug"], (0, "a mug")),
        (["--watch", "8123", "a mug"], (8123, "a mug")), (["a mug", "--watch=8123"], (8123, "a mug")),
        (["--watch", "--seed", "3", "a mug"], (0, "a mug")), (["--", "--watch"], (None, "--watch")),
    ],
)  # fmt: skip
def test_the_port_may_be_left_out_in_front_of_the_prompt(words, expected):
    found = verbs.build_parser().parse_args(with_watch(["generate", *words]))
    assert (found.watch, found.prompt) == expected


def test_the_page_is_at_the_given_port(no_steps, tmp_path, monkeypatch, capsys):
    """So that one `ssh -L` serves all runs on another machine; a port that is taken is refused before the run begins."""
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["generate", "a red mug", *TINY, "--out", "run", "--watch"]
        refused(
            capsys, tmp_path, [*words, port], f"port {port}: another program (or studio) uses", "give --watch another one, or 0"
        )
    refused(capsys, tmp_path, [*words, "70000"], "--watch is 70000; accepted: 1 to 65535, or 0 for any that is free")
    assert run_main(*words, port) == 0
    assert f"watch it at http://127.0.0.1:{port}/#token=" in capsys.readouterr().err


def test_a_missing_package_is_said_with_the_fix(cwd, monkeypatch, capsys):
    monkeypatch.setattr("dreamlift.studio.serve.PACKAGES", ("starlette", "no_such_package"))
    for words in (["studio"], ["generate", "a red mug", "--watch"]):
        refused(capsys, cwd, words, 'the studio needs no_such_package: pip install "dreamlift[studio]"')


def test_watch_shows_one_run_and_ends_when_its_page_is_closed(stub, tmp_path):
    words = [*SETTINGS, f"--prior.name={stub}", "--out", str(tmp_path / "run"), "--watch"]
    command = [sys.executable, "-m", "dreamlift.cli", "generate", "a red mug", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert process.stderr is not None
        form = r"watch it at http://127\.0\.0\.1:(\d+)/#token=(\S+)"
        found = next(found for line in process.stderr if (found := re.search(form, line)))
        port, token = int(found[1]), found[2]
        visitor = Visitor(port, token)
        state = visitor.hear("state", 120)[0]
        assert state["watch"]
        if state["run"]["status"] == "loading":
            until(lambda: visitor.hear("run", 120)[0]["run"]["status"] == "running")
        visitor.look(0.5)
        assert visitor.hear("frame")[1].startswith(b"\xff\xd8")
        until(lambda: visitor.hear("run", 120)[0]["run"]["status"] == "finished")
        asked = ask(port, "GET", "/runs/run/asset.glb", authorization=f"Bearer {token}")[2]
        assert asked == (tmp_path / "run" / "asset.glb").read_bytes()
        visitor.close()
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
