"""Photos of the object: pictures with a mask and a stated camera, for stages with a photometric term."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dreamlift.cameras import orbit_cameras
from dreamlift.reading.pictures import read_plain
from dreamlift.types import Pictures

FILE_BYTES = 64 << 20
MOST_PIXELS = 8192  # a side of a file; decoded, such a picture has 270 MB
SIDE = 256  # pixels a side in memory; pictures are compared at the size of the renders


@dataclass(frozen=True)
class Photo:
    """A square picture of the object, with its mask in the alpha channel, and the camera that took it."""

    path: str  # a PNG or WEBP file with an alpha channel
    azimuth_deg: float = 0.0  # 0 is the front, grows toward +x
    elevation_deg: float = 0.0  # 0 is level with the center of the object, positive is above it
    distance: float = 2.9  # of the camera from the object's center, world units
    fov_deg: float = 42.0  # vertical field of view

    def __post_init__(self) -> None:
        if self.distance <= 0 or not 1.0 <= self.fov_deg <= 170.0:
            raise ValueError(f"distance is {self.distance:g} and fov_deg {self.fov_deg:g}; accepted: positive, and 1 to 170")


def read_photos(photos: Sequence[Photo]) -> Pictures:
    """All photos at one size, with their cameras.

    Raises:
        ValueError: a file that is missing, too large, no picture, not square, or without a mask.
    """
    pictures = np.stack([_read(photo.path) for photo in photos]).astype(np.float32) / 255

    def of(name: str, scale: float = 1.0) -> torch.Tensor:
        return torch.tensor([getattr(photo, name) * scale for photo in photos], dtype=torch.float32)

    radians = math.pi / 180
    cameras = orbit_cameras(
        of("azimuth_deg", radians), of("elevation_deg", radians), of("distance"), of("fov_deg", radians), SIDE
    )  # fmt: skip
    values = torch.from_numpy(pictures)
    return Pictures(values[..., :3], values[..., 3:], cameras)


def _read(path: str) -> np.ndarray:
    """``(SIDE, SIDE, 4)`` uint8 of one file."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(read_plain(Path(path), FILE_BYTES)), formats=("PNG", "WEBP")) as image:
            if image.width != image.height:
                raise ValueError(f"it has {image.width} x {image.height} pixels; crop it to a square")
            if image.width > MOST_PIXELS:
                raise ValueError(f"it has {image.width} pixels a side; accepted: at most {MOST_PIXELS}; scale it down")
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise ValueError(f"it is an animation of {frames} frames; save one of them")
            upright = ImageOps.exif_transpose(image)  # cameras store the turn instead of turning the picture
            picture = np.asarray(upright.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BOX))
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise ValueError(f"the photo {path!r} cannot be used: {error}") from error
    if picture[..., 3].min() == 255 or picture[..., 3].max() == 0:
        raise ValueError(f"the photo {path!r} has no mask: its alpha channel must be 0 around the object and 255 on it")
    return picture
