"""The coordinator with scripted workers: who is given what, what counts as an attempt, and what ends a batch."""

from __future__ import annotations

import time

import pytest
from batch_helpers import DONE, carried_out, entries_of, ledger_of

from dreamlift.batch import coordinator as module
from dreamlift.batch.attempts import LOST
from dreamlift.batch.limits import Limits, Room
from dreamlift.batch.workers.local import Told
from dreamlift.runs.run import RunError
from dreamlift.system.processes import pid_space
from dreamlift.system.signals import Stop


@pytest.fixture
def ledger(tmp_path):
    return ledger_of(tmp_path / "runs", entries_of(6))


def answers(**by_seed):
    """Workers for whom asset ``_3`` says this, and all others are done at once."""

    def answer(job, times):
        said = by_seed.get(f"_{job['entry']['seed']}", DONE)
        return said(times) if callable(said) else said

    return answer


def test_every_asset_is_made_once_and_again_there_is_nothing_to_do(ledger):
    tally, workers, _ = carried_out(ledger, answers())
    assert (tally.done, tally.failed, tally.made, tally.ended) == (6, 0, 6, "")
    assert sorted(workers.sent) == [entry.id for entry in ledger.entries()]
    tally, workers, _ = carried_out(ledger, answers())
    assert (tally.done, tally.made, workers.sent) == (6, 0, [])


def test_a_crash_costs_its_asset_alone_and_is_given_up_at_the_limit(ledger):
    crash = Told(0, None, "its process was killed by SIGSEGV")
    tally, workers, told = carried_out(ledger, answers(_2=crash), limits=Limits(attempts=3))
    entry = ledger.entries()[2]
    assert (tally.done, tally.failed) == (5, 1)
    assert workers.sent.count(entry.id) == 3
    assert workers.starts == 2 + 3  # another worker takes the place of each that has crashed
    assert ledger.detail(entry, "failed") == {"attempt": 3, "attempts": 3, "host": ledger.detail(entry, "failed")["host"],
                                              "reason": "its process was killed by SIGSEGV"}  # fmt: skip
    assert [kind for kind, _ in told].count("again") == 2
    tally, workers, _ = carried_out(ledger, answers())
    assert (tally.done, tally.failed, workers.sent) == (5, 1, [])  # it stays given up
    tally, workers, _ = carried_out(ledger, answers(), retry_failed=True)
    assert (tally.done, tally.failed, workers.sent) == (6, 0, [entry.id])


def test_an_attempt_that_got_further_before_it_was_killed_does_not_count(ledger):
    """As on a machine that is taken away again and again: 40 steps, 80, 120, done."""
    entry = ledger.entries()[1]

    def killed_later_each_time(times):
        if times == 4:
            return DONE
        (ledger.folder(entry) / "checkpoints" / f"step-{40 * times:06}").mkdir(parents=True)
        return Told(0, None, "its process was killed by SIGKILL")

    tally, workers, _ = carried_out(ledger, answers(_1=killed_later_each_time), limits=Limits(attempts=1))
    assert (tally.done, tally.failed) == (6, 0)
    assert workers.sent.count(entry.id) == 4


@pytest.mark.parametrize(("outcome", "times"), [("refused", 1), ("error", 2), ("memory", 2)])
def test_what_would_happen_again_is_not_tried_again(ledger, outcome, times):
    tally, workers, _ = carried_out(ledger, answers(_0={"outcome": outcome, "reason": "why"}), limits=Limits(attempts=2))
    entry = ledger.entries()[0]
    assert (tally.done, tally.failed) == (5, 1)
    assert workers.sent.count(entry.id) == times
    assert ledger.detail(entry, "failed")["reason"] == "why"
    assert bool(workers.killed) == (outcome != "refused")  # full memory, or a GPU's error, would stay with its process


def test_a_worker_that_hangs_or_grows_is_killed(ledger):
    tally, _, _ = carried_out(ledger, answers(_4=lambda _: None), limits=Limits(attempts=1, timeout=0.05))
    assert (tally.done, tally.failed) == (5, 1)
    assert ledger.detail(ledger.entries()[4], "failed")["reason"].startswith("it took longer than --timeout 0.05s")


