"""Settings of an asset's files: formats, size, pivot, levels of detail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dreamlift.export import EXPORTERS, check_formats
from dreamlift.export.placement import Pivot, Placement, place
from dreamlift.types import Mesh

MAX_LOD = 8


@dataclass(frozen=True)
class Files:
    """The files that are written at the end of a run."""

    formats: tuple[str, ...] = ("glb",)  # file formats: glb, obj, ply, stl, 3mf, usdz; a run writes the GLB in any case
    # length of the longest side, meters, 0.0001 to 10000; null: the scene's units; STL and 3MF have print_size instead
    scale: float | None = 1.0
    print_size: float | None = 100.0  # longest side in STL and 3MF, millimeters, 0.1 to 10000; null: that of the other files
    pivot: Pivot = "center"  # origin of the file: center or base of the bounding box; mesh: as in the file of --mesh
    splats_axes: Literal["y-up", "y-down"] = "y-up"  # axes of splats.ply: y-up (as the GLB) or y-down (as trained scenes)
    lod: int = 1  # levels of detail, 1 to 8; each has half the faces and half the texture size of the previous one
    # set by the run: placement of the initial mesh, as its file's units per world unit, and the world origin in its file
    home: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in EXPORTERS]
        if unknown or not self.formats:
            what = f"unknown format {unknown[0]!r}" if unknown else "no format"
            raise ValueError(f"{what}; accepted: {', '.join(EXPORTERS)}")
        if self.scale is not None and not 1e-4 <= self.scale <= 1e4:
            raise ValueError(f"scale is {self.scale:g}; accepted: 0.0001 to 10000 meters, or null")
        if self.print_size is not None and not 0.1 <= self.print_size <= 1e4:
            raise ValueError(f"print_size is {self.print_size:g}; accepted: 0.1 to 10000 millimeters, or null")
        if not 1 <= self.lod <= MAX_LOD:
            raise ValueError(f"lod is {self.lod}; accepted: 1 to {MAX_LOD}")

    def check(self) -> None:
        """Check that the files can be written.

        Raises:
            ValueError: a format needs a package that is not installed, or the pivot is "mesh" without an initial mesh.
        """
        check_formats(self.formats)
        if self.pivot == "mesh" and self.home is None:
            raise ValueError("pivot is 'mesh', but no mesh was given: name it with --mesh, or use center or base")

    def place(self, mesh: Mesh) -> Placement:
        """The placement of ``mesh``, which is in the scene's coordinates, in its files."""
        if self.pivot != "mesh":
            return place(mesh, self.scale, self.pivot)
        self.check()
        assert self.home is not None
        return Placement(self.home[0], self.home[1:])

    def printed(self, mesh: Mesh) -> float:
        """The longest side, in millimetres, of ``mesh`` in files for printers."""
        if self.print_size is not None:
            return self.print_size
        used = mesh.vertices[np.unique(mesh.faces)]
        return 1000 * self.place(mesh).scale * float(np.ptp(used, axis=0).max())
