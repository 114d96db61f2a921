"""``dreamlift studio``: the server, and its process for runs."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import ipaddress
import re
import secrets
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlift.apps.options import Parser, add_camera, add_setting, add_values
from dreamlift.system.files import can_be_written, expanded

if TYPE_CHECKING:
    import uvicorn

    from dreamlift.studio.guard import Keys

PACKAGES = ("starlette", "uvicorn", "websockets")
PORT = 8765
NAME = re.compile(r"[\w.-]+|\[?[\da-f]*:[\da-f:.]+\]?", re.ASCII | re.IGNORECASE)  # a machine's, or its address in figures
SILENT = 15.0  # seconds for a connection to say what it wants
UNREAD = 60.0  # seconds for a client to read a part of an answer
LINGER = 3.0  # seconds without a visitor after which the page of --watch ends, once its run is over: time to reload it
CONNECTIONS = 400  # at a time, of all visitors


def add_studio(verb: Callable[..., Parser]) -> None:
    """Add the verb studio."""
    make = verb("studio", "make assets in the browser, and watch them while they are made (docs/studio.md)")
    make.add_argument("--out", type=Path, default=Path("outputs"), help="the folder of the runs (default: outputs)")
    make.add_argument("--host", default="127.0.0.1", help="address to listen on; one that other machines reach gets a token")
    make.add_argument("--port", type=int, default=PORT, help=f"port to listen on; 0: any that is free (default: {PORT})")
    make.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a further name in the browser's address, as of a proxy: machine.example.org; asks for a token; may be repeated",
    )  # fmt: skip
    make.add_argument("--token", action="store_true", help="ask for a token on this machine too, where others have accounts")
    runs = make.add_argument_group("every run that is started on the page")
    add_setting(runs, "negative", "negative prompt: what the objects should not look like")
    add_setting(runs, "particles", "number of scenes that are optimized together (default: 1)")
    add_camera(runs)
    add_values(make, runs)


@dataclass(frozen=True)
class Place:
    """Where the server listens."""

    host: str = "127.0.0.1"
    port: int = PORT  # 0: any that is free
    token: bool = False  # ask for a token on this machine too
    names: tuple[str, ...] = ()  # further ones in the browser's address; with them a token is asked for


def check_packages() -> None:
    """Raise ValueError if a package of the extra is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'the studio needs {", ".join(missing)}: pip install "dreamlift[studio]"')


def listen(place: Place, option: str = "--port") -> socket.socket:
    """The socket of the server. Raises ValueError: the address, the port (of ``option``) or a further name cannot be used."""
    for name in place.names:
        if not NAME.fullmatch(name):
            raise ValueError(f"--allow-host is {name[:60]!r}; accepted: a name without http:// and port: machine.example.org")
    if not 0 <= place.port <= 65535:
        raise ValueError(f"{option} is {place.port}; accepted: 1 to 65535, or 0 for any that is free")
    try:
        family, kind, number, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, number)
        if sys.platform != "win32":  # where it would let two servers share a port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)  # who comes before the server is ready waits
    except socket.gaierror:
        raise ValueError(f"--host {place.host!r} is not an address or a name of this machine") from None
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        fix = f"another program (or studio) uses this port: give {option} another one, or 0" if taken else str(error.strerror)
        raise ValueError(f"the studio cannot listen on {place.host}, port {place.port}: {fix}") from None
    return found


def run_studio(root: Path, place: Place, overrides: dict[str, str], tell: Callable[[str], None]) -> None:
    """Serve until a signal ends it. A run in progress is stopped then as by SIGINT, and can be resumed.

    Args:
        root: the runs' folder. overrides: settings of every run. tell: gets the address.

    Raises:
        ValueError: a package is missing, or the settings, the address or the folder cannot be used.
        RunError: the process that checks the settings fails.
    """
    check_packages()
    root = expanded(root).resolve()
    if root.exists() and not root.is_dir():
        raise ValueError(f"--out {root} is a file: give the folder of the runs")
    if not can_be_written(root):
        raise ValueError(f"--out {root} cannot be written: give another folder")
    from dreamlift.studio.app import Studio, make_app
    from dreamlift.studio.child import Child, check_settings, worker_command
    from dreamlift.studio.folder import Runs
    from dreamlift.studio.hub import Hub

    if overrides:  # it takes seconds
        check_settings(overrides)
    sock = listen(place)
    root.mkdir(parents=True, exist_ok=True)
    runs = Runs(root)
    runs.sweep()
    hub = Hub(runs)
    children: list[Child] = []

    async def begin() -> None:
        children.append(Child(hub, worker_command(root, overrides), tell))
        children[0].start()

    async def end() -> None:
        if hub.busy and hub.live is not None and hub.live.name:
            tell(f"stopping the run; continue it with: dreamlift resume {root / hub.live.name}")
        await children[0].close()
        runs.sweep()

    server = make_server(lambda keys: make_app(Studio(hub, runs, keys), begin, end), sock, place, tell)
    server.run(sockets=[sock])


