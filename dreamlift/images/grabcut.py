"""An object before a background that is not plain, told by its colours: GrabCut (Rother et al. 2004, ACM TOG 23(3)), by OpenCV.

Two mixtures of Gaussians describe the colours of object and background, and a minimum cut assigns the pixels, where an edge of
the picture costs little; both steps are repeated. It begins with the picture's border as background and its middle as the
likely object. It has no idea of what objects are: colours that occur in both are assigned by their neighbours.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from dreamlift.images.components import without_specks

INSTALL = 'pip install "dreamlift[image]"'
BAND = 0.04  # of the shorter side: what lies along the border is background
MIDDLE = 0.42  # half axes of the ellipse that is likely the object, relative to the picture's sides
ROUNDS = 6
LAB = (1.1, 1.6, 1.6)  # weights of CIELAB's lightness (0 to 100), a and b: shadows differ in lightness only
PART = 0.02  # parts of the object below this share of its largest part are background
SHARES = (0.005, 0.9)  # of the picture that an object takes
ALIKE = 0.55  # overlap of the colours of object and background above which they tell nothing
BINS = 8  # per channel, of the overlap
SOFT = 0.7  # standard deviation of the blur of the mask's edge, pixels


def is_installed() -> bool:
    """Whether OpenCV is there."""
    return find_spec("cv2") is not None


def cut_colors(rgb: np.ndarray) -> np.ndarray | None:
    """The opacity ``(h, w)`` float32 in [0, 1] of the object in ``rgb (h, w, 3)`` uint8; None if there is none of a usual size.

    Raises:
        ValueError: OpenCV is not installed.
    """
    if not is_installed():
        raise ValueError(f"--mask grabcut needs OpenCV, which is not installed: {INSTALL}")
    import cv2

    height, width = rgb.shape[:2]
    band = max(2, round(BAND * min(height, width)))
    if min(height, width) < 4 * band:
        return None
    y, x = (np.arange(height)[:, None] + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5
    labels = np.where((x / MIDDLE) ** 2 + (y / MIDDLE) ** 2 < 1, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[:band], labels[-band:], labels[:, :band], labels[:, -band:] = (cv2.GC_BGD,) * 4
    cv2.setRNGSeed(0)  # of the mixtures' first clusters
    models = np.zeros((1, 65)), np.zeros((1, 65))
    whole = (0, 0, width, height)
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) * np.array(LAB, np.float32) + [0, 128, 128]
    cv2.grabCut(lab.clip(0, 255).round().astype(np.uint8), labels, whole, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    mask = without_specks((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD), PART)
    if not SHARES[0] <= mask.mean() <= SHARES[1] or overlap(rgb[mask], rgb[~mask]) > ALIKE:
        return None
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), SOFT)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """The Bhattacharyya coefficient of the colours ``(n, 3)`` and ``(m, 3)`` uint8, from 0 (none in common) to 1 (the same)."""

    def shares(colors: np.ndarray) -> np.ndarray:
        index = (colors.astype(np.int64) * BINS // 256) @ np.array([BINS * BINS, BINS, 1])
        return np.bincount(index, minlength=BINS**3) / max(len(colors), 1)

    return float(np.sqrt(shares(one) * shares(other)).sum())
