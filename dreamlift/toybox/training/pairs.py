"""The training set of ``toybox-view``: pictures of one object from several sides, in shards on disk.

Half of the objects are toys of the 64 kinds without :data:`HELD_OUT`, half are random composites. Each has reference pictures,
framed as a user's picture will be (the silhouette centred, its longest side 0.78 of the picture), and target pictures from
cameras at one distance and field of view, with the places of what they show, and a grid of where it is solid; when they are
drawn, the targets are cropped to the frame of the reference (:func:`reframed`). All pictures of an object have the same light
and shading; the backdrop is chosen during training, the same for both pictures of a pair.

    python -m dreamlift.toybox.training.pairs --data data/view --shards 80
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.cameras import centered, orbit_cameras, rescaled, turned
from dreamlift.priors.zero123.embeds import BACKDROPS
from dreamlift.priors.zero123.lift import SCALE
from dreamlift.reading.photos import RATIO
from dreamlift.texturing.extract import grid_points
from dreamlift.toybox.training.shards import read_shards, write_shard
from dreamlift.toybox.world.composites import make_composite
from dreamlift.toybox.world.render import SHADINGS, Background, Rendered, render, sample_lighting, traced_pixels
from dreamlift.toybox.world.things import CATEGORIES, Thing, describe
from dreamlift.types import Cameras

SHARD = 100  # objects per file
UNSEEN_SHARD = 1_000_000  # of the objects that the sheets of the trainings show
REFERENCES, TARGETS = 2, 3  # pictures per object, beside one target near each reference
NEAR_SHARE = 0.3  # share of the pairs whose target is near the reference
NEAR_DEG = (12.0, 8.0)  # standard deviations of its azimuth and elevation relative to the reference's
SAME_SHARE = 0.3  # share of the near targets that have the reference's own view
HELD_OUT = ("teapot", "chair", "truck", "penguin")  # kinds that no pair shows
FOV_DEG, DISTANCE = 45.0, 2.6  # of the target's cameras: the bounding sphere fills 0.83 of the picture's side
FRAMED = RATIO  # longest side of the reference's silhouette, relative to the picture's side (Zero-1-to-3)
WHITE_SHARE = 0.5  # share of the pairs over the first backdrop
POINTS, EXTENT = 40, 0.9  # points a side of the grid that tells where objects are solid, and its half side
BLACK = Background((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


class Pair(NamedTuple):
    """A random draw of B pairs."""

    cutout: np.ndarray  # (B, S, S, 4) the reference in [0, 1], premultiplied, and its opacity
    backdrop: np.ndarray  # (B, 3) in [0, 1]
    reference: np.ndarray  # (B, S, S, 3) in [0, 1], over the backdrop
    target: np.ndarray  # (B, S, S, 3) in [0, 1], over the backdrop; places, on black, where ``place``
    azimuth: np.ndarray  # (B,) radians, of the target relative to the reference
    elevation: np.ndarray  # (B, 2) radians, of the reference and of the target
    place: np.ndarray  # (B,) bool: the target shows places


@dataclass(frozen=True)
class Pairs:
    """Pictures of N objects, premultiplied by their opacity."""

    reference: np.ndarray  # (N, R, S, S, 4) uint8: colour, opacity
    # (N, T + R, S, S, 4) uint8: colour, opacity; T from anywhere, then one near each reference
    target: np.ndarray
    places: np.ndarray  # (N, T + R, S, S, 3) uint8: (position + 1) / 2
    reference_view: np.ndarray  # (N, R, 2) azimuth and elevation, radians
    # (N, R, 3) the world's origin in the picture, from -1 to 1 to the right and down; half sides per world unit there
    reference_frame: np.ndarray
    target_view: np.ndarray  # (N, T + R, 2)
    solid: np.ndarray  # (N, POINTS^3 / 8) uint8: the bits of :func:`solid_of`

    def __len__(self) -> int:
        return len(self.reference)

    def draw(self, rng: np.random.Generator, count: int, place_share: float = 0.0) -> Pair:
        """``count`` random pairs; an expected share ``place_share`` of the targets shows places.

        Targets are those of the references' own frames (:func:`reframed`). Half of the pairs are mirrored: the mirror image of
        an object is an object. Places are in the reference's frame: its camera is at azimuth 0.
        """
        rows = rng.integers(0, len(self), count)
        one, other = rng.integers(0, REFERENCES, count), rng.integers(0, TARGETS, count)
        other = np.where(rng.random(count) < NEAR_SHARE, TARGETS + one, other)
        white = rng.random(count) < WHITE_SHARE
        backdrops = np.array(BACKDROPS, dtype=np.float32)[np.where(white, 0, rng.integers(1, len(BACKDROPS), count))]
        views = self.reference_view[rows, one], self.target_view[rows, other]
        frames = self.reference_frame[rows, one]
        pictures, positions = reframed(self.target[rows, other], self.places[rows, other], frames, *views)
        azimuth = views[1][:, 0] - views[0][:, 0]
        place, mirrored = rng.random(count) < place_share, rng.random(count) < 0.5
        target = pictures[..., :3] + (1 - pictures[..., 3:]) * backdrops[:, None, None]
        positions[mirrored, ..., 0] *= -1
        target[place] = ((positions + pictures[..., 3:]) / 2)[place].clip(0, 1)
        cutout = self.reference[rows, one] / np.float32(255)
        reference = over(self.reference[rows, one], backdrops)
        for picture in (cutout, reference, target):
            picture[mirrored] = picture[mirrored, :, ::-1]
        elevation = np.stack([views[0][:, 1], views[1][:, 1]], axis=-1)
        azimuth *= np.where(mirrored, -1, 1).astype(np.float32)
        return Pair(cutout, backdrops, reference, target, azimuth, elevation, place)


def reframed(
    pictures: np.ndarray, places: np.ndarray, frames: np.ndarray, own: np.ndarray, views: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Targets as cameras show them that look at the middle of the reference, at its scale.

    A reference does not tell how large its object is in the world, nor where its middle lies: pictures whose frame depends on
    both could only be guessed. Seen from its own direction an object is here as large as in the reference, about
    :data:`SCALE` half sides per unit at the middle's depth, and its place is the same.

    Args:
        pictures: ``(B, S, S, 4)`` uint8, premultiplied. places: ``(B, S, S, 3)`` uint8, as of :class:`Pairs`.
        frames: ``(B, 3)`` of the references (:func:`frames_of`).
        own: ``(B, 2)`` azimuths and elevations of the references, radians; ``views``: of the targets.

    Returns:
        The pictures ``(B, S, S, 4)`` in [0, 1], and the positions ``(B, S, S, 3)`` in the frame whose azimuth 0 is the
        reference's, both premultiplied.
    """
    larger, middle = middles(frames, own)
    right, up = axes_of(views)
    toward = DISTANCE - (middle * torch.linalg.cross(right, up)).sum(-1)  # of the middle from the camera
    half = toward * math.tan(math.radians(0.5 * FOV_DEG))  # of the picture's side there, world units
    size = pictures.shape[1]
    ticks = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    where = torch.stack([x, y], dim=-1) * (DISTANCE / toward / larger)[:, None, None, None]
    seen = torch.stack([(middle * right).sum(-1), -(middle * up).sum(-1)], dim=-1) / half[:, None]
    both = torch.from_numpy(np.concatenate([pictures, places], axis=-1)).permute(0, 3, 1, 2).float() / 255
    found = functional.grid_sample(both, where + seen[:, None, None], align_corners=False).permute(0, 2, 3, 1)
    return found[..., :4].numpy(), own_positions(found[..., 4:], found[..., 3:4], frames, own).numpy()


