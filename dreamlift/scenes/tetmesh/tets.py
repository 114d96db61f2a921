"""Marching tetrahedra on a body-centred grid: the zero level set of values at the grid points, as a closed mesh.

The grid points are the corners and the centres of n^3 cubes. The centres of two neighbouring cubes and the four corners of
their common face form an octahedron, which is divided into four tetrahedra around the line of centres: ``12 n^2 (n - 1)``
tetrahedra, all congruent, with better angles than a division of each cube into 5 or 6 (body-centred lattice; Labelle and
Shewchuk 2007, "Isosurface Stuffing", section 3, https://doi.org/10.1145/1276377.1276448). The tetrahedra are not stored: the
octahedra that the surface crosses are found from the signs, and their tetrahedra follow from their positions.

An edge between values a < 0 (inside) at p and b > 0 at q has the vertex (b p - a q) / (b - a), which is differentiable in all
four (Shen et al. 2021, "Deep Marching Tetrahedra", equation 3, https://arxiv.org/abs/2111.04276).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamlift.scenes.tetmesh import tets_numba
from dreamlift.system import jit

# The edges of a tetrahedron (0, 1, 2, 3).
EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


@dataclass(frozen=True)
class TetGrid:
    """A body-centred grid of ``cubes^3`` cubes over ``[-extent, extent]^3``."""

    cubes: int  # per side, at least 2
    extent: float  # half the edge of the grid, world units

    @property
    def cell(self) -> float:
        """Edge of a cube, world units."""
        return 2 * self.extent / self.cubes

    @property
    def points(self) -> int:
        """Number of grid points, corners and centres."""
        return (self.cubes + 1) ** 3 + self.cubes**3

    @property
    def tets(self) -> int:
        """Number of tetrahedra."""
        return 12 * self.cubes**2 * (self.cubes - 1)

    def positions(self) -> Tensor:
        """World positions ``(points, 3)`` float32: the corners in the order x, y, z (z fastest), then the centres."""
        corner = torch.linspace(-self.extent, self.extent, self.cubes + 1)
        centre = (corner[1:] + corner[:-1]) / 2
        parts = [torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3) for axis in (corner, centre)]
        return torch.cat(parts)

    def border(self) -> Tensor:
        """Mask ``(points,)`` of the grid's boundary; a surface is closed if these points are outside."""
        parts = []
        for count in (self.cubes + 1, self.cubes):
            mask = torch.ones(count, count, count, dtype=torch.bool)
            mask[1:-1, 1:-1, 1:-1] = False
            parts.append(mask.view(-1))
        return torch.cat(parts)

    def crossed(self, inside: Tensor) -> Tensor:
        """The tetrahedra ``(T, 4)``, positively oriented, of the octahedra with points on both sides.

        ``inside (points,)`` is bool.
        """
        n = self.cubes
        corners = inside[: (n + 1) ** 3].view(n + 1, n + 1, n + 1).to(torch.uint8)
        centres = inside[(n + 1) ** 3 :].view(n, n, n).to(torch.uint8)
        found = []
        for axis in range(3):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            total = centres.narrow(axis, 0, n - 1) + centres.narrow(axis, 1, n - 1)
            for du, dv in ((0, 0), (1, 0), (1, 1), (0, 1)):
                total = total + corners.narrow(axis, 1, n - 1).narrow(u, du, n).narrow(v, dv, n)
            cube = torch.nonzero((total > 0) & (total < 6))  # (O, 3) the cube with the lower index
            step = torch.zeros(3, 3, dtype=torch.int64, device=inside.device)
            step[range(3), [axis, u, v]] = 1
            first, second = self._centre(cube), self._centre(cube + step[0])
            ring = [self._corner(cube + step[0] + du * step[1] + dv * step[2]) for du, dv in ((0, 0), (1, 0), (1, 1), (0, 1))]
            for k in range(4):
                found.append(torch.stack([first, second, ring[k], ring[(k + 1) % 4]], dim=1))
        return torch.cat(found)

    def _corner(self, where: Tensor) -> Tensor:
        n = self.cubes + 1
        return (where[:, 0] * n + where[:, 1]) * n + where[:, 2]

    def _centre(self, where: Tensor) -> Tensor:
        n = self.cubes
        return (n + 1) ** 3 + (where[:, 0] * n + where[:, 1]) * n + where[:, 2]


