"""Marching cubes in plain torch: the surface where a scalar grid crosses a threshold, always closed and manifold.

The method is Lorensen and Cline 1987, "Marching Cubes", https://doi.org/10.1145/37402.37422. The table is
not copied but derived here: on each face of a cube every run of inside corners is cut off by one directed segment, the
segments chain into loops around the inside, and each loop is cut into triangles without a diagonal on a face of the
cube. The two cubes at a face cut it in the same way, so the output has no holes (the paper's 15 cases leave some), and no
diagonal coincides with one of a neighbouring cube, so each edge has exactly two triangles.

The threshold of a density is chosen so that the mesh's outlines match the rendered ones: see :func:`find_threshold`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dreamlift.meshing.geometry import signed_volume
from dreamlift.meshing.solid import solidity
from dreamlift.types import EmptySceneError

# Least distance (in cells) of a crossing from the grid points. Otherwise the vertices around a grid point that equals the
# threshold would coincide, and their triangles would have no area.
MARGIN = 0.01
# Where the surface is cut off by the border of the grid, its cap lies this far (in cells) outside of the border.
CAP = 0.05
# A field is empty if no axis-parallel ray through it reaches this opacity.
VISIBLE_OPACITY = 0.1

# Corner c of a cube lies at (c & 1, c >> 1 & 1, c >> 2 & 1). An edge is its axis and its lower corner.
EDGES = tuple((axis, corner) for axis in range(3) for corner in range(8) if not corner >> axis & 1)


def isosurface(
    values: Tensor, threshold: float, low: Sequence[float] | Tensor | float, high: Sequence[float] | Tensor | float
) -> tuple[Tensor, Tensor]:
    """The closed surface around ``values > threshold``.

    Args:
        values: ``(X, Y, Z)``, at least 2 along each axis; ``values[i, j, k]`` is sampled at the i-th x, j-th y, k-th z.
        threshold: in the units of ``values``. Larger is inside, so pass ``-sdf`` for a signed distance.
        low: world position of ``values[0, 0, 0]``: ``(3,)``, or one number for the three axes.
        high: world position of ``values[-1, -1, -1]``.

    Returns:
        vertices ``(V, 3)`` in the dtype of ``values`` (differentiable in them), and faces ``(F, 3)`` int64,
        counter-clockwise from outside. An inside that touches the border is capped 0.05 cells outside of it.

    Raises:
        EmptySceneError: no value lies above the threshold.
        ValueError: the grid has a wrong shape or a value that is not finite.
    """
    _check_grid(values)
    if not bool((values > threshold).any()):
        raise EmptySceneError(
            f"no value of the grid exceeds the threshold {threshold:g} (its values span {float(values.min()):g} to "
            f"{float(values.max()):g}): choose a lower threshold"
        )
    padded = _pad(values, threshold)
    vertices, ids = _edge_vertices(padded, threshold)
    faces = _faces(padded > threshold, ids)
    start = torch.as_tensor(low, dtype=values.dtype, device=values.device).expand(3)
    end = torch.as_tensor(high, dtype=values.dtype, device=values.device).expand(3)
    cells = torch.tensor(values.shape, dtype=values.dtype, device=values.device) - 1
    vertices = start + (vertices - 1) / cells * (end - start)
    volume = signed_volume(vertices.detach().cpu().numpy(), faces.cpu().numpy())
    if volume <= 0:
        raise RuntimeError(f"the surface has the signed volume {volume:g}: is high above low on every axis?")
    return vertices, faces


def find_threshold(density: Tensor, cell: float) -> float:
    """The density whose isosurface has the outlines that the field's renders have.

    In a picture, the field has the opacity A = 1 - exp(-sum density * cell), and the isosurface covers a pixel where the
    column's largest density exceeds the threshold. The threshold minimises the mean of \\|A - covered\\| over six
    pictures; of equally good ones, the middle is taken. One constant for all scenes (threestudio's 25 or 10) gives empty
    or bloated meshes; this criterion needs no constant and no bimodal histogram. The six directions are the axes of an
    icosahedron, all oblique: along the grid's own axes the legs of a table are seen end on, where even a faint haze around
    them is opaque, and the threshold would be too low.

    Args:
        density: ``(X, Y, Z)``, not negative, per world unit.
        cell: world units between neighbouring samples.

    Raises:
        EmptySceneError: every ray through the field is nearly transparent.
        ValueError: the grid has a wrong shape or a value that is not finite.
    """
    _check_grid(density)
    density = density.detach().float().clamp_min(0)
    opacities = [1 - torch.exp(-density.sum(dim=axis) * cell) for axis in range(3)]
    seen = max(float(opacity.max()) for opacity in opacities)
    if seen < VISIBLE_OPACITY:
        raise EmptySceneError(
            f"the scene is empty: no ray through it is dimmed by more than {100 * seen:.2g}% (needed: "
            f"{100 * VISIBLE_OPACITY:g}%); raise steps, or lower weights.sparsity, weights.opaque or adam.lr_scale"
        )
    # Candidates are evenly spaced in the opacity of one cell, the quantity that a renderer uses. The largest is left out:
    # it would give a field of one value an empty mesh.
    peak = 1 - torch.exp(-density.max() * cell)
    levels = torch.linspace(0, 1, 258, dtype=torch.float64)[1:-1] * float(peak)
    candidates = -torch.log1p(-levels.clamp_max(1 - 1e-12)) / cell
    error = torch.zeros(len(candidates), dtype=torch.float64)
    for view in _oblique_views(density):
        opacity = 1 - torch.exp(-view.sum(dim=0) * cell)
        error += _outline_error(view.amax(dim=0).flatten(), opacity.flatten(), candidates)
    best = torch.nonzero(error <= error.min() * (1 + 1e-6)).flatten()
    threshold = float(candidates[best[len(best) // 2]])
    return min(threshold, float(density.max()) * (1 - 1e-6))


def surface_of_density(
    density: Tensor, low: Sequence[float] | Tensor, high: Sequence[float] | Tensor, threshold: float | None = None
) -> tuple[Tensor, Tensor]:
    """The surface of the solid part of a density field (:func:`dreamlift.meshing.solid.solidity`).

    With a ``threshold``, the isosurface of that density instead, with crossings interpolated in the opacity of one cell:
    the density jumps from 0 to hundreds within a cell, so its own linear crossing would lie almost at the outer grid
    point. Arguments, results and errors otherwise as :func:`isosurface` and :func:`find_threshold`.
    """
    _check_grid(density)
    size = torch.as_tensor(high, dtype=torch.float64) - torch.as_tensor(low, dtype=torch.float64)
    cell = float((size / (torch.tensor(density.shape) - 1)).mean())
    density = density.detach().double().clamp_min(0)
    if threshold is None:
        field, level = solidity(density, cell, find_threshold(density, cell)), 0.5
    elif not bool((density > threshold).any()):
        raise EmptySceneError(
            f"no density of the scene exceeds mesh.threshold {threshold:g}: the largest is {float(density.max()):.4g}; lower "
            "mesh.threshold, or set it to null, which chooses it by the renders' outlines"
        )
    else:
        field, level = -torch.expm1(-density * cell), -math.expm1(-threshold * cell)
    vertices, faces = isosurface(field, level, low, high)
    return vertices.float(), faces


def _oblique_views(density: Tensor) -> Iterator[Tensor]:
    """The grid resampled six times, so that an axis of an icosahedron becomes the first dimension.

    The grid may have any shape. Its corners may be rotated out of the new one and are then lost; they are empty in practice
    (a scene fills a ball, not the corners of its cube).
    """
    golden = (1 + 5**0.5) / 2
    shape = torch.tensor(density.shape, device=density.device)
    size = int(shape.max())
    line = (torch.arange(size, device=density.device) - (size - 1) / 2).float()
    frame = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)
    for axis in range(3):
        for sign in (1.0, -1.0):
            along = torch.zeros(3)
            along[axis], along[(axis + 1) % 3] = golden, sign
            side = torch.linalg.cross(along, torch.eye(3)[(axis + 2) % 3])
            basis = torch.stack([along, side, torch.linalg.cross(along, side)])
            basis = torch.nn.functional.normalize(basis, dim=1).to(density.device)
            places = 2 * (frame @ basis) / (shape - 1).clamp_min(1)  # -1..1 from corner to corner
            yield torch.nn.functional.grid_sample(
                density[None, None], places.flip(-1)[None], align_corners=True, padding_mode="zeros"
            )[0, 0]


def _outline_error(peaks: Tensor, opacity: Tensor, candidates: Tensor) -> Tensor:
    """Mean of |opacity - (peaks > c)| over the pixels ``(N,)``, for each candidate ``(C,)``, by one sort."""
    order = torch.argsort(peaks)
    gain = (1 - 2 * opacity[order]).double()  # what covering a pixel adds to the error
    suffix = torch.cat([gain.flip(0).cumsum(0).flip(0), gain.new_zeros(1)])
    first = torch.searchsorted(peaks[order].double(), candidates.to(peaks.device), right=True)
    return ((opacity.double().sum() + suffix[first]) / len(peaks)).cpu()


def _check_grid(values: Tensor) -> None:
    if values.ndim != 3 or min(values.shape) < 2:
        raise ValueError(f"the grid must have shape (X, Y, Z), each at least 2, not {tuple(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the grid holds values that are not finite (NaN or infinity)")


def _pad(values: Tensor, threshold: float) -> Tensor:
    """One layer more on every side, all outside, so that the surface is closed."""
    padded = torch.nn.functional.pad(values[None, None], (1, 1, 1, 1, 1, 1), mode="replicate")[0, 0]
    inner = torch.zeros_like(padded, dtype=torch.bool)
    inner[1:-1, 1:-1, 1:-1] = True
    # The line from the border value v to this one crosses the threshold after CAP of a cell.
    outer = padded - (padded - threshold).clamp_min(0) / CAP
    return torch.where(inner, padded, outer.clamp_max(threshold))


def _edge_vertices(values: Tensor, threshold: float) -> tuple[Tensor, list[Tensor]]:
    """The crossings ``(V, 3)`` in grid units, and for each axis the numbers ``(X, Y, Z)`` of its edges' vertices."""
    inside = values > threshold
    vertices, ids, count = [], [], 0
    for axis in range(3):
        length = values.shape[axis]
        crossed = inside.narrow(axis, 0, length - 1) != inside.narrow(axis, 1, length - 1)
        where = torch.nonzero(crossed)
        first = values.narrow(axis, 0, length - 1)[crossed]
        second = values.narrow(axis, 1, length - 1)[crossed]
        fraction = ((threshold - first) / (second - first)).clamp(MARGIN, 1 - MARGIN)
        vertices.append(where.to(values.dtype) + fraction[:, None] * torch.eye(3).to(values)[axis])
        numbers = torch.zeros(values.shape, dtype=torch.int32, device=values.device)
        numbers[where[:, 0], where[:, 1], where[:, 2]] = torch.arange(
            count, count + len(where), dtype=torch.int32, device=values.device
        )
        ids.append(numbers)
        count += len(where)
    return torch.cat(vertices), ids


def _faces(inside: Tensor, ids: list[Tensor]) -> Tensor:
    """The triangles ``(F, 3)`` int64 of all cubes that the surface crosses."""
    size = [length - 1 for length in inside.shape]
    case = torch.zeros(size, dtype=torch.int16, device=inside.device)
    for corner in range(8):
        x, y, z = corner & 1, corner >> 1 & 1, corner >> 2 & 1
        case += inside[x : x + size[0], y : y + size[1], z : z + size[2]].to(torch.int16) << corner
    cubes = torch.nonzero((case > 0) & (case < 255))
    cases = case[cubes[:, 0], cubes[:, 1], cubes[:, 2]].long()
    # The vertex number of each of the 12 edges of each crossed cube; edges that are not crossed get a 0 that is never read.
    numbers = torch.stack(
        [ids[axis][cubes[:, 0] + (c & 1), cubes[:, 1] + (c >> 1 & 1), cubes[:, 2] + (c >> 2 & 1)] for axis, c in EDGES],
        dim=1,
    ).long()
    table, counts = (tensor.to(inside.device) for tensor in triangle_table())
    owner = torch.repeat_interleave(torch.arange(len(cubes), device=inside.device), counts[cases])
    starts = counts[cases].cumsum(0) - counts[cases]
    local = table[cases[owner], torch.arange(len(owner), device=inside.device) - starts[owner]]  # (F, 3) edges
    return numbers[owner[:, None], local]


@functools.lru_cache(maxsize=1)
def triangle_table() -> tuple[Tensor, Tensor]:
    """For each of the 256 cases its triangles as edge numbers ``(256, T, 3)``, and how many there are ``(256,)``."""
    rows = [[t for loop in _loops(case) for t in _triangulate(loop)[1]] for case in range(256)]
    counts = torch.tensor([len(row) for row in rows])
    table = torch.zeros(256, int(counts.max()), 3, dtype=torch.int64)
    for case, row in enumerate(rows):
        if row:
            table[case, : len(row)] = torch.tensor(row)
    return table, counts


def _loops(case: int) -> list[tuple[int, ...]]:
    """The closed chains of edge numbers that bound the inside corners (bits of ``case``) on the cube's surface."""
    number = {edge: index for index, edge in enumerate(EDGES)}
    follows: dict[int, int] = {}
    for axis in range(3):
        u, v = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        for side in range(2):
            ring = [0, u, u | v, v] if side else [0, v, u | v, u]  # counter-clockwise from outside of the cube
            ring = [corner | side << axis for corner in ring]
            crossings = []  # (edge, enters the inside) around the ring
            for a, b in zip(ring, ring[1:] + ring[:1], strict=True):
                if (case >> a & 1) != (case >> b & 1):
                    direction = (a ^ b).bit_length() - 1
                    crossings.append((number[(direction, min(a, b))], bool(case >> b & 1)))
            for (edge, enters), (after, _) in zip(crossings, crossings[1:] + crossings[:1], strict=True):
                if enters:  # one run of inside corners lies between this crossing and the next
                    follows[edge] = after
    loops = []
    while follows:
        loop = [min(follows)]
        while (after := follows.pop(loop[-1])) != loop[0]:
            loop.append(after)
        loops.append(tuple(loop))
    return loops


def _triangulate(loop: tuple[int, ...]) -> tuple[int, list[tuple[int, int, int]]]:
    """The triangulation with the fewest diagonals on a face of the cube: that number, and its triangles.

    A diagonal on a face could coincide with one of the neighbouring cube, and four triangles would share an edge.
    """
    if len(loop) < 3:
        return 0, []
    best: tuple[int, list[tuple[int, int, int]]] | None = None
    first, last = loop[0], loop[-1]
    for middle in range(1, len(loop) - 1):  # the triangle on the side from first to last
        cost_a, left = _triangulate(loop[: middle + 1])
        cost_b, right = _triangulate(loop[middle:])
        cost = cost_a + cost_b
        cost += middle > 1 and _share_face(first, loop[middle])
        cost += middle < len(loop) - 2 and _share_face(loop[middle], last)
        if best is None or cost < best[0]:
            best = cost, [*left, (first, loop[middle], last), *right]
    assert best is not None
    return best


def _share_face(a: int, b: int) -> bool:
    """True if two edges of the cube lie on one of its faces."""
    (axis_a, corner_a), (axis_b, corner_b) = EDGES[a], EDGES[b]
    return any(axis not in (axis_a, axis_b) and (corner_a >> axis & 1) == (corner_b >> axis & 1) for axis in range(3))
