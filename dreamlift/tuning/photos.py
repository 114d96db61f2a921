"""What a prior is taught: the subject's photos, the cameras that took them, and how they are shown to the prior.

Priors of toys know plain backgrounds only, so that the object is cut out and placed over these; it is then as large as the
things of the prior's training pictures are. Large priors are shown the photos as they are, as in the paper.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dreamlift.images.camera import Viewpoint, find_viewpoint
from dreamlift.images.photos import cameras_of, read_photos
from dreamlift.images.read import read_picture
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.engine import Engine
from dreamlift.priors.parts import Parts
from dreamlift.prompts import Backdrop, article
from dreamlift.reading.photos import ELEVATION_DEG, RATIO, Photo
from dreamlift.toybox.world.truth import is_asymmetric
from dreamlift.tuning.class_pictures import square
from dreamlift.tuning.examples import WHOLE, Place
from dreamlift.tuning.settings import Tuning
from dreamlift.tuning.words import is_closed
from dreamlift.types import Cameras

MOST = 1000  # photos
TOY_FRAME = {"ratio": 0.69, "shift": (0.0, 0.014)}  # the mean over the toybox's training pictures
TOY_BACKDROPS = (Backdrop("", (0.70, 0.75, 0.80)), Backdrop("dark background", (0.12, 0.14, 0.20)))
PLAIN_BACKDROPS = (Backdrop("white background", (1.0, 1.0, 1.0)),)


def plain_backdrops(parts: Parts | None) -> tuple[Backdrop, ...]:
    """What a plain white background is called for a prior; () for one that reads no words, or those of a list only."""
    if parts is None or not parts.has("tokenizer") or is_closed(parts.tokenizer("tokenizer")):
        return ()
    return PLAIN_BACKDROPS


@dataclass(frozen=True, kw_only=True)
class Taught(ABC):
    """A word and the photos that say what it means."""

    photos: tuple[Photo, ...]
    word: str = "zwx"  # the new word
    prior: PriorChoice = field(default_factory=PriorChoice)
    cameras: bool = True  # tell a prior that takes cameras those of the photos
    background: Literal["auto", "keep", "plain"] = "auto"  # of the photos; auto: plain for priors of toys
    anyway: bool = False  # accept a noun that the prior does not know

    def __post_init__(self) -> None:
        if not 1 <= len(self.photos) <= MOST:
            raise ValueError(f"{len(self.photos)} photos are given; accepted: 1 to {MOST} (three to six are usual)")
        if self.background not in ("auto", "keep", "plain"):
            raise ValueError(f"background is {self.background!r}; accepted: auto, keep, plain")

    @property
    def places(self) -> tuple[Place, ...]:
        """At which a cut out object is shown."""
        return WHOLE

    @property
    @abstractmethod
    def noun(self) -> str:
        """The kind of thing that the photos show, without an article, in words that the prior knows."""

    @property
    @abstractmethod
    def prompt(self) -> str:
        """The thing in the prompt's words."""

    @abstractmethod
    def prompts(self, closed: bool) -> tuple[str, ...]:
        """What the photos are called; ``closed``: the prior knows the words of its list only."""

    @abstractmethod
    def check(self, tokenizer: Any, note: Callable[[str], None]) -> None:
        """Refuse words that cannot be used with the prior's ``tokenizer``. Raises ValueError."""

    @abstractmethod
    def completed(self, settings: Tuning) -> Tuning:
        """The settings with those that the method decides."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """The words, as plain values."""


@dataclass(frozen=True)
class Shots:
    """The photos as the prior is shown them."""

    rgb: Tensor  # (N, S, S, 3) in [0, 1]
    alpha: Tensor | None  # (N, S, S, 1); None: with their own backgrounds
    cameras: Cameras
    told: tuple[bool, ...]  # whether the camera of each one is known


def with_viewpoints(
    photos: Sequence[Photo], class_name: str, note: Callable[[str], None], engine: Engine = "auto"
) -> tuple[Photo, ...]:  # fmt: skip
    """The photos with their cameras estimated, as far as they are not given; azimuth None: it cannot be told.

    Raises:
        ValueError: a photo that cannot be used.
    """
    found = []
    for photo in photos:
        if photo.azimuth_deg is not None and photo.elevation_deg is not None:
            found.append(photo)
            continue
        reference = read_photos((replace(photo, elevation_deg=0.0, azimuth_deg=0.0),)).reference
        assert reference is not None
        seen = find_viewpoint(reference[0], f"{article(class_name)} {class_name}", photo.azimuth_deg, None, engine)
        side = photo.azimuth_deg if photo.azimuth_deg is not None else _side(seen)
        height = seen.elevation if photo.elevation_deg is None else photo.elevation_deg
        name = Path(photo.path).name
        if side is None:
            note(f"{name}: its side cannot be told, so that no camera is stated for it (--azimuth gives it)")
        else:
            note(f"{name}: azimuth {side:.0f}, elevation {height:.0f} degrees, estimated (--azimuth and --elevation override)")
        found.append(replace(photo, azimuth_deg=None if side is None else round(side, 1), elevation_deg=round(height, 1)))
    return tuple(found)


def _side(seen: Viewpoint) -> float | None:
    """The azimuth in degrees, where the kind of object is known and its side can be relied upon."""
    if seen.estimate is None or not (seen.estimate.sided or not is_asymmetric(seen.kind)):
        return None
    return seen.azimuth


def taken(photos: Sequence[Photo], side: int, plain: bool, toys: bool, note: Callable[[str], None]) -> Shots:
    """The photos at ``side`` pixels.

    Args:
        plain: cut the object out. toys: place it as the toybox's training pictures have it.

    Raises:
        ValueError: a photo that cannot be used.
    """
    complete = [replace(photo, elevation_deg=ELEVATION_DEG if photo.elevation_deg is None else photo.elevation_deg)
                for photo in photos]  # fmt: skip
    told, cameras = tuple(photo.azimuth_deg is not None for photo in photos), cameras_of(complete, side)
    if not plain:
        pictures = []
        for photo in photos:
            rgba = read_picture(photo.path, note)
            share = rgba[..., 3:] / 255.0
            pictures.append(square((rgba[..., :3] * share + 255.0 * (1.0 - share) + 0.5).astype("uint8"), side))
        return Shots(torch.stack(pictures), None, cameras, told)
    placed = [replace(photo, **TOY_FRAME) if toys and photo.ratio == RATIO and photo.shift == (0.0, 0.0) else photo
              for photo in complete]  # fmt: skip
    found = read_photos(placed, note, side)
    return Shots(found.rgb, found.alpha, cameras, told)
