"""Reading a picture that is not trusted, as a viewer would show it: upright, in sRGB, with 8 bits and straight alpha."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.reading.pictures import read_plain
from dreamlift.system.files import address_of, expanded
from dreamlift.system.text import listed

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")
ACCEPTED = "PNG, JPEG, WebP, TIFF, BMP, GIF and AVIF"
FILE_BYTES = 64 << 20
PIXELS = 8192 * 8192  # of one file; decoded, such a picture has 268 MB
SIDE = (16, 16384)  # smallest and largest accepted width and height, pixels
PROFILE_BYTES = 4 << 20  # of a colour profile
_sound: dict[bytes, bytes] = {}  # of files that have been decoded: the digest of the bytes, and that of the pixels
# What a file begins with, at which byte, and how it is called; these are not read.
OTHER = (
    (4, (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftyphevc", b"ftypheim"), "a HEIC picture, as iPhones take them"),
    (4, (b"ftypavif", b"ftypavis"), "an AVIF picture, and the installed Pillow cannot read it"),
    (0, (b"%PDF",), "a PDF"), (0, (b"8BPS",), "a Photoshop document"), (0, (b"<svg", b"<?xml"), "an SVG drawing"),
    (4, (b"ftyp",), "a film or a camera's raw picture"), (0, (b"\x1aE\xdf\xa3",), "a film"),
)  # fmt: skip


def ignore(text: str) -> None:
    """Discard a message."""


def read_picture(path: str | os.PathLike[str], note: Callable[[str], None] = ignore) -> np.ndarray:
    """The picture in a file: ``(H, W, 4)`` uint8, sRGB and straight alpha (255 everywhere if the file has none).

    EXIF's turn and the colour profile are applied; 16 bits are rounded to 8; CMYK, palettes and greyscale are converted.

    Args:
        note: gets what could not be taken over, in one line.

    Raises:
        ValueError: a file that is missing, too large, damaged, no still picture, or of another format; one line with the fix.
    """
    with explained(path):
        return decoded(picture_bytes(path), note)


def check_picture(path: str | os.PathLike[str]) -> None:
    """Refuse a picture as :func:`read_picture`; what has been decoded once by this call is not decoded again."""
    _pixels(path)


def same_pictures(paths: Sequence[str]) -> list[str]:
    """The files whose pictures have the same pixels, as text: "a.png, b.png and c.png", one entry for each such picture.

    Formats and metadata do not count. What :func:`check_picture` has decoded is not decoded again.

    Raises:
        ValueError: as :func:`read_picture`.
    """
    found: dict[bytes, list[str]] = {}
    for path in paths:
        found.setdefault(_pixels(path), []).append(Path(path).name)
    return [listed(names) for names in found.values() if len(names) > 1]


def _pixels(path: str | os.PathLike[str]) -> bytes:
    """A digest of the pixels in a file, and of their number. Raises ValueError as :func:`read_picture`."""
    with explained(path):
        data = picture_bytes(path)
        digest = hashlib.sha256(data).digest()
        if digest not in _sound:
            picture = decoded(data)
            _sound[digest] = hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()
        return _sound[digest]


def picture_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a picture's file. Raises ValueError or OSError."""
    return read_plain(expanded(path), FILE_BYTES)


@contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the photo in an error."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"the photo {address_of(path) or os.fspath(path)!r} cannot be used: {error}") from error


def decoded(data: bytes, note: Callable[[str], None] = ignore) -> np.ndarray:
    """The picture ``(H, W, 4)`` in a file's bytes; as :func:`read_picture`. Raises ValueError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, about large pictures and odd metadata
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check(image)
                return _as_rgba(image, note)
    except Image.DecompressionBombError:
        raise ValueError(f"it has far more pixels than are accepted (at most {PIXELS:,}): scale it down") from None
    except UnidentifiedImageError:
        raise ValueError(f"it is {_called(data)}; save it as PNG or JPEG (accepted: {ACCEPTED})") from None
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise ValueError(f"it is damaged ({type(error).__name__}: {str(error)[:100]}); save it anew as PNG or JPEG") from error


def _check(image: Any) -> None:
    """Refuse a picture by its header, before its pixels are decoded."""
    least, most = SIDE
    size = f"it has {image.width} x {image.height} pixels"
    if min(image.size) < least:
        raise ValueError(f"{size}; accepted: at least {least} a side, and details need some 256")
    if max(image.size) > most or image.width * image.height > PIXELS:
        raise ValueError(f"{size}; accepted: at most {most} a side and {PIXELS:,} in all; scale it down")
    # A JPEG file of a phone may hold a second picture beside its first, such as a depth map.
    if image.format not in ("JPEG", "MPO") and getattr(image, "is_animated", False):
        what = "has several pages" if image.format == "TIFF" else "is an animation"
        raise ValueError(f"it {what}; save one of its {'pages' if image.format == 'TIFF' else 'frames'} as PNG")


def _called(data: bytes) -> str:
    """What kind of file it is, by its first bytes."""
    for start, marks, name in OTHER:
        if data[start : start + 16].lstrip().startswith(marks):
            return name
    return "not a picture that can be read"


def _as_rgba(image: Any, note: Callable[[str], None]) -> np.ndarray:
    """``(H, W, 4)`` uint8 of an opened picture."""
    from PIL import Image, ImageOps

    image.load()
    try:
        image = ImageOps.exif_transpose(image)  # cameras store the turn instead of turning the picture
    except Exception:  # damaged metadata
        note("its EXIF data is damaged: it may be shown turned")
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_wide(image)
    transparency = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(transparency, tuple) and max(transparency) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in transparency)  # as Pillow shortens the pixels
    profile = image.info.get("icc_profile")
    whole = image.convert("RGBA")
    if profile and len(profile) <= PROFILE_BYTES:
        color = image if image.mode in ("CMYK", "L") else whole.convert("L" if image.mode == "LA" else "RGB")
        if (managed := _in_srgb(color, profile, note)) is not None:
            whole = Image.merge("RGBA", (*managed.split(), whole.getchannel("A")))
    return np.array(whole)


def _from_wide(image: Any) -> np.ndarray:
    """A greyscale picture of 16 bits, which Pillow's own conversion would clip to 255: v / 257, rounded."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels are floats or 32-bit numbers of no known range; save it with 8 or 16 bits")
    alpha = np.full(values.shape, 255, np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):
        alpha[values == clear] = 0
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.stack([grey, grey, grey, alpha], axis=-1)


def _in_srgb(image: Any, profile: bytes, note: Callable[[str], None]) -> Any:
    """The colours in sRGB, by the picture's own colour profile; None if they are sRGB already, or it cannot be applied."""
    try:
        from PIL import ImageCms

        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "RGB" and "srgb" in ImageCms.getProfileDescription(own).lower():
            return None
        return ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:  # a Pillow without LittleCMS, or a damaged profile
        note("its color profile cannot be applied: colors may be slightly off")
        return None
