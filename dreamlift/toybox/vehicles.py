"""Things that travel: how each is put together from parts.

Frame: +y up, +z front; any size and place, since every thing is fitted to the same sphere afterwards.
"""

from __future__ import annotations

from dreamlift.toybox.parts import (
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
)  # fmt: skip
from dreamlift.toybox.sdf import (
    bar,
    box,
    cone,
    cylinder,
    difference,
    intersection,
    mirror,
    ogive,
    place,
    prism,
    sphere,
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
        Part(
            "tail lights", mirror(place(sphere(0.08), (w * 0.70, h * 0.25, -long))), accent(rgb, RED, BLACK), paint=True
        ),
    )


def rocket(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """Upright: a round body, nose and fins of another colour, a porthole on +z, a nozzle."""
    r, h, nose = dice(0.31), dice(0.48), dice(0.50)
    trim = accent(rgb, dice.pick((RED, (0.22, 0.34, 0.62), (0.90, 0.89, 0.86))), (0.90, 0.89, 0.86), RED)
    count = 3 if dice.chance(0.4) else 4
    reach, high = dice(0.30), dice(0.34)
    outline = [(r * 0.5, -h - 0.02), (r + reach, -h - 0.22), (r + reach, -h + 0.06), (r * 0.5, -h + high + 0.15)]
    fin = prism(outline, 0.045, "z")
    fins = union(*(place(fin, turn_deg=(0.0, 360.0 * (i + 0.5) / count - 90.0, 0.0)) for i in range(count)))
    tip = place(ogive(r, nose), (0.0, h, 0.0))
    port_y = h * 0.42
    return (
        Part("body", cone(r * dice.between(0.8, 1.0), r, h), rgb),
        Part("nose", tip, trim),
        Part("fins", fins, trim),
        Part("nozzle", place(cone(r * 0.75, r * 0.45, 0.10), (0.0, -h - 0.08, 0.0)), DARK),
        Part("ring", place(sphere(0.17), (0.0, port_y, r)), SILVER, paint=True),
        Part("porthole", place(sphere(0.12), (0.0, port_y, r)), GLASS, paint=True),
        Part("stripe", place(cylinder(1.0, 0.04), (0.0, -h * 0.45, 0.0)), trim, paint=True),
    )


def boat(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A hull with its bow at +z, under sail or with a cabin and a funnel."""
    w, h, long = dice(0.36), dice(0.24), dice(0.80, 0.1)
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
        tall, turn = dice(1.15, 0.1), dice.between(20.0, 45.0) * (1.0 if dice.chance(0.5) else -1.0)
        sail = [(-dice(0.68), 0.12), (-0.02, 0.12), (-0.02, tall - 0.05)]
        jib = [(0.10, 0.15), (dice(0.42), 0.15), (0.10, tall * 0.72)]
        cloth = CREAM if min(rgb) > 0.85 else (0.96, 0.95, 0.92)
        parts += [
            Part("mast", place(cylinder(0.045, tall / 2 + 0.04), (0.0, h + tall / 2, 0.12)), BROWN),
            Part("sail", place(prism(sail, 0.038, "x"), (0.0, h, 0.12), (0.0, turn, 0.0)), cloth),
            Part("jib", place(prism(jib, 0.038, "x"), (0.0, h, 0.12), (0.0, turn * 0.5, 0.0)), cloth),
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
        Part("wings", mirror(place(prism(wing, 0.04, "y"), (0.0, low, 0.05))), rgb),
        Part("tailplane", mirror(place(prism(tail, 0.035, "y"), (0.0, 0.06, -long + 0.12))), rgb),
        Part("fin", place(prism(fin, 0.036, "x"), (0.0, 0.04, 0.0)), trim),
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
    blade = place(box(0.055, 0.32, 0.035, 0.02), (0.0, 0.0, long + 0.04), (0.0, 0.0, dice.between(0.0, 90.0)))
    return (*parts, Part("propeller", blade, BROWN), Part("hub", place(sphere(0.075), (0.0, 0.0, long + 0.03)), trim))
