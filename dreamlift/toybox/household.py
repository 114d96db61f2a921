"""Things of the house: how each is put together from parts.

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
    SKY,
    Dice,
    Part,
    Rgb,
    accent,
    shade,
)  # fmt: skip
from dreamlift.toybox.sdf import (
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


def mug(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A hollow, slightly tapered cup with one handle on +x."""
    top, half, wall = dice(0.50), dice(0.55), 0.085
    bottom = top * dice.between(0.78, 1.0)
    ring = half * dice.between(0.45, 0.55)
    middle = 0.5 * (top + bottom)
    return (
        Part("handle", place(torus(ring, 0.09, dice.between(1.0, 1.3)), (middle + 0.6 * ring, 0.0, 0.0)), rgb),
        Part("body", cone(bottom - 0.03, top - 0.03, half - 0.03, 0.03), rgb),
        Part("inside", place(cone(bottom - wall, top - wall, half), (0.0, 0.12, 0.0)), shade(rgb, 0.42), carve=True),
    )


def teapot(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A round pot: spout on +x, handle on -x, a lid with a knob."""
    r, h = dice(0.55, 0.1), dice(0.45)
    lift = dice.between(0.0, 0.18)
    dark = shade(rgb, 0.62)
    elbow, tip = (r + 0.13, 0.02, 0.0), (r + 0.27, h * 0.62 + lift, 0.0)
    return (
        Part("handle", place(torus(h * 0.58, 0.075, 1.1), (-r - 0.07, 0.05, 0.0)), rgb),
        Part("body", ellipsoid(r, h, r), rgb),
        Part("spout", bar((r * 0.55, -0.18, 0.0), elbow, 0.17, 0.105), rgb, blend=0.08),
        Part("spout tip", bar(elbow, tip, 0.105, 0.07), rgb, blend=0.06),
        Part("foot", place(cylinder(r * 0.6, 0.06, 0.02), (0.0, -h + 0.02, 0.0)), rgb),
        Part("rim", place(cylinder(r * 0.56, 0.035, 0.02), (0.0, h * 0.84, 0.0)), dark),
        Part("lid", place(ellipsoid(r * 0.50, 0.15, r * 0.50), (0.0, h * 0.86, 0.0)), rgb),
        Part("knob", place(sphere(0.085), (0.0, h * 0.86 + 0.21, 0.0)), dark),
        Part("mouth", place(sphere(0.055), (tip[0] + 0.035, tip[1] + 0.06, 0.0)), BLACK, paint=True),
    )


def chair(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """Four legs, a seat, and a back at -z made of a panel or of slats."""
    w, d, leg, back = dice(0.36), dice(0.36), dice(0.50), dice(0.72)
    t = 0.058
    posts = mirror(place(box(t, back / 2, t, 0.02), (w - t, back / 2, -d + t)))
    parts = [
        Part("legs", mirror(place(box(t, leg / 2, t, 0.015), (w - t, -leg / 2, d - t)), "xz"), shade(rgb, 0.86)),
        Part("seat", box(w, 0.065, d, 0.03), rgb),
        Part("posts", posts, shade(rgb, 0.86)),
    ]
    if dice.chance(0.5):
        panel = place(box(w - 0.03, back * 0.32, 0.05, 0.03), (0.0, back * 0.72, -d + t))
        parts.append(Part("back", panel, rgb))
    else:
        slat = box(w - 0.03, back * 0.10, 0.045, 0.02)
        slats = union(*(place(slat, (0.0, back * y, -d + t)) for y in (0.35, 0.62, 0.89)))
        parts.append(Part("back", slats, rgb))
    return tuple(parts)


def table(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A flat top, round or square, on four legs or on one foot."""
    height = dice(0.78, 0.2)
    if dice.chance(0.35):
        r = dice(0.66)
        return (
            Part("top", cylinder(r, 0.06, 0.025), rgb),
            Part("post", place(cylinder(0.085, height / 2), (0.0, -height / 2, 0.0)), shade(rgb, 0.8)),
            Part("foot", place(cylinder(r * 0.5, 0.05, 0.02), (0.0, -height, 0.0)), shade(rgb, 0.8), blend=0.12),
        )
    w, d, t = dice(0.74), dice(0.50, 0.2), 0.065
    return (
        Part("top", box(w, 0.06, d, 0.02), rgb),
        Part("apron", place(box(w - 0.08, 0.07, d - 0.08), (0.0, -0.1, 0.0)), shade(rgb, 0.8)),
        Part("legs", mirror(place(box(t, height / 2, t), (w - 0.10, -height / 2, d - 0.10)), "xz"), shade(rgb, 0.8)),
    )


def lamp(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A table lamp: foot, stem, and an open shade with the bulb in it."""
    r, h, stem = dice(0.48), dice(0.30), dice(0.55)
    metal = dice.pick((DARK, BROWN, (0.62, 0.50, 0.26)))
    top = r * dice.between(0.42, 0.65)
    shell = cone(r, top, h)
    return (
        Part("shade", place(shell, (0.0, stem + h, 0.0)), rgb),
        Part("hollow", place(cone(r - 0.075, top - 0.075, h), (0.0, stem + h - 0.08, 0.0)), GLOW, carve=True),
        Part("bulb", place(sphere(0.13), (0.0, stem + h * 0.6, 0.0)), (1.0, 0.97, 0.85)),
        Part("stem", place(cylinder(0.06, (stem + h) / 2), (0.0, (stem + h) / 2 - 0.05, 0.0)), metal),
        Part("foot", place(cone(dice(0.30), 0.12, 0.06, 0.03), (0.0, -0.08, 0.0)), metal, blend=0.08),
        Part("knob", place(sphere(0.07), (0.0, stem + 2 * h + 0.02, 0.0)), metal),
    )


def house(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """Walls in the named colour, a contrasting gable roof, a door and windows on +z, a chimney."""
    w, h, d, rise, over = dice(0.55), dice(0.40), dice(0.52), dice(0.42), 0.10
    roof_rgb = accent(rgb, dice.pick(((0.48, 0.20, 0.15), (0.30, 0.32, 0.38))), (0.30, 0.32, 0.38))
    gable_front = dice.chance(0.6)
    span, run = (w, d) if gable_front else (d, w)
    # The roof is two slabs: a prism less the same prism, lowered. The gable fills it up to the walls.
    outline = [(-span - over, -0.03), (span + over, -0.03), (0.0, rise + 0.07)]
    attic = [(x, y - 0.11) for x, y in outline]
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


def hat(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A brimmed hat with a ribbon: a top hat, a bowler or a cowboy's with its brim turned up."""
    r, brim, ribbon = dice(0.42, 0.1), dice(0.80, 0.1), accent(rgb, BLACK, CREAM)
    style = dice.between(0.0, 3.0)
    if style < 1.0:
        h = dice(0.36)
        crown = place(cone(r * 0.92, r * dice.between(0.95, 1.1), h, 0.03), (0.0, h, 0.0))
        rim = cylinder(brim * 0.88, 0.045, 0.03)
    elif style < 2.0:
        crown = intersection(ellipsoid(r, dice(0.52), r), place(box(1.0, 0.5, 1.0), (0.0, 0.46, 0.0)))
        rim = cylinder(brim, 0.04, 0.03)
    else:
        h = dice(0.27)
        crown = place(cone(r, r * 0.72, h, 0.06), (0.0, h, 0.0))
        rim = bowl(brim * 0.95, dice.between(0.10, 0.18), 0.08)
    return (
        Part("brim", rim, rgb),
        Part("crown", crown, rgb, blend=0.06),
        Part("ribbon", place(cylinder(r * 1.25, 0.075), (0.0, 0.16, 0.0)), ribbon, paint=True),
    )


def robot(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A boxy toy robot that looks toward +z: eyes, mouth, antenna, a panel on its chest."""
    w, h, d = dice(0.34), dice(0.36), dice(0.24)
    head, tall, leg = dice(0.26), dice(0.21), dice(0.26)
    y, eye, pale = h + tall + 0.07, tall * 0.36, (0.97, 0.97, 0.93)
    return (
        Part("body", box(w, h, d, 0.05), rgb),
        Part("head", place(box(head, tall, d * 0.92, 0.05), (0.0, y, 0.0)), rgb),
        Part("neck", place(cylinder(0.10, 0.08), (0.0, h + 0.02, 0.0)), GREY),
        Part("antenna", place(cylinder(0.045, 0.11), (0.0, y + tall + 0.08, 0.0)), GREY),
        Part("light", place(sphere(0.085), (0.0, y + tall + 0.22, 0.0)), accent(rgb, (0.86, 0.2, 0.16), GLOW)),
        Part("ears", mirror(place(cylinder(0.08, 0.05), (head + 0.03, y, 0.0), (0.0, 0.0, 90.0))), GREY),
        Part("arms", mirror(bar((w + 0.11, h - 0.12, 0.0), (w + 0.17, -h * 0.55, 0.08), 0.085)), GREY),
        Part("hands", mirror(place(sphere(0.125), (w + 0.18, -h * 0.7, 0.09))), rgb),
        Part("legs", mirror(place(cylinder(0.10, leg), (w * 0.52, -h - leg * 0.8, 0.0))), GREY),
        Part("feet", mirror(place(box(0.15, 0.09, 0.20, 0.04), (w * 0.52, -h - leg * 1.7, 0.05))), rgb),
        Part("eyes", mirror(place(sphere(eye + 0.05), (head * 0.45, y + 0.04, d * 0.92))), pale, paint=True),
        Part("pupils", mirror(place(sphere(eye), (head * 0.45, y + 0.04, d * 0.97))), BLACK, paint=True),
        Part("mouth", place(box(head * 0.5, 0.035, 0.06), (0.0, y - tall * 0.6, d * 0.92)), DARK, paint=True),
        Part("panel", place(box(w * 0.6, h * 0.42, 0.06), (0.0, 0.04, d)), SILVER, paint=True),
        Part("dial", mirror(place(sphere(0.07), (w * 0.28, 0.08, d))), SKY, paint=True),
    )
