"""Builders of the toy animals: each returns the parts of one animal.

Frame: +y up, +z front (animals face +z); scale and position are free, because every thing is fitted to the same sphere
afterwards. A ``crown`` is the place of a hat's brim: below the top of the head, so that the hat covers part of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from dreamlift.toybox.world.parts import BLACK, CREAM, Dice, Part, Rgb, accent, shade
from dreamlift.toybox.world.sdf import (
    Shape,
    Vec,
    bar,
    box,
    cone,
    cylinder,
    ellipsoid,
    intersection,
    mirror,
    place,
    prism,
    sphere,
    torus,
    union,
)  # fmt: skip

WHITE: Rgb = (0.98, 0.98, 0.96)
ORANGE: Rgb = (0.96, 0.52, 0.08)
YELLOW: Rgb = (0.98, 0.80, 0.15)
ROSE: Rgb = (0.95, 0.55, 0.62)
SLATE: Rgb = (0.52, 0.60, 0.72)
IVORY: Rgb = (0.97, 0.93, 0.82)


def tone(rgb: Rgb, factor: float = 0.62) -> Rgb:
    """A second tone: a darker shade of ``rgb``, or a dark grey if ``rgb`` is too dark for the difference to be visible."""
    return shade(rgb, factor) if max(rgb) > 0.3 else (0.36, 0.36, 0.39)


def pale(rgb: Rgb) -> Rgb:
    """A light colour for bellies and muzzles: near white, or peach on white."""
    return (0.97, 0.76, 0.70) if min(rgb) > 0.85 else (0.97, 0.95, 0.90)


def crown(x: float, y: float, z: float, radius: float) -> tuple[float, float, float, float]:
    """The :attr:`Part.crown` of a round head with this centre and radius."""
    return (x, y + 0.80 * radius, z, 0.62 * radius)


def eyes(at: Vec, size: float) -> tuple[Part, Part]:
    """Two round eyes painted on a face toward +z; ``at`` is the centre of the one at +x."""
    pupil = (at[0] * 0.96, at[1], at[2] + 0.35 * size)
    return (
        Part("eye whites", mirror(place(sphere(size), at)), WHITE, paint=True),
        Part("eyes", mirror(place(sphere(size * 0.76), pupil)), BLACK, paint=True),
    )


def duck(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A bath duck facing +z: orange beak, dark eyes, wings and a cocked tail."""
    w, h, long, head = dice(0.42, 0.1), dice(0.34, 0.1), dice(0.58, 0.1), dice(0.29, 0.12)
    y, z = h + head * 0.72, long * 0.48
    beak = place(box(0.15, 0.062, 0.19, 0.06), (0.0, y - 0.05, z + head + 0.03))
    wing = place(ellipsoid(0.16, h * 0.55, long * 0.52), (w * 0.84, 0.06, -0.08), (12.0, 0.0, 0.0))
    return (
        Part("body", ellipsoid(w, h, long), rgb),
        Part("tail", bar((0.0, 0.05, -long * 0.7), (0.0, h + 0.06, -long - 0.10), 0.20, 0.07), rgb, blend=0.15),
        Part("head", place(sphere(head), (0.0, y, z)), rgb, blend=0.10, crown=crown(0.0, y, z, head)),
        Part("wings", mirror(wing), tone(rgb, 0.82)),
        Part("beak", beak, accent(rgb, ORANGE, YELLOW)),
        *eyes((head * 0.55, y + head * 0.25, z + head * 0.72), 0.095),
    )


