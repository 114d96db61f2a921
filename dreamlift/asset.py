"""What a run makes: a textured mesh, its pictures, and the settings that it was made with."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamlift.config.schema import Config
from dreamlift.export import EXPORTERS
from dreamlift.export.page import page_of
from dreamlift.export.placement import Placement
from dreamlift.export.splats import save_splats
from dreamlift.types import Cameras, Mesh, Splats


@dataclass(frozen=True)
class Asset:
    """A finished asset. ``print`` shows a line; in a notebook it shows itself turning."""

    mesh: Mesh
    config: Config
    cameras: Cameras  # 8 views around the object
    views: Tensor  # (8, S, S, 3) the scene's own renders from them, on white
    metrics: dict[str, float] = field(default_factory=dict)
    others: tuple[Asset, ...] = ()  # of the other particles, where there are several
    lods: tuple[Mesh, ...] = ()  # coarser and coarser versions of the mesh, where they were asked for
    splats: Splats | None = None  # the Gaussians themselves, where the last scene was made of them

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def placement(self) -> Placement:
        """Where the mesh, which is in the scene's coordinates, stands in files; its levels of detail and the Gaussians, too."""
        return self.config.asset.place(self.mesh)

    def save(self, path: str | Path, level: int = 0) -> Path:
        """Write the asset in the format that the suffix names (.glb, .obj, .ply, .stl, .usdz).

        Args:
            level: 0 is the mesh; 1 and up are its coarser versions, as far as ``asset.lod`` asked for them.

        Raises:
            ValueError: the suffix is not one of :data:`dreamlift.export.EXPORTERS`, or what writes it is not installed.
        """
        path = Path(path)
        kind = path.suffix.lower().lstrip(".")
        if kind not in EXPORTERS:
            raise ValueError(f"unknown format {path.suffix!r} in {path.name!r}; accepted: {', '.join(EXPORTERS)}")
        EXPORTERS[kind](self.placement.apply([self.mesh, *self.lods][level]), path, self._extras())
        return path

    def save_splats(self, path: str | Path) -> Path:
        """Write the Gaussians (.ply), at the place and in the size of the mesh's files.

        Raises:
            ValueError: the last scene was not made of Gaussians.
        """
        if self.splats is None:
            raise ValueError("the asset has no Gaussians: end with a gaussians scene, or save the mesh as .glb")
        save_splats(self.placement.apply_splats(self.splats), path, self._extras())
        return Path(path)

    def _extras(self) -> dict[str, Any]:
        return {"prompt": self.config.prompt, "seed": self.config.seed, "placement": self.placement.to_extras()}

    def __repr__(self) -> str:
        """One line; the default would print every vertex."""
        more = f", {1 + len(self.others)} particles" if self.others else ""
        gaussians = f", {len(self.splats.means):,} Gaussians" if self.splats is not None else ""
        mesh = f"{len(self.mesh.faces):,} faces, {len(self.mesh.vertices):,} vertices"
        return f"Asset({self.config.prompt!r}, seed {self.seed}, {mesh}{gaussians}{more})"

    def _repr_html_(self) -> str:
        """The asset turning, for notebooks: the page of ``view.html`` in a frame, with nothing to fetch."""
        with tempfile.TemporaryDirectory() as folder:
            glb = self.save(Path(folder) / "asset.glb")
            page = page_of(glb, self.config.prompt)
        source = base64.b64encode(page.encode("utf-8")).decode("ascii")
        return f'<iframe width="480" height="360" style="border:0" src="data:text/html;base64,{source}"></iframe>'
