"""Cutting out an object before a plain background: flood fill from the border.

The background's colour is a polynomial of degree 2 over the picture in OKLab (Ottosson 2020,
https://bottosson.github.io/posts/oklab/), fitted robustly to the pixels of the border: gradients, vignettes and some objects
that are cut off by the border are taken. What differs from it by no more than the noise of the border itself, and is connected
with the border, is background; so is what is smooth and only darker (shadows), and holes of the object that show the
background. Nothing can tell a white object from white paper where they are equally bright.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dreamlift.color import srgb_to_linear
from dreamlift.images.components import border_of, components, connected, without_specks
from dreamlift.images.edges import box_mean, grown, local_mean, shrunk, soft_edges

NOISE = (0.0025, 0.02)  # smallest assumed and largest accepted noise of the border (OKLab; 0.02 is a just visible difference)
PLAIN = 0.7  # least share of the border's pixels that the background must explain
# Shadows; the values are the best of a few on 12 rendered toys before 7 backgrounds, as files, as JPEG and with noise.
SHADOW = 0.45  # largest darkening (OKLab lightness)
SLOPE = 3.0  # largest change of the colour, OKLab, over the length of the picture's longer side
GAP = 2  # pixels: gaps in an object's outline, of twice this width, through which no shadow leads into it
OPEN = 0.45  # least share of a shadow's edge that touches the background; the inside of an object touches it less
KEPT = 0.25  # least share of what is no background without shadows that is left with them: the object that casts them
HOLE = 0.002  # least share of the object's area, at its outline's inside, that a hole must have
_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                 [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                 [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip


@dataclass(frozen=True)
class Plain:
    """A plain background."""

    color: np.ndarray  # (H, W, 3) OKLab
    noise: float  # median distance of the border's pixels
    share: float  # of the border's pixels that it explains


def oklab(rgb: np.ndarray) -> np.ndarray:
    """OKLab ``(..., 3)`` float32 of sRGB ``(..., 3)`` uint8; lightness is in [0, 1]."""
    linear = srgb_to_linear(np.arange(256) / 255.0)[rgb]
    return (np.cbrt(linear @ _LMS.T) @ _LAB.T).astype(np.float32)


def plain_background(lab: np.ndarray) -> Plain:
    """The background ``lab (H, W, 3)`` that explains most of the border's pixels (iteratively reweighted least squares)."""
    height, width = lab.shape[:2]
    ring = max(2, round(0.02 * min(height, width)))
    mask = np.ones((height, width), dtype=bool)
    mask[ring:-ring, ring:-ring] = False
    rows, columns = np.nonzero(mask)
    some = np.linspace(0, len(rows) - 1, min(len(rows), 20_000)).astype(int)
    rows, columns = rows[some], columns[some]
    wanted, basis = lab[rows, columns], _basis(rows / (height - 1), columns / (width - 1))
    found = np.zeros((basis.shape[1], 3))
    found[0] = np.median(wanted, axis=0)
    for _ in range(12):
        distance = np.linalg.norm(wanted - basis @ found, axis=-1)
        scale = max(1.4826 * float(np.median(distance)), NOISE[0])
        weight = np.clip(1 - (distance / (4 * scale)) ** 2, 0, None) ** 2  # Tukey's
        root = np.sqrt(weight)[:, None]
        found = np.linalg.lstsq(basis * root, wanted * root, rcond=1e-4)[0]
    distance = np.linalg.norm(wanted - basis @ found, axis=-1)
    noise = float(np.median(distance))
    share = float((distance < tolerance(noise)).mean())
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    return Plain((_basis(y, x) @ found).astype(np.float32), noise, share)


