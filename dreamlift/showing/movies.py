"""Frames as files: MP4 (H.264, by the program ffmpeg of the package imageio-ffmpeg), animated WebP, or one PNG a frame.

Each file appears under its name when it is complete. An animation is written frame by frame, so that its length does not
matter for the memory, except for WebP, whose writer needs all frames.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.export.glb import png_bytes
from dreamlift.export.video import save_turntable
from dreamlift.system.files import atomic_write_bytes, replacing, sync_folder

FORMATS = ("mp4", "webp", "png")
INSTALL = 'pip install "dreamlift[video]"'
FRAME = "frame-{:04d}.png"
CRF = 16  # of x264: 0 is lossless, 23 its default; fine lines stay sharp
WEBP_BYTES = 4 << 30  # of all frames, which are in memory at once


def check_movie(kind: str, size: int, frames: int) -> None:
    """Check before anything is rendered that frames of ``size`` pixels a side can be written.

    Raises:
        ValueError: an unknown format, a missing package, or a size or number of frames that the format does not take.
    """
    if kind not in FORMATS:
        raise ValueError(f"the format {kind!r} is unknown; accepted: {', '.join(FORMATS)}")
    if kind == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ValueError(f"MP4 needs the package imageio-ffmpeg: {INSTALL}, or use --format webp or png")
    if kind == "mp4" and size % 2:
        raise ValueError(f"--size is {size}; MP4 needs an even number of pixels, such as {size + 1}")
    if kind == "webp" and frames * size * size * 3 > WEBP_BYTES:
        raise ValueError(
            f"{frames} frames of {size} pixels need over {WEBP_BYTES >> 30} GB of memory as WebP: use --format mp4 or png"
        )


class Mp4:
    """An MP4 file that is written frame by frame; the pixel format is yuv420p, which every player reads."""

    def __init__(self, path: Path, size: int, fps: float) -> None:
        import imageio_ffmpeg

        # The format is named, since the temporary file has no suffix; BT.709, which players assume for H.264.
        matrix = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_primaries", "bt709",
                  "-color_trc", "bt709", "-crf", str(CRF), "-movflags", "+faststart", "-f", "mp4"]  # fmt: skip
        settings: dict[str, Any] = {"fps": fps, "quality": None, "macro_block_size": 1, "ffmpeg_log_level": "error"}
        self.writer = imageio_ffmpeg.write_frames(
            str(path), (size, size), codec="libx264", pix_fmt_out="yuv420p", output_params=matrix, **settings
        )
        self.writer.send(None)

    def add(self, frame: np.ndarray) -> None:
        try:
            self.writer.send(np.ascontiguousarray(frame))
        except (OSError, StopIteration) as error:  # the package's own words are ffmpeg's whole command line
            raise OSError("ffmpeg has ended before the last frame; what it says is above (is the disk full?)") from error

    def close(self) -> None:
        self.writer.close()


class WebP:
    """An animated WebP, which is written at its end."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.frames: list[np.ndarray] = []

    def add(self, frame: np.ndarray) -> None:
        self.frames.append(frame)

    def close(self) -> None:
        if self.frames:
            save_turntable(np.stack(self.frames), self.path, self.fps)


class Pngs:
    """A folder with one PNG a frame."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        folder.mkdir()

    def add(self, frame: np.ndarray) -> None:
        atomic_write_bytes(self.folder / FRAME.format(self.count), png_bytes(frame))
        self.count += 1

    def close(self) -> None:
        return


class Png:
    """One picture."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, frame: np.ndarray) -> None:
        atomic_write_bytes(self.path, png_bytes(frame))

    def close(self) -> None:
        return


@contextmanager
def movie(path: Path, kind: str, frames: int, size: int, fps: float) -> Iterator[Any]:
    """What takes the frames ``(size, size, 3)`` uint8 by ``add``; ``path`` is replaced when all of them are written.

    Args:
        path: the file, or for several PNGs the folder.
        kind: of :data:`FORMATS`.

    Raises:
        OSError: a file cannot be written; an old one is intact.
    """
    if kind == "png" and frames > 1:
        with _replacing_folder(path) as temporary:
            yield Pngs(temporary)
        return
    with replacing(path) as temporary:
        made = Mp4(temporary, size, fps) if kind == "mp4" else WebP(temporary, fps) if kind == "webp" else Png(temporary)
        try:
            yield made
        finally:
            made.close()
        _check_written(temporary, path)


def _check_written(temporary: Path, path: Path) -> None:
    """Sync a finished file. ffmpeg on a full disk ends without an error of Python's."""
    if not temporary.exists() or temporary.stat().st_size == 0:
        raise OSError(28, "nothing could be written (is the disk full?)", str(path))
    descriptor = os.open(temporary, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder`` that takes its name at the end; one of that name is removed then."""
    temporary = folder.parent / f".tmp-{secrets.token_hex(8)}"
    try:
        yield temporary
        if folder.exists():
            old = folder.parent / f".tmp-{secrets.token_hex(8)}"
            os.rename(folder, old)
            os.rename(temporary, folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(temporary, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def holds_frames_only(folder: Path) -> bool:
    """Whether a folder has nothing but frames of an earlier render, so that it may be replaced."""
    names: Iterable[str] = (path.name for path in folder.iterdir())
    return all(name.startswith("frame-") and name.endswith(".png") for name in names)
