"""Position and size of an asset in its files: file = scale * world + offset, with the axes unchanged. Files for printers have
their own size and axes (:mod:`dreamlift.export.printing`).

The vertices themselves are transformed when a file is saved. A node transform would work in a GLB, but PLY and OBJ have
no nodes, and engines treat a node's scale differently (as a factor on the object, or not at all if only the mesh is used).
The numbers are stored in the GLB's extras, so that a file can be compared with its scene in the scene's coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dreamlift.types import Mesh, Splats

Pivot = Literal["center", "base", "mesh"]


@dataclass(frozen=True)
class Placement:
    """A uniform scale, then a shift."""

    scale: float = 1.0  # file units (metres) per world unit
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # metres

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and all(map(math.isfinite, self.offset))):
            raise ValueError(f"a placement needs a positive scale and finite offsets, not {self.scale} and {self.offset}")

    def apply(self, mesh: Mesh) -> Mesh:
        """The mesh in the file's coordinates."""
        moved = mesh.vertices.astype(np.float64) * self.scale + np.asarray(self.offset)
        return replace(mesh, vertices=moved.astype(np.float32))

    def apply_splats(self, splats: Splats) -> Splats:
        """The Gaussians in the file's coordinates; without a rotation, quaternions and harmonics do not change."""
        moved = splats.means.astype(np.float64) * self.scale + np.asarray(self.offset)
        larger = splats.log_scales.astype(np.float64) + math.log(self.scale)
        return replace(splats, means=moved.astype(np.float32), log_scales=larger.astype(np.float32))

    def undo(self, mesh: Mesh) -> Mesh:
        """The mesh in the scene's coordinates, the inverse of :meth:`apply` up to float32 rounding."""
        moved = (mesh.vertices.astype(np.float64) - np.asarray(self.offset)) / self.scale
        return replace(mesh, vertices=moved.astype(np.float32))

    def to_extras(self) -> dict[str, Any]:
        """As JSON values, for a file's extras."""
        return {"scale": self.scale, "offset": list(self.offset)}

    @staticmethod
    def from_extras(extras: Mapping[str, Any]) -> Placement:
        """The placement stored under "placement" by :meth:`to_extras`; the identity if there is none.

        Raises:
            ValueError: the entry is malformed.
        """
        found = extras.get("placement")
        if found is None:
            return Placement()
        try:
            x, y, z = map(float, found["offset"])
            return Placement(float(found["scale"]), (x, y, z))
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise ValueError(f"the file's placement is not a scale with an offset of three numbers: {error}") from None


def place(mesh: Mesh, scale: float | None = 1.0, pivot: Literal["center", "base"] = "center") -> Placement:
    """The placement that scales ``mesh`` to its size and puts its pivot at the origin.

    Args:
        scale: length of the bounding box's longest side, in metres; None keeps world units.
        pivot: "center" is the centre of the bounding box, "base" the centre of its bottom side (y is 0 at the bottom).
    """
    used = mesh.vertices[np.unique(mesh.faces)].astype(np.float64)
    low, high = used.min(axis=0), used.max(axis=0)
    factor = 1.0 if scale is None else scale / max(float((high - low).max()), 1e-9)
    anchor = 0.5 * (low + high)
    if pivot == "base":
        anchor[1] = low[1]
    x, y, z = (-factor * anchor).tolist()
    return Placement(factor, (x, y, z))
