"""The ledger of a batch: one owner of each attempt, one end of each asset, whatever is killed, deleted or wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
from batch_helpers import entries_of, ledger_of

from dreamlift.batch.heartbeat import Heartbeat, Observer, heartbeats
from dreamlift.batch.ledger import Claim, Ledger
from dreamlift.system.files import create_exclusively
from dreamlift.system.processes import pid_space, started


@pytest.fixture
def ledger(tmp_path):
    return ledger_of(tmp_path / "runs", entries_of(3))


@pytest.mark.parametrize("links", [True, False])
def test_of_many_processes_one_gets_an_attempt(ledger, monkeypatch, links):
    def no_links(*_):
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    entry, found, ready = ledger.entries()[0], [], threading.Barrier(12)

    def attempt(number):
        ready.wait()
        found.append(ledger.claim(entry, 1, {"token": str(number)}))

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in found) == 1
    assert ledger.record(entry).state == "claimed"
    assert [name for name in os.listdir(ledger.folder(entry) / ".asset") if name.startswith(".tmp")] == []


def test_an_exclusive_file_is_whole_and_never_replaced(tmp_path):
    assert create_exclusively(tmp_path / "a", b"one")
    assert not create_exclusively(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    with pytest.raises(FileNotFoundError):
        create_exclusively(tmp_path / "missing" / "a", b"")


def test_an_asset_is_finished_once_and_by_the_newest_attempt(ledger):
    entry, other, third = ledger.entries()
    first = ledger.claim(entry, 1, {})
    assert ledger.end(entry, 1, {"outcome": "lost"})  # another process has found its owner gone
    second = ledger.claim(entry, 2, {})
    assert not ledger.finish(first, "done", {"seconds": 1})  # it comes back, and was taken over
    assert ledger.finish(second, "done", {"seconds": 2})
    assert not ledger.finish(second, "done", {"seconds": 3})
    assert not ledger.finish(second, "failed", {})
    assert ledger.detail(entry, "done") == {"attempt": 2, "seconds": 2}
    assert ledger.record(entry).state == "done"
    assert ledger.ended() == {entry.id: "done"}
    assert ledger.record(other).state == ledger.record(third).state == "waiting"
    assert not ledger.end(entry, 1, {"outcome": "stopped"})  # how an attempt ended is written once


def test_what_an_index_misses_is_found_in_the_folders(ledger):
    entry = ledger.entries()[0]
    ledger.finish(ledger.claim(entry, 1, {}), "done", {})
    for path in ledger.ended_folder.iterdir():
        path.unlink()  # as if the process had been killed between the two
    assert ledger.ended() == {}
    assert ledger.record(entry).state == "done"
    assert ledger.ended() == {entry.id: "done"}


def test_a_retried_asset_has_all_its_attempts_again(ledger):
    entry = ledger.entries()[0]
    for attempt in (1, 2):
        ledger.claim(entry, attempt, {})
        ledger.end(entry, attempt, {"outcome": "crashed", "step": 0})
    ledger.finish(Claim(entry, 2), "failed", {"reason": "x"})
    assert ledger.record(entry).state == "failed"
    ledger.retry(entry)
    record = ledger.record(entry)
    assert (record.state, record.attempt, record.ends) == ("waiting", 2, ())
    assert ledger.ended() == {}


def test_an_owner_is_gone_when_its_heartbeat_stands_still_on_the_observers_clock(ledger):
    clock = [1000.0]
    observer = Observer(ledger, lease=100, clock=lambda: clock[0])
    owner = {"token": "abc", "host": "elsewhere", "space": "elsewhere", "processes": [[1, "1"]]}
    beat = ledger.workers / "abc"
    for count in range(5):  # the holder's clock is of no matter: only changes count
        beat.write_text(json.dumps({"count": count, "time": -count}))
        os.utime(beat, (1, 1))
        assert not observer.gone(owner)
        clock[0] += 99
    assert not observer.gone(owner)
    clock[0] += 2
    assert observer.gone(owner)
    beat.write_text("it beats again")
    assert not observer.gone(owner)
    beat.unlink()
    assert not observer.gone(owner)
    clock[0] += 101
    assert observer.gone(owner)
    unknown = {}  # an empty claim, on a file system without links
    assert not observer.gone(unknown)


def test_a_deleted_heartbeat_is_no_sign_of_life(ledger):
    clock = [0.0]
    observer = Observer(ledger, lease=100, clock=lambda: clock[0])
    owner = {"token": "abc", "space": "elsewhere"}
    (ledger.workers / "abc").write_text("1")
    assert not observer.gone(owner)
    clock[0] = 99.0
    (ledger.workers / "abc").unlink()  # by another command, which has found its owner gone
    assert not observer.gone(owner)
    clock[0] = 101.0
    assert observer.gone(owner)


def test_heartbeats_of_commands_that_are_gone_are_deleted(ledger):
    clock = [0.0]
    observer = Observer(ledger, lease=100, clock=lambda: clock[0])
    killed = {"space": pid_space(), "processes": [[2**22 + 7, "1"]]}
    for token, beat in {"killed": killed, "far": {"space": "elsewhere"}, "empty": {}, "own": killed}.items():
        (ledger.workers / token).write_text(json.dumps(beat))
    (ledger.workers / "own-0.stop").touch()
    with Heartbeat(ledger, every=1000) as living:
        left = lambda: {path.name for path in ledger.workers.iterdir()} - {"own-0.stop"}  # noqa: E731
        observer.sweep("own")
        assert left() == {"far", "empty", "own", living.token}
        clock[0] = 99.0
        (ledger.workers / "far").write_text(json.dumps({"space": "elsewhere", "count": 2}))
        observer.sweep("own")
        clock[0] = 101.0
        observer.sweep("own")
        assert left() == {"far", "own", living.token}
        assert heartbeats(ledger)[living.token]["age"] < 60


def test_an_owner_on_this_machine_is_gone_with_its_processes(ledger):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {"token": "abc", "space": pid_space(), "processes": [[child.pid, started(child.pid)]]}
    observer = Observer(ledger)
    assert not observer.gone(owner)
    other = {**owner, "processes": [[child.pid, "1"]]}  # the number belongs to another process now
    assert observer.gone(other)
    child.kill()
    child.wait()
    assert observer.gone(owner)


def test_a_heartbeat_changes_and_ends(ledger):
    with Heartbeat(ledger, lambda: {"running": {}}, every=0.01) as beat:
        first = beat.path.read_bytes()
        assert any(beat.path.read_bytes() != first for _ in range(10_000))
        assert beat.owner(7)["token"] == beat.path.name
    assert list(ledger.workers.iterdir()) == []


def test_a_new_list_keeps_the_assets_of_the_old_one(ledger):
    before = (ledger.home / "entries.jsonl").stat().st_mtime_ns
    ledger.write(ledger.entries(), {"settings": {}})
    assert (ledger.home / "entries.jsonl").stat().st_mtime_ns == before  # nothing has changed
    five = entries_of(5)
    ledger.write(five[2:], {"more": {"a": 1}})
    assert [(entry.seed, entry.listed) for entry in ledger.entries()] == [
        (2, True), (3, True), (4, True), (0, False), (1, False)
    ]  # fmt: skip
    assert ledger.settings() == {"settings": {}, "more": {"a": 1}}


WRITER = """
import contextlib, sys, time
from pathlib import Path
from dreamlift.batch import ledger as module
root, own, other = Path(sys.argv[1]), *sys.argv[2:]
write = module._write_changed