def test_memory_beyond_the_limit_is_the_assets_end(ledger, monkeypatch):
    monkeypatch.setattr("batch_helpers.Scripted.memory", lambda self, slot: 5_000_000_000)
    tally, _, _ = carried_out(ledger, answers(_4=lambda _: None), limits=Limits(attempts=1, memory=4e9))
    assert (tally.done, tally.failed) == (5, 1)
    assert "had 5.0 GB of memory; accepted: 4.0 GB (--max-memory)" in ledger.detail(ledger.entries()[4], "failed")["reason"]


def test_a_signal_lets_the_workers_stop_and_nothing_counts(ledger):
    stop = Stop()

    def answer(job, times):
        if job["entry"]["seed"] < 2:
            return DONE
        stop.requested, stop.name = True, "SIGINT"
        return {"outcome": "stopped"}

    tally, workers, told = carried_out(ledger, answer, stop=stop)
    assert (tally.ended, tally.done) == ("SIGINT", 2)
    assert len(workers.sent) < 6
    assert {kind for kind, _ in told} == {"done"}, "the end of the command says that it was stopped, and how it goes on"
    tally, _, _ = carried_out(ledger, answers())
    assert (tally.done, tally.failed, tally.ended) == (6, 0, "")


def test_a_signal_to_one_process_is_told_with_its_asset(ledger):
    once = lambda times: DONE if times > 1 else {"outcome": "stopped"}  # noqa: E731
    tally, _, told = carried_out(ledger, answers(_2=once), limits=Limits(attempts=1))
    assert (tally.ended, tally.done, tally.failed) == ("", 6, 0)
    folder = ledger.entries()[2].folder
    assert [text for kind, text in told if kind == "note"] == [f"{folder}: its process was asked to stop; it goes on later"]


@pytest.mark.parametrize("outcome", ["disk", "prior"])
def test_a_full_disk_or_a_prior_that_has_gone_stops_the_batch_and_no_asset_is_blamed(ledger, outcome):
    tally, _, _ = carried_out(ledger, answers(_1={"outcome": outcome, "reason": "no space"}), limits=Limits(attempts=1))
    assert (tally.ended, tally.reason) == (outcome, "no space")
    assert tally.failed == 0
    assert carried_out(ledger, answers())[0].done == 6


def test_the_quotas_of_disk_and_time_stop_the_batch(ledger, monkeypatch):
    def written(job, times):
        (ledger.root / job["entry"]["folder"] / "asset.glb").write_bytes(b"x" * 1000)
        return DONE

    before = Room(ledger.root, Limits(disk=0))
    before.full()
    quota = Limits(disk=sum(before.sizes.values()) + 2500)
    tally, workers, _ = carried_out(ledger, written, limits=quota)
    assert tally.ended == "disk"
    assert "more than --max-disk" in tally.reason
    assert 2 <= tally.done < 6
    again, workers, _ = carried_out(ledger, written, limits=quota)
    assert (again.ended, again.done, workers.sent) == ("disk", tally.done, [])
    tally, workers, _ = carried_out(ledger, written, limits=Limits(seconds=0.0))
    assert tally.ended == "time"
    monkeypatch.setattr("dreamlift.batch.limits.MIN_FREE", 10**18)
    tally, workers, _ = carried_out(ledger, written)
    assert (tally.ended, workers.sent) == ("disk", [])
    assert "free some space" in tally.reason