def make_server(app: Callable[[Keys], Any], sock: socket.socket, place: Place, tell: Callable[[str], None]) -> uvicorn.Server:
    """The server of an application behind the guard; ``tell`` gets its addresses."""
    import uvicorn

    from dreamlift.studio.guard import Guard, Keys, in_address, is_loopback, known_hosts

    port, own = sock.getsockname()[1], is_loopback(place.host)
    keys = Keys("" if own and not place.token and not place.names else secrets.token_urlsafe(16))
    guarded = Guard(_Later(lambda: app(keys)), known_hosts(place.host, place.names), not own, keys)
    shown = in_address(socket.gethostname() if _is_unspecified(place.host) else place.host)
    end = f":{port}/" + (f"#token={keys.token}" if keys.token else "")
    tell(f"studio: http://{shown}{end}")
    if not own:
        if (figures := in_address(figures_of(sock))) not in ("", shown):  # not every machine's name is known to the others
            tell(f"or: http://{figures}{end}")
        tell("other machines can reach it: whoever has this address, with its token, can start runs (nothing is encrypted)")
    return uvicorn.Server(uvicorn.Config(
        guarded, http=_protocol(), ws="websockets-sansio", lifespan="on", log_level="error", access_log=False,
        proxy_headers=False, server_header=False, limit_concurrency=CONNECTIONS, timeout_keep_alive=15,
        timeout_graceful_shutdown=3, ws_max_size=4096, ws_ping_interval=20.0, ws_ping_timeout=30.0,
        h11_max_incomplete_event_size=16 << 10,
    ))  # fmt: skip


def figures_of(sock: socket.socket) -> str:
    """The address in figures at which other machines reach the server of a socket; "" if that is not known."""
    bound = sock.getsockname()[0]
    if not _is_unspecified(bound):
        return bound
    elsewhere = {socket.AF_INET: "192.0.2.1"}  # addresses of nobody
    if sock.family == socket.AF_INET6:  # where "::" stands for those of both kinds
        elsewhere[socket.AF_INET6] = "2001:db8::1"
    for family, address in elsewhere.items():
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing: the system only chooses which of its addresses it would use
            return probe.getsockname()[0]
    return ""


def _is_unspecified(host: str) -> bool:
    """Whether it stands for all addresses: 0.0.0.0 or ::."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


class _Later:
    """An application that is made in the server's loop."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make, self.app = make, None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.app is None:
            self.app = self.make()
        await self.app(scope, receive, send)


def _protocol() -> Any:
    """uvicorn's HTTP with limits of time that uvicorn has not: for a request to be sent, and for an answer to be taken."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Timed(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.before: Any = None  # the newest request at the time of the last look
            self.paused = False
            self.timer = self.loop.call_later(SILENT, self._check)
            self.reading: Any = None

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for timer in filter(None, (self.timer, self.reading)):
                timer.cancel()  # it would keep the connection in memory until its time

        def _check(self) -> None:
            """Close a connection on which no request has been begun since the last look. Live ones have another protocol."""
            if self.transport.is_closing() or self not in self.connections:
                return
            idle = self.cycle is None or self.cycle.response_complete
            if idle and self.cycle is self.before:
                self.transport.close()
                return
            self.before = self.cycle
            self.timer = self.loop.call_later(SILENT, self._check)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.paused = True
            if self.reading is not None:
                self.reading.cancel()
            self.reading = self.loop.call_later(UNREAD, self._check_read)

        def resume_writing(self) -> None:
            super().resume_writing()
            self.paused = False

        def _check_read(self) -> None:
            if self.paused:
                self.transport.abort()

    return Timed
