"""Nearest points on a mesh, for transferring colours and normals between meshes. Plain torch.

The surface is sampled by a lattice of points in each triangle, sorted into the cells of a grid. The nearest sample selects
the triangle, whose nearest point is computed exactly (Ericson 2004, "Real-Time Collision Detection", section 5.1.5). The
result is exact unless another triangle is nearer by less than the samples' spacing.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from dreamlift.meshing.geometry import area_vectors, face_areas
from dreamlift.types import Mesh

PAIRS = 2_000_000  # (query, sample) pairs held in memory at a time
STRICT_LEVELS = 3  # grids, each with cells of twice the size, in which only surfaces that face the same way count
FEWEST = 4096  # samples that are all compared with a point far from the surface


class Nearest:
    """Nearest-point queries on one mesh."""

    def __init__(self, mesh: Mesh, samples: int = 200_000) -> None:
        """``samples`` is the approximate number of points on the surface; their spacing is sqrt(area / samples)."""
        self.corners = torch.from_numpy(mesh.vertices[mesh.faces]).float()  # (F, 3, 3)
        area = float(face_areas(mesh.vertices, mesh.faces).sum())
        self.spacing = max((area / samples) ** 0.5, 1e-12)
        points, faces = cover(self.corners, self.spacing)
        # Shuffled, so that any prefix is a uniform subset.
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
        normals = torch.nn.functional.normalize(torch.from_numpy(area_vectors(mesh.vertices, mesh.faces)).float(), dim=1)
        self.points, self.faces, self.normals = points[order], faces[order], normals[faces[order]]
        self.size = float(np.ptp(mesh.vertices, axis=0).max())
        self.grids: list[_Grid] = []

    def __call__(self, points: Tensor, normals: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The nearest triangles ``(N,)`` to ``points (N, 3)``, and the barycentrics ``(N, 3)`` of the nearest points on them.

        With ``normals (N, 3)``, surfaces that face the other way (the back of a thin wall) are skipped where one that
        faces the same way is near.
        """
        points = points.float()
        found = torch.zeros(len(points), dtype=torch.int64)
        open_, level = torch.arange(len(points)), 0
        while len(open_):
            # Farther away, a coarser subset of the samples is accurate enough.
            cell, share = self.spacing * 2 ** (level + 1), len(self.points) >> 2 * level
            if share <= FEWEST or cell > 2 * self.size:
                some = self.points[:FEWEST]
                parts = [torch.cdist(part, some).argmin(dim=1) for part in points[open_].split(PAIRS // FEWEST)]
                found[open_] = self.faces[torch.cat(parts)]
                break
            if level == len(self.grids):
                self.grids.append(_Grid(self.points[:share], self.normals[:share], cell))
            strict = None if normals is None or level >= STRICT_LEVELS else normals[open_].float()
            sample, distance = self.grids[level].search(points[open_], strict)
            done = distance <= cell
            found[open_[done]] = self.faces[sample[done]]
            open_, level = open_[~done], level + 1
        return found, closest_barycentrics(points, self.corners[found])


class _Grid:
    """Points sorted into the cells of a grid."""

    def __init__(self, points: Tensor, normals: Tensor, cell: float) -> None:
        self.cell, self.low = cell, points.amin(dim=0) - 2 * cell
        places = ((points - self.low) / cell).long()
        self.shape = places.amax(dim=0) + 3
        self.keys, self.order = torch.sort((places[:, 0] * self.shape[1] + places[:, 1]) * self.shape[2] + places[:, 2])
        self.points, self.normals = points[self.order], normals[self.order]

    def search(self, points: Tensor, normals: Tensor | None) -> tuple[Tensor, Tensor]:
        """The index ``(N,)`` of the nearest stored point in the 27 cells around each of ``points (N, 3)``, and its distance.

        The distance ``(N,)`` is infinite where there is no such point or, with ``normals (N, 3)``, none that faces the same
        way.
        """
        best, distance = torch.zeros(len(points), dtype=torch.int64), torch.full((len(points),), torch.inf)
        inside = ((points - self.low) / self.cell).floor().long()
        near = torch.nonzero(((inside >= 1) & (inside < self.shape - 1)).all(dim=1)).flatten()
        for part in near.split(PAIRS // 64):
            best[part], distance[part] = self._search(points[part], None if normals is None else normals[part], inside[part])
        return self.order[best], distance.sqrt()

    def _search(self, points: Tensor, normals: Tensor | None, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Indices into the sorted points, and squared distances. The three cells of a row along z are adjacent in the order."""
        count = len(points)
        best, distance = torch.zeros(count, dtype=torch.int64), torch.full((count,), torch.inf)
        for x, y in itertools.product((-1, 0, 1), repeat=2):
            row = ((inside[:, 0] + x) * self.shape[1] + inside[:, 1] + y) * self.shape[2] + inside[:, 2]
            begin, end = torch.searchsorted(self.keys, row - 1), torch.searchsorted(self.keys, row + 1, right=True)
            lengths = end - begin
            query = torch.repeat_interleave(lengths)
            sample = torch.arange(len(query)) + (begin - lengths.cumsum(0) + lengths)[query]
            gap = (points.index_select(0, query) - self.points.index_select(0, sample)).square().sum(dim=1)
            if normals is not None:
                turned = (normals.index_select(0, query) * self.normals.index_select(0, sample)).sum(dim=1) < 0
                gap = gap.masked_fill(turned, torch.inf)
            closest = torch.full((count,), torch.inf).scatter_reduce(0, query, gap, "amin")
            hit = torch.nonzero((gap == closest[query]) & (gap < torch.inf)).flatten()
            chosen = torch.zeros(count, dtype=torch.int64)
            chosen[query[hit]] = sample[hit]
            better = closest < distance
            best, distance = torch.where(better, chosen, best), torch.where(better, closest, distance)
        return best, distance


def closest_barycentrics(points: Tensor, corners: Tensor) -> Tensor:
    """Barycentrics ``(N, 3)`` of the point of each triangle ``corners (N, 3, 3)`` that is nearest to ``points (N, 3)``.

    It is the projection onto the triangle's plane if that lies inside, or else the nearest of the three edges' closest
    points. A degenerate triangle is treated as its edges.
    """
    a, b, c = corners.unbind(dim=1)
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    d20, d21 = (ap * ab).sum(1), (ap * ac).sum(1)
    area = d00 * d11 - d01 * d01
    v, w = d11 * d20 - d01 * d21, d00 * d21 - d01 * d20
    within = (v >= 0) & (w >= 0) & (v + w <= area) & (area > 0)
    v, w = (each / torch.where(area > 0, area, torch.ones_like(area)) for each in (v, w))
    best = torch.stack([1 - v - w, v, w], dim=1)
    gap = torch.where(within, torch.full_like(area, -1.0), torch.full_like(area, torch.inf))
    tiny = torch.finfo(points.dtype).tiny
    for i, j in ((0, 1), (1, 2), (2, 0)):
        side = corners[:, j] - corners[:, i]
        along = (((points - corners[:, i]) * side).sum(1) / side.square().sum(1).clamp_min(tiny)).clamp(0, 1)
        distance = (points - corners[:, i] - along[:, None] * side).square().sum(1)
        weights = torch.zeros_like(best)
        weights[:, i], weights[:, j] = 1 - along, along
        better = distance < gap
        best, gap = torch.where(better[:, None], weights, best), torch.where(better, distance, gap)
    return best


def cover(corners: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """Points ``(S, 3)`` about ``spacing`` apart in triangles ``corners (F, 3, 3)``, and the triangle of each ``(S,)``."""
    sides = corners.roll(-1, dims=1) - corners
    area = 0.5 * torch.linalg.cross(sides[:, 0], sides[:, 1]).norm(dim=1)
    # A triangle is divided into n^2 parts; a thin one needs more than its area suggests.
    wide = torch.maximum(area.sqrt(), sides.norm(dim=2).amax(dim=1) / 3)
    parts = (wide / spacing).ceil().clamp(1, 512).long()
    points, owners = [], []
    for n in parts.unique().tolist():
        chosen = torch.nonzero(parts == n).flatten()
        i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
        up, down = (i + j < n), (i + j < n - 1)  # the small triangles that point as the large one does, and the others
        u = torch.cat([(i[up] + 1 / 3) / n, (i[down] + 2 / 3) / n])
        v = torch.cat([(j[up] + 1 / 3) / n, (j[down] + 2 / 3) / n])
        weights = torch.stack([1 - u - v, u, v], dim=1)  # (n^2, 3)
        points.append(torch.einsum("sk,fkd->fsd", weights, corners[chosen]).reshape(-1, 3))
        owners.append(chosen.repeat_interleave(n * n))
    return torch.cat(points), torch.cat(owners)
