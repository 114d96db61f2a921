"""An exact triangle renderer, for round-trip checks, previews and tests. It has no gradients.

Which triangle a pixel shows is found by :mod:`dreamlift.meshing.visibility`. For the ray d = K^-1 (u, v, 1) through a pixel's
centre and a triangle (v0, v1, v2) in camera space (Olano and Greer 1997, https://doi.org/10.1145/258694.258723),

    b_i = d . (v_j x v_k),    barycentrics = b / sum(b),    z = v0 . (v1 x v2) / sum(b),

the ray's intersection, so barycentrics are perspective-correct.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamlift.cameras import rescaled
from dreamlift.meshing.geometry import area_vectors, check_mesh, with_normals
from dreamlift.meshing.visibility import box_pairs as box_pairs
from dreamlift.meshing.visibility import to_camera, visible_faces
from dreamlift.types import Cameras, Mesh, RenderOutput, Shading


@dataclass(frozen=True)
class Fragments:
    """The nearest surface in every pixel."""

    faces: Tensor  # (B, H, W) int64, -1 where there is none
    barycentrics: Tensor  # (B, H, W, 3) float32, sum to 1; 0 where there is no face
    depth: Tensor  # (B, H, W) float32 distance along the unit ray, world units; 0 where there is no face


def rasterize(vertices: np.ndarray | Tensor, faces: np.ndarray | Tensor, cameras: Cameras) -> Fragments:
    """The nearest triangle through each pixel centre, both sides of triangles drawn.

    Args:
        vertices: ``(V, 3)`` in the world. faces: ``(F, 3)``.
        cameras: a batch of B; the picture's size is theirs.
    """
    points = torch.as_tensor(np.asarray(vertices)).double()
    triangles = torch.as_tensor(np.asarray(faces)).long()
    cameras = cameras.to("cpu")
    winners = visible_faces(points, triangles, cameras)
    bary, depth = torch.zeros(*winners.shape, 3), torch.zeros(winners.shape)
    for view, (local, K) in enumerate(zip(to_camera(points, cameras), cameras.K.double(), strict=True)):
        y, x = torch.nonzero(winners[view] >= 0, as_tuple=True)
        corners = local[triangles[winners[view, y, x]]]
        rays = torch.stack([x + 0.5, y + 0.5, torch.ones_like(x)], dim=1).double() @ torch.linalg.inv(K).T
        cross = torch.linalg.cross(corners[:, [1, 2, 0]], corners[:, [2, 0, 1]])  # (N, 3, 3): v_j x v_k
        b = torch.einsum("nij,nj->ni", cross, rays)
        total = b.sum(dim=1)
        bary[view, y, x] = (b / total[:, None]).float()
        depth[view, y, x] = ((corners[:, 0] * cross[:, 0]).sum(1) / total * rays.norm(dim=1)).float()
    return Fragments(winners, bary, depth)


def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    background: float | Tensor = 1.0,
    shading: Shading | None = None,
    supersample: int = 2,
) -> RenderOutput:
    """Pictures of a mesh with its texture (bilinear), or else its vertex colours, or else mid grey; lit by its normal map.

    Args:
        background: a number, ``(B, 3)``, or what broadcasts to ``(B, H, W, 3)``, in [0, 1].
        shading: as for a scene's renders; None shows the plain base colour.
        supersample: samples a pixel along each axis, averaged in sRGB as the scenes' own renders are.

    Raises:
        EmptySceneError, ValueError: the mesh is empty or malformed.
    """
    check_mesh(mesh)
    fine = rescaled(cameras.to("cpu"), supersample)
    each = [slice(i, i + 1) for i in range(len(cameras))]
    parts = [_shade(mesh, rasterize(mesh.vertices, mesh.faces, fine[i]), fine[i], shading and shading[i]) for i in each]
    # (B, H, W, 8): colour, opacity, depth, normal, all times the coverage
    mean = torch.cat([_box_filter(part, supersample) for part in parts])
    backdrop = torch.as_tensor(background, dtype=mean.dtype).cpu()
    if backdrop.ndim == 2:
        backdrop = backdrop[:, None, None]
    opacity = mean[..., 3:4]
    return RenderOutput(
        rgb=mean[..., :3] + (1 - opacity) * backdrop,
        opacity=opacity,
        depth=mean[..., 4:5] / opacity.clamp_min(1e-6),  # the mean over what is hit; 0 where nothing is
        normal=mean[..., 5:8],
    )


def sample_texture(texture: np.ndarray, uvs: Tensor) -> Tensor:
    """Bilinear colours ``(N, 3)`` in [0, 1] of a ``(H, W, 3)`` uint8 texture at ``uvs (N, 2)``; edges are repeated."""
    height, width = texture.shape[:2]
    image = torch.from_numpy(np.array(texture)).view(-1, 3)  # a copy: readers hand out read-only arrays
    # Texel centres lie at +0.5, and v = 0 is the upper edge of the first row.
    x = (uvs[:, 0] * width - 0.5).clamp(0, width - 1)
    y = (uvs[:, 1] * height - 0.5).clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp_max(width - 1), (top + 1).clamp_max(height - 1)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    upper = image[top * width + left] * (1 - fx) + image[top * width + right] * fx
    lower = image[bottom * width + left] * (1 - fx) + image[bottom * width + right] * fx
    return (upper * (1 - fy) + lower * fy) / 255.0


def interpolate(mesh: Mesh, values: np.ndarray, face: Tensor, bary: Tensor) -> Tensor:
    """The vertices' ``values (V, C)`` at barycentrics ``bary (N, 3)`` on ``face (N,)``: ``(N, C)`` float32."""
    corners = torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()[face]
    return torch.einsum("nc,nci->ni", bary, torch.from_numpy(np.ascontiguousarray(values)).float()[corners])


