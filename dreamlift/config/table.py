"""Every preset's settings as a table that ships with the package, so that ``dreamlift settings`` answers without torch.

python -m dreamlift.config.table      # writes it anew; a test fails where it is out of date
"""

from __future__ import annotations

import json
from pathlib import Path

Row = tuple[str, str, str, str]  # dotted name, type, value, comment
PATH = Path(__file__).parent / "table.json"


def rows_of(preset: str) -> list[Row] | None:
    """The rows of ``dreamlift settings --preset``; None where the table has no such preset."""
    table = json.loads(PATH.read_text(encoding="utf-8"))
    rows = table["presets"].get(preset)
    if rows is None:
        return None
    kinds, comments = table["kinds"], table["comments"]
    return [(name, kinds[kind], value, comments[comment]) for name, kind, value, comment in rows]


def make_table() -> str:
    """The file's text, of the presets of the package. Types and comments, which repeat, are stored once."""
    from dreamlift.config.short import describe
    from dreamlift.presets import ABOUT

    kinds: dict[str, int] = {}
    comments: dict[str, int] = {}
    presets = {
        name: [
            [row, kinds.setdefault(kind, len(kinds)), value, comments.setdefault(comment, len(comments))]
            for row, kind, value, comment in describe(preset.config)
        ]
        for name, preset in ABOUT.items()
    }
    table = {"kinds": list(kinds), "comments": list(comments), "presets": presets}
    return json.dumps(table, indent=None, separators=(",", ":"), ensure_ascii=False).replace('],["', '],\n["') + "\n"


if __name__ == "__main__":
    from dreamlift.system.files import atomic_write_text

    atomic_write_text(PATH, make_table())
