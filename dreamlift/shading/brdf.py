"""Reflection by glTF 2.0's metallic-roughness material, under a point light and under an environment.

With the half vector h between the direction l to the light and v to the camera, and alpha = roughness^2,

    f(l, v) = (1 - F) c_diff / pi + F D V,                         c_diff = base (1 - metallic)
    D = alpha^2 / (pi ((n.h)^2 (alpha^2 - 1) + 1)^2)                                                        GGX
    V = 1 / ((n.l + sqrt(alpha^2 + (1 - alpha^2) (n.l)^2)) (n.v + sqrt(alpha^2 + (1 - alpha^2) (n.v)^2)))   Smith
    F = f_0 + (1 - f_0) (1 - v.h)^5,                               f_0 = 0.04 (1 - metallic) + base metallic  Schlick

glTF 2.0 specification, appendix B.3, https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html#appendix-b-brdf-implementation;
Walter et al. 2007, "Microfacet Models for Refraction through Rough Surfaces", equations 33-34; Schlick 1994. Under an
environment, the specular part is the split sum (Karis 2013, "Real Shading in Unreal Engine 4", equation 7): the
environment blurred by the lobe, times (f_0 A + B)(n.v, roughness), where A and B are integrated here once.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

SMALLEST = 1e-4  # lower bound of cosines in denominators
TABLE = 32  # entries per side of the table of A and B


def dots(a: Tensor, b: Tensor) -> Tensor:
    """Dot products ``(..., 1)`` of ``a, b (..., 3)``."""
    return (a * b).sum(dim=-1, keepdim=True)


def ggx(nh: Tensor, roughness: Tensor) -> Tensor:
    """The density D of microfacet normals at cosine ``nh``; its integral over the hemisphere, times the cosine, is 1."""
    alpha2 = roughness**4
    # 1 - nh^2 (1 - alpha^2), without the cancellation of large terms near nh = 1.
    return alpha2 / (math.pi * (alpha2 * nh**2 + (1 - nh**2)).clamp_min(1e-9).square())


def smith(nl: Tensor, nv: Tensor, roughness: Tensor) -> Tensor:
    """The visibility V = G / (4 nl nv), in glTF's separable form."""
    alpha2 = roughness**4
    one = nl + (alpha2 + (1 - alpha2) * nl.square()).sqrt()
    other = nv + (alpha2 + (1 - alpha2) * nv.square()).sqrt()
    return 1 / (one * other).clamp_min(1e-9)


def schlick(f0: Tensor, vh: Tensor) -> Tensor:
    """The Fresnel reflectance F of a microfacet at cosine ``vh``."""
    return f0 + (1 - f0) * (1 - vh.clamp(0, 1)) ** 5


def split(base: Tensor, metallic: Tensor) -> tuple[Tensor, Tensor]:
    """c_diff and f_0 ``(..., 3)`` of linear base colours ``(..., 3)`` and ``metallic (..., 1)``."""
    return base * (1 - metallic), 0.04 * (1 - metallic) + base * metallic


def reflectance(base: Tensor, roughness: Tensor, metallic: Tensor, n: Tensor, l: Tensor, v: Tensor) -> Tensor:  # noqa: E741
    """f(l, v) ``(..., 3)``, in 1/sr; 0 where the light or the camera lies behind the surface.

    Args:
        base: ``(..., 3)`` linear, in [0, 1]. roughness, metallic: ``(..., 1)`` in [0, 1].
        n, l, v: unit vectors ``(..., 3)``: normal, to the light, to the camera.
    """
    h = normalize(l + v, dim=-1)
    nl, nv, nh, vh = dots(n, l), dots(n, v), dots(n, h), dots(v, h)
    diffuse, f0 = split(base, metallic)
    fresnel = schlick(f0, vh)
    value = (1 - fresnel) * diffuse / math.pi + fresnel * ggx(nh.clamp(0, 1), roughness) * smith(
        nl.clamp_min(SMALLEST), nv.clamp_min(SMALLEST), roughness
    )
    return torch.where((nl > 0) & (nv > 0), value, torch.zeros_like(value))


