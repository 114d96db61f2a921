"""Volumes: which points lie inside a mesh, and the scale and shift for the largest overlap with a true solid.

The overlap of solids A and B is IoU = |A and B| / (|A| + |B| - |A and B|). The true solid is a set of cells of a grid over
[-1, 1]^3, each with a random point, and |A and B| is counted by the points that lie in the mesh. (At the cells' centres, flat
sides along the grid would be wrong by up to half a cell.) A mesh is given by its signed distances
(:mod:`dreamlift.meshing.distance`), whose signs are a majority of six winding numbers: it may have holes, and parts that
overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.meshing.distance import inside_grid, signed_distances
from dreamlift.toybox.world.truth import cell_centers
from dreamlift.types import Mesh

Inside = Callable[[Tensor], Tensor]  # points (N, 3) -> (N,) bool

GRID = 96  # points a side of a mesh's signed distances
COARSE, FINE = 32, 96  # cells a side of the search and of the IoU, over [-1, 1]^3; true things have a radius of 0.85
FINEST = 0.002  # last step of the search
REST = 4.0 / COARSE  # how far a thing may reach beyond its points of the coarse grid


class Fitted(NamedTuple):
    """A mesh is scaled and then shifted so that its volume overlaps the true one best."""

    scale: float
    shift: tuple[float, float, float]
    iou: float

    def apply(self, vertices: np.ndarray) -> np.ndarray:
        """``vertices (V, 3)`` after the transform, float32."""
        return (vertices * self.scale + np.array(self.shift)).astype(np.float32)


class Volume:
    """The inside of a mesh, from signed distances on a grid of 96 points a side around it."""

    def __init__(self, mesh: Mesh) -> None:
        used = torch.from_numpy(mesh.vertices[np.unique(mesh.faces)]).float()
        self.low, self.high = used.amin(dim=0), used.amax(dim=0)  # (3,) each, of the bounding box
        self.reach = 1.1 * float(used.abs().max())
        faces = torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()
        vertices = torch.from_numpy(mesh.vertices).float()
        found = signed_distances(vertices, faces, -self.reach, 2.0 * self.reach / (GRID - 1), GRID)
        self.distances = found.view(1, 1, GRID, GRID, GRID)
        self.size = float(self.inside(grid_points(FINE) * self.reach).float().mean()) * (2.0 * self.reach) ** 3

    def inside(self, points: Tensor) -> Tensor:
        """Whether ``points (N, 3)`` lie inside, ``(N,)`` bool: by trilinear interpolation of the distances."""
        grid = (points / self.reach).flip(-1).view(1, 1, 1, -1, 3)  # grid_sample names the fastest axis first
        values = functional.grid_sample(self.distances, grid, padding_mode="border", align_corners=True).view(-1)
        return (values < 0) & (points.abs() <= self.reach).all(dim=-1)

    def overlap(self, true: Tensor, cell: float, at: Tensor) -> Tensor:
        """IoUs ``(K,)`` of this volume with a solid of cells of side ``cell``, one for each of its points ``true (N, 3)``.

        The volume is scaled by exp(``at[:, 0]``) and then shifted by ``at[:, 1:]``, for ``at (K, 4)``.
        """
        scale = at[:, 0].exp()
        both = self.inside(((true - at[:, None, 1:]) / scale[:, None, None]).view(-1, 3)).view(len(at), -1)
        shared = both.sum(dim=1) * cell**3
        return shared / (len(true) * cell**3 + self.size * scale**3 - shared)

    def coarse_fit(self, true: Tensor) -> Tensor:
        """Where the IoU with a solid's points ``true (N, 3)`` of the coarse grid is largest: ``(4,)`` as in :meth:`overlap`.

        The search begins with the mesh as it is and with equal bounding boxes.
        """
        cell = 2.0 / COARSE
        low, high = true.amin(dim=0), true.amax(dim=0)
        scale = ((high - low + cell).prod() / (self.high - self.low).prod().clamp_min(1e-9)) ** (1.0 / 3.0)
        boxed = torch.cat([scale.log()[None], 0.5 * (low + high) - 0.5 * scale * (self.low + self.high)])
        found = [climbed(lambda at: self.overlap(true, cell, at), start) for start in (torch.zeros(4), boxed)]
        return found[int(self.overlap(true, cell, torch.stack(found)).argmax())]

    def fine_fit(self, true: Tensor, start: Tensor) -> Fitted:
        """The fit to a solid's points ``true (N, 3)`` of the fine grid, from the result of :meth:`coarse_fit`."""
        best = climbed(lambda at: self.overlap(true, 2.0 / FINE, at), start, 0.01)
        x, y, z = best[1:].tolist()
        return Fitted(float(best[0].exp()), (x, y, z), float(self.overlap(true, 2.0 / FINE, best[None])))


def fit_volume(mesh: Mesh, inside: Inside) -> Fitted:
    """Scale and shift of ``mesh`` for the largest volume IoU with a true thing, on a grid of 96 cells a side; no rotation.

    ``inside`` tells of points ``(N, 3)`` whether they are in the true thing. The search changes one of the four numbers at a
    time, first on a grid of 32 cells a side.
    """
    return fit_best(mesh, [inside])[1]


def fit_best(mesh: Mesh, insides: Sequence[Inside]) -> tuple[int, Fitted]:
    """The index of the true thing with which ``mesh`` overlaps best, and the fit as in :func:`fit_volume`.

    Every thing is fitted, first on the coarse grid and then on the fine one. ``insides`` must not be empty.
    """
    volume, coarse, fine = Volume(mesh), grid_points(COARSE), grid_points(FINE)
    fits = []
    for inside in insides:
        rough = coarse[inside(coarse)]
        low, high = rough.amin(dim=0) - REST, rough.amax(dim=0) + REST
        near = fine[((fine > low) & (fine < high)).all(dim=1)]  # a thing fills a small part of the cube
        fits.append(volume.fine_fit(near[inside(near)], volume.coarse_fit(rough)))
    best = max(range(len(fits)), key=lambda index: fits[index].iou)
    return best, fits[best]


@cache
def grid_points(size: int) -> Tensor:
    """A random point ``(size^3, 3)`` of each cell of a grid over [-1, 1]^3, always the same."""
    jitter = torch.rand(size**3, 3, generator=torch.Generator().manual_seed(0))
    return cell_centers(size) + (2.0 * jitter - 1.0) / size


def volume_iou(mesh: Mesh, true: Tensor) -> float:
    """IoU, in [0, 1], of a mesh as it stands with the cells ``true (S, S, S)`` bool of a grid over [-1, 1]^3."""
    size = len(true)
    faces = torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()
    low = 1.0 / size - 1.0
    inside = inside_grid(torch.from_numpy(mesh.vertices).float(), faces, low, 2.0 / size, size)
    return float((inside & true).sum() / (inside | true).sum().clamp_min(1))


def climbed(scores: Callable[[Tensor], Tensor], start: Tensor, step: float = 0.08) -> Tensor:
    """A local maximum of a function near ``start (P,)``: steps along the axes, halved where none of them helps.

    ``scores`` maps several places ``(K, P)`` to their values ``(K,)``.
    """
    ways = torch.cat([torch.eye(len(start)), -torch.eye(len(start))])
    at, best = start, float(scores(start[None]))
    while step > FINEST:
        tried = at + step * ways
        found = scores(tried)
        if float(found.max()) > best:
            best, at = float(found.max()), tried[int(found.argmax())]
        else:
            step *= 0.5
    return at
