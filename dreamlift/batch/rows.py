"""The list of a batch: one asset a line in a .txt, .csv or .jsonl file; its columns are options of ``dreamlift generate``.

::

    prompts.txt     a red mug                       one prompt a line; empty lines and lines that begin with # are skipped
    prompts.csv     prompt,seed,guidance.guidance_scale
                    a red mug,3,7.5                 an empty cell is the default
    prompts.jsonl   {"prompt": "a red mug", "seed": 3, "cameras.resolution": [64]}
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dreamlift.apps.options import FILE_FLAGS, FILES, SETTINGS, suggestion
from dreamlift.config.table import rows_of
from dreamlift.system.files import user_file
from dreamlift.system.text import one_line, read_text

KINDS = (".txt", ".csv", ".jsonl")
WRITE = {  # what an empty list lacks
    ".txt": "write one prompt a line",
    ".csv": "write the columns in the first line, such as prompt,seed, and below it one asset a line",
    ".jsonl": 'write an object a line, such as {"prompt": "a red mug"}',
}
MAX_BYTES, MAX_ROWS = 200_000_000, 100_000
SHOWN = 10  # faulty lines that are named
# Options of generate that are no settings. "name" is the folder of the asset.
OTHERS = ("prompt", "name", "preset", "image", "photos", "class", "word", "context", "config", "lora", "embedding", "anyway")
REFUSED = {"out": "call the column name", "device": "give --device once, for all", "class_name": "call the column class"}
COLUMNS = frozenset({*(name for name in SETTINGS if name != "device"), *FILES, *FILE_FLAGS, *OTHERS})


@dataclass(frozen=True)
class Row:
    """One asset of the list, as text."""

    line: int  # in the file, counted from 1
    cells: dict[str, str]  # by column; options are spelled with underscores, settings with dots


class RowsError(ValueError):
    """Faulty lines, all together; ``told`` has a line of text for each of the first ones."""

    def __init__(self, text: str, told: list[str]) -> None:
        super().__init__(text)
        self.told = told


def read_rows(path: Path) -> list[Row]:
    """The rows of a list.

    Raises:
        RowsError: lines or columns that are not accepted.
        ValueError: a file that cannot be used; one line with the fix.
    """
    file = user_file(str(path), "list", f"give a {', '.join(KINDS[:2])} or {KINDS[2]} file with one asset a line")
    kind = file.suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{str(path)!r} is no list: accepted are {', '.join(KINDS)} files, one asset a line")
    text = read_text(file, MAX_BYTES)
    rows, faults = {".txt": _from_text, ".csv": _from_csv, ".jsonl": _from_jsonl}[kind](text)
    if len(rows) > MAX_ROWS:
        raise ValueError(
            f"{str(path)!r} has {len(rows):,} assets; accepted: at most {MAX_ROWS:,}; divide it into several files"
        )
    refuse_faults(path, faults)
    if not rows:
        raise ValueError(f"{str(path)!r} has no assets: {WRITE[kind]}")
    return rows


def refuse_faults(path: Path, faults: Iterable[tuple[int, str]]) -> None:
    """Raise RowsError with the first faulty lines and the number of the others, where there are any.

    Faults with the same text are told once.
    """
    lines: dict[str, list[int]] = {}
    for line, text in faults:
        lines.setdefault(text, []).append(line)
    if not lines:
        return
    total = len({line for found in lines.values() for line in found})
    told = []
    for text, found in sorted(lines.items(), key=lambda pair: pair[1][0])[:SHOWN]:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        told.append(f"line {found[0]}{more}: {one_line(text, 260)}")
    if len(lines) > SHOWN:
        told.append(f"and {len(lines) - SHOWN} further faults")
    what = "1 line" if total == 1 else f"{total} lines"
    raise RowsError(f"{what} of {path} cannot be used, and nothing was started: mend what is listed above", told)


Faults = list[tuple[int, str]]


def _from_text(text: str) -> tuple[list[Row], Faults]:
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [Row(number, {"prompt": line}) for number, line in lines if line and not line.startswith("#")], []


def _from_csv(text: str) -> tuple[list[Row], Faults]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    faults: Faults = []
    head: list[str] = []
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if not head:
                head = [_spelled(cell) for cell in cells]
                faults += [(line, fault) for fault in _bad_columns(head)]
                if len(head) == 1 and ";" in head[0]:
                    faults = [(line, "the columns are separated by semicolons: save the file with commas")]
                if faults:
                    return [], faults
            elif len(cells) != len(head):
                faults.append((line, f"{len(cells)} cells, but there are {len(head)} columns; put text with commas in quotes"))
            else:
                rows.append(Row(line, {name: cell.strip() for name, cell in zip(head, cells, strict=True) if cell.strip()}))
    except csv.Error as error:
        faults.append((reader.line_num, f"it is no CSV: {error}"))
    return rows, faults


def _from_jsonl(text: str) -> tuple[list[Row], Faults]:
    rows: list[Row] = []
    faults: Faults = []
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            found = json.loads(content, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            faults.append((line, f"it is no JSON: {str(error).partition(': line')[0]}"))
            continue
        if not isinstance(found, dict):
            faults.append((line, f'it is a {type(found).__name__}; accepted: an object such as {{"prompt": "a red mug"}}'))
            continue
        names = [_spelled(name) for name in found]
        faults += [(line, fault) for fault in _bad_columns(names)]
        cells = {name: _as_text(value) for name, value in zip(names, found.values(), strict=True) if value is not None}
        rows.append(Row(line, cells))
    return rows, faults


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _as_text(value: object) -> str:
    """A value of JSON as an option's text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _spelled(name: str) -> str:
    """A column's name as the parser has it: guidance.guidance_scale, texture_size (also written texture-size)."""
    name = name.strip().lstrip("-")
    return name if "." in name else name.replace("-", "_").lower()


def _bad_columns(names: list[str]) -> list[str]:
    """What is wrong with the columns: one that is unknown, or that stands there twice."""
    faults = [f"the column {name!r} stands there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    for name in dict.fromkeys(names):
        if name in REFUSED:
            faults.append(f"the column {name!r} is not accepted: {REFUSED[name]}")
        elif name not in COLUMNS and "." not in name and name not in _settings():
            near = suggestion(f"--{name}", [f"--{known}" for known in {*COLUMNS, *_settings()}]).replace("--", "")
            faults.append(f"the column {name!r} is unknown{near or '; accepted: prompt, seed, image and any setting'}")
    return faults


def _settings() -> set[str]:
    """The settings without a dot in their names."""
    return {name for name, *_ in rows_of("toybox") or [] if "." not in name} - {"device", "stages"}
