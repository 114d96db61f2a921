"""A page with turntables of finished runs, their prompts and figures; each opens its asset in the viewer.

The folder has ``index.html``, and in ``assets/`` each asset's turntable and viewer page: pictures are loaded as they scroll
into view, which a phone needs, and the folder can be moved or put on a web server as it is. Nothing is fetched from elsewhere.
The page's own script sorts the tiles (``index.html#sort=seconds`` begins so); without it they are in the command's order.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamlift.apps.evaluate import Item
from dreamlift.export.page import page_of
from dreamlift.runs.run import RunError, read_status
from dreamlift.showing.differences import differences, in_words, settings_of
from dreamlift.system.files import atomic_write_bytes, atomic_write_text

# The figures that tiles are sorted by: the name, the unit, and whether the largest comes first.
FIGURES: dict[str, tuple[str, str, bool]] = {
    "both": ("thing and color", "", True),
    "category": ("thing", "", True),
    "category_textureless": ("thing in clay", "", True),
    "silhouette_iou": ("outline IoU", "", True),
    "roundtrip_psnr": ("PSNR of the file", "dB", True),
    "seed": ("seed", "", False),
    "seconds": ("time", "s", False),
    "peak_memory_gb": ("memory", "GB", False),
    "faces": ("faces", "", False),
    "megabytes": ("size of the GLB", "MB", False),
}
TOLD = ("seconds", "peak_memory_gb", "megabytes")  # under every tile; others only while they sort
STYLE = """
:root{color-scheme:light dark}*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;padding:1em;max-width:90em}
header{display:flex;flex-wrap:wrap;gap:.5em 1.5em;align-items:baseline}h1{font-size:1.3em;margin:0}
select{font:inherit;padding:.35em .5em;max-width:100%}
main{display:grid;gap:1em;margin-top:1em;grid-template-columns:repeat(auto-fill,minmax(min(100%,15em),1fr))}
figure{margin:0;border:1px solid #8884;border-radius:10px;overflow:hidden}
a{display:block;color:inherit;text-decoration:none}a:focus-visible{outline:3px solid #38f}
img{display:block;width:100%;height:auto;background:#fff}
figcaption{padding:.5em .8em .7em;overflow-wrap:anywhere}small{display:block;opacity:.7}b.sorted{display:block;font-weight:600}
@media(max-width:480px){main{grid-template-columns:1fr 1fr;gap:.6em}figcaption{padding:.4em .5em .6em;font-size:.9em}}
"""
SCRIPT = """
"use strict";
const main = document.querySelector("main"), tiles = [...main.children], choice = document.querySelector("select");
tiles.forEach((tile, place) => { tile.place = place; tile.figures = JSON.parse(tile.dataset.figures); });
const show = () => {
  const name = choice.value, option = choice.selectedOptions[0], sign = option.dataset.largest ? -1 : 1;
  const value = (tile) => tile.figures[name];
  const unknown = (tile) => name && value(tile) === undefined ? 1 : 0;
  const apart = (a, b) => name ? sign * ((value(a) ?? 0) - (value(b) ?? 0)) : 0;
  const order = (a, b) => unknown(a) - unknown(b) || apart(a, b) || a.place - b.place;
  main.append(...[...tiles].sort(order));
  for (const tile of tiles) {
    const told = tile.querySelector("b.sorted");
    told.hidden = !name;
    const figure = unknown(tile) ? "not known" : `${value(tile)} ${option.dataset.unit}`;
    told.textContent = name ? `${option.textContent}: ${figure}` : "";
  }
};
const wanted = new URLSearchParams(location.hash.slice(1)).get("sort");
if ([...choice.options].some((option) => option.value === wanted)) choice.value = wanted;
choice.addEventListener("change", show);
document.querySelector("label").hidden = false;
show();
"""


@dataclass(frozen=True)
class Tile:
    """One asset of the page."""

    item: Item
    figures: Mapping[str, float]  # of FIGURES, those that are known
    differs: str  # what differs from the other runs


def check_turning(items: list[Item]) -> None:
    """Raise a ValueError if an asset has no turntable in its folder."""
    for item in items:
        if not item.glb.with_name("turntable.webp").is_file():
            raise ValueError(f"{item.glb.parent} has no turntable.webp: give folders of finished runs")


def save_gallery(items: list[Item], folder: Path, judged: list[dict[str, Any]] | None = None) -> Path:
    """Write the page and the assets of ``items``, in their order, to an empty ``folder``; returns the page.

    Args:
        judged: a row of figures for each item, as ``evaluate`` makes them; None: those of the runs only.

    Raises:
        ValueError: as :func:`check_turning`; nothing is written.
        OSError: a file cannot be written.
    """
    check_turning(items)
    more: list[dict[str, Any]] = judged or [{}] * len(items)
    different = differences([settings_of(item.run) if item.run else {} for item in items])
    tiles = [
        Tile(item, figures_of(item) | _known(own), in_words(each))
        for item, own, each in zip(items, more, different, strict=True)
    ]
    (folder / "assets").mkdir()
    for number, tile in enumerate(tiles):
        atomic_write_bytes(folder / turning(number), tile.item.glb.with_name("turntable.webp").read_bytes())
        atomic_write_text(folder / viewer(number), page_of(tile.item.glb, tile.item.prompt))
    atomic_write_text(folder / "index.html", page(tiles))
    return folder / "index.html"


def turning(number: int) -> str:
    return f"assets/{number:03d}.webp"


def viewer(number: int) -> str:
    return f"assets/{number:03d}.html"


def figures_of(item: Item) -> dict[str, float]:
    """The figures of a run that are known without looking at its asset."""
    status: dict[str, Any] = {}
    if item.run is not None:
        try:
            status = read_status(item.run)
        except RunError:  # it was readable a moment ago
            status = {}
    metrics = status.get("metrics")
    metrics = metrics if isinstance(metrics, dict) else {}
    found = {
        "seconds": item.seconds, "peak_memory_gb": item.peak_memory_gb, "megabytes": item.glb.stat().st_size / 1e6,
        "seed": status.get("seed"), "faces": metrics.get("faces"), "roundtrip_psnr": metrics.get("roundtrip_psnr"),
    }  # fmt: skip
    return _known(found)


def _known(figures: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among ``figures`` that tiles are sorted by, with at most three places."""
    return {
        name: int(value) if float(value).is_integer() else round(float(value), 3)
        for name, value in figures.items()
        if name in FIGURES and type(value) in (int, float) and math.isfinite(value)
    }


def page(tiles: list[Tile]) -> str:
    """The page, in the order of ``tiles``."""
    title = f"{len(tiles)} asset{'s' if len(tiles) > 1 else ''}"
    names = [name for name in FIGURES if any(name in tile.figures for tile in tiles)]
    options = "".join(
        f'<option value="{name}" data-unit="{unit}"{" data-largest=1" if largest else ""}>{told}</option>'
        for name, (told, unit, largest) in FIGURES.items()
        if name in names
    )
    figures = "".join(_figure(number, tile) for number, tile in enumerate(tiles))
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>dreamlift gallery</title><style>{STYLE}</style><header><h1>{title}</h1>"
        f'<label hidden>sort by <select><option value="">order of the command</option>{options}</select></label></header>'
        f"<main>{figures}</main><script>{SCRIPT}</script></html>\n"
    )


def _figure(number: int, tile: Tile) -> str:
    prompt, item = html.escape(tile.item.prompt), tile.item
    told = [item.name, *(f"{tile.figures[name]:.3g} {FIGURES[name][1]}" for name in TOLD if name in tile.figures)]
    lines = [" · ".join(told), *([tile.differs] if tile.differs else [])]
    small = "".join(f"<small>{html.escape(line)}</small>" for line in lines)
    figures = html.escape(json.dumps(tile.figures))
    return (
        f'<figure data-figures="{figures}"><a href="{viewer(number)}">'
        f'<img alt="{prompt}, turning" src="{turning(number)}" width="384" height="384" loading="lazy">'
        f'<figcaption>{prompt}<b class="sorted" hidden></b>{small}</figcaption></a></figure>'
    )
