"""Prompts for many views: view-dependent wording, negative prompts and Perp-Neg.

DreamFusion (Poole et al. 2022, section 3.2, https://arxiv.org/abs/2209.14988) appends "front view", "side view", "back
view" or "overhead view" to the prompt, depending on the camera (:class:`FourViews`). Four phrases are coarse: "side view"
means both sides and each phrase spans 90 degrees, so the gradients of different views are averaged about the vertical axis.
:class:`Compass` distinguishes eight directions and three heights; the embedded prior is trained with its phrases. Perp-Neg
(Armandpour et al. 2023, https://arxiv.org/abs/2304.04968) uses the phrases of other views as negative prompts.
"""

from __future__ import annotations

import math
import re
import unicodedata
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from dreamlift.types import Cameras, Conditioning, TextStates

DIRECTIONS = (
    "front view", "front left view", "left view", "back left view",
    "back view", "back right view", "right view", "front right view",
)  # fmt: skip
"""Words for azimuth 0, 45, ... 315 degrees. Left is the object's own left: it faces +z, so its left side is at +x."""


MAX_CHARACTERS, MAX_BYTES = 1000, 4096  # of a prompt
_OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they can disguise a text as another one


def check_prompt(text: str, may_be_empty: bool = False) -> str:
    """The prompt without leading and trailing spaces, in Unicode's composed form (NFC).

    Args:
        may_be_empty: accept no words at all, for runs that start from a picture.

    Raises:
        ValueError: empty, too long (1000 characters or 4096 bytes), more than one line, or with characters that are
            not text; one line with the fix.
    """
    if not isinstance(text, str):
        raise TypeError(f"the prompt must be text, got {type(text).__name__}")
    prompt = unicodedata.normalize("NFC", text).strip()
    for place, character in enumerate(prompt):
        category = unicodedata.category(character)
        if character in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029":
            raise ValueError(
                "the prompt has more than one line: write it on one line (a file of prompts goes to `dreamlift batch`)"
            )
        if category in ("Cc", "Cs") or character in _OVERRIDES:
            kind = "a text-direction override" if character in _OVERRIDES else "a control character"
            raise ValueError(f"the prompt has {kind} (U+{ord(character):04X}) at character {place + 1}: remove it")
    if not prompt and may_be_empty:
        return ""
    if not any(unicodedata.category(character)[0] in "LMNPS" for character in prompt):
        raise ValueError('the prompt is empty: describe the object, such as "a ceramic mug"')
    size = len(prompt.encode("utf-8"))
    if len(prompt) > MAX_CHARACTERS or size > MAX_BYTES:
        raise ValueError(
            f"the prompt has {len(prompt)} characters ({size} bytes), accepted: at most {MAX_CHARACTERS} characters"
            f" ({MAX_BYTES} bytes); models read about 77 tokens of it: shorten it"
        )
    return prompt


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation, as word tokenizers divide it ("a red mug." ends with "mug")."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())


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
    """How the prompt describes the view. The set of phrases is finite, so that every text is encoded once, before the run."""

    @abstractmethod
    def phrases(self) -> tuple[str, ...]:
        """All view phrases, V of them."""

    def joined(self, prompt: str, phrase: str) -> str:
        """The prompt with a view phrase."""
        return _joined(prompt, phrase)

    @abstractmethod
    def weights(self, azimuth: float, elevation: float) -> dict[str, float]:
        """Phrases and their weights (sum 1) for a camera (radians); the embeddings of several phrases are interpolated."""

    @abstractmethod
    def opposites(self, azimuth: float, elevation: float) -> dict[str, float]:
        """Perp-Neg's negative phrases with weights <= 0; the same phrases, in the same order, for every camera."""


Decay = tuple[float, float, float]
"""a, b, c of the shifted exponential decay ``a exp(-b r) + c`` (threestudio's ``shifted_expotional_decay``)."""


def _decay(parameters: Decay, r: float) -> float:
    a, b, c = parameters
    return a * math.exp(-b * r) + c


