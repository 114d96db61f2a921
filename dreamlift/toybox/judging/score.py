"""Scores of an asset: the judge classifies its renders, and its shape is compared with things of the toybox.

R-precision as in DreamFusion (Poole et al. 2022, section 4.1), with the judge in place of CLIP: the share of the views whose
most probable category (or colour) is that of the prompt. "Textureless" views show the shape only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from dreamlift.cameras import turntable
from dreamlift.meshing.geometry import face_areas
from dreamlift.texturing.draw import render_mesh
from dreamlift.toybox.judging.judge import SIZE, Judge, Verdict, Wanted, azimuth_error_deg
from dreamlift.toybox.world.render import render
from dreamlift.toybox.world.things import COLORS, FIT_RADIUS, Thing
from dreamlift.toybox.world.truth import is_asymmetric, surface_of
from dreamlift.types import Cameras, Mesh, Shading

VIEWS = 8  # views for precision, azimuth and shape
JANUS_VIEWS = 36
FOV_DEG, ELEVATION_DEG = 47.0, 20.0  # near the middle of the toybox's ranges
MEMBERS = 12  # things of a category with which a shape is compared
POINTS = 2000  # points on each surface, for the Chamfer distance
BACKGROUNDS = ((0.86, 0.88, 0.90), (0.42, 0.45, 0.50))
COLORFUL = 0.1  # least mean saturation of the reference for a saturation ratio; on grey things the ratio is meaningless
APART = 0.45  # least distance in RGB between a colour and its background


@dataclass(frozen=True)
class Score:
    """Scores of one asset. Shares are over its views, in [0, 1]; NaN where the prompt or the category defines no value."""

    category: float  # share of the views with the right category
    color: float  # share of the views with the right colour
    both: float  # share of the views with both right
    category_textureless: float  # share of the textureless views with the right category
    azimuth_error_deg: float  # median over the views; asymmetric categories only
    front_from_behind: float  # share of the three rear views that the judge classifies as front
    janus: float  # 1 if :func:`has_two_fronts` over 36 views, else 0
    saturation: float  # mean saturation relative to the reference thing, 1 is ideal; references with some saturation only
    silhouette_iou: float  # with the best-fitting thing of the category, mean over the views
    chamfer: float  # symmetric mean surface distance to that thing; the asset's radius is 0.85


@dataclass(frozen=True)
class Scored:
    """A score, with the renders and predictions that it was computed from."""

    score: Score
    pictures: Tensor  # (8, 64, 64, 3) sRGB in [0, 1]
    textureless: Tensor  # (8, 64, 64, 3)
    seen_as: tuple[str, ...]  # predicted category per view
    embedding: Tensor  # (8, E) of the pictures, unit length


def score_mesh(mesh: Mesh, wanted: Wanted, judge: Judge) -> Scored:
    """Score ``mesh``, centred and scaled like the toybox's things.

    Raises:
        EmptySceneError, ValueError: the mesh is empty or malformed.
    """
    mesh, cameras = fitted(mesh), around(VIEWS)
    backdrop = background_for(wanted.color)
    colored = render_mesh(mesh, cameras, torch.tensor(backdrop))
    grey = render_mesh(mesh, cameras, torch.tensor(backdrop), clay_light(cameras))
    verdict, bare = judge.judge(colored.rgb), judge.judge(grey.rgb)
    spin = around(JANUS_VIEWS)
    whole = judge.judge(render_mesh(mesh, spin, torch.tensor(backdrop), supersample=1).rgb)
    nan = math.nan
    score = Score(nan, nan, nan, nan, nan, nan, nan, nan, nan, nan)
    if wanted.category in judge.categories:
        own = judge.categories.index(wanted.category)
        score = _judged(score, wanted, own, verdict, bare, whole, cameras.azimuth)
        score = _compared(score, wanted, mesh, colored.rgb, colored.opacity)
    elif wanted.color:
        score = replace(score, color=_share(_is_color(verdict, wanted.color)))
    names = tuple(judge.categories[int(i)] for i in verdict.category.argmax(dim=1))
    return Scored(score, colored.rgb, grey.rgb, names, verdict.embedding)


def _judged(score: Score, wanted: Wanted, own: int, verdict: Verdict, bare: Verdict, whole: Verdict, azimuth: Tensor) -> Score:
    """``score`` with the values from the judge; ``own``: index of the wanted category; ``azimuth (8,)``: of the cameras."""
    named = verdict.category.argmax(dim=1) == own
    score = replace(score, category=_share(named), category_textureless=_share(bare.category.argmax(dim=1) == own))
    if wanted.color:
        colored = _is_color(verdict, wanted.color)
        score = replace(score, color=_share(colored), both=_share(colored & named))
    if is_asymmetric(wanted.category):
        behind = rear(azimuth)
        score = replace(
            score,
            azimuth_error_deg=float(azimuth_error_deg(verdict.azimuth, azimuth).median()),
            front_from_behind=_share(verdict.front[behind] > 0.5),
            janus=float(has_two_fronts(whole.front)),
        )
    return score


def named_in_clay(mesh: Mesh, category: str, judge: Judge, elevation_deg: float) -> float:
    """The share, in [0, 1], of eight views without texture in which the judge names the category of a ``fitted`` mesh.

    NaN where the judge does not know the category.
    """
    if category not in judge.categories:
        return math.nan
    views = around(VIEWS, elevation_deg)
    seen = judge.judge(render_mesh(mesh, views, torch.tensor(BACKGROUNDS[0]), clay_light(views)).rgb)
    return _share(seen.category.argmax(dim=1) == judge.categories.index(category))


def _compared(score: Score, wanted: Wanted, mesh: Mesh, pictures: Tensor, opacity: Tensor) -> Score:
    """``score`` with the values from the comparison with things of the category."""
    outline = opacity[..., 0] > 0.5
    members = _members(replace(wanted, color=wanted.color or "red"))
    overlaps = [_iou(outline, member.outline) for member in members]
    best = members[int(np.argmax(overlaps))]
    score = replace(score, silhouette_iou=max(overlaps), chamfer=chamfer(sample_surface(mesh), best.surface()))
    if wanted.color and best.saturation > COLORFUL:
        score = replace(score, saturation=_saturation(pictures[outline]) / best.saturation)
    return score


def rear(azimuth: Tensor) -> Tensor:
    """Which of these ``azimuth (N,)`` are behind: three of eight evenly spaced ones."""
    return azimuth.cos() < -0.5


def has_two_fronts(front: Tensor) -> bool:
    """Whether the front appears twice, more than 90 degrees apart, or over more than half a turn.

    ``front (N,)`` are probabilities at evenly spaced azimuths. Runs of consecutive views with a probability above 0.5 count as
    one front; distances are between the middles of the runs.
    """
    count, called = len(front), (front > 0.5).tolist()
    if all(called) or not any(called):
        return all(called)
    begin = called.index(False)  # no run extends over this view
    runs: list[list[int]] = []
    for i in range(begin, begin + count):
        if called[i % count]:
            runs = [*runs[:-1], [*runs[-1], i]] if runs and runs[-1][-1] == i - 1 else [*runs, [i]]
    middles = [0.5 * (run[0] + run[-1]) for run in runs]
    gaps = [min(abs(a - b), count - abs(a - b)) for a in middles for b in middles]
    return max(gaps) > count / 4 or max(len(run) for run in runs) > count / 2


def embed_mesh(mesh: Mesh, judge: Judge) -> Tensor:
    """The judge's embeddings ``(8, E)`` of a mesh's views, as in :attr:`Scored.embedding`."""
    return judge.judge(render_mesh(fitted(mesh), around(VIEWS), torch.tensor(background_for(""))).rgb).embedding


def diversity(embeddings: list[Tensor]) -> float:
    """Mean pairwise distance of assets' embeddings ``(V, E)`` over their views, in [0, 2]; 0: identical. NaN for one asset."""
    pairs = [(a - b).norm(dim=1).mean() for i, a in enumerate(embeddings) for b in embeddings[:i]]
    return float(torch.stack(pairs).mean()) if pairs else math.nan


