"""Builders of the toy figures: each returns the parts of one figure.

Frame: +y up, +z front (figures face +z); scale and position are free, because every thing is fitted to the same sphere
afterwards. A ``crown`` is the place of a hat's brim; parts that such a hat replaces have names that begin with "hat".
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dreamlift.toybox.world.kinds.animals import ORANGE, ROSE, WHITE, YELLOW, crown, eyes, pale
from dreamlift.toybox.world.parts import BLACK, BROWN, DARK, GLOW, GREY, SILVER, SKY, WOOD, Dice, Part, Rgb, accent, shade
from dreamlift.toybox.world.sdf import bar, box, cone, cylinder, ellipsoid, mirror, place, sphere, torus, union  # fmt: skip

SKIN: Rgb = (0.94, 0.74, 0.60)
RED: Rgb = (0.80, 0.16, 0.15)
BLUE: Rgb = (0.18, 0.32, 0.70)


def robot(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A boxy toy robot facing +z: eyes, mouth, antenna, a panel on its chest."""
    w, h, d = dice(0.34), dice(0.36), dice(0.24)
    head, tall, leg = dice(0.26), dice(0.21), dice(0.26)
    y, eye, white = h + tall + 0.07, tall * 0.36, (0.97, 0.97, 0.93)
    metal = accent(rgb, GREY, SILVER, DARK) if max(rgb) - min(rgb) < 0.1 else GREY
    top = (0.0, y + tall, 0.0, min(head, d * 0.92))
    return (
        Part("body", box(w, h, d, 0.05), rgb),
        Part("head", place(box(head, tall, d * 0.92, 0.05), (0.0, y, 0.0)), rgb, crown=top),
        Part("neck", place(cylinder(0.10, 0.08), (0.0, h + 0.02, 0.0)), metal),
        Part("hat antenna", place(cylinder(0.065, 0.11), (0.0, y + tall + 0.08, 0.0)), metal),
        Part("hat light", place(sphere(0.095), (0.0, y + tall + 0.22, 0.0)), accent(rgb, (0.86, 0.2, 0.16), GLOW)),
        Part("ears", mirror(place(cylinder(0.09, 0.07), (head + 0.03, y, 0.0), (0.0, 0.0, 90.0))), metal),
        Part("arms", mirror(bar((w + 0.05, h - 0.12, 0.0), (w + 0.17, -h * 0.55, 0.08), 0.085)), metal),
        Part("hands", mirror(place(sphere(0.125), (w + 0.18, -h * 0.7, 0.09))), rgb),
        Part("legs", mirror(place(cylinder(0.10, leg), (w * 0.52, -h - leg * 0.8, 0.0))), metal),
        Part("feet", mirror(place(box(0.15, 0.09, 0.20, 0.04), (w * 0.52, -h - leg * 1.7, 0.05))), rgb),
        Part("eyes", mirror(place(sphere(eye + 0.05), (head * 0.45, y + 0.04, d * 0.92))), white, paint=True),
        Part("pupils", mirror(place(sphere(eye), (head * 0.45, y + 0.04, d * 0.97))), BLACK, paint=True),
        Part(
            "mouth", place(box(head * 0.5, 0.035, 0.06), (0.0, y - tall * 0.6, d * 0.92)), accent(rgb, DARK, SILVER), paint=True
        ),
        Part("panel", place(box(w * 0.6, h * 0.42, 0.06), (0.0, 0.04, d)), accent(rgb, SILVER, DARK), paint=True),
        Part("dial", mirror(place(sphere(0.07), (w * 0.28, 0.08, d))), SKY, paint=True),
    )


