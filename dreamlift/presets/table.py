"""Writes the table of all presets' settings, which :mod:`dreamlift.config.table` reads.

python -m dreamlift.presets.table      # needed after every change of a setting or a preset; a test compares the table
"""

from __future__ import annotations

import json

from dreamlift.config.short import describe
from dreamlift.config.table import PATH
from dreamlift.presets import ABOUT
from dreamlift.system.files import atomic_write_text


def make_table() -> str:
    """The text of the table. Types and comments, which repeat, are stored once."""
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
    atomic_write_text(PATH, make_table())
