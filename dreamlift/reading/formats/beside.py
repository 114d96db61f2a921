"""The files that a mesh file names: material files and pictures, in its own folder or in folders below it.

Such names come from other machines ("C:/old/tex.png", with either slash), so that only their last part has to agree, in any
letter case; among files of one name, the folders of the stated path choose. What is not found, or cannot be read, is left out,
with a note; a mesh is never refused for it.
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
from dreamlift.system.files import open_to_read

SIDE_BYTES = 64 << 20  # largest file that a mesh file names
FILES = 256  # largest number of files that a mesh file may name
SEEN, DEPTH = 20_000, 3  # entries of folders below the mesh's that are looked at, and levels


class Beside:
    """The files in and below one folder, by the names that a mesh file has for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.texels = TEXELS  # that are left
        self.known: dict[str, bytes | None] = {}
        self.pictures: dict[str, np.ndarray | None] = {}
        self.transparent = False

    @cached_property
    def own(self) -> tuple[list[Path], list[Path]]:
        """The files of the folder itself, and the folders in it."""
        return entries(self.folder)

    @cached_property
    def below(self) -> list[Path]:
        """The files of the folders below, the nearest first."""
        found: list[Path] = []
        level, seen = self.own[1], 0
        for _ in range(DEPTH):
            following: list[Path] = []
            for folder in level:
                files, folders = entries(folder)
                seen += len(files) + len(folders)
                if seen > SEEN:
                    return found
                found += files
                following += folders
            level = following
        return found

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """All files by the last part of their paths, the nearest first."""
        found: dict[str, list[Path]] = {}
        for path in (*self.own[0], *self.below):
            found.setdefault(parts_of(path.name)[-1], []).append(path)
        return found

    def find(self, name: bytes) -> Path | None:
        """The file that a name means: of those of its last part, the one that agrees in most folders, or is nearest."""
        wanted = parts_of(decoded(name))
        if len(wanted) == 1:
            beside = next((path for path in self.own[0] if parts_of(path.name) == wanted), None)
            if beside is not None:
                return beside
        found = self._by_name.get(wanted[-1], []) if wanted else []
        return max(found, key=lambda path: _agreement(parts_of(str(path.relative_to(self.folder))), wanted), default=None)

    def read(self, name: bytes, what: str) -> bytes | None:
        """The bytes of the named file; None, with a note, where there is none. Raises ValueError for too many names."""
        text = decoded(name)
        key = "/".join(parts_of(text))
        if key in self.known:
            return self.known[key]
        if len(self.known) == FILES:
            raise ValueError(f"it names more than {FILES} files: join its materials or pictures")
        self.known[key] = None
        path = self.find(name)
        if not key:
            self.notes.append(f"a statement names no {what}")
        elif path is None:
            self.notes.append(f"the {what} {shown(text)} was not found in its folder or below it")
        else:
            try:
                self.known[key] = read_file(path)
            except ValueError as error:
                self.notes.append(f"the {what} {shown(text)} {error}")
        return self.known[key]

    def picture(self, name: bytes) -> np.ndarray | None:
        """The picture ``(H, W, 3)`` uint8 of the named file; None, with a note, where there is none that can be read."""
        key = "/".join(parts_of(decoded(name)))
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


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files in a folder, and the folders, without links to any; none where it cannot be listed."""
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
        folders = [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return [], []
    known = set(folders)
    return [path for entry in found if (path := Path(entry.path)) not in known], folders


def parts_of(name: str) -> list[str]:
    """The parts of a path of any system, in a form that is equal for all letter cases and spellings of accents."""
    parts = [part.strip() for part in re.split(r"[/\\]", name.strip().strip("\"'"))]
    return [unicodedata.normalize("NFC", part).casefold() for part in parts if part not in ("", ".", "..")]


def _agreement(found: list[str], wanted: list[str]) -> int:
    """The number of parts, counted from the last one, in which two paths agree."""
    pairs = zip(reversed(found), reversed(wanted), strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(found), len(wanted)))


def shown(name: str) -> str:
    """A name in a note."""
    name = name.strip().strip("\"'").strip()
    return repr(name if len(name) <= 60 else name[:57] + "...")


def read_file(path: Path) -> bytes:
    """The bytes of a plain file. Raises ValueError, a phrase, for links, pipes, folders and large files."""
    try:
        handle, found = open_to_read(path, links=False)
    except OSError as error:
        raise ValueError(f"cannot be opened ({error.strerror}; links are not followed)") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size > SIDE_BYTES:
        os.close(handle)
        raise ValueError(f"is not a plain file of at most {SIDE_BYTES >> 20} MiB")
    with os.fdopen(handle, "rb") as file:
        return file.read(SIDE_BYTES)
