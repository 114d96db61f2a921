"""Ground truth of the toybox's things, for evaluation: occupancy grids, textured meshes, and which categories have a front.

    python -m dreamlift.toybox.world.truth "duck" --color red --hat blue --out duck.glb

Signed distance, occupancy and part labels are methods of :class:`~dreamlift.toybox.world.parts.Thing`; pictures, silhouettes
(``opacity``), albedo, normals and depth from any camera are rendered by :func:`dreamlift.toybox.world.render.render`.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamlift.cameras import orbit_cameras
from dreamlift.meshing.clean import decimate
from dreamlift.meshing.isosurface import isosurface
from dreamlift.texturing.bake import bake
from dreamlift.texturing.extract import sample_grid
from dreamlift.texturing.unwrap import unwrap
from dreamlift.toybox.world.render import render
from dreamlift.toybox.world.things import ATTRIBUTES, CATEGORIES, COLORS, Thing, make_thing
from dreamlift.types import Mesh


def cell_centers(size: int = 48) -> Tensor:
    """Centres ``(size^3, 3)`` of the cells of a grid over [-1, 1]^3; x is the slowest axis, z the fastest."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)


def occupancy_grid(thing: Thing, size: int = 48) -> Tensor:
    """Whether the centre of each cell of a grid over [-1, 1]^3 is inside: ``(S, S, S)`` bool, axes x, y, z."""
    return thing.occupancy(cell_centers(size)).view(size, size, size)


def surface_of(thing: Thing, resolution: int = 160) -> Mesh:
    """The thing's surface on a grid of ``resolution`` points a side over [-1, 1]^3; geometry only."""
    vertices, faces = isosurface(sample_grid(lambda points: -thing.sdf(points), 1.0, resolution), 0.0, -1.0, 1.0)
    return Mesh(vertices.numpy(), faces.numpy().astype(np.int32))


def mesh_of(thing: Thing, resolution: int = 160, faces: int = 20_000, texture_size: int = 1024) -> Mesh:
    """The thing's surface as a mesh, with its albedo as texture."""
    mesh = decimate(surface_of(thing, resolution), faces)
    return bake(unwrap(mesh, texture_size), lambda points, _: thing.albedo(points), texture_size)


ASYMMETRY = 0.08  # least asymmetry at which pictures of a category determine the side


def asymmetry(category: str, seeds: int = 3, size: int = 32) -> float:
    """How much the appearance of ``category`` changes under rotation about the vertical axis, in [0, 1].

    Unlit pictures from four azimuths, 90 degrees apart, are compared in pairs by the mean absolute colour difference over the
    union of both silhouettes. The minimum over the pairs counts: a table that looks the same after half a turn has two fronts.
    Returns the mean over ``seeds`` things.
    """
    found = []
    for seed in range(seeds):
        thing = make_thing(category, "red", seed)
        azimuth = torch.deg2rad(torch.tensor([20.0, 110.0, 200.0, 290.0]))
        level, away = torch.full((4,), math.radians(20.0)), torch.full((4,), 2.6)
        cameras = orbit_cameras(azimuth, level, away, torch.full((4,), math.radians(45.0)), size)
        with torch.inference_mode():
            views = render(thing, cameras, supersample=1, shading="albedo")
        gaps = [float((views.rgb[i] - views.rgb[j]).abs().mean(-1).sum() / (views.opacity[i] + views.opacity[j] > 0).sum())
                for i in range(4) for j in range(i)]  # fmt: skip
        found.append(min(gaps))
    return sum(found) / seeds


@cache
def is_asymmetric(category: str) -> bool:
    """Whether a picture of a thing of this category determines the side from which it was taken."""
    return asymmetry(category) >= ASYMMETRY


def asymmetric_categories() -> tuple[str, ...]:
    """All categories with :func:`is_asymmetric`; the first call takes seconds."""
    return tuple(filter(is_asymmetric, CATEGORIES))


def main() -> None:
    import argparse

    from dreamlift.export import EXPORTERS

    parser = argparse.ArgumentParser(description="Write the ground truth of a thing of the toybox as a mesh file.")
    parser.add_argument("category", choices=CATEGORIES, metavar="category", help=", ".join(CATEGORIES))
    parser.add_argument("--color", choices=COLORS, default="red")
    parser.add_argument("--attribute", choices=ATTRIBUTES, default="")
    parser.add_argument("--hat", choices=["", *COLORS], default="")
    parser.add_argument("--box", action="store_true", help="on a wooden box")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help=f"a file ending in {', '.join(EXPORTERS)}")
    told = parser.parse_args()
    kind = told.out.suffix.lower().lstrip(".")
    if kind not in EXPORTERS:
        parser.error(f"unknown format {told.out.suffix!r}; accepted: {', '.join(EXPORTERS)}")
    try:
        thing = make_thing(told.category, told.color, told.seed, told.attribute, told.hat, told.box)
    except ValueError as error:
        parser.error(str(error))
    EXPORTERS[kind](mesh_of(thing), told.out, {"prompt": thing.category, "seed": told.seed})


if __name__ == "__main__":
    main()
