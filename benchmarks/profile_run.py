"""Where the seconds of a run go, from the start of the process to the last file, cold and warm.

    python benchmarks/profile_run.py [--preset toybox] [--prompt "a red mug"] [--repeats 3]
    python benchmarks/profile_run.py --against ../older-checkout     # also whole runs of both, in turn

(It is not called profile.py: Python's own module of that name would be hidden from every script in this folder.)

Cold: without compiled kernels in the cache, as in a first run. A part is what the main process waits for: "compile" is what it
compiles itself, while a second process compiles further kernels beside it; these seconds are also in the rows of the steps and
of "finish" in which they occur. "network" is the prior's calls and "optimizer" its
steps, in all stages; each stage's own row is the rest of its steps. Run it while nothing else runs.
"""

from __future__ import annotations

import time

BEGUN = time.perf_counter()

from dreamlift.system.startup import tune_process  # noqa: E402

tune_process()  # before torch

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from filelock import FileLock  # noqa: E402

FIRST = 10  # steps of a stage that are left out of its median: in these, kernels are loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="toybox")
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--mesh", default="", help="initial mesh, for presets that need one")
    parser.add_argument("--against", type=Path, help="another checkout of dreamlift; its whole runs take turns with this one's")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        measure(arguments)
        return
    for cold in (True, False):
        runs = [child(arguments, cold) for _ in range(1 if cold else arguments.repeats)]
        print(f"{'cold' if cold else f'warm, medians of {len(runs)}'}: {arguments.preset}, {arguments.prompt!r}")
        for name in runs[0]:
            print(f"  {name:34s}{statistics.median(run[name] for run in runs):9.2f}")
    if arguments.against:
        compare(arguments)


def child(arguments: argparse.Namespace, cold: bool) -> dict[str, float]:
    """The seconds of one run, in a process of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, __file__, "--child", folder, "--preset", arguments.preset, "--prompt", arguments.prompt,
                   "--engine", arguments.engine, "--mesh", arguments.mesh]  # fmt: skip
        subprocess.run(command, check=True, env=environment(cold, Path(folder)), stdout=subprocess.DEVNULL)
        found = json.loads((Path(folder) / "seconds.json").read_text())
        wait_for_compilation(Path(folder))
        return found


def environment(cold: bool, folder: Path) -> dict[str, str]:
    """The environment of a run; a cold one has an empty cache of kernels."""
    return {**os.environ, **({"NUMBA_CACHE_DIR": str(folder / "kernels")} if cold else {})}


def compare(arguments: argparse.Namespace) -> None:
    """Whole runs by the command line, of the other checkout and of this one in turn."""
    here = Path(__file__).parents[1]
    for cold in (True, False):
        pairs = []
        if not cold:  # each checkout has kernels of its own, which an unmeasured run compiles
            for root in (arguments.against.resolve(), here):
                whole_run(root, arguments, cold)
        for _ in range(1 if cold else arguments.repeats):
            pairs.append([whole_run(root, arguments, cold) for root in (arguments.against.resolve(), here)])
        before, after = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        ratios = ", ".join(f"{pair[1] / pair[0]:.2f}" for pair in pairs)
        print(f"{'cold' if cold else 'warm'}: {before:.1f} s before, {after:.1f} s now; ratios {ratios}")


def whole_run(root: Path, arguments: argparse.Namespace, cold: bool) -> float:
    """Wall seconds of ``dreamlift generate`` of the checkout ``root``."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "dreamlift.cli", "generate", arguments.prompt, "--preset", arguments.preset,
                   "--out", f"{folder}/run", *(["--mesh", arguments.mesh] if arguments.mesh else [])]  # fmt: skip
        variables = {**environment(cold, Path(folder)), "PYTHONPATH": str(root)}
        begun = time.perf_counter()
        subprocess.run(command, check=True, cwd=root, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - begun
        wait_for_compilation(Path(folder))
        return seconds


def wait_for_compilation(folder: Path) -> None:
    """Wait for a cold run's second process, so that it does not disturb the next run."""
    if (folder / "kernels").is_dir():
        with FileLock(folder / "kernels" / "warmup.lock"):
            pass


class Clock:
    """Sums the seconds of named calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, call: Callable) -> Callable:
        """``call``, whose seconds are added to ``name``."""

        def wrapped(*args: Any, **more: Any) -> Any:
            begun = time.perf_counter()
            try:
                return call(*args, **more)
            finally:
                self.seconds[name] += time.perf_counter() - begun

        return wrapped


def measure(arguments: argparse.Namespace) -> None:
    """Do what ``generate`` does, and write seconds.json."""
    from dataclasses import replace

    from dreamlift.apps.presets import find_preset
    from dreamlift.lifting import finish, lift, load, resolve
    from dreamlift.runs.progress import Silent
    from dreamlift.runs.results import write_results
    from dreamlift.runs.warmup import warm_beside
    from dreamlift.system import jit
    from dreamlift.types import StageBegan, Step

    marks = {"import": time.perf_counter() - BEGUN}
    config = replace(find_preset(arguments.preset), prompt=arguments.prompt, engine=arguments.engine,
                     initial_mesh=arguments.mesh)  # fmt: skip
    warm_beside(config)
    clock, timer = Clock(), None
    if jit.numba is not None:
        from numba.core import event

        timer = event.TimingListener()
        event.register("numba:compile", timer)
    begun = time.perf_counter()
    job = load(resolve(config))
    marks["load"] = last = time.perf_counter() - begun
    last += begun
    steps: list[list[float]] = []
    between = 0.0
    for happening in lift(job):
        now = time.perf_counter()
        if isinstance(happening, StageBegan):
            between += now - last
            steps.append([])
            for prior in job.pool.taken:
                if "predict_noise" not in vars(prior):  # a prior of the stage before is timed already
                    prior.predict_noise = clock.timed("network", prior.predict_noise)
            work: Any = job.work
            work.optimizer.step = clock.timed("optimizer", work.optimizer.step)
            clock.seconds[f"before {len(steps)}"] = clock.seconds["network"] + clock.seconds["optimizer"]
        elif isinstance(happening, Step):
            steps[-1].append(now - last)
        last = time.perf_counter()
    begun = time.perf_counter()
    folder = arguments.child / "run"
    folder.mkdir()
    write_results([folder], finish(job), Silent())
    marks["finish"] = time.perf_counter() - begun
    compiling = timer.duration if timer is not None and timer.done else 0.0
    report(arguments.child / "seconds.json", marks, clock.seconds, steps, between, compiling)


def report(
    file: Path,
    marks: Mapping[str, float],
    sums: Mapping[str, float],
    steps: list[list[float]],
    between: float,
    compiling: float,
) -> None:
    """Write the table's rows, in order."""
    table = {"import": marks["import"], "load": marks["load"], "compile": compiling}
    ends = [sums[f"before {n + 1}"] for n in range(1, len(steps))] + [sums["network"] + sums["optimizer"]]
    for number, own in enumerate(steps):
        table[f"stage {number + 1} without the next two"] = sum(own) - (ends[number] - sums[f"before {number + 1}"])
    table |= {"network": sums["network"], "optimizer": sums["optimizer"], "between the stages": between}
    table |= {"finish": marks["finish"], "all": time.perf_counter() - BEGUN}
    for number, own in enumerate(steps):
        table[f"stage {number + 1}: ms a step, median"] = 1e3 * statistics.median(own[FIRST:] or own)
    file.write_text(json.dumps(table))


if __name__ == "__main__":
    main()
