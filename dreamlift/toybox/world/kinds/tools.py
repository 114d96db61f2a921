"""Builders of the tools, the instruments and the hat: each returns the parts of one thing.

Frame: +y up, +z front; scale and position are free, because every thing is fitted to the same sphere afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dreamlift.toybox.world.parts import BLACK, BROWN, CREAM, DARK, GOLD, GREY, SILVER, WOOD, Dice, Part, Rgb, accent, shade
from dreamlift.toybox.world.sdf import (
    Shape,
    bar,
    bowl,
    box,
    cone,
    cylinder,
    difference,
    ellipsoid,
    intersection,
    mirror,
    place,
    prism,
    sphere,
    torus,
    union,
)  # fmt: skip


def hat(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A brimmed hat with a ribbon: a top hat, a bowler or a cowboy's with its brim turned up."""
    r, brim, ribbon = dice(0.42, 0.1), dice(0.80, 0.1), accent(rgb, BLACK, CREAM)
    style = dice.between(0.0, 3.0)
    if style < 1.0:
        h = dice(0.36)
        crown = place(cone(r * 0.92, r * dice.between(0.95, 1.1), h, 0.03), (0.0, h, 0.0))
        rim = cylinder(brim * 0.88, 0.055, 0.04)
    elif style < 2.0:
        crown = intersection(ellipsoid(r, dice(0.52), r), place(box(1.0, 0.5, 1.0), (0.0, 0.46, 0.0)))
        rim = cylinder(brim, 0.052, 0.04)
    else:
        h = dice(0.27)
        crown = place(cone(r, r * 0.72, h, 0.06), (0.0, h, 0.0))
        rim = bowl(brim * 0.95, dice.between(0.10, 0.18), 0.10)
    return (
        Part("brim", rim, rgb),
        Part("crown", crown, rgb, blend=0.06),
        Part("ribbon", place(cylinder(r * 1.25, 0.075), (0.0, 0.16, 0.0)), ribbon, paint=True),
    )


