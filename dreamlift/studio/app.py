"""The studio's addresses: its page, the live connection, what starts and stops runs, and the runs' files."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import html
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from dreamlift.prompts import check_prompt
from dreamlift.runs.checkpoints import RunError
from dreamlift.studio.folder import Refused, Runs, Served
from dreamlift.studio.guard import PAGE, SUBPROTOCOL, Keys
from dreamlift.studio.hub import Hub, Visitor
from dreamlift.studio.wire import packed
from dreamlift.system.text import one_line

MAX_BODY, MAX_PICTURE = 16 << 10, 24 << 20  # bytes of a request, and of a picture
BODY_SECONDS = 60.0  # for the whole of a request's body
UPLOADS, VISITORS = 4, 200  # at a time
MAX_GLB = 256 << 20  # bytes of an asset that the page shows
PER_SECOND = 40.0  # messages of a visitor; one with more is cut off
SEND_SECONDS = 20.0  # for one message to a visitor; one who takes longer is cut off
CHUNK = 3 << 16  # bytes; divisible by 3, so that chunks in base64 can be joined
ASKED = ("prompt", "preset", "seed", "picture")  # of a new run; settings are those of the command
MAX_SEED = 2**31 - 5
KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
         "svg": "image/svg+xml"}  # fmt: skip


class Studio:
    """The handlers of requests."""

    def __init__(self, hub: Hub, runs: Runs, keys: Keys) -> None:
        self.hub, self.runs, self.keys = hub, runs, keys
        self.uploads = 0
        self.one_picture = asyncio.Lock()
        static = resources.files("dreamlift.studio").joinpath("static")
        self.static = {name: static.joinpath(name).read_bytes() for name in (*PAGE.values(), "view.html", "view.css")}
        self.viewer, style = _viewer(), self.static["view.css"].decode("utf-8")
        self.view_page = self.static["view.html"].decode("utf-8").replace("{style}", style).replace("{script}", self.viewer)
        self.view_policy = (
            f"sandbox allow-scripts; default-src 'none'; script-src '{_hash(self.viewer)}'; style-src '{_hash(style)}'; "
            "img-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
        )

    def routes(self) -> list[Any]:
        return [
            *(Route(path, self.page, methods=["GET"]) for path in PAGE),
            Route("/api/runs", self.listing, methods=["GET"]),
            Route("/api/runs/{name}", self.run, methods=["GET"]),
            Route("/runs/{name}/view", self.view, methods=["GET"]),
            Route("/runs/{name}/{file}", self.file, methods=["GET"]),
            *(Route(path, self.only_shown if self.hub.watch else act, methods=["POST"]) for path, act in self.acts().items()),
            WebSocketRoute("/api/live", self.live),
        ]

    def acts(self) -> dict[str, Callable[[Request], Any]]:
        """What changes something: the handlers of all requests that are no GET."""
        return {"/api/pictures": self.picture, "/api/start": self.start, "/api/more": self.more, "/api/resume": self.resume,
                "/api/stop": self.stop}  # fmt: skip

    async def only_shown(self, request: Request) -> Response:
        """The answer to all of them where the page shows runs of another process (--watch)."""
        raise Refused(403, "this page shows one run; `dreamlift studio` starts others")

    # the page and the runs

    async def page(self, request: Request) -> Response:
        name = PAGE[request.url.path]
        return Response(self.static[name], media_type=KINDS[name.rpartition(".")[2]])

    async def listing(self, request: Request) -> Response:
        found = await asyncio.to_thread(self.runs.listing)
        return JSONResponse({"runs": [{**each, "ticket": self.keys.ticket(each["name"])} for each in found]})

    async def run(self, request: Request) -> Response:
        found = await asyncio.to_thread(self.runs.detail, request.path_params["name"])
        return JSONResponse({**found, "ticket": self.keys.ticket(found["name"])})

    async def file(self, request: Request) -> Response:
        served = await asyncio.to_thread(self.runs.open, request.path_params["name"], request.path_params["file"])
        headers = {"content-length": str(served.size), "content-security-policy": "default-src 'none'; sandbox"}
        if served.kind not in ("image/png", "image/webp"):
            headers["content-disposition"] = f'attachment; filename="{served.name}"'
        return StreamingResponse(_chunks(served), media_type=served.kind, headers=headers)

    async def view(self, request: Request) -> Response:
        """A page that shows the run's asset: for a frame without an origin of its own, which reaches nothing else."""
        name = request.path_params["name"]
        served = await asyncio.to_thread(self.runs.open, name, "asset.glb")
        if served.size > MAX_GLB:
            raise Refused(413, "the asset is too large to be shown here: download it")
        title = html.escape((await asyncio.to_thread(self.runs.about, name))["prompt"])
        texts = [part.replace("{title}", title) for part in self.view_page.split("{glb}")]
        headers = {"content-security-policy": self.view_policy}
        return StreamingResponse(_page(served, *texts), media_type=KINDS["html"], headers=headers)

    # what starts and stops runs

    async def picture(self, request: Request) -> Response:
        if self.uploads >= UPLOADS:
            raise Refused(503, "several pictures are being sent already: try again in a moment")
        self.uploads += 1
        try:
            data = await _body(request, MAX_PICTURE)
            async with self.one_picture:  # decoded, one has up to 100 MB
                return JSONResponse(await asyncio.to_thread(self.runs.keep_picture, data))
        finally:
            self.uploads -= 1

    async def start(self, request: Request) -> Response:
        asked = await _json(request)
        if other := set(asked) - {*ASKED}:
            raise Refused(400, f"unknown: {one_line(min(other), 60)}; accepted: {', '.join(ASKED)}")
        picture, preset = str(asked.get("picture") or ""), str(asked.get("preset") or "")
        try:
            prompt = check_prompt(str(asked.get("prompt") or ""), may_be_empty=bool(picture))
        except ValueError as error:
            raise Refused(400, one_line(error)) from None
        known = {each["name"]: each for each in self.hub.presets}
        if preset and preset not in known:
            raise Refused(400, "there is no such preset here")
        if preset and known[preset]["needs"] == "picture" and not picture:
            raise Refused(400, f"{preset} starts from a picture: choose one, or another preset")
        order = {"prompt": prompt, "preset": preset, "seed": _seed(asked.get("seed", 0))}
        async with self.one_picture:  # so that none is removed between the two
            if picture:
                order["picture"] = str(self.runs.take_picture(picture))
            return JSONResponse({"number": self.hub.order(order).number})

    async def more(self, request: Request) -> Response:
        """Four runs with the settings of one and the next seeds."""
        about = await self._known(request)
        seed, numbers = _seed(about["seed"] if type(about["seed"]) is int else 0), []
        self.hub.check_room(4)
        for further in range(1, 5):
            order = {"like": about["name"], "seed": min(seed + further, MAX_SEED), "prompt": about["prompt"]}
            numbers.append(self.hub.order(order).number)
        return JSONResponse({"numbers": numbers})

    async def resume(self, request: Request) -> Response:
        about = await self._known(request)
        if self.hub.busy and self.hub.live is not None and self.hub.live.name == about["name"]:
            raise Refused(409, "this run is in progress")
        order = {"resume": about["name"], "prompt": about["prompt"], "seed": about["seed"]}
        return JSONResponse({"number": self.hub.order(order).number})

    async def stop(self, request: Request) -> Response:
        number = (await _json(request)).get("number")
        self.hub.stop(number if type(number) is int else -1)
        return JSONResponse({})

    async def _known(self, request: Request) -> dict[str, Any]:
        """What is known of the run that a request names."""
        name = str((await _json(request)).get("run") or "")
        return await asyncio.to_thread(self.runs.about, name)

    # the live connection

    async def live(self, socket: WebSocket) -> None:
        if len(self.hub.visitors) >= VISITORS:
            await socket.close(1013)
            return
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)
        visitor = self.hub.enter()
        sender = asyncio.create_task(_send(socket, visitor))
        try:
            await self._listen(socket, visitor)
        finally:
            self.hub.leave(visitor)
            visitor.something.set()
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            with contextlib.suppress(Exception):
                await socket.close(1008)

    async def _listen(self, socket: WebSocket, visitor: Visitor) -> None:
        """Take a visitor's wishes until the visitor leaves, or sends what the page does not."""
        allowed, last = PER_SECOND, time.monotonic()
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, ValueError, KeyError, TypeError, RecursionError):
            while True:
                text = await socket.receive_text()
                now = time.monotonic()
                allowed, last = min(allowed + (now - last) * PER_SECOND, PER_SECOND) - 1, now
                if allowed < 0 or len(text) > 1000:
                    return
                message = json.loads(text)
                if message["type"] == "look":
                    self.hub.look(visitor, _view(message))
                elif message["type"] == "pair":
                    self.hub.pair(visitor, message["wanted"] is True)
                elif message["type"] == "state":
                    visitor.reports.clear()
                    visitor.tell(self.hub.state())


