"""The photometric term: the error of renders from the cameras of known pictures.

    L = rgb mean |m C + (1 - m) B - R|^2 + mask mean e(A, m) + depth (1 - r) + normal mean_m (1 - <n, N>)

C, m, N, D are the pictures' colours, masks, normals and depths; R, A, n, d those of the render over the background B. e(A, m)
is (A - m)^2 or the cross-entropy -m log A - (1 - m) log(1 - A); r is Pearson's correlation of d and D inside the mask, which is
invariant to the unknown scale and shift of estimated depth. The default weights are those of threestudio's
``magic123-coarse-sd.yaml``, where e is the cross-entropy; in its ``zero123.yaml`` and in the official Magic123 e is the square,
with rgb 500 and mask 50, and 5 and 0.5.

By default every step both compares and asks the teachers (threestudio's ``zero123.yaml``). With ``alone`` a comparison takes
the place of the teachers: ``every`` 4 in stable-dreamfusion and Magic123, with ``first`` 100 in the latter; 2 in DreamCraft3D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamlift.cameras import rescaled
from dreamlift.scenes.base import Scene
from dreamlift.schedules import Schedule, value_at
from dreamlift.types import Cameras, Handover, Pictures, RenderOutput, Task


@dataclass(frozen=True)
class Photometric:
    """Weights of the terms that compare renders with known pictures."""

    source: Literal["photos", "handover"] = "photos"  # reference pictures: the user's photos, or those of the previous stage
    rgb: float | Schedule = 1000.0  # weight of the mean squared error of the colors (sRGB in [0, 1]); 0: off
    mask: float | Schedule = 100.0  # weight of the error of the opacity against the mask; 0: off
    # that error: the mean square, or the binary cross-entropy of the opacity, within 1e-5 and 1 - 1e-5 (threestudio's Magic123)
    mask_loss: Literal["square", "cross_entropy"] = "square"
    depth: float | Schedule = 0.0  # weight of 1 - Pearson correlation of the depths inside the mask; 0: off
    normal: float | Schedule = 0.0  # weight of the mean of 1 - cosine between the normals inside the mask; 0: off
    views: int = 1  # pictures compared per step, at least 1, drawn without replacement
    # width of the compared renders, pixels, at least 1; several values are used in turn, each for an equal part of the stage
    resolution: tuple[int, ...] = (64,)
    every: int = 1  # steps between comparisons, at least 1
    first: int = 0  # first steps of the stage in which renders are compared and no teacher is asked, at least 0
    alone: bool = False  # true: in steps with a comparison no teacher is asked, and no other view is rendered
    # behind the render and the picture: one random color per picture; a random color per pixel (stable-dreamfusion); or white
    # (threestudio, DreamGaussian), which semi-transparent density could imitate
    backdrop: Literal["random", "pixels", "white"] = "random"
    erode: int = 0  # pixels of the mask's border whose colors are not compared, at least 0 (Magic123's fine stage: rm_edge)
    regularize: bool = False  # true: also weight the scene's regularizers on the compared render, except sparsity (threestudio)

    def __post_init__(self) -> None:
        for name in ("views", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("first", "erode"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not self.resolution or min(self.resolution) < 1:
            raise ValueError(f"resolution is {list(self.resolution)}; give one or several widths of at least 1 pixel")
        if self.alone and self.every == 1:
            raise ValueError("alone with every 1 leaves no step for the teachers; set every to 2 or more, or alone to false")
        for name in ("rgb", "mask", "depth", "normal"):
            if min(value_at(getattr(self, name), i / 100) for i in range(101)) < 0:
                raise ValueError(f"{name} becomes negative; it must be 0 or more at all times")

    def ever(self, *names: str) -> bool:
        """Whether one of these terms has a weight at some time of a run (101 times are tried)."""
        return any(value_at(getattr(self, name), i / 100) != 0.0 for name in names for i in range(101))

    def check_pictures(self, pictures: Pictures) -> None:
        """Raise ValueError if the pictures lack the cameras, the depth or the normals that a term needs."""
        if pictures.cameras is None:
            raise ValueError("the photometric term needs pictures with known cameras")
        for name in ("depth", "normal"):
            if self.ever(name) and getattr(pictures, name) is None:
                raise ValueError(f"photometric.{name} has a weight, but the pictures have no {name}; set it to 0")

    def needs_normals(self, progress: float) -> bool:
        """Whether the normals have a weight at ``progress``."""
        return value_at(self.normal, progress) != 0.0

    def compares(self, own: int) -> bool:
        """Whether step ``own`` of a particle, counted from 0, has a comparison."""
        return own < self.first or own % self.every == 0

    def replaces_teachers(self, own: int) -> bool:
        """Whether step ``own`` of a particle, counted from 0, has a comparison and nothing else."""
        return own < self.first or (self.alone and own % self.every == 0)

    def behind(self, cameras: Cameras, rng: torch.Generator) -> Tensor:
        """The background ``(B, 3)`` or ``(B, H, W, 3)`` of a step's pictures."""
        if self.backdrop == "white":
            return torch.ones(len(cameras), 3)
        between = (cameras.height, cameras.width) if self.backdrop == "pixels" else ()
        return torch.rand(len(cameras), *between, 3, generator=rng)


