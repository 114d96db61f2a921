"""Train the lift of ``toybox-view``: ``python -m dreamlift.toybox.training.lift``.

The network (:mod:`dreamlift.priors.zero123.lift`) learns from pictures: its volumes, seen from other sides, are to have the
colours, the silhouettes and the places of the true pictures there. The loss is the mean over random rays of

    |rgb - rgb*|^2 + |opacity - opacity*|^2 + |place - place*|^2    (premultiplied)

of the cross entropy between where they are solid and where the true objects are,

    -s log p - (1 - s) log(1 - p),   p = 1 - exp(-sigma / sigma_half)

and of the squared error of the estimated elevation. The pictures alone leave the place of hidden surfaces to what few rays see
of them. The volumes are seen in the world of the targets by their known frames,
so that the network need not guess how large an object is, from a picture in which all are equally large.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.cameras import turned
from dreamlift.priors.zero123.lift import SIDE, Lift, Sight, Volume, inside, load_lift, save_lift, see, shown
from dreamlift.system.startup import tune_process
from dreamlift.toybox.training.pairs import (
    DISTANCE,
    FOV_DEG,
    POINTS,
    REFERENCES,
    Pairs,
    axes_of,
    load_shards,
    over,
    solid_points,
    unseen_pairs,
    view_cameras,
)
from dreamlift.toybox.training.prior import save_grid
from dreamlift.toybox.training.steps.learning import Optimizers, make_pair
from dreamlift.toybox.training.steps.loop import Lessons, Training, add_arguments, fit_lessons, save_settings

UNTOLD = 0.5  # share of the samples whose elevation is not told
OUTER = 0.25  # share of the rays that are drawn from the whole picture; the others pass within INNER of the origin
INNER = 0.9  # world units
PLAIN = 0.5  # share of the samples whose colour channels keep their order
SHOWN = 16  # objects of the sheet
HEAD = 0.2  # weight of the error of the elevation
SOLID = 2.0  # weight of the cross entropy
HALF = 0.15 / math.log(2)  # density of a cell at which a point is as likely solid as not, over log 2
NEAR = 3  # points of the grid by which solid objects are widened: half of the points are drawn there


@dataclass(frozen=True)
class LiftTraining(Training):
    """Settings of a training run."""

    rays: int = 256  # of a reference, over all of its object's targets
    points: int = 1024  # at which it is compared where the object is solid


class Lesson(NamedTuple):
    """The data of one step."""

    pictures: Tensor  # (B, 4, S, S) premultiplied
    frame: Tensor  # (B, 3)
    elevation: Tensor  # (B,)
    known: Tensor  # (B,) 1 where the elevation is told
    origins: Tensor  # (B, R, 3)
    directions: Tensor  # (B, R, 3)
    rgb: Tensor  # (B, R, 3)
    place: Tensor  # (B, R, 3)
    opacity: Tensor  # (B, R, 1)
    jitter: Tensor  # (B, R)
    points: Tensor  # (B, P, 3) in the frame whose azimuth 0 is the reference's
    solid: Tensor  # (B, P) 1 where the object is
    weight: Tensor  # (B, P) of each point, so that the mean is that over a uniform draw

    def share(self, index: int, count: int) -> Lesson:
        """The ``index``-th of ``count`` equal parts."""
        return Lesson(*(values[index::count] for values in self))


def target_rays(views: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[Tensor, Tensor]:
    """Origins and directions ``(..., 3)`` of the rays of targets at ``views (..., 2)``, azimuth and elevation in radians.

    ``u`` and ``v (...)`` are their pixels, from -1 to 1 to the right and down.
    """
    right, up = axes_of(views)
    outward, half = torch.linalg.cross(right, up), math.tan(math.radians(0.5 * FOV_DEG))
    across, along = (half * torch.as_tensor(each).float()[..., None] for each in (u, v))
    return DISTANCE * outward, functional.normalize(across * right - along * up - outward, dim=-1)


def draw_points(rng: np.random.Generator, bits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``count`` points of each of B grids: their indices, whether they are solid, and their weights, each ``(B, P)``.

    Half are drawn uniformly, half where the object is or nearly is; the weights make up for that.

    Args:
        bits: ``(B, POINTS^3 / 8)`` uint8, of :func:`~dreamlift.toybox.training.pairs.solid_of`.
    """
    solid = np.unpackbits(bits, axis=1).view(bool)
    near = widened(solid.reshape(-1, POINTS, POINTS, POINTS), NEAR).reshape(solid.shape)
    index = rng.integers(0, solid.shape[1], (len(bits), count))
    half = count // 2
    for row in range(len(bits)):
        chosen = np.flatnonzero(near[row])
        if len(chosen):
            index[row, :half] = rng.choice(chosen, half)
    share = near.mean(axis=1, dtype=np.float32)[:, None]
    close = np.take_along_axis(near, index, axis=1)
    drawn = half / count * close / np.maximum(share, 1e-6) + (1 - half / count)  # relative to a uniform draw
    return index, np.take_along_axis(solid, index, axis=1), 1 / drawn


