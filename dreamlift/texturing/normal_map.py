"""Normal maps: the normals of a fine mesh, stored for a mesh of few faces.

A texel holds the fine surface's normal n in the tangent frame of the coarse one, whose axes are interpolated and not
normalised (MikkTSpace; see :mod:`dreamlift.meshing.tangents`):

    n = (x T + y B + z N) / |...|,   B = sigma N x T,   texel = round(127.5 (x, y, z) + 127.5)

which is glTF's encoding (specification, section 3.9.3): +x along growing u, +y (green) up the picture, flat (128, 128, 255).
The source of n is the nearest point of the fine mesh that faces the same way (Cignoni et al. 1998, "A General Method for
Preserving Attribute Values on Simplified Meshes", https://doi.org/10.1109/VISUAL.1998.745285).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dreamlift.meshing.geometry import with_normals
from dreamlift.meshing.tangents import vertex_tangents
from dreamlift.texturing.bake import inpaint_texels, rasterize_uvs
from dreamlift.texturing.sampling import sample_texture
from dreamlift.types import Mesh

STEEPEST = 0.05  # least z: a normal that leans farther would be lit from behind the coarse surface


def bake_normal_map(
    mesh: Mesh, normal_at: Callable[[Tensor, Tensor], Tensor], size: int = 1024, padding: int = 8, chunk: int = 65536
) -> Mesh:
    """The mesh with a normal map ``(size, size, 3)``.

    Args:
        mesh: with UVs. The map is valid only together with the vertex normals that the mesh has now.
        normal_at: ``(points (N, 3), normals (N, 3)) -> (N, 3)`` unit normals of the fine surface, in the world.
        padding: width of the inpainted border around each chart, in texels.
    """
    mesh = with_normals(mesh)
    assert mesh.uvs is not None
    texel, face, bary = rasterize_uvs(mesh.uvs, mesh.faces, size)
    frames, vertices = _Frames(mesh), torch.from_numpy(mesh.vertices).float()
    corners = torch.from_numpy(mesh.faces).long()
    image = torch.zeros(size * size, 3)
    for start in range(0, len(texel), chunk):
        part = slice(start, start + chunk)
        axes = frames.at(face[part], bary[part])
        points = (bary[part, :, None] * vertices[corners[face[part]]]).sum(dim=1)
        wanted = normal_at(points, torch.nn.functional.normalize(axes[:, 2], dim=1))
        local = torch.linalg.solve(axes.transpose(1, 2), wanted)
        local[:, 2] = local[:, 2].clamp_min(STEEPEST)
        image[texel[part]] = torch.nn.functional.normalize(local, dim=1)
    image = inpaint_texels(image, texel, size, padding)
    return replace(mesh, normal_map=(image * 127.5 + 128.0).clamp(0, 255).to(torch.uint8).numpy())


def perturbed_normals(mesh: Mesh, face: Tensor, bary: Tensor) -> Tensor:
    """Unit shading normals ``(N, 3)`` at barycentrics ``bary (N, 3)`` of the faces ``face (N,)``.

    These are the interpolated vertex normals, which ``mesh`` must have, or else the normals of its normal map.
    """
    if mesh.normal_map is None or mesh.uvs is None:
        assert mesh.vertex_normals is not None
        normals = torch.from_numpy(mesh.vertex_normals).float()[torch.from_numpy(mesh.faces).long()[face]]
        return torch.nn.functional.normalize((bary[:, :, None] * normals).sum(dim=1), dim=1)
    uvs = torch.from_numpy(mesh.uvs).float()[torch.from_numpy(mesh.faces).long()[face]]
    local = 2 * sample_texture(mesh.normal_map, (bary[:, :, None] * uvs).sum(dim=1)) - 1
    return torch.nn.functional.normalize(torch.einsum("na,nad->nd", local, _Frames(mesh).at(face, bary)), dim=1)


class _Frames:
    """The tangent frames of a mesh's vertices."""

    def __init__(self, mesh: Mesh) -> None:
        tangents = torch.from_numpy(vertex_tangents(mesh))
        self.tangents, self.sigma = tangents[:, :3], tangents[:, 3]
        assert mesh.vertex_normals is not None
        self.normals = torch.from_numpy(np.ascontiguousarray(mesh.vertex_normals)).float()
        self.faces = torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()

    def at(self, face: Tensor, bary: Tensor) -> Tensor:
        """The interpolated frames ``(N, 3, 3)`` at barycentrics ``bary (N, 3)``: rows T, B and N, not of unit length."""
        corners, weights = self.faces[face], bary[:, :, None]
        tangent = (weights * self.tangents[corners]).sum(dim=1)
        normal = (weights * self.normals[corners]).sum(dim=1)
        bitangent = self.sigma[corners[:, :1]] * torch.linalg.cross(normal, tangent)
        return torch.stack([tangent, bitangent, normal], dim=1)
