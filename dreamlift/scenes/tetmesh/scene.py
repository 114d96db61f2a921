"""The scene ``tetmesh``: a mesh from signed distances on a tetrahedral grid, with a colour field.

DMTet (Shen et al. 2021, "Deep Marching Tetrahedra", https://arxiv.org/abs/2111.04276): each grid point has a signed distance s
(negative inside) and a bounded offset. Every step extracts the mesh by marching tetrahedra, and its renders
(:mod:`dreamlift.raster.soft`) are differentiable in both. It is the second stage of Magic3D (Lin et al. 2023), Fantasia3D
(Chen et al. 2023) and ProlificDreamer (Wang et al. 2023). Shading is as in :mod:`dreamlift.scenes.nerf.scene`.

If no distance is negative, the scene is empty: renders show only the background, with zero gradient, and the training loop
restores the last non-empty state.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dreamlift.cameras import rays_of
from dreamlift.raster.soft import Edges, antialias, edges_of, raster_points
from dreamlift.scenes.background import BACKGROUNDS, Background, Learned, Random, Solid
from dreamlift.scenes.base import ParamGroup, Scene, SceneSettings
from dreamlift.scenes.nerf.field import Blob, Field
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import FIELDS
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.regularizers import normal_smooth
from dreamlift.scenes.tetmesh.initial import distances_of, fit_colors, within
from dreamlift.scenes.tetmesh.regularizers import laplacian, normal_consistency, vertex_consistency, vertex_normals
from dreamlift.scenes.tetmesh.tets import SurfaceGrid, TetGrid, crossing_of, surface_vertices
from dreamlift.shading.lambert import shade
from dreamlift.shading.vectors import safe_normalize
from dreamlift.texturing.extract import Extract, check_room, finish_surface
from dreamlift.types import Cameras, EmptySceneError, Mesh, RenderOutput, Shading

TERMS = ("normal_consistency", "vertex_consistency", "laplacian", "normal_smooth")
MARGIN = 0.02  # smallest distance of an exported vertex from a grid point, relative to the edge
# Peak bytes per pixel, per face with its edges and vertices, and per grid point.
PIXEL, FACE, POINT = 400, 300, 60
FACES_A_SQUARE = 15  # faces of the mesh divided by the squared resolution: 14.6 for a sphere of radius 0.6


@dataclass(frozen=True)
class TetMesh(SceneSettings):
    """Settings of a tetrahedral mesh scene; :meth:`build` creates the scene."""

    terms: ClassVar[tuple[str, ...]] = TERMS

    resolution: int = 32  # n cubes per side; 12 (n+2)^2 (n+1) tetrahedra: 457,776 for 32, 1,470,000 for 48, 3,397,680 for 64
    color: Voxel | Hashgrid = dataclasses.field(
        default_factory=lambda: Voxel(switch_on=(0.0, 0.0, 0.0), blob=Blob("none")), metadata={"choices": FIELDS}
    )  # the field whose albedo is the texture; all its levels are active from the beginning
    # background behind the object
    background: Random | Solid | Learned = dataclasses.field(default_factory=Random, metadata={"choices": BACKGROUNDS})
    radii: tuple[float, float, float] = (0.5, 0.5, 0.5)  # radii (x, y, z) of the initial ellipsoid; unused with an initial mesh
    deform: float = 0.2  # largest offset of a grid point along each axis, in cells; 0 keeps the grid regular
    geometry: bool = True  # train the shape; false trains the colours only
    texture: bool = True  # train the colours; false trains the shape only
    sdf_lr: float = 0.02  # learning rate of the signed distances, in cells (Adam)
    deform_lr: float = 0.02  # learning rate of the offsets, before tanh (Adam)
    redistance: int = 0  # steps between recomputations of the signed distances from the current surface; 0: never
    bounds: float = 1.0  # half the edge of the scene's cube, world units

    def __post_init__(self) -> None:
        if not 4 <= self.resolution <= 256:
            raise ValueError(f"TetMesh.resolution is {self.resolution}; accepted: 4 to 256")
        if self.bounds <= 0 or not all(0 < radius < self.bounds for radius in self.radii):
            raise ValueError(f"TetMesh.radii are {self.radii}; each must lie between 0 and bounds ({self.bounds:g})")
        if not 0.0 <= self.deform <= 0.5:
            raise ValueError(f"TetMesh.deform is {self.deform:g}; accepted: 0 to 0.5 (half a cell)")
        if self.redistance < 0:
            raise ValueError(f"TetMesh.redistance is {self.redistance}; it must not be negative (0: never)")
        if not (self.geometry or self.texture):
            raise ValueError("TetMesh.geometry and TetMesh.texture are both false: nothing would be trained")

    def grid(self) -> TetGrid:
        """The grid, one cube larger than the bounds on every side, so that the surface fits inside."""
        return TetGrid(self.resolution + 2, self.bounds * (1 + 2 / self.resolution))

    def build(self, rng: torch.Generator, device: torch.device | str = "cpu", initial_mesh: Mesh | None = None) -> TetMeshScene:
        """See :meth:`SceneSettings.build`. An initial mesh must be closed; it is resampled on this grid.

        Raises:
            ValueError: the mesh exceeds the bounds or encloses no grid point.
        """
        grid = self.grid()
        color, background = self.color.build(self.bounds, rng), self.background.build(rng)
        color.advance(1.0)
        if initial_mesh is None:
            radii = torch.tensor(self.radii)
            unit = (grid.positions() / radii).norm(dim=1)
            distances = (unit - 1) * radii.min()  # exact for a sphere; for an ellipsoid, the zero level set is exact
        else:
            mesh = within(initial_mesh, self.bounds)
            distances = distances_of(mesh, grid)
            fit_colors(color, mesh, grid.cell / 2, rng)
        return TetMeshScene(self, distances / grid.cell, color, background).to(device)

    def parameter_count(self) -> int:
        return 4 * self.grid().points + self.color.parameter_count()

    def step_bytes(self, views: int, side: int) -> int:
        mesh = self.grid().points * POINT + FACES_A_SQUARE * self.resolution**2 * FACE
        return mesh + views * side**2 * (PIXEL + self.color.sample_bytes())


class TetMeshScene(Scene):
    """See the module's docstring."""

    base: Tensor  # (points, 3) the grid points without offsets
    border: Tensor  # (points,) bool, the grid's boundary, which is always outside

    def __init__(self, settings: TetMesh, distances: Tensor, color: Field, background: Background) -> None:
        super().__init__()
        self.settings, self.bounds, self.grid = settings, settings.bounds, settings.grid()
        self.sdf = nn.Parameter(distances.clone(), requires_grad=settings.geometry)  # (points,) in cells
        self.shift = nn.Parameter(torch.zeros(self.grid.points, 3), requires_grad=settings.geometry)
        self.color, self.background = color, background
        color.requires_grad_(settings.texture)
        # Not saved: these follow from the settings.
        self.register_buffer("base", self.grid.positions(), persistent=False)
        self.register_buffer("border", self.grid.border(), persistent=False)
        self._kept: tuple[object, tuple[Tensor, Tensor, Edges]] | None = None  # a frozen shape's mesh, with its key

    def surface(self, margin: float = 0.0) -> tuple[Tensor, Tensor]:
        """The closed mesh: differentiable vertices ``(V, 3)`` in world units and faces ``(F, 3)``; both may be empty."""
        crossing = crossing_of(self.grid, (self.sdf.detach() < 0) & ~self.border)
        grid = SurfaceGrid(self.sdf, self.shift, self.base, self.border, self.grid.cell * self.settings.deform)
        return surface_vertices(grid, crossing.ends, margin), crossing.faces

    def _mesh(self) -> tuple[Tensor, Tensor, Edges]:
        """The surface with its edges; cached while the shape is frozen and its values are unchanged."""
        # In-place changes, such as loading a state, increment a tensor's version; moving a scene changes the other entries.
        key = (self.sdf._version, self.shift._version, self.sdf.device, self.sdf.dtype, self.sdf.data_ptr())
        if self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        vertices, faces = self.surface()
        found = vertices, faces, edges_of(faces)
        self._kept = None if self.settings.geometry else (key, found)
        return found

    def render(
        self,
        cameras: Cameras,
        rng: torch.Generator,
        shading: Shading | None = None,
        *,
        background: Tensor | None = None,
        progress: float = 1.0,
        normals: bool = False,
    ) -> RenderOutput:
        """See :meth:`Scene.render`. ``progress`` is not used. Colours give no gradient to the shape through their positions."""
        cameras = cameras.to(self.base.device)
        vertices, faces, edges = self._mesh()
        seen = raster_points(vertices, faces, cameras)
        points = seen.interpolate(vertices)
        lit = shading is not None and bool((shading.lambertian > 0).any())
        color = self.color.query(points.detach()).albedo
        normal = None
        if normals or lit:
            normal = safe_normalize(seen.interpolate(vertex_normals(vertices, faces)))
        if shading is not None:
            color = shade(color, normal, points, seen.view, shading)
        shown = [color, torch.ones_like(seen.depth), seen.depth, *([normal] if normals and normal is not None else [])]
        picture = antialias(seen.picture(torch.cat(shown, dim=1)), seen, vertices, faces, edges, cameras)
        opacity = picture[..., 3:4]
        backdrop = self.background.behind(background, rays_of(cameras).directions.to(self.base), rng)
        rgb = picture[..., :3] + (1 - opacity) * backdrop
        depth = picture[..., 4:5] / opacity.clamp(min=1e-6)
        aux = {"vertices": vertices, "faces": faces, "edge_ends": edges.ends, "edge_faces": edges.faces}
        return RenderOutput(rgb, opacity, depth, picture[..., 5:] if normals else None, aux if torch.is_grad_enabled() else {})

    def regularize(
        self, render: RenderOutput, progress: float, only: tuple[str, ...] | None = None, rng: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The unweighted terms of :data:`TERMS`, of the whole mesh; normal_smooth of a render with normals."""
        aux, terms = render.aux, {}
        for name in TERMS if only is None else only:
            if name == "normal_consistency":
                terms[name] = normal_consistency(aux["vertices"], aux["faces"], aux["edge_faces"])
            elif name == "vertex_consistency":
                terms[name] = vertex_consistency(aux["vertices"], aux["faces"], aux["edge_ends"])
            elif name == "laplacian":
                terms[name] = laplacian(aux["vertices"], aux["edge_ends"])
            elif name == "normal_smooth":
                if render.normal is not None:
                    terms[name] = normal_smooth(render.normal, render.opacity)
            else:
                raise ValueError(f"Unknown regulariser {name!r}; a tetmesh scene has {', '.join(TERMS)}.")
        return terms

    def param_groups(self) -> list[ParamGroup]:
        groups: list[ParamGroup] = []
        if self.settings.geometry:
            groups.append({"name": "sdf", "params": [self.sdf], "lr": self.settings.sdf_lr})
            groups.append({"name": "shift", "params": [self.shift], "lr": self.settings.deform_lr})
        if self.settings.texture:
            groups += self.color.param_groups()
        return [*groups, *self.background.param_groups()]

    def after_step(
        self, index: int, progress: float, rng: torch.Generator, render: RenderOutput, optimizer: torch.optim.Optimizer
    ) -> None:
        """Recompute the signed distances periodically, as in level-set methods (Sussman et al. 1994,
        https://doi.org/10.1006/jcph.1994.1155).

        Only values next to the surface get a gradient. After large movements the surface crosses edges between values far
        from signed distances, where it becomes rough and moves slowly.
        """
        if self.settings.geometry and self.settings.redistance and (index + 1) % self.settings.redistance == 0:
            self.remake_distances()

    @torch.no_grad()
    def remake_distances(self) -> None:
        """Replace the values by the signed distances to the current surface, and reset the offsets to zero."""
        try:
            self.sdf.copy_(distances_of(self._bare_mesh(), self.grid) / self.grid.cell)
        except ValueError:  # the surface is empty or encloses no grid point: keep the values
            return
        self.shift.zero_()

    def sides(self) -> Tensor:
        """The share ``(2, 3)`` of the grid's corners one cell inside each of its sides that are inside the surface."""
        reach = self.grid.extent - 1.25 * self.grid.cell
        near = torch.stack([self.base > reach, self.base < -reach]) & ~self.border[:, None]  # (2, points, 3)
        return ((self.sdf < 0)[:, None] & near).sum(dim=1) / near.sum(dim=1)

    def _bare_mesh(self) -> Mesh:
        """The surface as a mesh without colours.

        Raises:
            EmptySceneError: no signed distance of the grid is negative.
        """
        vertices, faces = self.surface(MARGIN)
        if len(faces) == 0:
            raise EmptySceneError(
                "the scene is empty: no signed distance of its grid is negative. Train longer, start from a larger shape, or "
                "lower scene.sdf_lr"
            )
        return Mesh(vertices.float().cpu().numpy(), faces.cpu().numpy().astype(np.int32))

    @torch.no_grad()
    def to_mesh(self, settings: Extract) -> Mesh:
        """The current mesh, cleaned to ``settings`` (except the resolution, which is the grid's), with the field's colours.

        Raises:
            EmptySceneError, FullSceneError: it has no surface, or fills its grid.
        """
        fine = self._bare_mesh()
        check_room(self.sides())
        return finish_surface(fine, lambda points, normals: self.color.query(points.to(self.base)).albedo.clamp(0, 1), settings)