def slow(path, text):  # both have read the old list before one of them writes, where no lock keeps them apart
    (root / own).touch()
    end = time.monotonic() + 1.0 * (path.name == "settings.jsonl")
    while not (root / other).exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    write(path, text)

module._write_changed = slow
module.Ledger(root / "runs").write([module.Entry(own * 12, own, own, 0, own)], {own: {}})
"""


def test_two_lists_that_are_given_at_the_same_time_are_both_kept(tmp_path):
    words = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*words, own, other]) for own, other in ("ab", "ba")]
    assert [writer.wait(30) for writer in writers] == [0, 0]
    ledger = Ledger(tmp_path / "runs")
    assert {entry.id[0]: entry.settings for entry in ledger.entries()} == {"a": "a", "b": "b"}
    assert ledger.settings() == {"a": {}, "b": {}}
    assert [path.name for path in ledger.home.iterdir() if path.name.startswith(".")] == []


def test_an_attempt_that_counts_no_longer_and_its_end_are_undone(ledger):
    entry = ledger.entries()[0]
    for attempt in (1, 2):
        ledger.claim(entry, attempt, {})
        ledger.end(entry, attempt, {"outcome": "error", "step": attempt})
    ledger.finish(Claim(entry, 2), "failed", {"reason": "x"})
    assert not ledger.uncharge(Claim(entry, 1))  # the asset was not given up after this one
    assert ledger.record(entry).state == "failed"
    assert ledger.uncharge(Claim(entry, 2))
    assert not ledger.uncharge(Claim(entry, 2))
    record = ledger.record(entry)
    assert (record.state, record.attempt) == ("waiting", 2)
    assert [(end["outcome"], end["step"]) for end in record.ends] == [("void", 1), ("void", 2)]
    assert ledger.ended() == {}


def test_a_ledger_without_presets_is_read(ledger):
    path = ledger.home / "entries.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "preset"}) + "\n" for line in lines))
    assert [entry.preset for entry in ledger.entries()] == ["", "", ""]


@pytest.mark.parametrize("line", ["{", '{"id": "0"}', '{"id": "../../../../", "folder": "a"}'])
def test_a_changed_list_is_said(ledger, line):
    path = ledger.home / "entries.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match="was changed"):
        ledger.entries()


def test_a_folder_of_something_else_is_no_asset(ledger):
    entry = entries_of(1)[0]
    named = type(entry)(**{**vars(entry), "folder": "mug"})
    assert ledger.stranger(named) == ""
    (ledger.root / "mug").mkdir()
    assert ledger.stranger(named) == ""
    (ledger.root / "mug" / "run.json").write_text("{}")
    assert "is no asset of this batch" in ledger.stranger(named)
    (ledger.root / "mug" / "run.json").unlink()
    ledger.claim(named, 1, {"id": "0" * 11 + "9"})
    assert "with other settings" in ledger.stranger(named)


def test_a_folder_without_a_batch_has_no_ledger(tmp_path):
    assert not Ledger(tmp_path).exists()
    assert Ledger(tmp_path).ended() == {}
