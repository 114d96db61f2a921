"""What the studio shows of the runs' folder, and the pictures that visitors give.

A visitor names a run and a file of it; both are names of a listing, never paths. No symbolic link is followed below the runs'
folder, and of a run only its results and its description are served.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dreamlift.images.read import PIXELS
from dreamlift.runs.run import read_status
from dreamlift.studio.history import History
from dreamlift.system.files import atomic_write_bytes, open_to_read
from dreamlift.system.processes import lives, pid_space, started

# Files of a run that are served, with their kinds and what they are.
FILES = (
    (re.compile(r"asset(_lod\d+)?\.glb"), "model/gltf-binary", "mesh with its texture"),
    (re.compile(r"asset(_lod\d+)?\.(obj|mtl|ply|stl|3mf|usdz)"), "application/octet-stream", "mesh in another format"),
    (re.compile(r"asset[\w-]*\.png"), "image/png", "texture"),
    (re.compile(r"splats\.ply"), "application/octet-stream", "Gaussians"),
    (re.compile(r"view\.html"), "text/html", "page that shows the asset offline"),
    (re.compile(r"preview\.png"), "image/png", "eight sides"),
    (re.compile(r"turntable\.webp"), "image/webp", "the asset, turning"),
    (re.compile(r"stage-\d+\.glb"), "model/gltf-binary", "mesh of an earlier stage"),
    (re.compile(r"config\.yaml"), "text/plain; charset=utf-8", "every setting"),
    (re.compile(r"run\.json"), "application/json", "figures and versions"),
    (re.compile(r"metrics\.jsonl"), "application/x-ndjson", "one line a step"),
)
SHOWN = 100  # newest runs that are listed
LISTED = 2.0  # seconds for which a listing is kept
MAX_METRICS = 64 << 20  # bytes of metrics.jsonl that are read for curves
MAX_CONFIG = 1 << 20  # bytes of a config.yaml; none is larger
KEPT_CURVES = 8  # runs
PICTURES = ".pictures"  # folder in the runs' folder
USED = ".used"  # suffix of the file beside a picture that a run uses; the run's process makes it, and is named in it
CLAIM = ".studio-"  # begins the name of the file there by which a server says that it may still need pictures
CLAIM_SECONDS = 7 * 86400.0  # for which that of a server on another machine is believed
WAITING = 16  # pictures that no run uses yet; older ones are removed
SUFFIX = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}
MAX_PIXELS = min(PIXELS, 25_000_000)  # of a visitor's picture; decoded it has 100 MB


class Refused(Exception):  # noqa: N818
    """A request that is not carried out, with the HTTP status and one line that says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


@dataclass(frozen=True)
class Served:
    """An opened file of a run; it is closed with its last reference."""

    file: BinaryIO
    size: int  # bytes
    kind: str
    name: str


