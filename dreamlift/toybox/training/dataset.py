"""The training set of the embedded priors: rendered pictures with captions, in shards on disk.

Each group of four pictures is rendered from one seed (:func:`dreamlift.toybox.world.render.sample_pictures`), so the set is
reproducible and any shard can be rendered separately: ``python -m dreamlift.toybox.training.dataset``. Captions are composed
during training from a few integers per picture; a part of them is empty or without view words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamlift.prompts import compass_words
from dreamlift.toybox.training.reader import UNTOLD
from dreamlift.toybox.training.shards import read_shards, render_shards, write_shard
from dreamlift.toybox.world.render import VIEWS, Sampled, sample_pictures
from dreamlift.toybox.world.things import ATTRIBUTES, CATEGORIES, COLORS, FINISHES, SYNONYMS, Description

SHARD = 500  # pictures per file
# Words in the caption -> plain background colour, sRGB. No object has the colour of both, so the two together determine the
# opacity.
BACKDROPS = {"": (0.70, 0.75, 0.80), ", dark background": (0.12, 0.14, 0.20)}
OWN = -1  # instead of an index into BACKDROPS: the picture keeps the background that it was rendered with
COLORED = ", colored background"  # words in the caption of such a picture
STYLES = {"lit": "", "albedo": ", unlit", "clay": ", grey clay"}  # shading -> words in the caption
CLAY = list(STYLES).index("clay")


def vocabulary(kinds: Sequence[str] = tuple(CATEGORIES), more: Sequence[str] = ()) -> list[str]:
    """All words of the captions of the categories ``kinds``, and of ``more``, sorted."""
    directions = {w for az in np.linspace(-np.pi, np.pi, 33) for el in (-1.0, 0.3, 1.4)
                  for w in compass_words(float(az), el).split()}  # fmt: skip
    nouns = [noun for kind in kinds for noun in (kind, *SYNONYMS.get(kind, ()))]
    captions = [
        f"{Description(noun, color, attribute, hat='red').caption()} {Description(noun, color, box=True).caption()} {style}"
        for noun in nouns for color, attribute, style in zip_longest(COLORS, ATTRIBUTES, STYLES.values(), fillvalue="")
    ]  # fmt: skip
    texts = [*captions, *directions, *more, *BACKDROPS, COLORED, "an a the of in with and view toy"]
    return sorted({word for text in texts for word in _split(text)} | {","})


def _split(text: str) -> list[str]:
    return text.replace(",", " ").split()


class Drawn(NamedTuple):
    """A random draw of pictures."""

    rows: np.ndarray  # (B,) indices of the pictures
    flips: np.ndarray  # (B,) bool: mirrored
    backdrops: np.ndarray  # (B,) index into BACKDROPS of the background, or OWN
    rgb: np.ndarray  # (B, S, S, 3) uint8
    azimuth: np.ndarray  # (B,) radians, after mirroring


class Described:
    """Arrays with the words of N pictures' captions."""

    category: np.ndarray  # (N,) index into CATEGORIES
    color: np.ndarray  # (N,) index into COLORS
    attribute: np.ndarray  # (N,) index into ATTRIBUTES
    hat: np.ndarray  # (N,) index into COLORS, -1 for none
    box: np.ndarray  # (N,) bool

    def description(self, i: int) -> Description:
        """The description of picture ``i``."""
        hat = list(COLORS)[self.hat[i]] if self.hat[i] >= 0 else ""
        category, color = list(CATEGORIES)[self.category[i]], list(COLORS)[self.color[i]]
        return Description(category, color, ATTRIBUTES[self.attribute[i]], hat, bool(self.box[i]))


def random_noun(told: Description, rng: np.random.Generator) -> str:
    """The category's name, or with probability 0.3 any of its nouns."""
    nouns = (told.category.replace("_", " "), *SYNONYMS.get(told.category, ()))
    return nouns[0] if rng.random() < 0.7 else nouns[int(rng.integers(len(nouns)))]


