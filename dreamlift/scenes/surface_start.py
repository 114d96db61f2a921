"""What a mesh brings along for a scene that paints it: UVs that can carry a texture, and its own colours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from dreamlift.meshing.geometry import check_mesh, with_normals
from dreamlift.meshing.texture import unwrap
from dreamlift.meshing.uvs import uv_faults
from dreamlift.types import Mesh

LOWEST = 0.01  # own colours are kept this far from 0 and 1, where odds cannot be changed


def with_uvs(start: Mesh, choice: str, size: int) -> tuple[Mesh, np.ndarray]:
    """The mesh with normals and UVs to paint on, and the UVs of before at each face's corners.

    Args:
        start: any mesh, inside ``[-1, 1]^3``.
        choice: "auto" keeps the UVs it has if they have no :func:`~dreamlift.meshing.uvs.uv_faults`, "keep" and "unwrap"
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


class Own(nn.Module):
    """The colours that a mesh came with. Fixed, and not part of ``state_dict``: they are given again with the mesh."""

    uvs: Tensor | None  # (F, 3, 2) at the faces' corners
    image: Tensor | None  # (1, 3, H, W) sRGB in [LOWEST, 1 - LOWEST]
    shades: Tensor | None  # (F, 3, 3) colours at the faces' corners

    def __init__(self, uvs: Tensor | None, image: Tensor | None, shades: Tensor | None) -> None:
        super().__init__()
        for name, values in (("uvs", uvs), ("image", image), ("shades", shades)):
            self.register_buffer(name, values, persistent=False)

    def color(self, face: Tensor, bary: Tensor) -> Tensor | None:
        """``(N, 3)`` at barycentrics ``bary (N, 3)`` on ``face (N,)``; None where the mesh had none. Images repeat."""
        if self.image is not None and self.uvs is not None:
            uvs = torch.einsum("nc,nci->ni", bary, self.uvs[face])
            inside = (uvs >= 0) & (uvs <= 1)
            where = 2 * torch.where(inside, uvs, uvs - uvs.floor()) - 1
            found = grid_sample(self.image, where[None, None], mode="bilinear", padding_mode="border", align_corners=False)
            return found[0, :, 0].T
        if self.shades is not None:
            return torch.einsum("nc,nci->ni", bary, self.shades[face])
        return None


def own_appearance(start: Mesh, corners: np.ndarray) -> Own:
    """The base colours of ``start``, whose UVs at the faces' corners are ``corners (F, 3, 2)``."""
    if start.base_color is not None:
        image = torch.from_numpy(np.array(start.base_color)).permute(2, 0, 1)[None].float() / 255
        return Own(torch.from_numpy(np.array(corners, dtype=np.float32)), image.clamp(LOWEST, 1 - LOWEST), None)
    if start.vertex_colors is not None:
        shades = torch.from_numpy(start.vertex_colors[start.faces].astype(np.float32))
        return Own(None, None, shades.clamp(LOWEST, 1 - LOWEST))
    return Own(None, None, None)