def hammer(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """Upright: a heavy head of the named colour, its face on +x and a claw or a wedge on -x; a wooden handle."""
    r, long, reach = dice(0.19, 0.1), dice(0.44, 0.1), dice(1.12, 0.1)
    wood = accent(rgb, WOOD, BROWN, CREAM)
    turned = (0.0, 0.0, 90.0)
    if dice.chance(0.6):
        prong = union(
            bar((-0.08, 0.02, 0.03), (-0.40, 0.05, 0.11), 0.13, 0.095),
            bar((-0.40, 0.05, 0.11), (-0.62, -0.12, 0.14), 0.095, 0.06),
        )
        peen = mirror(prong, "z")
    else:
        peen = prism([(-0.62, -0.06), (0.0, -r * 0.8), (0.0, r * 0.8), (-0.62, 0.02)], r * 0.8, "z", 0.02)
    return (
        Part("handle", place(cone(0.115, 0.085, reach / 2, 0.02), (0.0, -reach / 2, 0.0)), wood),
        Part("grip", place(cylinder(0.14, reach * 0.14, 0.04), (0.0, -reach * 0.86, 0.0)), rgb),
        Part("socket", box(r * 0.92, r * 1.02, r * 0.92, 0.05), rgb),
        Part("neck", place(cylinder(r * 0.74, long / 2), (long / 2, 0.0, 0.0), turned), rgb),
        Part("face", place(cylinder(r * 1.12, 0.13, 0.03), (long, 0.0, 0.0), turned), rgb),
        Part("peen", peen, rgb, blend=0.04),
        Part("wedge", place(cylinder(0.10, 0.06), (0.0, r, 0.0)), wood, paint=True),
    )


def key(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """An old-fashioned key held upright: a ring or a trefoil on top, a collar, two or three teeth on +x."""
    long, ring = dice(1.02, 0.1), dice(0.25, 0.1)
    count, bit = 3 if dice.chance(0.4) else 2, dice(0.30)
    if dice.chance(0.5):
        bow: Shape = place(torus(ring, 0.115, dice.between(0.95, 1.05)), (0.0, ring, 0.0))
    else:
        leaf = torus(ring * 0.70, 0.10)
        bow = union(place(leaf, (0.0, ring * 1.65, 0.0)), mirror(place(leaf, (ring * 0.92, ring * 0.55, 0.0))))
    teeth = []
    for i in range(count):
        y, reach = -long + 0.10 + (0.20 if count == 3 else 0.26) * i, bit * (1.0 if i % 2 == 0 else 0.82)
        teeth.append(place(box(reach / 2, 0.065 if count == 3 else 0.085, 0.10, 0.02), (0.08 + reach / 2, y, 0.0)))
    web = place(box(0.10, 0.16 + 0.04 * count, 0.10, 0.02), (0.08, -long + 0.13 + 0.04 * count, 0.0))
    return (
        Part("bow", bow, rgb),
        Part("shaft", bar((0.0, -0.05, 0.0), (0.0, -long, 0.0), 0.105), rgb, blend=0.04),
        Part("collar", place(cylinder(0.175, 0.06, 0.03), (0.0, -0.16, 0.0)), shade(rgb, 0.72)),
        Part("teeth", union(web, *teeth), rgb),
    )


def umbrella(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """An open umbrella leaning back: eight panels with a scalloped hem, a point on top, a hooked handle."""
    r, depth, long = dice(0.85, 0.08), dice(0.44, 0.1), dice(1.28, 0.1)
    tilt, hook = dice.between(8.0, 22.0), 0.17
    curve = (r * r + depth * depth) / (2.0 * depth)
    rod, s, u = accent(rgb, DARK, WOOD), math.sin(math.pi / 8), math.cos(math.pi / 8)
    panel = prism([(0.0, 0.0), (2 * u, 2 * s), (2 * s, 2 * u)], 2.0, "y")
    bite = 0.36 * r
    far, low = r * 1.02, -depth - 0.15
    arcs = [place(sphere(bite), at) for at in ((far, low, 0.0), (0.0, low, far), (far * 0.7071, low, far * 0.7071))]
    hem = place(box(2.0, 1.0, 2.0), (0.0, 1.0 - depth, 0.0))
    canopy = intersection(place(bowl(r, depth, 0.125), turn_deg=(180.0, 0.0, 0.0)), hem)
    crook = difference(torus(hook, 0.07), place(box(1.0, 0.5, 1.0), (0.0, 0.5, 0.0)))

    def lean(shape: Shape) -> Shape:
        return place(shape, turn_deg=(-tilt, 0.0, 0.0))

    return (
        Part("canopy", lean(canopy), rgb),
        Part("scallops", lean(mirror(union(*arcs), "xz")), rgb, carve=True),
        Part("rod", lean(bar((0.0, 0.17, 0.0), (0.0, -long, 0.0), 0.062)), rod),
        Part("hook", lean(place(union(crook, place(sphere(0.07), (2 * hook * 0.5, 0.0, 0.0))), (hook, -long, 0.0))), rod),
        Part("panels", lean(mirror(panel, "xz")), shade(rgb, 0.70), paint=True),
        Part("inside", lean(place(sphere(curve - 0.05), (0.0, -curve, 0.0))), shade(rgb, 0.55), paint=True),
        Part("rod paint", lean(place(cylinder(0.075, 2.0), (0.0, -2.0, 0.0))), rod, paint=True),
        Part("hook paint", lean(place(box(0.5, 0.4, 0.1), (0.2, -long, 0.0))), rod, paint=True),
    )


def bell(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A flared bell with a clapper below and a band around it; a loop or a wooden handle on top."""
    r, h = dice(0.36, 0.1), dice(0.34, 0.12)
    lip = r * dice.between(1.55, 1.75)
    low = -h - 0.25
    metal, wood = accent(rgb, GOLD, SILVER), accent(rgb, WOOD, BROWN, CREAM)
    if dice.chance(0.5):
        grip = Part("loop", place(torus(0.15, 0.075), (0.0, h + r * 0.8 + 0.13, 0.0)), rgb)
    else:
        handle = union(
            bar((0.0, h + r * 0.7, 0.0), (0.0, h + r + 0.42, 0.0), 0.10, 0.13),
            place(cylinder(0.15, 0.045, 0.02), (0.0, h + r * 0.9, 0.0)),
        )
        grip = Part("handle", handle, wood)
    return (
        Part("waist", place(cone(r * 1.18, r, h), (0.0, 0.0, 0.0)), rgb),
        Part("dome", place(ellipsoid(r, r * 0.85, r), (0.0, h - 0.01, 0.0)), rgb),
        Part("lip", place(cone(lip, r * 1.15, 0.15, 0.03), (0.0, -h - 0.05, 0.0)), rgb, blend=0.16),
        Part("hollow", place(cone(lip - 0.11, r * 0.7, 0.28), (0.0, -h - 0.06, 0.0)), shade(rgb, 0.40), carve=True),
        Part("clapper", union(place(sphere(0.18), (0.0, low, 0.0)), bar((0.0, low, 0.0), (0.0, 0.3, 0.0), 0.06)), metal),
        Part("band", place(cylinder(2.0, 0.05), (0.0, -h + 0.16, 0.0)), metal, paint=True),
        grip,
    )


def guitar(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """Upright, its sound hole toward +z: a waisted body, a dark neck, a head with pegs."""
    low, up, d = dice(0.45, 0.08), dice(0.33, 0.08), dice(0.14, 0.12)
    y = low * dice.between(1.00, 1.12)  # centre of the upper bout above that of the lower
    neck = dice(0.62, 0.1)
    end = y + up + neck
    dark = accent(rgb, BROWN, BLACK, CREAM)
    flat = (90.0, 0.0, 0.0)
    front = d + 0.02
    return (
        Part("lower bout", place(cylinder(low, d, 0.03), turn_deg=flat), rgb),
        Part("upper bout", place(cylinder(up, d - 0.02, 0.03), (0.0, y, 0.0), flat), rgb, blend=0.10),
        Part("hole", place(cylinder(0.155, 0.1), (0.0, y * 0.55, front), flat), BLACK, paint=True),
        Part("neck", place(box(0.078, 0.5 * (neck + up), 0.065, 0.02), (0.0, end - 0.5 * (neck + up), d - 0.02)), dark),
        Part("bridge", place(box(0.20, 0.05, 0.05, 0.02), (0.0, -low * 0.35, d)), dark),
        Part("head", place(box(0.13, 0.16, 0.065, 0.03), (0.0, end + 0.12, d - 0.04)), rgb),
        Part("pegs", mirror(place(sphere(0.065), (0.17, end + 0.19, d - 0.04))), accent(rgb, SILVER, GREY)),
        Part("more pegs", mirror(place(sphere(0.065), (0.17, end + 0.04, d - 0.04))), accent(rgb, SILVER, GREY)),
        Part("strings", place(box(0.022, 1.0, 0.1), (0.0, 1.0 - low * 0.35, d + 0.12)), CREAM, paint=True),
    )


def watering_can(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A round can: a long spout with a sprinkler head on +x, handles over the top and on -x."""
    r, h, wall = dice(0.42, 0.1), dice(0.36, 0.12), 0.13
    top = r * dice.between(0.84, 1.0)
    tone = shade(rgb, 0.75)
    start = (r * 0.7, -h * 0.55, 0.0)
    end = (r + dice(0.46, 0.1), h + dice.between(0.0, 0.16), 0.0)
    dx, dy = end[0] - start[0], end[1] - start[1]
    size = math.hypot(dx, dy)
    turn = (0.0, 0.0, -math.degrees(math.atan2(dx, dy)))
    nose = (end[0] + 0.06 * dx / size, end[1] + 0.06 * dy / size, 0.0)
    face = (end[0] + 0.17 * dx / size, end[1] + 0.17 * dy / size, 0.0)
    arch = top - 0.5 * wall
    return (
        Part("body", cone(r - 0.03, top - 0.03, h - 0.03, 0.03), rgb),
        Part("spout", bar(start, end, 0.13, 0.08), rgb, blend=0.05),
        Part("arch", place(torus(arch, 0.075), (0.0, h, 0.0)), tone),
        Part("handle", place(torus(h * 0.58, 0.075), (-0.5 * (r + top) - 0.12, 0.02, 0.0)), tone),
        Part("hollow", place(cylinder(top - wall, 0.6 * h), (0.0, 0.4 * h + 0.01, 0.0)), shade(rgb, 0.42), carve=True),
        Part("sprinkler", place(cone(0.06, 0.17, 0.09, 0.02), nose, turn), rgb),
        Part("holes", place(cylinder(0.14, 0.03), face, turn), accent(rgb, SILVER, DARK), paint=True),
    )


BUILDERS: dict[str, Callable[[Dice, Rgb], tuple[Part, ...]]] = {
    "hat": hat,
    "hammer": hammer,
    "key": key,
    "umbrella": umbrella,
    "bell": bell,
    "guitar": guitar,
    "watering_can": watering_can,
}
