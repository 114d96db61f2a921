"""A studio without a run's process, whose part the test takes; a whole one as its own process; and its visitors."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

for package in ("starlette", "uvicorn", "websockets"):
    pytest.importorskip(package, reason=f"{package} is not installed (the extra studio)")

from dreamlift.studio.app import Studio, make_app  # noqa: E402
from dreamlift.studio.folder import Runs  # noqa: E402
from dreamlift.studio.hub import Hub  # noqa: E402
from dreamlift.studio.serve import Place, listen, make_server  # noqa: E402

STATUS = {"schema": 1, "prompt": "a red mug", "config_hash": "c0ffee", "status": "finished", "seed": 3, "seconds": 31.0,
          "metrics": {"faces": 998, "roundtrip_psnr": 33.0}}  # fmt: skip
OFFERS = [{"name": "toybox", "needs": "words", "purpose": "the default", "steps": 3},
          {"name": "zero123-toy", "needs": "picture", "purpose": "a photo", "steps": 3}]  # fmt: skip


class Fake:
    """The server in a thread of the test. ``sent``: what it has told the run's process."""

    def __init__(self, root: Path, place: Place, only: str = "") -> None:
        self.runs, self.told, self.sent = Runs(root, only), [], []
        self.hub = Hub(self.runs, watch=bool(only))
        self.hub.presets, self.hub.send = OFFERS, self.sent.append
        sock = listen(place)
        self.port = sock.getsockname()[1]

        async def nothing() -> None: ...

        self.server = make_server(
            lambda keys: make_app(Studio(self.hub, self.runs, keys), nothing, nothing), sock, place, self.told.append
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [sock]}, daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)

    @property
    def token(self) -> str:
        """Of the printed address."""
        return self.told[0].partition("#token=")[2]

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str):
        return ask(self.port, method, path, body, **headers)

    def post(self, path: str, body, **headers: str):
        return post(self.port, path, body, **headers)

    def hear(self, message, data: bytes = b"") -> None:
        """What the run's process would say; in the server's loop."""
        done = threading.Event()

        def call() -> None:
            self.hub.heard(message, data)
            done.set()

        loop = next(iter(self.server.servers)).get_loop()
        loop.call_soon_threadsafe(call)
        assert done.wait(10)


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str):
    """Status, headers and body of an answer; ``host_`` replaces the header Host, other names get dashes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        host = headers.pop("host_", f"127.0.0.1:{port}")
        connection.putrequest(method, path, skip_host=True)
        if host:
            connection.putheader("Host", host)
        if body is not None and "content_length" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def post(port: int, path: str, body, **headers: str):
    """Status and the JSON of an answer to the page's own request."""
    data, kind = (
        (body, "application/octet-stream") if isinstance(body, bytes) else (json.dumps(body).encode(), "application/json")
    )
    given = {"origin": f"http://127.0.0.1:{port}", "content_type": kind, **headers}
    status, _, found = ask(port, "POST", path, data, **given)
    return status, json.loads(found) if found.startswith(b"{") else found.decode()


class Visitor:
    """A page's live connection."""

    def __init__(self, port: int, token: str = "", **headers: str) -> None:
        from websockets.sync.client import connect

        given = {"Origin": f"http://127.0.0.1:{port}", **headers}
        names = ["dreamlift", token] if token else None
        self.socket = connect(
            f"ws://127.0.0.1:{port}/api/live", additional_headers=given, max_size=16 << 20, open_timeout=60, ping_interval=None,
            subprotocols=names,
        )  # fmt: skip

    def tell(self, message) -> None:
        self.socket.send(message if isinstance(message, str) else json.dumps(message))

    def look(self, azimuth=0.0, elevation=0.2, distance=3.0, **more) -> None:
        self.tell({"type": "look", "azimuth": azimuth, "elevation": elevation, "distance": distance, **more})

    def hear(self, kind: str = "", seconds: float = 60.0):
        """The next message (of a kind), with what follows it."""
        end = time.monotonic() + seconds
        while True:
            found = self.socket.recv(timeout=max(end - time.monotonic(), 0.01))
            if isinstance(found, str):
                message, data = json.loads(found), b""
            else:
                size = int.from_bytes(found[:4], "big")
                message, data = json.loads(found[8 : 8 + size]), found[8 + size :]
            if kind in ("", message["type"]):
                return message, data

    def close(self) -> None:
        self.socket.close()


class Process:
    """``dreamlift studio`` as a process of its own. ``port``: that it has printed."""

    def __init__(self, root: Path, *words: str) -> None:
        command = [sys.executable, "-m", "dreamlift.cli", "studio", "--port", "0", "--out", str(root), *words]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, text=True
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        self.root = root
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"studio: http://127\.0\.0\.1:(\d+)/", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError("".join(self.lines))

    def signal(self, number: int) -> str:
        """Send a signal, wait for the end, and return what was printed after the address."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=120)
        return out

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=60)
        self.process.kill()
        self.process.wait()


def until(true, seconds: float = 60.0):
    """Wait until a call says something; returns it."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def png(side=32):
    """The bytes of a red picture."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(out, "PNG")
    return out.getvalue()


def make_run(root, name="a-red-mug-20260101-000000", **changes):
    """The folder of a finished run as the studio lists it, with files that it does not serve."""
    folder = root / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(STATUS | changes))
    files = (
        ("asset.glb", b"glTF" * 50_000), ("preview.png", b"png"), ("config.yaml", b"steps: 3\n"), (".lock", b"{}"),
        ("events.jsonl", b"{}\n"), ("notes.txt", b"mine"), ("checkpoints/state.json", b"{}"),
    )  # fmt: skip
    for file, data in files:
        (folder / file).write_bytes(data)
    lines = [json.dumps({"step": step, "loss": 1.0 / (step + 1), "t": 0.5}) for step in range(2000)]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder
