"""Files of users, read whole and with a limit."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any


def read_plain(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes. A device, a folder or a pipe is refused, not waited for."""
    text = str(path)
    if "://" in text or text.startswith(("http:/", "https:/", "ftp:/")):
        raise ValueError("an address is not opened: download the file first")
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {text!r}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"it cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    with os.fdopen(handle, "rb") if stat.S_ISREG(os.fstat(handle).st_mode) else _refused(handle) as file:
        size = os.fstat(handle).st_size
        if size == 0:
            raise ValueError("it is empty")
        if size > limit:
            raise ValueError(f"it has {size / 2**20:.0f} MiB; accepted: at most {limit >> 20} MiB")
        return file.read(limit)


def _refused(handle: int) -> Any:
    os.close(handle)
    raise ValueError("it is not a plain file")
