"""Builders of the plants and the food: each returns the parts of one thing.

Frame: +y up, +z front; scale and position are free, because every thing is fitted to the same sphere afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dreamlift.toybox.world.parts import BROWN, CREAM, DARK, GLOW, WOOD, Dice, Part, Rgb, accent, shade
from dreamlift.toybox.world.sdf import (
    Shape,
    bar,
    box,
    cone,
    cylinder,
    difference,
    ellipsoid,
    intersection,
    length,
    mirror,
    place,
    prism,
    sphere,
    torus,
    union,
)  # fmt: skip

LEAF: Rgb = (0.22, 0.56, 0.20)
DEEP_LEAF: Rgb = (0.10, 0.34, 0.14)
CHERRY: Rgb = (0.80, 0.10, 0.14)
WAFFLE: Rgb = (0.84, 0.61, 0.33)
CLAY: Rgb = (0.75, 0.39, 0.24)
SPONGE: Rgb = (0.93, 0.77, 0.46)


def _leaf(rgb: Rgb) -> Rgb:
    """A green that contrasts with ``rgb``."""
    return accent(rgb, LEAF, DEEP_LEAF)


def _flutes(count: int, width: float, twist: float = 0.0) -> Shape:
    """For ``paint`` parts: ``count`` stripes around y that fill the share ``width``; ``twist``: phase in rad per unit y."""
    level = math.cos(math.pi * width)
    return lambda x, y, z: level - torch.cos(count * torch.atan2(x, z) + twist * y)


def tree(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A brown trunk with a crown of the named colour: a cloud of balls, or the tiers of a fir."""
    trunk, r = dice(0.40), dice(0.10)
    base = Part("trunk", place(cone(r * 1.3, r * 0.85, trunk), (0.0, -trunk, 0.0)), BROWN)
    if dice.chance(0.5):
        wide = dice(0.52)
        tiers = [place(cone(wide * (1.0 - 0.22 * i), 0.06 * (3 - i), 0.25, 0.02), (0.0, 0.36 * i, 0.0)) for i in range(3)]
        top = place(cone(wide * 0.45, 0.02, 0.24, 0.02), (0.0, 1.02, 0.0))
        return base, Part("crown", union(*tiers, top), rgb)
    big = dice(0.46)
    balls = []
    for i in range(5):
        angle, size = 2 * math.pi * (i + dice.between(-0.2, 0.2)) / 5, dice(0.29)
        balls.append(place(sphere(size), (0.38 * math.cos(angle), dice.between(0.05, 0.38), 0.38 * math.sin(angle))))
    core = place(ellipsoid(big, big * 1.1, big), (0.0, 0.42, 0.0))
    return base, Part("crown", core, rgb), Part("leaves", union(*balls), rgb, blend=0.06)