def widened(solid: np.ndarray, steps: int) -> np.ndarray:
    """Grids ``(B, D, H, W)`` bool, widened by ``steps`` points along each axis."""
    found = torch.from_numpy(solid).float()[:, None]
    for axis in range(3):  # one after the other, which is much faster than a cube
        size = [2 * steps + 1 if axis == each else 1 for each in range(3)]
        found = functional.max_pool3d(found, size, stride=1, padding=[each // 2 for each in size])
    return (found[:, 0] > 0).numpy()


def draw_lesson(pairs: Pairs, settings: LiftTraining, step: int) -> Lesson:
    """The batch of one step, determined by the seed and the step."""
    rng = np.random.default_rng([settings.seed, step, 0x11F7])
    count, rays = settings.batch, settings.rays
    rows, one = rng.integers(0, len(pairs), count), rng.integers(0, REFERENCES, count)
    other = rng.integers(0, pairs.target.shape[1], (count, rays))
    reach = INNER / (DISTANCE * math.tan(math.radians(0.5 * FOV_DEG)))
    wide = np.where(rng.random((count, rays)) < OUTER, 1.0, reach)
    column, row = (np.floor((rng.uniform(-1, 1, (count, rays)) * wide + 1) / 2 * SIDE).astype(int) for _ in range(2))
    u, v = ((each + 0.5) / SIDE * 2 - 1 for each in (column, row))
    own = pairs.reference_view[rows, one]
    turn = np.stack([own[:, 0], np.zeros(count)], axis=-1)[:, None]  # the reference is at azimuth 0
    mirrored = rng.random(count) < 0.5
    sign = np.where(mirrored, -1.0, 1.0)[:, None]
    origins, directions = target_rays(pairs.target_view[rows[:, None], other] - turn, u, v)
    factor = pairs.target.shape[-2] // SIDE

    def taken(values: np.ndarray) -> np.ndarray:  # means over factor x factor pixels
        inside = [(i, j) for i in range(factor) for j in range(factor)]
        parts = [values[rows[:, None], other, row * factor + i, column * factor + j] for i, j in inside]
        return np.stack(parts).mean(axis=0, dtype=np.float32) / np.float32(255)

    seen, places = taken(pairs.target), taken(pairs.places)
    place = turned(torch.from_numpy(2 * places - seen[..., 3:]), -torch.as_tensor(own[:, :1]))  # premultiplied
    index, solid, weight = draw_points(rng, pairs.solid[rows], settings.points)
    points = turned(solid_points()[index], -torch.as_tensor(own[:, :1]))
    for each in (origins, directions, place, points):
        each[..., 0] *= torch.from_numpy(sign)
    pictures = pairs.reference[rows, one] / np.float32(255)
    pictures[mirrored] = pictures[mirrored, :, ::-1]
    order = np.argsort(rng.random((count, 3)), axis=1)  # of the colour channels: more colours than the world has
    order[rng.random(count) < PLAIN] = [0, 1, 2]
    pictures[..., :3] = np.take_along_axis(pictures[..., :3], order[:, None, None], axis=-1)
    rgb = np.take_along_axis(seen[..., :3], order[:, None], axis=-1)
    frame = pairs.reference_frame[rows, one].copy()
    frame[:, :1] *= sign
    known = rng.random(count) >= UNTOLD
    arrays = (pictures.transpose(0, 3, 1, 2), frame, own[:, 1], known, origins, directions, rgb, place,
              seen[..., 3:], rng.random((count, rays)), points, solid, weight)  # fmt: skip
    return Lesson(*(torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32)) for each in arrays))


def errors(volume: Volume, sight: Sight, lesson: Lesson) -> dict[str, Tensor]:
    """The squared errors () by name."""
    pairs = {"rgb": (sight.rgb, lesson.rgb), "place": (sight.place, lesson.place), "opacity": (sight.opacity, lesson.opacity)}
    found = {name: (a - b).square().sum(-1).mean() for name, (a, b) in pairs.items()}
    found["solid"] = (lesson.weight * solid_error(volume, lesson.points, lesson.solid)).mean()
    found["elevation"] = ((1 - lesson.known) * (2 - 2 * (volume.estimate - lesson.elevation).cos())).mean()
    return found


def solid_error(volume: Volume, points: Tensor, solid: Tensor) -> Tensor:
    """The cross entropy ``(N, P)`` at ``points (N, P, 3)`` that are ``solid (N, P)``, 1, or not, 0."""
    where, _ = inside(volume, points[:, :, None])
    density = functional.grid_sample(volume.grid[:, :1], where[..., None, :], align_corners=False)[:, 0, :, 0, 0]
    optical = density / HALF
    return torch.where(solid > 0, -torch.log(-torch.expm1(-optical.clamp(min=1e-4))), optical)


