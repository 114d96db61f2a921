"""An exact triangle renderer in plain torch, for round-trip checks, previews and tests. It has no gradients.

Rasterisation is in homogeneous coordinates (Olano and Greer 1997, "Triangle Scan Conversion using 2D Homogeneous
Coordinates", https://doi.org/10.1145/258694.258723): for the ray d = K^-1 (u, v, 1) through a pixel's centre and a
triangle (v0, v1, v2) in camera space,

    b_i = d . (v_j x v_k),    barycentrics = b / sum(b),    z = v0 . (v1 x v2) / sum(b).

These are the ray's intersection, so barycentrics are perspective-correct and triangles need no clipping at the camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamlift.cameras import rescaled
from dreamlift.meshing.geometry import area_vectors, check_mesh, with_normals
from dreamlift.types import Cameras, Mesh, RenderOutput, Shading

NEAR = 1e-4  # world units; what lies closer to the camera's plane is not drawn
CANDIDATES = 2_000_000  # (triangle, pixel) pairs held in memory at a time


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
    w2c, K = torch.linalg.inv(cameras.c2w.double().cpu()), cameras.K.double().cpu()
    height, width = cameras.height, cameras.width
    found, weights, depths = [], [], []
    for view in range(len(cameras)):
        local = points @ w2c[view, :3, :3].T + w2c[view, :3, 3]
        face, bary, z, ray = _rasterize_view(local[triangles], K[view], width, height)
        found.append(face.view(height, width))
        weights.append(bary.view(height, width, 3).float())
        depths.append((z * ray).view(height, width).float())
    return Fragments(torch.stack(found), torch.stack(weights), torch.stack(depths))


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
    parts = [_shade(mesh, rasterize(mesh.vertices, mesh.faces, fine[i : i + 1]), fine[i : i + 1], _one(shading, i))
             for i in range(len(cameras))]  # fmt: skip
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


def box_pairs(low: Tensor, high: Tensor, limit: int = CANDIDATES) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All (item, x, y) with x, y in the items' inclusive integer boxes ``low, high (N, 2)``, in chunks of ``limit``.

    A box may be empty (high < low). One item alone may pass the limit.
    """
    span = (high - low + 1).clamp_min(0)
    area = span[:, 0] * span[:, 1]
    ends = area.cumsum(0)
    start = 0
    while start < len(area):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, torch.tensor(done + limit), right=True)))
        items = torch.arange(start, stop)
        owner = torch.repeat_interleave(items, area[start:stop])
        local = torch.arange(len(owner)) - (ends[owner] - area[owner] - done)
        columns = span[owner, 0]
        row = torch.div(local, columns.clamp_min(1), rounding_mode="floor")
        yield owner, low[owner, 0] + local - row * columns, low[owner, 1] + row
        start = stop


