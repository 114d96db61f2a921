"""Photos as a run uses them: each read, cut out, placed before its camera, and framed as a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dreamlift.cameras import orbit_cameras
from dreamlift.images.fit import fitted
from dreamlift.images.matting import Cutout, cut_out
from dreamlift.images.read import ignore, read_picture
from dreamlift.reading.photos import ELEVATION_DEG, RATIO, Photo
from dreamlift.system.files import expanded
from dreamlift.types import Cameras, Pictures

SIDE = 512  # pixels a side of the placed pictures, which are compared at the size of the renders
REFERENCE_SIDE = 256  # of the references: what Zero-1-to-3 takes


def resolved_photo(photo: Photo, note: Callable[[str], None] = ignore) -> Photo:
    """The photo with absolute paths, and with the stated default for an elevation that nobody gave, which ``note`` gets."""
    mask = photo.mask
    if mask not in ("auto", "alpha", "border", "grabcut") and expanded(mask).is_file():
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
    name = Path(photo.path).name

    def told(text: str) -> None:
        note(f"{name}: {text}")

    picture = read_picture(photo.path, told)
    try:
        cutout = cut_out(picture, photo.mask, whole=photo.ratio is None)
    except ValueError as error:
        raise ValueError(f"the photo {photo.path!r} cannot be used: {error}") from None
    for text in cutout.notes:
        told(text)
    return cutout


def read_photos(photos: Sequence[Photo], note: Callable[[str], None] = ignore, side: int = SIDE) -> Pictures:
    """All photos, placed and cut out at one size, with their cameras, and framed as references.

    ``rgb`` and ``alpha`` are ``(B, side, side, ...)``, ``reference`` is ``(B, 256, 256, 4)``.

    Raises:
        ValueError: as :func:`read_cutout`; a photo that is not square although its ``ratio`` is null.
    """
    placed, references = [], []
    for photo in photos:
        cutout = read_cutout(photo, note)
        try:
            placed.append(fitted(cutout, side, photo.ratio, photo.shift))
        except ValueError as error:
            raise ValueError(f"the photo {photo.path!r} cannot be used: {error}") from None
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
