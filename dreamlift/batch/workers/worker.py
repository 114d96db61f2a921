"""A worker: a process that reads jobs from standard input, one JSON line each, and answers with JSON lines.

It ends when its coordinator does: at the end of standard input, and on Linux by a signal of the kernel's.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import queue
import signal
import sys
import threading
from typing import Any, TextIO

MAIN = "import sys; sys.path[:] = sys.argv[1:]; from dreamlift.batch.workers.worker import main; main()"
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
KILL_FIRST = 700  # of the kernel when memory is exhausted: -1000 (never) to 1000 (first)


def main() -> None:
    """Serve the jobs of standard input."""
    answers = _own_output()
    _end_with_parent()
    setup = json.loads(sys.stdin.readline() or "{}")
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    say_lock = threading.Lock()

    def say(told: dict[str, Any]) -> None:
        with say_lock:
            answers.write(json.dumps(told) + "\n")
            answers.flush()

    from dreamlift.system.startup import tune_process

    tune_process()
    import torch

    from dreamlift.batch.workers.making import make_asset
    from dreamlift.plugins import load_plugins
    from dreamlift.priors.kinds import Priors

    if setup.get("threads"):
        torch.set_num_threads(setup["threads"])
    load_plugins(setup.get("plugins", []), lambda text: say({"note": text}))
    pool = Priors()
    say({"ready": os.getpid()})
    while True:
        job = jobs.get()
        say({"end": job["id"], **make_asset(job, pool, say)})


def _own_output() -> TextIO:
    """Standard output for the answers alone; what libraries print goes to standard error, which is the worker's log."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    return own


def _read_jobs(jobs: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)  # the coordinator has closed the pipe, or is gone: what it began goes on from its checkpoint


def _end_with_parent() -> None:
    parent = os.getppid()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != parent:  # it died before
                os._exit(0)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(KILL_FIRST))


if __name__ == "__main__":
    main()