def _rasterize_view(corners: Tensor, K: Tensor, width: int, height: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Face ``(P,)``, barycentrics ``(P, 3)``, z ``(P,)`` of the ``P = H W`` pixels, and their rays' lengths at z = 1.

    ``corners (F, 3, 3)`` are in camera space.
    """
    inverse = torch.linalg.inv(K)
    edges = torch.linalg.cross(corners[:, [1, 2, 0]], corners[:, [2, 0, 1]])  # (F, 3, 3): v_j x v_k
    volume = torch.einsum("fi,fi->f", corners[:, 0], edges[:, 0])
    low, high = _boxes(corners, K, width, height)
    high[volume == 0] = -1  # seen edge-on, or degenerate: no pixel
    pixels = width * height
    nearest = torch.full((pixels,), torch.inf, dtype=torch.float64)
    nobody = len(corners)  # above every face, so that the lowest number wins
    winner = torch.full((pixels,), nobody, dtype=torch.int64)
    rays = torch.stack(
        [
            (torch.arange(pixels) % width).double() + 0.5,
            torch.div(torch.arange(pixels), width, rounding_mode="floor").double() + 0.5,
            torch.ones(pixels, dtype=torch.float64),
        ],
        dim=1,
    ) @ inverse.T  # fmt: skip
    for owner, x, y in box_pairs(low, high):
        pixel = y * width + x
        b = torch.einsum("nij,nj->ni", edges[owner], rays[pixel])
        total = b.sum(dim=1)
        z = volume[owner] / total
        same_side = ((b >= 0).all(dim=1) | (b <= 0).all(dim=1)) & (total != 0)
        hit = torch.nonzero(same_side & (z > NEAR)).flatten()
        pixel, z, owner = pixel[hit], z[hit], owner[hit]
        closer = nearest.scatter_reduce(0, pixel, z, "amin")
        winner[closer < nearest] = nobody
        front = z == closer[pixel]
        # Two triangles at one depth (a shared edge): the lower number wins, so that pictures repeat bit by bit.
        winner.scatter_reduce_(0, pixel[front], owner[front], "amin")
        nearest = closer
    hit = torch.nonzero(winner < nobody).flatten()
    bary, z = torch.zeros(pixels, 3, dtype=torch.float64), torch.zeros(pixels, dtype=torch.float64)
    b = torch.einsum("nij,nj->ni", edges[winner[hit]], rays[hit])
    bary[hit] = b / b.sum(dim=1, keepdim=True)
    z[hit] = nearest[hit]
    winner[winner == nobody] = -1
    return winner, bary, z, rays.norm(dim=1)


def _boxes(corners: Tensor, K: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Inclusive boxes ``(F, 2)`` of the pixels whose centres a triangle may cover.

    They are the whole picture for one that passes the camera's plane, and empty for one behind it.
    """
    image = corners @ K.T
    z = image[..., 2]
    in_front, behind = (z > NEAR).all(dim=1), (z <= NEAR).all(dim=1)
    points = image[..., :2] / torch.where(z > NEAR, z, torch.ones_like(z))[..., None]
    size = torch.tensor([width, height], dtype=torch.float64)
    # A pixel's centre is at +0.5; a hair more than needed, since rounding must not lose a pixel on the border.
    low = torch.ceil(points.amin(dim=1) - 0.5 - 1e-6).clamp_min(0)
    high = torch.minimum(torch.floor(points.amax(dim=1) - 0.5 + 1e-6), size - 1)
    low = torch.where(in_front[:, None], low, torch.zeros_like(low)).clamp_max(1e6)
    high = torch.where(in_front[:, None], high, (size - 1).expand_as(high)).clamp_min(-1)
    high = torch.where(behind[:, None], torch.full_like(high, -1), high)
    return low.long(), high.long()


def _shade(mesh: Mesh, fragments: Fragments, camera: Cameras, shading: Shading | None) -> Tensor:
    """``(1, H, W, 8)`` of one view: colour, coverage, depth and normal, 0 where there is no face."""
    shape = fragments.faces.shape
    hit = torch.nonzero(fragments.faces.flatten() >= 0).flatten()
    face = fragments.faces.flatten()[hit]
    bary = fragments.barycentrics.view(-1, 3)[hit]
    depth = fragments.depth.flatten()[hit]
    corners = torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()[face]  # (N, 3)

    def interpolate(values: np.ndarray) -> Tensor:
        return torch.einsum("nc,nci->ni", bary, torch.from_numpy(np.ascontiguousarray(values)).float()[corners])

    if mesh.base_color is not None and mesh.uvs is not None:
        color = sample_texture(mesh.base_color, interpolate(mesh.uvs))
    elif mesh.vertex_colors is not None:
        color = interpolate(mesh.vertex_colors)
    else:
        color = torch.full((len(hit), 3), 0.5)
    if mesh.normal_map is not None and mesh.uvs is not None:
        from dreamlift.meshing.normal_map import perturbed_normals  # which samples textures as above

        normal = perturbed_normals(with_normals(mesh), face, bary)
    elif mesh.vertex_normals is not None:
        normal = interpolate(mesh.vertex_normals)
    else:
        normal = torch.from_numpy(area_vectors(mesh.vertices, mesh.faces)).float()[face]
    normal = torch.nn.functional.normalize(normal, dim=-1)
    if shading is not None:
        color = _lit(color, interpolate(mesh.vertices), normal, shading)
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


def _one(shading: Shading | None, index: int) -> Shading | None:
    """The shading of one camera of the batch."""
    if shading is None:
        return None
    part = slice(index, index + 1)
    return Shading(shading.lambertian[part], shading.textureless[part], shading.light[part], shading.ambient)


def _box_filter(image: Tensor, factor: int) -> Tensor:
    """Means over blocks of ``factor`` x ``factor`` pixels of ``(B, H, W, C)``."""
    b, h, w, c = image.shape
    return image.view(b, h // factor, factor, w // factor, factor, c).mean(dim=(2, 4))
