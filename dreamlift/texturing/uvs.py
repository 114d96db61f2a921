"""Checks of a mesh's own UVs: whether they can carry a new texture, and their density."""

from __future__ import annotations

import numpy as np
import torch

from dreamlift.meshing.geometry import face_areas
from dreamlift.texturing.bake import rasterize_uvs
from dreamlift.types import Mesh

PROBE = 512  # texels per side of the image in which overlaps are counted


def uv_areas(uvs: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Areas ``(F,)`` float64 of the faces in the unit square of ``uvs (V, 2)``."""
    a, b, c = (uvs.astype(np.float64)[faces[:, i]] for i in range(3))
    return 0.5 * np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])


def uv_faults(mesh: Mesh) -> str:
    """Why the mesh's UVs cannot carry a texture in which each surface point has its own texel; "" if they can.

    They must lie in [0, 1], at most 1 % of the surface may have no area in UV space, and at most 5 % of the area in UV
    space may overlap (mirrored or tiled parts).
    """
    if mesh.uvs is None:
        return "it has no UVs"
    if mesh.uvs.min() < -1e-4 or mesh.uvs.max() > 1 + 1e-4:
        return f"its UVs run from {mesh.uvs.min():.3g} to {mesh.uvs.max():.3g}, outside 0..1 (a repeated texture)"
    area, image = face_areas(mesh.vertices, mesh.faces), uv_areas(mesh.uvs, mesh.faces)
    flat = float(area[image < 1e-12].sum() / max(area.sum(), 1e-30))
    if flat > 0.01:
        return f"{flat:.0%} of its surface has no area in the UV image"
    # Without overlaps, the sum of the areas equals the number of covered texels, except at the charts' edges.
    texels = len(rasterize_uvs(mesh.uvs, mesh.faces, PROBE)[0]) / PROBE**2
    drawn = float(image.sum())
    if drawn - texels > 0.05 * drawn:
        return f"{1 - texels / drawn:.0%} of its UV faces lie over others"
    return ""


def uv_density(mesh: Mesh) -> torch.Tensor:
    """UV length per world unit on each face, ``(F,)`` float32: the square root of the ratio of areas."""
    assert mesh.uvs is not None
    area = np.maximum(face_areas(mesh.vertices, mesh.faces), 1e-30)
    return torch.from_numpy(np.sqrt(uv_areas(mesh.uvs, mesh.faces) / area)).float()
