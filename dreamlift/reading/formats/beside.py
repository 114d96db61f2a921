"""The files that a mesh file names: material files and pictures, in its own folder or in folders below it.

Such names come from other machines ("C:\\old\\tex.png"), so that only their last part counts, in any letter case. Whatever is
not found, or cannot be read, is left out, with a note; a mesh is never refused for it.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from functools import cached_property
from pathlib import Path

import numpy as np

from dreamlift.reading.formats.lines import decoded
from dreamlift.reading.pictures import TEXELS, decoded_picture

SIDE_BYTES = 64 << 20  # largest file that a mesh file names
FILES = 256  # largest number of files that a mesh file may name
SEEN, DEPTH = 20_000, 4  # entries of folders that are looked at, and levels below the mesh's folder


class Beside:
    """The files below one folder, by the names that a mesh file has for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.texels = TEXELS  # that are left
        self.known: dict[str, bytes | None] = {}
        self.pictures: dict[str, np.ndarray | None] = {}
        self.transparent = False

    @cached_property
    def places(self) -> dict[str, Path]:
        """The path of each plain name; where it occurs twice, the one nearest to the mesh."""
        found: dict[str, Path] = {}
        level, seen = [self.folder], 0
        for _ in range(DEPTH):
            below = []
            for folder in level:
                try:
                    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
                except OSError:
                    continue
                for entry in entries:
                    seen += 1
                    if seen > SEEN:
                        return found
                    if entry.is_dir(follow_symlinks=False):
                        below.append(Path(entry.path))
                    else:
                        found.setdefault(plain(entry.name), Path(entry.path))
            level = below
        return found

    def read(self, name: bytes, what: str) -> bytes | None:
        """The bytes of the named file; None, with a note, where there is none. Raises ValueError for too many names."""
        text = decoded(name).strip().strip("\"'").strip()
        key = plain(text)
        if key in self.known:
            return self.known[key]
        if len(self.known) == FILES:
            raise ValueError(f"it names more than {FILES} files: join its materials or pictures")
        self.known[key] = None
        if not key:
            self.notes.append(f"a statement names no {what}")
        elif key not in self.places:
            self.notes.append(f"the {what} {shown(text)} was not found in its folder or below it")
        else:
            try:
                self.known[key] = read_file(self.places[key])
            except ValueError as error:
                self.notes.append(f"the {what} {shown(text)} {error}")
        return self.known[key]

    def has(self, name: bytes) -> bool:
        """Whether there is a file of this name."""
        return plain(decoded(name)) in self.places

    def picture(self, name: bytes) -> np.ndarray | None:
        """The picture ``(H, W, 3)`` uint8 of the named file; None, with a note, where there is none that can be read."""
        key = plain(decoded(name))
        if key not in self.pictures:
            data, self.pictures[key] = self.read(name, "picture"), None
            if data is not None:
                try:
                    image, transparent = decoded_picture(data, self.texels)
                    self.pictures[key] = image
                    self.texels -= image.shape[0] * image.shape[1]
                    self.transparent |= transparent
                except ValueError as error:
                    self.notes.append(f"the picture {shown(decoded(name))} {error}")
        return self.pictures[key]


def plain(name: str) -> str:
    """The last part of a path of any system, in a form that is equal for all letter cases and spellings of accents."""
    last = re.split(r"[/\\]", name.strip().strip("\"'").strip())[-1]
    return unicodedata.normalize("NFC", last).casefold()


def shown(name: str) -> str:
    """A name in a note."""
    return repr(name if len(name) <= 60 else name[:57] + "...")


def read_file(path: Path) -> bytes:
    """The bytes of a plain file. Raises ValueError, a phrase, for links, pipes, folders and large files."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
                         | getattr(os, "O_BINARY", 0))  # fmt: skip
    except OSError as error:
        raise ValueError(f"cannot be opened ({error.strerror}; links are not followed)") from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_size > SIDE_BYTES:
        os.close(handle)
        raise ValueError(f"is not a plain file of at most {SIDE_BYTES >> 20} MiB")
    with os.fdopen(handle, "rb") as file:
        return file.read(SIDE_BYTES)
