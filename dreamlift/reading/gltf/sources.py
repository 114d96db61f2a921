"""Bytes that a document names by a URI: written into it (``data:``), or in a file in its folder or below; no others."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from dreamlift.reading.formats.beside import Beside, plain
from dreamlift.reading.pictures import read_plain

SIDE_BYTES = 256 << 20  # largest number over all files that a document names


class Sources:
    """What may be read beside one file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.room = SIDE_BYTES
        self.beside = Beside(folder)

    def read(self, uri: Any, what: str) -> bytes:
        """The bytes that ``uri`` names; ``what`` names their purpose in errors.

        Where there is no file of that path, one of the same name in the folder or below is taken, in any letter case.

        Raises:
            ValueError: it is no readable data, an address, outside of the folder (also by a link), no plain file, or the
                files are too large together.
        """
        if not isinstance(uri, str) or not uri:
            raise ValueError(f"{what} has no data")
        if uri[:5].lower() == "data:":
            return _data(uri, what)
        names = [name.replace("\\", "/") for name in dict.fromkeys((unquote(uri), uri))]
        if "://" in uri or re.search(r"[\x00-\x1f]", names[0] + uri):
            raise ValueError(f"{what} is {uri[:80]!r}, which is not opened: only files in the folder of the mesh are")
        reason = f"{what} is in the file {names[0][:80]!r}, which is not there"
        for path in (*(self.folder / name for name in names if ":" not in name), self.beside.places.get(plain(names[0]))):
            try:
                data = read_plain(self._inside(path), self.room) if path is not None else None
            except FileNotFoundError:
                continue
            except ValueError as error:
                reason = f"{what} is {names[0][:80]!r}, which cannot be used: {error}"
                continue
            if data is not None:
                self.room -= len(data)
                return data
        raise ValueError(reason)

    def _inside(self, path: Path) -> Path:
        try:
            root, path = self.folder.resolve(), path.resolve()
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
