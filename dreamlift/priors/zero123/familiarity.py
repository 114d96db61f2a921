"""How well a prior knows the object of a picture: whether it draws the picture itself.

Asked for the picture's own camera (daz = 0), a view-conditioned prior has the answer before it. For objects like those that it
was trained on, its answer is the picture; for others it draws something that it knows instead. The measure is the PSNR between
both inside the union of their masks, without guidance, after the picture's bounding box is brought onto the answer's, since a
prior's answers may lie in a frame of their own. A picture that is drawn well may still get a wrong back: this only warns.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.cameras import mask_box
from dreamlift.priors.base import Prior
from dreamlift.priors.files.folder import read_json
from dreamlift.priors.parts import FolderParts, Parts
from dreamlift.priors.zero123.embeds import BACKDROPS
from dreamlift.priors.zero123.sampling import latent_shape, sample
from dreamlift.prompts import Backdrop, NoViews
from dreamlift.system.streams import random_stream
from dreamlift.types import Pictures, Task

LIMIT = "familiarity.json"  # in a prior's folder: {"least_db": 17.0}; without it nothing is said of a picture
DIFFERENT = 0.08  # largest difference of a channel from the backdrop below which a pixel is background
STEPS, SEEDS = 8, 4


@torch.no_grad()
def familiarity(prior: Prior, photos: Pictures, seeds: int = SEEDS, steps: int = STEPS) -> float:
    """PSNR in dB, the mean over ``seeds`` answers, of the prior's own answer at the first photo's camera; 0 if it is blank.

    ``seeds`` times ``steps`` predictions. Needs a prior that reads pictures, and photos with cameras.
    """
    if photos.cameras is None:
        raise ValueError("the camera of the photo is not known: state its elevation")
    rgba = photos.references[:1].to(prior.device)
    color = _contrasting(rgba) if prior.latent_bound is not None else BACKDROPS[0]
    one = Pictures(rgba[..., :3], rgba[..., 3:], photos.cameras[:1], reference=rgba)
    embeds = prior.embeds(Task("", photos=one), NoViews(), (Backdrop(color=color),))
    shape = (1, *latent_shape(prior))
    noise = torch.cat([torch.randn(shape, generator=random_stream("familiarity", seed)) for seed in range(seeds)])
    cond = embeds.at(photos.cameras[torch.zeros(seeds, dtype=torch.long)].to(prior.device), [Backdrop(color=color)] * seeds)
    answers = prior.decode(sample(prior, noise, cond, 1.0, steps)).float()
    return sum(_agreement(answer, rgba[0], torch.tensor(color).to(answer)) for answer in answers) / seeds


def unfamiliar(prior: Prior, photos: Pictures) -> str:
    """A warning, one line, if the picture lies outside of what the prior knows; "" if it does not, or nobody has measured."""
    parts: Parts | None = getattr(prior, "parts", None)
    least = least_db(parts.folder) if isinstance(parts, FolderParts) else None
    if least is None or (found := familiarity(prior, photos)) >= least:
        return ""
    return (
        f"the picture is unlike those that this prior was trained on (drawn with {found:.1f} dB; usual: {least:g} or more): "
        "expect wrong other sides; --prior zero123-xl and stable-zero123 know more of the world (on a GPU)"
    )


def least_db(folder: Path) -> float | None:
    """The least usual familiarity that a prior's folder states, dB; None if it states none."""
    file = folder / LIMIT
    found = read_json(file).get("least_db") if file.is_file() else None
    return float(found) if isinstance(found, (int, float)) else None


def _contrasting(rgba: Tensor) -> tuple[float, float, float]:
    """The backdrop that differs most from the object's colors ``rgba (1, S, S, 4)``, in its least different tenth."""
    colors = rgba[0, ..., :3][rgba[0, ..., 3] > 0.5]
    if not len(colors):
        return BACKDROPS[0]
    far = [(colors - torch.tensor(each).to(colors)).abs().amax(-1).quantile(0.1).item() for each in BACKDROPS]
    return BACKDROPS[far.index(max(far))]


def _agreement(answer: Tensor, rgba: Tensor, color: Tensor) -> float:
    """PSNR, dB, of ``answer (S, S, 3)`` over ``color`` and the picture ``rgba (R, R, 4)``, brought onto its bounding box."""
    mask = ((answer - color).abs().amax(-1) > DIFFERENT).float()
    boxes = [_box(values) for values in (mask, rgba[..., 3])]
    if None in boxes:
        return 0.0
    (center, side), (own, own_side) = boxes  # pyright: ignore[reportGeneralTypeIssues]
    size, scale = len(answer), own_side / side
    axis = (torch.arange(size, device=answer.device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid((axis - center[0]) * scale + own[0], (axis - center[1]) * scale + own[1], indexing="ij")
    values = torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], dim=-1).permute(2, 0, 1)[None]
    small = functional.interpolate(values, (max(size, 1),) * 2, mode="bilinear", antialias=True, align_corners=False)
    placed = functional.grid_sample(small, torch.stack([x, y], dim=-1)[None], align_corners=False)[0].permute(1, 2, 0)
    inside = (mask > 0.5) | (placed[..., 3] > 0.5)
    error = (placed[..., :3] + (1 - placed[..., 3:]) * color - answer)[inside].square().mean()
    return -10 * math.log10(max(float(error), 1e-6))


def _box(mask: Tensor) -> tuple[tuple[float, float], float] | None:
    """Center (y, x) and longest side of a mask ``(S, S)`` in coordinates from -1 to 1; None if it is empty."""
    found = mask_box(mask > 0.5)
    if found is None:
        return None
    low, high = (2.0 * corner / len(mask) - 1.0 for corner in found)
    x, y = (0.5 * (low + high)).tolist()
    return (y, x), float((high - low).max())
