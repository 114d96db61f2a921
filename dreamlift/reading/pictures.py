"""Reading a user's file as a whole, with a limit on its size, before a decoder sees it."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_plain(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes; devices and pipes are refused without blocking.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is an address, not a regular file, empty, too large, or cannot be opened.
    """
    text = str(path)
    if "://" in text or text.startswith(("http:/", "https:/", "ftp:/")):
        raise ValueError("an address is not opened: download the file first")
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {text!r}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"it cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise ValueError("it is not a plain file")
    with os.fdopen(handle, "rb") as file:
        size = found.st_size
        if size == 0:
            raise ValueError("it is empty")
        if size > limit:
            raise ValueError(f"it has {size / 2**20:.0f} MiB; accepted: at most {limit >> 20} MiB")
        return file.read(limit)
