"""The toybox world: things by category and colour, fitted into the unit cube.

Conventions are those of :mod:`dreamlift.types`: +y up, +z front. A thing is centred in its bounding box and its
bounding sphere has radius ``FIT_RADIUS``. ``make_thing`` is a function of its arguments alone; the same seed gives the
same shape in every colour. A new category is one builder and one line in ``CATEGORIES``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dreamlift.toybox import household, nature, vehicles
from dreamlift.toybox.parts import COLORS, Dice, Part, Rgb, Thing

__all__ = ["CATEGORIES", "COLORS", "FIT_RADIUS", "Part", "Thing", "caption_of", "make_thing"]

FIT_RADIUS = 0.85  # of the bounding sphere: leaves a margin in the cube [-1, 1]^3

CATEGORIES: dict[str, Callable[[Dice, Rgb], tuple[Part, ...]]] = {
    "mug": household.mug,
    "teapot": household.teapot,
    "chair": household.chair,
    "table": household.table,
    "lamp": household.lamp,
    "house": household.house,
    "hat": household.hat,
    "robot": household.robot,
    "car": vehicles.car,
    "rocket": vehicles.rocket,
    "boat": vehicles.boat,
    "airplane": vehicles.airplane,
    "tree": nature.tree,
    "mushroom": nature.mushroom,
    "duck": nature.duck,
    "snowman": nature.snowman,
}


def make_thing(category: str, color: str, seed: int) -> Thing:
    """The thing of this category and colour whose proportions are drawn from ``seed``."""
    if category not in CATEGORIES:
        raise ValueError(f"unknown category {category!r}; the toybox has: {', '.join(CATEGORIES)}")
    if color not in COLORS:
        raise ValueError(f"unknown color {color!r}; the toybox has: {', '.join(COLORS)}")
    # Seeded by the category's name and not by its place in the table, so that a new line changes no older thing.
    dice = Dice(np.random.default_rng([seed, zlib.crc32(category.encode())]))
    return _fitted(Thing(category, color, CATEGORIES[category](dice, COLORS[color])))


def caption_of(category: str, color: str) -> str:
    """What a picture of such a thing is called, such as "a red mug"."""
    return Thing(category, color, ()).caption


def _fitted(thing: Thing) -> Thing:
    """The thing moved and scaled so that its bounding box is centred and its bounding sphere is ``FIT_RADIUS``."""
    low, high = _bounding_box(thing)
    center = 0.5 * (low + high)
    radius = _bounding_radius(thing, center, 0.5 * float((high - low).norm()))
    return replace(thing, center=tuple(center.tolist()), scale=FIT_RADIUS / radius)


def _bounding_box(thing: Thing, reach: float = 2.5, count: int = 20, rounds: int = 4) -> tuple[Tensor, Tensor]:
    """Corners ``(3,)`` of the bounding box, found by moving six planes of ``count**2`` samples inward.

    A plane may take a step of the smallest distance over it; after a few it touches. This is far cheaper than filling
    a grid, and converges where the distance is underestimated too. The nearest point can lie up to half a cell beside
    the nearest sample, so that while the cells are wide the step is shortened accordingly, lest a tip be cut.
    """
    line = torch.linspace(-1.0, 1.0, count)
    u, v = (grid.reshape(-1) for grid in torch.meshgrid(line, line, indexing="ij"))
    low, high = torch.full((3,), -reach), torch.full((3,), reach)
    for index in range(rounds):
        faces = []
        for axis in range(3):
            others = [i for i in range(3) if i != axis]
            for edge in (low, high):
                face = torch.empty(count * count, 3)
                face[:, axis] = edge[axis]
                for other, grid in zip(others, (u, v), strict=True):
                    face[:, other] = low[other] + (grid + 1.0) * 0.5 * (high[other] - low[other])
                faces.append(face)
        steps = thing.sdf(torch.cat(faces)).view(3, 2, -1).amin(dim=-1).clamp_min(0.0)
        if index < rounds - 1:
            beside = float((high - low).norm()) / (2.0 * (count - 1))
            steps = (steps * steps - beside * beside).clamp_min(0.0).sqrt()
        low, high = low + steps[:, 0], high - steps[:, 1]
    return low, high


def _bounding_radius(thing: Thing, center: Tensor, reach: float, count: int = 900, rounds: int = 4) -> float:
    """Radius about ``center (3,)`` of the bounding sphere, found by shrinking one of ``reach`` in the same way."""
    index = torch.arange(count) + 0.5
    y = 1.0 - 2.0 * index / count
    ring, angle = (1.0 - y * y).sqrt(), index * 2.399963  # the golden angle spreads points evenly
    directions = torch.stack([ring * angle.cos(), y, ring * angle.sin()], dim=-1)
    radius = reach
    for _ in range(rounds):
        radius -= max(float(thing.sdf(center + radius * directions).min()), 0.0)
    return radius