@dataclass(frozen=True)
class FourViews(Wording):
    """DreamFusion's phrases, with threestudio's thresholds as defaults.

    Perp-Neg's weights are threestudio's, ``-(a exp(-b r) + c)`` with its a, b, c as defaults. Between front and side, r is
    the share of the front view for the negative phrase "front view", and that of the side view for "side view"; between side
    and back, r is the share of the side view for both.
    """

    front_deg: float = 45.0  # azimuth below which the view is "front view", degrees on either side of the front
    back_deg: float = 45.0  # angle from the back below which the view is "back view", degrees on either side
    overhead_deg: float = 60.0  # elevation above which the view is "overhead view", degrees
    blend: bool = False  # true: interpolate the embeddings of the two nearest phrases, as Perp-Neg does; false: the nearest
    before: bool = False  # true: "front view of PROMPT" (SJC); false: "PROMPT, front view"
    perp_neg: float = 0.0  # factor on Perp-Neg's weights, at least 0; 0: off; 1: threestudio's
    perp_neg_front_side: Decay = (4.0, 0.5, -2.426)  # a, b, c of "front view" between front and side
    perp_neg_side_front: Decay = (4.0, 0.5, -2.426)  # a, b, c of "side view" between front and side
    perp_neg_side_back: Decay = (1.0, 0.5, -0.606)  # a, b, c of "side view" between side and back
    perp_neg_front_back: Decay = (1.0, 0.5, 0.967)  # a, b, c of "front view" between side and back

    def __post_init__(self) -> None:
        if self.perp_neg < 0:
            raise ValueError(f"perp_neg is {self.perp_neg:g}; it must not be negative")

    def phrases(self) -> tuple[str, ...]:
        return ("front view", "side view", "back view", "overhead view")

    def joined(self, prompt: str, phrase: str) -> str:
        if not self.before or not phrase:
            return super().joined(prompt, phrase)
        return f"{phrase.replace('back ', 'backside ')} of {prompt}"

    def weights(self, azimuth: float, elevation: float) -> dict[str, float]:
        angle = abs(_wrapped_deg(azimuth))
        if math.degrees(elevation) > self.overhead_deg:
            return {"overhead view": 1.0}
        if self.perp_neg == 0.0 and not self.blend:
            word = "front" if angle < self.front_deg else "back" if angle > 180.0 - self.back_deg else "side"
            return {f"{word} view": 1.0}
        # Perp-Neg interpolates the embeddings of the two nearest phrases (its section 4.3).
        share = angle / 90.0 if angle <= 90.0 else (angle - 90.0) / 90.0
        first, second = ("front view", "side view") if angle <= 90.0 else ("side view", "back view")
        return {first: 1.0 - share, second: share}

    def opposites(self, azimuth: float, elevation: float) -> dict[str, float]:
        if self.perp_neg == 0.0:
            return {}
        if math.degrees(elevation) > self.overhead_deg:
            return {"front view": 0.0, "side view": 0.0}
        # A negative phrase's weight decreases exponentially to about 0 at the view that the phrase describes.
        angle = abs(_wrapped_deg(azimuth))
        if angle < 90.0:
            share = 1.0 - angle / 90.0
            front, side = _decay(self.perp_neg_front_side, share), _decay(self.perp_neg_side_front, 1.0 - share)
        else:
            share = 2.0 - angle / 90.0
            front, side = _decay(self.perp_neg_front_back, share), _decay(self.perp_neg_side_back, share)
        return {"front view": -self.perp_neg * front, "side view": -self.perp_neg * side}


@dataclass(frozen=True)
class Compass(Wording):
    """Eight directions, left distinct from right, and three heights: the phrases of the embedded prior."""

    blend: bool = False  # true: interpolate the embeddings of the two nearest directions; false: use the nearest direction
    perp_neg: float = 0.0  # strength of Perp-Neg with "front view" as the negative phrase, at least 0; 0: off

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
    """The prompt without a view phrase, for every camera."""

    def phrases(self) -> tuple[str, ...]:
        return ("",)

    def weights(self, azimuth: float, elevation: float) -> dict[str, float]:
        return {"": 1.0}

    def opposites(self, azimuth: float, elevation: float) -> dict[str, float]:
        return {}


WORDINGS: dict[str, type[Wording]] = {"compass": Compass, "four": FourViews, "none": NoViews}


@dataclass(frozen=True)
class Backdrop:
    """A background color, and the words that name it in the prompt."""

    words: str = ""  # words that name the background in the prompt, such as "white background"; "": it is not named
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)  # color of the background, sRGB in [0, 1]

    def __post_init__(self) -> None:
        if not all(0.0 <= value <= 1.0 for value in self.color):
            raise ValueError(f"color is {self.color}; accepted: three numbers in [0, 1]")