async def _send(socket: WebSocket, visitor: Visitor) -> None:
    """Send a visitor all reports, and the newest picture of each kind."""
    with contextlib.suppress(Exception):
        # Before Python 3.12 wait_for may lose a cancellation, so that the visitor's state is asked too.
        while not visitor.gone:
            await visitor.something.wait()
            visitor.something.clear()
            while not visitor.gone and (visitor.reports or visitor.pictures):
                if visitor.reports:
                    sending = socket.send_text(json.dumps(visitor.reports.popleft()))
                else:
                    kind = next(iter(visitor.pictures))
                    sending = socket.send_bytes(packed(*visitor.pictures.pop(kind)))
                await asyncio.wait_for(sending, SEND_SECONDS)
    with contextlib.suppress(Exception):
        await socket.close(1011)


def _view(message: dict[str, Any]) -> list[Any]:
    """The camera that a visitor asks for: azimuth (None: turning), elevation, distance, clay. Raises ValueError, KeyError."""
    azimuth, elevation, distance = message["azimuth"], float(message["elevation"]), float(message["distance"])
    if not (math.isfinite(elevation) and math.isfinite(distance)):
        raise ValueError
    if azimuth is not None and not math.isfinite(azimuth := float(azimuth)):
        raise ValueError
    clay = {"clay": True, "color": False}.get(str(message.get("as")))
    azimuth = None if azimuth is None else round(math.remainder(azimuth, 2 * math.pi), 3)
    return [azimuth, round(min(max(elevation, -1.5), 1.5), 3), round(min(max(distance, 1.5), 8.0), 3), clay]


