"""The training set of the embedded prior: pictures of the toy world with captions, in shards on disk.

Pictures are made in fours, from one seed each (:func:`dreamlift.toybox.world.render.sample_pictures`), so the set is the
same on
every machine and any part of it can be made again. Captions are put together at training time (view words, and now and then
none), from a few integers a picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dreamlift.prompts import compass_words
from dreamlift.system.files import atomic_write_bytes
from dreamlift.toybox.world.render import VIEWS, Sampled, sample_pictures
from dreamlift.toybox.world.things import ATTRIBUTES, CATEGORIES, COLORS, FINISHES, SYNONYMS, Description

SHARD = 500  # pictures a file
# Words in the caption -> the plain background behind the picture, sRGB. With two of them, far apart, nothing has the color of
# both, so what stands there can be told from what does not.
BACKDROPS = {"": (0.70, 0.75, 0.80), ", dark background": (0.12, 0.14, 0.20)}
OWN = -1  # in the place of an index into BACKDROPS: the picture keeps its own background
COLORED = ", colored background"  # what the captions of those say
STYLES = {"lit": "", "albedo": ", unlit", "clay": ", grey clay"}  # shading of the picture -> its words in the caption
CLAY = list(STYLES).index("clay")


def vocabulary(kinds: Sequence[str] = tuple(CATEGORIES)) -> list[str]:
    """Every word that a caption of one of the categories ``kinds`` can hold."""
    directions = {w for az in np.linspace(-np.pi, np.pi, 33) for el in (-1.0, 0.3, 1.4)
                  for w in compass_words(float(az), el).split()}  # fmt: skip
    nouns = [noun for kind in kinds for noun in (kind, *SYNONYMS.get(kind, ()))]
    captions = [
        f"{Description(noun, color, attribute, hat='red').caption()} {Description(noun, color, box=True).caption()} {style}"
        for noun in nouns for color, attribute, style in zip_longest(COLORS, ATTRIBUTES, STYLES.values(), fillvalue="")
    ]  # fmt: skip
    texts = [*captions, *directions, *BACKDROPS, COLORED, "an a the of in with and view toy"]
    return sorted({word for text in texts for word in _split(text)} | {","})


def _split(text: str) -> list[str]:
    return text.replace(",", " ").split()


class Drawn(NamedTuple):
    """Pictures drawn at random."""

    rows: np.ndarray  # (B,) which
    flips: np.ndarray  # (B,) bool: mirrored
    backdrops: np.ndarray  # (B,) index into BACKDROPS of the background they are over, or OWN
    rgb: np.ndarray  # (B, S, S, 3) uint8
    azimuth: np.ndarray  # (B,) radians, as shown


@dataclass(frozen=True)
class Pictures:
    """Pictures with what their captions are made from."""

    rgb: np.ndarray  # (N, S, S, 3) uint8, over the background
    opacity: np.ndarray  # (N, S, S) uint8
    background: np.ndarray  # (N, 2, 3) sRGB, at the top and at the bottom
    category: np.ndarray  # (N,) index into CATEGORIES
    color: np.ndarray  # (N,) index into COLORS
    attribute: np.ndarray  # (N,) index into ATTRIBUTES
    hat: np.ndarray  # (N,) index into COLORS, -1 for none
    box: np.ndarray  # (N,) bool
    azimuth: np.ndarray  # (N,) radians
    elevation: np.ndarray  # (N,) radians
    style: np.ndarray  # (N,) index into STYLES
    mirrored: np.ndarray  # (N,) bool: the mirror image is a picture of the same thing, its azimuth of the other sign

    def __len__(self) -> int:
        return len(self.rgb)

    def draw(self, rng: np.random.Generator, count: int, plain: float = 0.0) -> Drawn:
        """``count`` random pictures, a share ``plain`` of them over one of the plain backgrounds.

        Half of the pictures whose mirror image shows the same thing are mirrored.
        """
        rows = rng.integers(0, len(self), count)
        flips = self.mirrored[rows] & (rng.random(count) < 0.5)
        backdrops = draw_backdrops(rng, count, plain)
        rgb, plains = self.rgb[rows], backdrops != OWN
        rgb[plains] = self._over_plain(rows[plains], backdrops[plains])
        rgb[flips] = rgb[flips, :, ::-1]
        return Drawn(rows, flips, backdrops, rgb, self.azimuth[rows] * np.where(flips, -1.0, 1.0))

    def _over_plain(self, rows: np.ndarray, backdrops: np.ndarray) -> np.ndarray:
        """Pictures ``(B, S, S, 3)`` uint8 with plain ``backdrops (B,)`` in the place of their own backgrounds."""
        top, bottom = (self.background[rows, end, None, :] for end in (0, 1))
        ramp = np.linspace(0.0, 1.0, self.rgb.shape[1])[:, None]
        own = (top + ramp * (bottom - top))[:, :, None, :]  # as the renderer laid it, (B, S, 1, 3)
        see_through = 1.0 - self.opacity[rows][..., None] / 255.0
        wanted = np.array(list(BACKDROPS.values()), dtype=np.float32)[backdrops][:, None, None]
        return np.clip(self.rgb[rows] + 255.0 * see_through * (wanted - own) + 0.5, 0.0, 255.0).astype(np.uint8)

    def description(self, i: int) -> Description:
        """What picture ``i`` shows."""
        hat = list(COLORS)[self.hat[i]] if self.hat[i] >= 0 else ""
        category, color = list(CATEGORIES)[self.category[i]], list(COLORS)[self.color[i]]
        return Description(category, color, ATTRIBUTES[self.attribute[i]], hat, bool(self.box[i]))

    def caption(self, i: int, rng: np.random.Generator, flip: bool = False, backdrop: int = OWN) -> str:
        """A caption of picture ``i`` (of its mirror image, or over a plain ``backdrop``, an index into BACKDROPS).

        In 10% it is the empty one (for classifier-free guidance), and in another 10% it names no view.
        """
        draw = rng.random()
        if draw < 0.1:
            return ""
        told, style = self.description(i), list(STYLES)[self.style[i]]
        if style == "clay" and told.attribute in FINISHES:  # grey clay shows neither finish nor colour
            told = replace(told, attribute="")
        nouns = (told.category.replace("_", " "), *SYNONYMS.get(told.category, ()))
        noun = nouns[0] if rng.random() < 0.7 else nouns[int(rng.integers(len(nouns)))]
        words = told.caption(noun, colored=style != "clay" or rng.random() < 0.5) + STYLES[style]
        words += COLORED if backdrop == OWN else list(BACKDROPS)[backdrop]
        if draw < 0.2:
            return words
        azimuth = -self.azimuth[i] if flip else self.azimuth[i]
        return f"{words}, {compass_words(float(azimuth), float(self.elevation[i]))}"


def draw_backdrops(rng: np.random.Generator, count: int, plain: float) -> np.ndarray:
    """Indices ``(count,)`` into BACKDROPS in a share ``plain``, OWN in the others."""
    return np.where(rng.random(count) < plain, rng.integers(0, len(BACKDROPS), count), OWN)


def gather(rows: Sequence[Sampled]) -> Pictures:
    """Sampled pictures of one size as one set."""
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
    """Render pictures ``index * SHARD ...`` into ``folder`` and return the file; one that exists is kept.

    In ``training`` no held-out combination is shown.
    """
    path = folder / f"pictures-{size}-{index:05d}.npz"
    if path.exists():
        return path
    first = index * SHARD // VIEWS
    rows = [row for i in range(SHARD // VIEWS) for row in sample_pictures(first + i, size, training, kinds)]
    buffer = io.BytesIO()
    np.savez(buffer, **vars(gather(rows)))
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, buffer.getvalue())
    return path


def load_shards(folder: Path, size: int = 64) -> Pictures:
    """All the shards in ``folder``.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.glob(f"pictures-{size}-*.npz"))
    if not files:
        raise FileNotFoundError(
            f"no pictures in {folder}; make them with: python -m dreamlift.toybox.training.dataset --data {folder}"
        )
    parts = [dict(np.load(file)) for file in files]
    return Pictures(**{key: np.concatenate([part[key] for part in parts]) for key in parts[0]})


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description="Render shards of the training set (those that are missing).")
    parser.add_argument("--data", type=Path, default=Path("data/toybox"))
    parser.add_argument("--shards", type=int, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--stride", type=int, default=1, help="every stride-th shard, to share the work")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    known = tuple(CATEGORIES)
    parser.add_argument("--kinds", nargs="+", choices=known, default=known, metavar="KIND", help="categories; default: all")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    for index in range(arguments.first, arguments.shards, arguments.stride):
        print(make_shard(arguments.data, index, arguments.size, arguments.kinds), flush=True)


if __name__ == "__main__":
    main()
