"""The studio under 50 visitors and a hostile client, in numbers.

    python benchmarks/studio_load.py [--visitors 50] [--requests 10000] [--steps 300]

Starts ``dreamlift studio``, makes one asset with nobody looking (steps a second), then again with visitors who each turn the
object, and while they look sends floods, huge uploads, paths that climb, foreign origins and hosts, connections that say
nothing, and live connections that talk nonsense. Prints the run's speed, pictures a second, the answers to the hostile client,
and the memory of the server and of the run's process. Ends with 1 if somebody got in, or the run did not finish.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

CLIMBING = (
    "/runs/../../etc/passwd", "/runs/..%2f..%2fetc%2fpasswd", "/runs/%2e%2e/%2e%2e/etc/passwd", "/runs/%2fetc/passwd",
    "/runs/..%5c..%5cwindows/win.ini", "/%2e%2e/%2e%2e/etc/passwd", "/runs/{run}/..%2f..%2f..%2fetc%2fpasswd",
    "/runs/{run}/checkpoints%2fstep-000050%2fstate.json", "/runs/{run}/.lock", "/api/runs/..%2f..",
    "/runs/{run}/asset.glb%00.png",
)  # fmt: skip


class Load:
    """A studio, and what is done to it."""

    def __init__(self, root: Path, steps: int) -> None:
        words = [f"--stages.0.steps={steps // 2}", f"--stages.1.steps={steps // 2}"]
        command = [sys.executable, "-m", "dreamlift.cli", "studio", "--port", "0", "--out", str(root), *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}, text=True)
        assert self.process.stdout is not None
        found = re.search(r":(\d+)/", self.process.stdout.readline())
        assert found is not None
        self.port, self.frames, self.refusals = int(found[1]), collections.Counter(), collections.Counter()
        self.inside: list[str] = []
        self.over = threading.Event()

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 60, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            given = {"host": f"127.0.0.1:{self.port}", **{name.replace("_", "-"): value for name, value in headers.items()}}
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, path: str, body: Any) -> dict[str, Any]:
        own = {"origin": f"http://127.0.0.1:{self.port}", "content_type": "application/json"}
        status, found = self.ask("POST", path, json.dumps(body), **own)
        assert status == 200, found
        return json.loads(found)

    def visitor(self, number: int) -> None:
        """A page, until the end: it asks for the next picture when one has come."""
        from websockets.exceptions import WebSocketException

        with contextlib.suppress(WebSocketException, OSError):
            self._visit(number)

    def _visit(self, number: int) -> None:
        from websockets.sync.client import connect

        headers = {"Origin": f"http://127.0.0.1:{self.port}"}
        with connect(
            f"ws://127.0.0.1:{self.port}/api/live", additional_headers=headers, max_size=1 << 24, open_timeout=120
        ) as live:
            azimuth, waiting = 0.1 * number, False
            while not self.over.is_set():
                if not waiting:
                    live.send(json.dumps({"type": "look", "azimuth": azimuth, "elevation": 0.2, "distance": 3.0}))
                    waiting = True
                with contextlib.suppress(TimeoutError):
                    found = live.recv(timeout=0.5)
                    if isinstance(found, bytes):
                        self.frames[number] += 1
                        azimuth, waiting = azimuth + 0.05, False
                    elif json.loads(found)["type"] == "run":
                        waiting = False

    def hostile(self, requests: int, run: str) -> None:
        """Requests that must all be refused, or answered without effect."""
        own = f"http://127.0.0.1:{self.port}"
        for number in range(requests):
            kind = number % 6
            if kind == 0:
                self._try("a path that climbs", "GET", CLIMBING[number // 6 % len(CLIMBING)].format(run=run))
            elif kind == 1:
                self._try("a foreign origin", "POST", "/api/start", b'{"prompt": "a mug"}', origin="http://evil.example",
                          content_type="application/json")  # fmt: skip
            elif kind == 2:
                self._try("a foreign host", "GET", "/", host=f"evil.example:{self.port}")
            elif kind == 3:
                self._try("no picture", "POST", "/api/pictures", os.urandom(20_000), origin=own)
            elif kind == 4:
                self._try("no order", "POST", "/api/start", b"[" * 9000, origin=own, content_type="application/json")
            else:
                self._try("another site's page", "GET", "/api/runs", sec_fetch_site="cross-site")

    def uploads(self, count: int) -> None:
        """Bodies of a gigabyte: with their length, and without one."""
        own = {"origin": f"http://127.0.0.1:{self.port}"}
        for number in range(count):
            if number % 2:
                self._try("1 GB upload", "POST", "/api/pictures", None, content_length=str(1 << 30), **own)
                continue
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 60) as flood:
                flood.sendall((f"POST /api/pictures HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nOrigin: {own['origin']}\r\n"
                               "Transfer-Encoding: chunked\r\n\r\n").encode())  # fmt: skip
                for _ in range(1024):
                    flood.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
            self.refusals["1 GB in chunks: cut off"] += 1

    def silent(self, count: int, seconds: float) -> None:
        """Connections that are opened and say nothing."""
        held = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", self.port), 10))
        time.sleep(seconds)
        cut = 0
        for each in held:
            each.settimeout(0.1)
            with contextlib.suppress(OSError):
                cut += each.recv(1) == b""
            each.close()
        self.refusals["a silent connection: cut off"] += cut

    def nonsense(self, count: int) -> None:
        """Live connections from elsewhere, and some that talk nonsense."""
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        address = f"ws://127.0.0.1:{self.port}/api/live"
        for number in range(count):
            origin = "http://evil.example" if number % 2 else f"http://127.0.0.1:{self.port}"
            try:
                with connect(address, additional_headers={"Origin": origin}, open_timeout=120) as live:
                    if number % 2:
                        self.inside.append("a live connection of a foreign origin")
                    for _ in range(2000):
                        live.send('{"type": "look", "azimuth": 0, "elevation": 0, "distance": 3}')
                    live.recv(timeout=10)
                    while True:
                        live.recv(timeout=10)
            except (WebSocketException, OSError, TimeoutError):
                self.refusals["a live connection: refused or cut off"] += 1

    def _try(self, what: str, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        try:
            status, found = self.ask(method, path, body, **headers)
        except (OSError, http.client.HTTPException) as error:
            self.refusals[f"{what}: {type(error).__name__}"] += 1
            return
        self.refusals[f"{what}: {status}"] += 1
        if status < 400 or b"root:" in found:
            self.inside.append(f"{method} {path}: {status}")

    def memory(self, what: str) -> float:
        """MB that the server, or the run's process, has now."""
        pid = self.process.pid
        if what == "run":
            children = [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(name) == pid]
            pid = max(children, default=0)
        with contextlib.suppress(OSError):
            found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            return int(found[1]) / 1e3 if found else 0.0
        return 0.0

    def run(self, prompt: str, seed: int, beside: Any = lambda name: None) -> tuple[str, float, dict[str, list[float]]]:
        """Make an asset; returns how it ended, steps a second, and the memory every second."""
        number = self.post("/api/start", {"prompt": prompt, "seed": seed})["number"]
        memory: dict[str, list[float]] = {"server": [], "run": []}
        from websockets.sync.client import connect

        headers = {"Origin": f"http://127.0.0.1:{self.port}"}
        first = last = asked = None
        with connect(
            f"ws://127.0.0.1:{self.port}/api/live", additional_headers=headers, max_size=1 << 24, open_timeout=120
        ) as live:
            while True:
                for what, values in memory.items():
                    values.append(self.memory(what))
                until = time.monotonic() + 1
                while (left := until - time.monotonic()) > 0:
                    with contextlib.suppress(TimeoutError):
                        found = live.recv(timeout=left)
                        message = json.loads(found) if isinstance(found, str) else {}
                        if message.get("type") == "steps":
                            last = (time.monotonic(), message["index"])
                            first = first or last
                        run = message.get("run") or {}
                        if run.get("number") == number and run.get("name") and run["status"] == "running" and not asked:
                            asked = threading.Thread(target=beside, args=(run["name"],))
                            asked.start()
                        if run.get("number") == number and run.get("status") in ("finished", "failed", "stopped"):
                            speed = (last[1] - first[1]) / max(last[0] - first[0], 1e-9) if first and last else 0.0
                            if asked:
                                asked.join()
                            return run["status"], speed, memory


