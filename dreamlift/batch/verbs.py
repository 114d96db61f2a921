"""``dreamlift batch`` and ``dreamlift status``: from the command line to the coordinator, and what is printed."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import secrets
import shlex
import sys
from collections.abc import Callable
from typing import Any

from dreamlift.batch.ledger import Entry, Ledger
from dreamlift.batch.limits import Limits
from dreamlift.batch.options import as_generate, check_work
from dreamlift.batch.rows import RowsError, read_rows
from dreamlift.batch.status import as_plain, described, duration, status_of
from dreamlift.system.files import expanded
from dreamlift.system.signals import Stop, stop_signals
from dreamlift.system.text import one_line, printable

SOME_FAILED, STOPPED = 3, 130  # exit codes
Tell = Callable[[str, str, dict[str, Any]], None]


def status(arguments: argparse.Namespace) -> int:
    """Print how far a batch is."""
    ledger = Ledger(expanded(arguments.batch))
    found = status_of(ledger)
    text = described(found) + (f"\n  {_again(found.failed, ledger)}" if found.failed else "")
    print(json.dumps(as_plain(found)) if arguments.json else printable_lines(text))
    return 0


def batch(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Make the assets of a list; returns the exit code."""
    with stop_signals(at_once=True) as stop:  # while the list is read nothing can be lost
        try:
            return _batch(arguments, overrides, stop)
        except KeyboardInterrupt:  # also a second Ctrl-C, which does not wait for the workers
            return _stopped(stop.name or "SIGINT")


def _batch(arguments: argparse.Namespace, overrides: dict[str, str], stop: Stop) -> int:
    from dreamlift.batch.coordinator import Coordinator
    from dreamlift.batch.workers.uploads import uploads

    check_work(arguments)
    if arguments.upload:
        from dreamlift.batch.remote import check

        check(arguments.upload)
    ledger = Ledger(expanded(arguments.out))
    tell = teller(arguments.json)
    entries, settings = listed(arguments, overrides, ledger, tell)
    mine = entries if arguments.shard is None else entries[arguments.shard[0] :: arguments.shard[1]]
    for entry in mine:
        if told := ledger.stranger(entry):
            raise ValueError(told)
    more = {"device": arguments.device or "auto", "drop_checkpoints": arguments.drop_checkpoints}
    workers = workers_of(arguments, ledger, more, tell)  # before the handlers of signals: Ray sets its own
    with stop_signals(stop=stop):
        sending = uploads(ledger, arguments.upload, tell, workers.token) if arguments.upload else None
        coordinator = Coordinator(
            ledger, mine, settings, workers, limits_of(arguments, workers.count), tell, more, sending,
            retry_failed=arguments.retry_failed,
        )  # fmt: skip
        try:
            if left := coordinator.look():
                tell(
                    "begin",
                    f"{left} of {len(mine)} assets to make, {workers.count} at a time, into {ledger.root}",
                    {"left": left, "assets": len(mine), "jobs": workers.count},
                )
                coordinator.run(stop)
            return finished(coordinator, entries, tell, stop, nothing=not left)
        finally:
            if sending is not None:
                sending.close()


def listed(
    arguments: argparse.Namespace, overrides: dict[str, str], ledger: Ledger, tell: Any
) -> tuple[list[Entry], dict[str, Any]]:  # fmt: skip
    """The assets of the list, which the ledger then has, and their settings by name; without a list those of the ledger.

    Raises:
        ValueError: there is neither, or rows cannot be used.
    """
    root = ledger.root
    if ledger.exists() and not arguments.resume:
        raise ValueError(f"{root} has a batch already: leave --no-resume out to go on, or give --out another folder")
    if arguments.list is None:
        if not ledger.exists():
            raise ValueError(
                f"{root} has no batch to go on with: give a list, such as dreamlift batch prompts.txt --out {root}"
            )
        given = [
            name for name, value in vars(as_generate(arguments)).items() if value not in (None, False) and name != "device"
        ]
        if name := next(iter([*overrides, *given]), ""):
            raise ValueError(f"--{name.replace('_', '-')} is a setting of the list's assets: give the list, too")
        return [entry for entry in ledger.entries() if entry.listed], ledger.settings()
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file: give --out a folder")
    if (root / "run.json").exists():
        raise ValueError(f"{root} is the folder of a run: give --out another one, such as {root.parent / 'runs'}")
    try:
        rows = read_rows(arguments.list)
        from dreamlift.batch.plan import Planner, plan

        device = "cpu" if arguments.ray else arguments.device or "auto"  # of a cluster, this machine may have no GPU
        planner = Planner(as_generate(arguments), overrides, expanded(arguments.list).absolute().parent, device)
        found = plan(rows, planner, arguments.list, lambda text: tell("note", text, {}))
    except RowsError as error:
        print("\n".join(map(printable, error.told)), file=sys.stderr)
        raise
    for text in found.notes:
        tell("note", text, {})
    root.mkdir(parents=True, exist_ok=True)
    ledger.write(found.entries, found.settings)
    return found.entries, {**ledger.settings(), **found.settings}


