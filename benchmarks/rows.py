"""Finished runs in one picture: their exported files from eight sides.

    python benchmarks/rows.py outputs/quality/*/ --columns 2 --out docs/pictures/forty-eight.png

A row a run, in the order in which they are named, down the first column, then down the next one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

VIEWS = 8
GAP = 10  # pixels between groups


def file_views(folder: Path, size: int) -> list[Image.Image]:
    """The exported file of a run from its eight sides, ``size`` pixels each: the lower half of its preview."""
    preview = Image.open(folder / "preview.png").convert("RGB")
    low = preview.crop((0, preview.height // 2, preview.width, preview.height))
    low = low.resize((VIEWS * size, size), Image.Resampling.LANCZOS)
    return [low.crop((view * size, 0, (view + 1) * size, size)) for view in range(VIEWS)]


def draw_rows(folders: list[Path], columns: int, size: int, group: int) -> Image.Image:
    """The files of run ``folders``, ``size`` pixels a view, with a gap after every ``group`` rows."""
    rows = -(-len(folders) // columns)
    sheet = Image.new("RGB", (columns * VIEWS * size, rows * size + (rows - 1) // group * GAP), "white")
    for number, folder in enumerate(folders):
        column, row = divmod(number, rows)
        for view, picture in enumerate(file_views(folder, size)):
            sheet.paste(picture, ((column * VIEWS + view) * size, row * size + row // group * GAP))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--columns", type=int, default=1)
    parser.add_argument("--size", type=int, default=64, help="pixels of a view")
    parser.add_argument("--group", type=int, help="rows between two gaps; default: no gaps")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if missing := [str(run) for run in arguments.runs if not (run / "preview.png").is_file()]:
        parser.error(f"no preview.png in {', '.join(missing)}: name folders of finished runs")
    group = arguments.group or len(arguments.runs)
    draw_rows(arguments.runs, arguments.columns, arguments.size, group).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
