"""Builders of the tableware and kitchenware: each returns the parts of one thing.

Frame: +y up, +z front; scale and position are free, because every thing is fitted to the same sphere afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from dreamlift.toybox.world.parts import BLACK, BROWN, DARK, GOLD, GREY, SILVER, WOOD, Dice, Part, Rgb, accent, shade
from dreamlift.toybox.world.sdf import (
    bar,
    box,
    cone,
    cylinder,
    difference,
    ellipsoid,
    intersection,
    mirror,
    place,
    sphere,
    torus,
    union,
)  # fmt: skip

YOLK: Rgb = (0.98, 0.70, 0.12)
LEAF: Rgb = (0.22, 0.52, 0.24)
ROSE: Rgb = (0.86, 0.22, 0.30)
PALE: Rgb = (0.97, 0.95, 0.90)
NAVY: Rgb = (0.18, 0.28, 0.60)


def mug(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A hollow, slightly tapered cup with thick walls and one handle on +x."""
    top, half, wall = dice(0.57, 0.12), dice(0.55, 0.12), 0.16
    bottom = top * dice.between(0.84, 1.0)
    ring = half * dice.between(0.48, 0.58)
    middle = 0.5 * (top + bottom)
    return (
        Part("handle", place(torus(ring, 0.10, dice.between(1.0, 1.25)), (middle + 0.6 * ring, 0.0, 0.0)), rgb),
        Part("body", cone(bottom - 0.05, top - 0.05, half - 0.05, 0.05), rgb),
        Part("inside", place(cone(bottom - wall, top - wall, half), (0.0, wall, 0.0)), shade(rgb, 0.42), carve=True),
    )


