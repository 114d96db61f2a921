"""What one mesh looks like, as functions of a place, so that it can be baked onto another mesh of the same surface."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dreamlift.meshing.geometry import with_normals
from dreamlift.meshing.nearest import Nearest
from dreamlift.meshing.normal_map import perturbed_normals
from dreamlift.meshing.raster import colors_at, interpolate, sample_texture
from dreamlift.types import Mesh

NormalFunction = Callable[[Tensor, Tensor], Tensor]  # (N, 3) points, (N, 3) unit normals -> (N, 3) unit normals


class Appearance:
    """Colours, materials and shading normals of a mesh, at the nearest points of its surface."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = with_normals(mesh)
        self.nearest = Nearest(mesh)

    def color(self, points: Tensor, normals: Tensor) -> Tensor:
        """Base colours ``(N, 3)``, sRGB in [0, 1]: of the texture, or else of the vertices, or else mid grey."""
        return colors_at(self.mesh, *self.nearest(points, normals))

    def metallic_roughness(self, points: Tensor, normals: Tensor) -> Tensor:
        """The texture's values ``(N, 3)`` in [0, 1]; 0.5 where there is none."""
        mesh = self.mesh
        if mesh.metallic_roughness is None or mesh.uvs is None:
            return torch.full((len(points), 3), 0.5)
        return sample_texture(mesh.metallic_roughness, interpolate(mesh, mesh.uvs, *self.nearest(points, normals)))

    def normal(self, points: Tensor, normals: Tensor) -> Tensor:
        """Shading normals ``(N, 3)``, unit, with the normal map where there is one."""
        face, bary = self.nearest(points, normals)
        return perturbed_normals(self.mesh, face, bary)
