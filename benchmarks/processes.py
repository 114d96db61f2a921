"""What the benchmarks share: tasks that are measured in processes of their own, and rows that are kept in a file."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from dreamlift.system.files import atomic_write_text
from dreamlift.system.startup import tune_process


def in_processes(work: Callable[[Any], Any], tasks: list[Any], jobs: int) -> Iterator[Any]:
    """The results of ``work`` on ``tasks``, as they are ready, ``jobs`` at a time.

    Each task has a process of its own, whose peak memory is its own, and its share of the cores: ``OMP_NUM_THREADS``.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // jobs))
    if not tasks:
        return
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(tasks)), tune_process, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(work, tasks)


def keep(path: Path, rows: Iterable[dict[str, Any]], order: Callable[[dict[str, Any]], Any]) -> None:
    """Write the rows, one a line, sorted by ``order``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, "[\n" + ",\n".join(json.dumps(row) for row in sorted(rows, key=order)) + "\n]\n")
