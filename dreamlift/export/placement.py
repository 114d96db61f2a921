"""Where an asset stands in its files, and how large it is: file = scale * world + offset, the axes unchanged.

The vertices themselves are moved when a file is saved. A node transform in the GLB would do there, but PLY, STL and OBJ
have no nodes, and engines take over a node's scale in different ways (as a factor on the object, or not at all where only
the mesh is referred to): changed vertices mean the same everywhere. The numbers go into the GLB's extras, so that
whatever compares a file with the scene gets the scene's own coordinates back.
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

    scale: float = 1.0  # file units (metres) a world unit
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # metres

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and all(map(math.isfinite, self.offset))):
            raise ValueError(f"a placement needs a positive scale and finite offsets, not {self.scale} and {self.offset}")

    def apply(self, mesh: Mesh) -> Mesh:
        """The mesh as a file holds it."""
        moved = mesh.vertices.astype(np.float64) * self.scale + np.asarray(self.offset)
        return replace(mesh, vertices=moved.astype(np.float32))

    def apply_splats(self, splats: Splats) -> Splats:
        """The Gaussians as a file holds them: nothing turns, so that rotations, colours and their harmonics stay."""
        moved = splats.means.astype(np.float64) * self.scale + np.asarray(self.offset)
        larger = splats.log_scales.astype(np.float64) + math.log(self.scale)
        return replace(splats, means=moved.astype(np.float32), log_scales=larger.astype(np.float32))

    def undo(self, mesh: Mesh) -> Mesh:
        """The mesh in the scene's coordinates again, but for the last digit of a float32."""
        moved = (mesh.vertices.astype(np.float64) - np.asarray(self.offset)) / self.scale
        return replace(mesh, vertices=moved.astype(np.float32))

    def to_extras(self) -> dict[str, Any]:
        """As JSON values, for a file's extras."""
        return {"scale": self.scale, "offset": list(self.offset)}

    @staticmethod
    def from_extras(extras: Mapping[str, Any]) -> Placement:
        """What :meth:`to_extras` left under "placement"; the identity where there is nothing.

        Raises:
            ValueError: there is something else under that name.
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
    """The placement that brings ``mesh`` to its size, with its pivot at the origin.

    Args:
        scale: metres of the longest side of the bounding box; None keeps world units.
        pivot: "center" is the middle of the bounding box; "base" is the middle of its lower side (y is 0 at the bottom).
    """
    used = mesh.vertices[np.unique(mesh.faces)].astype(np.float64)
    low, high = used.min(axis=0), used.max(axis=0)
    factor = 1.0 if scale is None else scale / max(float((high - low).max()), 1e-9)
    anchor = 0.5 * (low + high)
    if pivot == "base":
        anchor[1] = low[1]
    x, y, z = (-factor * anchor).tolist()
    return Placement(factor, (x, y, z))
