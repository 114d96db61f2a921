"""Builders of the buildings: each returns the parts of one building.

Frame: +y up, +z front; scale and position are free, because every thing is fitted to the same sphere afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from dreamlift.toybox.world.parts import BROWN, CREAM, DARK, GLASS, GLOW, GREY, WOOD, Dice, Part, Rgb, accent, shade
from dreamlift.toybox.world.sdf import (
    Shape,
    bar,
    box,
    cone,
    cylinder,
    difference,
    ellipsoid,
    intersection,
    mirror,
    ogive,
    place,
    prism,
    sphere,
    union,
)  # fmt: skip

RED: Rgb = (0.76, 0.18, 0.15)
SLATE: Rgb = (0.28, 0.33, 0.45)
WHITE: Rgb = (0.96, 0.95, 0.92)


def _arch(half_width: float, straight: float, depth: float) -> Shape:
    """A round-headed doorway or window, extruded along z: sill at y = 0, centre of the arch at y = ``straight``."""
    head = place(cylinder(half_width, depth), (0.0, straight, 0.0), (90.0, 0.0, 0.0))
    return union(place(box(half_width, straight / 2, depth), (0.0, straight / 2, 0.0)), head)


def house(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """Walls in the named colour, a contrasting gable roof, a door and windows on +z, a chimney."""
    w, h, d, rise, over = dice(0.55), dice(0.46), dice(0.52), dice(0.38), 0.10
    roof_rgb = accent(rgb, dice.pick(((0.48, 0.20, 0.15), (0.30, 0.32, 0.38))), (0.30, 0.32, 0.38))
    gable_front = dice.chance(0.6)
    span, run = (w, d) if gable_front else (d, w)
    # The roof consists of two slabs: a prism minus the same prism shifted down. The gable fills the space below.
    outline = [(-span - over, -0.03), (span + over, -0.03), (0.0, rise + 0.07)]
    attic = [(x, y - 0.14) for x, y in outline]
    axis = "z" if gable_front else "x"
    roof = difference(prism(outline, run + over, axis), prism(attic, run + 1.0, axis))
    gable = intersection(prism(attic, run, axis), box(w, 2.0, d))
    door_x = dice.between(-0.25, 0.25) * w
    side = 1.0 if door_x < 0 else -1.0
    window = box(0.15, 0.15, 0.06)
    pane = box(0.11, 0.11, 0.08)
    spot = (door_x + side * 0.57 * w, 0.10, d)
    sides = mirror(place(box(0.06, 0.15, 0.15), (w, 0.08, 0.0)))
    side_glass = mirror(place(box(0.08, 0.11, 0.11), (w, 0.08, 0.0)))
    return (
        Part("walls", box(w, h, d), rgb),
        Part("roof", place(roof, (0.0, h, 0.0)), roof_rgb),
        Part("gable", place(gable, (0.0, h + 0.012, 0.0)), rgb),
        Part("chimney", place(box(0.09, 0.22, 0.09), (w * 0.5, h + rise * 0.75, -d * 0.4)), (0.55, 0.30, 0.24)),
        Part("frames", union(place(window, spot), sides, place(window, (0.0, 0.08, -d))), CREAM, paint=True),
        Part("glass", union(place(pane, spot), side_glass, place(pane, (0.0, 0.08, -d))), GLASS, paint=True),
        Part("door", place(box(0.13, 0.25, 0.06), (door_x, -h + 0.25, d)), accent(rgb, BROWN, CREAM), paint=True),
    )


def castle(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """Battlements around a court, a round tower at each corner, a keep with a flag; the gate is at +z."""
    w, h, d, r = dice(0.52, 0.1), dice(0.27), dice(0.50, 0.1), dice(0.20, 0.1)
    tower, keep, rise = h + dice(0.20), h + dice(0.42, 0.12), dice(0.37)
    roof, dark = accent(rgb, dice.pick((RED, SLATE)), SLATE, RED), accent(rgb, DARK, GLOW)
    step = w * 0.36
    notches = union(
        place(box(step * 0.27, 0.13, 2.0), (0.0, h, 0.0)), mirror(place(box(step * 0.27, 0.13, 2.0), (step, h, 0.0)))
    )
    sides = mirror(place(box(2.0, 0.13, step * 0.27), (0.0, h, step * 0.5)), "z")
    slits = mirror(place(box(0.05, 0.10, 2.0), (w, tower * 0.45, 0.0)))
    parts = [
        Part("walls", box(w, h, d), rgb),
        Part("court", place(box(w - 0.13, h, d - 0.13), (0.0, h * 0.9, 0.0)), shade(rgb, 0.8), carve=True),
        Part("notches", union(notches, sides), rgb, carve=True),
        Part("towers", mirror(place(cylinder(r, (h + tower) / 2), (w, (tower - h) / 2, d)), "xz"), rgb),
        Part("keep", place(box(0.23, (h + keep) / 2, 0.22), (0.0, (keep - h) / 2, -d * 0.35)), rgb),
    ]
    if dice.chance(0.6):
        parts += [
            Part("roofs", mirror(place(cone(r + 0.06, 0.03, rise / 2, 0.02), (w, tower + rise / 2, d)), "xz"), roof),
            Part("keep roof", place(_pyramid(0.30, rise * 1.1), (0.0, keep, -d * 0.35)), roof),
        ]
        peak = keep + rise * 1.1
    else:
        top, well = place(cylinder(r + 0.06, 0.13, 0.01), (w, tower, d)), place(cylinder(r - 0.04, 0.13), (w, tower + 0.12, d))
        slots = [place(box(x, 0.12, z), (w, tower + 0.15, d)) for x, z in ((0.5, 0.06), (0.06, 0.5))]
        crown = place(box(0.29, 0.15, 0.28), (0.0, keep, -d * 0.35))
        gaps = [place(box(x, 0.12, z), (0.0, keep + 0.15, -d * 0.35)) for x, z in ((0.09, 1.0), (1.0, 0.09), (0.19, 0.18))]
        floors = union(
            mirror(place(cylinder(r - 0.03, 0.06), (w, tower - 0.02, d)), "xz"),
            place(box(0.2, 0.05, 0.19), (0.0, keep, -d * 0.35)),
        )
        parts += [
            Part("tower tops", mirror(difference(top, union(*slots, well)), "xz"), rgb),
            Part("keep top", difference(crown, union(*gaps)), rgb),
            Part("floors", floors, shade(rgb, 0.6), paint=True),
        ]
        peak = keep
    flag = prism([(0.0, -0.12), (0.30, 0.0), (0.0, 0.12)], 0.058, "z")
    return (
        *parts,
        Part("pole", place(cylinder(0.058, 0.22), (0.0, peak + 0.14, -d * 0.35)), DARK),
        Part("flag", place(flag, (0.0, peak + 0.24, -d * 0.35)), accent(rgb, RED, GLOW)),
        Part("slits", slits, dark, paint=True),
        Part("gate", place(_arch(0.14, h * 0.95, 0.07), (0.0, -h, d)), accent(rgb, BROWN, GLOW), paint=True),
        Part("keep window", place(_arch(0.06, 0.10, 0.08), (0.0, keep * 0.55 + 0.05, -d * 0.35 + 0.22)), dark, paint=True),
    )


def _pyramid(half: float, rise: float) -> Shape:
    """A square pyramid from its base at y = 0."""
    outline = [(-half, 0.0), (half, 0.0), (0.0, rise)]
    return intersection(prism(outline, half, "z"), prism(outline, half, "x"))


def lighthouse(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A tapered tower with pale bands on a rock, a gallery, a lit lantern room under a cap; the door is at +z."""
    bottom, top, h = dice(0.40, 0.1), dice(0.28, 0.08), dice(0.74, 0.1)
    band = accent(rgb, WHITE, RED)
    cap = rgb if dice.chance(0.5) else accent(rgb, dice.pick((RED, SLATE)), DARK, RED)
    room, peak, count = dice(0.16), dice(0.28), 2 if dice.chance(0.6) else 1
    bands = [place(cylinder(1.0, h * 0.11), (0.0, h * y, 0.0)) for y in ((-0.28, 0.40) if count == 2 else (0.10,))]
    windows = [place(box(0.06, 0.08, 0.5), (0.0, h * y, 0.5)) for y in (0.02, 0.70)]
    rail = difference(cylinder(top + 0.14, 0.10, 0.02), place(cylinder(top + 0.005, 0.10), (0.0, 0.09, 0.0)))
    return (
        Part("rock", place(ellipsoid(bottom + 0.12, 0.30, bottom + 0.10), (0.0, -h - 0.06, 0.0)), accent(rgb, GREY, BROWN)),
        Part("tower", cone(bottom, top, h), rgb),
        Part("bands", intersection(union(*bands), cylinder(bottom, h + 0.01)), band, paint=True),
        Part("gallery", place(rail, (0.0, h + 0.04, 0.0)), accent(rgb, DARK, WHITE)),
        Part("lantern", place(cylinder(top * 0.82, room + 0.05), (0.0, h + room + 0.05, 0.0)), (1.0, 0.90, 0.52)),
        Part("cap", place(cone(top + 0.03, 0.05, peak / 2, 0.03), (0.0, h + 2 * room + peak / 2 + 0.06, 0.0)), cap),
        Part("knob", place(sphere(0.075), (0.0, h + 2 * room + peak + 0.12, 0.0)), cap),
        Part("windows", union(*windows), accent(rgb, DARK, GLOW), paint=True),
        Part("door", place(_arch(0.11, 0.20, 0.5), (0.0, -h + 0.12, 0.5)), accent(rgb, BROWN, GLOW), paint=True),
    )


