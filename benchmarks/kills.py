"""Kills runs of every kind at random moments with `kill -9`, and looks at what is left and at how they end.

    python benchmarks/kills.py                  1,000 kills, 100 of them in fresh processes; hours on one core
    python benchmarks/kills.py --quick          two kills of each case
    python benchmarks/kills.py --minutes 30     as many as there is time for; the same command goes on later
    python benchmarks/kills.py --table          the table of the results so far

A chain is one folder: its command is started and killed at a moment that is uniform over the time that such a command takes,
then the command that goes on with it is started and killed, up to eight times, and the last one is left alone. After every
kill each file under a final name must have the bytes that the run that nobody killed gave it (every checkpoint included), and
the newest checkpoint must not be older than before. At the end all files must have its bytes. Most processes are forked from
this one, which has imported everything; those called fresh start an interpreter of their own. A batch and a studio have workers
of their own, which are killed with them.

The faults beside kills: disks that are full (mounts of a few hundred kB), folders that become read-only in the middle of a run
(a remount; both need root), and clocks that are set back by three days.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import kills_studio

HERE = Path(__file__).resolve()
RESULTS = HERE.parent / "results" / "kills.json"
# What changes during a run or differs between two, beside all that is hidden: logs, and the pages of a batch, with its seconds.
LOGS = {"run.json", "metrics.jsonl", "events.jsonl", "report"}
MARK = ".kills"  # in the benchmark's folder, which is emptied
MOST = 8  # kills of one chain
DAYS = 3 * 86400.0  # seconds by which a clock is set back


def prepare_process() -> None:
    """Small pictures of the results: what they show does not matter here."""
    import dreamlift.lifting
    import dreamlift.runs.results
    from dreamlift import cameras

    dreamlift.lifting.VIEW_SIZE = 32
    dreamlift.runs.results.turntable = lambda count, **more: cameras.turntable(3, **more | {"size": 32})


# Processes


class Started:
    """A process that was started; its output goes to ``log``."""

    def __init__(self, words: list[str], log: Path, fresh: bool, before: Callable[[], None] = lambda: None) -> None:
        self.begun, self.code = time.monotonic(), None
        if fresh:
            with open(log, "wb") as out:
                command = [sys.executable, str(HERE), "--child", *words]
                self.pid = subprocess.Popen(command, stdout=out, stderr=out).pid
        else:
            sys.stdout.flush()
            self.pid = os.fork()
            if self.pid == 0:
                run_child(words, log, before)

    def ended(self) -> bool:
        """Whether the process has ended; its exit code is then in ``code``, -9 if it was killed."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait(self, seconds: float = 600.0) -> int:
        """The exit code."""
        while not self.ended():
            if time.monotonic() - self.begun > seconds:
                self.kill()
                raise TimeoutError(f"process {self.pid} does not end")
            time.sleep(0.003)
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        """Kill the process and those that it has started. It is stopped first, so that it starts no more."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)
        for pid in (self.pid, *descendants(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while not self.ended():
            time.sleep(0.001)


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


def run_child(words: list[str], log: Path, before: Callable[[], None]) -> None:
    """Run a command in this forked process, and end it."""
    code = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        before()
        code = command(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 98
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(words: list[str]) -> int:
    """Carry out a command of a case in this process."""
    if words[0] == kills_studio.VERB:
        return kills_studio.run_studio(words)
    from dreamlift.cli import main

    return main(words)


# What is left


def name_in(folder: Path, path: Path) -> str:
    """A path relative to the folder of a chain, without the time that a studio adds to the names of its runs."""
    return re.sub(r"-\d{8}-\d{6}(?=/)", "", path.relative_to(folder).as_posix())


def files_of(folder: Path) -> dict[str, bytes]:
    """The files under final names, by their paths in the folder, without logs."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not LOGS & set(parts) and not any(part.startswith(".") for part in parts):
            found[name_in(folder, path)] = path.read_bytes()
    return found


def temporary(folder: Path) -> bool:
    """Whether the kill fell into the writing of a file."""
    return any(path.name.startswith(".tmp-") for path in folder.rglob(".tmp-*"))