async def _body(request: Request, limit: int) -> bytes:
    """The body of a request. Raises Refused where it is too large or too slow."""
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > limit:
        raise Refused(413, f"accepted: at most {limit >> 20} MB" if limit >= 1 << 20 else f"accepted: at most {limit} bytes")
    parts, size = [], 0

    async def read() -> bytes:
        nonlocal size
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise Refused(413, f"accepted: at most {limit} bytes")
            parts.append(part)
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise Refused(408, "the request takes too long") from None


async def _json(request: Request) -> dict[str, Any]:
    """The mapping in a request's body. Raises Refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "accepted: application/json")
    try:
        found = json.loads(await _body(request, MAX_BODY))
    except (ValueError, RecursionError):
        raise Refused(400, "the request is not JSON") from None
    if not isinstance(found, dict):
        raise Refused(400, "the request is not a mapping")
    return found


def _seed(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_SEED:
        raise Refused(400, f"seed: a whole number from 0 to {MAX_SEED}")
    return value


def _chunks(served: Served) -> Iterator[bytes]:
    with served.file as file:
        left = served.size
        while left > 0 and (data := file.read(min(CHUNK, left))):
            left -= len(data)
            yield data


def _page(served: Served, before: str, after: str) -> Iterator[bytes]:
    yield before.encode("utf-8")
    for data in _chunks(served):
        yield base64.b64encode(data)
    yield after.encode("utf-8")


def _viewer() -> str:
    """The script of the page that every run has (:mod:`dreamlift.export.page`), read without importing that package."""
    return resources.files("dreamlift").joinpath("export", "static", "viewer.js").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A script or style in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


async def _refused(_: Request, error: Exception) -> Response:
    status, text = (error.status, error.text) if isinstance(error, Refused) else (500, one_line(error))
    return JSONResponse({"error": text}, status)


async def _broken(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the studio has failed here; its terminal says more"}, 500)


def make_app(studio: Studio, begin: Callable[[], Any], end: Callable[[], Any]) -> Starlette:
    """The application. ``begin`` and ``end``: coroutines of the server's start and end."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await begin()
        ticking = asyncio.create_task(studio.hub.ticking())
        try:
            yield
        finally:
            ticking.cancel()
            await end()

    handlers: dict[Any, Any] = {Refused: _refused, RunError: _refused, 500: _broken}
    app = Starlette(routes=studio.routes(), lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app
