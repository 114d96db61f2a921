"""Objects that no prior was trained on, and photos of them: what benchmarks/view.py and benchmarks/picture.py measure on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamlift.cameras import orbit_cameras
from dreamlift.toybox.training.pairs import BLACK, FRAMED, HELD_OUT, framed
from dreamlift.toybox.world.composites import make_composite
from dreamlift.toybox.world.render import Lighting, render
from dreamlift.toybox.world.things import CATEGORIES, Thing, describe
from dreamlift.types import Cameras

GROUPS = ("toy", "composite", "kind")  # kinds that the pairs show; no kind; kinds that no pair shows
FIRST = 10_000_000  # seeds from here on are in no training set


class Held(NamedTuple):
    """One object."""

    group: str
    seed: int
    thing: Thing
    caption: str  # "" for composites


def held_object(group: str, index: int) -> Held:
    """The ``index``-th object of a group."""
    seed = FIRST + 2 * index + (group == "composite")
    if group == "composite":
        return Held(group, seed, make_composite(seed), "")
    kinds = HELD_OUT if group == "kind" else tuple(kind for kind in CATEGORIES if kind not in HELD_OUT)
    rng = np.random.default_rng([seed, 0x70 + (group == "kind")])
    if group == "kind":  # each of them in turn
        kinds = kinds[index % len(kinds) :][:1]
    told = describe(rng, group == "toy", kinds)
    thing = told.thing(int(rng.integers(2**31)))
    return Held(group, seed, thing, told.caption())


def photo_camera(thing: Thing, azimuth: float, elevation: float, fov_deg: float, size: int) -> Cameras:
    """A camera (radians) whose picture shows the thing centred, its longest side 0.78 of the picture's."""
    values = (azimuth, elevation, 1.02 / math.sin(math.radians(0.5 * fov_deg)), math.radians(fov_deg))
    wide = orbit_cameras(*(torch.tensor([value], dtype=torch.float32) for value in values), size)
    return framed(thing, wide, torch.tensor([FRAMED]), torch.zeros(1, 2))


@torch.inference_mode()
def photograph(thing: Thing, cameras: Cameras, light: Lighting) -> Tensor:
    """Pictures ``(B, S, S, 4)`` in [0, 1]: straight colours and a mask."""
    seen = render(thing, cameras, light, BLACK)
    return torch.cat([(seen.rgb / seen.opacity.clamp_min(1e-6)).clamp(0, 1), seen.opacity], dim=-1)
