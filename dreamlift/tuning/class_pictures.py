"""Pictures of the class for prior preservation, drawn by the prior itself or given, kept in a folder with their cameras.

Each picture has its own noise, backdrop, camera and prompt, which follow from the seed and its number, so that an interrupted
drawing is continued. Priors that are told cameras draw all sides; the others draw what their prompt says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamlift.cameras import orbit_cameras
from dreamlift.priors.base import Prior
from dreamlift.priors.zero123.sampling import latent_shape, sample
from dreamlift.prompts import Backdrop, compass_words
from dreamlift.system.files import atomic_write_bytes, atomic_write_text
from dreamlift.system.streams import random_stream
from dreamlift.types import Cameras, Conditioning, Counted, TextStates

LISTED = "pictures.json"
ELEVATIONS_DEG = (-10.0, 45.0)
DISTANCE, FOV_DEG = 2.6, 45.0
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
GUIDANCE = {True: (3.0, 20), False: (7.5, 50)}  # guidance scale and steps: of embedded priors, of large ones


@dataclass(frozen=True)
class ClassPicture:
    """One picture of the class."""

    file: str
    prompt: str
    azimuth_deg: float | None = None  # None: it was drawn without a camera
    elevation_deg: float | None = None

    @property
    def camera(self) -> tuple[float, float] | None:
        """Azimuth and elevation in radians."""
        if self.azimuth_deg is None or self.elevation_deg is None:
            return None
        return math.radians(self.azimuth_deg), math.radians(self.elevation_deg)


@dataclass(frozen=True, kw_only=True)
class ClassOrder:
    """What the prior draws."""

    prompts: tuple[str, ...]
    count: int
    seed: int
    backdrops: tuple[Backdrop, ...]
    turned: bool  # from all sides: the prior is told a camera for each
    view_words: bool  # half of the prompts also name the side
    quick: bool  # few sampling steps, for the embedded priors


def planned(order: ClassOrder) -> list[ClassPicture]:
    """The pictures of an order; the azimuths are spread evenly."""
    found = []
    for index in range(order.count):
        rng = random_stream("class", order.seed, index)
        draws = torch.rand(4, generator=rng).tolist()
        prompt = order.prompts[index % len(order.prompts)]
        backdrop = order.backdrops[int(draws[0] * len(order.backdrops))]
        said = ", ".join(part for part in (prompt, backdrop.words) if part)
        azimuth = elevation = None
        if order.turned:
            turn = (index * 0.6180339887 + random_offset(order.seed)) % 1.0  # the golden ratio: even for any count
            azimuth = round(360.0 * turn - 180.0, 1)
            elevation = round(ELEVATIONS_DEG[0] + draws[1] * (ELEVATIONS_DEG[1] - ELEVATIONS_DEG[0]), 1)
            if order.view_words and draws[2] < 0.5:
                said += f", {compass_words(math.radians(azimuth), math.radians(elevation))}"
        found.append(ClassPicture(f"{index:04d}.png", said, azimuth, elevation))
    return found


def random_offset(seed: int) -> float:
    """Where the azimuths begin, in [0, 1)."""
    return float(torch.rand((), generator=random_stream("class", seed)))


def draw_class(
    prior: Prior, order: ClassOrder, folder: Path, batch: int = 4
) -> Generator[Counted, None, list[ClassPicture]]:  # fmt: skip
    """Draw the missing pictures of ``folder``; yields what is finished, and returns all of them."""
    wanted = planned(order)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [first for first in range(0, len(wanted), batch)
               if not all((folder / each.file).is_file() for each in wanted[first : first + batch])]  # fmt: skip
    if missing:
        prompts = list(dict.fromkeys(each.prompt for each in wanted))
        text = dict(zip([*prompts, ""], split(prior.embed_text([*prompts, ""])), strict=True))
    for first in missing:
        some = wanted[first : first + batch]
        noise = [random_stream("class noise", order.seed, first + n) for n in range(len(some))]
        for each, picture in zip(some, draw(prior, some, text, noise, order.quick), strict=True):
            save_picture(picture, folder / each.file)
        yield Counted("class picture", min(first + batch, len(wanted)) - 1, len(wanted))
    atomic_write_text(folder / LISTED, json.dumps([asdict(each) for each in wanted], indent=1) + "\n")
    return wanted


def split(text: TextStates) -> list[TextStates]:
    """The states of each prompt, ``(1, L, D)`` and ``(1, P)``."""
    pooled = [None] * len(text.states) if text.pooled is None else text.pooled.split(1)
    return [TextStates(*pair) for pair in zip(text.states.split(1), pooled, strict=True)]


@torch.no_grad()
def draw(
    prior: Prior, pictures: Sequence[ClassPicture], text: Mapping[str, TextStates], noise: Sequence[torch.Generator],
    quick: bool,
) -> Tensor:  # fmt: skip
    """The pictures ``(B, S, S, 3)`` in [0, 1], each from its own ``noise``; ``text``: states of all prompts and of ""."""
    shape, (scale, steps) = latent_shape(prior), GUIDANCE[quick]
    start = torch.stack([torch.randn(shape, generator=rng) for rng in noise])
    wanted, empty = [text[each.prompt] for each in pictures], [text[""]] * len(pictures)
    states = [torch.cat([each.states for each in some]).to(prior.device) for some in (wanted, empty)]
    pooled = [torch.cat([each.pooled for each in some if each.pooled is not None]).to(prior.device)
              if text[""].pooled is not None else None for some in (wanted, empty)]  # fmt: skip
    cond = Conditioning(
        *states, cameras=cameras_of(pictures, prior), pooled_prompt_embeds=pooled[0], negative_pooled_prompt_embeds=pooled[1]
    )
    return prior.decode(sample(prior, start, cond, scale, steps)).float().cpu()


def cameras_of(pictures: Sequence[ClassPicture], prior: Prior) -> Cameras | None:
    """The cameras of pictures that all have one; otherwise None."""
    known = [each.camera for each in pictures if each.camera is not None]
    if len(known) != len(pictures) or not known:
        return None
    azimuth, elevation = torch.tensor(known, dtype=torch.float32).T
    ones = torch.ones_like(azimuth)
    return orbit_cameras(azimuth, elevation, ones * DISTANCE, ones * math.radians(FOV_DEG), prior.resolution).to(prior.device)


def listed_pictures(folder: Path, prompt: str) -> list[ClassPicture]:
    """The pictures in a folder: those of its list, or else all picture files with one ``prompt`` and no cameras.

    Raises:
        ValueError: it has none, or its list is damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r} of class pictures")
    listing = folder / LISTED
    if listing.is_file():
        try:
            found = [ClassPicture(**entry) for entry in json.loads(listing.read_text(encoding="utf-8"))]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{str(listing)!r} is no list of class pictures ({error}): remove it, or restore it") from None
    else:
        files = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        found = [ClassPicture(name, prompt) for name in files]
    if not found:
        raise ValueError(f"the folder {str(folder)!r} has no pictures: give --class-pictures another one, or leave it out")
    return found


def save_picture(picture: Tensor, path: Path) -> None:
    """Write ``picture (S, S, 3)`` in [0, 1] as PNG."""
    from dreamlift.export.glb import png_bytes

    atomic_write_bytes(path, png_bytes((picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()))


def square(picture: np.ndarray, side: int) -> Tensor:
    """The central square of a picture ``(H, W, 3)`` uint8, resampled: ``(side, side, 3)`` in [0, 1]."""
    from PIL import Image

    height, width = picture.shape[:2]
    size = min(height, width)
    left, top = (width - size) // 2, (height - size) // 2
    image = Image.fromarray(np.ascontiguousarray(picture[top : top + size, left : left + size]))
    small = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))
    return torch.from_numpy(small.astype(np.float32) / 255.0)
