"""Worker processes: signals that reach them, what they print, and how their ends are told."""

from __future__ import annotations

import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
from batch_helpers import entries_of, ledger_of

from dreamlift.batch.coordinator import Coordinator
from dreamlift.batch.limits import Limits
from dreamlift.batch.workers.local import Local, ended
from dreamlift.batch.workers.making import make_asset
from dreamlift.batch.workers.on_ray import OnRay
from dreamlift.batch.workers.places import beside, living, resources
from dreamlift.batch.workers.worker import BEGIN, Asked
from dreamlift.system.signals import Stop

# A worker without torch: a job's prompt says what it does.
STUB = """
import os, signal, sys, time
sys.path[:] = sys.argv[1:]
from dreamlift.batch.workers import worker
asked = worker.Asked()
signal.signal(signal.SIGTERM, asked)
setup, jobs, say = worker.connected()
say({"ready": os.getpid()})

def made(prompt):
    if "crash" in prompt:
        print("the words before its end", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL if "kill" in prompt else signal.SIGABRT)
    if "term" in prompt:  # outside of the handler, as while Python starts
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    if "slow" in prompt:
        time.sleep(60)
    return {"outcome": "done"}

while True:
    job = jobs.get()
    print(worker.BEGIN + job["folder"], file=sys.stderr, flush=True)
    say({"end": job["id"], **asked.answered(lambda: made(job["entry"]["prompt"]))})
"""


def local(folder, count=1, **more):
    return Local(count, 1, folder / "logs", main=STUB, **more)


