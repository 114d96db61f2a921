"""Coloured parts, the thing that they form, and the random proportions of builders.

Parts are combined in order. A plain part is united with the parts before it (smoothly, if it has a ``blend`` radius), a
``carve`` part is subtracted from them and colours the cut, and a ``paint`` part leaves the shape unchanged and recolours the
surface inside its volume. Points are ``(N, 3)`` in the world frame (+y up, +z front); colours are sRGB in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamlift.toybox.world.sdf import Shape, length, smooth_minimum

Rgb = tuple[float, float, float]

# Clearly distinguishable, and far enough from the corners of the RGB cube to keep their hue under light.
COLORS: dict[str, Rgb] = {
    "red": (0.83, 0.14, 0.13),
    "orange": (0.95, 0.50, 0.10),
    "yellow": (0.97, 0.83, 0.20),
    "green": (0.20, 0.62, 0.25),
    "blue": (0.14, 0.36, 0.80),
    "purple": (0.48, 0.22, 0.66),
    "pink": (0.96, 0.56, 0.72),
    "white": (0.95, 0.94, 0.92),
    "black": (0.13, 0.13, 0.14),
    "brown": (0.46, 0.28, 0.15),
    "grey": (0.55, 0.56, 0.58),
    "turquoise": (0.15, 0.72, 0.72),
}

BLACK: Rgb = (0.10, 0.10, 0.11)
DARK: Rgb = (0.20, 0.20, 0.22)
GREY: Rgb = (0.52, 0.53, 0.55)
SILVER: Rgb = (0.76, 0.77, 0.79)
GOLD: Rgb = (0.96, 0.76, 0.22)
CREAM: Rgb = (0.96, 0.90, 0.78)
BROWN: Rgb = (0.43, 0.27, 0.16)
WOOD: Rgb = (0.66, 0.45, 0.27)
GLASS: Rgb = (0.30, 0.42, 0.52)
SKY: Rgb = (0.62, 0.80, 0.90)
GLOW: Rgb = (1.00, 0.93, 0.66)


def shade(rgb: Rgb, factor: float) -> Rgb:
    """``rgb`` times ``factor`` (below 1: darker)."""
    return (rgb[0] * factor, rgb[1] * factor, rgb[2] * factor)


def accent(rgb: Rgb, *choices: Rgb) -> Rgb:
    """The first of ``choices`` at a distance above 0.45 from ``rgb``; if there is none, the farthest."""
    gaps = [float(np.linalg.norm(np.subtract(rgb, choice))) for choice in choices]
    return next((c for c, gap in zip(choices, gaps, strict=True) if gap > 0.45), choices[int(np.argmax(gaps))])


def stripes(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Share ``(N,)`` of the second colour at world points: horizontal bands with period 0.26."""
    return (torch.sin(y * (2 * math.pi / 0.26)) > 0.2).to(y)


def spots(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Share ``(N,)`` of the second colour at world points: balls on a body-centred cubic lattice of constant 0.42."""
    nearest = torch.full_like(y, 9.0)
    for shift in (0.25, 0.75):
        cells = [axis / 0.42 + shift for axis in (x, y, z)]
        nearest = torch.minimum(nearest, length(*[cell - cell.round() for cell in cells]))
    return (nearest < 0.27).to(y)


def grain(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Share ``(N,)`` of the dark colour at world points: growth rings around a slightly tilted axis."""
    radius = ((x + 0.9 + 0.15 * y).square() + (z + 0.35 - 0.1 * y).square()).sqrt()
    return 0.75 * (0.5 + 0.5 * torch.sin(radius * (2 * math.pi / 0.17))) ** 2


PATTERNS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"striped": stripes, "spotted": spots, "wooden": grain}