def test_a_failed_asset_and_one_in_work_take_room_too(ledger, monkeypatch):
    """The second asset grows while it is made, and stops when it is asked to."""
    monkeypatch.setattr("dreamlift.batch.limits.MEASURE", 0.0)
    entries = ledger.entries()
    size = lambda entry: (ledger.folder(entry) / "big").write_bytes(b"x" * 5_000_000)  # noqa: E731

    def answer(job, times):
        if job["entry"]["seed"] == 1:
            size(entries[1])
            return None  # it is still being made
        return DONE

    monkeypatch.setattr(
        "batch_helpers.Scripted.stop",
        lambda self, slot: self.told.append(Told(slot, {"end": entries[1].id, "outcome": "stopped"})),
    )
    tally, _, _ = carried_out(ledger, answer, entries[:3], limits=Limits(disk=5_000_000))
    assert (tally.ended, tally.failed) == ("disk", 0)
    ledger.claim(entries[3], 1, {})
    ledger.end(entries[3], 1, {"outcome": "refused", "reason": "x"})
    size(entries[3])
    tally, workers, _ = carried_out(ledger, answers(), entries[4:], limits=Limits(disk=9_000_000))
    assert (tally.ended, workers.sent) == ("disk", [])


def test_a_limit_that_is_met_by_the_last_asset_stops_nothing(ledger):
    entry = ledger.entries()[:1]

    def slow(job, times):
        time.sleep(0.05)
        return DONE

    tally, _, _ = carried_out(ledger, slow, entry, limits=Limits(seconds=0.04))
    assert (tally.done, tally.ended) == (1, "")


def test_what_another_command_makes_is_waited_for_and_taken_over_when_it_is_gone(ledger, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.01)
    entry, second = ledger.entries()[:2]
    ledger.claim(entry, 1, {"token": "other", "space": "elsewhere", "host": "far"})
    theirs = ledger.claim(second, 1, {"token": "other", "space": "elsewhere"})

    def answer(job, times):
        if job["entry"]["seed"] == 5:
            ledger.finish(theirs, "done", {})  # meanwhile
        return DONE

    begun = time.monotonic()
    tally, workers, _ = carried_out(ledger, answer, lease=0.3)
    assert time.monotonic() - begun > 0.29
    assert (tally.done, tally.made) == (6, 5)
    assert second.id not in workers.sent
    assert ledger.detail(entry, "done")["attempt"] == 2


def test_an_attempt_of_a_killed_command_on_this_machine_is_taken_over_at_once(ledger):
    entry = ledger.entries()[0]
    ledger.claim(entry, 1, {"token": "dead", "space": pid_space(), "processes": [[2**22 + 7, "1"]]})
    tally, _, _ = carried_out(ledger, answers())
    assert tally.done == 6
    assert ledger.detail(entry, "done")["attempt"] == 2


@pytest.mark.parametrize(
    ("end", "further", "failed"),
    [
        ({"outcome": "lost"}, False, 1),
        ({"outcome": "lost"}, True, 0),  # a machine that is taken away, and the asset gets on each time
        ({"outcome": "stopped"}, False, 0),  # by the user
        ({"outcome": "stopped", "alone": True}, False, 1),  # a daemon ends its process each time, and not the command
        ({"outcome": "stopped", "alone": True}, True, 0),
    ],
)
def test_an_asset_that_is_always_cut_short_and_gets_no_further_is_given_up_in_the_end(ledger, end, further, failed):
    entry = ledger.entries()[0]
    for attempt in range(1, LOST + 6):
        ledger.claim(entry, attempt, {})
        ledger.end(entry, attempt, {**end, "step": 10 * attempt * further})
    tally, workers, _ = carried_out(ledger, answers())
    assert (tally.done, tally.failed) == (6 - failed, failed)
    assert (entry.id in workers.sent) == (not failed)


def test_a_deleted_folder_is_made_again(ledger):
    carried_out(ledger, answers())
    entry = ledger.entries()[3]
    (ledger.folder(entry) / ".asset" / "done").unlink()
    (ledger.folder(entry) / ".asset" / "claim-0001").unlink()
    (ledger.folder(entry) / ".asset").rmdir()
    ledger.folder(entry).rmdir()
    tally, workers, _ = carried_out(ledger, answers())
    assert (tally.done, workers.sent) == (6, [entry.id])


