"""The initial mesh of a surface scene: UVs suitable for a texture, its initial colours, and its other material fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from dreamlift.meshing.geometry import with_normals
from dreamlift.texturing.transfer import mean_finish
from dreamlift.texturing.unwrap import unwrap
from dreamlift.texturing.uvs import uv_faults
from dreamlift.types import Mesh

DEFAULT_FACTORS = (0.5, 0.1)  # initial roughness and metallic if the mesh's own are not used
LOWEST = 0.01  # initial colours are clamped to [LOWEST, 1 - LOWEST]: at 0 and 1, odds cannot change


def with_uvs(initial_mesh: Mesh, choice: str, size: int) -> tuple[Mesh, np.ndarray]:
    """The mesh with normals and UVs for the new texture, and its original UVs at each face's corners.

    Args:
        initial_mesh: a mesh inside ``[-1, 1]^3``.
        choice: "keep" uses the mesh's UVs, "unwrap" computes new ones, "auto" keeps UVs without
            :func:`~dreamlift.texturing.uvs.uv_faults`.
        size: texels per side of the texture that new UVs are made for.

    Returns:
        The mesh, with its faces in the same order, and the original UVs ``(F, 3, 2)`` float32, zero if it had none.

    Raises:
        ValueError: ``choice`` is "keep", but the mesh has no UVs.
    """
    uvs, faces = initial_mesh.uvs, initial_mesh.faces
    corners = np.zeros((len(faces), 3, 2), np.float32) if uvs is None else uvs[faces]
    if choice == "keep" and uvs is None:
        raise ValueError("scene.uvs is 'keep', but the mesh has no UVs: set it to 'auto' or 'unwrap'")
    if choice == "keep" or (choice == "auto" and not uv_faults(initial_mesh)):
        return with_normals(initial_mesh), corners
    return unwrap(initial_mesh, size), corners


def unpainted_fields(initial_mesh: Mesh, mesh: Mesh, material: bool) -> dict[str, Any]:
    """The fields of :class:`~dreamlift.types.Mesh` that the textured ``mesh`` inherits from ``initial_mesh``.

    Whether it is double-sided; the normal map, if the UVs are unchanged. If ``material`` also metallic and roughness: the
    image, if the UVs are unchanged, otherwise its mean.
    """
    assert mesh.uvs is not None
    same = initial_mesh.uvs is not None and np.array_equal(initial_mesh.uvs, mesh.uvs)
    found: dict[str, Any] = {"double_sided": initial_mesh.double_sided}
    if same:
        found["normal_map"] = initial_mesh.normal_map
    if material and (same or initial_mesh.metallic_roughness is None):
        found |= {name: getattr(initial_mesh, name) for name in ("metallic", "roughness", "metallic_roughness")}
    elif material:
        found["metallic"], found["roughness"] = mean_finish(initial_mesh)
    return found


class InitialAppearance(nn.Module):
    """The colours and material of the initial mesh: fixed, and not in ``state_dict``, as they follow from the mesh."""

    uvs: Tensor | None  # (F, 3, 2) at the faces' corners
    base_color: Tensor | None  # (1, 3, H, W) sRGB in [LOWEST, 1 - LOWEST]
    corner_colors: Tensor | None  # (F, 3, 3) sRGB at the faces' corners, in [LOWEST, 1 - LOWEST]
    material: Tensor | None  # (1, 3, H, W) roughness in green, metallic in blue

    def __init__(
        self, uvs: Tensor | None = None, base_color: Tensor | None = None, corner_colors: Tensor | None = None,
        material: Tensor | None = None, factors: tuple[float, float] = DEFAULT_FACTORS,
    ) -> None:  # fmt: skip
        super().__init__()
        self.factors = factors  # roughness and metallic of a mesh without an image of them
        buffers = {"uvs": uvs, "base_color": base_color, "corner_colors": corner_colors, "material": material}
        for name, values in buffers.items():
            self.register_buffer(name, values, persistent=False)

    def color(self, face: Tensor, bary: Tensor) -> Tensor | None:
        """Colours ``(N, 3)`` at barycentrics ``bary (N, 3)`` on ``face (N,)``; None for a mesh without colours."""
        if self.base_color is not None:
            return self._sampled(self.base_color, face, bary)
        if self.corner_colors is not None:
            return torch.einsum("nc,nci->ni", bary, self.corner_colors[face])
        return None

    def finish(self, face: Tensor, bary: Tensor) -> Tensor:
        """Roughness and metallic ``(N, 2)`` in [0, 1]."""
        if self.material is not None:
            return self._sampled(self.material, face, bary)[:, 1:]
        return torch.tensor(self.factors).to(bary).expand(len(face), 2)

    def _sampled(self, image: Tensor, face: Tensor, bary: Tensor) -> Tensor:
        """Bilinear samples ``(N, 3)`` of an ``image (1, 3, H, W)``; it repeats outside of [0, 1]."""
        assert self.uvs is not None
        uvs = torch.einsum("nc,nci->ni", bary, self.uvs[face])
        inside = (uvs >= 0) & (uvs <= 1)
        where = 2 * torch.where(inside, uvs, uvs - uvs.floor()) - 1
        found = grid_sample(image, where[None, None], mode="bilinear", padding_mode="border", align_corners=False)
        return found[0, :, 0].T


def initial_appearance_of(mesh: Mesh, corners: np.ndarray) -> InitialAppearance:
    """The appearance of ``mesh``, whose UVs at the faces' corners are ``corners (F, 3, 2)``."""
    base_color = corner_colors = material = None
    if mesh.base_color is not None:
        base_color = _picture(mesh.base_color).clamp(LOWEST, 1 - LOWEST)
    elif mesh.vertex_colors is not None:
        corner_colors = torch.from_numpy(mesh.vertex_colors[mesh.faces].astype(np.float32)).clamp(LOWEST, 1 - LOWEST)
    if mesh.metallic_roughness is not None and mesh.uvs is not None:
        material = _picture(mesh.metallic_roughness) * torch.tensor([1.0, mesh.roughness, mesh.metallic]).view(1, 3, 1, 1)
    uvs = torch.from_numpy(np.array(corners, dtype=np.float32))
    return InitialAppearance(uvs, base_color, corner_colors, material, (mesh.roughness, mesh.metallic))


def _picture(image: np.ndarray) -> Tensor:
    """A uint8 image ``(H, W, 3)`` as ``(1, 3, H, W)`` in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
