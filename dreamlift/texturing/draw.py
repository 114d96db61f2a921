"""Renders of a finished mesh with its textures, for round-trip checks, previews and tests; without gradients.

Visibility is exact (:mod:`dreamlift.raster.exact`), textures are sampled bilinearly, and pixels are averaged over a regular
grid of samples.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from dreamlift.cameras import rescaled
from dreamlift.meshing.geometry import area_vectors, with_normals
from dreamlift.raster.exact import Fragments, rasterize
from dreamlift.shading.lambert import shade
from dreamlift.system import jit
from dreamlift.texturing.normal_map import perturbed_normals
from dreamlift.texturing.sampling import colors_at, interpolate
from dreamlift.types import Cameras, Mesh, RenderOutput, Shading


def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    background: float | Tensor = 1.0,
    shading: Shading | None = None,
    supersample: int = 2,
) -> RenderOutput:
    """Renders of a mesh on the CPU: its texture, or else its vertex colours, or else mid grey.

    Args:
        background: a number, ``(B, 3)``, or a tensor that broadcasts to ``(B, H, W, 3)``, in [0, 1].
        shading: as for a scene's renders, with the normal map if there is one; None shows the plain base colour.
        supersample: samples per pixel along each axis, averaged in sRGB as in the scenes' own renders.
    """
    fine = rescaled(cameras.to("cpu"), supersample)

    def draw(view: int) -> Tensor:
        one = slice(view, view + 1)
        fragments = rasterize(mesh.vertices, mesh.faces, fine[one])
        return _box_filter(_shade(mesh, fragments, fine[one], shading and shading[one]), supersample)

    with ThreadPoolExecutor(jit.workers()) as pool:
        # (B, H, W, 8): colour, opacity, depth, normal, all weighted by coverage
        mean = torch.cat(list(pool.map(draw, range(len(cameras)))))
    backdrop = torch.as_tensor(background, dtype=mean.dtype).cpu()
    if backdrop.ndim == 2:
        backdrop = backdrop[:, None, None]
    opacity = mean[..., 3:4]
    return RenderOutput(
        rgb=mean[..., :3] + (1 - opacity) * backdrop,
        opacity=opacity,
        depth=mean[..., 4:5] / opacity.clamp_min(1e-6),  # mean over the samples that hit the mesh; 0 without a hit
        normal=mean[..., 5:8],
    )


def _shade(mesh: Mesh, fragments: Fragments, camera: Cameras, shading: Shading | None) -> Tensor:
    """``(1, H, W, 8)`` of one view: colour, coverage, depth, normal; 0 where there is no face."""
    shape = fragments.faces.shape
    hit = torch.nonzero(fragments.faces.flatten() >= 0).flatten()
    face = fragments.faces.flatten()[hit]
    bary = fragments.barycentrics.view(-1, 3)[hit]
    depth = fragments.depth.flatten()[hit]
    color = colors_at(mesh, face, bary)
    if mesh.normal_map is not None and mesh.uvs is not None:
        normal = perturbed_normals(with_normals(mesh), face, bary)
    elif mesh.vertex_normals is not None:
        normal = interpolate(mesh, mesh.vertex_normals, face, bary)
    else:
        normal = torch.from_numpy(area_vectors(mesh.vertices, mesh.faces)).float()[face]
    normal = torch.nn.functional.normalize(normal, dim=-1)
    if shading is not None:
        color = shade(color, normal, interpolate(mesh, mesh.vertices, face, bary), torch.zeros_like(face), shading)
    out = torch.zeros(fragments.faces.numel(), 8)
    out[hit] = torch.cat([color, torch.ones(len(hit), 1), depth[:, None], normal], dim=1)
    return out.view(*shape, 8)


def _box_filter(image: Tensor, factor: int) -> Tensor:
    """Means over blocks of ``factor`` x ``factor`` pixels of ``(B, H, W, C)``."""
    return torch.nn.functional.avg_pool2d(image.movedim(-1, 1), factor).movedim(1, -1)