class Embeds(ABC):
    """The encoded prompt or pictures, made once before the run, from which each camera's conditioning follows."""

    @abstractmethod
    def at(self, cameras: Cameras, backdrops: Sequence[Backdrop] = (), show: str = "color") -> Conditioning:
        """The conditioning of the pictures of B ``cameras``, each with its backdrop (empty: the first that was encoded).

        ``show``: the rendered quantity that the pictures show (:data:`dreamlift.stages.teacher.Show`).
        """


@dataclass(frozen=True)
class PromptEmbeds(Embeds):
    """The encoded prompt with every combination of a backdrop's words and a view phrase."""

    wording: Wording
    phrases: tuple[tuple[str, str], ...]  # V pairs of a backdrop's words and a view phrase
    prompt: TextStates  # of V prompts
    negative: TextStates  # of the negative prompt
    empty: TextStates | None = None  # of the empty prompt; None if the negative prompt is empty

    def at(self, cameras: Cameras, backdrops: Sequence[Backdrop] = (), show: str = "color") -> Conditioning:
        import torch

        from dreamlift.types import Conditioning

        places = list(zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True))
        said = [each.words for each in backdrops] or [self.phrases[0][0]] * len(places)
        mixed = [self._mix(self.wording.weights(*place), words) for place, words in zip(places, said, strict=True)]
        wanted, pooled = _stack(mixed)
        negative, negative_pooled = _repeated(self.negative, len(places))
        empty, empty_pooled = (None, None) if self.empty is None else _repeated(self.empty, len(places))
        found = Conditioning(
            wanted, negative, cameras=cameras, empty_prompt_embeds=empty, pooled_prompt_embeds=pooled,
            negative_pooled_prompt_embeds=negative_pooled, empty_pooled_prompt_embeds=empty_pooled,
        )  # fmt: skip
        opposites = [self.wording.opposites(*place) for place in places]
        if not opposites[0]:
            return found
        others, others_pooled = _stack(
            [self._mix({phrase: 1.0}, words) for row, words in zip(opposites, said, strict=True) for phrase in row]
        )
        weights = torch.tensor([list(row.values()) for row in opposites]).to(wanted)
        return replace(
            found, perp_embeds=others.unflatten(0, weights.shape), perp_weights=weights,
            perp_pooled_embeds=None if others_pooled is None else others_pooled.unflatten(0, weights.shape),
        )  # fmt: skip

    def _mix(self, shares: dict[str, float], words: str) -> TextStates:
        rows = [(self.phrases.index((words, phrase)), share) for phrase, share in shares.items()]
        mixed: list[Any] = [
            None if values is None else sum(share * values[row] for row, share in rows) for values in self.prompt
        ]
        return type(self.prompt)(*mixed)


def _stack(texts: list[TextStates]) -> tuple[Tensor, Tensor | None]:
    import torch

    pooled = [text.pooled for text in texts if text.pooled is not None]
    return torch.stack([text.states for text in texts]), torch.stack(pooled) if pooled else None


def _repeated(text: TextStates, count: int) -> tuple[Tensor, Tensor | None]:
    return text.states.expand(count, -1, -1), None if text.pooled is None else text.pooled.expand(count, -1)


def embed_prompt(
    prompt: str, negative: str, wording: Wording, embed_text: Callable[[list[str]], TextStates],
    backdrops: Sequence[Backdrop] = (),
) -> PromptEmbeds:  # fmt: skip
    """Encode ``prompt`` with each backdrop's words and every view phrase, and the negative prompt ("" is the empty one)."""
    said = dict.fromkeys(each.words for each in backdrops) or {"": None}
    phrases = tuple((words, phrase) for words in said for phrase in wording.phrases())
    texts = [wording.joined(_joined(prompt, words), phrase) for words, phrase in phrases]
    others = [negative, ""] if negative else [""]
    embedded = embed_text([*texts, *others])

    kind = type(embedded)

    def part(first: int, end: int | None) -> TextStates:
        return kind(embedded.states[first:end], None if embedded.pooled is None else embedded.pooled[first:end])

    count = len(texts)
    return PromptEmbeds(wording, phrases, part(0, count), part(count, count + 1), part(count + 1, None) if negative else None)


def _joined(*phrases: str) -> str:
    return ", ".join(phrase for phrase in phrases if phrase)


def _wrapped_deg(azimuth: float) -> float:
    """Degrees in [-180, 180)."""
    return (math.degrees(azimuth) + 180.0) % 360.0 - 180.0