def teapot(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A round pot: spout on +x, handle on -x, a lid with a knob."""
    r, h = dice(0.55, 0.1), dice(0.45)
    lift = dice.between(0.0, 0.18)
    dark = shade(rgb, 0.62)
    elbow, tip = (r + 0.13, 0.02, 0.0), (r + 0.27, h * 0.62 + lift, 0.0)
    return (
        Part("handle", place(torus(h * 0.58, 0.08, 1.1), (-r - 0.07, 0.05, 0.0)), rgb),
        Part("body", ellipsoid(r, h, r), rgb),
        Part("spout", bar((r * 0.55, -0.18, 0.0), elbow, 0.17, 0.11), rgb, blend=0.08),
        Part("spout tip", bar(elbow, tip, 0.11, 0.08), rgb, blend=0.06),
        Part("foot", place(cylinder(r * 0.6, 0.06, 0.02), (0.0, -h + 0.02, 0.0)), rgb),
        Part("rim", place(cylinder(r * 0.56, 0.035, 0.02), (0.0, h * 0.84, 0.0)), dark),
        Part("lid", place(ellipsoid(r * 0.50, 0.15, r * 0.50), (0.0, h * 0.86, 0.0)), rgb),
        Part("knob", place(sphere(0.095), (0.0, h * 0.86 + 0.21, 0.0)), dark),
        Part("mouth", place(sphere(0.06), (tip[0] + 0.035, tip[1] + 0.065, 0.0)), BLACK, paint=True),
    )


def bowl(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A deep round bowl with a round rim, on a foot; darker inside, some with a band around it."""
    r, thick = dice(0.72, 0.08), 0.15
    depth = r * dice.between(0.62, 0.88)
    curve = (r * r + depth * depth) / (2.0 * depth)
    foot = r * dice.between(0.42, 0.55)
    cut = place(box(2.0, 2.0, 2.0), (0.0, depth - curve - 2.0, 0.0))
    shell = intersection(difference(sphere(curve + 0.5 * thick), sphere(curve - 0.5 * thick)), cut)
    parts = [
        Part("body", place(shell, (0.0, curve, 0.0)), rgb),
        Part("rim", place(torus(r, 0.08), (0.0, depth - 0.01, 0.0), (90.0, 0.0, 0.0)), rgb),
        Part("foot", place(cylinder(foot, 0.10, 0.03), (0.0, -0.05, 0.0)), rgb, blend=0.05),
    ]
    if dice.chance(0.5):
        tint = accent(rgb, dice.pick((PALE, NAVY, GOLD)), PALE, NAVY)
        parts.append(Part("band", place(cylinder(2.0, 0.06), (0.0, depth * 0.60, 0.0)), tint, paint=True))
    hollow = intersection(sphere(curve - 0.5 * thick + 0.03), place(cut, (0.0, -0.03, 0.0)))
    parts.append(Part("inside", place(hollow, (0.0, curve, 0.0)), shade(rgb, 0.55), paint=True))
    return tuple(parts)


def bottle(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A round bottle with sloping shoulders, a neck, a cap, and a label on +z."""
    r, half, neck = dice(0.34, 0.12), dice(0.52, 0.12), dice(0.24, 0.12)
    slope, thin = dice(0.17), r * dice.between(0.36, 0.46)
    top = half + 2.0 * slope
    tint = accent(rgb, PALE, NAVY)
    label = place(box(r * 0.74, half * 0.56, 0.5), (0.0, -half * 0.12, 0.5 + 0.1 * r))
    mark = place(cylinder(r * 0.36, 0.6), (0.0, -half * 0.12, 0.6), (90.0, 0.0, 0.0))
    return (
        Part("body", cylinder(r, half, 0.06), rgb),
        Part("shoulders", place(cone(r - 0.05, thin - 0.03, slope, 0.03), (0.0, half + slope - 0.05, 0.0)), rgb, 0.06),
        Part("neck", place(cylinder(thin, neck), (0.0, top + 0.5 * neck, 0.0)), rgb, 0.05),
        Part("cap", place(cylinder(thin + 0.04, 0.10, 0.03), (0.0, top + 1.5 * neck, 0.0)), accent(rgb, DARK, WOOD)),
        Part("label", label, tint, paint=True),
        Part("mark", mark, accent(tint, dice.pick((ROSE, LEAF, GOLD)), ROSE), paint=True),
    )


def vase(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A bellied vase with a flared, open mouth; often with three flowers in it."""
    r, h, neck = dice(0.47, 0.1), dice(0.43, 0.12), dice(0.16)
    thin, lip = r * dice.between(0.48, 0.58), r * dice.between(0.70, 0.86)
    y = h * 0.82 + neck
    top = y + neck
    parts = [
        Part("belly", ellipsoid(r, h, r), rgb),
        Part("neck", place(cone(thin - 0.03, lip - 0.03, neck, 0.03), (0.0, y, 0.0)), rgb, blend=0.10),
        Part("foot", place(cone(r * 0.72, r * 0.50, 0.08, 0.02), (0.0, -h + 0.03, 0.0)), rgb, blend=0.06),
        Part(
            "mouth",
            place(cone(thin - 0.13, lip - 0.11, neck, 0.0), (0.0, y + 0.04, 0.0)),
            shade(rgb, 0.40),
            carve=True,
        ),
        Part("band", cylinder(1.0, h * dice.between(0.16, 0.26)), shade(rgb, 0.68), paint=True),
    ]
    if dice.chance(0.65):
        tint, high = accent(rgb, dice.pick((ROSE, GOLD, PALE)), ROSE, GOLD), top + dice.between(0.34, 0.46)
        wide = dice.between(0.26, 0.34)
        spot = (wide, high - 0.12, 0.06)
        stems = union(
            bar((0.0, y - neck - 0.08, 0.0), (0.0, high, -0.06), 0.055), mirror(bar((0.03, y - neck - 0.08, 0.0), spot, 0.055))
        )
        blooms = union(place(sphere(0.17), (0.0, high, -0.06)), mirror(place(sphere(0.16), spot)))
        eyes = union(place(sphere(0.11), (0.0, high + 0.13, 0.03)), mirror(place(sphere(0.10), (wide + 0.03, high, 0.12))))
        parts += [
            Part("stems", stems, LEAF),
            Part("flowers", blooms, tint),
            Part("flower eyes", eyes, accent(tint, GOLD, BROWN), paint=True),
        ]
    return tuple(parts)


def goblet(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A drinking cup on a stem with a knob and a wide foot, jewels around the cup."""
    r, deep, stem = dice(0.43, 0.1), dice(0.56, 0.12), dice(0.30)
    foot, rise = dice(0.36, 0.1), dice.between(0.10, 0.18)
    jewel = accent(rgb, dice.pick((GOLD, ROSE, PALE)), GOLD, NAVY)
    cup = intersection(ellipsoid(r, deep, r), place(box(1.0, 0.5, 1.0), (0.0, rise - 0.5, 0.0)))
    low = -deep - stem
    spots = [mirror(place(sphere(0.10), at), "xz") for at in ((r, -0.14, 0.0), (0.0, -0.14, r))]
    return (
        Part("cup", cup, rgb),
        Part("stem", place(cylinder(0.085, stem), (0.0, -deep - 0.4 * stem, 0.0)), rgb, blend=0.10),
        Part("foot", place(cone(foot, 0.07, 0.10, 0.04), (0.0, low - 0.10, 0.0)), rgb, blend=0.06),
        Part("hollow", place(ellipsoid(r - 0.11, deep - 0.12, r - 0.11), (0.0, 0.03, 0.0)), shade(rgb, 0.42), carve=True),
        Part("knob", place(ellipsoid(0.17, 0.12, 0.17), (0.0, -deep - 0.45 * stem, 0.0)), jewel),
        Part("jewels", union(*spots), jewel, paint=True),
    )


def pan(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A frying pan with a long handle on +x, often with an egg in it."""
    r, half, wall = dice(0.60, 0.1), dice(0.16), 0.12
    start, end, lift = r - 0.05, r + dice(0.72, 0.12), dice.between(0.05, 0.20)
    grip = accent(rgb, BLACK, WOOD)
    tip = place(cylinder(0.055, 0.3), (end - 0.02, 0.0, 0.0))
    parts = [
        Part("body", cone(r * 0.86 - 0.04, r - 0.04, half - 0.04, 0.04), rgb),
        Part("neck", bar((start, 0.02, 0.0), (r + 0.25, 0.02 + 0.4 * lift, 0.0), 0.095), rgb, blend=0.05),
        Part("hollow", place(cone(r * 0.86 - wall, r - wall, half), (0.0, wall, 0.0)), shade(rgb, 0.62), carve=True),
        Part("grip", bar((r + 0.22, 0.02 + 0.35 * lift, 0.0), (end, 0.02 + lift, 0.0), 0.10, 0.13), grip),
        Part("eye", tip, accent(grip, SILVER, GREY), paint=True),
    ]
    if dice.chance(0.6):
        x, z, size = dice.between(-0.08, 0.08), dice.between(-0.08, 0.08), r * dice.between(0.34, 0.42)
        floor = wall - half
        lobe = place(cylinder(size * 0.7, 0.03, 0.02), (x - 0.55 * size, floor + 0.02, z + 0.4 * size))
        white = union(place(cylinder(size, 0.03, 0.02), (x, floor + 0.02, z)), lobe)
        yolk = place(ellipsoid(0.13, 0.10, 0.13), (x, floor + 0.05, z))
        parts += [Part("egg white", white, PALE), Part("yolk", yolk, YOLK)]
    return tuple(parts)


BUILDERS: dict[str, Callable[[Dice, Rgb], tuple[Part, ...]]] = {
    "mug": mug,
    "teapot": teapot,
    "bowl": bowl,
    "bottle": bottle,
    "vase": vase,
    "goblet": goblet,
    "pan": pan,
}