class Runs:
    """The runs in one folder. ``only``: the name of the one that is shown (--watch); "": all of them."""

    def __init__(self, root: Path, only: str = "") -> None:
        self.root, self.only = root, only
        self.waiting: dict[str, Path] = {}
        self.listed: tuple[float, list[dict[str, Any]]] = (-math.inf, [])
        self.curves: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}  # of the runs that were opened last
        self.wanted: Callable[[], set[str]] = set  # the pictures of orders that wait or are carried out

    def folder(self, name: str) -> Path:
        """The folder of the run of this name. Raises Refused: there is none."""
        path, fine = self.root / name, bool(name) and name == os.path.basename(name) and not name.startswith(".")
        if fine and not set(name) & set("/\\\0:") and name == (self.only or name):
            with contextlib.suppress(OSError, ValueError):
                if stat.S_ISDIR(os.lstat(path).st_mode) and stat.S_ISREG(os.lstat(path / "run.json").st_mode):
                    return path
        raise Refused(404, "there is no such run")

    def listing(self) -> list[dict[str, Any]]:
        """The newest runs, newest first: name, prompt, status, seed, and whether there are pictures."""
        now = time.monotonic()
        if now - self.listed[0] > LISTED:
            self.listed = (now, self._listing())
        return self.listed[1]

    def changed(self) -> None:
        """Forget the listing."""
        self.listed = (-math.inf, [])

    def _listing(self) -> list[dict[str, Any]]:
        times = []
        with contextlib.suppress(OSError), os.scandir(self.root) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    wanted = entry.name == (self.only or entry.name) and not entry.name.startswith(".")
                    if wanted and entry.is_dir(follow_symlinks=False):
                        times.append((os.lstat(Path(entry.path) / "run.json").st_mtime, entry.name))
        found = []
        for _, name in sorted(times, reverse=True)[:SHOWN]:
            with contextlib.suppress(Exception):  # a folder that is no run, or that is just being removed
                found.append(self.about(name))
        return found

    def about(self, name: str) -> dict[str, Any]:
        """What the strip of runs shows of one. Raises Refused, RunError."""
        folder = self.folder(name)
        found = read_status(folder)
        photos = found.get("photos")
        prompt = str(found["prompt"])[:1000] or ("from a picture" if photos else "")
        return {"name": name, "prompt": prompt, "status": str(found.get("status", "")), "seed": found.get("seed"),
                "preview": _is_file(folder / "preview.png")}  # fmt: skip

    def detail(self, name: str) -> dict[str, Any]:
        """A run with its figures, curves and files. Raises Refused, RunError."""
        folder, about = self.folder(name), self.about(name)
        known = read_status(folder)
        metrics = found if isinstance(found := known.get("metrics"), dict) else {}
        figures = {name: known.get(name) for name in ("seconds", "prior", "error")}
        figures |= {"faces": metrics.get("faces"), "psnr": metrics.get("roundtrip_psnr")}
        files = [{"name": each, "size": size, "about": told} for each, size, told in self._files(folder)]
        return {**about, **figures, "files": files, "curves": self._curves(folder), "view": _is_file(folder / "asset.glb")}

    def _curves(self, folder: Path) -> dict[str, Any]:
        """The curves of a run; read again only where its file has changed."""
        try:
            found = os.lstat(folder / "metrics.jsonl")
        except OSError:
            return History().plain()
        state, (before, known) = (found.st_mtime_ns, found.st_size), self.curves.pop(folder.name, ((0, 0), {}))
        if before != state:
            known = curves_of(folder)
        self.curves[folder.name] = (state, known)
        while len(self.curves) > KEPT_CURVES:
            del self.curves[next(iter(self.curves))]
        return known

    def _files(self, folder: Path) -> list[tuple[str, int, str]]:
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                kind = kind_of(entry.name)
                if kind and entry.is_file(follow_symlinks=False):
                    found.append((kind[0], entry.name, entry.stat(follow_symlinks=False).st_size, kind[2]))
        return [each[1:] for each in sorted(found)]

    def open(self, name: str, file: str) -> Served:
        """A file of a run, opened. Raises Refused: there is none that is served."""
        folder, kind = self.folder(name), kind_of(file)
        if kind is not None:
            with contextlib.suppress(OSError):
                descriptor, found = open_to_read(folder / file, links=False)
                opened = open(descriptor, "rb")  # noqa: SIM115 - its reader closes it
                if stat.S_ISREG(found.st_mode):
                    return Served(opened, found.st_size, kind[1], file)
                opened.close()
        raise Refused(404, "there is no such file of this run")

    def keep_picture(self, data: bytes) -> dict[str, Any]:
        """Check a visitor's picture and keep it; returns its ``picture`` (a name for :meth:`take_picture`) and size.

        Raises:
            Refused: bytes that are no picture that a run can use.
        """
        width, height = _checked(data)
        name, digest = secrets.token_hex(16), hashlib.sha256(data).hexdigest()[:32]
        folder = self.root / PICTURES
        folder.mkdir(parents=True, exist_ok=True)
        self._claim().write_text(holder(), encoding="utf-8")
        path = folder / (digest + next((end for mark, end in SUFFIX.items() if data.startswith(mark)), ".img"))
        if not path.exists():
            atomic_write_bytes(path, data)
        self.waiting[name] = path
        while len(self.waiting) > WAITING:
            oldest = self.waiting.pop(next(iter(self.waiting)))
            if oldest not in self.waiting.values() and str(oldest.resolve()) not in self.wanted():
                _remove_unused(oldest)
        return {"picture": name, "width": width, "height": height}

    def take_picture(self, name: str) -> Path:
        """The file of a picture that a run is going to use. Raises Refused."""
        path = self.waiting.get(name)
        if path is None or not path.exists():
            raise Refused(400, "the picture is not here any more: choose it again")
        return path.resolve()

    def sweep(self) -> None:
        """Remove the pictures that no run uses, at the start and at the end of a server.

        Those that killed servers have left are removed with them, and those whose runs were deleted, unless another server of
        this folder lives.
        """
        folder, others = self.root / PICTURES, 0
        with contextlib.suppress(OSError):
            for claim in folder.glob(f"{CLAIM}*"):
                if claim != self._claim() and _holds(claim):
                    others += 1
                else:
                    claim.unlink(missing_ok=True)
            if not others:
                with contextlib.suppress(OSError):  # what cannot be read may need any of them
                    self._unmark({mark for mark in folder.glob(f"*{USED}") if not _holds(mark)})
            for path in list(self.waiting.values()) if others else list(folder.iterdir()):
                if not path.name.startswith(CLAIM):
                    _remove_unused(path)
            folder.rmdir()  # where nothing is left
        self.waiting.clear()

    def _unmark(self, marks: set[Path]) -> None:
        """Remove the marks of pictures that no run's config.yaml below the folder names: the runs were deleted, or moved away.

        Raises:
            OSError: a folder or a file cannot be read; no mark is removed.
        """
        if marks:
            for text in _configs(self.root):
                marks = {mark for mark in marks if f"{mark.stem}.".encode() not in text}
        for mark in marks:
            mark.unlink(missing_ok=True)

    def _claim(self) -> Path:
        return self.root / PICTURES / f"{CLAIM}{os.getpid()}"


