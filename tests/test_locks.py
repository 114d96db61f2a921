"""One process per run folder, and no lock that outlives its process, or its host by more than five minutes."""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import pytest
from run_helpers import HASH, names, refused

from dreamlift.runs import lock as locks
from dreamlift.runs.run import Run, RunError


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "run", "a mug", config_hash=HASH, config_text="steps: 3\n") as made:
        yield made


def change(path, changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def until(condition):
    """Whether ``condition`` becomes true within 10 s."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


HOLDER = "import sys; from dreamlift.runs.run import Run; run = Run.open(sys.argv[1]); print('held', flush=True); input()"


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_taken_over(tmp_path):
    Run.create(tmp_path / "run", "a mug").close()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        expected = (
            f"run is in use by process {holder.pid} on {socket.gethostname()}, since ",
            ": wait for it",
        )
        refused(lambda: Run.open(tmp_path / "run"), *expected)
        os.kill(holder.pid, signal.SIGKILL)
        # Not waited for yet: a zombie still has its number, but holds nothing any more.
        assert until(lambda: locks._started(holder.pid) == "gone")
        Run.open(tmp_path / "run").close()
    assert not locks.NAMES & set(names(tmp_path / "run"))


def test_how_long_a_lock_is_valid(run, tmp_path):
    assert locks.seconds_left(run.folder) == float("inf")
    assert locks.seconds_left(tmp_path) == locks.seconds_left(tmp_path / "missing") == 0
    change(run.folder / ".lock", {"host": "another-host"})
    assert locks.VALID - 60 < locks.seconds_left(run.folder) <= locks.VALID
    os.utime(run.folder / ".lock", (time.time() - locks.VALID - 1,) * 2)
    assert locks.seconds_left(run.folder) == 0
    (run.folder / ".lock").write_text("{")
    assert locks.seconds_left(run.folder) == 0


def test_a_number_of_another_containers_processes_is_not_looked_up(run):
    """Containers of one host may have its name, and numbers of their own: a living process looks like one that is gone."""
    path = run.folder / ".lock"
    change(path, {"space": "another space", "pid": 2**22 + 5})
    assert locks.VALID - 60 < locks.seconds_left(run.folder) <= locks.VALID
    refused(lambda: locks.acquire(run.folder), "(if that process is gone, it is free again in 5 minutes)")
    change(path, {"boot": "another boot"})
    assert locks.seconds_left(run.folder) == 0, "no process outlives its machine"
    record = json.loads(path.read_text()) | {"boot": locks._boot_id()}
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "space"}))
    assert locks.seconds_left(run.folder) == 0, "a record of an earlier version, whose process is gone"


def test_the_same_process_cannot_open_a_run_twice(run):
    refused(lambda: Run.open(run.folder, config_hash=HASH), f"in use by process {os.getpid()} on")
    run.close()
    Run.open(run.folder, config_hash=HASH).close()


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"boot": "another boot"}, True),
        ({"started": "12345"}, True),  # the number belongs to a younger process
        ({"pid": 2**22 + 5}, True),  # above the largest number that Linux gives
        ({"pid": -1}, True),
        ({"host": "another-host"}, False),
        ({}, False),
    ],
)
def test_whose_locks_are_taken_over(run, changes, taken):
    path = run.folder / ".lock"
    change(path, changes)
    if taken:
        lock = locks.acquire(run.folder)
        run.close()
        assert path.exists(), "the old holder removed a lock that is not its own any more"
        locks.release(lock)
        assert not path.exists()
    else:
        hint = (
            "(if that machine is gone, it is free again in 5 minutes)"
            if "host" in changes
            else "wait for it or choose another --out"
        )
        refused(lambda: locks.acquire(run.folder, new=True), "is in use by process", hint)
        with pytest.raises(RunError, match="wait for it") as caught:
            locks.acquire(run.folder)
        assert "--out" not in str(caught.value)  # resume and export have no such option


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"pid": "x"}', b'{"pid": 1}'])
def test_a_lock_that_says_nothing_is_taken_over(run, content):
    (run.folder / ".lock").write_bytes(content)
    locks.release(locks.acquire(run.folder))


@pytest.mark.parametrize(
    ("seconds", "minutes"),
    [(1, "5 minutes"), (61, "4 minutes"), (230, "2 minutes"), (250, "1 minute)"), (301, ""), (-100, "7 minutes"), (-400, "")],
)
def test_the_record_of_another_host_expires(run, seconds, minutes):
    """``renewed``, by that host's clock, says nothing: the file's time counts. A time far in the future never was."""
    path = run.folder / ".lock"
    change(path, {"host": "another-host", "renewed": time.time() + 1e6})
    os.utime(path, (time.time() - seconds, time.time() - seconds))
    if minutes:
        refused(lambda: locks.acquire(run.folder), "on another-host, since 20", f"it is free again in {minutes}")
    else:
        locks.release(locks.acquire(run.folder))
        assert not path.exists()


def test_this_hosts_clock_does_not_matter(run, monkeypatch):
    change(run.folder / ".lock", {"host": "another-host"})
    now = time.time()
    for clock in (now - 1e6, now + 1e6):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        refused(lambda: locks.acquire(run.folder), "it is free again in 5 minutes")


def test_a_living_process_on_this_host_needs_no_renewal(run):
    os.utime(run.folder / ".lock", (0, 0))
    refused(lambda: locks.acquire(run.folder), "in use by process")


def test_a_record_that_cannot_be_read_may_have_a_living_holder(tmp_path):
    (tmp_path / ".lock").symlink_to(".lock")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        locks.acquire(tmp_path)


# The holder waits until all others have been refused, however slow the machine is.
RACE = """
import os, select, sys, time
from pathlib import Path
from dreamlift.runs import lock as locks
from dreamlift.runs.checkpoints import RunError
folder, start, ends, (over, tell) = Path(sys.argv[1]), time.time() + 0.1, [], os.pipe()
for _ in range(8):
    if os.fork() == 0:
        os.close(tell)
        time.sleep(max(0, start - time.time()))
        try:
            locks.acquire(folder)
        except RunError:
            os._exit(1)
        select.select([over], [], [], 20)
        os._exit(0)
for number in range(8):
    if number == 7:
        os.close(tell)
    ends.append(os.waitstatus_to_exitcode(os.wait()[1]))
print(sorted(ends))
"""


@pytest.mark.parametrize("changes", [{"boot": "another boot"}, {"host": "another-host"}])
def test_only_one_of_many_takes_over_a_stale_lock(run, changes):
    change(run.folder / ".lock", changes)
    os.utime(run.folder / ".lock", (0, 0))
    done = subprocess.run([sys.executable, "-c", RACE, str(run.folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0, 1, 1, 1, 1, 1, 1, 1]"
    assert names(run.folder) == [".lock", "config.yaml", "events.jsonl", "run.json"]


# Each process that holds the lock makes a file that must not be there yet: the system's own exclusion.
TAKE_TURNS = """
import os, sys, time
from pathlib import Path
from dreamlift.runs import lock as locks
from dreamlift.runs.checkpoints import RunError
folder, turns = Path(sys.argv[1]), 0
print("ready", flush=True)
input()
begun = time.monotonic()
while time.monotonic() < begun + (0.7 if turns >= 5 else 20):
    try:
        lock = locks.acquire(folder)
    except RunError:
        continue
    os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
    os.unlink(folder / "inside")
    locks.release(lock)
    turns += 1
    time.sleep(0.002)  # the other's turn
print(turns)
"""
NO_FLOCK = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.{}, "no flock here")
fcntl.flock = flock
"""


@pytest.mark.parametrize(
    "before", ["", NO_FLOCK.format("ENOSYS"), NO_FLOCK.format("ENOLCK")], ids=["flock", "ENOSYS", "ENOLCK"]
)
def test_processes_take_turns_many_times(tmp_path, before):
    command = [sys.executable, "-c", before + TAKE_TURNS, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert all(racer.stdout.readline() == "ready\n" for racer in racers)
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outputs = [racer.communicate() for racer in racers]
    assert [errors for _, errors in outputs] == ["", ""]
    assert sum(int(turns) for turns, _ in outputs) >= 10
    assert names(tmp_path) == []


@pytest.mark.parametrize(("seconds", "free"), [(10, False), (400, True)])
def test_a_soft_guard_of_a_host_that_is_gone(tmp_path, monkeypatch, seconds, free):
    """Where the file system has no flock, a process killed in its critical section leaves a file behind."""

    def flock(*_):
        raise OSError(errno.ENOSYS, "no flock here")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "WAIT", 0.05)
    guard = tmp_path / ".lock.soft"
    guard.write_text("1\nanother-host\n")
    os.utime(guard, (time.time() - seconds, time.time() - seconds))
    if free:
        locks.release(locks.acquire(tmp_path))
        assert names(tmp_path) == []
    else:
        with pytest.raises(OSError, match="could not be acquired"):
            locks.acquire(tmp_path)


def test_a_guard_that_a_killed_process_left_is_no_obstacle(tmp_path):
    (tmp_path / ".lock.guard").touch()
    locks.release(locks.acquire(tmp_path))
    assert names(tmp_path) == []


# The renewals


@pytest.fixture
def held(tmp_path, monkeypatch):
    """A lock that is renewed every 20 ms."""
    monkeypatch.setattr(locks, "RENEW", 0.02)
    (tmp_path / "held").mkdir()
    lock = locks.acquire(tmp_path / "held")
    yield lock
    locks.release(lock)
    assert not lock.thread.is_alive()


def test_the_holder_renews_its_record(held):
    first = json.loads(held.path.read_text())
    os.utime(held.path, (0, 0))
    assert until(lambda: held.path.stat().st_mtime > time.time() - 100)
    later = json.loads(held.path.read_text())
    assert later["renewed"] > first["renewed"]
    assert later | {"renewed": 0} == first | {"renewed": 0}
    assert set(first) == {"pid", "host", "boot", "space", "started", "since", "renewed", "token"}
    locks.release(held)
    time.sleep(0.1)
    assert names(held.path.parent) == []


@pytest.mark.parametrize("released", [False, True], ids=["held by the other", "given back by the other"])
def test_a_holder_notices_that_it_lost_the_lock(held, monkeypatch, released):
    other, now = json.loads(held.path.read_text()) | {"host": "another-host", "token": "another"}, time.time()
    with locks.guard(held.path.parent):
        assert not held.lost
        if released:  # more than five minutes after this one's last renewal
            monkeypatch.setattr(time, "time", lambda: now + 400)
            held.path.unlink()
        else:
            held.path.write_text(json.dumps(other))
    assert until(lambda: held.lost)
    locks.release(held)
    assert held.path.exists() is not released
    if not released:
        assert json.loads(held.path.read_text()) == other, "the old holder changed a record that is not its own any more"


def test_a_record_deleted_by_hand_comes_back(held):
    held.path.unlink()
    assert until(held.path.exists)
    assert not held.lost


@pytest.mark.parametrize("fault", ["full", "read-only", "deleted"])
def test_renewals_survive_faults_silently(held, monkeypatch, capfd, fault):
    calls = []

    def failing(*_):
        calls.append(1)
        raise OSError(errno.ENOSPC if fault == "full" else errno.EROFS, "fault")

    if fault == "deleted":
        with locks.guard(held.path.parent):
            shutil.rmtree(held.path.parent)
        time.sleep(0.1)
        assert not held.path.parent.exists()
        held.path.parent.mkdir()
    else:
        with monkeypatch.context() as patched:
            patched.setattr(locks, "atomic_write_text", failing)
            assert until(lambda: len(calls) > 2)
        held.path.unlink()
    assert until(held.path.exists), "the renewals ended"
    assert not held.lost
    assert capfd.readouterr() == ("", "")


def test_a_forked_child_neither_renews_nor_releases_its_parents_lock(run, held):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        run.close()
        locks.release(held)
        os._exit(any(thread.name == "dreamlift-lock" for thread in threading.enumerate()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (run.folder / ".lock").exists()
    assert held.thread.is_alive()
    assert not held.stop.is_set()
    refused(lambda: locks.acquire(held.path.parent), "in use by process")
