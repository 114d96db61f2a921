"""A command of benchmarks/kills.py: a studio with one visitor, who starts or continues a run and leaves when it has ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import threading
import time
import traceback
from pathlib import Path
from typing import Any

VERB = "a-studio"  # first word of the command; then the folder of the runs, and the studio's settings
RUNS = "a-red-mug-*"  # the folder of the only run; the studio names it, with the time of its start


def run_studio(words: list[str]) -> int:
    """The studio in this process until its visitor ends the process, with code 0 where the run has finished."""
    from dreamlift.cli import main

    root, settings = Path(words[1]), words[2:]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    threading.Thread(target=_leave_after, args=(port, root), daemon=True).start()
    return main(["studio", "--out", str(root), "--port", str(port), *settings])


def _leave_after(port: int, root: Path) -> None:
    """The visit, and then the end of the process."""
    code = 97
    try:
        _visit(port, root)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _visit(port: int, root: Path) -> None:
    while True:
        with contextlib.suppress(OSError):
            _ask(port, "/api/runs")
            break
        time.sleep(0.02)
    begun = next((run for run in root.glob(RUNS) if (run / "run.json").exists()), None)
    if begun is not None:
        number = _ask(port, "/api/resume", {"run": begun.name})
    else:
        for run in root.glob(RUNS):
            shutil.rmtree(run)  # nothing is in it but its settings; there shall be one run
        number = _ask(port, "/api/start", {"prompt": "a red mug", "seed": 0})
    assert number
    while (status := _status(root)) != "finished":
        assert status != "failed", "the run has failed"
        time.sleep(0.05)


def _status(root: Path) -> str:
    """What the only run says of itself; "": there is none yet."""
    for run in root.glob(RUNS):
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads((run / "run.json").read_text(encoding="utf-8"))["status"])
    return ""


def _ask(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    """The answer of the studio. Raises OSError where it refuses or is not there yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        found = answer.read()
        if answer.status != 200:
            raise OSError(f"{path}: {answer.status} {found!r}")
        return json.loads(found)
    finally:
        connection.close()
