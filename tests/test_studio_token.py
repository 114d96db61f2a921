"""The token of a studio that others may reach: who has it, who does not get it, and tickets for what a browser fetches."""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from browser_helpers import Browser, browser
from lift_helpers import refused
from studio_helpers import Fake, Visitor, make_run, png
from websockets.exceptions import InvalidStatus

from dreamlift.studio.guard import PAGE, TICKET_SECONDS, Keys
from dreamlift.studio.serve import Place, figures_of, listen

RUN = "a-red-mug-20260101-000000"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("studio") / "outputs"
    (make_run(root) / "preview.png").write_bytes(png())
    make_run(root, "other")
    return root


@pytest.fixture(scope="module")
def outside(root):
    """One that other machines could reach."""
    fake = Fake(root, Place("0.0.0.0", 0))
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def own(root):
    """One on this machine, where other people have accounts."""
    fake = Fake(root, Place(port=0, token=True))
    yield fake
    fake.close()


def bearer(studio):
    return {"authorization": f"Bearer {studio.token}"}


def test_other_machines_need_the_token(outside):
    address, *figures, warning = outside.told
    token = address.partition("/#token=")[2]
    assert address.startswith(f"studio: http://{socket.gethostname().lower()}:{outside.port}/#")
    for line in figures:  # where this machine has an address on a network
        own = line.removeprefix("or: http://").removesuffix(f":{outside.port}/#token={token}")
        assert not ipaddress.ip_address(own).is_unspecified
        assert outside.ask("GET", "/", host_=f"{own}:{outside.port}")[0] == 200
    assert len(token) >= 22  # 128 bits
    assert "nothing is encrypted" in warning
    for path in ("/api/runs", f"/api/runs/{RUN}", f"/runs/{RUN}/asset.glb", f"/runs/{RUN}/view", "/runs", "/none"):
        assert outside.ask("GET", path)[0] == 401
        assert outside.ask("GET", f"{path}?token={token}")[0] == 401  # an address is no place for it
        assert outside.ask("GET", path, cookie=f"token={token}; dreamlift-{outside.port}={token}")[0] == 401
        assert outside.ask("GET", path, authorization=f"Bearer {token[:-1]}")[0] == 401
    assert outside.post("/api/start", {"prompt": "a mug"})[0] == 401
    assert outside.ask("GET", "/api/runs", authorization=f"Bearer {token}")[0] == 200
    assert outside.ask("GET", "/api/runs", authorization=f"Bearer {token}", host_=f"evil.example:{outside.port}")[0] == 421
    own = f"192.168.7.7:{outside.port}"  # an address is no name to redirect
    assert outside.ask("GET", "/api/runs", authorization=f"Bearer {token}", host_=own)[0] == 200


def test_the_address_in_figures_is_the_one_that_leads_elsewhere():
    with listen(Place("127.0.0.1", 0)) as sock:
        assert figures_of(sock) == "127.0.0.1"
    with listen(Place("0.0.0.0", 0)) as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            assert figures_of(sock) == ""
        else:
            assert figures_of(sock) == probe.getsockname()[0]


def test_a_further_name_is_answered_with_the_token(root):
    """As behind a proxy with TLS: its name, its port or none, and the origin https."""
    fake = Fake(root, Place(port=0, names=("Machine.example.org", "10.0.0.7", "fd00::7")))
    try:
        assert fake.told[0].startswith(f"studio: http://127.0.0.1:{fake.port}/#token=")
        for host, expected in (
            ("machine.example.org", 200), ("MACHINE.example.org:8443", 200), ("10.0.0.7:80", 200), ("[fd00::7]", 200),
            ("other.example.org", 421), ("machine.example.org.evil.example", 421), ("10.0.0.8", 421),
        ):  # fmt: skip
            assert fake.ask("GET", "/api/runs", host_=host)[0] == (401 if expected == 200 else 421)
            assert fake.ask("GET", "/api/runs", host_=host, **bearer(fake))[0] == expected
        own = {"host_": "machine.example.org", **bearer(fake)}
        assert fake.post("/api/stop", {"number": 9}, **own, origin="https://machine.example.org")[0] == 404
        assert fake.post("/api/stop", {"number": 9}, **own, origin="https://other.example.org")[0] == 403
    finally:
        fake.close()


@pytest.mark.parametrize("name", ["https://machine.example.org", "machine.example.org:8443", "*", "", "a b", "machine/x", "ä"])
def test_a_further_name_is_a_name_alone(name):
    with pytest.raises(ValueError, match=r"--allow-host is .*; accepted: a name without http:// and port: machine"):
        listen(Place(port=0, names=("box", name)))


def test_the_command_takes_further_names(cwd, capsys):
    words = ["studio", "--port", "0", "--allow-host", "machine.example.org", "--allow-host", "machine:80"]
    refused(capsys, cwd, words, "--allow-host is 'machine:80'; accepted: a name without http:// and port")


