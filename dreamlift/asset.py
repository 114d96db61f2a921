"""The result of a run: a textured mesh, its pictures, and the settings of the run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamlift import notebook
from dreamlift.cameras import turntable
from dreamlift.config.schema import Config
from dreamlift.export import EXPORTERS
from dreamlift.export.page import page_of
from dreamlift.export.placement import Placement
from dreamlift.export.printing import PRINTED, closed, on_the_plate
from dreamlift.export.splats import save_splats, turned_over
from dreamlift.export.video import save_turntable
from dreamlift.texturing.draw import render_mesh
from dreamlift.types import Cameras, Mesh, Splats


@dataclass(frozen=True)
class Asset:
    """A finished asset. ``print`` shows one line, a notebook an interactive view."""

    mesh: Mesh
    config: Config
    cameras: Cameras  # 8 views around the object
    views: Tensor  # (8, S, S, 3) renders of the scene from these cameras, on white
    metrics: dict[str, float] = field(default_factory=dict)
    others: tuple[Asset, ...] = ()  # of the other particles, if there are several
    lods: tuple[Mesh, ...] = ()  # levels of detail 1 and up, each coarser than the one before
    splats: Splats | None = None  # the Gaussians of the last scene; None for other scenes

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def placement(self) -> Placement:
        """The transform from the scene's coordinates (mesh, levels of detail, Gaussians) to those of the files.

        Files for printers (STL, 3MF) have a size and axes of their own, and ``splats_axes`` may turn the Gaussians afterwards.
        """
        return self.config.asset.place(self.mesh)

    def save(self, path: str | Path, level: int = 0) -> Path:
        """Write the asset in the format of the suffix (.glb, .obj, .ply, .stl, .3mf, .usdz).

        STL and 3MF are for printers: millimetres, +z up, ``asset.print_size`` long, and watertight unless ``mesh.watertight``
        is false.

        Args:
            level: level of detail, 0 (the mesh) to ``asset.lod`` - 1.

        Raises:
            ValueError: the suffix is not in :data:`dreamlift.export.EXPORTERS`, or the format's package is not installed.
        """
        return self.save_all(path, level)[0]

    def save_all(self, path: str | Path, level: int = 0) -> list[Path]:
        """As :meth:`save`; returns ``path`` and the files beside it, such as an OBJ's material and pictures."""
        path = Path(path)
        kind = path.suffix.lower().lstrip(".")
        if kind not in EXPORTERS:
            raise ValueError(f"unknown format {path.suffix!r} in {path.name!r}; accepted: {', '.join(EXPORTERS)}")
        mesh = [self.mesh, *self.lods][level]
        placed = self._printed(mesh) if kind in PRINTED else self.placement.apply(mesh)
        return [path, *(EXPORTERS[kind](placed, path, self._extras()) or ())]

    def save_splats(self, path: str | Path) -> Path:
        """Write the Gaussians (.ply), with the placement and size of the mesh's files and the axes of ``asset.splats_axes``.

        Raises:
            ValueError: the last scene has no Gaussians.
        """
        if self.splats is None:
            raise ValueError("the asset has no Gaussians: use a gaussians scene in the last stage, or save the mesh as .glb")
        placed = self.placement.apply_splats(self.splats)
        down = self.config.asset.splats_axes == "y-down"
        axes = "+y down, +z forward" if down else "+y up, front on +z"
        save_splats(turned_over(placed) if down else placed, path, {**self._extras(), "axes": axes})
        return Path(path)

    def _printed(self, mesh: Mesh) -> Mesh:
        """``mesh`` in the coordinates of files for printers."""
        settings = self.config.mesh
        size = self.config.asset.printed(self.mesh)
        return on_the_plate(mesh if settings.watertight is False else closed(mesh, settings.resolution, settings.faces), size)

    def _extras(self) -> dict[str, Any]:
        return {"prompt": self.config.prompt, "seed": self.config.seed, "placement": self.placement.to_extras()}

    def __repr__(self) -> str:
        """One line, since the default would print all vertices."""
        more = f", {1 + len(self.others)} particles" if self.others else ""
        gaussians = f", {len(self.splats.means):,} Gaussians" if self.splats is not None else ""
        mesh = f"{len(self.mesh.faces):,} faces, {len(self.mesh.vertices):,} vertices"
        return f"Asset({self.config.prompt!r}, seed {self.seed}, {mesh}{gaussians}{more})"

    def _repr_html_(self) -> str:
        """For notebooks: the page of ``view.html`` in a frame, self-contained; of a very large asset an animation."""
        with tempfile.TemporaryDirectory() as folder:
            page = page_of(self.save(Path(folder) / "asset.glb"), self.config.prompt)
            if len(page) <= notebook.PAGE_BYTES:
                return notebook.frame(page)
            cameras = turntable(notebook.FRAMES, distance=2.9, fov_deg=42.0, size=notebook.SIDE)
            moving = Path(folder) / "turntable.webp"
            save_turntable(render_mesh(self.mesh, cameras, supersample=1).rgb, moving)
            return f'<img alt="the asset, turning" src="{notebook.data_uri("image/webp", moving.read_bytes())}">'
