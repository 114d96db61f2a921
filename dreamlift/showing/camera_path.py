"""Camera paths: an orbit, or keyframes in a JSON file.

A file is a list of 2 to 1,000 keyframes, or one for a camera that stands still::

    [{"azimuth_deg": 0, "elevation_deg": 10}, {"azimuth_deg": 180, "elevation_deg": 40, "distance": 2.0, "fov_deg": 30}]

The keyframes are evenly spaced in time: the first is the first frame, the last is the last frame, and each value is linear
between two keyframes. Azimuths are not wrapped: from 0 to 720 the camera goes around twice. A value that a keyframe leaves out
is that of the keyframe before it. All cameras look at the center of the asset, whose bounding sphere has the radius 0.85.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamlift.cameras import orbit_cameras
from dreamlift.system.files import user_file
from dreamlift.system.text import read_text
from dreamlift.types import Cameras

ORBIT = "orbit"
DISTANCE, FOV_DEG = 2.5, 42.0  # of a camera that states none: the asset's bounding sphere nearly fills the picture
MAX_BYTES, MAX_KEYS = 1_000_000, 1000
# What a keyframe may state, with the accepted range.
RANGES = {
    "azimuth_deg": (-36_000.0, 36_000.0), "elevation_deg": (-90.0, 90.0), "distance": (0.9, 1000.0), "fov_deg": (1.0, 170.0),
}  # fmt: skip


def cameras_on(path: str, frames: int, size: int, elevation_deg: float) -> Cameras:
    """The cameras ``(frames,)`` of a path, with pictures of ``size`` pixels a side.

    Args:
        path: "orbit", whose frames go once around the asset, so that the last one is followed by the first; or a JSON file.
        elevation_deg: of the orbit, and of keyframes before which none states another.

    Raises:
        ValueError: the file is no such list, or a value is out of its range.
    """
    if path == ORBIT:
        values = np.tile([0.0, elevation_deg, DISTANCE, FOV_DEG], (frames, 1))
        values[:, 0] = np.arange(frames) * (360.0 / frames)
    else:
        keys = read_keyframes(path, elevation_deg)
        times, wanted = np.linspace(0.0, 1.0, len(keys)), np.linspace(0.0, 1.0, frames)
        values = np.stack([np.interp(wanted, times, column) for column in keys.T], axis=1)
    azimuth, elevation, distance, fov = torch.from_numpy(values).float().T
    scale = math.pi / 180.0
    return orbit_cameras(azimuth * scale, elevation * scale, distance, fov * scale, size)


def read_keyframes(path: str, elevation_deg: float) -> np.ndarray:
    """The rows ``(K, 4)`` of a file: azimuth and elevation in degrees, distance, field of view in degrees.

    Raises:
        ValueError: as :func:`cameras_on`.
    """
    file = user_file(path, "camera path", 'give --path "orbit" or a JSON file of keyframes')
    try:
        found = json.loads(read_text(file, MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON list of keyframes: {error}") from None
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_KEYS:
        raise ValueError(f'{path} must be a JSON list of 1 to {MAX_KEYS} keyframes such as {{"azimuth_deg": 90}}')
    last = {"azimuth_deg": 0.0, "elevation_deg": elevation_deg, "distance": DISTANCE, "fov_deg": FOV_DEG}
    rows = []
    for number, key in enumerate(found):
        last = {**last, **_checked(key, f"{path}: keyframe {number}")}
        rows.append([last[name] for name in RANGES])
    return np.array(rows, dtype=np.float64)


def _checked(key: Any, where: str) -> Mapping[str, float]:
    if not isinstance(key, dict):
        raise ValueError(f'{where} is not a mapping such as {{"azimuth_deg": 90, "elevation_deg": 20}}')
    for name, value in key.items():
        if name not in RANGES:
            raise ValueError(f"{where} has the unknown name {str(name)[:40]!r}; accepted: {', '.join(RANGES)}")
        low, high = RANGES[name]
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError(f"{where}: {name} is {str(value)[:40]!r}; accepted: {low:g} to {high:g}")
    return {name: float(value) for name, value in key.items()}


def name_of(path: str) -> str:
    """The name of a path for its files: "orbit", or the file's without its suffix."""
    return path if path == ORBIT else Path(path).stem
