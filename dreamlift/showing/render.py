"""``dreamlift render``: an asset along a camera path, as a video, an animation or pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dreamlift.export.glb import load_glb
from dreamlift.export.video import to_bytes
from dreamlift.reading.mesh import FILE_BYTES, load_mesh
from dreamlift.runs.run import read_status
from dreamlift.runs.run import runs_below as runs_in
from dreamlift.showing.camera_path import cameras_on, name_of
from dreamlift.showing.draw import Color, draw_mesh, draw_splats, load_splats
from dreamlift.showing.movies import FORMATS, check_movie, holds_frames_only, movie
from dreamlift.system.files import expanded
from dreamlift.toybox.judging.score import fitted
from dreamlift.types import Cameras

MOST_FRAMES, SIZES, FPS = 10_000, (16, 4096), (0.1, 240.0)
COLORS: dict[str, Color] = {
    "white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "grey": (0.46, 0.46, 0.48), "gray": (0.46, 0.46, 0.48),
}  # fmt: skip
OWN_BYTES = 1_000_000_000  # of a GLB of dreamlift; the largest asset of a run has fewer
HEX = re.compile(r"#?([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class RenderOrder:
    """What is rendered of an asset, and how."""

    path: str = "orbit"  # or a JSON file of keyframes: dreamlift.showing.camera_path
    frames: int = 96
    fps: float = 24.0
    size: int = 512  # pixels a side
    elevation_deg: float = 15.0  # of the orbit, -90 to 90
    look: str = "color"  # one of dreamlift.showing.draw.LOOKS
    background: Color = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= MOST_FRAMES:
            raise ValueError(f"--frames is {self.frames}; accepted: 1 to {MOST_FRAMES}")
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise ValueError(f"--size is {self.size}; accepted: {SIZES[0]} to {SIZES[1]} pixels")
        if not FPS[0] <= self.fps <= FPS[1]:
            raise ValueError(f"--fps is {self.fps:g}; accepted: {FPS[0]:g} to {FPS[1]:g} frames a second")
        if not -90.0 <= self.elevation_deg <= 90.0:
            raise ValueError(f"--elevation is {self.elevation_deg:g}; accepted: -90 to 90 degrees")


def ignore(*_: object) -> None:
    """Discard a message."""


def render(
    asset: Path, order: RenderOrder, files: dict[str, Path], note: Callable[[str], None] = ignore,
    counted: Callable[[int, int], None] = ignore,
) -> list[Path]:  # fmt: skip
    """Render ``asset`` to ``files`` (of :func:`files_of`); returns them.

    Args:
        note: gets what was not taken over from a file.
        counted: gets the number of each finished frame, and that of all.

    Raises:
        ValueError: the asset, the path or a format cannot be used.
        OSError: a file cannot be written; old ones are intact.
    """
    for kind in files:
        check_movie(kind, order.size, order.frames)
    cameras = cameras_on(order.path, order.frames, order.size, order.elevation_deg)
    drawn = pictures_of(asset, cameras, order, note)
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        takers = [stack.enter_context(movie(path, kind, order.frames, order.size, order.fps)) for kind, path in files.items()]
        for index, picture in enumerate(drawn):
            frame = to_bytes(picture[None])[0]
            for taker in takers:
                taker.add(frame)
            counted(index, order.frames)
    return list(files.values())


def pictures_of(asset: Path, cameras: Cameras, order: RenderOrder, note: Callable[[str], None]) -> Iterator[Tensor]:
    """The pictures ``(S, S, 3)`` of a run's asset, of a mesh file, or of a PLY file of Gaussians."""
    file = file_of(asset)
    if file.suffix.lower() == ".ply" and is_splats(file):
        if order.look not in ("color", "base"):
            raise ValueError(f"{file} has Gaussians, which are shown with --look color only, not {order.look}")
        return draw_splats(load_splats(file), cameras, order.background)
    if file.suffix.lower() == ".glb" and is_own(file):
        if (size := file.stat().st_size) > OWN_BYTES:
            raise ValueError(f"{file} has {size:,} bytes; accepted: at most {OWN_BYTES:,}")
        mesh = load_glb(file)
    else:
        mesh = load_mesh(file, note=note)[0]
    return draw_mesh(fitted(mesh), cameras, order.look, order.background)


