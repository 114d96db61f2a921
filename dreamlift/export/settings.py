"""Which files an asset is written to, and how it stands in them."""

from __future__ import annotations

from dataclasses import dataclass

from dreamlift.export import EXPORTERS, check_formats
from dreamlift.export.placement import Pivot, Placement, place
from dreamlift.types import Mesh

MAX_LOD = 8


@dataclass(frozen=True)
class Files:
    """What is written at the end of a run."""

    formats: tuple[str, ...] = ("glb",)  # of glb, obj, ply, stl, usdz; a run always writes the GLB as well
    scale: float | None = 1.0  # metres of the longest side; null keeps the scene's own units
    pivot: Pivot = "center"  # at the origin: the bounding box's middle, or its lower side's; "mesh": as the file of --mesh
    lod: int = 1  # levels of detail: each further one has half of the faces, and half the texture's side
    # Of the mesh that a run began with: its file's units a world unit, and where the world's origin lies. Noted by the run.
    home: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in EXPORTERS]
        if unknown or not self.formats:
            what = f"unknown format {unknown[0]!r}" if unknown else "no format"
            raise ValueError(f"{what}; accepted: {', '.join(EXPORTERS)}")
        if self.scale is not None and not 1e-4 <= self.scale <= 1e4:
            raise ValueError(f"scale is {self.scale:g}; accepted: 0.0001 to 10000 metres, or null")
        if not 1 <= self.lod <= MAX_LOD:
            raise ValueError(f"lod is {self.lod}; accepted: 1 to {MAX_LOD}")

    def check(self) -> None:
        """Refuse what cannot be written.

        Raises:
            ValueError: what writes a format is not installed, or the pivot is that of a mesh that there is not.
        """
        check_formats(self.formats)
        if self.pivot == "mesh" and self.home is None:
            raise ValueError("pivot is 'mesh', but no mesh was given to begin with: name it with --mesh, or use center or base")

    def place(self, mesh: Mesh) -> Placement:
        """Where ``mesh``, which is in the scene's coordinates, stands in its files."""
        if self.pivot != "mesh":
            return place(mesh, self.scale, self.pivot)
        self.check()
        assert self.home is not None
        return Placement(self.home[0], self.home[1:])
