"""The hollow of a vessel: how deep its opening is from above.

On a grid of 64 x 64 cells over the square around the mesh, each cell has the height of the highest surface over its centre. A
dent is a connected set of cells (4 neighbours) that lie deeper below the highest of all than ``DEEP``, and that does not reach
the square's border. The hollow is the median depth over the largest dent.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamlift.meshing.distance import box_points
from dreamlift.meshing.geometry import face_components
from dreamlift.types import Mesh

SIDE = 64  # cells a side
DEEP = 0.06  # least depth of a dent, as a share of the mesh's longest side
FEWEST = 12  # cells of a dent


def hollow(mesh: Mesh) -> float:
    """The hollow as a share of the mesh's longest side, in [0, 1]; 0 where no dent has 12 cells or more.

    Where a dent has no surface at all below it, it counts down to the mesh's lowest point.
    """
    used = mesh.vertices[np.unique(mesh.faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    size = max(float((high - low).max()), 1e-9)
    heights = top_view((mesh.vertices - (low + high) / 2) / size, mesh.faces).numpy()
    heights = heights.clip(-0.5 * float(high[1] - low[1]) / size)
    depth = heights.max() - heights
    number = _numbered(depth > DEEP)
    border = np.concatenate([number[0], number[-1], number[:, 0], number[:, -1]])
    counts = np.bincount(number.ravel())
    counts[0] = 0
    counts[border] = 0
    largest = int(counts.argmax())
    return float(np.median(depth[number == largest])) if counts[largest] >= FEWEST else 0.0


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
