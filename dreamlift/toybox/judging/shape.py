"""Figures of an asset's shape and surface against one true thing of its kind: ``dreamlift evaluate --shape``.

The true thing, the *member*, is that of the kind's first ``MEMBERS`` things (seeds 0 to 11, with the attribute, hat and box of
the prompt) whose volume the asset overlaps best after a fit of scale and shift, without rotation. All figures but the hollow
and the judge's are taken after this fit. docs/evaluate-shape.md defines them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

import torch
from torch import Tensor

from dreamlift.meshing.clean import decimate
from dreamlift.texturing.draw import render_mesh
from dreamlift.toybox.judging.judge import Judge, understand
from dreamlift.toybox.judging.opening import hollow
from dreamlift.toybox.judging.pictures import blotchiness, sharpness
from dreamlift.toybox.judging.score import MEMBERS, around, fitted, named_in_clay
from dreamlift.toybox.judging.surfaces import bound_of, compared, roughness_deg
from dreamlift.toybox.judging.volume import Fitted, fit_best
from dreamlift.toybox.world.render import render
from dreamlift.toybox.world.things import Description, Thing
from dreamlift.toybox.world.truth import surface_of
from dreamlift.types import Cameras, Mesh

VIEWS, SIZE, ELEVATION_DEG = 8, 256, 20.0  # of the pictures whose colours are compared
HIGH_DEG = 55.0  # elevation from which clay shows what lies on top
RESOLUTION = 128  # grid points a side of a member's surface, as of a field's
VESSELS = ("mug", "goblet", "bowl", "vase", "watering_can")  # the kinds whose things are open: their hollow is above 0.1


@dataclass(frozen=True)
class Shape:
    """Figures of one asset against one member of its kind; NaN where the member defines no value."""

    volume_iou: float  # of the solids, their insides included, in [0, 1]
    chamfer_inside: float  # mean distance between all surfaces that bound the solids; the member's radius is 0.85
    hollow: float  # median depth of water that is poured over it, as a share of the longest side
    hollow_ratio: float  # of vessels: over the median of the kind's members, at most 1
    normal_deg: float  # median angle between the asset's normals and the member's at the nearest points
    roughness: float  # RMS angle between the normals of points near each other, over the member's
    clay_20: float  # share of eight clay views from 20 degrees above in which the judge names the kind
    clay_55: float  # the same from 55 degrees
    blotchiness: float  # local deviation of the colour where the member has one colour, over the member's
    sharpness: float  # of the member's edges in pictures of 256 pixels, over the member's


FIGURES = tuple(Shape.__dataclass_fields__)


@dataclass(frozen=True)
class Shaped:
    """The figures, with the member and the fit that they are of."""

    shape: Shape
    member: int  # its seed
    fit: Fitted  # of the asset, centred and scaled as the toybox's things are


Draw = Callable[[Fitted, Cameras], tuple[Tensor, Tensor]]  # -> colours (B, H, W, 3) and opacity (B, H, W, 1), after the fit


def described(prompt: str) -> Description | None:
    """The thing that ``prompt`` asks for, red if it names no colour; None without one of the toybox's kinds."""
    wanted = understand(prompt)
    if not wanted.category:
        return None
    return Description(wanted.category, wanted.color or "red", wanted.attribute, wanted.hat, wanted.box)


def shape_of(mesh: Mesh, wanted: Description, judge: Judge, draw: Draw | None = None) -> Shaped:
    """The figures of ``mesh`` as a ``wanted`` thing.

    Args:
        mesh: of any size and place; its front is +z and its top +y.
        draw: pictures of the asset; default: its base colours without light, as those of a lift contain the light.

    Raises:
        EmptySceneError, ValueError: the mesh is empty or malformed.
    """
    mesh = fitted(mesh)
    things = members(wanted)
    seed, fit = fit_best(mesh, [thing.occupancy for thing in things])
    true, placed = things[seed], replace(mesh, vertices=fit.apply(mesh.vertices), vertex_normals=None)
    surface = member_surface(wanted, seed, len(mesh.faces))
    own, other = bound_of(placed), bound_of(surface)
    near = compared(own, other)
    depth = hollow(mesh)
    rgb, opacity = _drawn(mesh, fit) if draw is None else draw(fit, cameras())
    with torch.inference_mode():
        truth = render(true, cameras(), supersample=1)
    both = (opacity[..., 0] > 0.999) & (truth.opacity[..., 0] > 0.999)
    figures = Shape(
        volume_iou=fit.iou,
        chamfer_inside=near.chamfer,
        hollow=depth,
        hollow_ratio=min(depth / true_hollow(wanted), 1.0) if wanted.category in VESSELS else math.nan,
        normal_deg=near.normal_deg,
        roughness=roughness_deg(own) / max(roughness_deg(other), 1e-3),
        clay_20=named_in_clay(mesh, wanted.category, judge, ELEVATION_DEG),
        clay_55=named_in_clay(mesh, wanted.category, judge, HIGH_DEG),
        blotchiness=blotchiness(rgb, truth.rgb, truth.albedo, both),
        sharpness=sharpness(rgb, truth.rgb, both),
    )
    return Shaped(figures, seed, fit)


def shape_of_thing(thing: Thing, wanted: Description, judge: Judge, faces: int = 10_000) -> Shaped:
    """The figures of a true ``thing`` as if it were an asset of ``faces`` faces: what they are at best.

    Its pictures are the world's, lit, which is what a lift's colours learn.
    """
    mesh = _decimated(surface_of(thing, RESOLUTION), faces)

    def draw(fit: Fitted, cameras: Cameras) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            seen = render(moved(thing, fit), cameras, supersample=1)
        return seen.rgb, seen.opacity

    return shape_of(mesh, wanted, judge, draw)


@cache
def members(wanted: Description) -> tuple[Thing, ...]:
    """The true things with which an asset is compared; the index is the seed."""
    return tuple(map(wanted.thing, range(MEMBERS)))


@cache
def true_hollow(wanted: Description) -> float:
    """The median hollow of the members. Of the nearest one alone, a closed asset would be compared with the shallowest."""
    return median(hollow(surface_of(thing, RESOLUTION // 2)) for thing in members(wanted))


@cache
def member_surface(wanted: Description, seed: int, faces: int) -> Mesh:
    """The surface of a member, with at most as many ``faces`` as the asset has: decimation makes a surface rougher."""
    return _decimated(surface_of(members(wanted)[seed], RESOLUTION), faces)


@cache
def cameras() -> Cameras:
    """The cameras of the pictures whose colours are compared."""
    return around(VIEWS, ELEVATION_DEG, SIZE)


def moved(thing: Thing, fit: Fitted) -> Thing:
    """``thing`` after the fit, which was found for its mesh."""
    scale, (x, y, z) = fit.scale * thing.scale, thing.center
    right, up, front = (each / scale for each in fit.shift)
    return replace(thing, center=(x - right, y - up / thing.stretch, z - front), scale=scale)


def _drawn(mesh: Mesh, fit: Fitted) -> tuple[Tensor, Tensor]:
    seen = render_mesh(replace(mesh, vertices=fit.apply(mesh.vertices)), cameras())
    return seen.rgb, seen.opacity


def _decimated(mesh: Mesh, faces: int) -> Mesh:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a surface that cannot be reduced so far is used as it is
        return decimate(mesh, max(faces, 100))
