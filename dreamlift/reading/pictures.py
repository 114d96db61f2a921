"""Reading a user's file as a whole, with a limit on its size, and decoding pictures, with a limit on their texels."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import numpy as np

from dreamlift.system.files import address_of, not_fetched, open_to_read

PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "TGA", "TIFF", "DDS")
TEXELS = 8192 * 8192  # largest number over all of a mesh file's pictures


def read_plain(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes; devices and pipes are refused without blocking.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is an address, not a regular file, empty, too large, or cannot be opened.
    """
    text = str(path)
    if found := address_of(text):
        raise ValueError(not_fetched(found))
    try:
        handle, found = open_to_read(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {text!r}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"it cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise ValueError("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is not a plain file")
    with os.fdopen(handle, "rb") as file:
        size = found.st_size
        if size == 0:
            raise ValueError("it is empty")
        if size > limit:
            raise ValueError(f"it has {size / 2**20:.0f} MiB; accepted: at most {limit >> 20} MiB")
        return file.read(limit)


def decoded_picture(data: bytes, texels: int) -> tuple[np.ndarray, bool]:
    """A picture ``(H, W, 3)`` uint8 sRGB, and whether parts of it are transparent, which is not in the array.

    Args:
        texels: the largest accepted number; a picture's header is checked before it is decoded.

    Raises:
        ValueError: it is of another kind, damaged or too large.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=PICTURES) as image:
            size = image.width * image.height
            if size <= texels:
                if image.mode.startswith(("I", "F")):  # 16 bits; Pillow would clip instead of scaling
                    image = Image.fromarray(np.clip(np.asarray(image) / 257.0 + 0.5, 0, 255).astype(np.uint8))
                whole = np.array(image.convert("RGBA"))
                return np.ascontiguousarray(whole[..., :3]), bool((whole[..., 3] < 255).any())
    except Image.DecompressionBombError:
        pass
    except Exception as error:  # a damaged file can raise any exception
        raise ValueError(f"is not a readable {', '.join(PICTURES)} picture ({type(error).__name__})") from None
    raise ValueError(f"is too large: all textures together may have {TEXELS:,} texels (one of 8192 x 8192)")