def test_the_pages_own_files_tell_nothing_and_need_no_token(outside):
    for path in PAGE:
        status, headers, body = outside.ask("GET", path)
        assert (status, "set-cookie" in headers) == (200, False)
        assert outside.token.encode() not in body
        assert b"red mug" not in body.replace(b'placeholder="a red mug"', b"")
        assert outside.post(path, {})[0] == 401


def test_the_live_connection_is_given_the_token_as_a_subprotocol(outside):
    for token in ("", outside.token[:-1]):
        with pytest.raises(InvalidStatus):
            Visitor(outside.port, token)
    visitor = Visitor(outside.port, outside.token)
    assert visitor.socket.subprotocol == "dreamlift"  # without this answer a browser ends the connection
    visitor.close()
    Visitor(outside.port, Authorization=f"Bearer {outside.token}").close()


def test_a_ticket_opens_the_files_of_one_run(own):
    (other, run) = sorted(json.loads(own.ask("GET", "/api/runs", **bearer(own))[2])["runs"], key=lambda run: run["name"] == RUN)
    ticket = run["ticket"]
    for path in (f"/runs/{RUN}/asset.glb", f"/runs/{RUN}/preview.png", f"/runs/{RUN}/view"):
        assert own.ask("GET", f"{path}?ticket={ticket}")[0] == 200
        for wrong in (other["ticket"], ticket[:-1], f"9{ticket}", "", "-", "%D9%A1-a", "x", f"{ticket}&ticket=x"):
            expected = 200 if wrong.startswith(ticket) else 401
            assert own.ask("GET", f"{path}?ticket={wrong}")[0] == expected
    for path in ("/api/runs", f"/api/runs/{RUN}", f"/runs/{RUN}", f"/runs/{RUN}/x/y", f"/runs/other%2f..%2f{RUN}/asset.glb"):
        assert own.ask("GET", f"{path}?ticket={ticket}")[0] == 401
    assert own.post(f"/runs/{RUN}/asset.glb?ticket={ticket}", {})[0] == 401


def test_a_ticket_ends(monkeypatch):
    keys, now = Keys("a token"), [1000.0]
    monkeypatch.setattr("dreamlift.studio.guard.time.monotonic", lambda: now[0])
    ticket = keys.ticket("mug")
    assert keys.fits(ticket, "mug")
    assert not keys.fits(ticket, "mu")
    assert not Keys("a token").fits(ticket, "mug")  # of another start
    assert not keys.fits(f"{int(ticket.partition('-')[0]) + 1}-{ticket.partition('-')[2]}", "mug")
    now[0] += TICKET_SECONDS - 1
    assert keys.fits(ticket, "mug")
    now[0] += 2
    assert not keys.fits(ticket, "mug")
    assert Keys().ticket("mug") == ""


class Stranger(BaseHTTPRequestHandler):
    """Another account's server on the same machine."""

    heard: list[str]

    def do_GET(self):
        self.heard.append(f"{self.requestline} {self.headers}")
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>stranger</title>")

    def log_message(self, *_): ...


@pytest.fixture
def stranger():
    Stranger.heard = []
    server = HTTPServer(("127.0.0.1", 0), Stranger)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_browser_shows_everything_and_tells_another_accounts_server_nothing(own, stranger, tmp_path):
    browser()
    chromium = Browser(tmp_path / "home")
    try:
        page = chromium.page(own.told[0].removeprefix("studio: "), 1280, 860)
        page.until(f"document.querySelector('#runs [data-run=\"{RUN}\"] img')?.naturalWidth > 0")
        assert page.value("location.href") == f"http://127.0.0.1:{own.port}/"
        page.value(f"document.querySelector('#runs button[data-run=\"{RUN}\"]').click()")
        page.until("document.querySelector('#files a.first') !== null")
        size = "fetch(document.querySelector('#files a.first').href).then((got) => got.blob()).then((got) => got.size)"
        assert page.value(size) == 200_000
        assert page.value("fetch(document.getElementById('asset').src).then((got) => got.status)") == 200
        page.value("fetch('/api/stop', {method: 'POST'}).then((got) => got.status)")
        assert page.value("fetch('/api/runs').then((got) => got.status)") == 401  # without the header
        page.call("Page.reload")
        time.sleep(0.2)
        page.until("document.getElementById('status')?.textContent === 'Ready'")
        page.call("Page.navigate", url=f"http://127.0.0.1:{stranger.server_port}/")
        page.until("document.title === 'stranger'")
        assert Stranger.heard
        assert not any(own.token in heard or "cookie" in heard.lower() for heard in Stranger.heard)
        assert page.value("sessionStorage.length + document.cookie.length") == 0
        page.close()
        page = chromium.page(f"http://127.0.0.1:{own.port}/", 1280, 860)  # a new tab without the token
        page.until("document.getElementById('status').textContent.startsWith('Open the whole address')")
        page.value(f"location.hash = 'token={own.token}'")
        page.until("document.getElementById('status')?.textContent === 'Ready'")
        page.close()
    finally:
        chromium.close()
