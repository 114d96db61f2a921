"""Things that live or grow, or stand in for it: how each is put together from parts.

Frame: +y up, +z front; any size and place, since every thing is fitted to the same sphere afterwards.
"""

from __future__ import annotations

import math

from dreamlift.toybox.parts import BLACK, BROWN, CREAM, DARK, WOOD, Dice, Part, Rgb, accent, shade
from dreamlift.toybox.sdf import (
    bar,
    box,
    cone,
    cylinder,
    difference,
    ellipsoid,
    mirror,
    place,
    sphere,
    torus,
    union,
)  # fmt: skip

CARROT: Rgb = (0.95, 0.48, 0.08)


def tree(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A brown trunk with a crown of the named colour: a cloud of balls, or the tiers of a fir."""
    trunk, r = dice(0.40), dice(0.10)
    base = Part("trunk", place(cone(r * 1.3, r * 0.85, trunk), (0.0, -trunk, 0.0)), BROWN)
    if dice.chance(0.5):
        wide = dice(0.52)
        tiers = [
            place(cone(wide * (1.0 - 0.22 * i), 0.06 * (3 - i), 0.25, 0.02), (0.0, 0.36 * i, 0.0)) for i in range(3)
        ]
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


def duck(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A bath duck that looks toward +z: orange beak, dark eyes, wings and a cocked tail."""
    w, h, long, head = dice(0.42, 0.1), dice(0.34, 0.1), dice(0.58, 0.1), dice(0.29, 0.12)
    y, z = h + head * 0.72, long * 0.48
    beak = place(box(0.15, 0.062, 0.19, 0.06), (0.0, y - 0.05, z + head + 0.03))
    wing = place(ellipsoid(0.16, h * 0.55, long * 0.52), (w * 0.84, 0.06, -0.08), (12.0, 0.0, 0.0))
    eye = (head * 0.55, y + head * 0.25, z + head * 0.72)
    return (
        Part("body", ellipsoid(w, h, long), rgb),
        Part("tail", bar((0.0, 0.05, -long * 0.7), (0.0, h + 0.06, -long - 0.10), 0.20, 0.07), rgb, blend=0.15),
        Part("head", place(sphere(head), (0.0, y, z)), rgb, blend=0.10),
        Part("wings", mirror(wing), shade(rgb, 0.86)),
        Part("beak", beak, accent(rgb, CARROT, (0.98, 0.80, 0.15))),
        Part("eye whites", mirror(place(sphere(0.095), eye)), (0.98, 0.98, 0.96), paint=True),
        Part("eyes", mirror(place(sphere(0.075), (eye[0], eye[1], eye[2] + 0.015))), BLACK, paint=True),
    )


def snowman(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """Two or three balls, coal eyes and buttons, a carrot nose toward +z, a scarf, a dark hat and stick arms."""
    a, b, c = dice(0.46, 0.1), dice(0.33, 0.1), dice(0.25, 0.1)
    yb, tilt = a + b * 0.62, dice.between(-0.05, 0.25)
    yc = yb + b + c * 0.55
    red, green, blue = (0.80, 0.16, 0.15), (0.15, 0.45, 0.30), (0.18, 0.32, 0.70)
    scarf = accent(rgb, dice.pick((red, green, blue)), blue, red)
    nose = place(cone(0.075, 0.02, 0.16, 0.015), (0.0, yc, c + 0.12), (90.0, 0.0, 0.0))
    buttons = [place(sphere(0.06), (0.0, yb + s * b, math.sqrt(1 - s * s) * b)) for s in (0.45, 0.0, -0.45)]
    arm = bar((b * 0.8, yb + 0.05, 0.0), (b + 0.38, yb + 0.10 + tilt, 0.05), 0.04)
    hand = bar((b + 0.26, yb + 0.07 + tilt * 0.7, 0.03), (b + 0.36, yb + 0.22 + tilt, 0.0), 0.035)
    return (
        Part("bottom", sphere(a), rgb),
        Part("middle", place(sphere(b), (0.0, yb, 0.0)), rgb, blend=0.05),
        Part("head", place(sphere(c), (0.0, yc, 0.0)), rgb, blend=0.04),
        Part("scarf", place(torus(c * 0.80, 0.075), (0.0, yc - c * 0.75, 0.0), (90.0, 0.0, 0.0)), scarf),
        Part("arms", mirror(union(arm, hand)), BROWN),
        Part("brim", place(cylinder(c * 1.05, 0.04, 0.015), (0.0, yc + c * 0.75, 0.0)), DARK),
        Part("hat", place(cylinder(c * 0.68, 0.16, 0.02), (0.0, yc + c * 0.75 + 0.16, 0.0)), DARK),
        Part("nose", nose, accent(rgb, CARROT, WOOD)),
        Part("eyes", mirror(place(sphere(0.06), (c * 0.36, yc + c * 0.32, c * 0.86))), BLACK, paint=True),
        Part("buttons", union(*buttons), BLACK, paint=True),
    )
