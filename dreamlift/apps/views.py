"""The object of a picture from other sides, drawn by a view-conditioned prior: ``dreamlift views photo.png``.

Each view is a sample of its own (Zero-1-to-3, Liu et al. 2023, https://arxiv.org/abs/2303.11328), so that views need not agree
about what the picture does not show; those of one sample begin with the same noise. An asset is made by ``generate --image``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.cameras import orbit_cameras
from dreamlift.export.glb import png_bytes
from dreamlift.export.video import contact_sheet, save_turntable, to_bytes
from dreamlift.images.camera import lifted_elevation, unrecognised
from dreamlift.images.photos import cameras_of, read_photos
from dreamlift.lifting import find_device, ignore
from dreamlift.priors.base import Prior
from dreamlift.priors.choice import as_choice
from dreamlift.priors.engine import Engine, available
from dreamlift.priors.kinds import Located, Priors, find
from dreamlift.priors.saving import Memory
from dreamlift.priors.zero123.encoding import over
from dreamlift.priors.zero123.sampling import sample_cameras
from dreamlift.prompts import NoViews
from dreamlift.reading.photos import ELEVATION_DEG, Photo
from dreamlift.system.files import atomic_write_bytes, atomic_write_text
from dreamlift.types import Cameras, Pictures, Task

MOST = 1000  # views or samples
SHOWN = 128  # least side, in pixels, of a picture in the sheet and the animation
SECONDS = 4.0  # of the animation
RANGE = re.compile(r"(-?\d+(?:\.\d+)?):(-?\d+(?:\.\d+)?):(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True, kw_only=True)
class ViewOrder:
    """What is drawn of a picture."""

    azimuths_deg: tuple[float, ...] = tuple(range(0, 360, 45))  # relative to the picture's camera; grows toward +x
    elevation_deg: float | None = None  # above the horizon, -90 to 90; None: that of the picture's camera
    samples: int = 1  # of each view, at least 1
    seed: int = 0  # of the first sample, 0 to 2^63 - 1; that of the next one is 1 larger
    guidance_scale: float | None = None  # s in uncond + s (cond - uncond), at least 0; None: 1 for pixels, 3 for latents
    steps: int | None = None  # of DDIM, 1 to 1000; None: 20 for pixels, 50 for latents
    show: Literal["color", "place"] = "color"  # place: coordinates of the surface, (x + 1) / 2 on black; toybox-view only
    device: str = "auto"  # auto, cpu, cuda, cuda:1 or mps
    engine: Engine = "auto"  # that runs the network

    def __post_init__(self) -> None:
        if not 1 <= len(self.azimuths_deg) <= MOST or not all(abs(value) <= 36_000 for value in self.azimuths_deg):
            raise ValueError(f"azimuths has {len(self.azimuths_deg)} values; accepted: 1 to {MOST}, of at most 36000 degrees")
        if self.elevation_deg is not None and not -90.0 <= self.elevation_deg <= 90.0:
            raise ValueError(f"elevation is {self.elevation_deg:g}; accepted: -90 to 90 degrees")
        if not 1 <= self.samples <= MOST:
            raise ValueError(f"samples is {self.samples}; accepted: 1 to {MOST}")
        if not 0 <= self.seed < 2**63 - MOST:
            raise ValueError(f"seed is {self.seed}; accepted: 0 to 2^63 - {MOST}")
        if self.guidance_scale is not None and not 0.0 <= self.guidance_scale <= 1000.0:
            raise ValueError(f"guidance_scale is {self.guidance_scale:g}; accepted: 0 to 1000")
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise ValueError(f"steps is {self.steps}; accepted: 1 to 1000")


@dataclass(frozen=True)
class Views:
    """The drawn views of one picture."""

    pictures: Tensor  # (N, V, S, S, 3) in [0, 1]: N samples of V views
    cameras: Cameras  # V, of the views
    reference: Tensor  # (S, S, 3) in [0, 1], what the prior was shown
    order: ViewOrder  # with the guidance scale, steps and elevation that were used
    photo: Photo
    prior: str
    revision: str  # of the prior's weights


def draw_views(
    photo: Photo | str | Path, prior: Any = "toybox-view", order: ViewOrder = ViewOrder(),
    note: Callable[[str], None] = ignore, pool: Priors | None = None,
) -> Views:  # fmt: skip
    """Draw the object of ``photo`` from other sides.

    Args:
        photo: a picture with its camera, or a file.
        prior: a value of ``--prior``, a :class:`~dreamlift.priors.choice.PriorChoice`, or a prior in memory.
        note: receives messages to the user, such as that the picture shows nothing that the prior knows.
        pool: keeps the prior in memory for the next call.

    Raises:
        ValueError: the photo or the prior cannot be used, or the prior reads no pictures.
    """
    photo = photo if isinstance(photo, Photo) else Photo(str(photo))
    located = _located(prior)
    located.check_task(order.show, NoViews(), True)
    device = find_device(order.device)
    engine = available(order.engine, device)
    photo = replace(photo, azimuth_deg=photo.azimuth_deg or 0.0)
    photos = read_photos((photo,), note)
    assert photos.reference is not None
    if text := unrecognised(photos.reference[0], located):
        note(text)
    if photo.elevation_deg is None:
        found = lifted_elevation(photos.reference[0], located)
        photo = replace(photo, elevation_deg=ELEVATION_DEG if found is None else round(found, 1))
        how = "assumed" if found is None else "estimated"
        note(f"the picture's elevation is {how}: {photo.elevation_deg:.0f} degrees above level (--photo-elevation overrides)")
        photos = replace(photos, cameras=cameras_of((photo,), photos.rgb.shape[1]))
    embeds = located.read(Task("", photos=photos), NoViews(), (), device, engine)
    wanted: Engine = order.engine if order.engine != "auto" else "auto" if engine == "onnx" else "torch"
    (loaded,) = (pool or Priors()).take([located], device, Memory(), (wanted,))
    order = _filled(order, loaded, photo)
    cameras = _cameras(photo, order, loaded.resolution)
    pictures = [
        sample_cameras(loaded, embeds, cameras, order.guidance_scale or 0.0, order.steps or 1, order.seed + n, order.show)
        for n in range(order.samples)
    ]
    return Views(
        torch.stack(pictures), cameras, _shown(photos, loaded.resolution), order, photo, located.choice.name, located.revision
    )


def _located(prior: Any) -> Located:
    located = find(as_choice(prior))
    if not located.kind.reads_pictures:
        raise ValueError(
            f"the prior {located.choice.name} is conditioned on words, not on a picture: use toybox-view, zero123, zero123-xl, "
            "stable-zero123, or a folder of their kind"
        )
    return located


def _filled(order: ViewOrder, prior: Prior, photo: Photo) -> ViewOrder:
    """The order with values in place of None: those of the models' own samplers."""
    scale, steps = (1.0, 20) if prior.latent_bound is not None else (3.0, 50)
    return replace(
        order,
        guidance_scale=scale if order.guidance_scale is None else order.guidance_scale,
        steps=order.steps or steps,
        elevation_deg=photo.elevation_deg if order.elevation_deg is None else order.elevation_deg,
    )