def _parent(pid: str) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        load = Load(Path(folder) / "outputs", options.steps)
        try:
            return measure(load, options.visitors, options.requests)
        finally:
            load.over.set()
            load.process.terminate()
            load.process.wait(120)


def measure(load: Load, visitors: int, requests: int) -> int:
    while not json.loads(load.ask("GET", "/api/runs")[1])["runs"] and load.memory("run") < 300:
        time.sleep(0.5)
    status, alone, before = load.run("a red mug", 0)
    print(
        f"alone: {status}, {alone:.2f} steps/s; server {max(before['server']):.0f} MB, run {max(before['run']):.0f} MB at most"
    )
    crowd = [threading.Thread(target=load.visitor, args=(number,), daemon=True) for number in range(visitors)]
    took: list[float] = []

    def beside(name: str) -> None:
        for each in crowd:
            each.start()
        time.sleep(5)
        begun = time.monotonic()
        attacks = [
            *(threading.Thread(target=load.hostile, args=(requests // 4, name)) for _ in range(4)),
            threading.Thread(target=load.uploads, args=(6,)), threading.Thread(target=load.silent, args=(150, 20)),
            threading.Thread(target=load.nonsense, args=(20,)),
        ]  # fmt: skip
        for each in attacks:
            each.start()
        for each in attacks:
            each.join()
        took.append(time.monotonic() - begun)

    status, crowded, after = load.run("a red mug", 0, beside)
    load.over.set()
    frames = [load.frames[number] for number in range(visitors)]
    print(f"{visitors} visitors and the hostile client: {status}, {crowded:.2f} steps/s ({crowded / max(alone, 1e-9):.0%})")
    print(f"pictures: {sum(frames)} in all; a visitor {min(frames)} to {max(frames)}, median {statistics.median(frames):g}")
    print(f"hostile client: {sum(load.refusals.values())} tries in {took[0] if took else 0:.0f} s")
    for what, count in sorted(load.refusals.items()):
        print(f"  {count:6d}  {what}")
    server = (before["server"][-1], max(after["server"]), load.memory("server"))
    print("server's memory: {:.0f} MB before, {:.0f} MB at most, {:.0f} MB after".format(*server))
    print(f"the run's memory: {max(before['run']):.0f} MB at most alone, {max(after['run']):.0f} MB at most with visitors")
    runs = json.loads(load.ask("GET", "/api/runs")[1])["runs"]
    files = [load.ask("GET", f"/runs/{run['name']}/asset.glb")[1] for run in runs]
    print(f"the two assets: {'the same bytes' if len(set(files)) == 1 else 'DIFFERENT'} ({len(files[0])} bytes)")
    print(f"got in: {load.inside[:5] if load.inside else 'nobody'}")
    return int(bool(load.inside) or status != "finished" or len(set(files)) != 1 or len(runs) != 2)


if __name__ == "__main__":
    sys.exit(main())