def own_positions(places: Tensor, alpha: Tensor, frames: np.ndarray, own: np.ndarray) -> Tensor:
    """Premultiplied positions ``(B, S, S, 3)`` in the references' own frames, from premultiplied ``places`` of the world."""
    larger, middle = (each[:, None, None] for each in middles(frames, own))
    positions = larger[..., None] * (2 * places - alpha - alpha * middle)
    return turned(positions, -torch.as_tensor(own[:, 0]).float()[:, None, None])


def middles(frames: np.ndarray, own: np.ndarray) -> tuple[Tensor, Tensor]:
    """How much larger things are in the references' own frames than in the world ``(B,)``, and the middles of the references in
    the world ``(B, 3)``."""
    u, v, scale = torch.as_tensor(frames).float()[..., None].unbind(1)
    right, up = axes_of(own)
    return scale[:, 0] / SCALE, (up * v - right * u) / scale


def own_cameras(frames: np.ndarray, own: np.ndarray, views: np.ndarray, size: int = 64) -> Cameras:
    """Cameras of the world that see what :func:`reframed` shows, by other positions instead of crops."""
    larger, middle = middles(frames, own)
    azimuth, elevation = torch.as_tensor(views).float().unbind(-1)
    distance = DISTANCE / larger
    cameras = orbit_cameras(azimuth, elevation, distance, torch.full_like(distance, math.radians(FOV_DEG)), size)
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] += middle
    return replace(cameras, c2w=c2w)


def axes_of(views: np.ndarray) -> tuple[Tensor, Tensor]:
    """The directions to the right and up ``(..., 3)`` of cameras at ``views (..., 2)``, azimuth and elevation in radians."""
    azimuth, elevation = torch.as_tensor(views).float().unbind(-1)
    right = torch.stack([azimuth.cos(), torch.zeros_like(azimuth), -azimuth.sin()], dim=-1)
    up = torch.stack([-elevation.sin() * azimuth.sin(), elevation.cos(), -elevation.sin() * azimuth.cos()], dim=-1)
    return right, up