def _basis(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    y, x = 2 * y - 1, 2 * x - 1
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


def tolerance(noise: float) -> float:
    """The distance up to which a pixel has the background's colour: 5 times the border's median."""
    return 5.0 * min(max(noise, NOISE[0]), NOISE[1])


def cut_border(rgb: np.ndarray) -> np.ndarray | None:
    """Opacity ``(H, W)`` in [0, 1] of the object in ``rgb (H, W, 3)`` uint8; None if its border is not plain.

    Opacity is 0 everywhere if nothing differs from the background.
    """
    lab = oklab(rgb)
    plain = plain_background(lab)
    if plain.share < PLAIN or plain.noise > NOISE[1]:
        return None
    if plain.noise > 1.5 * NOISE[0]:  # noise is averaged; the edges are found again in the picture itself
        lab = averaged(lab, 1 if plain.noise < 4 * NOISE[0] else 2)
        plain = plain_background(lab)
    colors = rgb / np.float32(255)
    mask = without_specks(~background(lab, plain))
    return soft_edges(colors, without_specks(without_halo(colors, mask)))


def background(lab: np.ndarray, plain: Plain) -> np.ndarray:
    """True ``(H, W)`` where a picture ``lab (H, W, 3)`` shows its plain background, also in shadow and through holes."""
    difference = lab - plain.color
    near = np.linalg.norm(difference, axis=-1) < tolerance(plain.noise)
    flooded = connected(near, border_of(lab.shape))
    flooded = _with_shadows(flooded, near, difference, lab, plain)
    return flooded | _holes(flooded, near)


def _with_shadows(
    flooded: np.ndarray, near: np.ndarray, difference: np.ndarray, lab: np.ndarray, plain: Plain
) -> np.ndarray:  # fmt: skip
    """The background with what is connected to it and is its colour, only darker, and changes slowly."""
    limit = tolerance(plain.noise)
    hue = np.linalg.norm(difference[..., 1:], axis=-1)
    darker = (difference[..., 0] < limit) & (difference[..., 0] > -SHADOW) & (hue < 1.5 * limit)
    blurred = averaged(lab, 1)
    steep = np.zeros(lab.shape[:2], dtype=np.float32)
    for axis in (0, 1):
        steep = np.maximum(steep, np.linalg.norm(np.gradient(blurred, axis=axis), axis=-1))
    side = max(lab.shape[:2])
    calm = steep < max(SLOPE / side, plain.noise)
    shade = shrunk((darker & calm) | near, GAP)  # gaps in an object's faint outline are closed
    reached = grown(connected(shade | flooded, flooded), GAP) & (darker | near)
    taken, left = reached & ~flooded, ~flooded & ~reached
    # Smooth parts of an object that is as grey as its background look like shadows too, but the rest of it surrounds them.
    taken &= near | ~surrounded(left)
    taken = _bounded_by(taken, flooded)
    # What casts no shadow is none: an object as a whole.
    return flooded | taken if left.sum() > KEPT * (~flooded).sum() else flooded


def _bounded_by(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The components of ``mask`` of whose edge a share of at least :data:`OPEN` touches ``other``; all ``(H, W)`` bool."""
    labels, sizes = components(mask)
    edge = np.zeros(len(sizes))
    touching = np.zeros(len(sizes))
    for axis in (0, 1):
        for step in (1, -1):
            inner = np.moveaxis(labels, axis, 0)[1:] if step < 0 else np.moveaxis(labels, axis, 0)[:-1]
            outer = np.moveaxis(labels, axis, 0)[:-1] if step < 0 else np.moveaxis(labels, axis, 0)[1:]
            beyond = np.moveaxis(other, axis, 0)[:-1] if step < 0 else np.moveaxis(other, axis, 0)[1:]
            leaves = (inner > 0) & (outer == 0)
            edge += np.bincount(inner[leaves], minlength=len(sizes))
            touching += np.bincount(inner[leaves & beyond], minlength=len(sizes))
    wanted = touching >= OPEN * np.maximum(edge, 1)
    wanted[0] = False
    return wanted[labels]


def surrounded(mask: np.ndarray) -> np.ndarray:
    """True ``(H, W)`` where the mask has pixels to the left, to the right, above and below."""
    found = np.ones_like(mask)
    for axis in (0, 1):
        for step in (1, -1):
            order = np.flip(mask, axis) if step < 0 else mask
            seen = np.logical_or.accumulate(order, axis=axis)
            found &= np.flip(seen, axis) if step < 0 else seen
    return found


def _holes(flooded: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Enclosed parts that show the background: those of a visible size."""
    labels, sizes = components(near & ~flooded)
    wanted = sizes > HOLE * max(int((~flooded).sum()), 1)
    wanted[0] = False
    return wanted[labels]


def averaged(lab: np.ndarray, radius: int) -> np.ndarray:
    """Means over squares of ``2 radius + 1`` pixels; the border's pixels are repeated outside."""
    wide = np.pad(lab, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    return box_mean(wide, radius)[radius:-radius, radius:-radius]


def without_halo(rgb: np.ndarray, mask: np.ndarray, radius: int = 6) -> np.ndarray:
    """The mask ``(H, W)`` bool without the halo that compression and blur leave around an object.

    A halo is at the mask's edge, and much nearer to the colour outside than to that inside.
    """
    for _ in range(radius // 2):
        inside, outside = shrunk(mask, radius // 2), ~mask
        front, back = (local_mean(rgb, side.astype(np.float32), 2 * radius) for side in (inside, outside))
        axis = front - back
        length = (axis**2).sum(axis=-1)
        share = ((rgb - back) * axis).sum(axis=-1) / np.maximum(length, 1e-6)
        halo = mask & ~inside & (share < 0.35) & (length > 0.15**2)
        halo &= grown(~mask, 2)
        if not halo.any():
            break
        mask = mask & ~halo
    return mask
