"""What a batch costs beside the lifting: 10,000 entries of the ledger, and its throughput against separate commands.

    python benchmarks/batch_scale.py --entries 10000     # simulated: no asset is lifted
    python benchmarks/batch_scale.py --throughput 20     # lifts 20 short assets twice: dreamlift batch, and xargs -P 2
    python benchmarks/batch_scale.py --entries 500 --throughput 4

Simulated assets are "made" by workers that write the small files of a run and answer at once; the rows are checked, and the
ledger is written as in a real batch. 500 of each half are claimed and finished by the coordinator; the files of the others are
written directly. Status and resume are whole commands with their start of Python.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch_kills import COLORS, NOUNS, TINY

from dreamlift.batch.coordinator import Coordinator
from dreamlift.batch.ledger import Ledger
from dreamlift.batch.limits import Limits
from dreamlift.batch.options import as_generate
from dreamlift.batch.plan import Planner, plan
from dreamlift.batch.rows import read_rows
from dreamlift.batch.workers.local import Told
from dreamlift.system.signals import Stop
from dreamlift.verbs import build_parser

THROUGH = 500  # of each half of the simulated assets go through the coordinator; the files of the others are written directly


def write_run(folder: Path, ended: Path | None = None) -> None:
    """The small files of a run; with ``ended``, its entry in the index, also those of the ledger."""
    (folder / ".asset").mkdir(parents=True, exist_ok=True)
    for name in ("run.json", "config.yaml", "metrics.jsonl", "events.jsonl", "asset.glb", "turntable.webp", "view.html"):
        (folder / name).write_text('{"schema": 1}')
    if ended is not None:
        (folder / ".asset" / "claim-0001").write_text("{}")
        (folder / ".asset" / "done").write_text('{"attempt": 1, "seconds": 1.0, "peak_memory_gb": 0.8}')
        ended.touch()


@dataclass
class Instant:
    """Workers that answer at once. After ``limit`` assets a signal stops the batch."""

    count: int
    limit: int
    signal: Stop = field(default_factory=Stop)
    made: int = 0
    token: str = "instant"  # noqa: S105
    patience: float = math.inf
    told: list[Told] = field(default_factory=list)

    def start(self, slot: int) -> None:
        self.told.append(Told(slot, {"ready": 1}))

    def send(self, slot: int, job: dict[str, Any]) -> None:
        write_run(Path(job["folder"]))
        self.made += 1
        if self.made == self.limit:
            self.signal.requested, self.signal.name = True, "SIGTERM"
        figures = {"seconds": 1.0, "peak_memory_gb": 0.8, "faces": 500.0}
        self.told.append(Told(slot, {"end": job["id"], "outcome": "done", "figures": figures}))

    def hear(self, timeout: float) -> list[Told]:
        found, self.told = self.told, []
        return found

    def kill(self, slot: int) -> None: ...

    def stop(self, slot: int) -> None: ...

    def process(self, slot: int) -> int:
        return os.getpid()

    def memory(self, slot: int) -> int:
        return 0

    def kept_log(self, slot: int) -> None: ...

    def close(self) -> None: ...


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for: what a busy machine does not distort."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def timed(name: str, work: Callable[[], Any]) -> Any:
    begun, cpu = time.perf_counter(), cpu_seconds()
    found = work()
    print(f"{name:64s} {time.perf_counter() - begun:8.2f} s, CPU {cpu_seconds() - cpu:6.2f} s", flush=True)
    return found


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "dreamlift.cli", *map(str, words)], capture_output=True, text=True)


def ledger_of(count: int, out: Path) -> None:
    """Times with ``count`` entries: the first start, half of them made, status, resume, all made, status, resume."""
    runs, listed = out / "runs", out / "list.csv"
    shutil.rmtree(runs, ignore_errors=True)
    rows = [f"a {COLORS[i % 10]} {NOUNS[i // 10 % 10]},{i // 100}\n" for i in range(count)]
    listed.write_text("prompt,seed\n" + "".join(rows), encoding="utf-8")
    print(f"\n{count:,} entries, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    arguments = build_parser().parse_args(["batch", str(listed), "--out", str(runs)])
    found = timed("read the list and check every row", lambda: plan(
        read_rows(listed), Planner(as_generate(arguments), {}, out, "cpu"), listed))  # fmt: skip
    ledger = Ledger(runs)
    runs.mkdir(parents=True)
    timed("write the ledger", lambda: ledger.write(found.entries, found.settings))
    for part, upto in (("half", count // 2), ("all", count)):
        workers = Instant(2, min(THROUGH, upto))
        coordinator = Coordinator(ledger, found.entries, ledger.settings(), workers, Limits(), lambda *_: None)
        timed(f"find what is left, before {part} of them are made", coordinator.look)
        work = functools.partial(coordinator.run, workers.signal)
        tally = timed(f"claim and finish {min(THROUGH, upto)} simulated assets", work)
        assert tally.made == min(THROUGH, upto)
        known = ledger.ended()
        written = [entry for entry in found.entries[:upto] if entry.id not in known]
        for entry in written:
            write_run(ledger.folder(entry), ledger.root / ".batch" / "ended" / f"{entry.id}.done")
        shown = timed(f"dreamlift status, whole command ({part} of them made)", lambda: command("status", runs))
        print("   ", shown.stdout.splitlines()[0])
    again = timed("dreamlift batch again with all finished, whole command", lambda: command("batch", listed, "--out", runs))
    print("   ", again.stderr.splitlines()[0], "exit code", again.returncode)


def throughput(count: int, jobs: int, out: Path) -> None:
    """The same assets by one batch, and by separate commands of xargs, with as many threads each."""
    prompts = [f"a {COLORS[i % 10]} {NOUNS[i % 7]}" for i in range(count)]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    shutil.rmtree(out / "batch", ignore_errors=True)
    shutil.rmtree(out / "xargs", ignore_errors=True)
    (out / "short.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    print(f"\n{count} short assets, {jobs} at a time with {threads} threads each, load {os.getloadavg()[0]:.1f}", flush=True)
    python = [sys.executable, "-m", "dreamlift.cli"]
    first = [*python, "batch", str(out / "short.txt"), "--out", str(out / "batch"), "--jobs", str(jobs), *TINY]
    batch = lifted(f"dreamlift batch --jobs {jobs}", first, "", environment, count)
    second = ["xargs", "-P", str(jobs), "-I", "{}", *python, "generate", "{}", "--out", f"{out / 'xargs'}/{{}}", *TINY]
    separate = lifted(f"xargs -P {jobs} dreamlift generate", second, "\n".join(prompts) + "\n", environment, count)
    print(f"ratio: {separate[0] / batch[0]:.2f}; of CPU times: {separate[1] / batch[1]:.2f}", flush=True)


def lifted(name: str, words: list[str], given: str, environment: dict[str, str], count: int) -> tuple[float, float]:
    """Wall and CPU seconds of a command that makes ``count`` assets."""
    begun, cpu = time.perf_counter(), cpu_seconds()
    subprocess.run(words, env=environment, capture_output=True, check=True, input=given, text=True)
    wall, cpu = time.perf_counter() - begun, cpu_seconds() - cpu
    print(f"{name:40s} {wall:8.1f} s, CPU {cpu:7.1f} s, {3600 * count / wall:6.0f} assets an hour", flush=True)
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=0, help="simulated entries of the ledger")
    parser.add_argument("--throughput", type=int, default=0, help="short assets that are lifted by both ways")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/batch_scale"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.entries:
        ledger_of(arguments.entries, arguments.out)
    if arguments.throughput:
        throughput(arguments.throughput, arguments.jobs, arguments.out)


if __name__ == "__main__":
    main()
