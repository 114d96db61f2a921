"""Bytes that a document names by a URI: written into it (``data:``), or in a file in its folder or below; no others."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from dreamlift.reading.pictures import read_plain

SIDE_BYTES = 256 << 20  # largest number over all files that a document names


class Sources:
    """What may be read beside one file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.room = SIDE_BYTES

    def read(self, uri: Any, what: str) -> bytes:
        """The bytes that ``uri`` names; ``what`` names their purpose in errors.

        Raises:
            ValueError: it is no readable data, an address, outside of the folder (also by a link), no plain file, or the
                files are too large together.
        """
        if not isinstance(uri, str):
            raise ValueError(f"{what} has no data")
        if uri[:5].lower() == "data:":
            return _data(uri, what)
        names = [name.replace("\\", "/") for name in dict.fromkeys((unquote(uri), uri))]
        if not uri or any(re.search(r"[:\x00-\x1f]", name) for name in names):  # an address, a drive or a stream
            raise ValueError(f"{what} is {uri[:80]!r}, which is not opened: only files in the folder of the mesh are")
        for name in names:
            try:
                data = read_plain(self._inside(name, what), self.room)
            except FileNotFoundError:
                continue
            except ValueError as error:
                raise ValueError(f"{what} is {name[:80]!r}, which cannot be used: {error}") from None
            self.room -= len(data)
            return data
        raise ValueError(f"{what} is in the file {names[0][:80]!r}, which is not there")

    def _inside(self, name: str, what: str) -> Path:
        try:
            root = self.folder.resolve()
            path = (root / name).resolve()
        except (OSError, RuntimeError, ValueError):  # a circle of links; a name that no file can have
            raise ValueError("no file can be found by that name") from None
        if not path.is_relative_to(root):
            raise ValueError("it is not in the folder of the mesh, and nothing outside of it is opened")
        return path


def _data(uri: str, what: str) -> bytes:
    head, _, body = uri.partition(",")
    if head[-7:].lower() != ";base64":
        return unquote_to_bytes(body)
    try:
        text = "".join(body.split()).rstrip("=").encode("ascii")
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{what} is not readable base64") from None
