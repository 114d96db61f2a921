"""Who may talk to the studio: its own page, and nobody else.

A page of another site that the visitor has open can send requests to this machine too. So every request, the live connection's
included, must name a known Host (against DNS rebinding), must not come from another Origin, and where others may reach the
server it must carry the token of this start. Of the Host only the name counts, since a tunnel or a container has a port of its
own; the Origin must be the Host with its port, and a page can set neither of them. No answer may be framed, cached or sniffed,
and the page may load nothing from elsewhere.

The token is in no cookie: a browser sends the cookies of a machine to all of its ports, so that another account's server there
would get it. It is in the part of the printed address that no browser sends; the page keeps it for its own origin, whose port
counts, and sends it as a header, or as a subprotocol of the live connection. What a browser fetches by itself (pictures, frames
and downloads) has a ticket in its address, which opens the files of one run for some hours.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
METHODS = ("GET", "HEAD", "POST")
LONGEST = 2000  # characters of a path with its query
# The page's own files: the same for everyone, so that they need no token. Nothing in them tells of a run.
PAGE = {"/": "studio.html", "/studio.css": "studio.css", "/studio.js": "studio.js", "/server.js": "server.js",
        "/plot.js": "plot.js", "/icon.svg": "icon.svg"}  # fmt: skip
SUBPROTOCOL = "dreamlift"  # of the live connection; the token may be named beside it
TICKET_SECONDS = 8 * 3600
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self' ws://{host} wss://{host}; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin", "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether an address or name to listen on is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def known_hosts(host: str, names: Iterable[str] = ()) -> frozenset[str]:
    """The names in the header Host, without a port, that a server which listens on ``host`` answers to.

    It answers to the loopback names, to ``host``, to this machine's name, and to ``names``.
    """
    return frozenset(map(in_address, (*LOOPBACK, host, socket.gethostname(), *names)))


def in_address(host: str) -> str:
    """A name or an address in figures as browsers write it in front of the port."""
    return f"[{host.lower()}]" if ":" in host and not host.startswith("[") else host.lower()


class Keys:
    """What opens the studio: the token of this start ("": none is needed), and tickets for the files of one run."""

    def __init__(self, token: str = "") -> None:
        self.token = token
        self.secret = secrets.token_bytes(32)
        self.digest = hashlib.sha256(token.encode()).digest()

    def is_token(self, given: str) -> bool:
        return secrets.compare_digest(hashlib.sha256(given.encode("utf-8", "replace")).digest(), self.digest)

    def ticket(self, run: str) -> str:
        """What opens the files of a run for :data:`TICKET_SECONDS`; "" where no token is needed."""
        return self._signed(int(time.monotonic()) + TICKET_SECONDS, run) if self.token else ""

    def fits(self, ticket: str, run: str) -> bool:
        """Whether a ticket opens the files of a run now."""
        until = ticket.partition("-")[0]
        if not (until.isascii() and until.isdecimal() and len(until) < 20) or int(until) < time.monotonic():
            return False
        return secrets.compare_digest(self._signed(int(until), run).encode(), ticket.encode("utf-8", "replace"))

    def _signed(self, until: int, run: str) -> str:
        mac = hmac.new(self.secret, f"{until}/{run}".encode("utf-8", "surrogatepass"), hashlib.sha256)
        return f"{until}-{mac.hexdigest()}"


class Guard:
    """Passes on the requests of the studio's own page.

    Args:
        hosts: of :func:`known_hosts`.
        any_address: whether every address in figures, which no name server can redirect, is accepted as Host too.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], any_address: bool, keys: Keys) -> None:
        self.app, self.hosts, self.any_address, self.keys = app, hosts, any_address, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if refused := self._refused(scope, headers):
            await self._refuse(scope, receive, send, *refused)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        await self.app(scope, receive, _with_headers(send, headers["host"]))

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Why a request is refused; None: it is not."""
        live = scope["type"] == "websocket"
        raw = scope.get("raw_path") or scope["path"].encode()
        if len(raw) + len(scope.get("query_string", b"")) > LONGEST:
            return 414, "the address is too long"
        if not live and scope["method"] not in METHODS:
            return 405, "accepted: GET, HEAD, POST"
        if sum(name == b"host" for name, _ in scope["headers"]) != 1 or not self._knows(headers.get("host", "")):
            return 421, (
                f"no answer to the name {headers.get('host', '')[:60]!r} (any port will do): open an address that the studio "
                "has printed, or start it with --allow-host NAME"
            )
        own = {f"{scheme}://{headers['host'].lower()}" for scheme in ("http", "https")}
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in own:
            return 403, "requests of other sites are refused"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not _opens_page(scope, headers):
            return 403, "requests of other sites are refused"
        if origin is None and (live or scope["method"] == "POST"):
            return 403, "the request does not say where it comes from (Origin)"
        if self.keys.token and not (self._has_token(headers) or (not live and self._is_open(scope))):
            return 401, "open the whole address that the server has printed, with its token"
        return None

    def _knows(self, host: str) -> bool:
        name, _, port = host.lower().rpartition(":") if not host.endswith("]") and ":" in host else (host.lower(), "", "80")
        if not (port.isascii() and port.isdecimal() and len(port) <= 5):
            return False
        if name in self.hosts:
            return True
        if not self.any_address:
            return False
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _has_token(self, headers: dict[str, str]) -> bool:
        kind, _, value = headers.get("authorization", "").partition(" ")
        named = headers.get("sec-websocket-protocol", "").split(",")  # a page can give a live connection no other header
        return any(map(self.keys.is_token, [value.strip()] * (kind.lower() == "bearer") + [each.strip() for each in named[:4]]))

    def _is_open(self, scope: Scope) -> bool:
        """Whether a request needs no token: for the page's own files, or for a file of a run with a ticket."""
        if scope["method"] not in ("GET", "HEAD"):
            return False
        parts = scope["path"].split("/")
        if len(parts) == 4 and parts[1] == "runs":
            given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("ticket", [""])[0]
            return self.keys.fits(given, parts[2])
        return scope["path"] in PAGE

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": text})
            return
        await PlainTextResponse(f"{text}\n", status, {**HEADERS, "connection": "close"})(scope, receive, send)


def _opens_page(scope: Scope, headers: dict[str, str]) -> bool:
    """Whether a link of another page was followed to the studio's first page, which changes nothing."""
    return (
        scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )  # fmt: skip


def _with_headers(send: Send, host: str) -> Send:
    """``send`` with the headers that every answer has, where the answer has none of its own."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            known: list[Any] = list(message.get("headers", ()))
            names = {name.lower() for name, _ in known}
            added = {**HEADERS, "content-security-policy": POLICY.format(host=host)}
            known += [(name.encode(), value.encode("latin-1")) for name, value in added.items() if name.encode() not in names]
            message = {**message, "headers": known}
        await send(message)

    return sending