def _cameras(photo: Photo, order: ViewOrder, size: int) -> Cameras:
    """The cameras of the views, at the distance and with the field of view of the photo's."""
    azimuth = torch.tensor([math.radians((photo.azimuth_deg or 0.0) + value) for value in order.azimuths_deg])
    ones = torch.ones_like(azimuth)
    elevation, fov = math.radians(order.elevation_deg or 0.0), math.radians(photo.fov_deg)
    return orbit_cameras(azimuth, ones * elevation, ones * photo.distance, ones * fov, size)


def _shown(photos: Pictures, size: int) -> Tensor:
    """The reference ``(size, size, 3)`` over white."""
    small = functional.interpolate(over(photos.references[:1], (1.0, 1.0, 1.0)), (size, size), mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).clamp(0, 1)


def save_views(views: Views, folder: Path) -> list[Path]:
    """Write the pictures, ``sheet.png`` (a row per sample, after the picture that was shown), an animation of each sample,
    and ``views.json``; returns the files. ``folder`` exists."""
    order, paths = views.order, []
    several = len(views.pictures) > 1
    for n, row in enumerate(views.pictures):
        suffix = f"-sample{n}" if several else ""
        for index, (azimuth, picture) in enumerate(zip(order.azimuths_deg, to_bytes(row), strict=True)):
            paths.append(folder / f"view-{index:02d}-{azimuth:g}{suffix}.png")
            atomic_write_bytes(paths[-1], png_bytes(picture))
        if len(row) > 1:
            paths.append(folder / f"turning{suffix}.webp")
            save_turntable(enlarged(row), paths[-1], fps=max(1.0, len(row) / SECONDS))
    rows = [torch.cat([views.reference[None], row]) for row in views.pictures]
    paths.append(folder / "sheet.png")
    atomic_write_bytes(paths[-1], contact_sheet(enlarged(torch.cat(rows)), columns=1 + views.pictures.shape[1]))
    about = {"prior": views.prior, "prior_revision": views.revision, "photo": asdict(views.photo), **asdict(order),
             "files": [path.name for path in paths]}  # fmt: skip
    paths.append(folder / "views.json")
    atomic_write_text(paths[-1], json.dumps(about, indent=2) + "\n")
    return paths


def enlarged(pictures: Tensor) -> Tensor:
    """Pictures ``(B, S, S, 3)`` whose sides are multiplied by a whole number to at least :data:`SHOWN` pixels."""
    factor = -(-SHOWN // pictures.shape[1])
    if factor <= 1:
        return pictures
    larger = functional.interpolate(pictures.permute(0, 3, 1, 2), scale_factor=factor, mode="bicubic", align_corners=False)
    return larger.permute(0, 2, 3, 1).clamp(0, 1)


def parse_azimuths(text: str) -> tuple[float, ...]:
    """Degrees from "0:360:45" (first, end, step; the end is left out) or "0,90,180".

    Raises:
        ValueError: another form.
    """
    match = RANGE.fullmatch(text.strip())
    if match is None:
        try:
            return tuple(float(part) for part in text.split(","))
        except ValueError:
            raise ValueError(f"--azimuths is {text[:40]!r}; accepted: degrees such as 0:360:45 or 0,90,180") from None
    first, end, step = (float(part) for part in match.groups())
    count = math.ceil((end - first) / step - 1e-9) if step else 0
    if not 1 <= count <= MOST:
        raise ValueError(f"--azimuths {text} has no values or more than {MOST}; accepted: from:to:step, such as 0:360:45")
    return tuple(first + index * step for index in range(count))