def workers_of(arguments: argparse.Namespace, ledger: Ledger, more: dict[str, Any], tell: Tell) -> Any:
    """The workers that the options ask for."""
    from dreamlift.batch.workers.local import Local
    from dreamlift.lifting import find_device

    if arguments.ray:
        return on_ray(arguments, ledger, more["device"], tell)
    device = find_device(more["device"])
    visible = visible_gpus() if device.type == "cuda" and device.index is None else ()
    jobs = arguments.jobs or max(1, len(visible))
    return Local(jobs, threads_for(jobs), ledger.home / "logs", visible, tuple(arguments.plugin))


def on_ray(arguments: argparse.Namespace, ledger: Ledger, device: str, tell: Tell) -> Any:
    """Actors of a Ray cluster as workers."""
    from dreamlift.batch.workers.on_ray import OnRay, connect
    from dreamlift.batch.workers.places import grows, living, resources

    ray = connect(arguments.ray)
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdecimal() and int(given) > 0 else None
    found = resources(living(ray.nodes()), device, arguments.jobs, threads, grows(ray))
    if found.note:
        tell("note", found.note, {})
    token = secrets.token_hex(6)  # also of the command's heartbeat
    limit = float(arguments.max_memory or 0)
    return OnRay(ray, found.count, found.each, ledger.workers, token, tuple(arguments.plugin), limit)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return tuple(given or map(str, range(torch.cuda.device_count())))


def threads_for(jobs: int) -> int:
    """Threads of each of ``jobs`` workers: OMP_NUM_THREADS, or else its share of the cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(given) if given.isdecimal() and int(given) > 0 else max(1, cores // jobs)


def limits_of(arguments: argparse.Namespace, jobs: int) -> Limits:
    """The limits that the options state, for ``jobs`` processes that share this machine's memory."""
    from dreamlift.memory import available_host

    memory = arguments.max_memory or 0.9 * (available_host() or math.inf) / jobs
    timeout = arguments.timeout
    return Limits(arguments.attempts, timeout, memory, arguments.max_time or math.inf, arguments.max_disk or math.inf)


def finished(coordinator: Any, entries: list[Entry], tell: Tell, stop: Stop, nothing: bool = False) -> int:
    """Write the report, say how the batch ended, and return the exit code."""
    from dreamlift.batch.coordinator import CANNOT
    from dreamlift.batch.report import write_report

    ledger, tally = coordinator.ledger, coordinator.tally
    page, figures = write_report(ledger, entries)
    told = status_of(ledger, entries)
    if nothing and not tally.failed:
        tell("note", f"all {len(coordinator.entries)} assets are finished, so there is nothing to do", {})
    tell("end", described(told), {**as_plain(told), **figures, "made": tally.made, "report": str(page)})
    if figures.get("median_seconds"):
        tell(
            "table",
            f"median of an asset: {duration(figures['median_seconds'])}, {figures.get('median_peak_memory_gb', 0):.2f} GB; "
            f"table and gallery: {page}",
            {},
        )
    if coordinator.uploads is not None and not tally.ended:
        coordinator.uploads.rest(coordinator.entries, stop)
    if tally.ended in CANNOT:
        print(f"dreamlift: stopped: {one_line(tally.reason)}; the same command goes on", file=sys.stderr)
        return 1
    if tally.ended or stop.requested:
        return _stopped(tally.ended or stop.name)
    if tally.failed:
        made = f"{tally.done} of {len(coordinator.entries)} are made and {_again(tally.failed, ledger)}"
        print(f"dreamlift: {printable(made)}", file=sys.stderr)
        return SOME_FAILED
    return 0


def _stopped(name: str) -> int:
    """Say that a signal has stopped the command; returns the exit code."""
    print(f"dreamlift: stopped by {name}; the same command goes on, and what is finished stays", file=sys.stderr)
    return STOPPED


def _again(failed: int, ledger: Ledger) -> str:
    """That assets were given up, and the command that tries them again."""
    command = f"dreamlift batch --out {shlex.quote(str(ledger.root))} --retry-failed"
    return f"{failed} {'was' if failed == 1 else 'were'} given up: `{command}` tries {'it' if failed == 1 else 'them'} again"


def teller(as_json: bool) -> Tell:
    """Prints what happens: text on standard error, or JSON lines on standard output. Equal notes are told once."""
    seen: set[str] = set()

    def tell(kind: str, text: str, more: dict[str, Any]) -> None:
        if kind == "note":
            alike = re.sub(r"[0-9]+", "0", text)  # such as notes on figures that differ
            if alike in seen:
                return
            seen.add(alike)
        if as_json:
            if kind != "table":
                print(json.dumps({"event": kind, "text": text, **more}), flush=True)
            return
        count = f"[{more['done'] + more['failed']}/{more['assets']}] " if kind in ("done", "failed", "work") else ""
        word = {"note": "note: ", "again": "again: ", "done": "done ", "work": "in work: "}.get(kind, "")
        word = f"note ({more['folder']}): " if kind == "note" and "folder" in more else word
        print("\n".join(count + word + printable(line) for line in text.splitlines()), file=sys.stderr, flush=True)

    return tell


def printable_lines(text: str) -> str:
    """Each line of a text with its control codes escaped."""
    return "\n".join(map(printable, text.splitlines()))
