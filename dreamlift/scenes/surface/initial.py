"""What a mesh brings along for a scene that paints it: UVs that can carry a texture, and its own colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from dreamlift.meshing.geometry import check_mesh, with_normals
from dreamlift.texturing.transfer import mean_finish
from dreamlift.texturing.unwrap import unwrap
from dreamlift.texturing.uvs import uv_faults
from dreamlift.types import Mesh

START = (0.5, 0.1)  # roughness and metallic to begin with, where the mesh's own are not wanted
LOWEST = 0.01  # own colours are kept this far from 0 and 1, where odds cannot be changed


def with_uvs(start: Mesh, choice: str, size: int) -> tuple[Mesh, np.ndarray]:
    """The mesh with normals and UVs to paint on, and the UVs of before at each face's corners.

    Args:
        start: any mesh, inside ``[-1, 1]^3``.
        choice: "auto" keeps the UVs it has if they have no :func:`~dreamlift.texturing.uvs.uv_faults`, "keep" and "unwrap"
            force one or the other.
        size: texels a side that a new unwrapping is for.

    Returns:
        The mesh, whose faces are in the order of before, and ``(F, 3, 2)`` float32, all 0 where it had no UVs.

    Raises:
        EmptySceneError, ValueError: a malformed mesh, or no UVs to keep.
    """
    check_mesh(start)
    corners = np.zeros((len(start.faces), 3, 2), np.float32) if start.uvs is None else start.uvs[start.faces]
    if choice == "keep" and start.uvs is None:
        raise ValueError("scene.uvs is 'keep', but the mesh has no UVs: set it to 'auto' or 'unwrap'")
    if choice == "keep" or (choice == "auto" and not uv_faults(start)):
        return with_normals(start), corners
    return unwrap(start, size), corners


def carried(start: Mesh, mesh: Mesh, material: bool) -> dict[str, Any]:
    """What of ``start`` is the painted ``mesh``'s as it is, as fields of :class:`~dreamlift.types.Mesh`.

    Its normal map, where the UVs are those of before; and if ``material``, metallic and roughness: the picture where the
    UVs are those of before, and otherwise its mean.
    """
    assert mesh.uvs is not None
    same = start.uvs is not None and np.array_equal(start.uvs, mesh.uvs)
    found: dict[str, Any] = {"normal_map": start.normal_map} if same else {}
    if material and (same or start.metallic_roughness is None):
        found |= {name: getattr(start, name) for name in ("metallic", "roughness", "metallic_roughness")}
    elif material:
        found["metallic"], found["roughness"] = mean_finish(start)
    return found


class Own(nn.Module):
    """The look that a mesh came with. Fixed, and not part of ``state_dict``: it is given again with the mesh."""

    uvs: Tensor | None  # (F, 3, 2) at the faces' corners
    image: Tensor | None  # (1, 3, H, W) sRGB in [LOWEST, 1 - LOWEST]
    shades: Tensor | None  # (F, 3, 3) colours at the faces' corners
    surface: Tensor | None  # (1, 3, H, W) green roughness, blue metallic

    def __init__(
        self, uvs: Tensor | None = None, image: Tensor | None = None, shades: Tensor | None = None,
        surface: Tensor | None = None, numbers: tuple[float, float] = START,
    ) -> None:  # fmt: skip
        super().__init__()
        self.numbers = numbers  # roughness and metallic, where there is no image of them
        for name, values in (("uvs", uvs), ("image", image), ("shades", shades), ("surface", surface)):
            self.register_buffer(name, values, persistent=False)

    def color(self, face: Tensor, bary: Tensor) -> Tensor | None:
        """``(N, 3)`` at barycentrics ``bary (N, 3)`` on ``face (N,)``; None where the mesh had none. Images repeat."""
        if self.image is not None:
            return self._sampled(self.image, face, bary)
        if self.shades is not None:
            return torch.einsum("nc,nci->ni", bary, self.shades[face])
        return None

    def finish(self, face: Tensor, bary: Tensor) -> Tensor:
        """Roughness and metallic ``(N, 2)`` in [0, 1]."""
        if self.surface is not None:
            return self._sampled(self.surface, face, bary)[:, 1:]
        return torch.tensor(self.numbers).to(bary).expand(len(face), 2)

    def _sampled(self, image: Tensor, face: Tensor, bary: Tensor) -> Tensor:
        assert self.uvs is not None
        uvs = torch.einsum("nc,nci->ni", bary, self.uvs[face])
        inside = (uvs >= 0) & (uvs <= 1)
        where = 2 * torch.where(inside, uvs, uvs - uvs.floor()) - 1
        found = grid_sample(image, where[None, None], mode="bilinear", padding_mode="border", align_corners=False)
        return found[0, :, 0].T


def own_look(start: Mesh, corners: np.ndarray) -> Own:
    """What ``start`` looks like, whose UVs at the faces' corners are ``corners (F, 3, 2)``."""
    image = shades = surface = None
    if start.base_color is not None:
        image = _picture(start.base_color).clamp(LOWEST, 1 - LOWEST)
    elif start.vertex_colors is not None:
        shades = torch.from_numpy(start.vertex_colors[start.faces].astype(np.float32)).clamp(LOWEST, 1 - LOWEST)
    if start.metallic_roughness is not None and start.uvs is not None:
        surface = _picture(start.metallic_roughness) * torch.tensor([1.0, start.roughness, start.metallic]).view(1, 3, 1, 1)
    uvs = torch.from_numpy(np.array(corners, dtype=np.float32))
    return Own(uvs, image, shades, surface, (start.roughness, start.metallic))


def _picture(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