def in_runs(folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """What a pattern finds in the folder, which may be a run, and in those in it: paths relative to the folder, and paths."""
    for path in (*folder.glob(pattern), *folder.glob(f"*/{pattern}")):
        yield name_in(folder, path), path


def newest(folder: Path) -> dict[str, int]:
    """The step of the newest checkpoint, by the folder of the run's checkpoints."""
    found: dict[str, int] = {}
    for name, path in in_runs(folder, "checkpoints/step-*"):
        run = name.rpartition("/")[0]
        found[run] = max(found.get(run, -1), int(path.name[5:11]))
    return found


def steps_logged(folder: Path) -> dict[str, list[str]]:
    return {name: path.read_text(encoding="ascii").split("\n") for name, path in in_runs(folder, "metrics.jsonl")}


def statuses(folder: Path) -> dict[str, str]:
    """What the runs say of themselves; "": the file cannot be read."""
    found = {}
    for name, path in in_runs(folder, "run.json"):
        try:
            found[name] = str(json.loads(path.read_text(encoding="utf-8"))["status"])
        except ValueError:
            found[name] = ""
    return found


def half_files(folder: Path, allowed: list[dict[str, bytes]], metrics: dict[str, list[str]]) -> list[str]:
    """The names of files that have neither the bytes of ``allowed`` nor, for logs, its whole lines."""
    found = [name for name, data in files_of(folder).items() if all(each.get(name) != data for each in allowed)]
    found += [name for name, status in statuses(folder).items() if not status]
    for name, lines in steps_logged(folder).items():
        if lines[:-1] != metrics.get(name, [])[: max(len(lines) - 1, 0)]:  # the last one may be cut, and readers skip it
            found.append(name)
    return found


class Bench:
    """The cases with the folders of the runs that nobody killed, and the counts so far."""

    def __init__(self, work: Path, results: Path) -> None:
        prepare_process()
        from kills_cases import make_cases

        self.work, self.results = work, results
        if work.is_dir() and any(work.iterdir()) and not (work / MARK).exists():
            sys.exit(f"{work} is not empty, and is not of this benchmark: give --work another folder")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        (work / MARK).touch()
        self.cases = {case.name: case for case in make_cases(work)}
        self.told = json.loads(results.read_text()) if results.exists() else {}
        self.seconds: dict[tuple[str, bool], float] = {}

    def whole(self, name: str) -> Path:
        """The folder of a run that nobody killed; the first time it is made, in this process, which is warm afterwards."""
        case, folder = self.cases[name], self.work / f"whole-{list(self.cases).index(name)}"
        if not folder.exists():
            if case.base:
                shutil.copytree(self.whole(case.base), folder)
            log = self.work / "log.txt"  # a studio ends its process
            code = Started(case.start(folder), log, True).wait() if case.apart else command(case.start(folder))
            assert code == 0, f"{name} fails without any fault: {log.read_text() if case.apart else ''}"
        return folder

    def begin(self, name: str, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if base := self.cases[name].base:
            shutil.copytree(self.whole(base), folder)

    def allowed(self, name: str) -> list[dict[str, bytes]]:
        base = self.cases[name].base
        return [files_of(self.whole(name)), *([files_of(self.whole(base))] if base else [])]

    def time_of(self, name: str, fresh: bool) -> float:
        """Seconds of the command when nobody kills it; measured the first time, and after each chain."""
        if (name, fresh) not in self.seconds:
            folder = self.work / "timed"
            self.begin(name, folder)
            started = Started(self.cases[name].start(folder), self.work / "log.txt", fresh)
            code = started.wait()
            assert code == 0, (self.work / "log.txt").read_text()
            self.seconds[name, fresh] = time.monotonic() - started.begun
            problems = ends_like(folder, self.whole(name))
            assert not problems, f"{name} differs between two processes that nobody killed: {problems}"
        return self.seconds[name, fresh]

    def count(self, name: str, kind: str, **values: int) -> None:
        """Add to the counts of a row, and write the results."""
        row = self.told.setdefault(name, {}).setdefault(kind, {})
        for key, value in values.items():
            row[key] = row.get(key, 0) + value
        temporary_file = self.results.with_suffix(".tmp")
        temporary_file.write_text(json.dumps(self.told, indent=1) + "\n")
        os.replace(temporary_file, self.results)

    def complain(self, name: str, text: str) -> None:
        """Keep the folder of a chain that went wrong, and say so."""
        kept = self.results.parent / f"kills-failed-{int(time.time())}"
        shutil.copytree(self.work / "chain", kept, dirs_exist_ok=True)
        log = self.work / "log.txt"
        print(f"FAILED {name}: {text}; kept in {kept}\n{log.read_text()[-2000:] if log.exists() else ''}", flush=True)


def ends_like(folder: Path, whole: Path) -> list[str]:
    """The names of files that differ from those of the run that nobody killed, or are missing."""
    mine, theirs = files_of(folder), files_of(whole)
    found = [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]
    logs, finished = steps_logged(folder), statuses(folder)
    found += [name for name, lines in steps_logged(whole).items() if logs.get(name) != lines]
    found += [name for name in statuses(whole) if finished.get(name) != "finished"]
    return sorted(found)


def chain(bench: Bench, name: str, fresh: bool, most: int = MOST) -> None:
    """One folder, from its start over up to ``most`` kills to its end."""
    case, kind, folder, log = bench.cases[name], "fresh" if fresh else "warm", bench.work / "chain", bench.work / "log.txt"
    number = bench.told.get(name, {}).get(kind, {}).get("folders", 0)
    rng, whole, seconds = random.Random(f"{name}/{kind}/{number}"), bench.whole(name), bench.time_of(name, fresh)
    allowed, metrics = bench.allowed(name), steps_logged(whole)
    bench.begin(name, folder)
    tally: Counter[str] = Counter()
    half, last, words = [], newest(folder), case.start(folder)
    for _ in range(most):
        started = Started(words, log, fresh)
        moment = started.begun + rng.uniform(0.0, seconds)
        while time.monotonic() < moment and not started.ended():
            time.sleep(0.002)
        if started.ended():
            if not tally["kills"]:  # the whole command, on a machine that is less busy than when it was timed
                bench.seconds[name, fresh] = time.monotonic() - started.begun
            break
        started.kill()
        if started.code != -signal.SIGKILL:
            break  # it had ended by itself just before
        tally["kills"] += 1
        tally[f"in {words[0]}"] += 1
        tally["inside a write"] += temporary(folder)
        half += half_files(folder, allowed, metrics)
        now = newest(folder)
        tally["older"] += any(now.get(run, -1) < step for run, step in last.items())
        last = now
        words = next_words(case, folder, tally)
    else:
        started = Started(words, log, fresh)
        started.wait()
        bench.seconds[name, fresh] = 0.5 * seconds + 0.5 * max(seconds, time.monotonic() - started.begun)
    lost = started.code != 0
    differing = [] if lost else ends_like(folder, whole)
    if lost or half or differing or tally["older"]:
        bench.complain(name, f"exit {started.code}, half {half}, differing {differing}, older {tally['older']}")
    bench.count(name, kind, folders=1, lost=int(lost or tally["older"] > 0), half=len(half), differing=len(differing) > 0,
                **{key: value for key, value in tally.items() if key != "older"})  # fmt: skip


def next_words(case: Any, folder: Path, tally: Counter[str]) -> list[str]:
    """The command that goes on: the first one again, in an empty folder, where the kill came before the run was written."""
    if not goes_on(case, folder) and folder.exists() and files_of(folder):
        tally["between the first two files"] += 1  # config.yaml and run.json: the same command goes on
    return words_after(case, folder)


def goes_on(case: Any, folder: Path) -> bool:
    """Whether there is a run with which ``case.again`` goes on."""
    return case.apart or (folder / "run.json").exists()


def words_after(case: Any, folder: Path) -> list[str]:
    """The command that goes on with what is in the folder."""
    return case.again(folder) if goes_on(case, folder) else case.start(folder)


# Other faults


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[str], bool]]:
    """A file system of ``kilobytes`` at ``folder``; the value remounts it with other options, and says whether it could."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True, capture_output=True)
    try:
        yield (
            lambda options: (
                subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=False, capture_output=True).returncode
                == 0
            )
        )
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def one_line(log: Path) -> bool:
    """Whether the error in a log is one line, and no traceback."""
    text = log.read_text(errors="replace")
    return text.count("dreamlift: error: ") == 1 and "Traceback" not in text


def mend_and_compare(
    bench: Bench, name: str, kind: str, folder: Path, failed: bool, said: bool, before: Callable[[], None] = lambda: None
) -> None:
    """After a fault is gone: the run goes on, and ends as the one without a fault.

    Args:
        failed: whether the fault has stopped the run. said: whether it did so with one line.
        before: what the process that goes on does first.
    """
    case, log, whole = bench.cases[name], bench.work / "log.txt", bench.whole(name)
    half = half_files(folder, bench.allowed(name), steps_logged(whole))
    code = Started(words_after(case, folder), log, False, before).wait() if failed else 0
    differing = [] if code else ends_like(folder, whole)
    if code or half or differing or not said:
        shutil.rmtree(bench.work / "chain", ignore_errors=True)
        shutil.copytree(folder, bench.work / "chain")
        bench.complain(name, f"{kind}: exit {code}, half {half}, differing {differing}, one line: {said}")
    bench.count(name, kind, tried=1, failed=int(failed), lost=int(code != 0), half=len(half),
                differing=len(differing) > 0, **{"not one line": int(not said)})  # fmt: skip


def full_disk(bench: Bench, name: str, rng: random.Random) -> None:
    """A disk on which a random share of the run's bytes fits; then there is room, and the run goes on."""
    case, log, disk = bench.cases[name], bench.work / "log.txt", bench.work / "disk"
    needed = sum(len(data) for data in files_of(bench.whole(name)).values()) // 1024
    base = sum(len(data) for data in bench.allowed(name)[-1].values()) // 1024 if case.base else 0
    with small_disk(disk, base + 60 + rng.randrange(max(needed - base, 20))) as remount:
        folder = disk / "run"
        if case.base:
            shutil.copytree(bench.whole(case.base), folder)
        code = Started(case.start(folder), log, False).wait()
        said = code == 0 or (code == 1 and one_line(log))
        assert remount(f"size={needed * 4 + 4096}k")
        mend_and_compare(bench, name, "full disk", folder, code != 0, said)


