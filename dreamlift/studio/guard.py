"""Who may talk to the studio: its own page, and nobody else.

A page of another site that the visitor has open can send requests to this machine too. So every request, the live connection's
included, must name a known Host (against DNS rebinding), must not come from another Origin, and where the server can be
reached from other machines it must carry the token of this start. No answer may be framed, cached or sniffed, and the page may
load nothing from elsewhere.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
METHODS = ("GET", "HEAD", "POST")
LONGEST = 2000  # characters of a path with its query
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

    One that listens on all addresses answers to each address (in figures, which no name server can redirect), to this
    machine's name, and to ``names``.
    """
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return frozenset(each.lower() for each in (*LOOPBACK, shown, socket.gethostname(), *names))


class Guard:
    """Passes on the requests of the studio's own page.

    Args:
        hosts: of :func:`known_hosts`. port: that the server listens on.
        any_address: whether addresses in figures are accepted as Host too. token: "": none is needed.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], port: int, any_address: bool, token: str) -> None:
        self.app, self.hosts, self.port, self.any_address, self.token = app, hosts, port, any_address, token
        self.cookie = f"dreamlift-{port}"
        self.digest = hashlib.sha256(token.encode()).digest()

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
        if self.token and scope["path"] == "/" and (given := _given(scope)):
            await self._welcome(given, scope, receive, _with_headers(send, headers["host"]))
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
            return 421, "this server does not answer to that name: open the address that it has printed"
        own = {f"{scheme}://{headers['host'].lower()}" for scheme in ("http", "https")}
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in own:
            return 403, "requests of other sites are refused"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not _opens_page(scope, headers):
            return 403, "requests of other sites are refused"
        if origin is None and (live or scope["method"] == "POST"):
            return 403, "the request does not say where it comes from (Origin)"
        if self.token and not self._has_token(headers) and not (scope["path"] == "/" and not live and _given(scope)):
            return 401, "open the whole address that the server has printed, with its token"
        return None

    def _knows(self, host: str) -> bool:
        name, _, port = host.lower().rpartition(":") if not host.endswith("]") and ":" in host else (host.lower(), "", "80")
        if not port.isdecimal() or int(port) != self.port:
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
        if kind.lower() == "bearer" and self._is_token(value.strip()):
            return True
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return found is not None and self._is_token(found.value)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(hashlib.sha256(given.encode("utf-8", "replace")).digest(), self.digest)

    async def _welcome(self, given: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the token out of the address into a cookie that no script can read."""
        if not self._is_token(given):
            await PlainTextResponse("this token is not that of the running server", 401)(scope, receive, send)
            return
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, given, httponly=True, samesite="strict", path="/")
        await answer(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": text})
            return
        await PlainTextResponse(f"{text}\n", status, {**HEADERS, "connection": "close"})(scope, receive, send)


def _given(scope: Scope) -> str:
    """The token in the address."""
    return parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]


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
