"""Compiled CPU kernel of marching tetrahedra (:mod:`dreamlift.scenes.tetmesh.tets`), with the same order of the results.

Each grid point has 14 neighbours at the other ends of its edges. In ascending order of their numbers, a corner's are 6 corners
and then 8 centres, and a centre's 8 corners and then 6 centres. An edge is therefore numbered by its inner point and the place
(0 to 13) of its outer one, which needs no sorting.
"""

from __future__ import annotations

import math

import numpy as np

from dreamlift.system.jit import compiled

OUTSIDE = np.float32(0.5)  # the least value of a point on the grid's border, in cells


@compiled
def march(inside: np.ndarray, n: int, table: np.ndarray, counts: np.ndarray, edges: np.ndarray) -> tuple:
    """The surface's vertices and faces: ``ends (V, 2)`` and ``faces (F, 3)`` of :class:`Crossing`, int64.

    Args:
        inside: ``(points,)`` uint8, 0 or 1. n: cubes per side.
        table, counts: of :func:`dreamlift.scenes.tetmesh.tets.triangle_table`. edges: ``(6, 2)``, a tetrahedron's edges.
    """
    m = n + 1
    first_centre = m * m * m
    corner_strides, centre_strides = (m * m, m, 1), (n * n, n, 1)
    # 1. The octahedra with points on both sides, as their first centre and their ring's first corner, by axis.
    found, rings = np.empty(16384, np.int64), np.empty(16384, np.int64)
    starts = np.zeros(4, np.int64)
    sums = np.empty(n, np.uint8)
    total = 0
    for axis in range(3):
        step, ahead = centre_strides[axis], corner_strides[axis]
        u, v = corner_strides[(axis + 1) % 3], corner_strides[(axis + 2) % 3]
        length = n - (axis == 2)
        for x in range(n - (axis == 0)):
            for y in range(n - (axis == 1)):
                centre = first_centre + (x * n + y) * n
                corner = (x * m + y) * m + ahead
                one, two = inside[centre : centre + length], inside[centre + step : centre + step + length]
                a, b = inside[corner : corner + length], inside[corner + u : corner + u + length]
                c, d = inside[corner + v : corner + v + length], inside[corner + u + v : corner + u + v + length]
                any_mixed = 0
                for z in range(length):  # a loop that the compiler vectorizes
                    sums[z] = one[z] + two[z] + a[z] + b[z] + c[z] + d[z]
                    any_mixed |= (sums[z] != 0) & (sums[z] != 6)
                if not any_mixed:
                    continue
                for z in range(length):
                    if sums[z] == 0 or sums[z] == 6:
                        continue
                    if total == len(found):
                        found = np.concatenate((found, np.empty(total, np.int64)))
                        rings = np.concatenate((rings, np.empty(total, np.int64)))
                    found[total], rings[total] = centre + z, corner + z
                    total += 1
        starts[axis + 1] = total
    # 2. The triangles, with each corner's edge as (inner point, place of the outer one, outer point).
    inner, outer = np.empty((8 * total, 3), np.int64), np.empty((8 * total, 3), np.int64)
    places = np.empty((8 * total, 3), np.int64)
    used = np.zeros(len(inside), np.uint8)
    points, at = np.empty(4, np.int64), np.empty((4, 4), np.int64)
    bit = (4, 2, 1)
    ups, downs = (5, 4, 3), (0, 1, 2)  # the place of the next and of the previous point along each axis
    count = 0
    for axis in range(3):
        step, second, third = centre_strides[axis], (axis + 1) % 3, (axis + 2) % 3
        u, v = corner_strides[second], corner_strides[third]
        at[0, 1], at[1, 0] = 8 + ups[axis], 8 + downs[axis]
        for k in range(4):
            this_u, this_v = int(k == 1 or k == 2), int(k >= 2)
            next_u, next_v = int(k <= 1), int(k == 1 or k == 2)
            # From a centre, a corner's place has a bit for each axis along which it is the upper one.
            at[1, 2], at[1, 3] = bit[second] * this_u + bit[third] * this_v, bit[second] * next_u + bit[third] * next_v
            at[0, 2], at[0, 3] = at[1, 2] + bit[axis], at[1, 3] + bit[axis]
            for i in range(2):
                for j in range(2, 4):
                    at[j, i] = 6 + 7 - at[i, j]
            along = second if this_u != next_u else third
            up = next_u > this_u or next_v > this_v
            at[2, 3], at[3, 2] = (ups[along], downs[along]) if up else (downs[along], ups[along])
            this, following = u * this_u + v * this_v, u * next_u + v * next_v
            for i in range(starts[axis], starts[axis + 1]):
                points[0], points[1] = found[i], found[i] + step
                points[2], points[3] = rings[i] + this, rings[i] + following
                case = 0
                for j in range(4):
                    case += inside[points[j]] << j
                for t in range(counts[case]):
                    for j in range(3):
                        edge = table[case, t, j]
                        p, q = edges[edge, 0], edges[edge, 1]
                        if not case >> p & 1:
                            p, q = q, p
                        inner[count, j], places[count, j], outer[count, j] = points[p], at[p, q], points[q]
                        used[points[p]] = 1
                    count += 1
    # 3. A row of 14 edges for each inner point, in ascending order.
    rank = np.empty(len(inside), np.int32)
    kept = 0
    for p in range(len(inside)):
        rank[p] = kept
        kept += used[p]
    rows = np.full(14 * kept, -1, np.int64)
    faces = np.empty((count, 3), np.int64)
    for i in range(count):
        for j in range(3):
            faces[i, j] = 14 * rank[inner[i, j]] + places[i, j]
            rows[faces[i, j]] = outer[i, j]
    # 4. The vertices in ascending order of their edges.
    number = np.empty(14 * kept, np.int64)
    vertices = 0
    for i in range(14 * kept):
        number[i] = vertices
        vertices += rows[i] >= 0
    ends = np.empty((vertices, 2), np.int64)
    for p in range(len(inside)):
        if used[p]:
            for i in range(14 * rank[p], 14 * rank[p] + 14):
                if rows[i] >= 0:
                    ends[number[i], 0], ends[number[i], 1] = p, rows[i]
    for i in range(count):
        for j in range(3):
            faces[i, j] = number[faces[i, j]]
    return ends, faces


