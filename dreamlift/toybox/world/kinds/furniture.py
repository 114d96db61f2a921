"""Builders of the furniture: each returns the parts of one piece.

Frame: +y up, +z front; scale and position are free, because every thing is fitted to the same sphere afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from dreamlift.toybox.world.parts import BROWN, CREAM, DARK, GLOW, GREY, SKY, WOOD, Dice, Part, Rgb, accent, shade
from dreamlift.toybox.world.sdf import Shape, bar, box, cone, cylinder, difference, mirror, place, sphere, torus, union

RED: Rgb = (0.80, 0.20, 0.17)
TEAL: Rgb = (0.12, 0.45, 0.52)
MUSTARD: Rgb = (0.92, 0.70, 0.20)
LINEN: Rgb = (0.97, 0.96, 0.92)
PAGES: Rgb = (0.90, 0.85, 0.74)


def chair(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """Four legs, a seat, and a back at -z made of a panel or of slats."""
    w, d, leg, back = dice(0.36), dice(0.36), dice(0.50), dice(0.72)
    t = 0.062
    posts = mirror(place(box(t, back / 2, t, 0.02), (w - t, back / 2, -d + t)))
    parts = [
        Part("legs", mirror(place(box(t, leg / 2, t, 0.015), (w - t, -leg / 2, d - t)), "xz"), shade(rgb, 0.86)),
        Part("seat", box(w, 0.07, d, 0.03), rgb),
        Part("posts", posts, shade(rgb, 0.86)),
    ]
    if dice.chance(0.5):
        panel = place(box(w - 0.03, back * 0.32, 0.055, 0.03), (0.0, back * 0.72, -d + t))
        parts.append(Part("back", panel, rgb))
    else:
        slat = box(w - 0.03, back * 0.10, 0.052, 0.02)
        slats = union(*(place(slat, (0.0, back * y, -d + t)) for y in (0.35, 0.62, 0.89)))
        parts.append(Part("back", slats, rgb))
    return tuple(parts)


def table(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A flat top, round or square, on four legs or on one foot."""
    height = dice(0.82, 0.18)
    if dice.chance(0.35):
        r, height = dice(0.64, 0.12), max(height, 0.76)
        return (
            Part("top", cylinder(r, 0.065, 0.025), rgb),
            Part("post", place(cylinder(0.095, height / 2), (0.0, -height / 2, 0.0)), shade(rgb, 0.8)),
            Part("foot", place(cylinder(r * 0.6, 0.06, 0.02), (0.0, -height, 0.0)), shade(rgb, 0.8), blend=0.12),
        )
    w, d, t = dice(0.74), dice(0.50, 0.2), 0.072
    return (
        Part("top", box(w, 0.065, d, 0.02), rgb),
        Part("apron", place(box(w - 0.08, 0.07, d - 0.08), (0.0, -0.1, 0.0)), shade(rgb, 0.8)),
        Part("legs", mirror(place(box(t, height / 2, t), (w - 0.10, -height / 2, d - 0.10)), "xz"), shade(rgb, 0.8)),
    )