def around(count: int, elevation_deg: float = ELEVATION_DEG, size: int = SIZE) -> Cameras:
    """``count`` cameras around an asset, the first at azimuth 0, with pictures of ``size`` pixels a side."""
    return turntable(count, elevation_deg, 1.02 / math.sin(math.radians(0.5 * FOV_DEG)), FOV_DEG, size)


def fitted(mesh: Mesh) -> Mesh:
    """The mesh with its bounding box centred at the origin and a bounding sphere of radius ``FIT_RADIUS``."""
    used = mesh.vertices[np.unique(mesh.faces)]
    centered = mesh.vertices - 0.5 * (used.min(axis=0) + used.max(axis=0))
    radius = max(float(np.linalg.norm(centered[np.unique(mesh.faces)], axis=1).max()), 1e-9)
    return replace(mesh, vertices=(centered * (FIT_RADIUS / radius)).astype(np.float32))


def clay_light(cameras: Cameras) -> Shading:
    """Shading for textureless views: a point light above and to the right of each camera."""
    ones = torch.ones(len(cameras))
    place = cameras.c2w[:, :3, 3] + 1.5 * cameras.c2w[:, :3, 0] + torch.tensor([0.0, 2.0, 0.0])
    return Shading(ones, ones, place, ambient=0.45)


