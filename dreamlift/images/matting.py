"""Cutting the object out of a picture: by its own alpha channel, before a plain background, by an ONNX matting model, or by its
colours.

A picture is cut at no more than :data:`WORK` pixels a side. If the object is small in it, its box is cut again by itself, so
that its edges are as sharp as the file allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dreamlift.images.border import cut_border
from dreamlift.images.components import components, without_specks
from dreamlift.images.edges import grown, own_colors
from dreamlift.images.grabcut import INSTALL, cut_colors, is_installed
from dreamlift.system.text import listed

WORK = 768  # pixels of the longer side of a picture that is cut
MARGIN = 0.15  # of the object's box, relative to its longer side, when it is cut again
SMALL = 64  # pixels of the longer side of an object whose details cannot be seen
FAINT = 0.05  # opacity below which, away from the object, there is nothing
LEAST = 6  # pixels of the longer side of an object
PART = 0.05  # share of the largest part's area of a further part that is told
CLEAR = 0.02  # least share of transparent pixels of an alpha channel that is a mask, and not only round corners
BAND, EVEN = 0.1, 0.25  # of the picture: how far a band of wall is followed; the largest change of its width there
FIX = (
    "cut it out yourself (a PNG with transparency), give --mask grabcut, or name an ONNX matting model, as in --mask u2netp "
    "(docs/pictures.md)"
)
Matter = Callable[[np.ndarray], "np.ndarray | None"]
"""Pictures ``(h, w, 3)`` uint8 to opacity ``(h, w)`` float32 in [0, 1]; None if it cannot tell."""


@dataclass(frozen=True)
class Cutout:
    """An object cut out of a picture: the whole picture, or a part of it; a large one is reduced by a whole number."""

    rgb: np.ndarray  # (h, w, 3) float32 in [0, 1]; at soft edges the object's own colours, without the background's
    alpha: np.ndarray  # (h, w) float32 in [0, 1]
    window: tuple[int, int, int, int]  # left, top, right and bottom of this part in the file's picture, pixels
    frame: tuple[int, int]  # width and height of the file's picture, pixels
    way: str  # how it was cut: alpha, border, or a model's name
    notes: tuple[str, ...] = ()  # what the user should know, one line each


def cut_out(picture: np.ndarray, mask: str = "auto", whole: bool = False) -> Cutout:
    """Cut the object out of ``picture (H, W, 4)`` uint8.

    Args:
        mask: "auto", "alpha", "border", "grabcut", or the name or path of an ONNX matting model (see
            :class:`~dreamlift.reading.photos.Photo`).
        whole: keep the whole picture, also if the object is small in it.

    Raises:
        ValueError: there is no object, no way to find it, or no such model; one line with the fix.
    """
    clear = float((picture[..., 3] < 128).mean())
    if mask == "alpha" or (mask == "auto" and clear > CLEAR):
        if clear == 0.0:
            raise ValueError(f"it has no transparency, so its alpha channel is no mask: {FIX}")
        if int(picture[..., 3].max()) < 128:
            raise ValueError("it is transparent everywhere, so there is no object in it; save it with the object opaque")
        return _by_alpha(picture, whole)
    rgb, plain = _over_white(picture), None
    if mask in ("auto", "border"):
        plain = _matted(rgb, cut_border, "border", whole)
        if plain is not None and (mask == "border" or not _reaches_across(plain)):
            return plain
        if mask == "border":
            raise ValueError(f"its background is not plain, so the object cannot be told from it: {FIX}")
    from dreamlift.images.onnx_matting import cached_name, open_model

    name = cached_name() if mask == "auto" else mask
    if name is None or name == "grabcut":
        return _by_colors(rgb, mask, whole, plain)
    found = _matted(rgb, open_model(name), name, whole)
    assert found is not None  # models always answer
    if mask == "auto":
        told = (
            f"its background is not plain: the object is cut out by {name}; --mask border or a PNG with transparency overrides"
        )
        found = replace(found, notes=(told, *found.notes))
    return found


def _by_colors(rgb: np.ndarray, mask: str, whole: bool, plain: Cutout | None) -> Cutout:
    """The object by its colours, which may go wrong: the user is asked to look at it.

    Args:
        plain: what the plain background leaves, which is taken where colours tell nothing.

    Raises:
        ValueError: OpenCV is not installed, or it finds no object.
    """
    asked = mask == "auto"
    found = _matted(rgb, cut_colors, "grabcut", whole) if is_installed() or not asked else None
    if found is not None:
        told = "its background is not plain: the object is cut out by its colours (GrabCut); look whether it is whole"
        return replace(found, notes=(told, *found.notes)) if asked else found
    if plain is not None:
        return plain
    if asked and not is_installed():
        raise ValueError(f"it has no transparency, and its background is not plain: {FIX}; or {INSTALL}, to cut it by colours")
    raise ValueError(f"its background is not plain, and its colours do not tell the object: {FIX}")


def _reaches_across(found: Cutout) -> bool:
    """Whether bands of one width enter from two opposite sides, as a strip of wall above a plain table does.

    An object that is cut off there gets wider toward its middle, or fills most of both sides.
    """
    solid = found.alpha >= 0.5
    left, top, right, bottom = found.window
    turned = []
    if (left, right) == (0, found.frame[0]):
        turned.append(solid)
    if (top, bottom) == (0, found.frame[1]):
        turned.append(solid.T)
    return any(_enters(each) and _enters(each[:, ::-1]) for each in turned)


def _enters(solid: np.ndarray) -> bool:
    """Whether a band of one width, less than half of the side, enters a mask ``(h, w)`` from the left."""
    widths = solid[:, : max(2, round(BAND * solid.shape[1]))].sum(axis=0)
    return 0 < widths[0] < 0.5 * len(solid) and float(np.abs(widths - widths[0]).max()) <= EVEN * widths[0] + 2


def _by_alpha(picture: np.ndarray, whole: bool) -> Cutout:
    """The object by the picture's own alpha channel, without specks of dirt."""
    picture, told = _stretched(picture)
    alpha = picture[..., 3].astype(np.float32) / 255
    window = _window(alpha, alpha.shape[::-1], whole)
    part = _reduced(picture[_slices(window)], _factor(window))
    found = part.astype(np.float32) / 255
    notes = (*told, *_notes(alpha, 1, trimmed=True))
    height, width = alpha.shape
    return Cutout(found[..., :3], _clean(found[..., 3]), window, (width, height), "alpha", notes)


