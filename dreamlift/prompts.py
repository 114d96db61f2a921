"""Prompts for many views: view-dependent wording, negative prompts and Perp-Neg.

DreamFusion (Poole et al. 2022, section 3.2, https://arxiv.org/abs/2209.14988) appends "front view", "side view", "back
view" or "overhead view" to the prompt by the camera's place (:class:`FourViews`). Four words are coarse: "side" holds
both sides and each word spans 90 degrees, so what they teach is averaged around the vertical axis. :class:`Compass` tells
eight directions and three heights apart; the embedded prior is trained on its words. Perp-Neg (Armandpour et al. 2023,
https://arxiv.org/abs/2304.04968) pushes each view away from the words of the others.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from dreamlift.types import Cameras, Conditioning

DIRECTIONS = (
    "front view", "front left view", "left view", "back left view",
    "back view", "back right view", "right view", "front right view",
)  # fmt: skip
"""Words for azimuth 0, 45, ... 315 degrees. Left is the object's own left: it faces +z, so its left side is at +x."""


def article(noun: str) -> str:
    """ "a" or "an"."""
    return "an" if noun[:1].lower() in "aeiou" else "a"


def compass_words(azimuth: float, elevation: float) -> str:
    """The view words for a camera at ``azimuth`` and ``elevation`` (radians): direction, then height if not level."""
    sector = round(math.degrees(azimuth) / 45.0) % 8
    degrees = math.degrees(elevation)
    height = ", from above" if degrees >= 35.0 else ", from below" if degrees < 0.0 else ""
    return DIRECTIONS[sector] + height


class Wording(ABC):
    """How the camera's place is said in words. ``phrases`` is closed, so every text is encoded once, before the run."""

    @abstractmethod
    def phrases(self) -> tuple[str, ...]:
        """All view phrases, V of them."""

    @abstractmethod
    def weights(self, azimuth: float, elevation: float) -> dict[str, float]:
        """Phrases with their shares (summing to 1) for a camera (radians); several are blended in embedding space."""

    @abstractmethod
    def opposites(self, azimuth: float, elevation: float) -> dict[str, float]:
        """Perp-Neg's unwanted phrases with weights <= 0; the same phrases, in the same order, for every camera."""


@dataclass(frozen=True)
class FourViews(Wording):
    """DreamFusion's words. Thresholds in degrees; threestudio's defaults."""

    front_deg: float = 45.0  # half the sector called front
    back_deg: float = 45.0  # half the sector called back
    overhead_deg: float = 60.0  # elevation above which the view is "overhead"
    perp_neg: float = 0.0  # strength of Perp-Neg; 0 is off, 1 the paper's

    def phrases(self) -> tuple[str, ...]:
        return ("front view", "side view", "back view", "overhead view")

    def weights(self, azimuth: float, elevation: float) -> dict[str, float]:
        angle = abs(_wrapped_deg(azimuth))
        if math.degrees(elevation) > self.overhead_deg:
            return {"overhead view": 1.0}
        if self.perp_neg == 0.0:
            word = "front" if angle < self.front_deg else "back" if angle > 180.0 - self.back_deg else "side"
            return {f"{word} view": 1.0}
        # With Perp-Neg the two words around the camera are blended (its section 4.3).
        share = angle / 90.0 if angle <= 90.0 else (angle - 90.0) / 90.0
        first, second = ("front view", "side view") if angle <= 90.0 else ("side view", "back view")
        return {first: 1.0 - share, second: share}

    def opposites(self, azimuth: float, elevation: float) -> dict[str, float]:
        if self.perp_neg == 0.0:
            return {}
        if math.degrees(elevation) > self.overhead_deg:
            return {"front view": 0.0, "side view": 0.0}
        # The paper's negatives fade exponentially where they become true: "front" at the front, "side" at the side.
        angle = abs(_wrapped_deg(azimuth))
        front = self.perp_neg * (1.0 - math.exp(-angle / 45.0))
        side = self.perp_neg * (1.0 - math.exp(-abs(angle - 90.0) / 45.0))
        return {"front view": -front, "side view": -side}


