"""Builders of the vehicles: each returns the parts of one vehicle.

Frame: +y up, +z front; scale and position are free, because every thing is fitted to the same sphere afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from dreamlift.toybox.world.parts import (
    BLACK,
    BROWN,
    CREAM,
    DARK,
    GLASS,
    GLOW,
    GREY,
    SILVER,
    WOOD,
    Dice,
    Part,
    Rgb,
    accent,
    shade,
)  # fmt: skip
from dreamlift.toybox.world.sdf import (
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
    torus,
    union,
)  # fmt: skip

RED: Rgb = (0.80, 0.16, 0.13)


def car(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A small car, front at +z: windscreen, windows, head and tail lights, four wheels."""
    w, h, long = dice(0.38, 0.1), dice(0.15), dice(0.82, 0.1)
    tall, wheel = dice(0.27), dice(0.19, 0.1)
    front, back = dice.between(0.22, 0.38) * long, -dice.between(0.60, 0.88) * long
    slope = dice.between(0.45, 0.75) * tall
    cabin = [(back, 0.0), (front + slope, 0.0), (front, tall), (back + 0.4 * slope, tall)]
    cx, g = w - 0.05, 0.05
    window = [
        (back + g + 0.06, 0.05),
        (front + slope - 0.13, 0.05),
        (front - 0.02, tall - g),
        (back + 0.4 * slope + g, tall - g),
    ]
    pillar = place(box(w, 0.5, 0.035), (0.0, h, 0.5 * (front + back)))
    glass = place(prism(window, 1.0, "x"), (0.0, h, 0.0))
    screen = place(box(cx - 0.06, tall / 2 - 0.045, 2.0), (0.0, h + tall / 2 + 0.01, 0.0))
    axle = 0.60 * long
    turned = (0.0, 0.0, 90.0)
    return (
        Part("body", box(w, h, long, 0.09), rgb),
        Part("cabin", place(prism(cabin, cx - 0.02, "x", 0.02), (0.0, h - 0.02, 0.0)), rgb),
        Part("tyres", mirror(place(cylinder(wheel, 0.085, 0.03), (w - 0.04, -h, axle), turned), "xz"), BLACK),
        Part("hubs", mirror(place(cylinder(wheel * 0.55, 0.10, 0.01), (w - 0.04, -h, axle), turned), "xz"), SILVER),
        Part("side windows", glass, GLASS, paint=True),
        Part("screens", screen, GLASS, paint=True),
        Part("pillar", pillar, rgb, paint=True),
        Part("bumpers", mirror(place(box(w * 0.96, 0.045, 0.10), (0.0, -h * 0.6, long)), "z"), DARK, paint=True),
        Part("lights", mirror(place(sphere(0.095), (w * 0.66, h * 0.25, long))), GLOW, paint=True),
        Part("tail lights", mirror(place(sphere(0.08), (w * 0.70, h * 0.25, -long))), accent(rgb, RED, BLACK), paint=True),
    )