def lift_loss(lift: Lift, lesson: Lesson) -> Tensor:
    device = next(lift.parameters()).device
    lesson = Lesson(*(values.to(device) for values in lesson))
    # On CPUs bfloat16 gains nothing here, even with units for it.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        volume = lift(lesson.pictures, lesson.elevation, lesson.known, lesson.frame)
    found = errors(volume, see(volume, lesson.origins, lesson.directions, lesson.jitter), lesson)
    return found["rgb"] + found["opacity"] + found["place"] + SOLID * found["solid"] + HEAD * found["elevation"]


def begin_lift(lift: Lift, folder: Path) -> None:
    """Copy the weights of a saved network. Blocks that it lacks change nothing at first, see :class:`Block`.

    Raises:
        ValueError: it has other widths, or more blocks.
    """
    try:
        unknown = lift.load_state_dict(load_lift(folder).state_dict(), strict=False).unexpected_keys
    except RuntimeError as error:
        raise ValueError(f"the lift in {folder} has other widths than {lift.config['widths']}") from error
    if unknown:
        raise ValueError(f"the lift in {folder} has more blocks than {lift.config['blocks']}")


def make_optimizers(lift: Lift, lr: float) -> Optimizers:
    """Muon for the inner kernels; AdamW for the ends."""
    ends = {id(p) for part in (lift.stem, lift.out, lift.head, lift.tell) for p in part.parameters()}
    return make_pair(list(lift.parameters()), [p for p in lift.parameters() if id(p) not in ends], lr, 1e-2)


@torch.no_grad()
def look(lift: Lift, pairs: Pairs, count: int = 256) -> tuple[dict[str, float], Tensor]:
    """Errors on the objects of ``pairs``, and a sheet ``(9 k, S, S, 3)``: reference, then rendered beside true targets."""
    lesson = draw_lesson(pairs, LiftTraining(batch=count), 0)
    volume = lift(lesson.pictures, lesson.elevation, lesson.known, lesson.frame)
    found = {k: float(v) for k, v in errors(volume, see(volume, lesson.origins, lesson.directions), lesson).items()}
    off = (volume.estimate - lesson.elevation)[lesson.known == 0].abs().rad2deg()
    found |= {"elevation_deg": float(off.median()), "psnr": -10 * math.log10(found["rgb"] / 3)}
    first, own, other = pairs.reference[:SHOWN, 0], pairs.reference_view[:SHOWN, 0], pairs.target_view[:SHOWN]
    pictures, elevation = torch.from_numpy(first / np.float32(255)), torch.from_numpy(own[:, 1])
    frame = torch.from_numpy(pairs.reference_frame[:SHOWN, 0])
    volume, white = lift(pictures.permute(0, 3, 1, 2), elevation, torch.ones(SHOWN), frame), np.ones((SHOWN, 3), np.float32)
    sheet = [torch.from_numpy(over(first, white))]
    for k in range(4):
        azimuth, height = torch.from_numpy(other[:, k, 0] - own[:, 0]), torch.from_numpy(other[:, k, 1])
        cameras = view_cameras(azimuth, height, SIDE)
        drawn = shown(volume, cameras, torch.zeros(SHOWN), torch.from_numpy(white))[:, :3] * 0.5 + 0.5
        true = torch.from_numpy(over(pairs.target[:SHOWN, k], white))
        sheet += [functional.interpolate(drawn, true.shape[1:3]).permute(0, 2, 3, 1).clamp(0, 1), true]
    return found, torch.stack(sheet, dim=1).flatten(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the lift of toybox-view; run the command again to resume.")
    parser.add_argument("--out", type=Path, default=Path("outputs/lift"), help="folder of the run")
    parser.add_argument("--data", type=Path, default=Path("data/view"), help="folder of the rendered pairs")
    parser.add_argument("--init", type=Path, help="folder of a saved lift to begin with")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints")
    add_arguments(parser, LiftTraining())
    arguments = vars(parser.parse_args())
    tune_process()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder, data, device, every, init = (arguments.pop(key) for key in ("out", "data", "device", "save_every", "init"))
    settings = LiftTraining(**arguments)
    save_settings(folder, settings)
    torch.manual_seed(settings.seed)
    lift = Lift()
    if init is not None:
        begin_lift(lift, init)
    lift.to(device)
    unseen = unseen_pairs(data, settings.size)

    def milestone() -> None:
        found, sheet = look(lift, unseen)
        logging.info(json.dumps({k: round(v, 4) for k, v in found.items()}))
        save_grid(folder / "samples.png", sheet, columns=9)
        save_lift(lift, folder / "lift")

    lessons = Lessons(
        partial(load_shards, data, settings.size), lambda pairs, step: draw_lesson(pairs, settings, step),
        partial(lift_loss, lift), milestone,
    )  # fmt: skip
    fit_lessons(settings, lift, make_optimizers(lift, settings.lr), lessons, folder, device, every)


if __name__ == "__main__":
    main()