def read_only(bench: Bench, name: str, rng: random.Random) -> None:
    """A file system that becomes read-only at a random moment; then it can be written again, and the run goes on."""
    case, log, disk = bench.cases[name], bench.work / "log.txt", bench.work / "disk"
    seconds = bench.time_of(name, False)
    with small_disk(disk, 200_000) as remount:
        folder = disk / "run"
        if case.base:
            shutil.copytree(bench.whole(case.base), folder)
        started = Started(case.start(folder), log, False)
        moment = started.begun + rng.uniform(0.2, 0.9) * seconds
        # The remount is refused while a file is open for writing.
        while not started.ended() and (time.monotonic() < moment or not remount("ro")):
            time.sleep(0.002)
        code = started.wait()
        remount("rw")
        said = code == 0 or (code == 1 and one_line(log))
        mend_and_compare(bench, name, "read-only", folder, code != 0, said)


def clock_back(bench: Bench, name: str, rng: random.Random) -> None:
    """The clock goes back by three days at a random moment, the process is killed later, and another goes on by that clock."""
    case, log, folder = bench.cases[name], bench.work / "log.txt", bench.work / "clock"
    seconds, real, real_text = bench.time_of(name, False), time.time, time.strftime
    jump = real() + rng.uniform(0.0, 0.6) * seconds

    def set_back() -> None:
        time.time = lambda: real() - (DAYS if real() > jump else 0.0)
        time.strftime = lambda form, *given: real_text(form, *(given or (time.localtime(time.time()),)))

    bench.begin(name, folder)
    started = Started(case.start(folder), log, False, set_back)
    moment = jump + rng.uniform(0.0, 0.4) * seconds
    while real() < moment and not started.ended():
        time.sleep(0.002)
    started.kill()
    for path in folder.rglob("*") if folder.exists() else ():  # as if all had been written before the clock was set back
        with suppress(OSError):
            os.utime(path, (real() + DAYS, real() + DAYS))
    if started.code not in (0, -signal.SIGKILL):
        bench.complain(name, f"clock set back: exit {started.code}")
    mend_and_compare(bench, name, "clock set back", folder, started.code != 0, started.code in (0, -signal.SIGKILL), set_back)


