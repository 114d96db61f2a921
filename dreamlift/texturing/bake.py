"""Baking a colour field into the texture of a mesh.

Every texel whose centre lies in a UV triangle gets the colour of the surface point there. The empty texels around the charts
are then inpainted, so that neither bilinear lookups nor coarse mip levels mix in a background. UVs follow glTF: v = 0 is the
upper edge of the texture's first row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dreamlift.meshing.geometry import with_normals
from dreamlift.raster.visibility import box_pairs
from dreamlift.texturing.unwrap import unwrap
from dreamlift.types import Mesh

ColorFunction = Callable[[Tensor, Tensor], Tensor]


def bake(mesh: Mesh, color_function: ColorFunction, size: int = 1024, padding: int = 8, chunk: int = 65536) -> Mesh:
    """The mesh with a texture ``(size, size, 3)`` of a colour field. A mesh without UVs is unwrapped first.

    Args:
        color_function: ``(points (N, 3), normals (N, 3)) -> (N, 3)`` sRGB in [0, 1] (clamped); N is at most ``chunk``.
            Its arguments are float32 on the CPU; it is called without gradients.
        size: texels along each side.
        padding: width of the inpainted border around each chart, in texels; other empty texels get the mean colour.

    Raises:
        ValueError: colours of a wrong shape or not finite, or no texel lies in a UV triangle.
    """
    if mesh.uvs is None:
        mesh = unwrap(mesh, size)
    mesh = with_normals(mesh)
    assert mesh.uvs is not None
    assert mesh.vertex_normals is not None
    texel, face, bary = rasterize_uvs(mesh.uvs, mesh.faces, size)
    if len(texel) == 0:
        raise ValueError(f"no texel of a {size} x {size} texture is in a UV triangle: raise the size, or unwrap anew")
    corners = torch.from_numpy(mesh.faces).long()[face]
    vertices, normals = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(mesh.vertex_normals).float()
    image = torch.zeros(size * size, 3)
    with torch.no_grad():
        for start in range(0, len(texel), chunk):
            part = slice(start, start + chunk)
            weights = bary[part, :, None]
            points = (weights * vertices[corners[part]]).sum(dim=1)
            directions = torch.nn.functional.normalize((weights * normals[corners[part]]).sum(dim=1), dim=-1)
            image[texel[part]] = _checked(color_function(points, directions), len(points))
    image = inpaint_texels(image, texel, size, padding)
    return replace(mesh, base_color=(image * 255 + 0.5).to(torch.uint8).numpy())


def rasterize_uvs(uvs: np.ndarray, faces: np.ndarray, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The texels whose centres lie in a UV triangle, each once.

    Returns:
        Their numbers ``(N,)`` (row * size + column), faces ``(N,)`` and barycentrics ``(N, 3)`` float32. Where triangles
        overlap, the lower face number wins.
    """
    corners = torch.from_numpy(uvs.astype(np.float64))[torch.from_numpy(faces).long()] * size  # (F, 3, 2) in texels
    a, b, c = corners.unbind(dim=1)

    def cross(p: Tensor, q: Tensor) -> Tensor:
        return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]

    area = cross(b - a, c - a)
    low = torch.ceil(corners.amin(dim=1) - 0.5).clamp_min(0).long()
    high = torch.floor(corners.amax(dim=1) - 0.5).clamp_max(size - 1).long()
    high[area == 0] = -1
    texels, owners, weights = [], [], []
    for owner, x, y in box_pairs(low, high):
        point = torch.stack([x, y], dim=1).double() + 0.5
        pa, pb, pc = a[owner] - point, b[owner] - point, c[owner] - point
        bary = torch.stack([cross(pb, pc), cross(pc, pa), cross(pa, pb)], dim=1) / area[owner, None]
        inside = torch.nonzero((bary >= 0).all(dim=1)).flatten()
        texels.append((y * size + x)[inside])
        owners.append(owner[inside])
        weights.append(bary[inside].float())
    texel, owner, weight = torch.cat(texels), torch.cat(owners), torch.cat(weights)
    # Pairs are in the order of the faces, so a stable sort puts the lowest face of a texel first.
    texel, order = torch.sort(texel, stable=True)
    first = torch.ones(len(texel), dtype=torch.bool)
    first[1:] = texel[1:] != texel[:-1]
    return texel[first], owner[order][first], weight[order][first]


def inpaint_texels(image: Tensor, texel: Tensor, size: int, padding: int) -> Tensor:
    """``image (size * size, 3)``, of which ``texel (N,)`` are set, as ``(size, size, 3)``; :func:`grow` fills the rest."""
    filled = torch.zeros(size * size, dtype=torch.bool)
    filled[texel] = True
    return grow(image.view(size, size, 3), filled.view(size, size), padding)


def grow(image: Tensor, filled: Tensor, steps: int) -> Tensor:
    """``image (H, W, 3)`` with its texels outside ``filled (H, W)`` inpainted.

    In each of ``steps`` steps, empty texels beside filled ones get the mean of their filled neighbours. Those that are still
    empty afterwards get the mean of the original filled texels.
    """
    mean = image[filled].mean(dim=0)
    value = (image * filled[..., None]).permute(2, 0, 1)[None]
    weight = filled.to(image.dtype)[None, None]
    for _ in range(steps):
        if bool((weight > 0).all()):
            break
        count = torch.nn.functional.avg_pool2d(weight, 3, stride=1, padding=1)
        sums = torch.nn.functional.avg_pool2d(value, 3, stride=1, padding=1)
        new = (weight == 0) & (count > 0)
        value = torch.where(new, sums / count.clamp_min(1e-12), value)
        weight = torch.where(new, torch.ones_like(weight), weight)
    return torch.where(weight > 0, value, mean[None, :, None, None])[0].permute(1, 2, 0)


def _checked(color: Tensor, count: int) -> Tensor:
    """The colours ``(count, 3)`` on the CPU, clamped to [0, 1]."""
    if color.shape != (count, 3):
        raise ValueError(f"the colour function must return ({count}, 3) for {count} points, not {tuple(color.shape)}")
    color = color.detach().float().cpu()
    if not bool(torch.isfinite(color).all()):
        raise ValueError("the colour function returned values that are not finite (NaN or infinity)")
    return color.clamp(0, 1)
