"""Writing assets, one module per format. Each exporter takes ``(mesh, path, extras)`` and writes atomically.

It returns the further files that it has written beside ``path``, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dreamlift.export.glb import save_glb
from dreamlift.export.obj import save_obj
from dreamlift.export.ply import save_ply
from dreamlift.export.stl import save_stl
from dreamlift.export.threemf import save_3mf
from dreamlift.export.usd import check_usd, save_usdz
from dreamlift.types import Mesh

__all__ = ["EXPORTERS", "Exporter", "check_formats"]

Exporter = Callable[[Mesh, str | Path, Mapping[str, Any] | None], tuple[Path, ...] | None]

EXPORTERS: dict[str, Exporter] = {
    "glb": save_glb,
    "obj": save_obj,
    "ply": save_ply,
    "stl": save_stl,
    "3mf": save_3mf,
    "usdz": save_usdz,
}


def check_formats(names: Iterable[str]) -> None:
    """Raise a ValueError for a format that is unknown or needs a package that is not installed."""
    for name in names:
        if name not in EXPORTERS:
            raise ValueError(f"unknown format {name!r}; accepted: {', '.join(EXPORTERS)}")
        if name == "usdz":
            check_usd()