@dataclass(frozen=True)
class Compass(Wording):
    """Eight directions, left and right told apart, and three heights: the words of the embedded prior."""

    blend: bool = False  # blend the two nearest directions in embedding space, instead of a jump half way
    perp_neg: float = 0.0  # strength of Perp-Neg against the front words; 0 is off

    def phrases(self) -> tuple[str, ...]:
        return tuple(words + height for height in ("", ", from above", ", from below") for words in DIRECTIONS)

    def weights(self, azimuth: float, elevation: float) -> dict[str, float]:
        nearest = compass_words(azimuth, elevation)
        if not self.blend:
            return {nearest: 1.0}
        place = math.degrees(azimuth) / 45.0
        low, share = math.floor(place), place - math.floor(place)
        height = nearest[len(DIRECTIONS[round(place) % 8]) :]
        return {DIRECTIONS[low % 8] + height: 1.0 - share, DIRECTIONS[(low + 1) % 8] + height: share}

    def opposites(self, azimuth: float, elevation: float) -> dict[str, float]:
        if self.perp_neg == 0.0:
            return {}
        away = max(0.0, abs(_wrapped_deg(azimuth)) - 45.0) / 135.0
        return {"front view": -self.perp_neg * away}


@dataclass(frozen=True)
class NoViews(Wording):
    """The bare prompt for every camera."""

    def phrases(self) -> tuple[str, ...]:
        return ("",)

    def weights(self, azimuth: float, elevation: float) -> dict[str, float]:
        return {"": 1.0}

    def opposites(self, azimuth: float, elevation: float) -> dict[str, float]:
        return {}


WORDINGS: dict[str, type[Wording]] = {"compass": Compass, "four": FourViews, "none": NoViews}


@dataclass(frozen=True)
class Backdrop:
    """A colour behind the object, and how the prompt says it."""

    words: str = ""  # "white background"; "" where the prior expects this colour unsaid
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)  # sRGB in [0, 1]

    def __post_init__(self) -> None:
        if not all(0.0 <= value <= 1.0 for value in self.color):
            raise ValueError(f"color is {self.color}; accepted: three numbers in [0, 1]")


@dataclass(frozen=True)
class PromptEmbeds:
    """The prompt in all its view phrases, with each backdrop's words before them, encoded once."""

    wording: Wording
    phrases: tuple[str, ...]  # V of them
    prompt_embeds: Tensor  # (V, L, D)
    negative_prompt_embeds: Tensor  # (1, L, D)
    empty_prompt_embeds: Tensor | None = None  # (1, L, D); None where the negative prompt is the empty one

    def at(self, cameras: Cameras, backdrops: Sequence[Backdrop] = ()) -> Conditioning:
        """What the prior is asked to believe about the pictures of ``cameras``, each with its backdrop (none: nothing said)."""
        import torch

        from dreamlift.types import Conditioning

        places = list(zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True))
        said = [each.words for each in backdrops] or [""] * len(places)
        wanted = torch.stack(
            [self._mix(self.wording.weights(*place), words) for place, words in zip(places, said, strict=True)]
        )
        negative = self.negative_prompt_embeds.expand(len(places), -1, -1)
        empty = None if self.empty_prompt_embeds is None else self.empty_prompt_embeds.expand(len(places), -1, -1)
        opposites = [self.wording.opposites(*place) for place in places]
        if not opposites[0]:
            return Conditioning(wanted, negative, cameras=cameras, empty_prompt_embeds=empty)
        others = [self._mix({phrase: 1.0}, words) for row, words in zip(opposites, said, strict=True) for phrase in row]
        weights = torch.tensor([list(row.values()) for row in opposites]).to(wanted)
        return Conditioning(wanted, negative, torch.stack(others).unflatten(0, weights.shape), weights, cameras, empty)

    def _mix(self, shares: dict[str, float], words: str) -> Tensor:
        rows = [(self.phrases.index(_joined(words, phrase)), share) for phrase, share in shares.items()]
        return sum(share * self.prompt_embeds[row] for row, share in rows)  # pyright: ignore[reportReturnType]


def embed_prompt(
    prompt: str, negative: str, wording: Wording, embed_text: Callable[[list[str]], Tensor], backdrops: Sequence[Backdrop] = ()
) -> PromptEmbeds:
    """Encode ``prompt`` with each backdrop's words and every view phrase, and the negative prompt ("" is the empty one)."""
    said = dict.fromkeys(each.words for each in backdrops) or {"": None}
    phrases = tuple(_joined(words, phrase) for words in said for phrase in wording.phrases())
    texts = [_joined(prompt, phrase) for phrase in phrases]
    others = [negative, ""] if negative else [""]
    embeds = embed_text([*texts, *others])
    count = len(texts)
    return PromptEmbeds(wording, phrases, embeds[:count], embeds[count : count + 1], embeds[count + 1 :] if negative else None)


def _joined(*phrases: str) -> str:
    return ", ".join(phrase for phrase in phrases if phrase)


def _wrapped_deg(azimuth: float) -> float:
    """Degrees in [-180, 180)."""
    return (math.degrees(azimuth) + 180.0) % 360.0 - 180.0
