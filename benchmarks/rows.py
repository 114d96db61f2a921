"""Finished runs in one picture: their exported files from eight sides.

    python benchmarks/rows.py outputs/quality/*/ --columns 2 --out docs/pictures/forty-eight.png
    python benchmarks/rows.py outputs/quality/*/ --clay 20 55 80 --cut --out clay.png

A row a run, in the order in which they are named, down the first column, then down the next one. With --clay, the exported file
in colour, and as clay from these heights in degrees, each from the front right, instead; --cut adds the front half cut away, as
clay from 20 degrees: its walls are as thick as they are, and what is solid is closed.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dreamlift.cameras import orbit_cameras
from dreamlift.meshing.distance import signed_distances
from dreamlift.meshing.isosurface import isosurface
from dreamlift.reading.mesh import load_mesh
from dreamlift.showing.draw import draw_mesh
from dreamlift.toybox.judging.score import fitted
from dreamlift.types import Mesh

VIEWS = 8
GAP = 10  # pixels between groups
CELLS = 128  # grid points a side of a cut


def file_views(folder: Path, size: int) -> list[Image.Image]:
    """The exported file of a run from its eight sides, ``size`` pixels each: the lower half of its preview."""
    preview = Image.open(folder / "preview.png").convert("RGB")
    low = preview.crop((0, preview.height // 2, preview.width, preview.height))
    low = low.resize((VIEWS * size, size), Image.Resampling.LANCZOS)
    return [low.crop((view * size, 0, (view + 1) * size, size)) for view in range(VIEWS)]


def clay_views(folder: Path, size: int, heights: list[float], cut: bool = False) -> list[Image.Image]:
    """The exported file of a run in colour from the first of ``heights``, degrees, and as clay from all of them.

    ``cut``: also what is left without its front half.
    """
    mesh = fitted(load_mesh(folder / "asset.glb")[0])
    views = [(mesh, look, 35.0, height) for look, height in (("color", heights[0]), *(("clay", each) for each in heights))]
    views += [(behind_the_middle(mesh), "clay", 15.0, 20.0)] if cut else []
    found = []
    for shown, look, azimuth, height in views:
        view = [torch.tensor([value]) for value in (math.radians(azimuth), math.radians(height), 2.6, math.radians(45.0))]
        (picture,) = draw_mesh(shown, orbit_cameras(*view, size), look)
        found.append(Image.fromarray((picture.numpy() * 255 + 0.5).astype(np.uint8)))
    return found


def behind_the_middle(mesh: Mesh) -> Mesh:
    """The solid's part with z < 0, closed: the isosurface of its signed distances."""
    line = torch.linspace(-1.0, 1.0, CELLS)
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces).long()
    distance = signed_distances(vertices, faces, -1.0, 2.0 / (CELLS - 1), CELLS)
    left, faces = isosurface(-torch.maximum(distance, line.expand_as(distance)), 0.0, -1.0, 1.0)
    return Mesh(left.numpy(), faces.int().numpy())


def draw_rows(rows: list[list[Image.Image]], columns: int, group: int) -> Image.Image:
    """The pictures of ``rows``, in ``columns`` columns of rows, with a gap after every ``group`` rows."""
    size, views, high = rows[0][0].width, len(rows[0]), -(-len(rows) // columns)
    sheet = Image.new("RGB", (columns * views * size, high * size + (high - 1) // group * GAP), "white")
    for number, pictures in enumerate(rows):
        column, row = divmod(number, high)
        for view, picture in enumerate(pictures):
            sheet.paste(picture, ((column * views + view) * size, row * size + row // group * GAP))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--columns", type=int, default=1, help="runs beside each other")
    parser.add_argument("--size", type=int, default=64, help="pixels of a view")
    parser.add_argument("--group", type=int, help="rows between two gaps; default: no gaps")
    parser.add_argument("--clay", nargs="+", type=float, metavar="DEGREES", help="in color, and as clay from these heights")
    parser.add_argument("--cut", action="store_true", help="with --clay: also cut open")
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    arguments = parser.parse_args()
    if missing := [str(run) for run in arguments.runs if not (run / "preview.png").is_file()]:
        parser.error(f"no preview.png in {', '.join(missing)}: name folders of finished runs")
    group = arguments.group or len(arguments.runs)
    size, heights = arguments.size, arguments.clay
    rows = [clay_views(run, size, heights, arguments.cut) if heights else file_views(run, size) for run in arguments.runs]
    draw_rows(rows, arguments.columns, group).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