def test_a_signal_to_all_processes_is_charged_to_no_asset(ledger):
    """The worker's death is told in the same look in which the command has its own signal, or some instants before."""
    stop = Stop()

    def killed(job, times):
        stop.requested, stop.name = True, "SIGTERM"
        return Told(0, None, "its process was killed by SIGSEGV in its last moments")

    tally, workers, _ = carried_out(ledger, killed, stop=stop, limits=Limits(attempts=1))
    assert (tally.ended, tally.failed) == ("SIGTERM", 0)
    assert len(workers.sent) == 2
    early = lambda times: DONE if times > 1 else Told(0, None, "killed by SIGTERM", stopped=True)  # noqa: E731
    tally, workers, _ = carried_out(ledger, answers(_5=early), limits=Limits(attempts=1))
    assert (tally.ended, tally.done, tally.failed) == ("", 6, 0)
    assert ledger.detail(ledger.entries()[5], "done")["attempts"] == 1


def test_a_worker_that_hangs_before_it_is_ready_is_killed_and_counted(ledger, monkeypatch):
    monkeypatch.setattr("batch_helpers.Scripted.start", lambda self, slot: setattr(self, "patience", 0.01))
    with pytest.raises(RunError, match=r"workers cannot start: a process was not ready after 0\.01 s"):
        carried_out(ledger, answers())


def test_an_asset_whose_run_is_locked_elsewhere_waits_without_attempts(ledger, monkeypatch):
    """The lock of another host outlives the lease: no claim is made before it expires."""
    monkeypatch.setattr(module, "BUSY", 0.02)
    entry = ledger.entries()[0]
    ledger.claim(entry, 1, {"token": "other", "space": "elsewhere", "host": "far"})
    begun, left = time.monotonic(), 0.4
    looks = []

    def seconds_left(folder):
        if folder != ledger.folder(entry):
            return 0.0
        looks.append(time.monotonic() - begun)
        return max(0.0, left - looks[-1])

    monkeypatch.setattr(module, "seconds_left", seconds_left)
    tally, _, _ = carried_out(ledger, answers(), lease=0.0)
    assert tally.done == 6
    assert len(looks) > 3
    assert time.monotonic() - begun >= left
    names = sorted(path.name for path in (ledger.folder(entry) / ".asset").iterdir())
    assert names == ["claim-0001", "claim-0002", "done", "end-0001"]
    assert ledger.detail(entry, "done")["attempts"] == 1


def test_a_finished_asset_stays_so_when_its_worker_is_killed_in_the_same_instant(ledger, monkeypatch):
    def late(self, slot):
        if self.sent.count("0" * 12) == 1 and slot == 0:
            self.told.append(Told(slot, {"end": "0" * 12, **DONE}))
        return 5_000_000_000 if slot == 0 and self.sent[-1:] == ["0" * 12] else 0

    monkeypatch.setattr("batch_helpers.Scripted.memory", late)
    tally, workers, _ = carried_out(
        ledger, answers(_0=lambda _: None), entries=ledger.entries()[:1], limits=Limits(attempts=1, memory=4e9)
    )
    assert (tally.done, tally.failed) == (1, 0)
    assert workers.killed == [0]


def test_a_folder_that_is_in_use_is_tried_again_later(ledger, monkeypatch):
    monkeypatch.setattr(module, "BUSY", 0.01)
    busy = lambda times: DONE if times == 3 else {"outcome": "busy", "reason": "in use by"}  # noqa: E731
    tally, _, _ = carried_out(ledger, answers(_0=busy), limits=Limits(attempts=1))
    assert (tally.done, tally.failed) == (6, 0)


def test_workers_that_never_start_end_the_batch(ledger, monkeypatch):
    monkeypatch.setattr("batch_helpers.Scripted.start", lambda self, slot: self.told.append(Told(slot, None, "no module")))
    with pytest.raises(RunError, match="workers cannot start: no module"):
        carried_out(ledger, answers())


def test_the_steps_of_what_is_in_work_are_told_in_between(ledger, monkeypatch):
    monkeypatch.setattr(module, "QUIET", 0.0)
    tally, _, told = carried_out(ledger, answers(_2=Told(0, {"step": 3, "total": 9})), limits=Limits(1, 0.2))
    assert (tally.done, tally.failed) == (5, 1)  # it hangs after that step
    assert ("work", f"{ledger.entries()[2].folder} step 3/9") in told
