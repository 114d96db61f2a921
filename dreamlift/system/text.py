"""Text that is not trusted: messages for a terminal, and small files.

Messages quote what users and files say: prompts, names, paths, errors of libraries. A terminal would obey escape codes in
them, and U+202E would show the rest of the line in the other direction.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import unicodedata
from collections.abc import Sequence

from dreamlift.system.files import open_to_read

MAX_MESSAGE = 300  # characters of an error or a note
TAIL = 120  # of them, at the end of a shortened message
_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)


def printable(text: object) -> str:
    """``text`` with its line ends, control codes, direction overrides and invisible characters escaped as in Python's source
    (``\\n``, ``\\x1b``, ``\\u202e``)."""
    words = str(text)
    if words.isprintable():
        return words
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in words)


def one_line(text: object, limit: int = MAX_MESSAGE) -> str:
    """A message in one line of printable characters.

    It begins with the problem and ends with the fix, so a message of more than ``limit`` characters loses its middle.
    """
    shown, gap = printable(" ".join(str(text).split())), " ... "
    if len(shown) <= limit:
        return shown
    tail = min(TAIL, (limit - len(gap)) // 2)
    return shown[: limit - len(gap) - tail] + gap + shown[-tail:]


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """The text of a file: UTF-8, or what its byte order mark says (UTF-8, UTF-16), without the mark.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is no regular file, has more than ``limit`` bytes (which is known before it is read), or is in another
            encoding; one line with the file and the fix.
    """
    name = repr(str(path))
    handle, found = open_to_read(path)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{name} is not a regular file")
        data = b"" if found.st_size > limit else file.read(limit + 1)
    if (size := max(found.st_size, len(data))) > limit:
        raise ValueError(f"{name} has {size:,} bytes; accepted: at most {limit:,} bytes")
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise ValueError(f"{name} begins as UTF-16 text, but is not: save it as UTF-8") from None
        line, column = data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start)
        byte = f"the byte 0x{data[error.start]:02X} in line {line}, column {column}"
        raise ValueError(f"{name} is not UTF-8 text ({byte}; Latin-1 or Windows-1252?): save it as UTF-8") from None


def listed(words: Sequence[str]) -> str:
    """Words as a message lists them: "a", "a and b", "a, b and c"; "" for none."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def slugify(prompt: str) -> str:
    """A folder name that is valid on every system: letters and digits of any script and "-"; "asset" if none is left."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", prompt).lower())
    kept = "".join(c if unicodedata.category(c)[0] in "LM" or unicodedata.category(c) == "Nd" else "-" for c in text)
    # A combining mark needs a letter before it. The byte limit keeps the name with its time and a suffix below 255 bytes.
    kept = re.sub(r"-+", "-", kept).lstrip("-" + "".join(c for c in kept if unicodedata.category(c)[0] == "M"))
    slug = kept[:60].encode("utf-8")[:150].decode("utf-8", "ignore").strip("-")
    if not slug:
        return "asset"
    return f"{slug}-asset" if _WINDOWS.fullmatch(slug) else slug