@compiled
def vertices_forward(
    grid: tuple, ends: np.ndarray, reach: float, first: int, last: int, out: tuple
) -> None:  # fmt: skip
    """The vertices ``first..last`` on the edges ``ends (V, 2)``, the inner point first.

    Args:
        grid: (values (P,), border (P,) uint8, offsets before tanh (P, 3), positions (P, 3)); a border point's value is at
            least :data:`OUTSIDE`. reach: world units of a full offset.
        out: (vertices (V, 3), shares (V,), offsets after tanh (V, 2, 3)).
    """
    values, border, shift, base = grid
    vertices, shares, moved = out
    scale = np.float32(reach)
    for i in range(first, last):
        p, q = ends[i, 0], ends[i, 1]
        outer = max(values[q], OUTSIDE) if border[q] else values[q]
        share = values[p] / (values[p] - outer)
        shares[i] = share
        for a in range(3):
            one, two = np.float32(math.tanh(shift[p, a])), np.float32(math.tanh(shift[q, a]))
            moved[i, 0, a], moved[i, 1, a] = one, two
            inner, other = base[p, a] + scale * one, base[q, a] + scale * two
            vertices[i, a] = inner + share * (other - inner)


@compiled
def vertices_backward(grid: tuple, ends: np.ndarray, reach: float, saved: tuple, grad: np.ndarray, out: tuple) -> None:
    """The gradient of :func:`vertices_forward`, added to ``out``: those of the values and of the offsets.

    ``grid`` is (values, border, positions), ``saved`` is (shares, offsets after tanh).
    """
    values, border, base = grid
    shares, moved = saved
    of_values, of_shift = out
    scale, one = np.float32(reach), np.float32(1.0)
    for i in range(len(ends)):
        p, q = ends[i, 0], ends[i, 1]
        share, slope = shares[i], np.float32(0.0)
        for a in range(3):
            g, m, n = grad[i, a], moved[i, 0, a], moved[i, 1, a]
            slope += g * ((base[q, a] + scale * n) - (base[p, a] + scale * m))
            of_shift[p, a] += g * (one - share) * scale * (one - m * m)
            of_shift[q, a] += g * share * scale * (one - n * n)
        held = border[q] and values[q] < OUTSIDE
        outer = OUTSIDE if held else values[q]
        away = values[p] - outer
        by = slope / (away * away)
        of_values[p] -= by * outer
        if not held:
            of_values[q] += by * values[p]
