"""Renders of a finished asset: its material under a studio's light, clay, normals, or a wireframe; without gradients.

Visibility is exact (:mod:`dreamlift.raster.exact`). ``color`` is glTF's metallic-roughness material with its textures and
normal map (:mod:`dreamlift.shading.brdf`) under :func:`dreamlift.shading.environment.studio`, which turns with the camera so
that no side is dark; ``base`` is the base color without light. Pixels are averaged over a regular grid of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from dreamlift.cameras import project, rescaled, turned
from dreamlift.color import to_linear, to_srgb
from dreamlift.export.splats import load_splats
from dreamlift.meshing.geometry import with_normals
from dreamlift.raster.exact import rasterize
from dreamlift.scenes.gaussians.harmonics import colors_of
from dreamlift.scenes.gaussians.splat import render_splats
from dreamlift.shading.brdf import reflectance
from dreamlift.shading.environment import load_environment
from dreamlift.texturing.normal_map import perturbed_normals
from dreamlift.texturing.sampling import colors_at, interpolate, sample_texture
from dreamlift.types import Cameras, Mesh, Splats

__all__ = ["LOOKS", "draw_mesh", "draw_splats", "load_splats"]

Color = tuple[float, float, float]
WHITE: Color = (1.0, 1.0, 1.0)
LOOKS = ("color", "base", "clay", "normal", "wire")
CLAY, AMBIENT = 0.82, 0.35  # its base color, sRGB, and the share of the ambient light
LAMP = 0.4  # share of the lamp's light beside the studio's
LINE, LINE_COLOR = 0.0008, (0.05, 0.20, 0.45)  # half the width of a wire as a part of the picture's, and its color
SUPERSAMPLE = 2  # samples per pixel along each axis


@dataclass(frozen=True)
class Material:
    """Glossiness of surface points: factors ``(N, 1)`` in [0, 1]."""

    roughness: Tensor
    metallic: Tensor


def draw_mesh(mesh: Mesh, cameras: Cameras, look: str = "color", background: Color = WHITE) -> Iterator[Tensor]:
    """Pictures ``(H, W, 3)`` of a mesh, sRGB in [0, 1], one for each camera.

    Args:
        look: one of :data:`LOOKS`.
        background: sRGB in [0, 1].

    Raises:
        ValueError: an unknown look.
    """
    if look not in LOOKS:
        raise ValueError(f"the look {look!r} is unknown; accepted: {', '.join(LOOKS)}")
    mesh = with_normals(mesh)
    for view in range(len(cameras)):
        yield _view(mesh, cameras[view : view + 1], look, background)


@torch.no_grad()
def _view(mesh: Mesh, camera: Cameras, look: str, background: Color) -> Tensor:
    fine = rescaled(camera, SUPERSAMPLE)
    found = rasterize(mesh.vertices, mesh.faces, fine)
    hit = torch.nonzero(found.faces.flatten() >= 0).flatten()
    face, bary = found.faces.flatten()[hit], found.barycentrics.view(-1, 3)[hit]
    picture = torch.tensor(background).repeat(fine.height * fine.width, 1)
    picture[hit] = _colors(mesh, face, bary, fine, look, hit)
    picture = picture.view(1, fine.height, fine.width, 3).movedim(-1, 1)
    return avg_pool2d(picture, SUPERSAMPLE)[0].movedim(0, -1).clamp(0, 1)


def _colors(mesh: Mesh, face: Tensor, bary: Tensor, camera: Cameras, look: str, pixel: Tensor) -> Tensor:
    """Colors ``(N, 3)`` of the surface points at barycentrics ``bary (N, 3)`` of ``face (N,)``, seen by one camera."""
    base = colors_at(mesh, face, bary)
    if look == "base" or len(face) == 0:
        return base
    points = interpolate(mesh, mesh.vertices, face, bary)
    toward = normalize(camera.c2w[:, :3, 3] - points, dim=1)
    bare = look in ("clay", "wire")
    normal = perturbed_normals(replace(mesh, normal_map=None) if bare else mesh, face, bary)
    # Both sides of a face are shown; the side that is seen is lit.
    normal = torch.where((normal * toward).sum(dim=1, keepdim=True) < 0, _facing(normal, toward), normal)
    if look == "normal":
        return 0.5 * normal + 0.5
    key = normalize(toward + camera.c2w[:, :3, 0] * 0.7 - camera.c2w[:, :3, 1] * 0.9, dim=1)  # above the camera's right
    if bare:
        shade = AMBIENT + (1.0 - AMBIENT) * (normal * key).sum(dim=1, keepdim=True).clamp_min(0)
        shown = (CLAY * shade).expand(-1, 3)
    else:
        shown = to_srgb(_lit(to_linear(base.clamp(0, 1)), _material(mesh, face, bary), normal, toward, key, camera))
    if look == "wire":
        lines = _wires(mesh, face, camera, pixel)[:, None]
        shown = shown + lines * (torch.tensor(LINE_COLOR) - shown)
    return shown


def _lit(base: Tensor, material: Material, normal: Tensor, toward: Tensor, key: Tensor, camera: Cameras) -> Tensor:
    """Linear radiance ``(N, 3)`` under the studio and a lamp in the directions ``key (N, 3)``; both go with the camera."""
    rough, metal, back = material.roughness, material.metallic, -camera.azimuth
    around = load_environment("").lit(base, rough, metal, turned(normal, back), turned(toward, back))
    lamp = math.pi * reflectance(base, rough, metal, normal, key, toward) * (normal * key).sum(dim=1, keepdim=True).clamp_min(0)
    return (1.0 - LAMP) * around + LAMP * lamp


def _facing(normal: Tensor, toward: Tensor) -> Tensor:
    """Normals that point away from the camera: turned over if the face is seen from behind, else bent into the silhouette."""
    along = (normal * toward).sum(dim=1, keepdim=True)
    bent = normalize(normal - along * toward, dim=1)
    return torch.where(along < -0.3, -normal, bent)


def _material(mesh: Mesh, face: Tensor, bary: Tensor) -> Material:
    """Roughness and metalness by glTF: the factors times the texture's green and blue."""
    rough, metal = (torch.full((len(face), 1), float(value)) for value in (mesh.roughness, mesh.metallic))
    if mesh.metallic_roughness is not None and mesh.uvs is not None:
        texture = sample_texture(mesh.metallic_roughness, interpolate(mesh, mesh.uvs, face, bary))
        rough, metal = rough * texture[:, 1:2], metal * texture[:, 2:3]
    return Material(rough.clamp(0, 1), metal.clamp(0, 1))


