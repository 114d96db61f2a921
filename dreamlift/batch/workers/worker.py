"""A worker: a process that reads jobs from standard input, one JSON line each, and answers with JSON lines.

It ends when its coordinator does: at the end of standard input, and on Linux by a signal of the kernel's. A SIGTERM or SIGINT
stops what it is making and not the worker: such a signal often reaches all processes of a command, whose end is the
coordinator's matter.
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
import time
from collections.abc import Callable
from typing import Any

MAIN = "import sys; sys.path[:] = sys.argv[1:]; from dreamlift.batch.workers.worker import main; main()"
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
KILL_FIRST = 700  # of the kernel when memory is exhausted: -1000 (never) to 1000 (first)
BEGIN = "\n--- "  # in a log: an asset's folder and when it was begun follow
Job = dict[str, Any]


def main() -> None:
    """Make the assets of standard input's jobs."""
    asked = Asked()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
    setup, jobs, say = connected()

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
        print(f"{BEGIN}{os.path.basename(job['folder'])} {time.strftime('%F %T')}", file=sys.stderr, flush=True)
        say({"end": job["id"], **asked.answered(lambda job=job: make_asset(job, pool, say))})


class Asked:
    """The handler of signals while no run has its own: before, between and around runs.

    A signal that comes while nothing is made stops the next job, since its job may be on the way already.
    """

    def __init__(self) -> None:
        self.busy = self.requested = False

    def __call__(self, number: int, frame: Any) -> None:
        self.requested = True
        if self.busy:
            self.busy = False  # one interruption is enough, and a second one would meet its handling
            raise KeyboardInterrupt

    def answered(self, make: Callable[[], Job]) -> Job:
        """What ``make`` returns, or that a signal stopped it."""
        try:
            self.busy = True
            found = {"outcome": "stopped"} if self.requested else make()
            self.busy = False
        except KeyboardInterrupt:
            found = {"outcome": "stopped"}
        self.requested = False
        return found


def connected() -> tuple[Job, queue.Queue[Job], Callable[[Job], None]]:
    """The first line of standard input; the queue of the jobs that follow; and what gives an answer to the coordinator.

    Standard output is for answers alone: what libraries print goes to standard error, which is the worker's log.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    _end_with_parent()
    setup = json.loads(sys.stdin.readline() or "{}")
    jobs: queue.Queue[Job] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    lock = threading.Lock()

    def say(told: Job) -> None:
        with lock:
            answers.write(json.dumps(told) + "\n")
            answers.flush()

    return setup, jobs, say


def _read_jobs(jobs: queue.Queue[Job]) -> None:
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
