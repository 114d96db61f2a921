"""A headless Chromium driven by its DevTools protocol, over the package websockets; no driver program is needed."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--force-device-scale-factor=1", "--remote-debugging-port=0", "--remote-allow-origins=*",
)  # fmt: skip
KEYS = {"Tab": 9, "Enter": 13, "Space": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: the page is not tried in a browser")
    return found


class Browser:
    """A browser with an empty profile."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        profile = folder / "profile"
        command = [browser(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": str(folder)}
        )
        port = profile / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not (port.is_file() and port.read_text().count("\n")):
            assert time.monotonic() < until, "the browser does not start"
            time.sleep(0.05)
        self.address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}"

    def page(self, address: str, width: int, height: int) -> Page:
        request = urllib.request.Request(f"{self.address}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=20) as answer:
            socket = json.load(answer)["webSocketDebuggerUrl"]
        return Page(socket, address, width, height)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


class Page:
    """A tab. ``troubles``: errors of the console, of scripts and of the network."""

    def __init__(self, socket: str, address: str, width: int, height: int) -> None:
        from websockets.sync.client import connect

        self.socket = connect(socket, max_size=64 << 20, ping_interval=None)
        self.numbers, self.troubles = itertools.count(1), []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def call(self, method: str, **parameters):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._heard(answer["method"], answer["params"])

    def _heard(self, method, told) -> None:
        if method == "Runtime.exceptionThrown":
            self.troubles.append(told["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.troubles.append(str([each.get("value") for each in told["args"]]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            # But for what the browser's own software renderer says of itself.
            self.troubles += [text for text in [told["entry"]["text"]] if "GL Driver Message" not in text]

    def value(self, script: str):
        """What a script says; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 60.0):
        """Wait until a script's value is true; returns it."""
        end = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < end, f"not within {seconds} s: {script}; {self.troubles}"
            time.sleep(0.05)
        return found

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def press(self, key: str, times: int = 1) -> None:
        code = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"Enter": {"text": "\r"}, "Space": {"text": " "}}.get(key, {})
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def tab_to(self, selector: str, most: int = 60) -> None:
        """Move the focus with the tabulator until it is on an element."""
        for _ in range(most):
            if self.value(f"document.activeElement?.matches({selector!r}) ?? false"):
                return
            self.press("Tab")
        where = self.value("document.activeElement.outerHTML")
        raise AssertionError(f"{selector} is not reached by {most} tabulators, which end on {where}")

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path | None = None) -> bytes:
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def close(self) -> None:
        self.call("Page.close")
        self.socket.close()