def colors_at(mesh: Mesh, face: Tensor, bary: Tensor) -> Tensor:
    """Base colours ``(N, 3)``, sRGB in [0, 1]: of the texture, or else of the vertices, or else mid grey."""
    if mesh.base_color is not None and mesh.uvs is not None:
        return sample_texture(mesh.base_color, interpolate(mesh, mesh.uvs, face, bary))
    if mesh.vertex_colors is not None:
        return interpolate(mesh, mesh.vertex_colors, face, bary)
    return torch.full((len(face), 3), 0.5)


def _shade(mesh: Mesh, fragments: Fragments, camera: Cameras, shading: Shading | None) -> Tensor:
    """``(1, H, W, 8)`` of one view: colour, coverage, depth and normal, 0 where there is no face."""
    shape = fragments.faces.shape
    hit = torch.nonzero(fragments.faces.flatten() >= 0).flatten()
    face = fragments.faces.flatten()[hit]
    bary = fragments.barycentrics.view(-1, 3)[hit]
    depth = fragments.depth.flatten()[hit]
    color = colors_at(mesh, face, bary)
    if mesh.normal_map is not None and mesh.uvs is not None:
        from dreamlift.meshing.normal_map import perturbed_normals  # which samples textures as above

        normal = perturbed_normals(with_normals(mesh), face, bary)
    elif mesh.vertex_normals is not None:
        normal = interpolate(mesh, mesh.vertex_normals, face, bary)
    else:
        normal = torch.from_numpy(area_vectors(mesh.vertices, mesh.faces)).float()[face]
    normal = torch.nn.functional.normalize(normal, dim=-1)
    if shading is not None:
        color = _lit(color, interpolate(mesh, mesh.vertices, face, bary), normal, shading)
    out = torch.zeros(fragments.faces.numel(), 8)
    out[hit] = torch.cat([color, torch.ones(len(hit), 1), depth[:, None], normal], dim=1)
    return out.view(*shape, 8)


def _lit(albedo: Tensor, points: Tensor, normal: Tensor, shading: Shading) -> Tensor:
    """DreamFusion's shading (Poole et al. 2022, equation 6) of one view's points ``(N, 3)``."""
    light, lambertian, textureless = (value[0].to(albedo) for value in (shading.light, shading.lambertian, shading.textureless))
    toward = torch.nn.functional.normalize(light - points, dim=-1)
    diffuse = (normal * toward).sum(dim=-1, keepdim=True).clamp_min(0)
    lit = shading.ambient + (1 - shading.ambient) * diffuse
    return (albedo + textureless * (1 - albedo)) * (1 + lambertian * (lit - 1))


def _box_filter(image: Tensor, factor: int) -> Tensor:
    """Means over blocks of ``factor`` x ``factor`` pixels of ``(B, H, W, C)``."""
    return torch.nn.functional.avg_pool2d(image.movedim(-1, 1), factor).movedim(1, -1)
