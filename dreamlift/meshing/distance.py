"""Signed distances from the points of a regular grid to a triangle mesh, negative inside.

Near the surface the distance is exact: to the closest point of the closest triangle (Ericson 2004, "Real-Time Collision
Detection", section 5.1.5). Farther away, closest points are propagated between grid points by jump flooding (Rong and Tan
2006, https://doi.org/10.1145/1111411.1111431), whose error is a small fraction of a cell.

A point is inside if most of the six axis-parallel rays from it say so. A ray counts +1 for each face through which it leaves
and -1 for each through which it enters: the winding number of a closed mesh. So parts may overlap, and the majority tolerates
a few holes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from dreamlift.meshing import distance_numba
from dreamlift.meshing.nearest import closest_barycentrics
from dreamlift.raster.visibility import CANDIDATES, in_chunks
from dreamlift.system import jit

BAND = 1.5  # cells around each triangle in which distances are exact


@torch.no_grad()
def signed_distances(vertices: Tensor, faces: Tensor, low: float, cell: float, count: int) -> Tensor:
    """Distances ``(count, count, count)`` float32, indexed x, y, z, of the points ``low + cell * (i, j, k)``; negative inside.

    Args:
        vertices: ``(V, 3)`` world, on the CPU. faces: ``(F, 3)`` int64, counter-clockwise from outside.
        low: the first point's coordinate on each axis. cell: world units between points. count: points per axis.
    """
    corners = (vertices.double()[faces] - low) / cell  # (F, 3, 3) in cells
    nearest = _distances(corners, count) if jit.fast_kernels_available() else distances_torch(corners, count)
    return torch.where(_inside(corners, count), -nearest, nearest).mul(cell).float()


@torch.no_grad()
def inside_grid(vertices: Tensor, faces: Tensor, low: float, cell: float, count: int) -> Tensor:
    """Whether the points of :func:`signed_distances` lie inside, ``(count, count, count)`` bool, without their distances."""
    return _inside((vertices.double()[faces] - low) / cell, count)


def _inside(corners: Tensor, count: int) -> Tensor:
    """``(count, count, count)`` bool for triangles ``corners (F, 3, 3)`` in cells."""
    return torch.stack([_votes(corners, axis, count) for axis in range(3)]).sum(0) > 3


def _distances(corners: Tensor, count: int) -> Tensor:
    """Distances ``(count, count, count)`` in cells to the triangles ``corners (F, 3, 3)``, by compiled kernels."""
    where = torch.full((count**3, 3), 1e6, dtype=torch.float64)
    best = torch.full((count**3,), torch.inf, dtype=torch.float64)
    distance_numba.near_triangles(jit.array(corners), BAND, count, (where.numpy(), best.numpy()))
    point, distance = where.float(), best.float().clamp(max=3e12)
    step = 1 << max(count // 2, 1).bit_length()
    while step >= 1:
        source, out = point.numpy().copy(), (point.numpy(), distance.numpy())
        jit.parallel_ranges(partial(distance_numba.flood, source, count, step, out=out), count, 8)
        step //= 2
    return distance.sqrt().double().view(count, count, count)


def distances_torch(corners: Tensor, count: int) -> Tensor:
    """Torch twin of the compiled kernels: distances ``(count, count, count)`` in cells to triangles ``corners (F, 3, 3)``."""
    return _flooded(*_closest_points(corners, count), count)


def _closest_points(corners: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The closest surface points ``(P, 3)`` of all grid points, in cells, and ``(P,)`` where they are known: near triangles."""
    low = torch.ceil(corners.amin(1) - BAND).clamp(0, count - 1).long()
    high = torch.floor(corners.amax(1) + BAND).clamp(0, count - 1).long()
    best = torch.full((count**3,), torch.inf, dtype=torch.float64)
    where = torch.zeros(count**3, 3, dtype=torch.float64)
    for owner, point in box_points(low, high):
        place = point.double()
        triangles = corners[owner]
        closest = torch.einsum("nk,nkd->nd", closest_barycentrics(place, triangles), triangles)
        distance = (closest - place).square().sum(1)
        number = (point[:, 0] * count + point[:, 1]) * count + point[:, 2]
        best.scatter_reduce_(0, number, distance, "amin")
        chosen = torch.nonzero(distance == best[number]).flatten()
        where[number[chosen]] = closest[chosen]
    return where, torch.isfinite(best)


