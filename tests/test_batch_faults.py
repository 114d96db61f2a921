"""Rows of failures whose cause is a process or a machine, signals at any moment, and several lists in one folder."""

from __future__ import annotations

import csv
import json
import os
import signal
from argparse import Namespace

import pytest
from batch_helpers import DONE, Scripted, carried_out, entries_of, ledger_of

from dreamlift.batch import coordinator as module
from dreamlift.batch import verbs
from dreamlift.batch.heartbeat import Heartbeat
from dreamlift.batch.ledger import VOID
from dreamlift.batch.limits import Limits
from dreamlift.batch.remote import check
from dreamlift.batch.status import described, status_of
from dreamlift.batch.workers.local import Told
from dreamlift.cli import main
from dreamlift.system.signals import Stop

ERROR = {"outcome": "error", "reason": "CUDA error: an illegal memory access"}

BAD = (1, 2, 4, 6, 7, 9, 11)  # seeds of 0 to 11


@pytest.fixture
def ledger(tmp_path):
    return ledger_of(tmp_path / "runs", entries_of(12))


def test_a_worker_begins_anew_after_an_error(ledger):
    """A GPU's error stays with its process: all later assets of that process would fail as well."""
    begun = []

    class Broken(Scripted):
        def start(self, slot):
            begun.append(slot)
            super().start(slot)

    workers = Broken(lambda *_: ERROR if len(begun) == 1 else DONE, 1)
    coordinator = module.Coordinator(ledger, ledger.entries(), {"settings": {}}, workers, Limits(), lambda *_: None)
    coordinator.look()
    tally = coordinator.run(Stop())
    assert (tally.done, tally.failed, len(begun)) == (12, 0, 2)


@pytest.mark.parametrize("said", [ERROR, Told(0, None, "its process was killed by SIGSEGV")])
def test_a_machine_on_which_everything_fails_ends_the_batch_and_no_asset_is_charged(ledger, said):
    tally, workers, _ = carried_out(ledger, lambda *_: said, limits=Limits(attempts=1))
    assert (tally.ended, tally.done, tally.failed) == ("workers", 0, 0)
    assert "6 assets failed in a row, and none was made" in tally.reason  # 3 for each of the two workers
    assert len(workers.sent) <= 8
    assert not list(ledger.root.glob("*/.asset/failed"))
    assert not list(ledger.ended_folder.iterdir())
    tally, again, _ = carried_out(ledger, lambda *_: DONE, limits=Limits(attempts=1))
    assert (tally.done, tally.failed) == (12, 0)
    voided = {entry.id for entry in ledger.entries() if VOID in [end["outcome"] for end in _ends(ledger, entry)]}
    assert voided == set(workers.sent[:6])
    assert set(again.sent[-6:]) == voided  # others come first, so that it is seen whether the machine is at fault


def _ends(ledger, entry):
    place = ledger.folder(entry) / ".asset"
    return [{"outcome": VOID if (place / f"void-{path.name[4:]}").exists() else ""} for path in place.glob("end-*")]


def test_bad_assets_between_good_ones_are_given_up(ledger):
    tally, _, _ = carried_out(ledger, lambda job, _: ERROR if job["entry"]["seed"] % 2 else DONE, limits=Limits(attempts=1))
    assert (tally.ended, tally.done, tally.failed) == ("", 6, 6)


@pytest.mark.parametrize("count", [1, 2])
def test_bad_assets_that_fail_again_at_the_end_of_the_list_are_given_up(ledger, count):
    """Seven of twelve: all that is left in the end fails, and the machine is in order."""
    workers = Scripted(lambda job, _: ERROR if job["entry"]["seed"] in BAD else DONE, count)
    coordinator = module.Coordinator(ledger, ledger.entries(), {"settings": {}}, workers, Limits(), lambda *_: None)
    coordinator.look()
    tally = coordinator.run(Stop())
    assert (tally.ended, tally.done, tally.failed) == ("", 5, 7)


def test_a_list_of_bad_assets_is_given_up_by_the_second_command(ledger):
    """The first one stops: it cannot know that the machine is in order."""
    tally, _, _ = carried_out(ledger, lambda *_: ERROR)
    assert (tally.ended, tally.failed) == ("workers", 0)
    for _ in range(2):  # the second one begins with the other six, of which it knows as little
        tally, _, _ = carried_out(ledger, lambda *_: ERROR)
    assert (tally.ended, tally.failed) == ("", 12)


def test_one_broken_gpu_of_several_gets_no_more_assets(tmp_path):
    """The others go on, and the assets that failed with it are made by them."""
    ledger = ledger_of(tmp_path / "runs", entries_of(40))

    class Uneven(Scripted):
        def send(self, slot, job):
            self.answer = lambda *_: ERROR if slot == 0 else DONE
            super().send(slot, job)

    told = []
    workers = Uneven(None, 2)
    coordinator = module.Coordinator(
        ledger, ledger.entries(), {"settings": {}}, workers, Limits(attempts=1), lambda *words: told.append(words[:2])
    )
    coordinator.look()
    tally = coordinator.run(Stop())
    assert (tally.ended, tally.done, tally.failed) == ("", 40, 0)
    (dropped,) = [text for kind, text in told if kind == "dropped"]
    assert dropped.startswith("worker 0 gets no more assets: 5 failed in a row, and none was made")


