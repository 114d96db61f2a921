"""The training set of ``toybox-geometry``: pictures of where a thing's surface is and of how it lies, in shards on disk.

Places are the canonical coordinates of the visible points, (x + 1) / 2 (SweetDreamer, Li et al. 2023,
https://arxiv.org/abs/2310.02596); normals are those of the world, (n + 1) / 2. Both are premultiplied by the opacity, so that
they lie on black, as :func:`dreamlift.stages.teacher.shown` renders them. Light and shading play no part, so a picture costs a
third of a coloured one. The cameras reach from below to almost straight down, into vessels.

    python -m dreamlift.toybox.training.geometry --data data/geometry --shards 120
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamlift.cameras import orbit_cameras, rescaled
from dreamlift.prompts import compass_words
from dreamlift.toybox.training.dataset import BACKDROPS, COLORED, SHARD, Described, Drawn, draw_backdrops, random_noun
from dreamlift.toybox.training.network import MAP_WORDS
from dreamlift.toybox.training.reader import UNTOLD
from dreamlift.toybox.training.shards import joined, read_shards, render_shards, write_shard
from dreamlift.toybox.world.render import is_symmetric, normals, traced_pixels
from dreamlift.toybox.world.things import ATTRIBUTES, CATEGORIES, COLORS, Thing, describe
from dreamlift.types import Cameras

VIEWS = 10  # pictures per thing
ELEVATION_DEG = (-20.0, 85.0)
MAPS = {show: f", {word}" for show, word in MAP_WORDS.items()}  # what a picture shows -> words in the caption
NORMAL_SHARE = 0.2  # share of the drawn pictures that show normals: they are simpler than places
SEEDS = 0x6E0  # apart from the seeds of the coloured pictures


@dataclass(frozen=True)
class Geometry(Described):
    """Pictures of places and normals with the data of their captions; trained on as :class:`dataset.Pictures` are."""

    maps: np.ndarray  # (N, 2, S, S, 3) uint8: places, normals, premultiplied
    opacity: np.ndarray  # (N, S, S) uint8
    category: np.ndarray  # (N,) index into CATEGORIES
    color: np.ndarray  # (N,) index into COLORS
    attribute: np.ndarray  # (N,) index into ATTRIBUTES
    hat: np.ndarray  # (N,) index into COLORS, -1 for none
    box: np.ndarray  # (N,) bool
    azimuth: np.ndarray  # (N,) radians
    elevation: np.ndarray  # (N,) radians
    mirrored: np.ndarray  # (N,) bool: the mirror image shows the same thing, at the negative azimuth

    def __len__(self) -> int:
        return len(self.maps)

    def draw(self, rng: np.random.Generator, count: int, plain: float = 0.0) -> Drawn:
        """``count`` random pictures, of symmetric things mirrored with probability 0.5.

        ``plain`` is the share of the captions that name one of BACKDROPS, which changes nothing in these pictures. ``rows`` of
        the result are those of :meth:`caption`: 2 i for the places of picture i, 2 i + 1 for its normals.
        """
        rows = rng.integers(0, len(self), count)
        shows = (rng.random(count) < NORMAL_SHARE).astype(np.int64)
        flips = self.mirrored[rows] & (rng.random(count) < 0.5)
        rgb = self.maps[rows, shows].copy()
        # x of places and normals changes its sign: v becomes opacity - v
        rgb[flips, ..., 0] = np.clip(self.opacity[rows[flips]].astype(np.int16) - rgb[flips, ..., 0], 0, 255)
        rgb[flips] = rgb[flips, :, ::-1]
        azimuth = self.azimuth[rows] * np.where(flips, -1.0, 1.0)
        return Drawn(2 * rows + shows, flips, draw_backdrops(rng, count, plain), rgb, azimuth)

    def elevations(self, rows: np.ndarray) -> np.ndarray:
        """Elevations ``(B,)`` of drawn ``rows``, radians."""
        return self.elevation[rows // 2]

    def told(self, rows: np.ndarray, captions: list[str]) -> Tensor:
        """``(B, 2)``, all UNTOLD: the pictures have no colours to be read from their captions."""
        return torch.full((len(rows), 2), UNTOLD)

    def caption(self, row: int, rng: np.random.Generator, flip: bool, backdrop: int) -> str:
        """A random caption of a drawn ``row``, mirrored if ``flip``, that names ``backdrop``.

        In a tenth only the word of the map is left, the negative prompt of classifier-free guidance: the mean of places and
        normals would be none. In a twentieth the words of the view are left out.
        """
        i, words = row // 2, list(MAPS.values())[row % 2]
        draw, told = rng.random(), self.description(row // 2)
        if draw < 0.1:
            return words.removeprefix(", ")
        noun = random_noun(told, rng)
        said = told.caption(noun, colored=rng.random() < 0.8) + words
        said += list(BACKDROPS)[backdrop] if backdrop >= 0 else COLORED
        if draw < 0.15:
            return said
        azimuth = -self.azimuth[i] if flip else self.azimuth[i]
        return f"{said}, {compass_words(float(azimuth), float(self.elevation[i]))}"


def map_pictures(thing: Thing, cameras: Cameras, supersample: int = 2) -> tuple[Tensor, Tensor]:
    """Premultiplied places and normals ``(B, 2, H, W, 3)``, and the opacity ``(B, H, W)``, all in [0, 1]."""
    origins, directions, hits, depth = traced_pixels(thing, rescaled(cameras, supersample))
    points = origins[hits] + depth[:, None] * directions[hits]
    full = torch.zeros(len(origins), 7)
    full[hits] = torch.cat([0.5 * points + 0.5, 0.5 * normals(thing, points) + 0.5, torch.ones(len(points), 1)], dim=-1)
    shape = len(cameras), cameras.height, supersample, cameras.width, supersample, 7
    found = full.view(shape).mean(dim=(2, 4)).clamp(0.0, 1.0)
    return found[..., :6].unflatten(-1, (2, 3)).movedim(3, 1), found[..., 6]


def make_views(rng: np.random.Generator, count: int, size: int) -> Cameras:
    """Random cameras around the origin with one field of view, framed as those of the coloured pictures."""
    azimuth = rng.uniform(-math.pi, math.pi, count)
    elevation = np.radians(rng.uniform(*ELEVATION_DEG, count))
    fov = math.radians(rng.uniform(40.0, 55.0))
    distance = rng.uniform(0.95, 1.1, count) / math.sin(0.5 * fov)
    place = torch.from_numpy(np.stack([azimuth, elevation, distance])).float()
    return orbit_cameras(place[0], place[1], place[2], torch.full((count,), fov), size)


def sample_maps(seed: int, size: int = 64, training: bool = True, kinds: Sequence[str] = tuple(CATEGORIES)) -> Geometry:
    """Pictures of one random thing; they depend on the arguments only. With ``training``, no held-out combination."""
    rng = np.random.default_rng([seed, SEEDS])
    told = describe(rng, training, kinds)
    thing = told.thing(int(rng.integers(2**31)))
    cameras = make_views(rng, VIEWS, size)
    with torch.inference_mode():
        maps, opacity = ((each * 255 + 0.5).to(torch.uint8).numpy() for each in map_pictures(thing, cameras))
        symmetric = is_symmetric(thing)
    colors = list(COLORS)
    known = {
        "category": list(CATEGORIES).index(told.category), "color": colors.index(told.color),
        "attribute": ATTRIBUTES.index(told.attribute), "hat": colors.index(told.hat) if told.hat else -1,
    }  # fmt: skip
    return Geometry(
        maps, opacity, **{name: np.full(VIEWS, value, dtype=np.int16) for name, value in known.items()},
        box=np.full(VIEWS, told.box), azimuth=cameras.azimuth.numpy(), elevation=cameras.elevation.numpy(),
        mirrored=np.full(VIEWS, symmetric),
    )  # fmt: skip


def gather(parts: Sequence[Geometry]) -> Geometry:
    """All pictures of ``parts``."""
    return Geometry(**joined([vars(part) for part in parts]))


def make_shard(
    folder: Path, index: int, size: int = 64, kinds: Sequence[str] = tuple(CATEGORIES), training: bool = True
) -> Path:
    """Render shard ``index`` into ``folder`` unless its file exists; returns the file."""
    seeds = range(index * SHARD // VIEWS, (index + 1) * SHARD // VIEWS)
    return write_shard(
        folder, "maps", index, size, lambda: vars(gather([sample_maps(seed, size, training, kinds) for seed in seeds]))
    )


def load_shards(folder: Path, size: int = 64) -> Geometry:
    """All shards of ``size`` pixels in ``folder``.

    Raises:
        FileNotFoundError: ``folder`` has none.
    """
    return Geometry(**read_shards(folder, "maps", size, "dreamlift.toybox.training.geometry"))


def main() -> None:
    render_shards(make_shard, Path("data/geometry"), f"Render the missing shards of toybox-geometry, {SHARD} pictures each.")


if __name__ == "__main__":
    main()