def snowman(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """Three balls, coal eyes and buttons, a carrot nose toward +z, a scarf, a dark hat and stick arms."""
    a, b, c = dice(0.46, 0.1), dice(0.33, 0.1), dice(0.25, 0.1)
    yb, tilt = a + b * 0.62, dice.between(-0.05, 0.25)
    yc = yb + b + c * 0.55
    scarf = accent(rgb, dice.pick((RED, (0.15, 0.45, 0.30), BLUE)), BLUE, RED)
    coal, felt = accent(rgb, BLACK, WHITE), accent(rgb, DARK, (0.62, 0.64, 0.68))
    nose = place(cone(0.075, 0.02, 0.16, 0.015), (0.0, yc, c + 0.12), (90.0, 0.0, 0.0))
    buttons = [place(sphere(0.06), (0.0, yb + s * b, math.sqrt(1 - s * s) * b)) for s in (0.45, 0.0, -0.45)]
    arm = bar((b * 0.8, yb + 0.05, 0.0), (b + 0.38, yb + 0.10 + tilt, 0.05), 0.07)
    hand = bar((b + 0.26, yb + 0.07 + tilt * 0.7, 0.03), (b + 0.36, yb + 0.22 + tilt, 0.0), 0.065)
    return (
        Part("bottom", sphere(a), rgb),
        Part("middle", place(sphere(b), (0.0, yb, 0.0)), rgb, blend=0.05),
        Part("head", place(sphere(c), (0.0, yc, 0.0)), rgb, blend=0.04, crown=crown(0.0, yc, 0.0, c)),
        Part("scarf", place(torus(c * 0.80, 0.08), (0.0, yc - c * 0.75, 0.0), (90.0, 0.0, 0.0)), scarf),
        Part("arms", mirror(union(arm, hand)), accent(rgb, BROWN, WOOD)),
        Part("hat brim", place(cylinder(c * 1.15, 0.065, 0.02), (0.0, yc + c * 0.75, 0.0)), felt),
        Part("hat", place(cylinder(c * 0.72, 0.17, 0.02), (0.0, yc + c * 0.75 + 0.17, 0.0)), felt),
        Part("nose", nose, accent(rgb, ORANGE, YELLOW)),
        Part("eyes", mirror(place(sphere(0.06), (c * 0.36, yc + c * 0.32, c * 0.86))), coal, paint=True),
        Part("buttons", union(*buttons), coal, paint=True),
    )


def gnome(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A garden gnome: a tall pointed hat and a smock of the named colour, a long beard, a round nose, boots."""
    r, tall, head, peak = dice(0.38, 0.1), dice(0.32), dice(0.26, 0.08), dice(0.36)
    y, lean = tall + head * 0.80, dice.between(-14.0, 14.0)
    beard_rgb = accent(rgb, WHITE, (0.55, 0.36, 0.20))
    brim = y + head * 0.58
    hat = place(
        cone(head * 1.05, 0.03, peak, 0.04), (-peak * math.sin(math.radians(lean)), brim + peak, 0.0), (-6.0, 0.0, lean)
    )
    beard = bar((0.0, y - head * 0.55, head * 0.72), (0.0, y - head - dice(0.38, 0.25), r * 0.92), 0.22, 0.09)
    arm = bar((r * 0.72, tall * 0.60, 0.0), (r + 0.13, -tall * 0.05, 0.12), 0.12)
    return (
        Part("smock", place(cone(r, r * 0.68, tall, 0.06), (0.0, 0.0, 0.0)), rgb),
        Part("belt", place(cylinder(1.0, 0.055), (0.0, -tall * 0.35, 0.0)), accent(rgb, DARK, BROWN, WOOD), paint=True),
        Part("arms", mirror(arm), rgb),
        Part("hands", mirror(place(sphere(0.125), (r + 0.14, -tall * 0.20, 0.14))), SKIN),
        Part("boots", mirror(place(ellipsoid(0.17, 0.14, 0.23), (r * 0.48, -tall - 0.10, 0.08))), accent(rgb, BROWN, DARK)),
        Part("head", place(sphere(head), (0.0, y, 0.0)), SKIN),
        Part("hair", place(box(1.0, head, 0.4), (0.0, tall + head, -0.46)), beard_rgb, paint=True),
        Part("beard", beard, beard_rgb),
        Part("whiskers", mirror(bar((0.05, y - 0.10, head), (0.20, y - 0.15, head * 0.85), 0.08, 0.065)), beard_rgb),
        Part("eyes", mirror(place(sphere(0.058), (head * 0.42, y + head * 0.22, head * 0.88))), BLACK, paint=True),
        Part("nose", place(sphere(0.10), (0.0, y - 0.03, head + 0.06)), (0.92, 0.60, 0.48)),
        Part("hat", hat, rgb),
    )


def ghost(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A sheet ghost that hovers: a domed head, two dark eyes and an open mouth on +z, raised arms, a scalloped hem."""
    r, tall, flare = dice(0.40, 0.08), dice(0.48), dice(1.22, 0.06)
    low, hem = -tall, dice(0.15, 0.08)
    ink, ring = accent(rgb, BLACK, WHITE), r * flare - hem
    lobes = [place(sphere(hem), (ring * math.cos(t), low - 0.05, ring * math.sin(t))) for t in (math.pi / 8, 3 * math.pi / 8)]
    lift = dice.between(-0.05, 0.22)
    arm = bar((r * 0.85, -0.02, 0.12), (r + 0.22, lift, 0.30), 0.12, 0.10)
    y, wide = dice.between(0.16, 0.26), dice(0.16)
    eye = ellipsoid(0.085, dice(0.125, 0.12), 0.16)
    return (
        Part("sheet", place(cone(r * flare, r, tall / 2 + 0.12), (0.0, -tall / 2 + 0.12, 0.0)), rgb),
        Part("head", place(sphere(r), (0.0, 0.24, 0.0)), rgb, crown=crown(0.0, 0.24, 0.0, r)),
        Part("hem", mirror(union(*lobes), "xz"), rgb, blend=0.03),
        Part("hollow", place(sphere(r * 0.68), (0.0, low - 0.14, 0.0)), shade(rgb, 0.45), carve=True),
        Part("arms", mirror(arm), rgb, blend=0.08),
        Part("eyes", mirror(place(eye, (wide, y + 0.08, r * 0.92))), ink, paint=True),
        Part("mouth", place(ellipsoid(0.085, dice(0.10), 0.14), (0.0, y - 0.19, r)), ink, paint=True),
    )


def astronaut(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """An astronaut in a padded suit: a round helmet with a mirrored visor on +z, a backpack, a panel on the chest."""
    w, h, d, head = dice(0.28, 0.1), dice(0.27), dice(0.20, 0.1), dice(0.35, 0.08)
    leg, lift = dice(0.28), dice.between(-0.25, 0.12)
    y = h + head * 0.80
    trim = accent(rgb, (0.72, 0.74, 0.78), (0.42, 0.45, 0.52))
    visor = dice.pick(((0.10, 0.13, 0.22), (0.16, 0.30, 0.46)))
    visor = accent(rgb, visor, (0.95, 0.72, 0.22))
    glass = place(ellipsoid(head * 0.74, head * 0.60, head * 0.50), (0.0, y, head * 0.80))
    ring = place(ellipsoid(head * 0.88, head * 0.74, head * 0.56), (0.0, y, head * 0.80))
    hand = (w + 0.30, h * 0.2 + lift, 0.14)
    return (
        Part("body", box(w, h, d, 0.10), rgb),
        Part("helmet", place(sphere(head), (0.0, y, 0.0)), rgb, crown=crown(0.0, y, 0.0, head)),
        Part("ring", ring, trim, paint=True),
        Part("visor", glass, visor, paint=True),
        Part("glint", place(sphere(0.075), (head * 0.30, y + head * 0.24, head * 0.94)), SKY, paint=True),
        Part("backpack", place(box(w * 0.86, h * 0.98, 0.13, 0.05), (0.0, 0.08, -d - 0.10)), trim),
        Part("arms", mirror(bar((w, h * 0.55, 0.0), hand, 0.125, 0.115)), rgb),
        Part("gloves", mirror(place(sphere(0.135), hand)), trim),
        Part("legs", mirror(bar((w * 0.55, -h, 0.0), (w * 0.66, -h - leg, 0.0), 0.15, 0.14)), rgb, blend=0.04),
        Part("boots", mirror(place(box(0.16, 0.10, 0.22, 0.07), (w * 0.68, -h - leg - 0.10, 0.06))), trim),
        Part("panel", place(box(w * 0.56, h * 0.34, 0.08), (0.0, 0.0, d)), accent(rgb, DARK, SILVER), paint=True),
        Part("buttons", mirror(place(sphere(0.055), (w * 0.26, 0.02, d))), dice.pick((RED, YELLOW)), paint=True),
    )


def bear(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A sitting teddy bear: round ears, a pale muzzle and belly, legs stretched forward with pads on their soles."""
    r, tall, head = dice(0.34, 0.1), dice(0.40), dice(0.33, 0.08)
    y, light = tall + head * 0.72, pale(rgb)
    limb, spread = dice(0.145, 0.1), dice.between(0.02, 0.14)
    foot = (r * 0.72 + spread, -r * 0.62, r + 0.26)
    paw = (r + 0.20, dice.between(-0.06, 0.20), 0.24)
    ear = (head * 0.78, y + head * 0.72, -0.02)
    lining = place(sphere(0.085), (ear[0], ear[1], ear[2] + 0.10))
    parts = [
        Part("body", ellipsoid(r, tall * 1.02, r * 0.92), rgb),
        Part("belly", place(ellipsoid(r * 0.66, tall * 0.62, 0.22), (0.0, -0.05, r * 0.84)), light, paint=True),
        Part("head", place(sphere(head), (0.0, y, 0.04)), rgb, blend=0.04, crown=crown(0.0, y, 0.04, head)),
        Part("ears", mirror(place(ellipsoid(0.15, 0.15, 0.10), ear)), rgb),
        Part("inner ears", mirror(lining), light, paint=True),
        Part("arms", mirror(bar((r * 0.75, tall * 0.55, 0.04), paw, limb * 0.9, limb * 0.85)), rgb, blend=0.04),
        Part("legs", mirror(bar((r * 0.50, -r * 0.66, 0.05), foot, limb * 1.05, limb * 1.15)), rgb, blend=0.04),
        Part("soles", mirror(place(sphere(0.13), (foot[0], foot[1] + 0.01, foot[2] + 0.16))), light, paint=True),
        Part("muzzle", place(ellipsoid(0.165, 0.125, 0.13), (0.0, y - head * 0.32, head * 0.98)), light),
        Part("nose", place(sphere(0.07), (0.0, y - head * 0.16, head * 0.98 + 0.12)), accent(light, BLACK, BROWN)),
        *eyes((head * 0.42, y + head * 0.20, 0.04 + head * 0.86), 0.075),
    ]
    if dice.chance(0.4):
        bow = mirror(place(ellipsoid(0.13, 0.10, 0.08), (0.11, tall * 0.80, r * 0.85)))
        parts.append(Part("bow", bow, accent(rgb, dice.pick((RED, BLUE)), ROSE, BLUE)))
    return tuple(parts)


BUILDERS: dict[str, Callable[[Dice, Rgb], tuple[Part, ...]]] = {
    "robot": robot,
    "snowman": snowman,
    "gnome": gnome,
    "ghost": ghost,
    "astronaut": astronaut,
    "bear": bear,
}