def over(pictures: np.ndarray, backdrops: np.ndarray) -> np.ndarray:
    """Premultiplied pictures ``(B, S, S, 4)`` uint8 over ``backdrops (B, 3)``: ``(B, S, S, 3)`` in [0, 1]."""
    values = pictures / np.float32(255)
    return values[..., :3] + (1 - values[..., 3:]) * backdrops[:, None, None]


def make_object(seed: int, training: bool = True) -> Thing:
    """The object of ``seed``: a toy if it is even, else a composite. Depends on the arguments only.

    With ``training``, toys of :data:`HELD_OUT` and held-out combinations are not drawn.
    """
    if seed % 2:
        return make_composite(seed)
    rng = np.random.default_rng([seed, 0x70])
    kinds = tuple(kind for kind in CATEGORIES if not training or kind not in HELD_OUT)
    told = describe(rng, training, kinds)
    return told.thing(int(rng.integers(2**31)))


def view_cameras(azimuth: Tensor, elevation: Tensor, size: int = 64) -> Cameras:
    """The cameras of targets at ``azimuth (B,)`` and ``elevation (B,)``, radians."""
    ones = torch.ones_like(azimuth)
    return orbit_cameras(azimuth, elevation, ones * DISTANCE, ones * math.radians(FOV_DEG), size)


def framed(thing: Thing, cameras: Cameras, ratio: Tensor, shift: Tensor) -> Cameras:
    """The cameras, cropped so that the thing's silhouette is centred and its longest side is ``ratio`` of the picture's.

    ``ratio (B,)``; ``shift (B, 2)`` of the silhouette's centre, as a part of the picture's side. The silhouette is that of the
    rays of the pixels' centres. A silhouette without pixels leaves its camera as it is.
    """
    origins, _, hits, _ = traced_pixels(thing, cameras)
    seen = torch.zeros(len(origins), dtype=torch.bool)
    seen[hits] = True
    return centered(cameras, seen.view(len(cameras), cameras.height, cameras.width), ratio, shift)


def places_of(thing: Thing, cameras: Cameras, supersample: int = 2) -> Tensor:
    """Premultiplied places ``(B, H, W, 3)``: (position + 1) / 2 of what the cameras see, black elsewhere."""
    origins, directions, hits, depth = traced_pixels(thing, rescaled(cameras, supersample))
    full = torch.zeros(len(origins), 3)
    full[hits] = (0.5 * (origins[hits] + depth[:, None] * directions[hits]) + 0.5).clamp(0, 1)
    shape = len(cameras), cameras.height, supersample, cameras.width, supersample, 3
    return full.view(shape).mean(dim=(2, 4))


def solid_points() -> Tensor:
    """The ``(POINTS^3, 3)`` points of the world at which it is known whether an object is solid."""
    return grid_points(EXTENT, POINTS)


def solid_of(thing: Thing) -> np.ndarray:
    """At which of :func:`solid_points` the thing is solid, as packed bits ``(POINTS^3 / 8,)`` uint8."""
    return np.packbits(thing.occupancy(solid_points()).numpy())


def random_references(thing: Thing, rng: np.random.Generator, count: int, size: int = 64) -> Cameras:
    """Random cameras of references, as of users' pictures: from -10 to 60 degrees, framed with small errors."""
    azimuth, elevation = rng.uniform(-math.pi, math.pi, count), np.radians(rng.uniform(-10.0, 60.0, count))
    fov = np.radians(rng.uniform(20.0, 55.0, count))
    distance = rng.uniform(0.95, 1.1, count) / np.sin(0.5 * fov)
    wide = orbit_cameras(*[torch.from_numpy(v).float() for v in (azimuth, elevation, distance, fov)], width=size)
    ratio = torch.from_numpy(FRAMED + rng.uniform(-0.04, 0.04, count)).float()
    return framed(thing, wide, ratio, torch.from_numpy(rng.uniform(-0.015, 0.015, (count, 2))).float())