def told_by(workers, kind, seconds=20.0):
    """The first thing of a kind that the workers say; None as kind: that one has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for told in workers.hear(0.05):
            if (told.what is None) if kind is None else (told.what is not None and kind in told.what):
                return told
    raise AssertionError(f"no {kind} within {seconds} s")


def job(prompt):
    return {"id": "0" * 12, "folder": f"/runs/{prompt}", "entry": {"prompt": prompt}}


def test_a_signal_stops_what_is_made_and_not_the_worker(tmp_path):
    workers = local(tmp_path)
    try:
        workers.start(0)
        pid = told_by(workers, "ready").what["ready"]
        workers.send(0, job("slow"))
        time.sleep(0.3)
        os.kill(pid, signal.SIGTERM)
        assert told_by(workers, "end").what["outcome"] == "stopped"
        workers.send(0, job("mug"))
        assert told_by(workers, "end").what["outcome"] == "done"
        os.kill(pid, signal.SIGTERM)  # while nothing is made: the next job may be on the way already
        time.sleep(0.3)
        workers.send(0, job("slow"))
        assert told_by(workers, "end").what["outcome"] == "stopped"
        workers.send(0, job("mug"))
        assert told_by(workers, "end").what["outcome"] == "done"
    finally:
        workers.close()
    assert not list((tmp_path / "logs").iterdir())  # nothing went wrong


def test_a_second_signal_does_not_break_the_handling_of_the_first():
    asked = Asked()

    def made():
        try:
            asked(signal.SIGTERM, None)
        finally:
            asked(signal.SIGTERM, None)
        return {"outcome": "done"}

    assert asked.answered(made) == {"outcome": "stopped"}
    assert asked.answered(lambda: {"outcome": "done"}) == {"outcome": "done"}


def carried_out_by(workers, ledger, **limits):
    told = []
    coordinator = Coordinator(
        ledger, ledger.entries(), {"settings": {}}, workers, Limits(**limits), lambda kind, text, _: told.append((kind, text))
    )
    coordinator.look()
    return coordinator.run(Stop()), told


def named(count, *prompts):
    return [type(entry)(**{**vars(entry), "prompt": prompt}) for entry, prompt in zip(entries_of(count), prompts, strict=True)]


def test_logs_of_failed_attempts_are_kept_and_named(tmp_path):
    ledger = ledger_of(tmp_path / "runs", named(2, "a crash", "a mug"))
    workers = local(ledger.home)
    tally, _ = carried_out_by(workers, ledger, attempts=2)
    assert (tally.done, tally.failed) == (1, 1)
    crash = ledger.entries()[0]
    written = sorted((ledger.folder(crash) / ".asset").glob("end-*"))
    reasons = [*(json.loads(path.read_text())["reason"] for path in written), ledger.detail(crash, "failed")["reason"]]
    assert len(reasons) == 3
    logs = sorted((ledger.home / "logs").iterdir())
    assert [log.name for log in logs] == [f"{workers.token}-0-1.log", f"{workers.token}-0-2.log"]  # not that of the mug
    assert all("the words before its end" in log.read_text() for log in logs)
    assert all(f"(log: .batch/logs/{workers.token}-0-" in reason for reason in reasons)
    assert "SIGABRT" in reasons[-1]


def test_a_death_by_sigterm_is_charged_to_no_asset(tmp_path):
    ledger = ledger_of(tmp_path / "runs", named(2, "a term", "a mug"))
    entry = ledger.entries()[0]
    for attempt in range(1, 19):  # of the bound for those that are cut short again and again
        ledger.claim(entry, attempt, {})
        ledger.end(entry, attempt, {"outcome": "lost", "step": 0})
    tally, told = carried_out_by(local(ledger.home), ledger, attempts=1)
    assert (tally.done, tally.failed) == (1, 1)
    assert ledger.detail(entry, "failed")["reason"].startswith("its process was gone 20 times")
    assert ledger.detail(entry, "failed")["attempts"] == 0
    assert [kind for kind, _ in told].count("again") == 0


def test_the_last_words_are_those_of_the_asset(tmp_path):
    log = tmp_path / "a.log"
    log.write_text(f"loading{BEGIN}a-mug 2025\nValueError: of the mug\n{BEGIN}a-chair 2025\n")
    assert ended(1, log) == "its process ended with code 1"
    log.write_text(log.read_text() + "of the chair\n")
    assert ended(-6, log) == "its process was killed by SIGABRT: of the chair"
    log.write_text("no module\n")
    assert ended(1, log) == "its process ended with code 1: no module"
    assert ended(1, tmp_path / "missing") == "its process ended with code 1"


def test_unexpected_errors_have_a_traceback_in_the_log(tmp_path, capfd, monkeypatch):
    def defect(*_):
        raise TypeError("a defect")

    monkeypatch.setattr("dreamlift.batch.workers.making._carried_out", defect)
    order = {"folder": str(tmp_path), "entry": vars(entries_of(1)[0])}
    assert make_asset(order, None, print) == {"outcome": "error", "reason": "unexpected TypeError: a defect"}
    assert "in defect" in capfd.readouterr().err


def test_a_full_disk_names_the_command_of_the_batch_alone(tmp_path, monkeypatch):
    from dreamlift.runs.checkpoints import explain

    def full(*_):
        error = OSError(28, "No space left on device")
        raise explain("write", tmp_path / "a", error, tmp_path) from error

    monkeypatch.setattr("dreamlift.batch.workers.making._carried_out", full)
    found = make_asset({"folder": str(tmp_path), "entry": vars(entries_of(1)[0])}, None, print)
    assert found["outcome"] == "disk"
    assert found["reason"].endswith("free some space")


@pytest.mark.parametrize(
    ("nodes", "count", "each", "expected"),
    [
        ([{"CPU": 8}], 4, {"num_cpus": 2}, 4),
        ([{"CPU": 8}], 2, {"num_cpus": 2}, 2),
        ([{"CPU": 2}, {"CPU": 8}], 5, {"num_cpus": 2}, 4),
        ([{"CPU": 64, "GPU": 8}, {"CPU": 64}], 8, {"num_gpus": 1, "num_cpus": 8}, 8),
        ([{"CPU": 1}], 1, {"num_cpus": 2}, 1),
        ([], 3, {"num_cpus": 2}, 1),
    ],
)
def test_actors_share_the_memory_of_their_node(nodes, count, each, expected):
    assert beside(nodes, count, each) == expected


HEAD, GPU_NODE = {"CPU": 16}, {"CPU": 4, "GPU": 1}


@pytest.mark.parametrize(
    ("nodes", "device", "jobs", "threads", "count", "each"),
    [
        ([HEAD, GPU_NODE], "auto", None, None, 1, {"num_gpus": 1, "num_cpus": 4}),  # the head's CPUs are no use to the GPU
        ([{"CPU": 64, "GPU": 8}, {"CPU": 16, "GPU": 4}], "auto", None, None, 12, {"num_gpus": 1, "num_cpus": 4}),
        ([{"CPU": 64, "GPU": 2}], "cuda", 1, None, 1, {"num_gpus": 1, "num_cpus": 8}),
        ([HEAD, GPU_NODE], "cpu", None, None, 10, {"num_cpus": 2}),
        ([{"CPU": 4}, {"CPU": 4}], "cpu", 1, None, 1, {"num_cpus": 4}),  # not the 8 of both
        ([{"CPU": 2}, {"CPU": 8}], "auto", 2, None, 2, {"num_cpus": 4}),
        ([{"CPU": 2}, {"CPU": 8}], "auto", None, 16, 1, {"num_cpus": 8}),
        ([{"CPU": 1}], "auto", 3, None, 3, {"num_cpus": 1}),
    ],
)
def test_an_actor_takes_what_a_node_has(nodes, device, jobs, threads, count, each):
    found = resources(nodes, device, jobs, threads, grows=False)
    assert (found.count, found.each, found.note) == (count, each, "")


def test_an_actor_that_no_node_can_hold_is_refused_unless_nodes_may_be_added():
    with pytest.raises(ValueError, match=r"no living node .* 1 GPU, 8 CPU \(nodes: 16 CPU; 1 GPU, 4 CPU\): state fewer"):
        resources([HEAD, GPU_NODE], "auto", None, 8, grows=False)
    with pytest.raises(ValueError, match="1 GPU, 1 CPU"):
        resources([HEAD], "cuda", None, None, grows=False)
    found = resources([HEAD], "cuda", 4, None, grows=True)
    assert (found.count, found.each) == (4, {"num_gpus": 1, "num_cpus": 1})
    assert "the autoscaler may add one" in found.note
    assert living([{"Alive": False, "Resources": HEAD}, {"Alive": True, "Resources": GPU_NODE}]) == [GPU_NODE]


class Pending:
    """A cluster without a place: its actors are never ready."""

    def __init__(self):
        self.killed = []

    def remote(self, **options):
        method = SimpleNamespace(remote=lambda *_: object())
        return lambda kind: SimpleNamespace(remote=lambda *_: SimpleNamespace(about=method, make=method))

    def nodes(self):
        return []

    def wait(self, calls, num_returns, timeout):
        return [], calls

    def kill(self, actor):
        self.killed.append(actor)


def test_actors_that_wait_for_a_place_say_so(tmp_path, monkeypatch):
    workers = OnRay(Pending(), 2, {"num_gpus": 1, "num_cpus": 4}, tmp_path, "0123")
    for slot in range(2):
        workers.start(slot)
    assert workers.hear(0.0) == []
    monkeypatch.setattr("dreamlift.batch.workers.on_ray.PLACE", 0.0)
    (told,) = workers.hear(0.0)
    assert told.what == {"note": "waiting for a place: 1 GPU, 4 CPU each"}
    workers.placing.pop(1)  # one is ready
    assert workers.hear(0.0) == []


def test_an_actor_that_failed_is_killed_and_its_end_told_once(tmp_path):
    workers = OnRay(Pending(), 1, {"num_cpus": 4}, tmp_path, "0123")
    workers.start(0)
    workers.calls.clear()  # nothing is under way, as after an error
    workers.kill(0)
    workers.kill(0)
    assert len(workers.ray.killed) == 2
    assert [told.what for told in workers.hear(0.0)] == [None]


def test_processes_share_the_memory_of_the_machine(monkeypatch):
    from dreamlift.batch.verbs import limits_of

    monkeypatch.setattr("dreamlift.memory.available_host", lambda: 40e9)
    arguments = SimpleNamespace(max_memory=None, timeout=1.0, attempts=3, max_time=None, max_disk=None)
    assert limits_of(arguments, 1).memory == pytest.approx(36e9)
    assert limits_of(arguments, 4).memory == pytest.approx(9e9)
    arguments.max_memory = 5e9
    assert limits_of(arguments, 4).memory == 5e9
