"""The photometric term: the error of renders from the cameras of known pictures.

    L = rgb mean |m C + (1 - m) B - R|^2 + mask mean |A - m|^2 + depth (1 - r) + normal mean_m (1 - <n, N>)

C, m, N, D are the pictures' colours, masks, normals and depths; R, A, n, d those of the render over the background B; r is
Pearson's correlation of d and D inside the mask, which is invariant to the unknown scale and shift of estimated depth. The
default weights are those of threestudio's ``magic123-coarse-sd.yaml``; its ``zero123.yaml`` has rgb 500 and mask 50, the
official Magic123 5 and 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamlift.cameras import rescaled
from dreamlift.schedules import Schedule, value_at
from dreamlift.types import Cameras, Pictures, RenderOutput


@dataclass(frozen=True)
class Photometric:
    """Weights of the terms that compare renders with known pictures."""

    source: Literal["photos", "handover"] = "photos"  # reference pictures: the user's photos, or those of the previous stage
    rgb: float | Schedule = 1000.0  # weight of the mean squared error of the colors (sRGB in [0, 1]); 0: off
    mask: float | Schedule = 100.0  # weight of the mean squared error of the opacity against the mask; 0: off
    depth: float | Schedule = 0.0  # weight of 1 - Pearson correlation of the depths inside the mask; 0: off
    normal: float | Schedule = 0.0  # weight of the mean of 1 - cosine between the normals inside the mask; 0: off
    views: int = 1  # pictures compared per step, at least 1, drawn without replacement
    resolution: int = 64  # width of the compared renders, pixels, at least 1
    every: int = 1  # steps between comparisons, at least 1

    def __post_init__(self) -> None:
        for name in ("views", "resolution", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("rgb", "mask", "depth", "normal"):
            if min(value_at(getattr(self, name), i / 100) for i in range(101)) < 0:
                raise ValueError(f"{name} becomes negative; it must be 0 or more at all times")

    def ever(self, *names: str) -> bool:
        """Whether one of these terms has a weight at some time of a run (101 times are tried)."""
        return any(value_at(getattr(self, name), i / 100) != 0.0 for name in names for i in range(101))

    def needs_normals(self, progress: float) -> bool:
        """Whether the normals have a weight at ``progress``."""
        return value_at(self.normal, progress) != 0.0


def chosen(pictures: Pictures, settings: Photometric, rng: torch.Generator) -> tuple[Pictures, Cameras]:
    """The reference pictures of one step, at the settings' resolution, and their cameras.

    Raises:
        ValueError: the pictures have no cameras.
    """
    if pictures.cameras is None:
        raise ValueError("the photometric term needs pictures with known cameras")
    index = torch.randperm(len(pictures.rgb), generator=rng)[: settings.views]
    cameras = pictures.cameras
    some = Cameras(
        cameras.c2w[index], cameras.K[index], cameras.width, cameras.height, cameras.azimuth[index], cameras.elevation[index],
        cameras.distance[index],
    )  # fmt: skip
    some = rescaled(some, settings.resolution / cameras.width)
    size = (some.height, some.width)
    mask = pictures.alpha[index]
    alpha = _resized(mask, size)

    def inside(values: Tensor) -> Tensor:
        # Averages use pixels inside the mask only: values outside it are black, 0 or infinite.
        return _resized(torch.where(mask > 0, values[index], 0.0) * mask, size) / alpha.clamp_min(1e-6)

    depth, normal = (None if values is None else inside(values) for values in (pictures.depth, pictures.normal))
    return Pictures(inside(pictures.rgb), alpha, some, depth, normal), some


def compare(
    render: RenderOutput, backdrop: Tensor, wanted: Pictures, settings: Photometric, progress: float
) -> dict[str, Tensor]:
    """The weighted terms () of a render over ``backdrop (B, 3)`` compared with the pictures ``wanted``, by name."""
    rgb = wanted.rgb * wanted.alpha + (1 - wanted.alpha) * backdrop[:, None, None]
    terms = {"rgb": (render.rgb - rgb).square().mean(), "mask": (render.opacity - wanted.alpha).square().mean()}
    inside = wanted.alpha > 0.5
    if wanted.depth is not None and bool(inside.any()):
        terms["depth"] = 1.0 - pearson(render.depth[inside], wanted.depth[inside])
    if wanted.normal is not None and render.normal is not None and bool(inside.any()):
        cosine = torch.nn.functional.cosine_similarity(render.normal, wanted.normal, dim=-1)
        terms["normal"] = 1.0 - cosine[inside[..., 0]].mean()
    weights = {name: value_at(getattr(settings, name), progress) for name in terms}
    return {f"photo_{name}": weights[name] * value for name, value in terms.items() if weights[name] != 0.0}


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation () of two vectors ``(N,)``; 0 where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-8)


def _resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, H, W, C)`` to ``(B, *size, C)``, by area."""
    if values.shape[1:3] == size:
        return values
    return torch.nn.functional.interpolate(values.movedim(-1, 1), size, mode="area").movedim(1, -1)
