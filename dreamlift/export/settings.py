"""Which files an asset is written to, and how it stands in them."""

from __future__ import annotations

from dataclasses import dataclass

from dreamlift.export import EXPORTERS
from dreamlift.export.placement import Pivot


@dataclass(frozen=True)
class Files:
    """What is written at the end of a run."""

    formats: tuple[str, ...] = ("glb",)  # of glb, obj, ply, stl, usdz; a run always writes the GLB as well
    scale: float | None = 1.0  # metres of the longest side; null keeps the scene's own units
    pivot: Pivot = "center"  # what lies at the origin: the middle of the bounding box, or of its lower side
    lod: int = 1  # levels of detail: each further one has half of the faces, and half the texture's side

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in EXPORTERS]
        if unknown or not self.formats:
            what = f"unknown format {unknown[0]!r}" if unknown else "no format"
            raise ValueError(f"{what}; accepted: {', '.join(EXPORTERS)}")
        if self.scale is not None and not 1e-4 <= self.scale <= 1e4:
            raise ValueError(f"scale is {self.scale:g}; accepted: 0.0001 to 10000 metres, or null")
        if not 1 <= self.lod <= 8:
            raise ValueError(f"lod is {self.lod}; accepted: 1 to 8")