def near_views(rng: np.random.Generator, references: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Random azimuths and elevations near those of the references, each ``(R,)``, radians."""
    moved = rng.random(len(references)) >= SAME_SHARE
    turn, rise = (np.radians(spread) * rng.standard_normal(len(references)) * moved for spread in NEAR_DEG)
    return references.azimuth.numpy() + turn, references.elevation.numpy() + rise


def make_pictures(seed: int, size: int = 64, training: bool = True) -> dict[str, np.ndarray]:
    """The pictures of one object, by the names of :class:`Pairs`; they depend on the arguments only."""
    rng, thing = np.random.default_rng([seed, 0x9A]), make_object(seed, training)
    with torch.inference_mode():
        references = random_references(thing, rng, REFERENCES, size)
        azimuth, elevation = rng.uniform(-math.pi, math.pi, TARGETS), np.radians(rng.uniform(-20.0, 80.0, TARGETS))
        near = near_views(rng, references)
        azimuth, elevation = np.concatenate([azimuth, near[0]]), np.concatenate([elevation, near[1]])
        targets = view_cameras(torch.from_numpy(azimuth).float(), torch.from_numpy(elevation).float(), size)
        light, shading = sample_lighting(rng, float(references.azimuth[0])), str(rng.choice(SHADINGS, p=(0.85, 0.1, 0.05)))
        pictures = [as_bytes(render(thing, cameras, light, BLACK, shading=shading)) for cameras in (references, targets)]
        places = (places_of(thing, targets) * 255 + 0.5).to(torch.uint8).numpy()
        solid = solid_of(thing)
    views = [torch.stack([each.azimuth, each.elevation], dim=-1).numpy() for each in (references, targets)]
    return {"reference": pictures[0], "target": pictures[1], "places": places, "reference_frame": frames_of(references).numpy(),
            "reference_view": views[0], "target_view": views[1], "solid": solid}  # fmt: skip


def frames_of(cameras: Cameras) -> Tensor:
    """``(B, 3)``: the origin's place in each picture, from -1 to 1 to the right and down, and the scale there: the change of it
    per world unit. The cameras look at the origin, but for their crops."""
    size = torch.tensor([cameras.width, cameras.height], dtype=torch.float32)
    return torch.cat(
        [2 * cameras.K[:, :2, 2] / size - 1, (2 * cameras.K[:, 1, 1] / size[1] / cameras.distance)[:, None]], dim=-1
    )


def as_bytes(rendered: Rendered) -> np.ndarray:
    """``(B, S, S, 4)`` uint8 of a render over black: premultiplied colour, opacity."""
    return (torch.cat([rendered.rgb, rendered.opacity], dim=-1) * 255 + 0.5).to(torch.uint8).numpy()


def make_pairs(seeds: Iterable[int], size: int = 64, training: bool = True) -> Pairs:
    """The pictures of the objects of ``seeds``."""
    rows = [make_pictures(seed, size, training) for seed in seeds]
    return Pairs(**{key: np.stack([row[key] for row in rows]) for key in rows[0]})


def make_shard(folder: Path, index: int, size: int = 64, training: bool = True) -> Path:
    """Render shard ``index`` into ``folder`` unless its file exists; returns the file."""
    seeds = range(index * SHARD, (index + 1) * SHARD)
    return write_shard(folder, "pairs", index, size, lambda: vars(make_pairs(seeds, size, training)))


def load_shards(folder: Path, size: int = 64) -> Pairs:
    """All shards of ``size`` pixels in ``folder``.

    Raises:
        FileNotFoundError: ``folder`` has none.
    """
    return Pairs(**read_shards(folder, "pairs", size, "dreamlift.toybox.training.pairs"))


def unseen_pairs(data: Path, size: int = 64) -> Pairs:
    """Objects of all kinds that are not among those of ``data``; they are rendered once, into the folder beside it."""
    folder = data.with_name(f"{data.name}-held-out")
    make_shard(folder, UNSEEN_SHARD, size, training=False)
    return load_shards(folder, size)


def write_sheet(path: Path, size: int = 64, rows: int = 4, columns: int = 8) -> None:
    """Write a sheet of random pairs of 24 objects: the reference, and the target beside it."""
    from PIL import Image

    drawn = make_pairs(range(24), size).draw(np.random.default_rng(0), rows * columns, 0.4)
    both = np.concatenate([drawn.reference, drawn.target], axis=2)  # side by side
    sheet = both.reshape(rows, columns, size, 2 * size, 3).swapaxes(1, 2).reshape(rows * size, columns * 2 * size, 3)
    Image.fromarray((sheet * 255 + 0.5).clip(0, 255).astype(np.uint8)).save(path)


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=f"Render the missing shards of toybox-view's pairs, {SHARD} objects each.")
    parser.add_argument("--data", type=Path, default=Path("data/view"), help="folder of the shards")
    parser.add_argument("--shards", type=int, default=80, help="index after the last shard")
    parser.add_argument("--first", type=int, default=0, help="index of the first shard")
    parser.add_argument("--stride", type=int, default=1, help="render every STRIDE-th shard, to divide the work")
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--sheet", type=Path, help="write a PNG of random pairs of the first objects instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.sheet:
        write_sheet(arguments.sheet, arguments.size)
        return
    for index in range(arguments.first, arguments.shards, arguments.stride):
        print(make_shard(arguments.data, index, arguments.size), flush=True)


if __name__ == "__main__":
    main()