def mushroom(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A pale stem under a wide, spotted cap."""
    r, dome, stem, thick = dice(0.60), dice(0.46), dice(0.44), dice(0.20)
    cap = difference(ellipsoid(r, dome, r), place(ellipsoid(r * 1.3, 0.40, r * 1.3), (0.0, -0.34, 0.0)))
    spot_rgb = accent(rgb, (0.97, 0.95, 0.90), (0.72, 0.22, 0.18))
    spots = [place(sphere(dice(0.15)), (0.0, dome * 0.98, 0.0))]
    count, phase = 5, dice.between(0.0, 1.0)
    for i in range(count):
        angle, tilt = 2 * math.pi * (i + phase + dice.between(-0.12, 0.12)) / count, dice.between(0.95, 1.15)
        x, y, z = math.sin(tilt) * math.sin(angle), math.cos(tilt), math.sin(tilt) * math.cos(angle)
        spots.append(place(sphere(dice(0.115)), (r * x, dome * y, r * z)))
    return (
        Part("stem", place(cone(thick * 1.25, thick * 0.9, stem, 0.03), (0.0, -stem + 0.08, 0.0)), CREAM),
        Part("cap", cap, rgb),
        Part("gills", place(ellipsoid(r * 1.3, 0.405, r * 1.3), (0.0, -0.34, 0.0)), shade(CREAM, 0.85), paint=True),
        Part("stem skin", place(cylinder(thick * 1.6, stem + 0.1), (0.0, -stem - 0.1, 0.0)), CREAM, paint=True),
        Part("spots", union(*spots), spot_rgb, paint=True),
    )


def cactus(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A saguaro with bent arms, striped along its ribs, a flower on top; it stands in a clay pot or in sand."""
    tall, r, arm = dice(1.05, 0.12), dice(0.21, 0.1), dice(0.125, 0.1)
    out, side = r + dice(0.20, 0.1), 1.0 if dice.chance(0.5) else -1.0
    rib = shade(rgb, 0.70) if max(rgb) > 0.25 else (0.34, 0.35, 0.36)
    low, high = tall * dice.between(0.22, 0.36), tall * dice.between(0.42, 0.56)
    arms = []
    for sign, y, top in ((side, low, dice(0.34)), (-side, high, dice(0.26))):
        elbow = (sign * out, y + 0.04, 0.0)
        arms += [bar((0.0, y, 0.0), elbow, arm), bar(elbow, (sign * out, y + top, 0.0), arm)]
    pot = accent(rgb, CLAY, CREAM)
    if dice.chance(0.6):
        base = [
            Part("pot", place(cone(0.21, 0.28, 0.14, 0.02), (0.0, -0.17, 0.0)), pot),
            Part("pot rim", place(cylinder(0.34, 0.07, 0.02), (0.0, -0.02, 0.0)), pot),
        ]
    else:
        base = [Part("sand", place(ellipsoid(0.46, 0.23, 0.46), (0.0, -0.08, 0.0)), (0.90, 0.76, 0.50))]
    return (
        *base,
        Part("trunk", bar((0.0, 0.0, 0.0), (0.0, tall, 0.0), r, r * 0.92), rgb),
        Part("arms", union(*arms), rgb, blend=0.05),
        Part("ribs", intersection(_flutes(8, 0.20), place(cylinder(r * 1.15, tall), (0.0, 0.16 + tall, 0.0))), rib, paint=True),
        Part("flower", place(sphere(0.12), (0.0, tall + r * 0.95, 0.0)), accent(rgb, (0.96, 0.36, 0.56), GLOW)),
    )


def flower(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A daisy on a green stem with two leaves, facing +z and slightly upward."""
    six, long, wide = dice.chance(0.5), dice(0.27, 0.1), dice(0.19, 0.1)
    stem, tilt, heart = dice(0.92, 0.1), dice.between(8.0, 30.0), dice(0.19, 0.1)
    petal, petals = ellipsoid(long, wide if six else wide * 0.86, 0.16), []
    for angle in (30.0, 90.0) if six else (22.5, 67.5):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        petals.append(place(petal, (c * (heart + 0.16), s * (heart + 0.16), 0.0), (0.0, 0.0, angle)))
    turn, green = (-tilt, 0.0, 0.0), _leaf(rgb)
    bloom = union(mirror(petals[0], "xy"), mirror(petals[1], "y" if six else "xy"))
    leaf = place(ellipsoid(0.24, 0.12, 0.13), (0.25, -stem * 0.72, 0.03), (0.0, 0.0, dice.between(25.0, 45.0)))
    return (
        Part("stem", bar((0.0, -stem * 1.15, -0.10), (0.0, 0.0, -0.10), 0.07), green),
        Part("leaves", mirror(leaf), green),
        Part("petals", place(bloom, (0.0, 0.0, 0.04), turn), rgb),
        Part("sepal", place(ellipsoid(0.19, 0.19, 0.12), (0.0, 0.0, -0.06), turn), green),
        Part("heart", place(ellipsoid(heart, heart, 0.13), (0.0, 0.02, 0.13), turn), accent(rgb, (0.98, 0.78, 0.14), BROWN)),
    )


def apple(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A dimpled apple with a stalk and a leaf, sometimes with a bite taken out."""
    ring, r, sink = dice(0.24, 0.08), dice(0.38, 0.06), dice(0.22)
    top = math.sqrt(r * r - ring * ring)
    lean = dice.between(-0.08, 0.08)

    def upper(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return length(length(x, z) - ring, y) - r

    parts = [
        Part("body", upper, rgb),
        Part("bottom", place(torus(ring * 0.55, r * 0.78), (0.0, -sink, 0.0), (90.0, 0.0, 0.0)), rgb, blend=0.25),
    ]
    if dice.chance(0.25):
        bites = [place(sphere(0.17), (r + ring + 0.02, y, z)) for y, z in ((0.16, 0.06), (-0.04, 0.06))]
        parts.append(Part("bite", union(*bites), accent(rgb, (0.97, 0.92, 0.74), SPONGE), carve=True))
    leaf = place(ellipsoid(0.21, 0.105, 0.12), (0.24, top + 0.24, 0.0), (0.0, 0.0, dice.between(10.0, 35.0)))
    return (
        *parts,
        Part("stalk", bar((0.0, top - 0.10, 0.0), (lean, top + 0.26, 0.0), 0.055, 0.065), accent(rgb, BROWN, DARK, WOOD)),
        Part("leaf", leaf, _leaf(rgb)),
    )


def pumpkin(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A ribbed pumpkin with a crooked stalk; most have a grinning face cut into +z."""
    h, lobe, ring = dice(0.43, 0.1), dice(0.30, 0.05), dice(0.29, 0.08)
    lobes = []
    for angle in (22.5, 67.5):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        lobes.append(place(ellipsoid(lobe, h, lobe * 0.90), (c * ring, 0.0, s * ring), (0.0, -angle, 0.0)))
    stalk = accent(rgb, (0.36, 0.46, 0.18), (0.45, 0.32, 0.16))
    parts = [
        Part("lobes", mirror(union(*lobes), "xz"), rgb),
        Part("core", cylinder(ring, h * 0.72, 0.05), shade(rgb, 0.85)),
        Part("stalk", bar((0.0, h * 0.6, 0.0), (dice.between(-0.12, 0.12), h + 0.20, -0.05), 0.11, 0.075), stalk),
    ]
    if dice.chance(0.75):
        dark, y = accent(rgb, (0.16, 0.09, 0.05), GLOW), h * 0.22
        eye = prism([(-0.11, -0.08), (0.11, -0.08), (0.0, 0.12)], 0.5, "z")
        nose = prism([(-0.055, -0.05), (0.055, -0.05), (0.0, 0.06)], 0.5, "z")
        grin = difference(cylinder(0.34, 0.5), place(cylinder(0.37, 1.0), (0.0, 0.0, -0.15)))
        teeth = union(
            place(box(0.045, 0.09, 1.0), (-0.11, -h * 0.42, 0.5)), place(box(0.045, 0.09, 1.0), (0.11, -h * 0.42, 0.5))
        )
        mouth = difference(place(grin, (0.0, h * 0.30, 0.6), (90.0, 0.0, 0.0)), teeth)
        face = union(mirror(place(eye, (0.17, y, 0.6))), place(nose, (0.0, -0.01, 0.6)), mouth)
        parts.append(Part("face", face, dark, paint=True))
    return tuple(parts)


def carrot(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A fat carrot, its point down, with grooves, and leaves on top."""
    long, r = dice(1.0, 0.12), dice(0.32, 0.12)
    green = _leaf(rgb)
    sprigs = [bar((0.0, 0.10, 0.0), (0.0, dice(0.52, 0.1), 0.0), 0.07, 0.09)]
    for i in range(3):
        angle, reach = 2 * math.pi * (i + dice.between(-0.1, 0.1)) / 3 + 0.5, dice(0.24)
        tip = (reach * math.cos(angle), dice(0.40, 0.1), reach * math.sin(angle))
        sprigs.append(bar((0.0, 0.10, 0.0), tip, 0.07, 0.09))
    groove, cuts = box(0.25, 0.026, 0.25), []
    for i, y in enumerate((-0.12, -0.30, -0.48, -0.64)):
        angle, away = math.pi * 0.61 * i * 2 + 0.6, r * (1.0 + y * 0.6)
        cuts.append(place(groove, (away * math.sin(angle), y * long, away * math.cos(angle))))
    line = shade(rgb, 0.66) if max(rgb) > 0.25 else (0.36, 0.36, 0.37)
    return (
        Part("root", bar((0.0, 0.0, 0.0), (0.0, -long, 0.0), r, 0.06), rgb),
        Part("leaves", union(*sprigs), green),
        Part("grooves", union(*cuts), line, paint=True),
    )


def cake(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A birthday cake on a plate: icing that drips, candles, sometimes a second tier or a slice gone from the front."""
    r, h = dice(0.62, 0.08), dice(0.27)
    two, sliced = dice.chance(0.45), dice.chance(0.5)
    cream, plate = CHERRY if min(rgb) > 0.85 else (0.98, 0.95, 0.90), accent(rgb, (0.90, 0.91, 0.93), (0.45, 0.55, 0.66))
    parts = [Part("tier", cylinder(r, h, 0.05), rgb)]
    top, ring = h, r * 0.62
    if two:
        top, ring = h + 0.34, r * 0.36
        parts.append(Part("upper tier", place(cylinder(r * 0.62, 0.20, 0.05), (0.0, h + 0.14, 0.0)), rgb))
    drip = dice(0.05, 0.3)

    def hem(edge: float, top: float) -> Shape:
        """For ``paint`` parts: the rim of a tier with dripping icing."""

        def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            low = top - 0.05 - drip * (1.0 + torch.cos(9.0 * torch.atan2(x, z)))
            return torch.maximum(torch.maximum(low - y, edge - 0.11 - length(x, z)), y - top - 0.01)

        return distance

    icing = union(hem(r, h), hem(r * 0.62, top)) if two else hem(r, h)
    parts.append(Part("icing", icing, cream, paint=True))
    if sliced:
        wedge = prism([(0.0, 0.0), (0.50, 1.0), (-0.50, 1.0)], 1.0, "y")
        grown = prism([(0.0, -0.06), (0.52, 1.0), (-0.52, 1.0)], 1.0, "y")
        turned = (0.0, dice.between(-35.0, 35.0), 0.0)
        layers = union(*(place(box(2.0, 0.035, 2.0), (0.0, y, 0.0)) for y in ((0.0, h + 0.14) if two else (0.0,))))
        inside = union(cylinder(r - 0.03, h), cylinder(r * 0.62 - 0.03, 2.0)) if two else cylinder(r - 0.03, h)
        filling = intersection(place(grown, turn_deg=turned), layers, inside)
        parts += [
            Part("slice", place(wedge, turn_deg=turned), SPONGE, carve=True),
            Part("filling", filling, accent(SPONGE, CHERRY), paint=True),
        ]
    wax, candles, flames = accent(rgb, (0.30, 0.55, 0.86), (0.95, 0.45, 0.60)), [], []
    spots = (
        [(-ring, 0.0), (ring, 0.0), (0.0, -ring)] if sliced or two else [(-ring, 0.0), (ring, 0.0), (0.0, ring), (0.0, -ring)]
    )
    for x, z in spots:
        candles.append(place(cylinder(0.06, 0.17), (x, top + 0.15, z)))
        flames.append(place(ellipsoid(0.065, 0.10, 0.065), (x, top + 0.38, z)))
    return (
        *parts,
        Part("plate", place(cylinder(r + 0.11, 0.055, 0.03), (0.0, -h - 0.03, 0.0)), plate),
        Part("candles", union(*candles), wax),
        Part("flames", union(*flames), (1.0, 0.72, 0.16)),
    )


def ice_cream(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A waffle cone with one or two scoops of the named colour, often a cherry on top."""
    r, long = dice(0.40, 0.1), dice(0.50, 0.1)
    count = 1 if dice.chance(0.4) else 2
    scoops, y, size = [], 0.10, r * (1.15 if count == 1 else 1.0)
    for _ in range(count):
        scoops.append(place(sphere(size), (0.0, y, 0.0)))
        y, size = y + size * 1.15, size * 0.87
    top = y - size / 0.87 * 0.15
    frill = [Part("frill", place(torus(r * 0.86, 0.12), (0.0, -0.02, 0.0), (90.0, 0.0, 0.0)), rgb, blend=0.05)]
    weave = union(_flutes(7, 0.16, 6.0), _flutes(7, 0.16, -6.0))
    parts = [
        Part("cone", place(cone(0.05, r * 0.88, long, 0.02), (0.0, -long, 0.0)), WAFFLE),
        Part("weave", weave, shade(WAFFLE, 0.72), paint=True),
        Part("scoops", union(*scoops), rgb),
        *frill,
    ]
    if dice.chance(0.4):
        wafer = bar((r * 0.35, top - 0.30, -0.06), (r * 0.80, top + 0.16, -0.10), 0.065)
        parts.append(Part("wafer", wafer, accent(rgb, (0.50, 0.32, 0.18), WAFFLE)))
    if dice.chance(0.7):
        parts.append(Part("cherry", place(sphere(0.13), (0.0, top + 0.08, 0.0)), accent(rgb, CHERRY, (0.98, 0.92, 0.80))))
    return tuple(parts)


def cupcake(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A pleated paper cup under a swirl of icing in the named colour, with sprinkles and a cherry."""
    r, h, swirl = dice(0.44, 0.08), dice(0.27), dice(0.21, 0.12)
    paper = accent(rgb, dice.pick((CREAM, (0.55, 0.36, 0.24), (0.42, 0.68, 0.80))), (0.55, 0.36, 0.24), CREAM)
    tiers, y = [], h + 0.10
    for i in range(3):
        size = (r + 0.14) * (1.0 - 0.27 * i)
        tiers.append(place(ellipsoid(size, max(size * 0.52, 0.18), size), (0.0, y + i * swirl, 0.0)))
    peak = y + 2 * swirl + 0.10
    bits = []
    for i in range(9):
        tier, angle = i % 2, 2.4 * i + dice.between(-0.3, 0.3)
        size = (r + 0.14) * (1.0 - 0.27 * tier)
        bits.append(
            place(sphere(0.05), (size * 0.93 * math.sin(angle), y + tier * swirl + 0.10, size * 0.93 * math.cos(angle)))
        )
    return (
        Part("cup", cone(r * 0.74, r, h, 0.02), paper),
        Part("pleats", _flutes(14, 0.45), shade(paper, 0.72), paint=True),
        Part("icing", union(*tiers), rgb),
        Part("peak", place(cone(0.17, 0.03, 0.10, 0.03), (0.0, peak + 0.08, 0.0)), rgb, blend=0.06),
        Part("sprinkles", union(*bits), accent(rgb, (0.98, 0.95, 0.85), CHERRY), paint=True),
        Part("cherry", place(sphere(0.14), (0.0, peak + 0.20, 0.0)), accent(rgb, CHERRY, (0.98, 0.92, 0.80))),
    )


BUILDERS: dict[str, Callable[[Dice, Rgb], tuple[Part, ...]]] = {
    "tree": tree,
    "mushroom": mushroom,
    "cactus": cactus,
    "flower": flower,
    "apple": apple,
    "pumpkin": pumpkin,
    "carrot": carrot,
    "cake": cake,
    "ice_cream": ice_cream,
    "cupcake": cupcake,
}
