"""The hollow of a vessel: how deep the water would stand that is poured over it.

On a grid of 64 x 64 cells over the square around the mesh, each cell has the height of the highest surface over its centre. The
water in a cell stands at the lowest of all ways out, each as high as its highest cell (priority-flood: Barnes et al. 2014,
https://arxiv.org/abs/1511.04463). So a handle, a spout or a flower above the rim changes nothing. A pool is a connected set of
cells (4 neighbours) that are deeper than ``DEEP``. The hollow is the median depth of the largest pool.
"""

from __future__ import annotations

import heapq

import numpy as np
import torch
from torch import Tensor

from dreamlift.meshing.distance import box_points
from dreamlift.meshing.geometry import face_components
from dreamlift.types import Mesh

SIDE = 64  # cells a side
DEEP = 0.06  # least depth of a pool, as a share of the mesh's longest side
FEWEST = 12  # cells of a pool, and of a hole


def hollow(mesh: Mesh) -> float:
    """The hollow as a share of the mesh's longest side, in [0, 1]; 0 where no pool has 12 cells or more.

    Water runs out of a hole of 12 cells or more, as of a pipe. A smaller hole, as in a torn mesh, is as deep as the mesh.
    """
    used = mesh.vertices[np.unique(mesh.faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    size = max(float((high - low).max()), 1e-9)
    heights = top_view((mesh.vertices - (low + high) / 2) / size, mesh.faces).numpy()
    holes = _numbered(np.isneginf(heights))
    outlets = (holes > 0) & (np.bincount(holes.ravel())[holes] >= FEWEST)
    heights = heights.clip(-0.5 * float(high[1] - low[1]) / size)
    depth = water_levels(heights, outlets) - heights
    number = _numbered(depth > DEEP)
    counts = np.bincount(number.ravel())
    counts[0] = 0
    largest = int(counts.argmax())
    return float(np.median(depth[number == largest])) if counts[largest] >= FEWEST else 0.0


def water_levels(heights: np.ndarray, outlets: np.ndarray) -> np.ndarray:
    """How high water stands in each cell, at least the cell's own height.

    It runs to 4 neighbours, and out over the border and through the ``outlets``.

    Args:
        heights: ``(H, W)``. outlets: ``(H, W)`` bool.
    """
    levels, (rows, columns) = np.full_like(heights, np.inf), heights.shape
    out = outlets.copy()
    out[[0, -1]] = out[:, [0, -1]] = True
    levels[out] = heights[out]
    heap = [(float(levels[i, j]), i, j) for i, j in np.argwhere(out).tolist()]
    heapq.heapify(heap)
    while heap:  # the lowest shore first: no later way to its neighbours is lower
        level, i, j = heapq.heappop(heap)
        for y, x in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if 0 <= y < rows and 0 <= x < columns and np.isinf(levels[y, x]):
                levels[y, x] = max(level, float(heights[y, x]))
                heapq.heappush(heap, (float(levels[y, x]), y, x))
    return levels


def top_view(vertices: np.ndarray, faces: np.ndarray) -> Tensor:
    """The greatest heights ``(64, 64)`` over the cells of [-0.5, 0.5]^2, axes x and z; -inf where there is no surface.

    ``vertices (V, 3)`` with y up, and ``faces (F, 3)``.
    """
    corners = torch.from_numpy(vertices[faces]).double()
    flat = (corners[:, :, [0, 2]] + 0.5) * SIDE - 0.5  # (F, 3, 2) in cells
    a, b, c = flat.unbind(dim=1)
    area = (b[:, 1] - c[:, 1]) * (a[:, 0] - c[:, 0]) + (c[:, 0] - b[:, 0]) * (a[:, 1] - c[:, 1])
    low = flat.amin(dim=1).ceil().clamp_min(0).long()
    high = flat.amax(dim=1).floor().clamp_max(SIDE - 1).long()
    high = torch.where(area.abs()[:, None] < 1e-12, low - 1, high)  # seen edge on
    still = torch.zeros_like(low[:, :1])
    heights = torch.full((SIDE * SIDE,), -torch.inf, dtype=torch.float64)
    for owner, cell in box_points(torch.cat([low, still], dim=1), torch.cat([high, still], dim=1)):
        x, z = (cell[:, :2] - c[owner]).unbind(dim=1)
        one, two, three = (each[owner] for each in (a, b, c))
        u = ((two[:, 1] - three[:, 1]) * x + (three[:, 0] - two[:, 0]) * z) / area[owner]
        v = ((three[:, 1] - one[:, 1]) * x + (one[:, 0] - three[:, 0]) * z) / area[owner]
        weights = torch.stack([u, v, 1.0 - u - v], dim=1)
        hit = (weights >= -1e-9).all(dim=1)
        found = (weights * corners[owner, :, 1]).sum(dim=1)
        heights.scatter_reduce_(0, (cell[:, 0] * SIDE + cell[:, 1])[hit], found[hit], "amax")
    return heights.view(SIDE, SIDE)


def _numbered(mask: np.ndarray) -> np.ndarray:
    """The numbers ``(H, W)`` of the connected parts of a mask, from 1 on; 0 outside of it."""
    cells = np.arange(mask.size).reshape(mask.shape)
    right, down = mask[:, 1:] & mask[:, :-1], mask[1:] & mask[:-1]
    ends = [(cells[:, :-1][right], cells[:, 1:][right]), (cells[:-1][down], cells[1:][down]), (cells[mask], cells[mask])]
    links = np.concatenate([np.stack([one, other, other], axis=1) for one, other in ends])
    number = np.zeros(mask.size, np.int64)
    if len(links):
        number[links[:, 0]] = face_components(links, mask.size) + 1
        number[~mask.ravel()] = 0
    return number.reshape(mask.shape)