def sample_surface(mesh: Mesh, count: int = POINTS) -> Tensor:
    """Points ``(count, 3)``, uniform over the mesh's area, with a fixed seed."""
    rng = np.random.default_rng(0)
    areas = face_areas(mesh.vertices, mesh.faces).astype(np.float64)
    corners = mesh.vertices[mesh.faces[rng.choice(len(areas), count, p=areas / areas.sum())]]
    u, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    points = (1 - u) * corners[:, 0] + u * (1 - v) * corners[:, 1] + u * v * corners[:, 2]
    return torch.from_numpy(points.astype(np.float32))


def chamfer(a: Tensor, b: Tensor) -> float:
    """Symmetric Chamfer distance: mean distance from ``a (N, 3)`` to the nearest of ``b (M, 3)`` and back, averaged."""
    gaps = torch.cdist(a, b)
    return float(0.5 * (gaps.amin(dim=0).mean() + gaps.amin(dim=1).mean()))


@dataclass(frozen=True)
class _Member:
    """A thing of a category, rendered from the asset's cameras."""

    thing: Thing
    outline: Tensor  # (8, 64, 64) bool
    saturation: float

    def surface(self) -> Tensor:
        return sample_surface(surface_of(self.thing, 72))


@cache
def _members(wanted: Wanted) -> tuple[_Member, ...]:
    def member(seed: int) -> _Member:
        thing = wanted.thing(seed)
        with torch.inference_mode():
            seen = render(thing, around(VIEWS), supersample=1)
        outline = seen.opacity[..., 0] > 0.5
        return _Member(thing, outline, _saturation(seen.rgb[outline]))

    return tuple(member(seed) for seed in range(MEMBERS))


def _iou(a: Tensor, b: Tensor) -> float:
    both, either = (a & b).sum(dim=(1, 2)), (a | b).sum(dim=(1, 2))
    return float((both / either.clamp_min(1)).mean())


def _saturation(rgb: Tensor) -> float:
    """Mean HSV saturation (max - min) / max of colours ``(N, 3)``."""
    high, low = rgb.amax(dim=1), rgb.amin(dim=1)
    return float(((high - low) / high.clamp_min(1e-3)).mean()) if len(rgb) else 0.0


def _is_color(verdict: Verdict, color: str) -> Tensor:
    return verdict.color.argmax(dim=1) == list(COLORS).index(color)


def _share(right: Tensor) -> float:
    return float(right.float().mean())


def background_for(color: str) -> tuple[float, float, float]:
    """The first of BACKGROUNDS that contrasts with the colour."""
    own = np.asarray(COLORS.get(color, COLORS["red"]))
    return next((rgb for rgb in BACKGROUNDS if np.linalg.norm(own - rgb) > APART), BACKGROUNDS[-1])
