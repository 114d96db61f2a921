"""From a density field to a finished mesh: isosurface, removal of floaters, hole filling, smoothing, decimation, baking.

Scenes without a density field enter at :func:`finish_surface` with a fine surface and its colours. :func:`finalize` applies to
a scene's mesh those settings that the scene itself has not applied.

The texture is not the field's colour *at* the surface, of which renders show only a part. It is the colour that a short ray
through the surface collects, by the renderer's own quadrature (Max 1995), so that the mesh looks like the renders.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dreamlift.meshing.clean import decimate, remove_floaters, smooth
from dreamlift.meshing.geometry import with_normals
from dreamlift.meshing.isosurface import surface_of_density
from dreamlift.meshing.watertight import fill_holes, is_watertight, make_watertight, weld
from dreamlift.texturing.bake import ColorFunction, bake
from dreamlift.texturing.normal_map import bake_normal_map
from dreamlift.texturing.transfer import Appearance, mean_finish
from dreamlift.texturing.unwrap import MIN_SIZE, unwrap
from dreamlift.types import FullSceneError, Mesh

Density = Callable[[Tensor], Tensor]  # (N, 3) -> (N,)
Albedo = Callable[[Tensor], Tensor]  # (N, 3) -> (N, 3) sRGB

FULL = 0.15  # share of the sides of a scene's cube that is inside the surface, from which on the scene counts as full


@dataclass(frozen=True)
class Extract:
    """How a scene becomes a mesh."""

    resolution: int = 128  # grid points per side at which the density is sampled, 8 to 512
    threshold: float | None = None  # density of the surface, per world unit, > 0; null: chosen to match the renders' outlines
    faces: int = 10_000  # largest number of faces, 4 to 5000000
    texture_size: int = 1024  # texels per side of the textures, 16 to 8192
    smooth: int = 4  # iterations of Taubin smoothing, which removes the grid's steps, at least 0; 0: none
    keep_parts: float = 0.05  # separate parts below this fraction of the largest part's area are removed, in [0, 1]
    depth: float = 0.06  # depth below the surface over which color is collected, world units, > 0
    # close all holes, so that the mesh bounds a solid; null: in the files for printers (STL, 3MF) only
    watertight: bool | None = None
    texture: bool = True  # true: UVs and textures; false: vertex colors
    normal_map: bool = False  # bake the normals of the mesh before decimation into a tangent-space normal map

    def __post_init__(self) -> None:
        for name, low, high in (("resolution", 8, 512), ("faces", 4, 5_000_000), ("texture_size", MIN_SIZE, 8192)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: {low} to {high}")
        if not 0.0 <= self.keep_parts <= 1.0:
            raise ValueError(f"keep_parts is {self.keep_parts:g}; accepted: 0 to 1")
        if self.depth <= 0 or self.smooth < 0 or (self.threshold is not None and self.threshold <= 0):
            raise ValueError("depth and threshold must be positive, and smooth must not be negative")
        if self.normal_map and not self.texture:
            raise ValueError("normal_map needs a texture's UVs, but texture is false; set texture true or normal_map false")


def mesh_of_field(density: Density, albedo: Albedo, bounds: float, settings: Extract) -> Mesh:
    """The textured mesh of a field inside ``[-bounds, bounds]^3``.

    Raises:
        EmptySceneError: the field is nearly transparent everywhere, or below the threshold.
        FullSceneError: it fills the cube.
        ValueError: as :func:`finish_surface`.
    """
    grid = sample_grid(density, bounds, settings.resolution)
    vertices, faces = surface_of_density(grid, (-bounds,) * 3, (bounds,) * 3, settings.threshold)
    check_room(sides_of(vertices, bounds, settings.resolution))
    fine = Mesh(vertices.numpy(), faces.numpy().astype(np.int32))
    mesh = finish_surface(
        fine, lambda points, normals: surface_color(density, albedo, points, normals, settings.depth), settings
    )
    # Decimation may move a surface that is cut off by the cube's sides beyond them, where the next stage would refuse it.
    return replace(mesh, vertices=mesh.vertices.clip(-1.01 * bounds, 1.01 * bounds))


def sides_of(vertices: Tensor, bounds: float, resolution: int) -> Tensor:
    """The share ``(2, 3)`` of each side of the cube ``[-bounds, bounds]^3`` that is inside an isosurface ``vertices (V, 3)``.

    Its caps on a side lie outside of the cube (:func:`dreamlift.meshing.isosurface.isosurface`), a vertex per grid point, of
    which a side has ``resolution`` x ``resolution``.
    """
    return torch.stack([(vertices > bounds).sum(dim=0), (vertices < -bounds).sum(dim=0)]) / resolution**2


def check_room(sides: Tensor) -> None:
    """Refuse a scene that fills its cube, by the share of each side that is solid; warn about one that touches every side.

    Raises:
        FullSceneError: one line with the settings that bear on it.
    """
    said = f"solid at all six sides of its space ({100 * float(sides.mean()):.0f}% of them)"
    fix = "lower adam.lr_scale or guidance.guidance_scale, raise weights.sparsity, or see whether the prior works at all"
    if float(sides.min()) > 0 and float(sides.mean()) >= FULL:
        raise FullSceneError(f"the scene is full: it is {said}; {fix}")
    if float(sides.min()) > 0:
        warnings.warn(f"the scene is {said}, where nothing should be; {fix}", stacklevel=2)


def finish_surface(fine: Mesh, color: ColorFunction, settings: Extract) -> Mesh:
    """The finished mesh of a fine surface (geometry only, no seams) with its colours as a function of world positions.

    Raises:
        ValueError: the surface is inside out, or cannot be closed as the settings require.
    """
    fine = fill_holes(remove_floaters(fine, settings.keep_parts))
    if settings.watertight:
        fine = make_watertight(fine, settings.resolution)
    fine = smooth(fine, settings.smooth) if settings.smooth else fine
    mesh = decimate(fine, settings.faces)
    if not settings.texture:
        return with_vertex_colors(mesh, color)
    mesh = bake(unwrap(mesh, settings.texture_size), color, settings.texture_size)
    return bake_normal_map(mesh, Appearance(fine).normal, settings.texture_size) if settings.normal_map else mesh


def finalize(mesh: Mesh, settings: Extract, keep_faces: bool = False) -> Mesh:
    """A scene's mesh with the settings that the scene may not have applied: watertight, faces and texture.

    A mesh that already complies is returned unchanged. A missing normal map cannot be made here and gives a warning. With
    ``keep_faces`` a mesh above the face budget is decimated only if it must be closed, and otherwise gives a warning.

    Raises:
        EmptySceneError, ValueError: the mesh has no area, or cannot be closed.
    """
    if settings.normal_map and mesh.normal_map is None:
        warnings.warn("this scene has no finer surface than its mesh, so there is no normal map to bake", stacklevel=2)
    open_ = bool(settings.watertight) and not is_watertight(mesh)
    over = len(mesh.faces) > settings.faces
    if over and keep_faces and not open_:
        said = f"the mesh keeps its {len(mesh.faces):,} faces, above the face budget of {settings.faces:,}"
        warnings.warn(said, stacklevel=2)
        over = False
    if not open_ and not over and (settings.texture or mesh.uvs is None):
        return mesh
    look = Appearance(mesh)
    closed = make_watertight(mesh, settings.resolution) if open_ else weld(mesh)
    closed = decimate(closed, settings.faces) if open_ or over else closed
    if not settings.texture or mesh.uvs is None:
        metallic, roughness = mean_finish(mesh)
        return replace(with_vertex_colors(closed, look.color), metallic=metallic, roughness=roughness)
    return baked_like(closed, look, settings.texture_size)


def levels_of_detail(mesh: Mesh, levels: int, texture_size: int) -> tuple[Mesh, ...]:
    """Coarser versions of a finished mesh: level i = 1 .. ``levels`` - 1 has 2^-i of its faces and of its texture's side.

    Each is decimated from the mesh itself and unwrapped anew. Colours, materials and (if there is one) the normal map are
    transferred from the mesh.
    """
    if levels < 2:
        return ()
    look, whole = Appearance(mesh), weld(mesh)
    found = []
    for level in range(1, levels):
        coarse = decimate(whole, max(4, len(mesh.faces) >> level))
        if mesh.uvs is None:
            found.append(with_vertex_colors(coarse, look.color) if mesh.vertex_colors is not None else coarse)
        else:
            found.append(baked_like(coarse, look, max(MIN_SIZE, texture_size >> level)))
    return tuple(found)


def baked_like(mesh: Mesh, look: Appearance, size: int) -> Mesh:
    """``mesh``, unwrapped, with every texture that the mesh of ``look`` has, ``size`` texels per side."""
    mesh = unwrap(mesh, size)
    materials = None
    if look.mesh.metallic_roughness is not None:
        materials = bake(mesh, look.metallic_roughness, size).base_color
    if look.mesh.normal_map is not None:
        mesh = bake_normal_map(mesh, look.normal, size)
    if look.mesh.base_color is not None or look.mesh.vertex_colors is not None:
        mesh = bake(mesh, look.color, size)
    return replace(mesh, metallic_roughness=materials)


def with_vertex_colors(mesh: Mesh, color: ColorFunction) -> Mesh:
    """The mesh with a colour and a normal per vertex."""
    mesh = with_normals(mesh)
    with torch.no_grad():
        colors = color(torch.from_numpy(mesh.vertices).float(), torch.from_numpy(np.array(mesh.vertex_normals)).float())
    return replace(mesh, vertex_colors=colors.float().cpu().clamp(0, 1).numpy())


@torch.no_grad()
def grid_points(bounds: float, resolution: int) -> Tensor:
    """The corners ``(R^3, 3)`` of a grid over ``[-bounds, bounds]^3``; x is the slowest axis, z the fastest."""
    axis = torch.linspace(-bounds, bounds, resolution)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)


def sample_grid(density: Density, bounds: float, resolution: int, chunk: int = 1 << 18) -> Tensor:
    """Densities ``(R, R, R)``, indexed x, y, z, at the corners of a grid over ``[-bounds, bounds]^3``, on the CPU."""
    values = torch.cat([density(part).float().cpu() for part in grid_points(bounds, resolution).split(chunk)])
    return values.view(resolution, resolution, resolution)


def surface_color(density: Density, albedo: Albedo, points: Tensor, normals: Tensor, depth: float, samples: int = 8) -> Tensor:
    """Colours ``(N, 3)`` that rays opposite to the ``normals (N, 3)`` collect at surface ``points (N, 3)``.

    The ray runs from ``depth / 3`` outside to ``depth`` inside; the transmittance left at its end weights the last sample.
    """
    offsets = torch.linspace(depth / 3, -depth, samples)
    places = points[:, None] + offsets[:, None] * normals[:, None]  # (N, S, 3)
    flat = places.reshape(-1, 3)
    optical = density(flat).float().cpu().view(-1, samples) * (4 * depth / 3 / (samples - 1))
    colors = albedo(flat).float().cpu().view(-1, samples, 3)
    passed = torch.cat([torch.zeros_like(optical[:, :1]), optical.cumsum(1)], dim=1)
    reach = torch.exp(-passed)
    weights = torch.cat([reach[:, :-2] - reach[:, 1:-1], reach[:, -2:-1]], dim=1)  # sums to 1
    return (weights[..., None] * colors).sum(1).clamp(0, 1)
