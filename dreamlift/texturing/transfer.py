"""The appearance of a mesh as functions of position, for baking onto another mesh of the same surface."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dreamlift.meshing.geometry import area_vectors, with_normals
from dreamlift.meshing.nearest import Nearest
from dreamlift.texturing.bake import rasterize_uvs
from dreamlift.texturing.normal_map import perturbed_normals
from dreamlift.texturing.sampling import colors_at, interpolate, sample_texture
from dreamlift.types import Mesh

NormalFunction = Callable[[Tensor, Tensor], Tensor]  # (N, 3) points, (N, 3) unit normals -> (N, 3) unit normals


class Appearance:
    """Colours, materials and shading normals of a mesh at the nearest points of its surface."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = with_normals(mesh)
        self.nearest = Nearest(mesh)

    def color(self, points: Tensor, normals: Tensor) -> Tensor:
        """Base colours ``(N, 3)``, sRGB in [0, 1]: from the texture, or else the vertex colours, or else mid grey."""
        return colors_at(self.mesh, *self.nearest(points, normals))

    def metallic_roughness(self, points: Tensor, normals: Tensor) -> Tensor:
        """The texture's values ``(N, 3)`` in [0, 1]; 0.5 where there is none."""
        mesh = self.mesh
        if mesh.metallic_roughness is None or mesh.uvs is None:
            return torch.full((len(points), 3), 0.5)
        return sample_texture(mesh.metallic_roughness, interpolate(mesh, mesh.uvs, *self.nearest(points, normals)))

    def normal(self, points: Tensor, normals: Tensor) -> Tensor:
        """Unit shading normals ``(N, 3)``, from the normal map if there is one."""
        face, bary = self.nearest(points, normals)
        return perturbed_normals(self.mesh, face, bary)


def mean_finish(mesh: Mesh) -> tuple[float, float]:
    """Metallic and roughness in [0, 1], averaged over the surface by area: the texture's values times the mesh's factors."""
    if mesh.metallic_roughness is None or mesh.uvs is None:
        return mesh.metallic, mesh.roughness
    _, face, bary = rasterize_uvs(mesh.uvs, mesh.faces, max(mesh.metallic_roughness.shape[:2]))
    areas = torch.from_numpy(area_vectors(mesh.vertices, mesh.faces)).norm(dim=1)
    weights = (areas / torch.bincount(face, minlength=len(areas)).clamp_min(1))[face]
    if float(weights.sum()) <= 0:
        return mesh.metallic, mesh.roughness
    values = sample_texture(mesh.metallic_roughness, interpolate(mesh, mesh.uvs, face, bary)).double()
    _, rough, metal = ((values * weights[:, None]).sum(dim=0) / weights.sum()).tolist()
    return mesh.metallic * metal, mesh.roughness * rough
