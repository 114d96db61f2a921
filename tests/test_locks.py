"""One process a run folder, and no lock that outlives its process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings

import pytest
from run_helpers import HASH, names, refused

from dreamlift.runs import lock as locks
from dreamlift.runs.run import Run


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "run", "a mug", config_hash=HASH, config_text="steps: 3\n") as made:
        yield made


HOLDER = "import sys; from dreamlift.runs.run import Run; run = Run.open(sys.argv[1]); print('held', flush=True); input()"


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_taken_over(tmp_path):
    Run.create(tmp_path / "run", "a mug").close()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        expected = (
            f"run is in use by process {holder.pid} on {socket.gethostname()}, since ",
            "wait for it or choose another",
        )
        refused(lambda: Run.open(tmp_path / "run"), *expected)
        os.kill(holder.pid, signal.SIGKILL)
        # Not waited for yet: a zombie still has its number, but holds nothing any more.
        deadline = time.monotonic() + 10
        while locks._started(holder.pid) not in ("gone", "") and time.monotonic() < deadline:
            time.sleep(0.01)
        Run.open(tmp_path / "run").close()
    assert ".lock" not in names(tmp_path / "run")


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
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if taken:
        lock = locks.acquire(run.folder)
        run.close()
        assert path.exists(), "the old holder removed a lock that is not its own any more"
        locks.release(lock)
        assert not path.exists()
    else:
        hint = [f"(if that machine is gone, delete {path})"] if "host" in changes else []
        refused(lambda: locks.acquire(run.folder), "is in use by process", *hint)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"pid": "x"}', b'{"pid": 1}'])
def test_a_lock_that_says_nothing_is_taken_over(run, content):
    (run.folder / ".lock").write_bytes(content)
    locks.release(locks.acquire(run.folder))


RACE = """
import os, sys, time
from pathlib import Path
from dreamlift import locks
from dreamlift.checkpoints import RunError
folder, start, children = Path(sys.argv[1]), time.time() + 0.3, []
for _ in range(8):
    child = os.fork()
    if child == 0:
        time.sleep(max(0, start - time.time()))
        try:
            locks.acquire(folder)
        except RunError:
            os._exit(1)
        time.sleep(1.0)
        os._exit(0)
    children.append(child)
print(sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_only_one_of_many_takes_over_a_stale_lock(run):
    path = run.folder / ".lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "another boot"}))
    done = subprocess.run([sys.executable, "-c", RACE, str(run.folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0, 1, 1, 1, 1, 1, 1, 1]"


def test_a_forked_child_does_not_release_its_parents_lock(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        run.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert (run.folder / ".lock").exists()
