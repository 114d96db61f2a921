"""Finished runs in one picture: their exported files from eight sides, a row a run, in the order in which they are named.

python benchmarks/rows.py outputs/quality/*/ --columns 2 --out docs/pictures/forty-eight.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

VIEWS = 8  # of a preview, which shows the scene above and the file below
GAP = 10  # pixels between groups


def draw_rows(folders: list[Path], columns: int, size: int, group: int) -> Image.Image:
    """The files of run ``folders``, ``size`` pixels a view, down the first column, then down the next one.

    After every ``group`` rows there is a gap.
    """
    rows = -(-len(folders) // columns)
    width = VIEWS * size
    sheet = Image.new("RGB", (columns * width, rows * size + (rows - 1) // group * GAP), "white")
    for number, folder in enumerate(folders):
        preview = Image.open(folder / "preview.png").convert("RGB")
        below = preview.crop((0, preview.height // 2, preview.width, preview.height))
        column, row = divmod(number, rows)
        sheet.paste(below.resize((width, size), Image.Resampling.LANCZOS), (column * width, row * size + row // group * GAP))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--columns", type=int, default=1)
    parser.add_argument("--size", type=int, default=64, help="pixels of a view")
    parser.add_argument("--group", type=int, default=1000, help="rows before a gap")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if missing := [str(run) for run in arguments.runs if not (run / "preview.png").is_file()]:
        parser.error(f"no preview.png in {', '.join(missing)}: name folders of finished runs")
    draw_rows(arguments.runs, arguments.columns, arguments.size, arguments.group).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
