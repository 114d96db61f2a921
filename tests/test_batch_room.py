"""The size of a batch's folder: what is measured, when, and what is remembered."""

from __future__ import annotations

import os

from batch_helpers import entries_of, ledger_of

from dreamlift.batch import limits as module
from dreamlift.batch.ledger import Claim
from dreamlift.batch.limits import Limits, Room, size_of


def written(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"file-{len(list(folder.iterdir()))}").write_bytes(b"x" * count)


def by_hand(root):
    """Bytes of all files below a folder, but the index's, which are empty."""
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file())


def test_everything_in_the_folder_counts_and_is_measured_again(tmp_path):
    ledger, now = ledger_of(tmp_path / "runs", entries_of(3)), [0.0]
    first, second, third = ledger.entries()
    written(ledger.folder(first), 1000)
    (ledger.root / "notes.txt").write_bytes(b"x" * 10)
    written(ledger.home / "logs", 500)
    room = Room(ledger.root, Limits(disk=by_hand(ledger.root)), clock=lambda: now[0])
    assert room.full() == ""
    written(ledger.folder(second), 1)  # of another command
    assert room.full() == ""  # not seen yet
    now[0] += module.MEASURE
    assert room.full().endswith("delete what is not needed, or give it more")
    (ledger.root / "notes.txt").unlink()
    now[0] += module.MEASURE
    assert room.full() == ""
    written(ledger.folder(third), 100)
    room.add(ledger.folder(third))  # its attempt has ended: at once
    assert "more than --max-disk" in room.full()


def test_sizes_of_finished_assets_are_remembered_and_a_retried_one_is_measured(tmp_path, monkeypatch):
    ledger, now, looks = ledger_of(tmp_path / "runs", entries_of(4)), [0.0], []
    done, failed, working, gone = ledger.entries()
    for entry in ledger.entries():
        ledger.claim(entry, 1, {})
        written(ledger.folder(entry), 1000)
    ledger.finish(Claim(done, 1), "done", {})
    ledger.finish(Claim(gone, 1), "done", {})
    ledger.finish(Claim(failed, 1), "failed", {})
    monkeypatch.setattr(module, "size_of", lambda path, *more: looks.append(path.name) or size_of(path, *more))
    room = Room(ledger.root, Limits(disk=1e9), clock=lambda: now[0])
    room.full()
    assert set(looks) == {".batch", *(entry.folder for entry in ledger.entries())}
    for path in (ledger.folder(gone) / ".asset").iterdir():
        path.unlink()
    (ledger.folder(gone) / ".asset").rmdir()
    next(ledger.folder(gone).iterdir()).unlink()
    ledger.folder(gone).rmdir()
    looks.clear()
    now[0] += module.MEASURE
    room.full()
    assert set(looks) == {".batch", working.folder}
    assert sum(room.sizes.values()) == by_hand(ledger.root)
    ledger.retry(failed)
    looks.clear()
    now[0] += module.MEASURE
    room.full()
    assert set(looks) == {".batch", working.folder, failed.folder}


def test_without_a_limit_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "size_of", None)
    room = Room(tmp_path, Limits())
    room.add(tmp_path / "a")
    assert room.full() == ""


def test_a_folder_that_cannot_be_listed_keeps_its_last_figures(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x" * 10)
    now = [0.0]
    room = Room(tmp_path, Limits(disk=5), clock=lambda: now[0])
    assert room.full()

    def no_answer(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", no_answer)
    now[0] += module.MEASURE
    assert "more than --max-disk" in room.full()
