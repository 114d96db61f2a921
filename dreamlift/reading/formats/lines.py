"""The lines of a text file as NumPy arrays, so that millions of them are parsed without a loop in Python."""

from __future__ import annotations

import codecs
import itertools
import re
import warnings
from functools import cached_property

import numpy as np

MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
COMMA = re.compile(rb"(?<!\S)[-+]?\d*,\d+(?:[eE][-+]?\d+)?(?!\S)")
VERTEX = (b"v", b"vt", b"vn", b"vertex")  # first words of lines with coordinates, in OBJ and STL
SPACES = bytes(c if c > 32 or c == 10 else 32 for c in range(256))  # for bytes.translate


def plain_text(data: bytes) -> bytes:
    """The text with line feeds only, without its byte order mark; UTF-16 becomes UTF-8. Raises ValueError for binary data."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            data = data[len(mark) :]
            if encoding != "utf-8":
                data = data.decode(encoding, "replace").encode("utf-8", "replace")
            break
    if b"\0" in data[: 1 << 16]:
        raise ValueError("it is not text")
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def decoded(text: bytes) -> str:
    """A name or comment as text: UTF-8, or else cp1252, as older programs on Windows write it."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("cp1252", "replace")


def numbers(text: bytes, count: int) -> np.ndarray:
    """The ``count`` words of a text as float64; NaN for a word that is no number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it stops at a word that it cannot read
        try:
            values = np.fromstring(text, sep=" ")
        except ValueError:
            values = np.empty(0)
    return values if len(values) == count else np.array([_number(word) for word in text.split()], dtype=np.float64)


def _number(word: bytes) -> float:
    try:
        return float(word)
    except ValueError:
        return float("nan")


def decimal_comma(data: bytes) -> str:
    """What to say of a mesh file in text whose coordinates have decimal commas; "" for one without."""
    try:
        text = plain_text(data)
    except ValueError:  # binary
        return ""
    for found in itertools.islice(COMMA.finditer(text), 1000):
        begin = text.rfind(b"\n", 0, found.start()) + 1
        before = text[begin : found.start()].split()
        if not np.isnan([_number(word) for word in before if word not in VERTEX]).any():
            line = text.count(b"\n", 0, begin) + 1
            return f"line {line}: {decoded(found[0])[:40]!r} is no number (a decimal comma? write a point)"
    return ""


class Lines:
    """The lines of a text that are not blank. A line's first word is its keyword."""

    def __init__(self, text: bytes) -> None:
        """``text`` is that of :func:`plain_text`."""
        self.text = text.translate(SPACES) + b"\n"
        self.bytes = np.frombuffer(self.text, np.uint8)
        solid = self.bytes > 32
        words = np.flatnonzero(solid[1:] & ~solid[:-1]) + 1
        if solid[0]:
            words = np.concatenate([[0], words])
        breaks = np.flatnonzero(self.bytes == 10)
        line = np.searchsorted(breaks, words)
        first = np.flatnonzero(np.diff(line, prepend=-1))
        self.words = words  # (W,) where words begin
        self.first = first  # (L,) each line's first word
        self.counts = np.diff(np.append(first, len(words)))  # (L,) words, the keyword among them
        self.begins = words[first]  # (L,) where lines begin
        self.ends = breaks[line[first]]  # (L,) where their line feeds are

    def __len__(self) -> int:
        return len(self.begins)

    def starting(self, keyword: bytes) -> np.ndarray:
        """The numbers ``(N,)`` of the lines with this keyword."""
        found = np.arange(len(self.begins))
        for offset, letter in enumerate(keyword):
            place = np.minimum(self.begins[found] + offset, len(self.bytes) - 1)
            found = found[self.bytes[place] == letter]
        return found[self.bytes[self.begins[found] + len(keyword)] <= 32]

    @cached_property
    def _after(self) -> np.ndarray:
        """Where each line's second word begins, or its end."""
        second = self.first + 1
        inside = self.counts > 1
        return np.where(inside, self.words[np.minimum(second, len(self.words) - 1)], self.ends)

    def rest(self, line: int) -> bytes:
        """A line without its keyword and the spaces around."""
        return self.text[self._after[line] : self.ends[line]].strip()

    def keyword(self, line: int) -> bytes:
        """A line's first word, at most 40 bytes of it."""
        return self.text[self.begins[line] : min(self.ends[line], self.begins[line] + 40)].split()[0]

    def gathered(self, chosen: np.ndarray) -> np.ndarray:
        """The bytes of some lines without their keywords; each ends with its line feed."""
        begins, lengths = self._after[chosen], self.ends[chosen] + 1 - self._after[chosen]
        if not len(chosen):
            return np.empty(0, np.uint8)
        steps = np.zeros(int(self.ends[chosen[-1]]) + 2 - int(begins[0]), np.int8)
        steps[begins - begins[0]] = 1
        steps[begins - begins[0] + lengths] -= 1
        inside = np.cumsum(steps[:-1], dtype=np.int8) > 0
        return self.bytes[begins[0] : begins[0] + len(inside)][inside]

    def table(self, chosen: np.ndarray, least: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of some lines: ``(N, most)`` float64, NaN where a line has fewer, and how many each has ``(N,)``.

        Raises:
            ValueError: a line has fewer than ``least``.
        """
        counts = self.counts[chosen] - 1
        if len(chosen) and counts.min() < least:
            bad = self.text[self.begins[chosen[counts.argmin()]] : self.ends[chosen[counts.argmin()]]][:60]
            raise ValueError(f"its line {decoded(bad)!r} has fewer than {least} numbers")
        values = numbers(self.gathered(chosen).tobytes(), int(counts.sum()))
        if len(chosen) and (counts == counts[0]).all():
            values = values.reshape(len(chosen), counts[0])[:, :most]
            missing = np.full((len(chosen), most - values.shape[1]), np.nan)
            return np.concatenate([values, missing], axis=1), counts
        begins = np.cumsum(counts) - counts
        place = begins[:, None] + np.arange(most)
        inside = np.arange(most) < counts[:, None]
        values = np.append(values, np.nan)
        return np.where(inside, values[np.where(inside, place, len(values) - 1)], np.nan), counts
