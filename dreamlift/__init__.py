"""dreamlift: textured 3D assets from words or a photo, by score distillation of 2D diffusion models.

    from dreamlift import generate

    asset = generate("a red mug")                                   # the embedded prior, on any machine
    asset.save("mug.glb")
    generate(image="photo.png")                                     # or Photo("photo.png", elevation_deg=20)
    generate("an owl", preset="vsd-toy", seed=3, steps=100, guidance__guidance_scale=5)

``generate`` makes an asset, ``Asset.save`` writes it, and ``evaluate`` computes figures of its quality. ``views`` draws the
object in a picture from other sides; ``dreambooth`` teaches a prior the thing in a few photos, ``invert`` only a word for it;
``Photo`` states how a picture was taken. ``presets.PRESETS`` are named settings; ``Config``, ``Lift``, ``Teacher`` and
``PriorChoice`` define others. ``resolve``, ``load``, ``lift`` and ``finish`` are the parts of a run (dreamlift/lifting.py).
``register`` adds a loss or another part (docs/extend.md).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dreamlift import presets
    from dreamlift.api import dreambooth, evaluate, generate, invert, views
    from dreamlift.asset import Asset
    from dreamlift.config.schema import Config
    from dreamlift.lifting import finish, lift, load, resolve
    from dreamlift.plugins import register
    from dreamlift.priors.choice import PriorChoice
    from dreamlift.priors.kinds import load_prior
    from dreamlift.reading.photos import Photo
    from dreamlift.runs.progress import Reporter
    from dreamlift.stages.lift import Lift
    from dreamlift.stages.teacher import Teacher

_HOMES = {
    "Asset": "dreamlift.asset", "Config": "dreamlift.config.schema", "Lift": "dreamlift.stages.lift",
    "Photo": "dreamlift.reading.photos", "PriorChoice": "dreamlift.priors.choice", "Reporter": "dreamlift.runs.progress",
    "Teacher": "dreamlift.stages.teacher", "dreambooth": "dreamlift.api", "evaluate": "dreamlift.api",
    "finish": "dreamlift.lifting", "generate": "dreamlift.api", "invert": "dreamlift.api", "lift": "dreamlift.lifting",
    "load": "dreamlift.lifting", "load_prior": "dreamlift.priors.kinds", "presets": "", "register": "dreamlift.plugins",
    "resolve": "dreamlift.lifting", "views": "dreamlift.api",
}  # fmt: skip
__all__ = [
    "Asset", "Config", "Lift", "Photo", "PriorChoice", "Reporter", "Teacher", "dreambooth", "evaluate", "finish", "generate",
    "invert", "lift", "load", "load_prior", "presets", "register", "resolve", "views",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `import dreamlift` and `dreamlift --help` are fast.
    if name not in _HOMES:
        raise AttributeError(f"module 'dreamlift' has no attribute {name!r}")
    home = _HOMES[name]
    return getattr(importlib.import_module(home), name) if home else importlib.import_module(f"dreamlift.{name}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