def dog(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A puppy on four legs: a long muzzle with a dark nose, hanging ears, a collar and a raised tail."""
    r, long, leg, head = dice(0.26, 0.1), dice(0.30), dice(0.32, 0.2), dice(0.33, 0.1)
    snout, wag = dice(0.22, 0.2), dice.between(-0.18, 0.18)
    y, z = r + head * 0.70, long + 0.12
    ear_rgb, collar = tone(rgb, 0.5), accent(rgb, (0.80, 0.16, 0.15), (0.18, 0.36, 0.75))
    tip = (0.0, y - 0.09, z + head * 0.75 + snout)
    ear = ellipsoid(0.095, dice(0.23), 0.16)
    neck = place(cylinder(head * 1.1, 0.06), (0.0, y - head * 0.80, z - 0.10), (28.0, 0.0, 0.0))
    parts = [
        Part("body", bar((0.0, 0.0, -long), (0.0, 0.03, long), r * 0.95, r * 1.05), rgb),
        Part("legs", mirror(bar((r * 0.6, -0.05, long), (r * 0.68, -r * 0.6 - leg, long), 0.125, 0.12), "xz"), rgb, 0.06),
        Part("tail", bar((0.0, r * 0.5, -long - 0.12), (wag, r + 0.30, -long - 0.26), 0.105, 0.075), rgb, blend=0.08),
        Part("neck", bar((0.0, 0.05, long * 0.9), (0.0, y, z), r * 0.80), rgb, blend=0.08),
        Part("collar", neck, collar, paint=True),
        Part("head", place(sphere(head), (0.0, y, z)), rgb, blend=0.05, crown=crown(0.0, y, z, head)),
        Part("muzzle", bar((0.0, y - 0.08, z + head * 0.5), tip, 0.145, 0.125), rgb, blend=0.06),
        Part("ears", mirror(place(ear, (head + 0.02, y - 0.02, z - 0.04), (0.0, 0.0, 14.0))), ear_rgb),
        Part("nose", place(sphere(0.085), (0.0, tip[1] + 0.06, tip[2] + 0.08)), ROSE if max(rgb) < 0.3 else BLACK),
    ]
    if dice.chance(0.5):
        patch = place(sphere(0.19), (head * 0.45, y + head * 0.3, z + head * 0.72))
        spot = place(sphere(dice(0.26)), (-r * 0.7, r * 0.8, -long * 0.5))
        parts.append(Part("patches", union(patch, spot), ear_rgb, paint=True))
    return (*parts, *eyes((head * 0.44, y + head * 0.28, z + head * 0.80), 0.095))


def cat(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A sitting cat: upright, pointed ears, a small muzzle, a long tail; plain or striped."""
    hip, tall, head = dice(0.33, 0.1), dice(0.48), dice(0.34, 0.1)
    y, z = tall + head * 0.55, 0.16
    side = 1.0 if dice.chance(0.5) else -1.0
    ear = cone(0.15, 0.025, dice(0.13), 0.03)
    ear_at, tilt = (head * 0.62, y + head * 0.98, z - 0.02), (0.0, 0.0, -20.0)
    bend, tip = (side * 0.34, -0.24, -0.50), (side * dice(0.46), dice.between(0.15, 0.42), -0.54)
    inner = place(cone(0.085, 0.02, 0.10), (ear_at[0], ear_at[1] - 0.02, z + 0.10), tilt)
    parts = [
        Part("body", bar((0.0, -0.05, -0.06), (0.0, tall * 0.72, 0.06), hip, 0.21), rgb),
        Part("haunches", mirror(place(ellipsoid(0.17, 0.22, 0.27), (hip * 0.78, -0.16, 0.05))), rgb, blend=0.05),
        Part("front legs", mirror(bar((0.11, tall * 0.45, 0.16), (0.12, -0.29, 0.30), 0.105, 0.10)), rgb, blend=0.04),
        Part("feet", mirror(bar((0.26, -0.31, 0.12), (0.29, -0.31, 0.33), 0.09)), rgb, blend=0.04),
        Part("tail", union(bar((0.0, -0.26, -0.28), bend, 0.085), bar(bend, tip, 0.085, 0.08)), rgb, blend=0.05),
        Part("head", place(ellipsoid(head * 1.1, head * 0.92, head * 0.94), (0.0, y, z)), rgb, 0.04,
             crown=crown(0.0, y, z, head * 0.95)),
        Part("ears", mirror(place(ear, ear_at, tilt)), rgb, blend=0.04),
        Part("inner ears", mirror(inner), accent(rgb, ROSE, WHITE), paint=True),
    ]  # fmt: skip
    if dice.chance(0.5):
        rings = [place(cylinder(1.0, 0.035), (0.0, v, 0.0), (-20.0, 0.0, 0.0)) for v in (0.28, 0.10, -0.08)]
        back = intersection(union(*rings), place(box(1.0, 1.0, 0.5), (0.0, 0.2, -0.52)))
        brow = [place(box(0.03, 0.14, 0.3), (x, y + head * 0.95, z), (0.0, 0.0, 0.0)) for x in (-0.11, 0.0, 0.11)]
        parts.append(Part("stripes", union(back, *brow), tone(rgb, 0.55), paint=True))
    muzzle = mirror(place(sphere(0.10), (0.075, y - head * 0.38, z + head * 0.84)))
    return (
        *parts,
        Part("muzzle", muzzle, pale(rgb), blend=0.03),
        Part("nose", place(sphere(0.06), (0.0, y - head * 0.16, z + head * 0.98)), accent(rgb, ROSE, BLACK), paint=True),
        *eyes((head * 0.50, y + head * 0.22, z + head * 0.84), 0.095),
        Part("bib", place(sphere(0.16), (0.0, tall * 0.48, 0.30)), pale(rgb), paint=True),
    )


def fish(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A round fish facing +z: a forked tail, fins above, below and at the sides, big eyes, with or without pale bands."""
    w, h, long = dice(0.28, 0.08), dice(0.38), dice(0.51, 0.08)
    fin_rgb, reach, fork = tone(rgb, 0.82), dice(0.40), dice(0.36)
    lobe = [(-long + 0.16, -0.02), (-long - reach * 0.72, fork), (-long - reach, fork * 0.82), (-long - reach * 0.55, -0.02)]
    top = [
        (-long * 0.72, h * 0.3),
        (long * 0.50, h * 0.6),
        (long * 0.12, h + 0.10),
        (-long * 0.35, h + 0.20),
        (-long * 0.75, h + 0.13),
    ]
    low = [(-long * 0.50, -h - 0.14), (-long * 0.20, -h - 0.16), (long * 0.20, -h * 0.6), (-long * 0.45, -h * 0.5)]
    flap = place(ellipsoid(0.075, 0.14, 0.15), (w + 0.06, -h * 0.22, -0.02), (0.0, -35.0, 0.0))
    parts = [
        Part("body", ellipsoid(w, h, long), rgb),
        Part("root", bar((0.0, 0.0, -long * 0.6), (0.0, 0.0, -long - 0.10), 0.17, 0.08), rgb, blend=0.10),
        Part("tail", mirror(prism(lobe, 0.035, "x", 0.025), "y"), fin_rgb, blend=0.04),
        Part("top fin", prism(top, 0.035, "x", 0.025), fin_rgb, blend=0.04),
        Part("low fin", prism(low, 0.035, "x", 0.025), fin_rgb, blend=0.04),
        Part("side fins", mirror(flap), fin_rgb),
        Part("lips", place(torus(0.075, 0.055), (0.0, -h * 0.12, long * 0.95)), accent(rgb, ORANGE, ROSE)),
    ]
    if dice.chance(0.5):
        bands = [place(box(w + 0.03, h + 0.03, 0.055), (0.0, 0.0, s * long)) for s in (0.30, -0.38)]
        parts.append(Part("bands", union(*bands), accent(rgb, WHITE, ORANGE), paint=True))
    return (*parts, *eyes((w * 0.76, h * 0.26, long * 0.60), 0.115))


def pig(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A round pig on short legs: a flat snout with two nostrils, folded ears, a curled tail."""
    w, h, long, leg, head = dice(0.36, 0.1), dice(0.34, 0.1), dice(0.46, 0.1), dice(0.24, 0.2), dice(0.30, 0.1)
    y, z = h * 0.45, long * 0.88
    front, low = z + head + 0.06, -h * 0.75
    dark = tone(rgb, 0.78)
    ear = place(cone(0.12, 0.03, 0.12, 0.03), (head * 0.62, y + head * 0.92, z + 0.04), (28.0, 0.0, -26.0))
    curl = place(torus(0.095, 0.055), (0.0, h * 0.35, -long - 0.07), (0.0, 60.0, 0.0))
    nostrils = mirror(place(bar((0.0, -0.03, 0.0), (0.0, 0.03, 0.0), 0.036), (0.062, y - 0.04, front + 0.07)))
    snout = place(cylinder(0.155, 0.11, 0.03), (0.0, y - 0.04, front - 0.04), (90.0, 0.0, 0.0))
    return (
        Part("body", ellipsoid(w, h, long), rgb),
        Part("legs", mirror(place(cylinder(0.115, leg, 0.03), (w * 0.55, low, long * 0.50)), "xz"), rgb),
        Part("hooves", place(box(1.0, 0.08, 1.0), (0.0, low - leg, 0.0)), tone(rgb, 0.5), paint=True),
        Part("head", place(sphere(head), (0.0, y, z)), rgb, blend=0.06, crown=crown(0.0, y, z, head)),
        Part("ears", mirror(ear), dark),
        Part("tail", curl, dark),
        Part("snout", snout, dark),
        Part("nostrils", nostrils, shade(dark, 0.4), paint=True),
        *eyes((head * 0.46, y + head * 0.36, z + head * 0.78), 0.080),
    )


def elephant(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """An elephant: broad ears, a hanging trunk with its tip curled forward, two tusks, thick legs with pale toes."""
    w, h, long, leg, head = dice(0.38, 0.1), dice(0.37, 0.1), dice(0.46, 0.1), dice(0.30), dice(0.31, 0.08)
    y, z, ear = h * 0.62, long + 0.02, dice(0.29, 0.1)
    root, low = (0.0, y - 0.10, z + head * 0.75), -h * 0.7
    knee = (0.0, y - dice.between(0.42, 0.55), root[2] + dice.between(0.08, 0.20))
    tip = (0.0, knee[1] - dice.between(-0.14, 0.16), knee[2] + dice.between(0.16, 0.26))
    flap = place(cylinder(ear, 0.06, 0.05), (head * 0.75 + ear * 0.75, y + 0.06, z - 0.10), (90.0, 20.0, 0.0))
    lining = place(sphere(ear * 0.72), (head * 0.75 + ear * 0.80, y + 0.04, z + 0.10))
    tusk = bar((0.13, y - 0.20, z + head * 0.70), (0.20, y - 0.29, z + head + 0.10), 0.075, 0.06)
    toes = [place(sphere(0.06), (w * 0.55 + x, low - leg + 0.05, long * 0.55 + 0.15)) for x in (-0.07, 0.07)]
    return (
        Part("body", ellipsoid(w, h, long), rgb),
        Part("legs", mirror(place(cylinder(0.155, leg, 0.04), (w * 0.55, low, long * 0.55)), "xz"), rgb, blend=0.05),
        Part("tail", bar((0.0, h * 0.4, -long), (0.0, -0.16, -long - 0.16), 0.07, 0.065), tone(rgb, 0.7)),
        Part("head", place(sphere(head), (0.0, y, z)), rgb, blend=0.06, crown=crown(0.0, y, z, head)),
        Part("ears", mirror(flap), rgb),
        Part("inner ears", mirror(lining), tone(rgb, 0.74), paint=True),
        Part("trunk", union(bar(root, knee, 0.165, 0.125), bar(knee, tip, 0.125, 0.095)), rgb, blend=0.06),
        Part("tusks", mirror(tusk), accent(rgb, IVORY, YELLOW)),
        Part("toes", mirror(union(*toes)), accent(rgb, IVORY, SLATE), paint=True),
        *eyes((head * 0.50, y + head * 0.24, z + head * 0.80), 0.080),
    )


def rabbit(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A sitting rabbit: long upright ears, big hind feet, a white ball of a tail, a pink nose."""
    w, h, long, head = dice(0.32, 0.1), dice(0.36, 0.1), dice(0.36, 0.1), dice(0.31, 0.1)
    y, z = h + head * 0.55, long * 0.42
    tall, spread = dice(0.44, 0.2), dice.between(0.10, 0.30)
    base, tip = (0.12, y + head * 0.8, z - 0.04), (0.12 + spread, y + head * 0.8 + tall, z - 0.12)
    ear = bar(base, tip, 0.105, 0.10)
    inner = bar((base[0], base[1] + 0.05, base[2] + 0.09), (tip[0], tip[1] - 0.02, tip[2] + 0.09), 0.055)
    cheeks = mirror(place(sphere(0.105), (0.075, y - head * 0.36, z + head * 0.80)))
    return (
        Part("body", ellipsoid(w, h, long), rgb),
        Part("haunches", mirror(place(ellipsoid(0.17, 0.23, 0.25), (w * 0.75, -h * 0.40, -0.06))), rgb, blend=0.05),
        Part("feet", mirror(bar((w * 0.80, -h * 0.92, 0.0), (w * 0.88, -h * 0.92, long + 0.08), 0.10)), rgb, blend=0.04),
        Part("paws", mirror(bar((0.13, h * 0.35, long * 0.75), (0.11, -h * 0.10, long + 0.05), 0.095)), rgb, blend=0.04),
        Part("tail", place(sphere(dice(0.16)), (0.0, -h * 0.45, -long - 0.06)), accent(rgb, WHITE, CREAM, ROSE)),
        Part("belly", place(ellipsoid(0.20, 0.24, 0.20), (0.0, -0.06, long * 0.85)), pale(rgb), paint=True),
        Part("head", place(sphere(head), (0.0, y, z)), rgb, blend=0.05, crown=crown(0.0, y, z, head)),
        Part("ears", mirror(ear), rgb, blend=0.04),
        Part("inner ears", mirror(inner), accent(rgb, ROSE, WHITE), paint=True),
        Part("cheeks", cheeks, pale(rgb), blend=0.03),
        Part("nose", place(sphere(0.062), (0.0, y - head * 0.12, z + head)), accent(rgb, ROSE, (0.60, 0.2, 0.3)), paint=True),
        *eyes((head * 0.52, y + head * 0.22, z + head * 0.80), 0.090),
    )


def turtle(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A turtle under a domed, patterned shell of the named colour: head out at +z, four stubby legs, a tail."""
    r, dome, rim = dice(0.56, 0.1), dice(0.45), dice(0.07)
    head, rise = dice(0.19, 0.12), dice.between(0.08, 0.28)
    skin = accent(rgb, (0.58, 0.76, 0.34), (0.95, 0.80, 0.50))
    z = r + head * 1.0
    shell = intersection(ellipsoid(r, dome, r), place(box(2.0, 1.0, 2.0), (0.0, 1.0, 0.0)))
    plates, phase = [place(sphere(0.19), (0.0, dome, 0.0))], dice.between(0.0, 1.0)
    for i in range(6):
        angle, tilt = 2 * math.pi * (i + phase) / 6, 1.02
        side = r * math.sin(tilt)
        plates.append(place(sphere(0.15), (side * math.sin(angle), dome * math.cos(tilt), side * math.cos(angle))))
    return (
        Part("shell", shell, rgb),
        Part("rim", cylinder(r + 0.06, rim, 0.05), rgb, blend=0.05),
        Part("plates", union(*plates), tone(rgb, 0.68), paint=True),
        Part("belly", place(cylinder(r * 0.88, 0.06, 0.03), (0.0, -0.08, 0.0)), skin),
        Part("legs", mirror(bar((r * 0.5, -0.06, r * 0.5), (r * 0.84, -0.20, r * 0.80), 0.15, 0.135), "xz"), skin),
        Part("tail", bar((0.0, -0.05, -r * 0.8), (0.0, -0.10, -r - 0.20), 0.11, 0.065), skin),
        Part("neck", bar((0.0, -0.02, r * 0.7), (0.0, rise, z), 0.13), skin),
        Part(
            "head", place(sphere(head), (0.0, rise + 0.04, z + 0.04)), skin, 0.05, crown=crown(0.0, rise + 0.04, z + 0.04, head)
        ),
        Part(
            "mouth", place(box(head * 0.7, 0.02, 0.1), (0.0, rise - head * 0.25, z + head + 0.04)), shade(skin, 0.4), paint=True
        ),
        *eyes((head * 0.62, rise + 0.04 + head * 0.34, z + 0.04 + head * 0.68), 0.078),
    )


def penguin(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """An upright penguin: a pale belly and face, an orange beak and feet, flippers held off the body."""
    r, tall, head, lift = dice(0.38, 0.1), dice(0.50), dice(0.29, 0.1), dice.between(0.08, 0.30)
    y, front = tall + head * 0.62, accent(rgb, WHITE, SLATE)
    beak_rgb = accent(rgb, ORANGE, YELLOW)
    flipper = bar((r * 0.80, tall * 0.62, 0.0), (r + lift, -tall * 0.10, 0.03), 0.11, 0.075)
    beak = place(cone(0.095, 0.03, 0.11, 0.02), (0.0, y - 0.04, head + 0.08), (96.0, 0.0, 0.0))
    return (
        Part("body", bar((0.0, 0.0, 0.0), (0.0, tall * 0.75, 0.0), r, r * 0.72), rgb),
        Part("head", place(sphere(head), (0.0, y, 0.02)), rgb, blend=0.10, crown=crown(0.0, y, 0.02, head)),
        Part("belly", place(ellipsoid(r * 0.72, tall * 0.72, r * 0.7), (0.0, tall * 0.12, r * 0.75)), front, paint=True),
        Part("face", mirror(place(sphere(head * 0.52), (head * 0.38, y - 0.02, head * 0.80))), front, paint=True),
        Part("flippers", mirror(flipper), rgb, blend=0.03),
        Part("tail", bar((0.0, -r * 0.55, -r * 0.6), (0.0, -r * 0.85, -r - 0.10), 0.13, 0.07), rgb, blend=0.05),
        Part("beak", beak, beak_rgb),
        Part("feet", mirror(place(ellipsoid(0.15, 0.10, 0.19), (r * 0.48, -r * 0.95, r * 0.55))), beak_rgb),
        Part("eyes", mirror(place(sphere(0.072), (head * 0.42, y + head * 0.20, head * 0.90))), BLACK, paint=True),
    )


def _coil(pitch: float, width: float) -> Shape:
    """A spiral band around the x axis, for ``paint`` parts only: negative inside, but not a distance."""

    def inside(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        turn = z.atan2(y) / (2.0 * math.pi) * pitch
        return ((y * y + z * z).sqrt() - turn).remainder(pitch) - width

    return inside


def snail(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A snail under a big coiled shell of the named colour: a flat foot, a raised head, eyes on two stalks."""
    r, wide, long = dice(0.53, 0.1), dice(0.33, 0.12), dice(0.60, 0.1)
    neck, stalk, lean = dice(0.30), dice(0.30), dice.between(0.02, 0.12)
    skin = accent(rgb, (0.93, 0.78, 0.52), (0.62, 0.42, 0.30))
    y, z = 0.10 + neck, long + 0.06
    at = (0.0, r + 0.04, -0.12)
    eye = (0.13 + lean, y + stalk, z + 0.12)
    coil = place(_coil(r * 0.42, r * 0.13), at)
    return (
        Part("foot", bar((0.0, -0.02, -long - 0.12), (0.0, 0.0, long * 0.85), 0.11, 0.16), skin),
        Part("neck", bar((0.0, 0.0, long * 0.75), (0.0, y, z), 0.15, 0.14), skin, blend=0.10),
        Part("head", place(sphere(0.17), (0.0, y, z + 0.02)), skin, blend=0.05),
        Part("stalks", mirror(bar((0.07, y, z + 0.04), eye, 0.062)), skin, blend=0.03),
        Part("shell", place(ellipsoid(wide, r, r), at), rgb),
        Part("hub", mirror(place(ellipsoid(0.13, r * 0.50, r * 0.50), (wide * 0.78, at[1], at[2]))), rgb, blend=0.03),
        Part("coil", intersection(coil, place(ellipsoid(wide * 1.4, r * 1.1, r * 1.1), at)), tone(rgb, 0.55), paint=True),
        Part("eyeballs", mirror(place(sphere(0.10), eye)), WHITE),
        Part("eyes", mirror(place(sphere(0.07), (eye[0] + 0.01, eye[1] + 0.01, eye[2] + 0.075))), BLACK, paint=True),
        Part("mouth", place(box(0.08, 0.02, 0.08), (0.0, y - 0.04, z + 0.19)), shade(skin, 0.4), paint=True),
    )


def owl(dice: Dice, rgb: Rgb) -> tuple[Part, ...]:
    """A plump owl: two big discs with round eyes, a hooked beak, ear tufts, folded wings, a spotted breast."""
    r, tall, top = dice(0.42, 0.1), dice(0.46), dice(0.92, 0.06)
    head, dark = r * top, tone(rgb, 0.74)
    y, disc = tall, dice(0.20, 0.08)
    gold = accent(rgb, YELLOW, ORANGE)
    tuft = place(cone(0.13, 0.025, 0.12, 0.03), (head * 0.62, y + head * 0.92, 0.0), (0.0, 0.0, -24.0))
    face = place(cylinder(disc, 0.10, 0.03), (disc * 0.92, y + 0.05, head * 0.84), (90.0, 14.0, 0.0))
    beak = place(cone(0.03, 0.09, 0.09, 0.02), (0.0, y - 0.12, head + 0.06), (-20.0, 0.0, 0.0))
    wing = place(ellipsoid(0.16, tall * 0.68, 0.25), (r * 0.88, -0.02, -0.06), (10.0, 0.0, 0.0))
    spots = [place(sphere(0.052), (x, v, r * 0.95)) for x, v in ((0.0, -0.02), (0.13, -0.12), (0.0, -0.22))]
    return (
        Part("body", bar((0.0, -0.06, 0.0), (0.0, tall * 0.7, 0.0), r, r * 0.95), rgb),
        Part("head", place(sphere(head), (0.0, y, 0.0)), rgb, blend=0.05, crown=crown(0.0, y, 0.0, head)),
        Part("tufts", mirror(tuft), rgb, blend=0.06),
        Part("wings", mirror(wing), dark),
        Part("breast", place(ellipsoid(0.27, 0.30, 0.30), (0.0, -0.12, r * 0.80)), pale(rgb), paint=True),
        Part("spots", mirror(union(*spots)), dark, paint=True),
        Part("tail", place(box(0.16, 0.20, 0.06, 0.04), (0.0, -r * 0.80, -r * 0.85), (28.0, 0.0, 0.0)), dark),
        Part("face", mirror(face), WHITE),
        Part("irises", mirror(place(sphere(disc * 0.66), (disc * 0.88, y + 0.05, head + 0.10))), gold, paint=True),
        Part("eyes", mirror(place(sphere(disc * 0.44), (disc * 0.88, y + 0.05, head + 0.12))), BLACK, paint=True),
        Part("beak", beak, ORANGE),
        Part("feet", mirror(place(ellipsoid(0.14, 0.09, 0.15), (r * 0.40, -r - 0.05, r * 0.50))), accent(rgb, ORANGE, YELLOW)),
    )


BUILDERS: dict[str, Callable[[Dice, Rgb], tuple[Part, ...]]] = {
    "duck": duck,
    "dog": dog,
    "cat": cat,
    "fish": fish,
    "pig": pig,
    "elephant": elephant,
    "rabbit": rabbit,
    "turtle": turtle,
    "penguin": penguin,
    "snail": snail,
    "owl": owl,
}
