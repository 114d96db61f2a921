"""Uploads of finished assets: none of them does harm to an asset, whatever it does."""

from __future__ import annotations

import json

import pytest
from batch_helpers import DONE, Scripted, entries_of, ledger_of

from dreamlift.batch.coordinator import Coordinator
from dreamlift.batch.limits import Limits
from dreamlift.batch.workers import uploads as module
from dreamlift.batch.workers.local import Told
from dreamlift.batch.workers.uploads import Uploads, uploads
from dreamlift.runs.run import RunError
from dreamlift.system.signals import Stop


@pytest.fixture
def ledger(tmp_path):
    return ledger_of(tmp_path / "runs", entries_of(4))


def finished(ledger, *numbers):
    """Assets that are made, with a file each."""
    for number in numbers:
        entry = ledger.entries()[number]
        ledger.finish(ledger.claim(entry, 1, {}), "done", {})
        (ledger.folder(entry) / "run.json").write_text(json.dumps({"seed": number}))


def scripted(ledger, answer, address="memory://a"):
    """Uploads by processes that answer as a script says, and what was told."""
    told = []
    return Uploads(ledger, address, lambda kind, text, _: told.append((kind, text)), Scripted(answer)), told


SENT = {"reason": ""}


def test_an_upload_that_crashes_hangs_or_fails_leaves_the_asset_done(ledger, monkeypatch):
    monkeypatch.setattr(module, "HANG", 0.05)
    answers = {0: Told(0, None, "its process was killed by SIGSEGV"), 1: None, 2: {"reason": "OSError: full"}, 3: SENT}
    sending, told = scripted(ledger, lambda job, _: answers[int(job["id"], 16)])
    workers = Scripted(lambda *_: DONE)
    coordinator = Coordinator(
        ledger, ledger.entries(), {"settings": {}}, workers, Limits(), lambda *_: None, {}, sending
    )  # fmt: skip
    coordinator.look()
    tally = coordinator.run(Stop())
    assert (tally.done, tally.failed) == (4, 0)
    assert all("upload" not in job for job in workers.sent)
    with pytest.raises(RunError, match=r"3 finished assets are not at memory://a yet.*the same command tries again"):
        sending.rest(ledger.entries())
    assert ledger.sent("memory://a") == {ledger.entries()[3].id}
    assert set(ledger.ended().values()) == {"done"}
    reasons = " ".join(text for _, text in told)
    assert all(each in reasons for each in ("SIGSEGV", "no file was copied in 0.05 s", "OSError: full"))
    well, told = scripted(ledger, lambda *_: SENT)
    well.rest(ledger.entries())  # the next command
    assert len(ledger.sent("memory://a")) == 4
    assert told == [("uploaded", "3 assets uploaded to memory://a")]


def test_an_upload_that_goes_on_is_not_taken_for_a_hanging_one(ledger, monkeypatch):
    finished(ledger, 0)
    clock = [0.0]
    monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": staticmethod(lambda: clock[0])}))
    sending, _ = scripted(ledger, lambda *_: None)
    sending.add(ledger.entries()[0])
    sending.look()
    for _ in range(5):
        clock[0] += module.HANG - 1
        sending.pool.told.append(Told(0, {"copied": 1}))
        sending.look()
    assert sending.pool.killed == []
    clock[0] += module.HANG + 1
    sending.look()
    assert sending.pool.killed == [0]


def test_each_address_has_its_own_marks(ledger):
    finished(ledger, 0, 1)
    (ledger.ended_folder / f"{ledger.entries()[0].id}.sent").touch()  # of a version that did not write the address
    for address in ("memory://a", "memory://b/"):
        sending, _ = scripted(ledger, lambda *_: SENT, address)
        sending.rest(ledger.entries())
        assert len(sending.pool.sent) == 2
    sending, _ = scripted(ledger, lambda *_: SENT, "memory://b")
    sending.rest(ledger.entries())
    assert sending.pool.sent == []
    assert ledger.ended() == {entry.id: "done" for entry in ledger.entries()[:2]}
    ledger.forget({ledger.entries()[0].id})
    assert ledger.sent("memory://a") == ledger.sent("memory://b") == {ledger.entries()[1].id}
    assert len(ledger.ended()) == 1


def test_one_that_fails_does_not_hold_up_the_others(ledger):
    finished(ledger, 0, 1, 2, 3)
    sending, _ = scripted(ledger, lambda job, _: SENT if int(job["id"], 16) % 2 else {"reason": "FileNotFoundError: x"})
    with pytest.raises(RunError, match="2 finished assets are not"):
        sending.rest(ledger.entries())
    assert len(ledger.sent("memory://a")) == 2


def test_a_signal_ends_the_wait_for_uploads(ledger):
    finished(ledger, 0, 1)
    stop = Stop()

    def hangs(job, times):
        stop.requested = True

    sending, _ = scripted(ledger, hangs)
    sending.rest(ledger.entries(), stop)
    assert len(sending.busy) == 2


def test_real_processes_copy_what_is_finished_and_go_on_after_a_deleted_one(ledger, tmp_path):
    pytest.importorskip("fsspec")
    finished(ledger, 0, 1, 2)
    gone = ledger.entries()[1]
    (ledger.folder(gone) / "run.json").unlink()
    told = []
    sending = uploads(ledger, f"file://{tmp_path}/copies", lambda *words: told.append(words), "0123")
    try:
        with pytest.raises(RunError, match=f"1 finished asset is not at .*{gone.folder}.*FileNotFoundError"):
            sending.rest(ledger.entries())
    finally:
        sending.close()
    copies = {path.parent.name: json.loads(path.read_text())["seed"] for path in tmp_path.glob("copies/*/run.json")}
    assert copies == {ledger.entries()[0].folder: 0, ledger.entries()[2].folder: 2}
    assert list((ledger.home / "logs").iterdir()) == []