def file_of(asset: Path) -> Path:
    """The file of a run's asset, or ``asset`` itself.

    Raises:
        ValueError: there is none; one line with the fix.
    """
    asset = expanded(asset)
    accepted = f"give a run's folder, or a file: {', '.join(FILE_BYTES)}, or a .ply of Gaussians"
    if asset.is_dir():
        if not (asset / "asset.glb").is_file():
            if not (asset / "run.json").is_file():
                raise ValueError(f"{asset} is not a run folder: it has no run.json{runs_in(asset)}")
            state = read_status(asset).get("status")
            raise ValueError(f"{asset} has no asset.glb yet (the run is {state}): resume it with `dreamlift resume {asset}`")
        return asset / "asset.glb"
    if not asset.is_file():
        raise ValueError(f"there is no file or folder {str(asset)!r}: {accepted}")
    if asset.suffix.lower() not in FILE_BYTES:
        raise ValueError(f"{asset} cannot be rendered: {accepted}")
    return asset


def is_own(file: Path) -> bool:
    """Whether a GLB file was written by dreamlift, so that its reader takes over all of the material's textures."""
    with open(file, "rb") as opened:
        return b'"generator":"dreamlift"' in opened.read(4096).replace(b'": "', b'":"')


def is_splats(file: Path) -> bool:
    """Whether a PLY file has Gaussians and no faces."""
    with open(file, "rb") as opened:
        head = opened.read(10_000).partition(b"end_header")[0]
    return b"property float scale_0" in head and b"element face" not in head


def files_of(asset: Path, out: Path | None, formats: str | None, order: RenderOrder, overwrite: bool) -> dict[str, Path]:
    """The file of each format; for several PNGs a folder.

    Args:
        out: a file with the suffix of its format, or a name without one, to which suffixes are added; None: the path's name in
            the run's folder, or beside the current folder's files with the asset's name before it.
        formats: names separated by commas; None: that of ``out``'s suffix, or else webp.

    Raises:
        ValueError: an unknown format or suffix, formats that contradict, or a file that exists and is not to be overwritten.
    """
    given = [name.strip().lower().lstrip(".") for name in formats.split(",")] if formats is not None else []
    out = None if out is None else expanded(out)
    suffix = "" if out is None else out.suffix.lower().lstrip(".")
    for name in ([suffix] if suffix else []) + given:
        if name not in FORMATS:
            what = f"the suffix .{name} of --out" if name == suffix and name not in given else f"the format {name!r}"
            raise ValueError(f"{what} is unknown; accepted: {', '.join(FORMATS)}")
    kinds = list(dict.fromkeys(given or [suffix or "webp"]))
    if suffix and kinds != [suffix]:
        raise ValueError(f"--out {out} is a file of {suffix}, but --format asks for {', '.join(kinds)}: leave out the suffix")
    if out is None:
        name = name_of(order.path)
        found = expanded(asset)
        out = found / name if found.is_dir() else Path(f"{found.stem}-{name}")
    stem = out.with_suffix("") if suffix else out
    files = {kind: stem if kind == "png" and order.frames > 1 else stem.with_name(f"{stem.name}.{kind}") for kind in kinds}
    for kind, path in files.items():
        _check_free(path, kind == "png" and order.frames > 1, overwrite)
    return files


def _check_free(path: Path, folder: bool, overwrite: bool) -> None:
    if not path.exists():
        return
    if not overwrite:
        raise ValueError(f"{path} exists, and nothing is overwritten: give another --out, or --overwrite")
    if folder != path.is_dir():
        raise ValueError(f"{path} is a {'file' if folder else 'folder'}: give another --out")
    if folder and not holds_frames_only(path):
        raise ValueError(f"{path} holds more than frames, and is not replaced: give another --out")


def parse_color(text: str) -> Color:
    """A background: white, black, grey, or #rrggbb.

    Raises:
        ValueError: another text.
    """
    if text.lower() in COLORS:
        return COLORS[text.lower()]
    match = HEX.fullmatch(text)
    if match is None:
        raise ValueError(f"--background is {text[:40]!r}; accepted: white, grey, black, or a color such as #f0e0d0")
    red, green, blue = (int(part, 16) / 255 for part in match.groups())
    return red, green, blue