@dataclass
class Comparison:
    """A render from the cameras of reference pictures, and its weighted terms () by name."""

    cameras: Cameras
    render: RenderOutput
    terms: dict[str, Tensor]


def pictures_of(settings: Photometric, task: Task, handover: Handover, device: torch.device) -> Pictures:
    """The reference pictures on ``device``.

    Raises:
        ValueError: there are none, they have no cameras, or they lack the depth or the normals of a weighted term.
    """
    found = task.photos if settings.source == "photos" else handover.pictures
    if found is None:
        raise ValueError(f"there are no pictures to compare with (photometric.source {settings.source})")
    settings.check_pictures(found)
    values = [None if v is None else v.to(device) for v in (found.rgb, found.alpha, found.depth, found.normal)]
    return Pictures(values[0], values[1], found.cameras, values[2], values[3])  # pyright: ignore[reportArgumentType]


def compare_render(
    scene: Scene, pictures: Pictures, settings: Photometric, progress: float, rng: torch.Generator, normals: bool
) -> Comparison:
    """Render a step's reference views and compare. ``normals``: also render normals that no term here needs."""
    wanted, cameras = chosen(pictures, settings, rng, progress)
    backdrop = settings.behind(cameras, rng).to(wanted.rgb.device)
    normals = normals or settings.needs_normals(progress)
    render = scene.render(cameras.to(wanted.rgb.device), rng, background=backdrop, progress=progress, normals=normals)
    return Comparison(cameras, render, compare(render, backdrop, wanted, settings, progress))


def chosen(pictures: Pictures, settings: Photometric, rng: torch.Generator, progress: float = 0.0) -> tuple[Pictures, Cameras]:
    """The reference pictures of one step, at the resolution of ``progress``, and their cameras.

    Raises:
        ValueError: the pictures have no cameras.
    """
    if pictures.cameras is None:
        raise ValueError("the photometric term needs pictures with known cameras")
    index = torch.randperm(len(pictures.rgb), generator=rng)[: settings.views]
    cameras = pictures.cameras
    rung = min(int(progress * len(settings.resolution)), len(settings.resolution) - 1)
    some = rescaled(cameras[index], settings.resolution[rung] / cameras.width)
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
    """The weighted terms () of a render over ``backdrop (B, 3)`` or ``(B, H, W, 3)``, compared with ``wanted``, by name."""
    behind = backdrop[:, None, None] if backdrop.dim() == 2 else backdrop
    rgb = wanted.rgb * wanted.alpha + (1 - wanted.alpha) * behind
    error = (render.rgb - rgb).square()
    if settings.erode:
        error = error * away_from_edge(wanted.alpha, settings.erode)
    terms = {"rgb": error.mean(), "mask": mask_error(render.opacity, wanted.alpha, settings.mask_loss)}
    inside = wanted.alpha > 0.5
    if wanted.depth is not None and bool(inside.any()):
        terms["depth"] = 1.0 - pearson(render.depth[inside], wanted.depth[inside])
    if wanted.normal is not None and render.normal is not None and bool(inside.any()):
        cosine = torch.nn.functional.cosine_similarity(render.normal, wanted.normal, dim=-1)
        terms["normal"] = 1.0 - cosine[inside[..., 0]].mean()
    weights = {name: value_at(getattr(settings, name), progress) for name in terms}
    return {f"photo_{name}": weights[name] * value for name, value in terms.items() if weights[name] != 0.0}


def mask_error(opacity: Tensor, mask: Tensor, kind: Literal["square", "cross_entropy"]) -> Tensor:
    """The mean error () of an opacity ``(B, H, W, 1)`` against the mask."""
    if kind == "square":
        return (opacity - mask).square().mean()
    return torch.nn.functional.binary_cross_entropy(opacity.clamp(1e-5, 1.0 - 1e-5), mask)


def away_from_edge(alpha: Tensor, width: int) -> Tensor:
    """0 on the mask's border of ``width`` pixels and on transparent pixels, else 1, ``(B, H, W, 1)`` of ``alpha (B, H, W, 1)``.

    The colours there mix with what was behind the object when the picture was taken.
    """
    # Padded by the edge's own values: an object that the frame cuts off has no border there.
    padded = torch.nn.functional.pad(alpha.movedim(-1, 1), (width,) * 4, mode="replicate")
    inner = -torch.nn.functional.max_pool2d(-padded, 2 * width + 1, stride=1).movedim(1, -1)
    return ((alpha <= 0.0) | (inner > 0.5)).to(alpha)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation () of two vectors ``(N,)``; 0 where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-8)


def _resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, H, W, C)`` to ``(B, *size, C)``, by area."""
    if values.shape[1:3] == size:
        return values
    return torch.nn.functional.interpolate(values.movedim(-1, 1), size, mode="area").movedim(1, -1)