def _stretched(picture: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The picture with an alpha channel that reaches from 0 to 255, and what to say if it did not.

    Its background and its object have the medians of the lower and of the upper values: resizing leaves values beyond both.
    """
    values = picture[..., 3].astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if (low <= 8 and high >= 247) or high - low < 64:
        return picture, ()
    upper = values >= 0.5 * (low + high)
    low, high = (float(np.median(values[part])) for part in (~upper, upper))
    alpha = ((values - low) / (high - low)).clip(0, 1) * 255
    told = f"its alpha channel goes from {low:.0f} to {high:.0f} and is stretched to 0 to 255"
    return np.concatenate([picture[..., :3], alpha.round()[..., None].astype(np.uint8)], axis=-1), (told,)


def _matted(rgb: np.ndarray, matter: Matter, way: str, whole: bool) -> Cutout | None:
    """The object in ``rgb (H, W, 3)`` by ``matter``, at first in the whole picture and then in the object's box."""
    height, width = rgb.shape[:2]
    window = (0, 0, width, height)
    factor = _factor(window)
    small = _reduced(rgb, factor)
    alpha = matter(small)
    if alpha is None:
        return None
    alpha = _clean(alpha)
    notes = _notes(alpha, factor)
    near = _window(alpha, (width, height), whole)
    if _factor(near) < factor:
        part = _reduced(rgb[_slices(near)], _factor(near))
        if (again := matter(part)) is not None and again.max() >= 0.5:
            small, alpha, window = part, _clean(again), near
    colors = own_colors(small.astype(np.float32) / 255, alpha)
    return Cutout(colors, alpha, window, (width, height), way, notes)


def _clean(alpha: np.ndarray) -> np.ndarray:
    """Opacity without parts that are tiny beside the largest one, and without haze."""
    return np.where(grown(without_specks(alpha >= FAINT), 2), alpha, 0.0).astype(np.float32)


def _notes(alpha: np.ndarray, factor: int, trimmed: bool = False) -> tuple[str, ...]:
    """What to say of an object of opacity ``alpha (h, w)``, in a picture reduced by ``factor``.

    Args:
        trimmed: an object that touches all four sides is taken for one that was trimmed to its box, and not for cut off.

    Raises:
        ValueError: there is no object.
    """
    solid = alpha >= 0.5
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    longest = factor * max(np.ptp(rows) + 1, np.ptp(columns) + 1) if len(rows) else 0
    if longest < LEAST:
        raise ValueError("nothing in it differs from its background: there is no object in it, or --mask needs another value")
    notes = []
    lines = {"left": solid[:, 0], "upper": solid[0], "right": solid[:, -1], "lower": solid[-1]}
    sides = [name for name, line in lines.items() if line.sum() > 2]
    if len(sides) == 4 and not trimmed and solid.mean() > 0.98:
        raise ValueError(f"the object fills the whole picture, so nothing tells it from its background: {FIX}")
    if sides and not (trimmed and len(sides) == 4):
        which = listed(sides)
        notes.append(
            f"the object is cut off by the picture's {which} border, and will end there: take a picture with all of it"
        )
    if longest < SMALL:
        notes.append(f"the object is only {longest} pixels long: its details cannot be seen; take a larger picture")
    sizes = np.sort(components(solid)[1][1:])[::-1]
    if (parts := int((sizes > PART * sizes[0]).sum())) > 1:
        notes.append(f"the object has {parts} separate parts: crop the picture if only one of them is wanted")
    return tuple(notes)


def _window(alpha: np.ndarray, size: tuple[int, int], whole: bool) -> tuple[int, int, int, int]:
    """The object's box with a margin, in the pixels of a picture of ``size`` (width, height)."""
    width, height = size
    rows, columns = (np.flatnonzero(alpha.max(axis=axis) >= FAINT) for axis in (1, 0))
    if whole or not len(rows):
        return 0, 0, width, height
    x, y = width / alpha.shape[1], height / alpha.shape[0]
    left, right, top, bottom = columns[0] * x, (columns[-1] + 1) * x, rows[0] * y, (rows[-1] + 1) * y
    margin = MARGIN * max(right - left, bottom - top) + 4
    return (max(int(left - margin), 0), max(int(top - margin), 0),
            min(int(right + margin) + 1, width), min(int(bottom + margin) + 1, height))  # fmt: skip


def _factor(window: tuple[int, int, int, int]) -> int:
    """The whole number by which a part of the picture is reduced to at most :data:`WORK` pixels."""
    return -(-max(window[2] - window[0], window[3] - window[1]) // WORK)


def _slices(window: tuple[int, int, int, int]) -> tuple[slice, slice]:
    return slice(window[1], window[3]), slice(window[0], window[2])


def _reduced(picture: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of ``factor`` pixels; colours count by their alpha."""
    from PIL import Image

    return picture if factor == 1 else np.asarray(Image.fromarray(np.ascontiguousarray(picture)).reduce(factor))


def _over_white(picture: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` uint8: transparent parts show white."""
    if int(picture[..., 3].min()) == 255:
        return np.ascontiguousarray(picture[..., :3])
    alpha = picture[..., 3:].astype(np.uint16)
    return ((picture[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