def test_a_signal_while_the_list_is_read_is_one_line(tmp_path, monkeypatch, capsys):
    def slow(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not heard")

    monkeypatch.setattr(verbs, "read_rows", slow)
    assert main(["batch", "a.txt", "--out", str(tmp_path / "runs")]) == 130
    assert capsys.readouterr().err.splitlines() == [
        "dreamlift: stopped by SIGTERM; the same command goes on, and what is finished stays"
    ]


def test_a_signal_while_the_report_is_written_is_one_line(ledger, monkeypatch, capsys):
    carried_out(ledger, lambda *_: DONE)
    monkeypatch.setattr("dreamlift.batch.report._table", lambda rows: os.kill(os.getpid(), signal.SIGTERM) or "")
    assert main(["batch", "--out", str(ledger.root), "--device", "cpu"]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("dreamlift: stopped by SIGTERM; the same command goes on")


def finished(ledger, entries, answer):
    coordinator = module.Coordinator(ledger, entries, {"settings": {}}, Scripted(answer), Limits(attempts=1), lambda *_: None)
    left = coordinator.look()
    coordinator.run(Stop())
    told = []
    code = verbs.finished(coordinator, entries, lambda *words: told.append(words), Stop(), nothing=not left)
    return code, {kind: (text, more) for kind, text, more in told}


def test_with_two_lists_each_command_counts_its_own_and_the_report_has_both(tmp_path, capsys):
    old, new = entries_of(6)[:4], entries_of(6)[4:]
    ledger = ledger_of(tmp_path / "runs", old)
    ledger.write(new, {"settings": {}})  # by a second command, meanwhile
    code, told = finished(ledger, old, lambda *_: DONE)
    assert code == 0
    assert told["end"][0].startswith("4 assets: 4 done, 0 running, 0 waiting")
    assert told["end"][1]["unlisted"] == 2
    with open(ledger.root / "report" / "table.csv", newline="") as file:
        rows = [(row["folder"], row["state"], row["list"]) for row in csv.DictReader(file)]
    assert rows == [(each.folder, "waiting", "newest") for each in new] + [(each.folder, "done", "earlier") for each in old]


def test_the_status_shows_running_assets_of_other_lists(tmp_path):
    old, new = entries_of(4)[:2], entries_of(4)[2:]
    ledger = ledger_of(tmp_path / "runs", old)
    ledger.write(new, {"settings": {}})
    with Heartbeat(ledger, lambda: {"running": {old[0].id: [30, 600]}}) as beat:
        ledger.claim(old[0], 1, beat.owner())
        found = status_of(ledger)
        assert (found.assets, found.running, found.waiting) == (2, [], 2)
        assert [(each["folder"], each["step"]) for each in found.others] == [(old[0].folder, 30)]
        last = described(found).splitlines()[-1]
        assert last.startswith(f"  running  {old[0].folder}  step 30/600")
        assert last.endswith(", of another list")


def test_given_up_assets_are_never_called_finished(tmp_path, capsys):
    ledger = ledger_of(tmp_path / "my runs", entries_of(2))
    refused = {"outcome": "refused", "reason": "why"}
    again = f"2 were given up: `dreamlift batch --out '{ledger.root}' --retry-failed` tries them again"
    for nothing in (False, True):
        code, told = finished(ledger, ledger.entries(), lambda *_: refused)
        assert code == 3
        assert "note" not in told, nothing
        assert capsys.readouterr().err.splitlines()[-1] == f"dreamlift: 0 of 2 are made and {again}"
    verbs.status(Namespace(batch=ledger.root, json=False))
    assert capsys.readouterr().out.splitlines()[-1].strip() == again


def test_a_command_keeps_the_settings_of_its_own_list(tmp_path, monkeypatch):
    """Another command's list may replace the file of the settings between a command's writing and its reading."""
    (tmp_path / "a.txt").write_text("a red mug\n")
    monkeypatch.setattr("dreamlift.batch.ledger.Ledger.settings", lambda _: {})
    seen = []
    monkeypatch.setattr(module.Coordinator, "look", lambda self: seen.append(self) or 0)
    assert main(["batch", str(tmp_path / "a.txt"), "--out", str(tmp_path / "runs"), "--device", "cpu"]) == 0
    assert all(entry.settings in seen[0].settings for entry in seen[0].entries)


def test_without_steps_of_a_worker_those_of_the_folder_are_told(ledger, monkeypatch):
    """As with Ray, whose calls say nothing before their end."""
    monkeypatch.setattr(module, "QUIET", 0.0)
    entry = ledger.entries()[2]

    def answer(job, times):
        if job["entry"]["seed"] != 2:
            return DONE
        (ledger.folder(entry) / "metrics.jsonl").write_text(json.dumps({"step": 6}) + "\n")
        return None

    _, _, told = carried_out(ledger, answer, limits=Limits(1, 0.2))
    assert ("work", f"{entry.folder} step 7") in told
    assert ledger.detail(entry, "failed")["reason"] == "it took longer than --timeout 0.2s, at step 7"


def test_failures_name_the_machine_where_there_is_no_log(ledger, monkeypatch):
    monkeypatch.setattr(Scripted, "host", lambda self, slot: f"node-{slot}")
    carried_out(ledger, lambda job, _: ERROR if job["entry"]["seed"] == 1 else DONE, limits=Limits(attempts=1))
    found = ledger.detail(ledger.entries()[1], "failed")
    assert found["host"].startswith("node-")
    assert found["reason"] == f"{ERROR['reason']} (on {found['host']})"


def test_commands_with_equal_process_numbers_do_not_delete_each_others_upload_probe(monkeypatch):
    """As in two containers."""
    fsspec = pytest.importorskip("fsspec")
    names = []
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "rm_file", lambda self, path: names.append(path))
    for _ in range(2):
        check("memory://probes")
    assert len(set(names)) == 2
