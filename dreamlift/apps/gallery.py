"""A self-contained page with turntables of finished runs, their prompts, time and memory."""

from __future__ import annotations

import base64
import html
import math

from dreamlift.apps.evaluate import Item

STYLE = (
    "body{font:14px/1.4 system-ui,sans-serif;margin:2em}main{display:grid;gap:1.5em;"
    "grid-template-columns:repeat(auto-fill,minmax(12em,1fr))}figure{margin:0}img{width:100%}small{color:#666}"
)


def gallery(items: list[Item]) -> str:
    """The page, in the order of ``items``.

    Raises:
        ValueError: an asset without a turntable in its folder.
    """
    figures, title = "".join(_figure(item) for item in items), f"{len(items)} asset{'s' if len(items) > 1 else ''}"
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>dreamlift gallery</title><style>{STYLE}</style><h1>{title}</h1><main>{figures}</main></html>\n"
    )


def _figure(item: Item) -> str:
    turntable = item.glb.with_name("turntable.webp")
    if not turntable.is_file():
        raise ValueError(f"{item.glb.parent} has no turntable.webp: give folders of finished runs")
    picture = base64.b64encode(turntable.read_bytes()).decode("ascii")
    told = [item.name, *(f"{value:.3g} {unit}" for value, unit in ((item.seconds, "s"), (item.peak_memory_gb, "GB"))
                         if not math.isnan(value)), f"{item.glb.stat().st_size / 1e6:.1f} MB"]  # fmt: skip
    prompt = html.escape(item.prompt)
    return (
        f'<figure><img alt="{prompt}, turning" src="data:image/webp;base64,{picture}">'
        f"<figcaption>{prompt}<br><small>{html.escape(' · '.join(told))}</small></figcaption></figure>"
    )