FAULTS: dict[str, Callable[[Bench, str, random.Random], None]] = {
    "full disk": full_disk, "read-only": read_only, "clock set back": clock_back,
}  # fmt: skip
DISKS = ("full disk", "read-only")  # not of batches, which leave 500 MB free, and studios: their runs are as those of generate


# The table


def table(told: dict[str, Any]) -> str:
    """The results as a table of docs/reliability.md."""
    lines = [
        "| what | kills, warm | fresh | in a write | folders | lost | half files | not the same bytes |",
        "|---|" + "---|" * 7,
    ]
    total: Counter[str] = Counter()
    for name, kinds in told.items():
        rows = [kinds.get(kind, {}) for kind in ("warm", "fresh")]
        sums = {key: sum(row.get(key, 0) for row in rows) for key in ("inside a write", "folders", "lost", "half", "differing")}
        cells = [row.get("kills", 0) for row in rows] + list(sums.values())
        total.update({str(n): value for n, value in enumerate(cells)})
        lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    lines.append("| all | " + " | ".join(str(total[str(n)]) for n in range(7)) + " |")
    lines += ["", "| fault | tried | stopped by it | lost | half files | not the same bytes |", "|---|" + "---|" * 5]
    for fault in FAULTS:
        rows = [kinds[fault] for kinds in told.values() if fault in kinds]
        cells = [sum(row.get(key, 0) for row in rows) for key in ("tried", "failed", "lost", "half", "differing")]
        lines.append(f"| {fault} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def done(told: dict[str, Any], name: str, kind: str) -> int:
    row = told.get(name, {}).get(kind, {})
    return row.get("kills", 0) if kind in ("warm", "fresh") else row.get("tried", 0)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        prepare_process()
        sys.exit(command(sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two kills of each case, and one of each fault")
    parser.add_argument("--kills", type=int, default=1000, help="of all cases together (default: 1000)")
    parser.add_argument("--fresh", type=int, default=100, help="how many of them in processes of their own (default: 100)")
    parser.add_argument("--faults", type=int, default=8, help="times that each other fault is tried on each case (default: 8)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time; the same command goes on")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--work", type=Path, help="the folder of the runs; it is emptied (default: a temporary one)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="a JSON file that is continued")
    parser.add_argument("--table", action="store_true", help="only print the table of the results")
    arguments = parser.parse_args()
    if arguments.table:
        return print(table(json.loads(arguments.results.read_text())))
    until = time.monotonic() + 60 * arguments.minutes
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="dreamlift-kills-")) if arguments.work is None else arguments.work.resolve()
    bench = Bench(work, arguments.results)
    names = [name for name in bench.cases if arguments.only in name]
    count = len(bench.cases)
    wanted = {"warm": (arguments.kills - arguments.fresh) / count, "fresh": arguments.fresh / count}
    wanted |= dict.fromkeys(FAULTS, arguments.faults) if os.geteuid() == 0 else {"clock set back": arguments.faults}
    wanted = {kind: 2 if kind in ("warm", "fresh") else 1 for kind in wanted} if arguments.quick else wanted
    while time.monotonic() < until:
        # The row and kind of which the smallest share is done.
        left = [
            (done(bench.told, name, kind) / share, name, kind) for name in names for kind, share in wanted.items()
            if share and not (bench.cases[name].apart and kind in DISKS)
        ]  # fmt: skip
        share, name, kind = min(left, key=lambda each: each[0])
        if share >= 1.0:
            break
        if kind in FAULTS:
            FAULTS[kind](bench, name, random.Random(f"{name}/{kind}/{done(bench.told, name, kind)}"))
        else:
            chain(bench, name, kind == "fresh", 2 if arguments.quick else MOST)
        print(f"{name}, {kind}: {done(bench.told, name, kind)} of {wanted[kind]:.0f}", file=sys.stderr, flush=True)
    shutil.rmtree(bench.work, ignore_errors=True)
    print(table(bench.told))
    bad = ("lost", "half", "differing", "not one line")
    sys.exit(any(row.get(key, 0) for kinds in bench.told.values() for row in kinds.values() for key in bad))


if __name__ == "__main__":
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1")  # before torch is imported
    main()
