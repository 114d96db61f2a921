"""Figures of surfaces, inner ones included: Chamfer distance, angle between normals, roughness.

Roughness is the root mean square of the angle between the normals of two surface points that are nearer to each other than r.
On a sphere of radius R it is r / (2^0.5 R) for r << R, since the mean squared distance of such pairs is r^2 / 2. Two points
that face nearly opposite ways are on the two sides of a thin wall, and no pair.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool3d, normalize

from dreamlift.meshing.distance import inside_grid
from dreamlift.meshing.nearest import Nearest, cover
from dreamlift.texturing.sampling import sample_colors
from dreamlift.types import Mesh

GRID = 96  # points a side of the grid that tells which faces lie inside
POINTS = 5000  # on each surface
NEAR = 0.03  # the distance r of roughness, as a share of the longest side
OPPOSITE_DEG = 135.0  # normals farther apart than this belong to two sides of a wall
ROWS = 1000  # points whose neighbours are searched at a time


class Bound(NamedTuple):
    """The surface that bounds a solid, with points on it."""

    mesh: Mesh  # geometry only
    points: Tensor  # (N, 3), uniform in area
    normals: Tensor  # (N, 3) unit normals of their faces


def bound_of(mesh: Mesh) -> Bound:
    """The faces of ``mesh`` that bound its solid: outer surfaces, the insides of openings, and cavities.

    Faces that lie inside other parts, where parts overlap, are left out.
    """
    reach = 1.1 * float(np.abs(mesh.vertices[np.unique(mesh.faces)]).max())
    cell = 2.0 * reach / (GRID - 1)
    vertices, faces = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()
    solid = inside_grid(vertices, faces, -reach, cell, GRID)
    empty = max_pool3d((~solid).float()[None], 3, stride=1, padding=1)[0] > 0

    def bounds(places: Tensor) -> Tensor:
        """Whether there is empty space within one and a half cells of ``places (N, 3)``, ``(N,)`` bool."""
        x, y, z = ((places + reach) / cell).round().long().clamp(0, GRID - 1).unbind(dim=1)
        return empty[x, y, z]

    points, owner = cover(vertices[faces], cell)
    outer = torch.zeros(len(faces), dtype=torch.bool)
    outer[owner[bounds(points)]] = True
    kept = Mesh(mesh.vertices, mesh.faces[outer.numpy()] if bool(outer.any()) else mesh.faces)
    points, normals, _ = sample_colors(kept, POINTS, torch.Generator().manual_seed(0))
    seen = bounds(points)
    return Bound(kept, points[seen], normals[seen]) if bool(seen.any()) else Bound(kept, points, normals)


class Compared(NamedTuple):
    """One surface against another one."""

    chamfer: float  # mean distance of the points to the other surface, and back, averaged; world units
    normal_deg: float  # median angle between the points' normals and those at the nearest points of the other surface


def compared(own: Bound, true: Bound) -> Compared:
    """Distances and angles between two surfaces in one frame, of points to the nearest points on the other's triangles."""
    away, normals = _nearest(own.points, true.mesh)
    back, _ = _nearest(true.points, own.mesh)
    angles = torch.rad2deg((own.normals * normals).sum(dim=1).clamp(-1.0, 1.0).acos())
    return Compared(0.5 * float(away.mean() + back.mean()), float(angles.median()))


def _nearest(points: Tensor, mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Distances ``(N,)`` of points ``(N, 3)`` to the surface, and its unit normals ``(N, 3)`` at the nearest places."""
    search = Nearest(mesh)
    faces, weights = search(points)
    corners = search.corners[faces]
    gaps = (torch.einsum("nk,nkd->nd", weights, corners) - points).norm(dim=1)
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return gaps, normalize(normals, dim=1)


def roughness_deg(bound: Bound) -> float:
    """See the module's docstring: degrees, with r = 0.03 of the longest side; NaN if no two points are that near."""
    used = bound.mesh.vertices[np.unique(bound.mesh.faces)]
    radius = NEAR * float(np.ptp(used, axis=0).max())
    total, count = 0.0, 0
    limit = math.cos(math.radians(OPPOSITE_DEG))
    for index in range(0, len(bound.points), ROWS):
        rows = slice(index, index + ROWS)
        near = torch.cdist(bound.points[rows], bound.points) < radius
        first, second = near.nonzero(as_tuple=True)
        apart = first + index != second
        first, second = first[apart], second[apart]
        # The chord |a - b| = 2 sin(angle / 2), exact for small angles, where the cosine is not.
        chord = (bound.normals[rows][first] - bound.normals[second]).double().norm(dim=1)
        chord = chord[chord < math.sqrt(2.0 - 2.0 * limit)]
        total += float((2.0 * (chord / 2.0).asin()).square().sum())
        count += len(chord)
    return math.degrees(math.sqrt(total / count)) if count else math.nan
