"""Photos as a run uses them: each read, cut out, placed before its camera, and framed as a reference."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamlift.cameras import orbit_cameras
from dreamlift.images.fit import fitted
from dreamlift.images.grabcut import is_installed
from dreamlift.images.matting import Cutout, cut_out
from dreamlift.images.onnx_matting import model_stamp
from dreamlift.images.read import decoded, explained, ignore, picture_bytes
from dreamlift.reading.photos import ELEVATION_DEG, RATIO, Photo
from dreamlift.system.files import address_of, expanded, not_fetched
from dreamlift.types import Cameras, Pictures

SIDE = 512  # pixels a side of the placed pictures, which are compared at the size of the renders
REFERENCE_SIDE = 256  # of the references: what Zero-1-to-3 takes
WAYS = ("auto", "alpha", "border", "grabcut")  # masks that are no models
KEPT = 16  # of the last cutouts, which have at most 10 MB each
_kept: dict[tuple[Any, ...], tuple[Cutout, tuple[str, ...]]] = {}


def resolved_photo(photo: Photo, note: Callable[[str], None] = ignore) -> Photo:
    """The photo with absolute paths, and with the stated default for an elevation that nobody gave, which ``note`` gets.

    Raises:
        ValueError: it is an address.
    """
    mask = photo.mask
    if found := address_of(photo.path):
        raise ValueError(f"the photo {found!r} cannot be used: {not_fetched(found)}")
    if mask not in WAYS and expanded(mask).is_file():
        mask = str(expanded(mask).resolve())
    elevation = photo.elevation_deg
    if elevation is None:
        elevation = ELEVATION_DEG
        note(
            f"{Path(photo.path).name}: its elevation is not given; {elevation:g} degrees above level are assumed (--elevation)"
        )
    path, azimuth = str(expanded(photo.path).resolve()), photo.azimuth_deg or 0.0
    return replace(photo, path=path, mask=mask, azimuth_deg=azimuth, elevation_deg=elevation)


def read_cutout(photo: Photo, note: Callable[[str], None] = ignore) -> Cutout:
    """The object cut out of a photo; ``note`` gets what the user should know.

    Raises:
        ValueError: the file cannot be used, or the object in it cannot be found; one line with the path and the fix.
    """
    with explained(photo.path):
        cutout, notes = _cut(picture_bytes(photo.path), photo.mask, photo.ratio is None)
    for text in notes:
        note(f"{Path(photo.path).name}: {text}")
    return cutout


def _cut(data: bytes, mask: str, whole: bool) -> tuple[Cutout, tuple[str, ...]]:
    """The object in a file's bytes, and all notes on it; kept for the next call, since a run asks several times."""
    words = mask if mask in WAYS else ""
    key = (hashlib.sha256(data).digest(), words, model_stamp(mask), is_installed(), whole)
    found = _kept.pop(key, None)
    if found is None:
        said: list[str] = []
        cutout = cut_out(decoded(data, said.append), mask, whole)
        for values in (cutout.rgb, cutout.alpha):
            values.flags.writeable = False  # it is shared
        found = cutout, (*said, *cutout.notes)
    _kept[key] = found
    for old in list(_kept)[:-KEPT]:
        _kept.pop(old, None)
    return found


def read_photos(photos: Sequence[Photo], note: Callable[[str], None] = ignore, side: int = SIDE) -> Pictures:
    """All photos, placed and cut out at one size, with their cameras, and framed as references.

    ``rgb`` and ``alpha`` are ``(B, side, side, ...)``, ``reference`` is ``(B, 256, 256, 4)``.

    Raises:
        ValueError: as :func:`read_cutout`; a photo that is not square although its ``ratio`` is null.
    """
    placed, references = [], []
    for photo in photos:
        cutout = read_cutout(photo, note)
        with explained(photo.path):
            placed.append(fitted(cutout, side, photo.ratio, photo.shift))
        references.append(fitted(cutout, REFERENCE_SIDE, RATIO))
    values = torch.from_numpy(np.stack(placed))
    cameras = cameras_of(photos, side)
    return Pictures(values[..., :3], values[..., 3:], cameras, reference=torch.from_numpy(np.stack(references)))


def cameras_of(photos: Sequence[Photo], side: int = SIDE) -> Cameras:
    """The orbit cameras of the placed photos; an angle that is not given is the default one."""

    def of(name: str, scale: float = 1.0) -> torch.Tensor:
        default = {"azimuth_deg": 0.0, "elevation_deg": ELEVATION_DEG}
        values = [getattr(photo, name) for photo in photos]
        return torch.tensor([(default[name] if value is None else value) * scale for value in values], dtype=torch.float32)

    radians = math.pi / 180
    return orbit_cameras(
        of("azimuth_deg", radians), of("elevation_deg", radians), of("distance"), of("fov_deg", radians), side
    )  # fmt: skip
