"""Diffuse shading by a point light (DreamFusion, Poole et al. 2022, section 3.1, https://arxiv.org/abs/2209.14988).

At a point x with unit normal n, for a point light at l,

    colour = albedo * (ambient + (1 - ambient) * max(0, n . (l - x) / |l - x|)),

where the albedo is white in a "textureless" picture. :class:`~dreamlift.types.Shading` mixes this with the plain albedo.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlift.shading.vectors import dot, safe_normalize
from dreamlift.types import Shading


def shade(albedo: Tensor, normal: Tensor | None, points: Tensor, view: Tensor, shading: Shading) -> Tensor:
    """Colours ``(N, 3)`` of surface points or samples, each lit by the light of its view.

    Args:
        albedo: ``(N, 3)`` in [0, 1], sRGB. normal: ``(N, 3)`` unit length; None leaves the points unlit.
        points: ``(N, 3)`` in the world. view: ``(N,)`` int64, the entry of ``shading`` for each point.
    """
    textureless = shading.textureless.to(points)[:, None].index_select(0, view)
    albedo = albedo + textureless * (1 - albedo)
    if normal is None:
        return albedo
    toward = safe_normalize(shading.light.to(points).index_select(0, view) - points)
    diffuse = dot(normal, toward).clamp(min=0.0)
    brightness = shading.ambient + (1 - shading.ambient) * diffuse
    mix = shading.lambertian.to(points)[:, None].index_select(0, view)
    albedo = torch.where(mix > 0, albedo.clamp(0.0, 1.0), albedo)  # only linear colours are outside [0, 1]
    return albedo * (1 + mix * (brightness - 1))