def _wires(mesh: Mesh, face: Tensor, camera: Cameras, pixel: Tensor) -> Tensor:
    """How much of each sample ``(N,)`` in [0, 1] lies on an edge of its face; ``pixel (N,)`` is its place in the picture."""
    screen, _ = project(camera, torch.from_numpy(np.ascontiguousarray(mesh.vertices)).float())
    corners = screen[0][torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()[face]]  # (N, 3, 2)
    here = torch.stack([pixel % camera.width, torch.div(pixel, camera.width, rounding_mode="floor")], dim=1) + 0.5
    along = corners[:, [1, 2, 0]] - corners
    away = here[:, None] - corners
    distance = (along[..., 0] * away[..., 1] - along[..., 1] * away[..., 0]).abs() / along.norm(dim=-1).clamp_min(1e-6)
    return (0.5 + max(LINE * camera.width, 0.4) - distance.amin(dim=1)).clamp(0, 1)


def draw_splats(splats: Splats, cameras: Cameras, background: Color = WHITE) -> Iterator[Tensor]:
    """Pictures ``(H, W, 3)`` of Gaussians, one for each camera. Their colors contain their light."""
    means = torch.from_numpy(splats.means).float()
    # The sphere around nearly all of them fits the cameras' path; a few far ones would make the rest a dot.
    center = means.median(dim=0).values
    scale = 0.85 / max(float(torch.quantile((means - center).norm(dim=1)[:1_000_000], 0.98)), 1e-9)
    means = (means - center) * scale
    scales = torch.from_numpy(splats.log_scales).float().exp() * scale
    quats = normalize(torch.from_numpy(splats.quats).float(), dim=1)
    opacities = torch.from_numpy(splats.logit_opacities).float().sigmoid()
    sh0, higher = torch.from_numpy(splats.sh0).float(), torch.from_numpy(splats.shN).float()
    for view in range(len(cameras)):
        camera = cameras[view : view + 1]
        with torch.no_grad():
            directions = normalize(means - camera.c2w[0, :3, 3], dim=1)
            colors = colors_of(sh0, higher, directions[None])
            drawn = render_splats((means, quats, scales, opacities), colors, camera)
            yield (drawn.features[0] + (1 - drawn.opacity[0]) * torch.tensor(background)).clamp(0, 1)