@dataclass(frozen=True)
class Part:
    """One named piece of a thing."""

    name: str
    shape: Shape  # signed distance in the builder's frame
    rgb: Rgb
    blend: float = 0.0  # radius of the smooth union with the parts before, in the builder's units
    carve: bool = False  # subtract from the parts before
    paint: bool = False  # recolour the surface inside, without changing the shape
    crown: tuple[float, float, float, float] | None = None  # place of a hat: brim centre x, y, z and head radius


@dataclass(frozen=True)
class Thing:
    """An object of the toybox. ``world = (builder's frame - center) * scale``, then stretched along y."""

    category: str
    color: str
    parts: tuple[Part, ...]
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    stretch: float = 1.0  # scale factor along y
    finish: str = ""  # finish of the parts in the main colour: "", "striped", "spotted", "wooden" or "metallic"

    def _local(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y, z = points.unbind(-1)
        inverse = 1.0 / self.scale
        y = y * (inverse / self.stretch)
        return x * inverse + self.center[0], y + self.center[1], z * inverse + self.center[2]

    def sdf(self, points: Tensor) -> Tensor:
        """Signed distance ``(N,)`` of world ``points (N, 3)``, negative inside."""
        x, y, z = self._local(points)
        total = torch.full_like(x, 1e3)
        for part in self.parts:
            if not part.paint:
                total = _fold(total, part, part.shape(x, y, z))
        # A stretch below 1 raises the Lipschitz constant, so the distance is scaled down; a stretch above 1 lowers it.
        return total * (self.scale * min(1.0, self.stretch))

    def occupancy(self, points: Tensor) -> Tensor:
        """Whether each of ``points (N, 3)`` is inside, ``(N,)`` bool."""
        return self.sdf(points) < 0.0

    def part_labels(self, points: Tensor) -> Tensor:
        """Index ``(N,)`` int64 into ``parts`` of the part whose surface is nearest to ``points (N, 3)``."""
        x, y, z = self._local(points)
        total = torch.full_like(x, 1e3)
        nearest = torch.full_like(x, 1e3)
        labels = torch.zeros(x.shape[0], dtype=torch.int64, device=points.device)
        for index, part in enumerate(self.parts):
            own = part.shape(x, y, z)
            if part.paint:
                wins = own < 0.0
            elif part.carve:
                wins = -own > total
                nearest = torch.maximum(nearest, -own)
            else:
                wins = own < nearest
                nearest = torch.minimum(nearest, own)
            labels = torch.where(wins, index, labels)
            total = total if part.paint else _fold(total, part, own)
        return labels

    def albedo(self, points: Tensor) -> Tensor:
        """sRGB colour ``(N, 3)`` of the part nearest to ``points (N, 3)``; the finish applies to parts in the main colour."""
        table = torch.tensor([part.rgb for part in self.parts], dtype=points.dtype, device=points.device)
        labels = self.part_labels(points)
        colors = table[labels]
        if self.finish not in PATTERNS:
            return colors
        own = COLORS[self.color]
        main = torch.tensor([part.rgb == own for part in self.parts], device=points.device)[labels]
        share = PATTERNS[self.finish](*points.unbind(-1)) * main
        other = shade(own, 0.45) if self.finish == "wooden" else accent(own, COLORS["white"], DARK)
        return torch.lerp(colors, torch.tensor(other, dtype=points.dtype, device=points.device), share[:, None])


def _fold(total: Tensor, part: Part, own: Tensor) -> Tensor:
    if part.carve:
        return torch.maximum(total, -own)
    return smooth_minimum(total, own, part.blend) if part.blend else torch.minimum(total, own)


@dataclass(frozen=True)
class Dice:
    """Random draws for builders."""

    rng: np.random.Generator

    def __call__(self, size: float, spread: float = 0.15) -> float:
        """Uniform in ``size`` (1 +- ``spread``)."""
        return float(size * self.rng.uniform(1.0 - spread, 1.0 + spread))

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, choices: Sequence[Rgb]) -> Rgb:
        return choices[int(self.rng.integers(len(choices)))]
