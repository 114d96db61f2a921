"""Solidity: a scalar field, derived from a density field, whose isosurface bounds what pictures show as solid.

A radiance field is trained on pictures, which determine only what light from outside reaches. Below an opaque shell the
density keeps its initial value, and a faint haze around thin parts does not change the pictures. A threshold on the density
alone turns the former into cavities and thickens the latter. A point therefore counts as solid

* if little light reaches it from *any* side: V(x) = max_d exp(-integral of the density from outside to x along d), or
* if its own density is well above the threshold that matches the outlines (thin parts that let some light through).

V is the maximum over the 26 lattice directions, along which the integral is a running sum over the grid, without resampling.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

REACHED = 0.75  # V on the surface
DENSE = 2.0  # multiple of the outline threshold above which a point is solid whatever its V


def visibility(density: Tensor, cell: float) -> Tensor:
    """V ``(X, Y, Z)`` in (0, 1]: the largest share of light that reaches each grid point from one of 26 directions.

    Args:
        density: ``(X, Y, Z)``, not negative, per world unit; 0 outside the grid.
        cell: world units between neighbouring samples.
    """
    least = torch.full_like(density, math.inf)
    for x, y, z in itertools.product((-1, 0, 1), repeat=3):
        if (x, y, z) != (0, 0, 0):
            least = torch.minimum(least, _optical_depth(density, cell, (x, y, z)))
    return torch.exp(-least)


def solidity(density: Tensor, cell: float, threshold: float) -> Tensor:
    """A scalar field ``(X, Y, Z)`` that is above 0.5 where the field is solid.

    Args:
        density, cell: as for :func:`visibility`.
        threshold: the density whose isosurface matches the outlines (:func:`dreamlift.meshing.isosurface.find_threshold`).
    """
    hidden = 0.5 * (1 - visibility(density, cell)) / (1 - REACHED)
    dense = 1 - torch.exp2(-density / (DENSE * threshold))
    return torch.maximum(hidden, dense)


def _optical_depth(density: Tensor, cell: float, direction: tuple[int, int, int]) -> Tensor:
    """The integral of the density ``(X, Y, Z)`` from outside to each grid point, along a lattice ``direction``."""
    axis = next(i for i in range(3) if direction[i] != 0)
    first, second = (direction[i] for i in range(3) if i != axis)
    length = cell * math.sqrt(sum(abs(component) for component in direction))
    slices = density.movedim(axis, 0)
    rows, columns = slices.shape[1:]
    order = range(len(slices)) if direction[axis] > 0 else range(len(slices) - 1, -1, -1)
    arrived = torch.zeros_like(slices[0])
    out = torch.empty_like(slices)
    for i in order:
        out[i] = arrived + 0.5 * length * slices[i]
        passed = arrived + length * slices[i]
        # Shifted sideways by one cell; rays that enter from beside the grid have optical depth 0.
        arrived = torch.zeros_like(passed)
        arrived[max(first, 0) : rows + min(first, 0), max(second, 0) : columns + min(second, 0)] = passed[
            max(-first, 0) : rows + min(-first, 0), max(-second, 0) : columns + min(-second, 0)
        ]
    return out.movedim(0, axis)
