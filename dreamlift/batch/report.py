"""The end of a batch: a table of all assets, and a page that shows them. Both lie in ``report/``.

The page refers to the assets' turntables by relative paths and is divided into pages of 200, so that a batch of any size opens
fast; ``dreamlift gallery`` makes one that needs no other file.
"""

from __future__ import annotations

import csv
import html
import io
import statistics
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dreamlift.apps.gallery import STYLE
from dreamlift.batch.ledger import Entry, Ledger
from dreamlift.system.files import atomic_write_text

COLUMNS = (
    "folder",
    "state",
    "prompt",
    "seed",
    "attempts",
    "seconds",
    "peak_memory_gb",
    "faces",
    "roundtrip_psnr",
    "host",
    "reason",
    "list",  # newest or earlier
)
PAGE = 200  # assets a page
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would calculate such a cell


def write_report(ledger: Ledger, entries: list[Entry]) -> tuple[Path, dict[str, float]]:
    """Write ``report/table.csv`` and ``report/index.html`` with all assets of the folder, those of the newest list first.

    Returns:
        The latter, and the medians of the finished assets of ``entries``.
    """
    ended, chosen = ledger.ended(), {entry.id for entry in entries}
    every = ledger.entries()
    rows = [_row(ledger, entry, ended.get(entry.id, "")) for entry in every]
    folder = ledger.root / "report"
    folder.mkdir(exist_ok=True)
    atomic_write_text(folder / "table.csv", _table(rows))
    shown = [row for row in rows if row["state"] == "done"] + [row for row in rows if row["state"] == "failed"]
    pages = [shown[first : first + PAGE] for first in range(0, len(shown), PAGE)] or [[]]
    for number, part in enumerate(pages):
        atomic_write_text(folder / _name(number), _page(rows, part, number, len(pages)))
    figures = {}
    for name in ("seconds", "peak_memory_gb"):
        values = [
            float(row[name])
            for entry, row in zip(every, rows, strict=True)
            if entry.id in chosen and row["state"] == "done" and row[name] != ""
        ]
        if values:
            figures[f"median_{name}"] = round(statistics.median(values), 3)
    return folder / "index.html", figures


def _row(ledger: Ledger, entry: Entry, state: str) -> dict[str, Any]:
    detail = ledger.detail(entry, state) if state else {}
    found = {
        **detail,
        "folder": entry.folder,
        "state": state or "waiting",
        "prompt": entry.prompt,
        "seed": entry.seed,
        "attempts": detail.get("attempts", detail.get("attempt", "")),
        "list": "newest" if entry.listed else "earlier",
    }
    return {name: found.get(name, "") for name in COLUMNS}


def _table(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _name(number: int) -> str:
    return f"page-{number + 1}.html" if number else "index.html"


def _page(rows: list[dict[str, Any]], part: list[dict[str, Any]], number: int, count: int) -> str:
    states = [row["state"] for row in rows]
    title = (
        f"{len(rows)} assets: {states.count('done')} done, {states.count('failed')} given up, {states.count('waiting')} waiting"
    )
    links = (
        " ".join(f'<a href="{_name(each)}">{each + 1}</a>' if each != number else f"<b>{each + 1}</b>" for each in range(count))
        if count > 1
        else ""
    )
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>dreamlift batch</title><style>{STYLE}</style><h1>{title}</h1>"
        f'<p><a href="table.csv">table.csv</a> {links}</p><main>{"".join(map(_figure, part))}</main></html>\n'
    )


def _figure(row: dict[str, Any]) -> str:
    prompt, folder = html.escape(row["prompt"] or row["folder"]), quote(row["folder"])
    if row["state"] != "done":
        reason = html.escape(str(row["reason"]))
        return f"<figure><figcaption>{prompt}<br><small>given up: {reason}</small></figcaption></figure>"
    told = " · ".join(
        [
            row["folder"],
            *(
                f"{float(row[name]):.3g} {unit}"
                for name, unit in (("seconds", "s"), ("peak_memory_gb", "GB"))
                if row[name] != ""
            ),
        ]
    )
    return (
        f'<figure><a href="../{folder}/view.html"><img loading="lazy" alt="{prompt}, turning" src="../{folder}/turntable.webp">'
        f"</a><figcaption>{prompt}<br><small>{html.escape(told)}</small></figcaption></figure>"
    )
