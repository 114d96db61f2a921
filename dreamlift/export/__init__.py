"""Writing assets: one format a file. Each exporter takes ``(mesh, path, extras)`` and writes atomically."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dreamlift.export.glb import save_glb
from dreamlift.export.obj import save_obj
from dreamlift.export.ply import save_ply
from dreamlift.types import Mesh

Exporter = Callable[[Mesh, str | Path, Mapping[str, Any] | None], None]

EXPORTERS: dict[str, Exporter] = {
    "glb": save_glb,
    "obj": save_obj,
    "ply": save_ply,
}