@dataclass(frozen=True)
class Pictures(Described):
    """Pictures with the data of their captions."""

    rgb: np.ndarray  # (N, S, S, 3) uint8, over the background
    opacity: np.ndarray  # (N, S, S) uint8
    background: np.ndarray  # (N, 2, 3) sRGB at the top and at the bottom
    category: np.ndarray  # (N,) index into CATEGORIES
    color: np.ndarray  # (N,) index into COLORS
    attribute: np.ndarray  # (N,) index into ATTRIBUTES
    hat: np.ndarray  # (N,) index into COLORS, -1 for none
    box: np.ndarray  # (N,) bool
    azimuth: np.ndarray  # (N,) radians
    elevation: np.ndarray  # (N,) radians
    style: np.ndarray  # (N,) index into STYLES
    mirrored: np.ndarray  # (N,) bool: the mirror image shows the same thing, at the negative azimuth

    def __len__(self) -> int:
        return len(self.rgb)

    def draw(self, rng: np.random.Generator, count: int, plain: float = 0.0) -> Drawn:
        """``count`` random pictures, an expected share ``plain`` of them over one of BACKDROPS.

        Pictures whose mirror image shows the same thing are mirrored with probability 0.5.
        """
        rows = rng.integers(0, len(self), count)
        flips = self.mirrored[rows] & (rng.random(count) < 0.5)
        backdrops = draw_backdrops(rng, count, plain)
        rgb, plains = self.rgb[rows], backdrops != OWN
        rgb[plains] = self._over_plain(rows[plains], backdrops[plains])
        rgb[flips] = rgb[flips, :, ::-1]
        return Drawn(rows, flips, backdrops, rgb, self.azimuth[rows] * np.where(flips, -1.0, 1.0))

    def _over_plain(self, rows: np.ndarray, backdrops: np.ndarray) -> np.ndarray:
        """Pictures ``(B, S, S, 3)`` uint8 with their backgrounds replaced by ``backdrops (B,)``."""
        top, bottom = (self.background[rows, end, None, :] for end in (0, 1))
        ramp = np.linspace(0.0, 1.0, self.rgb.shape[1])[:, None]
        own = (top + ramp * (bottom - top))[:, :, None, :]  # the renderer's background, (B, S, 1, 3)
        see_through = 1.0 - self.opacity[rows][..., None] / 255.0
        wanted = np.array(list(BACKDROPS.values()), dtype=np.float32)[backdrops][:, None, None]
        return np.clip(self.rgb[rows] + 255.0 * see_through * (wanted - own) + 0.5, 0.0, 255.0).astype(np.uint8)

    def elevations(self, rows: np.ndarray) -> np.ndarray:
        """Elevations ``(B,)`` of drawn ``rows``, radians."""
        return self.elevation[rows]

    def told(self, rows: np.ndarray, captions: list[str]) -> Tensor:
        """Indices ``(B, 2)`` of the thing's and of its hat's colour in the ``captions`` of drawn ``rows``.

        The last hat index means no hat. ``UNTOLD`` for empty captions and for the colour of grey clay, which captions may omit.
        """
        color = np.where(self.style[rows] == CLAY, UNTOLD, self.color[rows])
        hat = np.where(self.hat[rows] < 0, len(COLORS), self.hat[rows])
        found = np.stack([color, hat], axis=1).astype(np.int64)
        found[[not caption for caption in captions]] = UNTOLD
        return torch.from_numpy(found)

    def caption(self, i: int, rng: np.random.Generator, flip: bool = False, backdrop: int = OWN) -> str:
        """A random caption of picture ``i``, mirrored if ``flip``, over ``backdrop`` (an index into BACKDROPS, or OWN).

        With probability 0.1 it is empty (for classifier-free guidance), and with probability 0.1 it has no view words.
        """
        draw = rng.random()
        if draw < 0.1:
            return ""
        told, style = self.description(i), list(STYLES)[self.style[i]]
        if style == "clay" and told.attribute in FINISHES:  # the finish is not visible on grey clay
            told = replace(told, attribute="")
        noun = random_noun(told, rng)
        words = told.caption(noun, colored=style != "clay" or rng.random() < 0.5) + STYLES[style]
        words += COLORED if backdrop == OWN else list(BACKDROPS)[backdrop]
        if draw < 0.2:
            return words
        azimuth = -self.azimuth[i] if flip else self.azimuth[i]
        return f"{words}, {compass_words(float(azimuth), float(self.elevation[i]))}"


def draw_backdrops(rng: np.random.Generator, count: int, plain: float) -> np.ndarray:
    """Indices ``(count,)`` into BACKDROPS with probability ``plain``, otherwise OWN."""
    return np.where(rng.random(count) < plain, rng.integers(0, len(BACKDROPS), count), OWN)


def gather(rows: Sequence[Sampled]) -> Pictures:
    """Sampled pictures of equal size as one :class:`Pictures`."""
    categories, colors, styles, told = list(CATEGORIES), list(COLORS), list(STYLES), [row.description for row in rows]
    return Pictures(
        rgb=np.stack([row.rgb for row in rows]),
        opacity=np.stack([row.opacity for row in rows]),
        background=np.array([(row.background.top, row.background.bottom) for row in rows], dtype=np.float32),
        category=np.array([categories.index(each.category) for each in told], dtype=np.int16),
        color=np.array([colors.index(each.color) for each in told], dtype=np.int16),
        attribute=np.array([ATTRIBUTES.index(each.attribute) for each in told], dtype=np.int16),
        hat=np.array([colors.index(each.hat) if each.hat else -1 for each in told], dtype=np.int16),
        box=np.array([each.box for each in told]),
        azimuth=np.array([row.azimuth for row in rows], dtype=np.float32),
        elevation=np.array([row.elevation for row in rows], dtype=np.float32),
        style=np.array([styles.index(row.style) for row in rows], dtype=np.int16),
        mirrored=np.array([row.mirrored for row in rows]),
    )


def make_shard(
    folder: Path, index: int, size: int = 64, kinds: Sequence[str] = tuple(CATEGORIES), training: bool = True
) -> Path:
    """Render shard ``index`` into ``folder`` unless its file exists; returns the file.

    With ``training``, held-out combinations are not drawn.
    """
    first = index * SHARD // VIEWS

    def make() -> dict[str, np.ndarray]:
        rows = [row for i in range(SHARD // VIEWS) for row in sample_pictures(first + i, size, training, kinds)]
        return vars(gather(rows))

    return write_shard(folder, "pictures", index, size, make, compressed=False)


def load_shards(folder: Path, size: int = 64) -> Pictures:
    """All shards of ``size`` pixels in ``folder``.

    Raises:
        FileNotFoundError: ``folder`` has none.
    """
    return Pictures(**read_shards(folder, "pictures", size, "dreamlift.toybox.training.dataset"))


def main() -> None:
    render_shards(make_shard, Path("data/toybox"), "Render the missing shards of the training set, of 500 pictures each.")


if __name__ == "__main__":
    main()
