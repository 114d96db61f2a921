"""What one mesh looks like, as functions of a place, so that it can be baked onto another mesh of the same surface."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dreamlift.meshing.geometry import with_normals
from dreamlift.meshing.nearest import Nearest
from dreamlift.meshing.normal_map import perturbed_normals
from dreamlift.meshing.raster import sample_texture
from dreamlift.meshing.texture import ColorFunction
from dreamlift.types import Mesh

NormalFunction = Callable[[Tensor, Tensor], Tensor]  # (N, 3) points, (N, 3) unit normals -> (N, 3) unit normals


class Appearance:
    """Colours, materials and shading normals of a mesh, at the nearest points of its surface."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = with_normals(mesh)
        self.nearest = Nearest(mesh)

    def color(self, points: Tensor, normals: Tensor) -> Tensor:
        """Base colours ``(N, 3)``, sRGB in [0, 1]: of the texture, or else of the vertices, or else mid grey."""
        mesh = self.mesh
        if mesh.base_color is not None or mesh.vertex_colors is None:
            return self._texture(mesh.base_color, points, normals)
        assert mesh.vertex_colors is not None
        face, bary = self.nearest(points, normals)
        return self._interpolate(mesh.vertex_colors, face, bary)

    def metallic_roughness(self, points: Tensor, normals: Tensor) -> Tensor:
        """The texture's values ``(N, 3)`` in [0, 1]."""
        return self._texture(self.mesh.metallic_roughness, points, normals)

    def normal(self, points: Tensor, normals: Tensor) -> Tensor:
        """Shading normals ``(N, 3)``, unit, with the normal map where there is one."""
        face, bary = self.nearest(points, normals)
        return perturbed_normals(self.mesh, face, bary)

    def _texture(self, texture: np.ndarray | None, points: Tensor, normals: Tensor) -> Tensor:
        if texture is None or self.mesh.uvs is None:
            return torch.full((len(points), 3), 0.5)
        return sample_texture(texture, self._interpolate(self.mesh.uvs, *self.nearest(points, normals)))

    def _interpolate(self, values: np.ndarray, face: Tensor, bary: Tensor) -> Tensor:
        corners = torch.from_numpy(np.ascontiguousarray(self.mesh.faces)).long()[face]
        return torch.einsum("nc,nci->ni", bary, torch.from_numpy(np.ascontiguousarray(values)).float()[corners])


def color_of(mesh: Mesh) -> ColorFunction:
    """The base colour of ``mesh`` as a function that :func:`dreamlift.meshing.texture.bake` takes."""
    return Appearance(mesh).color
