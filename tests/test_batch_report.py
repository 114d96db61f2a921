"""What is told of a batch: its status, its table and its page; and copies of finished assets."""

from __future__ import annotations

import csv
import json
import os
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from batch_helpers import DONE, carried_out, entries_of, ledger_of

from dreamlift.batch.heartbeat import Heartbeat
from dreamlift.batch.ledger import Entry
from dreamlift.batch.remote import check, upload
from dreamlift.batch.report import write_report
from dreamlift.batch.status import described, duration, rate_of, status_of
from dreamlift.batch.verbs import teller
from dreamlift.cli import main


def test_the_status_counts_what_the_ledger_says(tmp_path, capsys):
    entries = entries_of(7)
    ledger = ledger_of(tmp_path / "runs", entries)
    refused = {"outcome": "refused", "reason": "it is \x1b[31m empty"}
    carried_out(ledger, lambda job, _: refused if job["entry"]["seed"] == 1 else DONE, entries[:4])
    with Heartbeat(ledger, lambda: {"running": {entries[4].id: [30, 600]}}) as beat:
        ledger.claim(entries[4], 1, beat.owner())
        ledger.claim(entries[5], 1, {**beat.owner(), "processes": [[2**22 + 7, "1"]]})  # a killed one
        found = status_of(ledger)
        assert (found.assets, found.done, found.failed, len(found.running), found.waiting) == (7, 3, 1, 1, 2)
        assert found.running[0] | {"host": "", "since": ""} == {
            "folder": entries[4].folder, "host": "", "attempt": 1, "step": 30, "total": 600, "since": ""
        }  # fmt: skip
        assert main(["status", str(ledger.root)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("7 assets: 3 done, 1 running, 2 waiting, 1 given up (57 %)")
        assert f"  running  {entries[4].folder}  step 30/600" in lines[1]
        assert lines[2] == f"  given up {entries[1].folder}: it is \\x1b[31m empty"
        assert main(["status", str(ledger.root), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["waiting"] == 2
    (ledger.folder(entries[4]) / "metrics.jsonl").write_text('{"step": 8, "loss": 1.0}\n{"step": 9, "lo')
    with Heartbeat(ledger) as beat:
        ledger.claim(entries[6], 1, beat.owner())
        assert status_of(ledger).running[-1]["step"] == 0
    assert main(["status", str(tmp_path)]) == 2
    assert "is no folder of a batch" in capsys.readouterr().err


def test_a_command_without_a_sign_of_life_is_said_and_not_counted_as_running(tmp_path, capsys):
    entries = entries_of(4)
    ledger = ledger_of(tmp_path / "runs", entries)
    first, second, third, fourth = entries
    far = {"space": "elsewhere", "host": "far", "since": "2025-01-01 10:00:00"}
    for entry, token in ((first, "living"), (second, "killed"), (third, "swept")):
        ledger.claim(entry, 1, {**far, "token": token})
    # The killed one made the first asset before; its heartbeat, the later one by name, says so still.
    for token, age, steps in (("living", 5, {first.id: [30, 600]}), ("killed", 3600, {first.id: [7, 9], second.id: [8, 9]})):
        (ledger.workers / token).write_text(json.dumps({"running": steps}))
        os.utime(ledger.workers / token, (time.time() - age,) * 2)
    (ledger.workers / "zz").write_text(json.dumps({"running": {first.id: [1, 2]}}))
    ledger.claim(fourth, 1, {**far, "token": "living"})
    ledger.end(fourth, 1, {"outcome": "lost"})
    ledger.claim(fourth, 2, {**far, "token": "living"})
    found = status_of(ledger)
    assert [(each["folder"], each["step"], each["total"]) for each in found.running] == [
        (first.folder, 30, 600), (fourth.folder, 0, 0)
    ]  # fmt: skip
    assert [each["attempt"] for each in found.running] == [1, 1]  # one that is lost does not count
    assert [(each["folder"], each["step"]) for each in found.silent] == [(second.folder, 8), (third.folder, 0)]
    assert found.waiting == 2
    assert main(["status", str(ledger.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    when = time.strftime("%F %H:", time.localtime(time.time() - 3600))
    assert f"waiting  {second.folder}  step 8/9  no sign of life from far since {when}" in lines[3]
    assert lines[4].endswith(f"{third.folder}  loading  no sign of life from far (begun 2025-01-01 10:00:00)")


def test_a_batch_is_not_begun_in_a_runs_folder_or_before_its_upload_is_checked(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a red mug\n")
    Path("run").mkdir()
    Path("run/run.json").write_text("{}")
    assert main(["batch", "a.txt", "--out", "run"]) == 2
    assert "run is the folder of a run: give --out another one, such as runs" in capsys.readouterr().err
    assert main(["batch", "a.txt", "--out", "new", "--upload", "no-address"]) == 2
    assert "--upload is 'no-address'" in capsys.readouterr().err
    assert not Path("new").exists()
    assert [path.name for path in Path("run").iterdir()] == ["run.json"]


def test_lines_say_whose_they_are(capsys):
    tell = teller(False)
    tell("note", "PSNR 17 dB", {"asset": "1", "folder": "a-mug"})
    tell("note", "PSNR 18 dB", {"asset": "2", "folder": "a-hat"})  # alike
    tell("work", "a-mug step 3/9", {"done": 1, "failed": 1, "assets": 5, "running": 1})
    assert capsys.readouterr().err.splitlines() == ["note (a-mug): PSNR 17 dB", "[2/5] in work: a-mug step 3/9"]


def test_the_rate_leaves_pauses_out():
    assert rate_of([]) == rate_of([(1.0, 1.0)]) == 0.0
    one = [(10.0 * i, 10.0 * (i + 1)) for i in range(20)]
    assert rate_of(one[:1]) == rate_of(one) == pytest.approx(0.1)
    assert rate_of([*one, *((40_000 + begin, 40_000 + end) for begin, end in one)]) == pytest.approx(0.1)
    # Three assets of two workers: 3 in 190 s, though they ended within 48 s.
    assert rate_of([(0.0, 142.0), (0.0, 151.0), (151.0, 190.0)]) == pytest.approx(3 / 190)
    assert rate_of([(0.0, 100.0), (20.0, 30.0), (90.0, 110.0)]) == pytest.approx(3 / 110)


def test_the_rate_is_that_of_the_newest_list(tmp_path):
    old, new = entries_of(4)[:2], entries_of(4)[2:]
    ledger = ledger_of(tmp_path / "runs", old)
    carried_out(ledger, lambda job, _: DONE, old)
    ledger.write(new, {"settings": {}})
    assert status_of(ledger).unlisted == 2
    assert status_of(ledger).per_hour == 0.0
    claim = ledger.claim(new[0], 1, {})
    ledger.finish(claim, "done", {"attempt_seconds": 36.0})
    assert status_of(ledger).per_hour == pytest.approx(100.0)
    assert status_of(ledger).seconds_left == 36


@pytest.mark.parametrize("limit", ["free", "quota"])
def test_a_full_disk_says_once_how_to_go_on(tmp_path, monkeypatch, capsys, limit):
    ledger = ledger_of(tmp_path / "runs", entries_of(1))
    monkeypatch.setattr("dreamlift.batch.limits.MIN_FREE", 10**18 if limit == "free" else 0)
    assert main(["batch", "--out", str(ledger.root), *(["--max-disk", "100"] if limit == "quota" else [])]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("dreamlift: stopped: ")
    assert last.endswith("; the same command goes on")
    assert last.count("the same command") == 1
    assert ("free some space" if limit == "free" else "more than --max-disk (0.00 MB)") in last


def test_durations():
    assert [duration(x) for x in (42, 600, 12_000, 500_000)] == ["42 s", "10 min", "3 h 20 min", "5 d 18 h"]


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src")]
        assert tag != "script"

    def handle_data(self, data):
        self.texts.append(data)


def test_the_table_and_the_pages_show_every_asset(tmp_path, monkeypatch):
    monkeypatch.setattr("dreamlift.batch.report.PAGE", 10)
    entries = [*entries_of(13)[1:], Entry("f" * 12, "hostile", "=1+<script>alert(1)</script>", 0, "settings")]
    ledger = ledger_of(tmp_path / "runs", entries)
    carried_out(
        ledger, lambda job, _: {"outcome": "refused", "reason": "<b>"} if job["entry"]["seed"] == 9 else DONE, entries[:-1]
    )
    carried_out(ledger, lambda *_: DONE, entries[-1:])
    page, figures = write_report(ledger, entries)
    assert figures == {"median_seconds": 2.0, "median_peak_memory_gb": 0.5}
    with open(page.parent / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["folder"] for row in rows] == [entry.folder for entry in entries]
    assert (rows[8]["state"], rows[8]["reason"], rows[9]["state"], rows[9]["seconds"]) == ("failed", "<b>", "done", "2.0")
    assert rows[-1]["prompt"].startswith("'=1+")  # a spreadsheet shows it and does not calculate it
    pages = [Reader(path.read_text(encoding="utf-8")) for path in (page, page.with_name("page-2.html"))]
    shown = [link for each in pages for link in each.links if link.endswith("turntable.webp")]
    assert len(shown) == len(entries) - 1
    assert all(not link.startswith(("http", "/")) for each in pages for link in each.links)
    assert f"{len(entries)} assets: {len(entries) - 1} done, 1 given up, 0 waiting" in pages[0].texts


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "a-mug"
    for name in ("asset.glb", "run.json", "particle-2/asset.glb", "checkpoints/step-1/state.json", ".asset/done", ".lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_finished_assets_are_copied_without_what_only_this_machine_needs(run_folder, tmp_path, kind):
    fsspec = pytest.importorskip("fsspec")
    address = f"file://{tmp_path}/copies" if kind == "file" else "memory://batch/copies"
    check(address)
    assert upload(run_folder, address) == sum(map(len, ("asset.glb", "run.json", "particle-2/asset.glb")))
    upload(run_folder, address)  # again: the same
    system, path = fsspec.core.url_to_fs(address)
    found = {name.removeprefix(path.rstrip("/") + "/"): system.cat_file(name).decode() for name in system.find(path)}
    assert found == {f"a-mug/{name}": name for name in ("asset.glb", "run.json", "particle-2/asset.glb")}


def test_the_file_that_makes_a_copy_complete_comes_last(run_folder, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    order = []
    system = fsspec.filesystem("memory")
    monkeypatch.setattr(type(system), "put_file", lambda self, source, target, **_: order.append(target))
    upload(run_folder, "memory://order")
    assert order[-1].endswith("/run.json")
    assert len(order) == 3


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("assets", "accepted: an address such as s3:"),
        ("nothing://a", "Protocol not known"),
        ("file:///proc/x", "cannot be written"),
    ],
)
def test_addresses_that_cannot_be_used_are_said_before_anything_is_made(address, expected):
    pytest.importorskip("fsspec")
    with pytest.raises(ValueError, match="--upload") as caught:
        check(address)
    assert expected in str(caught.value)


def test_ten_thousand_entries_are_counted_in_a_second_or_two(tmp_path):
    entries = entries_of(10_000)
    ledger = ledger_of(tmp_path / "runs", entries)
    for entry in entries[:6000]:
        (ledger.root / entry.folder).mkdir()
        (ledger.ended_folder / f"{entry.id}.done").touch()
    begun = time.process_time()
    found = status_of(ledger)
    assert time.process_time() - begun < 3
    assert (found.done, found.waiting) == (6000, 4000)
    assert "10000 assets: 6000 done" in described(found)
