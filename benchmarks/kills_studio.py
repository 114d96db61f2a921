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
RUN = "a-red-mug"  # the folder of the only run


def run_studio(words: list[str]) -> int:
    """The studio in this process until its visitor ends the process, with code 0 where the run has finished."""
    from dreamlift.cli import main

    root, settings = Path(words[1]), words[2:]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    threading.Thread(target=_leave_after, args=(port, root / RUN), daemon=True).start()
    return main(["studio", "--out", str(root), "--port", str(port), *settings])


def _leave_after(port: int, run: Path) -> None:
    """The visit, and then the end of the process."""
    code = 97
    try:
        _visit(port, run)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _visit(port: int, run: Path) -> None:
    while True:
        with contextlib.suppress(OSError):
            _ask(port, "/api/runs")
            break
        time.sleep(0.02)
    if (run / "run.json").exists():
        number = _ask(port, "/api/resume", {"run": run.name})
    else:
        shutil.rmtree(run, ignore_errors=True)  # nothing is in it but its settings; a second run would get another name
        number = _ask(port, "/api/start", {"prompt": "a red mug", "seed": 0})
    assert number
    while _status(run) != "finished":
        with contextlib.suppress(FileNotFoundError):
            assert _status(run) != "failed", "the run has failed"
        time.sleep(0.05)


def _status(run: Path) -> str:
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