def point_light(
    base: Tensor, roughness: Tensor, metallic: Tensor, n: Tensor, points: Tensor, light: Tensor, v: Tensor
) -> Tensor:
    """Linear radiance ``(N, 3)`` under a light at ``light (3,)`` that gives radiance 1 to a white diffuse surface facing it.

    As in DreamFusion, the light does not fall off with distance.
    """
    toward = normalize(light - points, dim=-1)
    return math.pi * reflectance(base, roughness, metallic, n, toward, v) * dots(n, toward).clamp_min(0)


def hammersley(count: int) -> Tensor:
    """``(count, 2)`` low-discrepancy points in [0, 1)^2: (i + 1/2) / N and i's binary digits mirrored (Hammersley 1960)."""
    index = torch.arange(count)
    mirrored, scale = torch.zeros(count, dtype=torch.float64), 0.5
    for bit in range(max(1, (count - 1).bit_length())):
        mirrored += ((index >> bit) & 1) * scale
        scale *= 0.5
    return torch.stack([(index + 0.5) / count, mirrored + 0.5 * 2.0 ** -max(1, (count - 1).bit_length())], dim=1)


def sampled_halves(count: int, roughness: float) -> Tensor:
    """``(count, 3)`` half vectors around +z with a density of D times their cosine (Walter et al., equations 35-36)."""
    u = hammersley(count)
    cosine2 = (1 - u[:, 0]) / (1 + (roughness**4 - 1) * u[:, 0])
    sine, angle = (1 - cosine2).clamp_min(0).sqrt(), 2 * math.pi * u[:, 1]
    return torch.stack([sine * angle.cos(), sine * angle.sin(), cosine2.sqrt()], dim=1)


@functools.lru_cache(maxsize=1)
def specular_table(samples: int = 512) -> Tensor:
    """A and B as ``(1, 2, TABLE, TABLE)`` float32, by rows of roughness and columns of n.v, both from 0 to 1.

    int f_spec n.l dl = f_0 A + B: the specular reflectance under a uniform environment.
    """
    nv = torch.linspace(0, 1, TABLE, dtype=torch.float64).clamp_min(1e-3)
    v = torch.stack([(1 - nv**2).sqrt(), torch.zeros_like(nv), nv], dim=1)
    rows = []
    for roughness in torch.linspace(0, 1, TABLE).clamp_min(0.02).tolist():
        h = sampled_halves(samples, roughness)
        vh = (v @ h.T).clamp_min(0)  # (TABLE, samples)
        nl, nh = (2 * vh * h[:, 2] - nv[:, None]).clamp_min(0), h[:, 2]
        rough = torch.tensor(roughness, dtype=torch.float64)
        # f n.l / pdf with f = F D V and pdf = D n.h / (4 v.h)
        weight = torch.where(nl > 0, smith(nl, nv[:, None], rough) * nl * 4 * vh / nh.clamp_min(1e-6), 0.0)
        fresnel = (1 - vh) ** 5
        rows.append(torch.stack([(weight * (1 - fresnel)).mean(dim=1), (weight * fresnel).mean(dim=1)]))
    return torch.stack(rows, dim=1)[None].float()


def specular_scale(nv: Tensor, roughness: Tensor) -> tuple[Tensor, Tensor]:
    """A and B ``(N, 1)`` at ``nv, roughness (N, 1)`` in [0, 1], bilinear in the table; differentiable in both."""
    where = torch.cat([nv, roughness], dim=1) * 2 - 1
    table = specular_table().to(nv)
    found = grid_sample(table, where[None, None], mode="bilinear", padding_mode="border", align_corners=True)
    return found[0, 0, 0, :, None], found[0, 1, 0, :, None]
