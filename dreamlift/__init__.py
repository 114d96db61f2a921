"""dreamlift: text or one picture to a textured 3D asset, with a 2D diffusion model as the only teacher."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Asset", "Config", "generate"]

if TYPE_CHECKING:
    from dreamlift.generate import Asset, generate
    from dreamlift.presets import Config


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `import dreamlift` and `dreamlift --help` stay quick.
    if name in ("Asset", "generate"):
        # Not `from dreamlift import generate`, which would ask this function again, and so on for ever.
        module = importlib.import_module("dreamlift.generate")
        # The import has put the module under the function's name: from now on the function stands there.
        globals()["generate"] = module.generate
        return getattr(module, name)
    if name == "Config":
        from dreamlift.presets import Config

        return Config
    raise AttributeError(f"module 'dreamlift' has no attribute {name!r}")