def lamp(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A table lamp: foot, stem, and an open shade with the bulb in it."""
    r, h, stem = dice(0.48, 0.12), dice(0.31), dice(0.58, 0.12)
    metal = dice.pick((DARK, BROWN, (0.62, 0.50, 0.26)))
    top = r * dice.between(0.42, 0.65)
    return (
        Part("shade", place(cone(r, top, h), (0.0, stem + h, 0.0)), rgb),
        Part("hollow", place(cone(r - 0.11, top - 0.11, h), (0.0, stem + h - 0.19, 0.0)), GLOW, carve=True),
        Part("well", place(cylinder(top - 0.10, 0.09), (0.0, stem + 2 * h, 0.0)), GLOW, carve=True),
        Part("bulb", place(sphere(0.13), (0.0, stem + h * 0.6, 0.0)), (1.0, 0.97, 0.85)),
        Part("stem", place(cylinder(0.065, stem / 2 + h), (0.0, stem / 2 + h - 0.05, 0.0)), metal),
        Part("foot", place(cone(dice(0.34), 0.12, 0.06, 0.03), (0.0, -0.08, 0.0)), metal, blend=0.08),
        Part("knob", place(sphere(0.09), (0.0, stem + 2 * h + 0.0, 0.0)), metal),
    )


def stool(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A thick round seat on splayed legs with a ring between them; some have a cushion."""
    r, h, flare = dice(0.40, 0.1), dice(0.80, 0.2), dice.between(0.06, 0.18)
    foot, ring = r + flare - 0.08, -h * dice.between(0.58, 0.70)
    s = 0.7071
    leg = bar(((r - 0.12) * s, -0.05, (r - 0.12) * s), (foot * s, -h, foot * s), 0.075)
    hoop = (r - 0.12) + (flare + 0.04) * -ring / h
    tone = shade(rgb, 0.78)
    parts = [
        Part("legs", mirror(leg, "xz"), tone),
        Part("ring", place(torus(hoop, 0.055), (0.0, ring, 0.0), (90.0, 0.0, 0.0)), tone),
        Part("seat", cylinder(r, 0.10, 0.05), rgb),
    ]
    if dice.chance(0.5):
        parts.append(Part("cushion", place(cylinder(r * 0.94, 0.09, 0.085), (0.0, 0.12, 0.0)), rgb, blend=0.02))
        parts.append(Part("seat edge", place(cylinder(1.0, 0.075), (0.0, -0.045, 0.0)), tone, paint=True))
    return tuple(parts)


def bed(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A bed, its head at -z: a blanket of the named colour with its sheet turned down, white pillows."""
    w, d, head, end = dice(0.50, 0.2), dice(0.84, 0.08), dice(0.40, 0.12), dice.between(0.06, 0.18)
    linen, tone, wood = accent(rgb, LINEN, SKY), shade(rgb, 0.72), accent(rgb, WOOD, BROWN, CREAM)
    fold = -d * dice.between(0.22, 0.34)
    pillow = box(w * 0.70, 0.10, 0.18, 0.09)
    if w > 0.48:
        pillow = mirror(place(box(w * 0.42, 0.10, 0.18, 0.09), (w * 0.47, 0.0, 0.0)))
    spots = ((w + 0.04, 2.0 * head - 0.28, -d - 0.03), (w + 0.04, end + 0.04, d + 0.03))
    posts = [place(cylinder(0.085, 0.5 * y + 0.21), (x, 0.5 * y - 0.21, z)) for x, y, z in spots]
    knobs = [place(sphere(0.115), (x, y + 0.06, z)) for x, y, z in spots]
    return (
        Part("frame", place(box(w, 0.10, d, 0.03), (0.0, -0.10, 0.0)), tone),
        Part("posts", mirror(union(*posts)), wood),
        Part("knobs", mirror(union(*knobs)), wood),
        Part("mattress", place(box(w - 0.02, 0.13, d - 0.03, 0.07), (0.0, 0.06, 0.0)), linen),
        Part("blanket", place(box(w + 0.035, 0.17, 0.5 * (d - fold), 0.08), (0.0, 0.06, 0.5 * (d + fold))), rgb),
        Part("fold", place(box(1.0, 0.5, 0.085), (0.0, 0.55, fold + 0.06)), linen, paint=True),
        Part("pillows", place(pillow, (0.0, 0.24, -d + 0.27), (-14.0, 0.0, 0.0)), linen),
        Part("head", place(box(w + 0.02, head, 0.075, 0.06), (0.0, head - 0.28, -d - 0.03)), rgb),
        Part("foot", place(box(w + 0.02, 0.16 + 0.5 * end, 0.07, 0.06), (0.0, 0.5 * end - 0.12, d + 0.03)), rgb),
    )


def sofa(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A soft seat for two or three, facing +z: arms, a padded back, seat cushions, feet, throw pillows."""
    w, d, back, arm = dice(0.80, 0.12), dice(0.40, 0.1), dice(0.40), dice(0.24)
    side, count = dice(0.13), 3 if dice.chance(0.4) else 2
    inner = w - side
    wide = inner / count
    seats = place(box(wide - 0.008, 0.10, d - 0.10, 0.055), (wide, 0.18, 0.11))
    seats = mirror(seats)
    if count == 3:
        seats = union(
            place(box(wide - 0.008, 0.10, d - 0.10, 0.055), (0.0, 0.18, 0.11)),
            mirror(place(box(wide - 0.008, 0.10, d - 0.10, 0.055), (2.0 * wide, 0.18, 0.11))),
        )
    parts = [
        Part("base", box(w, 0.14, d, 0.04), rgb),
        Part("back", place(box(w - 0.02, back, 0.14, 0.10), (0.0, back - 0.06, -d + 0.08), (-7.0, 0.0, 0.0)), rgb),
        Part("arms", mirror(place(box(side, arm, d + 0.03, 0.10), (w, arm - 0.12, 0.02))), rgb),
        Part("seats", seats, shade(rgb, 0.84)),
        Part("feet", mirror(place(cylinder(0.075, 0.10), (w - 0.06, -0.18, d - 0.12)), "xz"), accent(rgb, DARK, WOOD)),
    ]
    if dice.chance(0.6):
        pillow = box(0.16, 0.16, 0.075, 0.07)
        tint = accent(rgb, dice.pick((CREAM, MUSTARD, TEAL)), CREAM, TEAL)
        parts.append(Part("pillows", mirror(place(pillow, (inner - 0.17, 0.40, -d + 0.36), (-18.0, -20.0, 8.0))), tint))
    return tuple(parts)


def bookshelf(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """An open case with two or three shelves of books, their spines to +z, and a few books on top."""
    w, d, board = dice(0.52), dice(0.22, 0.1), 0.065
    rows = 3 if dice.chance(0.6) else 2
    gap = dice(0.42, 0.1) if rows == 3 else dice(0.52, 0.1)  # vertical distance between boards
    half = 0.5 * rows * gap + board
    room = 0.5 * gap - board
    levels = [(i - 0.5 * (rows - 1)) * gap for i in range(rows)]
    hole = box(w - 2.0 * board, room, 1.0)
    first, second = accent(rgb, RED, TEAL), accent(rgb, MUSTARD, CREAM)
    third = accent(rgb, CREAM, TEAL)
    books: dict[Rgb, list[Shape]] = {first: [], second: [], third: []}
    for i, y in enumerate(levels):
        left = -1.0 if (i + rows) % 2 else 1.0
        x = left * (w - 2.0 * board)
        for j in range(3):
            tint = (first, second, third)[(i + j) % 3]
            thick, tall = dice.between(0.055, 0.10), room * dice.between(0.66, 0.88)
            x -= left * thick
            books[tint].append(place(box(thick, tall, d - 0.06, 0.015), (x, y - room + tall - 0.004, 0.03)))
            x -= left * (thick + 0.004)
    x, y = dice.between(-0.4, 0.4) * w, half + 0.06
    books[first].append(place(box(0.24, 0.07, d - 0.02, 0.015), (x, y + 0.07, 0.0), (0.0, 6.0, 0.0)))
    books[second].append(place(box(0.19, 0.06, d - 0.05, 0.015), (x + 0.02, y + 0.20, 0.0), (0.0, -14.0, 0.0)))
    holes = union(*(place(hole, (0.0, y, 0.0)) for y in levels))
    return (
        *(Part(f"books {n}", union(*shapes), tint) for n, (tint, shapes) in enumerate(books.items(), 1)),
        Part("pages", place(box(2.0, 2.0, 1.0), (0.0, 0.0, -1.06)), accent(rgb, PAGES, WOOD), paint=True),
        Part("case", difference(box(w, half, d, 0.02), holes), rgb),
        Part("top", place(box(w + 0.05, 0.06, d + 0.04, 0.02), (0.0, half, 0.0)), rgb),
    )


def bench(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A park bench facing +z: slats for seat and back between two iron sides with armrests."""
    w, d, leg, back = dice(0.84, 0.1), dice(0.30, 0.1), dice(0.42), dice(0.56, 0.12)
    iron = accent(rgb, DARK, GREY)
    slat = box(w, 0.075, d * 0.285, 0.025)
    seat = union(*(place(slat, (0.0, 0.0, z * d)) for z in (-0.68, 0.0, 0.68)))
    count = 3 if back > 0.56 else 2
    tall = 0.30 * back / count
    rest = [
        place(box(w, tall, 0.072, 0.025), (0.0, y, -d - 0.02 - 0.16 * y), (-9.0, 0.0, 0.0))
        for y in (back * (0.30 + 0.66 * i / (count - 1)) for i in range(count))
    ]
    x = w - 0.16
    side = union(
        bar((x, -0.06, d * 0.75), (x, -leg, d * 0.95), 0.075),
        bar((x, -leg, -d * 0.95), (x, 0.0, -d - 0.02), 0.075),
        bar((x, -0.09, -d), (x, -0.09, d * 0.75), 0.07),
        bar((x, 0.0, -d - 0.05), (x, back, -d - 0.09 - 0.16 * back), 0.065),
    )
    arm = union(
        place(box(0.07, 0.065, d + 0.05, 0.03), (w - 0.06, 0.30, 0.0)),
        bar((w - 0.06, 0.0, d * 0.8), (w - 0.06, 0.30, d * 0.8), 0.06),
    )
    return (
        Part("seat", seat, rgb),
        Part("back", union(*rest), rgb),
        Part("sides", mirror(side), iron),
        Part("arms", mirror(arm), iron),
    )


BUILDERS: dict[str, Callable[[Dice, Rgb], tuple[Part, ...]]] = {
    "chair": chair,
    "table": table,
    "lamp": lamp,
    "stool": stool,
    "bed": bed,
    "sofa": sofa,
    "bookshelf": bookshelf,
    "bench": bench,
}