def _remove_unused(path: Path) -> None:
    if not path.with_suffix(USED).exists():
        path.unlink(missing_ok=True)


def holder() -> str:
    """What this process writes in a claim or a mark, to be found in it as long as it lives."""
    return f"{pid_space()}\n{os.getpid()} {started(os.getpid())}"


def _configs(root: Path) -> Iterator[bytes]:
    """The config.yaml of each run below a folder, also of one that is linked from another disk. Raises OSError."""

    def fail(error: OSError) -> None:
        raise error

    for folder, below, _ in os.walk(root, onerror=fail):
        below[:] = [name for name in below if name not in (PICTURES, "checkpoints")]
        for path in (Path(folder, name, "config.yaml") for name in below):
            if path.exists():
                with open(open_to_read(path)[0], "rb") as file:  # at once, also where it is a pipe
                    yield file.read(MAX_CONFIG) or b""


def _holds(claim: Path) -> bool:
    """Whether the process that made a claim or a mark may live; of one on another machine it is assumed for some days.

    That of a run that has ended is empty.
    """
    with contextlib.suppress(OSError, ValueError):
        if not claim.stat().st_size:
            return False
        space, _, rest = claim.read_text(encoding="utf-8").partition("\n")
        pid, _, begun = rest.partition(" ")
        if space and space == pid_space():
            return lives(int(pid), begun)
        return time.time() - claim.stat().st_mtime < CLAIM_SECONDS
    return False


def kind_of(name: str) -> tuple[int, str, str] | None:
    """The place in :data:`FILES`, the content type and the description of a file that is served; None: it is not."""
    return next(((i, kind, told) for i, (form, kind, told) in enumerate(FILES) if form.fullmatch(name)), None)


def curves_of(folder: Path) -> dict[str, Any]:
    """The curves in ``metrics.jsonl``."""
    history = History()
    with contextlib.suppress(OSError):
        handle, found = open_to_read(folder / "metrics.jsonl", links=False)
        with open(handle, "rb") as file:
            if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_METRICS:
                for line in file:
                    with contextlib.suppress(ValueError, RecursionError, AttributeError):
                        record = json.loads(line)
                        history.add(int(record.pop("step", 0)), record)
    return history.plain()


def _checked(data: bytes) -> tuple[int, int]:
    """Width and height of a picture that can be read."""
    import io

    from PIL import Image

    from dreamlift.images.read import FORMATS, decoded

    try:
        with contextlib.suppress(OSError), Image.open(io.BytesIO(data), formats=FORMATS) as image:  # reads the header only
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels; accepted here: {MAX_PIXELS:,}; scale it down")
        shape = decoded(data).shape
    except (ValueError, Image.DecompressionBombError) as error:
        raise Refused(400, f"the picture cannot be used: {error}") from None
    return shape[1], shape[0]


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISREG(os.lstat(path).st_mode)
    return False