@dataclass(frozen=True)
class SurfaceGrid:
    """The values from which a surface is made, at P grid points."""

    values: Tensor  # (P,) negative inside
    shift: Tensor  # (P, 3) offsets before tanh
    base: Tensor  # (P, 3) positions without offsets, world units
    border: Tensor  # (P,) bool, always outside
    reach: float  # the largest offset, world units

    def held(self) -> Tensor:
        """The values, on the border at least :data:`~dreamlift.scenes.tetmesh.tets_numba.OUTSIDE`."""
        return torch.where(self.border, self.values.clamp(min=float(tets_numba.OUTSIDE)), self.values)


@dataclass(frozen=True)
class Crossing:
    """The topology of a surface: the grid edges that it crosses, one vertex each, and its faces; no gradients."""

    ends: Tensor  # (V, 2) int64 the grid points of each vertex's edge, the inner one first
    faces: Tensor  # (F, 3) int64, counter-clockwise from outside


@torch.no_grad()
def crossing_of(grid: TetGrid, inside: Tensor) -> Crossing:
    """The topology of the surface around the points of the mask ``inside (points,)``; empty without such points.

    The surface is closed if the grid's boundary (:meth:`TetGrid.border`) is outside.
    """
    if inside.device.type == "cpu" and jit.fast_kernels_available():
        table, counts = triangle_table()
        ends, faces = tets_numba.march(
            jit.array(inside.view(torch.uint8)), grid.cubes, table.numpy(), counts.numpy(), np.array(EDGES)
        )
        return Crossing(torch.from_numpy(ends), torch.from_numpy(faces))
    return crossing_torch(grid, inside)


def crossing_torch(grid: TetGrid, inside: Tensor) -> Crossing:
    """:func:`crossing_of` in torch, on any device."""
    tets = grid.crossed(inside)
    case = (inside[tets] * torch.tensor([1, 2, 4, 8], device=inside.device)).sum(1)
    mixed = torch.nonzero((case > 0) & (case < 15)).flatten()
    tets, case = tets[mixed], case[mixed]
    table, counts = (part.to(inside.device) for part in triangle_table())
    owner = torch.repeat_interleave(torch.arange(len(tets), device=inside.device), counts[case])
    turn = torch.arange(len(owner), device=inside.device) - (counts[case].cumsum(0) - counts[case])[owner]
    local = torch.tensor(EDGES, device=inside.device)[table[case[owner], turn]]  # (F, 3, 2)
    ends = tets[owner[:, None, None], local]
    # The inner point comes first, so that each edge has a unique key and yields a single vertex.
    ends = torch.where(inside[ends[..., :1]], ends, ends.flip(-1))
    key, faces = torch.unique(ends[..., 0] * grid.points + ends[..., 1], return_inverse=True)
    split = torch.stack([torch.div(key, grid.points, rounding_mode="floor"), key % grid.points], dim=1)
    return Crossing(split, faces)


def surface_vertices(grid: SurfaceGrid, ends: Tensor, margin: float = 0.0) -> Tensor:
    """Vertices ``(V, 3)`` on the edges ``ends (V, 2)``, the inner point first, differentiable in values and offsets.

    Args:
        margin: the smallest distance of a vertex from a grid point, as a fraction of the edge; near the points, triangles
            would degenerate.
    """
    if margin == 0 and jit.usable(grid.values, grid.shift):
        return _Vertices.apply(grid.values, grid.shift, ends, grid.base, grid.border, grid.reach)  # pyright: ignore
    both = ends.flatten()
    moved = grid.reach * grid.shift.index_select(0, both).tanh()
    positions = (grid.base.index_select(0, both) + moved).view(-1, 2, 3)
    return edge_vertices(positions, grid.held().index_select(0, both).view(-1, 2), margin)


