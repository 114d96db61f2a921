"""dreamlift: text to a textured 3D asset, with a 2D diffusion model as the only teacher."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Asset", "Config", "generate"]

_HOMES = {"Asset": "dreamlift.lifting", "generate": "dreamlift.lifting", "Config": "dreamlift.config.schema"}

if TYPE_CHECKING:
    from dreamlift.config.schema import Config
    from dreamlift.lifting import Asset, generate


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `import dreamlift` and `dreamlift --help` stay quick.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dreamlift' has no attribute {name!r}")