def box_points(low: Tensor, high: Tensor, limit: int = CANDIDATES // 4) -> Iterator[tuple[Tensor, Tensor]]:
    """All (item, point (., 3)) of the items' inclusive integer boxes ``low, high (N, 3)``, in chunks of ``limit``.

    A box may be empty (high < low). One item alone may exceed the limit.
    """
    span = (high - low + 1).clamp_min(0)
    for owner, local in in_chunks(span.prod(1), limit):
        size = span[owner]
        x = torch.div(local, size[:, 1] * size[:, 2], rounding_mode="floor")
        y = torch.div(local, size[:, 2], rounding_mode="floor") % size[:, 1]
        yield owner, low[owner] + torch.stack([x, y, local % size[:, 2]], dim=1)


def _flooded(where: Tensor, known: Tensor, count: int) -> Tensor:
    """Distances ``(count, count, count)`` in cells, from the closest points ``where (P, 3)`` that are ``known (P,)``."""
    axis = torch.arange(count, dtype=torch.float32)
    place = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    point = where.T.float().reshape(3, count, count, count).clone()
    point[:, ~known.view(count, count, count)] = 1e6
    distance = (point - place).square().sum(0)
    step = 1 << max(count // 2, 1).bit_length()
    while step >= 1:
        source, before = point.clone(), count - step
        for shift in itertools.product((-1, 0, 1), repeat=3):
            if shift == (0, 0, 0) or before <= 0:
                continue
            to = tuple(slice(max(s, 0) * step, count + min(s, 0) * step) for s in shift)
            of = tuple(slice(max(-s, 0) * step, count + min(-s, 0) * step) for s in shift)
            offered = source[(slice(None), *of)]
            far = (offered - place[(slice(None), *to)]).square().sum(0)
            better = far < distance[to]
            distance[to] = torch.where(better, far, distance[to])
            target = point[(slice(None), *to)]
            point[(slice(None), *to)] = torch.where(better, offered, target)
        step //= 2
    return distance.sqrt().double()


def _votes(corners: Tensor, axis: int, count: int) -> Tensor:
    """How many of the two rays along ``axis`` say "inside", ``(count, count, count)`` int64."""
    u, v = (axis + 1) % 3, (axis + 2) % 3
    # Lines are shifted a little: one through an edge or a vertex could hit two triangles or none.
    flat = corners[:, :, [u, v]] - corners.new_tensor([1.37e-6, 2.71e-6])
    if jit.fast_kernels_available():
        turns = torch.zeros(count, count, count + 1, dtype=torch.int64)
        distance_numba.count_turns(jit.array(flat), jit.array(corners[:, :, axis]), count, turns.numpy())
    else:
        turns = turns_torch(flat, corners[:, :, axis], count)
    ahead = turns.sum(2, keepdim=True) - turns.cumsum(2)  # of faces beyond each point, in the order (u, v, axis)
    passed = -turns.cumsum(2)
    inside = (ahead[..., :count] > 0).long() + (passed[..., :count] > 0).long()
    return inside.permute(*((place - u) % 3 for place in range(3)))  # back to x, y, z


def turns_torch(flat: Tensor, depths: Tensor, count: int) -> Tensor:
    """Torch twin of :func:`~dreamlift.meshing.distance_numba.count_turns`."""
    low = torch.ceil(flat.amin(1)).clamp(0, count).long()
    high = torch.floor(flat.amax(1)).clamp(-1, count - 1).long()
    pad = torch.zeros_like(low[:, :1])
    turns = torch.zeros(count * count * (count + 1), dtype=torch.int64)
    for owner, line in box_points(torch.cat([low, pad], 1), torch.cat([high, pad], 1)):
        a, b, c = (flat[owner, k] - line[:, :2] for k in range(3))
        weights = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], dim=1)
        hit = torch.nonzero((weights > 0).all(1) | (weights < 0).all(1)).flatten()
        weights, owner, line = weights[hit], owner[hit], line[hit]
        total = weights.sum(1)
        depth = (weights * depths[owner]).sum(1) / total
        first = torch.ceil(depth).clamp(0, count).long()  # the first grid point behind it
        # The sign of ``total`` is +1 where the ray along the axis leaves through the face.
        turns.index_add_(0, (line[:, 0] * count + line[:, 1]) * (count + 1) + first, total.sign().long())
    return turns.view(count, count, count + 1)


def _cross(p: Tensor, q: Tensor) -> Tensor:
    return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
