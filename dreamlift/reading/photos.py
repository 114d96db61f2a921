"""A photo of the object as a setting: its file, how the object is cut out of it, and the camera that took it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

ELEVATION_DEG = 15.0  # of a photo whose elevation is neither given nor estimated: people look down at things a little
RATIO = 0.78  # of the object's longest side to the frame's, as Zero-1-to-3's demo prepares photos (200 of 256 pixels)


@dataclass(frozen=True)
class Photo:
    """A picture of the object, of any size, and the camera that took it.

    The object is cut out and placed in a square frame by ``ratio`` and ``shift``, so that the frame is what a camera sees that
    looks at the object's center. With ``ratio`` null the picture is that frame already: a square one with a known camera.
    """

    MAIN_FIELD: ClassVar[str] = "path"  # the field that a plain string in a config sets

    path: str  # a picture file: PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF; "" in presets: of the picture that is given
    # how the object is cut out: auto (the picture's own alpha channel, else a plain background, else a known ONNX model in the
    # cache, else grabcut), alpha, border (a plain background), grabcut (its colours), or an ONNX matting model: a known name
    # (u2netp, ...) or the path of its file
    mask: str = "auto"
    azimuth_deg: float | None = None  # 0 is the front, grows toward +x; null: estimated where that is possible, else 0
    # 0 is level with the center of the object, positive is above it; null: estimated where that is possible, else 15
    elevation_deg: float | None = None
    distance: float = 2.6  # of the camera from the object's center, world units
    fov_deg: float = 45.0  # vertical field of view of the square frame
    ratio: float | None = RATIO  # longest side of the object, relative to the frame's side; null: the picture is used uncropped
    shift: tuple[float, float] = (0.0, 0.0)  # of the object's center in the frame, to the right and down, relative to its side

    def __post_init__(self) -> None:
        if not self.mask:
            raise ValueError(
                "mask is empty; accepted: auto, alpha, border, grabcut, or the name or path of an ONNX matting model"
            )
        if not 0.01 <= self.distance <= 1e4:
            raise ValueError(f"distance is {self.distance:g}; accepted: 0.01 to 10000")
        if not 1.0 <= self.fov_deg <= 170.0:
            raise ValueError(f"fov_deg is {self.fov_deg:g}; accepted: 1 to 170")
        if self.azimuth_deg is not None and not -360.0 <= self.azimuth_deg <= 360.0:
            raise ValueError(f"azimuth_deg is {self.azimuth_deg:g}; accepted: -360 to 360, or null")
        if self.elevation_deg is not None and not -90.0 <= self.elevation_deg <= 90.0:
            raise ValueError(f"elevation_deg is {self.elevation_deg:g}; accepted: -90 to 90, or null")
        if self.ratio is not None and not 0.05 <= self.ratio <= 1.0:
            raise ValueError(f"ratio is {self.ratio:g}; accepted: 0.05 to 1, or null for a picture that is used uncropped")
        if not all(-0.5 <= value <= 0.5 for value in self.shift):
            raise ValueError(f"shift is [{self.shift[0]:g}, {self.shift[1]:g}]; accepted: two numbers from -0.5 to 0.5")
        if self.ratio is None and self.shift != (0.0, 0.0):
            raise ValueError("shift moves an object that is placed by ratio, which is null: give a ratio, or no shift")