def rocket(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """Upright: a round body, the tip and fins of another colour, a porthole on +z, a nozzle."""
    r, h, nose = dice(0.31), dice(0.48), dice(0.50)
    trim = accent(rgb, dice.pick((RED, (0.22, 0.34, 0.62), (0.90, 0.89, 0.86))), (0.90, 0.89, 0.86), RED)
    count = 3 if dice.chance(0.4) else 4
    reach, high = dice(0.30), dice(0.34)
    outline = [(r * 0.5, -h - 0.02), (r + reach, -h - 0.22), (r + reach, -h + 0.06), (r * 0.5, -h + high + 0.15)]
    fin = prism(outline, 0.06, "z")
    fins = union(*(place(fin, turn_deg=(0.0, 360.0 * (i + 0.5) / count - 90.0, 0.0)) for i in range(count)))
    tip = place(ogive(r, nose), (0.0, h, 0.0))
    port_y = h * 0.42
    return (
        Part("body", cone(r * dice.between(0.8, 1.0), r, h), rgb),
        Part("nose", tip, rgb),
        Part("tip", place(box(1.0, 0.5, 1.0), (0.0, h + nose * 0.60 + 0.5, 0.0)), trim, paint=True),
        Part("fins", fins, trim),
        Part("nozzle", place(cone(r * 0.75, r * 0.45, 0.10), (0.0, -h - 0.08, 0.0)), DARK),
        Part("ring", place(sphere(0.17), (0.0, port_y, r)), SILVER, paint=True),
        Part("porthole", place(sphere(0.12), (0.0, port_y, r)), GLASS, paint=True),
        Part("stripe", place(cylinder(1.0, 0.04), (0.0, -h * 0.45, 0.0)), trim, paint=True),
    )


def boat(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A hull with its bow at +z, under sail or with a cabin and a funnel."""
    w, h, long = dice(0.39), dice(0.29), dice(0.80, 0.1)
    right = [(w * 0.8, -long), (w, -long * 0.3), (w * 0.9, long * 0.35), (0.06, long)]
    plan = right + [(-x, z) for x, z in reversed(right)]
    side = [(-long * 0.85, -h), (long * 0.62, -h), (long * 1.02, h), (-long, h)]
    bilge = [(-w * 0.55, -h), (w * 0.55, -h), (w * 1.05, h), (-w * 1.05, h)]
    hull = intersection(prism(plan, h, "y"), prism(side, 2.0, "x"), prism(bilge, 2.0, "z"))
    hollow, outer = ([(x * size, z * (size + 0.06)) for x, z in plan] for size in (0.80, 0.86))
    band = difference(place(box(2.0, 0.035, 2.0), (0.0, h - 0.06, 0.0)), prism(outer, 1.0, "y"))
    pale = (0.93, 0.92, 0.90)
    parts = [
        Part("hull", hull, rgb),
        Part("deck", place(prism(hollow, 0.12, "y"), (0.0, h, 0.0)), WOOD, carve=True),
        Part("stripe", band, accent(rgb, pale, DARK), paint=True),
    ]
    if dice.chance(0.55):
        tall, turn = dice(1.00, 0.1), dice.between(20.0, 45.0) * (1.0 if dice.chance(0.5) else -1.0)
        sail = [(-dice(0.68), 0.12), (-0.02, 0.12), (-0.02, tall - 0.05)]
        jib = [(0.10, 0.15), (dice(0.42), 0.15), (0.10, tall * 0.72)]
        cloth = CREAM if min(rgb) > 0.85 else (0.96, 0.95, 0.92)
        parts += [
            Part("mast", place(cylinder(0.06, tall / 2 + 0.04), (0.0, h + tall / 2, 0.12)), BROWN),
            Part("sail", place(prism(sail, 0.055, "x"), (0.0, h, 0.12), (0.0, turn, 0.0)), cloth),
            Part("jib", place(prism(jib, 0.055, "x"), (0.0, h, 0.12), (0.0, turn * 0.5, 0.0)), rgb),
        ]
        return tuple(parts)
    tall = dice(0.17)
    white = WOOD if min(rgb) > 0.85 else (0.95, 0.94, 0.90)
    funnel = accent(rgb, RED, DARK)
    portholes = [place(cylinder(0.06, 1.0), (0.0, h + tall * 1.1, z), (0.0, 0.0, 90.0)) for z in (-0.28, -0.05, 0.18)]
    parts += [
        Part("cabin", place(box(w * 0.62, tall + 0.06, long * 0.42, 0.03), (0.0, h + tall, -0.05)), white),
        Part("bridge", place(box(w * 0.50, 0.13, long * 0.17, 0.03), (0.0, h + 2 * tall + 0.14, 0.10)), white),
        Part("funnel", place(cylinder(0.095, 0.20), (0.0, h + 2 * tall + 0.20, -0.20)), funnel),
        Part("soot", place(cylinder(0.2, 0.06), (0.0, h + 2 * tall + 0.38, -0.20)), BLACK, paint=True),
        Part("portholes", union(*portholes), GLASS, paint=True),
        Part("screen", place(box(w * 0.40, 0.055, 0.6), (0.0, h + 2 * tall + 0.17, 0.5)), GLASS, paint=True),
    ]
    return tuple(parts)


def airplane(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """An airliner, or a light plane with a propeller; nose at +z."""
    r, long, span = dice(0.19, 0.1), dice(0.80, 0.08), dice(0.82, 0.1)
    sweep, chord = dice.between(0.05, 0.35), dice(0.23)
    wing = [(0.0, -chord), (span, -chord * 0.6 - sweep), (span, chord * 0.15 - sweep), (0.0, chord * 1.2)]
    tail = [(0.0, -0.14), (span * 0.42, -0.18 - sweep * 0.3), (span * 0.42, -0.02 - sweep * 0.3), (0.0, 0.13)]
    fin = [(-long - 0.02, 0.0), (-long + 0.34, 0.0), (-long + 0.10, 0.42), (-long - 0.08, 0.42)]
    trim = accent(rgb, dice.pick((RED, (0.20, 0.34, 0.66), (0.93, 0.92, 0.9))), (0.93, 0.92, 0.9), RED)
    low = -r * 0.35
    parts = [
        Part("fuselage", bar((0.0, 0.0, long - r), (0.0, 0.04, -long), r, r * 0.45), rgb),
        Part("wings", mirror(place(prism(wing, 0.055, "y"), (0.0, low, 0.05))), rgb),
        Part("tailplane", mirror(place(prism(tail, 0.05, "y"), (0.0, 0.06, -long + 0.12))), rgb),
        Part("fin", place(prism(fin, 0.05, "x"), (0.0, 0.04, 0.0)), trim),
    ]
    row = [place(sphere(0.042), (r, 0.045, z)) for z in (-0.40, -0.25, -0.10, 0.05, 0.20, 0.35)]
    cockpit = intersection(place(box(r * 2, 0.05, 0.12), (0.0, r * 0.48, long - 0.10)), box(1.0, r * 2, long * 2))
    parts += [
        Part("windows", mirror(union(*row)), GLASS, paint=True),
        Part("cockpit", cockpit, GLASS, paint=True),
    ]
    if dice.chance(0.6):
        engine = place(cylinder(0.085, 0.15, 0.03), (span * 0.42, low - 0.10, 0.20 - sweep * 0.4), (90.0, 0.0, 0.0))
        return (*parts, Part("engines", mirror(engine), GREY))
    blade = place(box(0.065, 0.32, 0.05, 0.02), (0.0, 0.0, long + 0.04), (0.0, 0.0, dice.between(0.0, 90.0)))
    return (*parts, Part("propeller", blade, BROWN), Part("hub", place(sphere(0.075), (0.0, 0.0, long + 0.03)), trim))


def truck(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A lorry, front at +z: a cab, and behind it a closed box or an open bed with its load."""
    w, long, tall, wheel = dice(0.36, 0.1), dice(0.85, 0.08), dice(0.56, 0.1), dice(0.19, 0.08)
    back, slope, closed = long - dice(0.48, 0.1), dice.between(0.04, 0.20), dice.chance(0.5)
    cab = [(back, 0.0), (long, 0.0), (long, tall * 0.5), (long - slope, tall), (back, tall)]
    far, near = -long, back - 0.08
    middle, half, turned = 0.5 * (far + near), 0.5 * (near - far), (0.0, 0.0, 90.0)
    axles = union(*(place(cylinder(wheel, 0.10, 0.03), (w - 0.06, -0.08, z), turned) for z in (long * 0.62, -long * 0.58)))
    hubs = union(*(place(cylinder(wheel * 0.5, 0.12, 0.01), (w - 0.06, -0.08, z), turned) for z in (long * 0.62, -long * 0.58)))
    door = place(box(1.0, tall * 0.18, (long - back) * 0.27), (0.0, tall * 0.68, back + (long - back) * 0.42))
    parts = [
        Part("chassis", place(box(w * 0.8, 0.07, long * 0.96), (0.0, -0.02, 0.0)), DARK),
        Part("cab", prism(cab, w, "x", 0.02), rgb),
        Part("bumper", place(box(w * 1.02, 0.065, 0.06, 0.02), (0.0, 0.0, long + 0.02)), SILVER),
        Part("tyres", mirror(axles), BLACK),
        Part("hubs", mirror(hubs), SILVER),
        Part("side windows", door, GLASS, paint=True),
        Part("screen", place(box(w - 0.07, tall * 0.19, 0.3), (0.0, tall * 0.70, long + 0.06)), GLASS, paint=True),
        Part("grille", place(box(w * 0.42, tall * 0.11, 0.06), (0.0, tall * 0.28, long + 0.02)), DARK, paint=True),
        Part("lights", mirror(place(sphere(0.085), (w * 0.74, tall * 0.27, long + 0.02))), GLOW, paint=True),
    ]
    if closed:
        high = tall * dice.between(0.60, 0.72)
        stripe = intersection(
            place(box(2.0, 0.055, half - 0.06), (0.0, high * 0.9, middle)), difference(box(2, 2, 2), box(w - 0.03, 2, 2))
        )
        return (
            *parts,
            Part("box", place(box(w + 0.02, high, half, 0.03), (0.0, 0.06 + high, middle)), rgb),
            Part("stripe", stripe, accent(rgb, (0.93, 0.92, 0.90), DARK), paint=True),
            Part("doors", place(box(0.025, high - 0.05, 0.08), (0.0, 0.06 + high, -long)), DARK, paint=True),
            Part("tail lights", mirror(place(sphere(0.09), (w * 0.78, 0.16, -long))), accent(rgb, RED, BLACK), paint=True),
        )
    high = tall * dice.between(0.26, 0.36)
    bed = difference(box(w + 0.03, high, half), place(box(w - 0.08, high, half - 0.11), (0.0, 0.12, 0.0)))
    load = intersection(ellipsoid(w * 0.85, high * 1.5, half * 0.8), box(w - 0.05, 1.0, half - 0.05))
    return (
        *parts,
        Part("bed", place(bed, (0.0, 0.06 + high, middle)), rgb),
        Part("load", place(load, (0.0, 0.10 + high, middle)), accent(rgb, dice.pick(((0.86, 0.70, 0.42), BROWN)), WOOD, BROWN)),
    )


def bus(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A bus, front at +z: rows of windows, one deck or two, a door on its right, a sign over the windscreen."""
    w, long, wheel, double = dice(0.33, 0.08), dice(0.86, 0.08), dice(0.17, 0.08), dice.chance(0.35)
    h = dice(0.50, 0.06) if double else dice(0.36, 0.08)
    rows = [h * 0.58, -h * 0.18] if double else [h * 0.30]
    tall, count, turned = h * (0.20 if double else 0.30), 5, (0.0, 0.0, 90.0)
    step = 2.0 * (long - 0.10) / count
    pane = box(1.0, tall, step * 0.5 - 0.04)
    panes = union(*(place(pane, (0.0, y, (i - 0.5 * (count - 1)) * step)) for y in rows for i in range(count)))
    front = union(*(place(box(w - 0.06, tall * 1.15, 0.08), (0.0, y - 0.02, long)) for y in rows))
    rear = place(box(w - 0.10, tall * 0.8, 0.08), (0.0, rows[0], -long))
    sign_y = 0.5 * (rows[0] + rows[1]) + 0.01 if double else h * 0.80
    wheels = place(cylinder(wheel, 0.09, 0.03), (w - 0.05, -h, long * 0.60), turned)
    hubs = place(cylinder(wheel * 0.5, 0.11, 0.01), (w - 0.05, -h, long * 0.60), turned)
    low = rows[-1] + tall
    door = place(box(0.08, (low + h * 0.86) / 2, 0.11), (-w, (low - h * 0.86) / 2, long - 0.17))
    return (
        Part("body", box(w, h, long, 0.09), rgb),
        Part("tyres", mirror(wheels, "xz"), BLACK),
        Part("hubs", mirror(hubs, "xz"), SILVER),
        Part("windows", panes, GLASS, paint=True),
        Part("screens", union(front, rear), GLASS, paint=True),
        Part("hatches", mirror(place(box(w * 0.42, 0.06, 0.14), (0.0, h, long * 0.5)), "z"), shade(rgb, 0.75), paint=True),
        Part("door", door, accent(rgb, DARK, GREY), paint=True),
        Part("sign", place(box(w * 0.6, 0.05, 0.10), (0.0, sign_y, long)), accent(rgb, GLOW, DARK), paint=True),
        Part("bumpers", mirror(place(box(w, 0.05, 0.10), (0.0, -h * 0.86, long)), "z"), DARK, paint=True),
        Part("lights", mirror(place(sphere(0.085), (w * 0.66, -h * 0.58, long))), GLOW, paint=True),
        Part("tail lights", mirror(place(sphere(0.075), (w * 0.7, -h * 0.5, -long))), accent(rgb, RED, BLACK), paint=True),
    )


def train(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A steam locomotive, front at +z: boiler, funnel, dome, a cab behind, three wheels a side, a cowcatcher."""
    r, long, w, wheel = dice(0.27, 0.08), dice(0.86, 0.06), 0.34, dice(0.18, 0.08)
    cab, high = dice(0.25, 0.1), dice(0.40, 0.1)
    trim = accent(rgb, dice.pick(((0.90, 0.70, 0.22), RED)), (0.90, 0.70, 0.22), RED)
    y, turned, flare = r - 0.04, (90.0, 0.0, 0.0), dice.between(0.10, 0.17)
    axles = [place(cylinder(wheel, 0.07, 0.02), (w - 0.02, -0.22, z), (0.0, 0.0, 90.0)) for z in (-0.58, -0.10, 0.38)]
    catcher = [(long - 0.06, -0.36), (long + 0.26, -0.36), (long - 0.06, -0.02)]
    return (
        Part("boiler", place(cylinder(r, long * 0.66, 0.04), (0.0, y, long * 0.30), turned), rgb),
        Part("smokebox", place(cylinder(r + 0.04, 0.11, 0.02), (0.0, y, long - 0.14), turned), rgb),
        Part("frame", place(box(w, 0.07, long, 0.02), (0.0, -0.08, 0.0)), DARK),
        Part("cab", place(box(w, high, cab, 0.02), (0.0, high - 0.08, -long + cab + 0.04)), rgb),
        Part("roof", place(box(w + 0.08, 0.055, cab + 0.09, 0.03), (0.0, 2 * high - 0.06, -long + cab + 0.04)), rgb),
        Part("funnel", place(cone(0.085, flare, 0.17, 0.01), (0.0, y + r + 0.13, long - 0.16)), DARK),
        Part("dome", place(bar((0.0, 0.0, 0.0), (0.0, r + 0.04, 0.0), 0.12), (0.0, y, 0.18)), trim),
        Part("wheels", mirror(union(*axles)), accent(rgb, RED, DARK)),
        Part("rod", mirror(place(box(0.06, 0.05, 0.54, 0.02), (w + 0.04, -0.23, -0.10))), SILVER),
        Part("cowcatcher", prism(catcher, w * 0.80, "x"), accent(rgb, RED, SILVER)),
        Part("doorway", place(box(w * 0.5, high * 0.62, 0.10), (0.0, high * 0.80, -long)), DARK, paint=True),
        Part(
            "windows",
            place(box(1.0, high * 0.27, cab * 0.52), (0.0, high * 1.30 - 0.08, -long + cab + 0.04)),
            GLASS,
            paint=True,
        ),
        Part("bands", place(box(2.0, r + 0.02, 0.03), (0.0, y + 0.02, long * 0.42)), trim, paint=True),
        Part("smokebox door", place(sphere(r * 0.72), (0.0, y, long)), DARK, paint=True),
        Part("lamp", place(sphere(0.13), (0.0, y, long - 0.02)), GLOW, paint=True),
    )


def tractor(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A farm tractor, front at +z: a long bonnet, big wheels behind and small ones before, a cab or an open seat."""
    w, long, high = dice(0.23, 0.08), dice(0.78, 0.08), dice(0.20, 0.1)
    big, small = dice(0.42, 0.08), dice(0.22, 0.08)
    hub = accent(rgb, (0.97, 0.80, 0.18), (0.93, 0.92, 0.90))
    rear, fore, turned = -0.36, long - 0.22, (0.0, 0.0, 90.0)
    ground, track = -0.50, w + 0.19
    hubs = union(
        place(cylinder(big * 0.55, 0.14, 0.03), (track, ground + big, rear), turned),
        place(cylinder(small * 0.55, 0.11, 0.02), (track - 0.04, ground + small, fore), turned),
    )
    parts = [
        Part("bonnet", place(box(w, high, long / 2 + 0.06, 0.06), (0.0, 0.04, long / 2 - 0.04)), rgb),
        Part("rump", place(box(w + 0.04, 0.20, 0.26, 0.04), (0.0, -0.02, rear)), rgb),
        Part("rear tyres", mirror(place(cylinder(big, 0.125, 0.05), (track, ground + big, rear), turned)), BLACK),
        Part("front tyres", mirror(place(cylinder(small, 0.09, 0.03), (track - 0.04, ground + small, fore), turned)), BLACK),
        Part("hubs", mirror(hubs), hub),
        Part("fenders", mirror(place(box(0.17, 0.06, 0.30, 0.03), (track, ground + 2 * big + 0.02, rear))), rgb),
        Part("axle", place(cylinder(0.06, track - 0.05), (0.0, ground + small, fore), turned), DARK),
        Part("exhaust", place(cylinder(0.055, 0.22), (0.0, high + 0.18, long * 0.66)), accent(rgb, DARK, SILVER)),
        Part("grille", place(box(w * 0.62, high * 0.66, 0.08), (0.0, 0.04, long + 0.02)), DARK, paint=True),
        Part("lights", mirror(place(sphere(0.07), (w * 0.80, 0.04 + high * 0.55, long + 0.02))), GLOW, paint=True),
    ]
    if dice.chance(0.65):
        tall, cab = dice(0.27, 0.1), w + 0.07
        panes = union(
            place(box(1.0, tall * 0.72, 0.17), (0.0, 0.20 + tall, rear)),
            place(box(cab - 0.07, tall * 0.72, 1.0), (0.0, 0.20 + tall, rear)),
        )
        return (
            *parts,
            Part("cab", place(box(cab, tall, 0.25, 0.02), (0.0, 0.16 + tall, rear)), rgb),
            Part("panes", panes, GLASS, paint=True),
            Part("roof", place(box(cab + 0.06, 0.06, 0.32, 0.04), (0.0, 0.18 + 2 * tall, rear)), rgb),
        )
    wheel = place(torus(0.14, 0.05), (0.0, 0.42, rear + 0.33), (-50.0, 0.0, 0.0))
    return (
        *parts,
        Part("seat", place(box(0.18, 0.06, 0.16, 0.03), (0.0, 0.22, rear)), DARK),
        Part("seat back", place(box(0.18, 0.18, 0.055, 0.03), (0.0, 0.38, rear - 0.17), (-8.0, 0.0, 0.0)), DARK),
        Part("steering", union(wheel, bar((0.0, 0.15, rear + 0.45), (0.0, 0.42, rear + 0.33), 0.05)), DARK),
    )


def helicopter(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A round cabin with a glass nose at +z, a tail boom with a small rotor, a big rotor on top, skids."""
    w, h, long = dice(0.38, 0.08), dice(0.37, 0.08), dice(0.52, 0.08)
    tail, blades, spin = dice(0.98, 0.08), 2 if dice.chance(0.5) else 3, dice.between(0.0, 180.0)
    trim = accent(rgb, (0.93, 0.92, 0.90), RED)
    steel, ground, reach = accent(rgb, DARK, GREY), -h - 0.20, dice(0.74, 0.08)
    blade = place(box(reach / 2, 0.058, 0.075, 0.02), (reach / 2, 0.0, 0.0))
    rotor = union(*(place(blade, turn_deg=(0.0, spin + 360.0 * i / blades, 0.0)) for i in range(blades)))
    fin = [(-tail - 0.10, 0.05), (-tail + 0.16, 0.05), (-tail - 0.02, 0.44), (-tail - 0.20, 0.44)]
    glass = intersection(
        place(box(1.0, h * 0.56, 1.0), (0.0, h * 0.24, long * 0.42 + 1.0)), difference(box(1, 1, 1), box(0.035, 1.0, 1.0))
    )
    return (
        Part("cabin", ellipsoid(w, h, long), rgb),
        Part("boom", bar((0.0, 0.08, -long * 0.5), (0.0, 0.16, -tail), 0.16, 0.08), rgb, blend=0.12),
        Part("fin", prism(fin, 0.055, "x"), rgb),
        Part(
            "tail rotor", place(box(0.058, 0.24, 0.065, 0.02), (0.10, 0.24, -tail), (dice.between(0.0, 90.0), 0.0, 0.0)), steel
        ),
        Part("mast", place(cylinder(0.08, 0.14), (0.0, h + 0.08, 0.0)), steel),
        Part("rotor", place(rotor, (0.0, h + 0.20, 0.0)), steel),
        Part("skids", mirror(bar((w * 0.85, ground, -0.40), (w * 0.85, ground, 0.46), 0.06)), steel),
        Part("struts", mirror(bar((w * 0.5, -h * 0.6, 0.20), (w * 0.85, ground, 0.24), 0.056), "xz"), steel),
        Part("glass", glass, GLASS, paint=True),
        Part("stripe", place(box(1.0, 0.05, 2.0), (0.0, -h * 0.48, 0.0)), trim, paint=True),
    )


BUILDERS: dict[str, Callable[[Dice, Rgb], tuple[Part, ...]]] = {
    "car": car,
    "rocket": rocket,
    "boat": boat,
    "airplane": airplane,
    "truck": truck,
    "bus": bus,
    "train": train,
    "tractor": tractor,
    "helicopter": helicopter,
}
