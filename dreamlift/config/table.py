"""The settings of all presets as a table in the package, so that ``dreamlift settings`` does not import torch.

``python -m dreamlift.presets.table`` writes the table; a test compares it with the presets.
"""

from __future__ import annotations

import json
from pathlib import Path

Row = tuple[str, str, str, str]  # dotted name, type, value, comment
PATH = Path(__file__).parent / "table.json"


def rows_of(preset: str) -> list[Row] | None:
    """The rows of ``dreamlift settings --preset``; None if the table has no such preset."""
    table = json.loads(PATH.read_text(encoding="utf-8"))
    rows = table["presets"].get(preset)
    if rows is None:
        return None
    kinds, comments = table["kinds"], table["comments"]
    return [(name, kinds[kind], value, comments[comment]) for name, kind, value, comment in rows]
