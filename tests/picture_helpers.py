"""Pictures of toys with known masks, before backgrounds of many kinds."""

import io
import math

import numpy as np
import torch
from PIL import Image

from dreamlift.cameras import orbit_cameras
from dreamlift.toybox.world.render import Background, render, sample_lighting
from dreamlift.toybox.world.things import make_thing

BLACK = Background((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def shot(kind: str, color: str, seed: int, size: int = 192, azimuth: float = 40.0, elevation: float = 20.0):
    """Premultiplied colour ``(H, W, 3)`` and opacity ``(H, W, 1)`` of a lit toy."""
    values = (math.radians(azimuth), math.radians(elevation), 2.6, math.radians(45.0))
    cameras = orbit_cameras(*(torch.tensor([value]) for value in values), size)
    with torch.inference_mode():
        made = render(make_thing(kind, color, seed), cameras, sample_lighting(np.random.default_rng(seed), values[0]), BLACK)
    return made.rgb[0].numpy(), made.opacity[0].numpy()


def over(made, backdrop) -> np.ndarray:
    """uint8 ``(H, W, 3)`` of :func:`shot` over ``backdrop``, which broadcasts to ``(H, W, 3)`` in [0, 1]."""
    rgb, opacity = made
    return (np.clip(rgb + (1 - opacity) * np.asarray(backdrop), 0, 1) * 255 + 0.5).astype(np.uint8)


def backdrops(size: int) -> dict[str, np.ndarray]:
    """Plain backgrounds ``(size, size, 3)``."""
    y, x = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size), indexing="ij")
    grey = np.ones(3)
    shadow = np.exp(-(((x - 0.62) / 0.28) ** 2) - ((y - 0.8) / 0.1) ** 2)
    return {
        "white": np.ones((size, size, 3)),
        "blue": np.ones((size, size, 3)) * (0.70, 0.75, 0.80),
        "dark": np.ones((size, size, 3)) * (0.12, 0.14, 0.20),
        "gradient": (0.95 - 0.25 * y)[..., None] * (1.0, 0.98, 0.95),
        "vignette": (0.9 - 0.3 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))[..., None] * grey,
        "soft shadow": (0.92 * (1 - 0.35 * shadow))[..., None] * grey,
    }


def jpeg(picture: np.ndarray, quality: int = 75) -> np.ndarray:
    """The picture as a JPEG file shows it."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=quality)
    return np.array(Image.open(out))


def noisy(picture: np.ndarray, deviation: float = 5.0, seed: int = 0) -> np.ndarray:
    """The picture with a sensor's noise."""
    noise = np.random.default_rng(seed).normal(0, deviation, picture.shape)
    return np.clip(picture + noise + 0.5, 0, 255).astype(np.uint8)


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two opacities at a half."""
    a, b = found >= 0.5, truth.reshape(found.shape) >= 0.5
    return float((a & b).sum() / (a | b).sum())