def edge_vertices(positions: Tensor, values: Tensor, margin: float = 0.0) -> Tensor:
    """Differentiable vertices ``(V, 3)`` from the ``positions (V, 2, 3)`` and ``values (V, 2)`` of their edges' ends.

    ``margin`` (a fraction of the edge) keeps vertices away from the grid points, where triangles would degenerate.
    """
    share = values[:, 0] / (values[:, 0] - values[:, 1])
    if margin > 0:
        share = share.clamp(margin, 1 - margin)
    return positions[:, 0] + share[:, None] * (positions[:, 1] - positions[:, 0])


class _Vertices(torch.autograd.Function):
    """Numba version of :func:`surface_vertices`."""

    @staticmethod
    def forward(ctx, values: Tensor, shift: Tensor, ends: Tensor, base: Tensor, border: Tensor, reach: float):
        vertices, shares = values.new_empty(len(ends), 3), values.new_empty(len(ends))
        moved = values.new_empty(len(ends), 2, 3)
        mask = jit.array(border.view(torch.uint8))
        grid = (jit.array(values), mask, jit.array(shift), jit.array(base))
        edges, out = ends.numpy(), (vertices.numpy(), shares.numpy(), moved.numpy())
        jit.parallel_ranges(lambda low, high: tets_numba.vertices_forward(grid, edges, reach, low, high, out), len(edges), 2048)
        ctx.save_for_backward(values, shares, moved)
        ctx.kept = mask, ends, base, reach
        return vertices

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        values, shares, moved = ctx.saved_tensors
        mask, ends, base, reach = ctx.kept
        of_values, of_shift = torch.zeros_like(values), values.new_zeros(len(values), 3)
        grid, saved = (jit.array(values), mask, jit.array(base)), (shares.numpy(), moved.numpy())
        tets_numba.vertices_backward(grid, ends.numpy(), reach, saved, jit.array(grad), (of_values.numpy(), of_shift.numpy()))
        return of_values, of_shift, None, None, None, None


@functools.lru_cache(maxsize=1)
def triangle_table() -> tuple[Tensor, Tensor]:
    """Triangles as edge indices ``(16, 2, 3)``, and their number ``(16,)``, for each case (bit k: point k is inside)."""
    rows: list[list[tuple[int, int, int]]] = []
    for case in range(16):
        inner = [k for k in range(4) if case >> k & 1]
        outer = [k for k in range(4) if not case >> k & 1]
        if len(inner) in (0, 4):
            rows.append([])
            continue
        # An even permutation of the four points, inner ones first, preserves the tetrahedron's orientation.
        if not _even(inner + outer):
            several = outer if len(outer) > 1 else inner
            several[0], several[1] = several[1], several[0]
        a, b, c, d = inner + outer
        if len(inner) == 1:
            rows.append([(_edge(a, b), _edge(a, c), _edge(a, d))])
        elif len(inner) == 3:
            rows.append([(_edge(a, d), _edge(b, d), _edge(c, d))])
        else:
            ring = (_edge(a, c), _edge(a, d), _edge(b, d), _edge(b, c))
            rows.append([(ring[0], ring[1], ring[2]), (ring[0], ring[2], ring[3])])
    table = torch.zeros(16, 2, 3, dtype=torch.int64)
    for case, row in enumerate(rows):
        if row:
            table[case, : len(row)] = torch.tensor(row)
    return table, torch.tensor([len(row) for row in rows])


def _even(order: list[int]) -> bool:
    return sum(order[i] > order[j] for i in range(4) for j in range(i + 1, 4)) % 2 == 0


def _edge(a: int, b: int) -> int:
    return EDGES.index((min(a, b), max(a, b)))