def windmill(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A tapered tower under a domed cap, four sails that face +z, a door below them."""
    bottom, top, h = dice(0.52, 0.1), dice(0.34, 0.08), dice(0.64, 0.1)
    reach, spin = dice(0.74, 0.08), dice.between(0.0, 90.0)
    roof = shade(rgb, 0.72) if dice.chance(0.5) else accent(rgb, dice.pick((BROWN, RED, SLATE)), SLATE, RED)
    cloth = WOOD if min(rgb) > 0.85 else CREAM
    panel = place(box(0.12, reach * 0.36, 0.06, 0.02), (0.075, reach * 0.62, 0.0))
    sails = union(*(place(panel, turn_deg=(0.0, 0.0, 90.0 * i)) for i in range(4)))
    arms = union(box(0.055, reach * 0.98, 0.066), box(reach * 0.98, 0.055, 0.066))
    hub, out = h + 0.10, top + 0.22
    return (
        Part("tower", cone(bottom, top, h), rgb),
        Part("cap", place(ogive(top + 0.04, dice(0.30)), (0.0, h, 0.0)), roof),
        Part("axle", bar((0.0, hub, 0.0), (0.0, hub, out + 0.05), 0.09), DARK),
        Part("sails", place(sails, (0.0, hub, out), (0.0, 0.0, spin)), cloth),
        Part("arms", place(arms, (0.0, hub, out), (0.0, 0.0, spin)), accent(cloth, BROWN)),
        Part("sill", place(cylinder(bottom * 1.12, 0.06, 0.02), (0.0, -h, 0.0)), accent(rgb, GREY, DARK, CREAM)),
        Part("windows", mirror(place(box(0.5, 0.10, 0.09), (0.5, -0.05, 0.0))), accent(rgb, GLASS, GLOW), paint=True),
        Part("door", place(_arch(0.13, 0.26, 0.5), (0.0, -h + 0.05, 0.5)), accent(rgb, BROWN, CREAM), paint=True),
    )


def church(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A nave under a steep gable; in front, at +z, a tower with its door, its steeple and a cross."""
    w, h, d, rise = dice(0.38, 0.1), dice(0.36), dice(0.52, 0.1), dice(0.34)
    side, tower, spire = dice(0.24, 0.08), h + dice(0.36), dice(0.50)
    roof = accent(rgb, dice.pick((SLATE, RED, (0.48, 0.24, 0.17))), SLATE, RED)
    glass, over, z = accent(rgb, GLASS, GLOW), 0.08, d + side * 0.4
    outline = [(-w - over, -0.03), (w + over, -0.03), (0.0, rise + 0.07)]
    attic = [(x, y - 0.14) for x, y in outline]
    tiles = difference(prism(outline, d + over, "z"), prism(attic, d + 1.0, "z"))
    gable = intersection(prism(attic, d, "z"), box(w, 2.0, d))
    lancet = place(_arch(0.065, 0.18, 0.08), (w, -0.14, 0.0), (0.0, 90.0, 0.0))
    lancets = union(*(place(lancet, (0.0, 0.0, d * at)) for at in (-0.62, -0.12, 0.38)))
    cross = tower + spire + 0.10
    return (
        Part("nave", box(w, h, d), rgb),
        Part("roof", place(tiles, (0.0, h, 0.0)), roof),
        Part("gable", place(gable, (0.0, h + 0.012, 0.0)), rgb),
        Part("tower", place(box(side, (h + tower) / 2, side), (0.0, (tower - h) / 2, z)), rgb),
        Part("steeple", place(_pyramid(side + 0.05, spire), (0.0, tower, z)), roof),
        Part("cross", place(box(0.06, 0.21, 0.06), (0.0, cross, z)), accent(roof, (0.93, 0.76, 0.28))),
        Part("cross arms", place(box(0.155, 0.06, 0.06), (0.0, cross + 0.05, z)), accent(roof, (0.93, 0.76, 0.28))),
        Part("lancets", mirror(lancets), glass, paint=True),
        Part("rose", place(sphere(0.13), (0.0, h * 0.75, -d)), glass, paint=True),
        Part("belfry", place(_arch(0.075, 0.12, 1.0), (0.0, tower - 0.30, z)), glass, paint=True),
        Part("door", place(_arch(0.12, 0.26, 0.08), (0.0, -h, z + side)), accent(rgb, BROWN, CREAM), paint=True),
    )


def tent(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A ridge tent: a door with open flaps at +z, a guy rope at the back."""
    w, h, d = dice(0.62, 0.12), dice(0.80, 0.12), dice(0.62)
    wall = dice.between(0.02, 0.22) * h
    spread, wood = w - wall * 0.15, accent(rgb, WOOD, CREAM)
    outline = [(-w, 0.0), (w, 0.0), (spread, wall), (0.0, h), (-spread, wall)]
    opening, flap = w * dice(0.40, 0.1), dice(0.13)
    door = prism([(-opening, 0.09), (opening, 0.09), (0.0, h * 0.80)], d * 0.8, "z")
    flaps = prism([(-opening - flap, -0.2), (opening + flap, -0.2), (0.0, h * 0.90)], 0.08, "z")
    return (
        Part("canvas", prism(outline, d, "z", 0.02), rgb),
        Part("flaps", place(flaps, (0.0, 0.0, d)), accent(rgb, CREAM, shade(rgb, 0.5), WOOD), paint=True),
        Part("door", place(door, (0.0, 0.0, d * 0.4)), accent(rgb, DARK, GLOW), carve=True),
        Part("ridge pole", bar((0.0, h, -d - 0.06), (0.0, h, d + 0.12), 0.065), wood),
        Part("rope", bar((0.0, h, -d), (0.0, 0.03, -d - 0.44), 0.055), accent(rgb, CREAM, WOOD)),
        Part("pegs", mirror(place(box(0.06, 0.08, 0.06, 0.02), (w + 0.06, 0.05, d * 0.8)), "xz"), wood),
    )


BUILDERS: dict[str, Callable[[Dice, Rgb], tuple[Part, ...]]] = {
    "house": house,
    "castle": castle,
    "lighthouse": lighthouse,
    "windmill": windmill,
    "church": church,
    "tent": tent,
}
