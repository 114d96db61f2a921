"""Environment light: a panorama, prefiltered to nine coefficients (diffuse) and a stack of blurred panoramas (glossy).

Diffuse: the panorama's second-order spherical harmonics L_lm give the irradiance of a surface with normal n as

    E(n) = sum_lm A_l L_lm Y_lm(n),        A_0, A_1, A_2 = pi, 2 pi / 3, pi / 4

(Ramamoorthi and Hanrahan 2001, "An Efficient Representation for Irradiance Environment Maps", equation 9,
https://doi.org/10.1145/383259.383317). Glossy: for each of several roughnesses, the panorama weighted by the GGX lobe around a
direction r, under the approximation n = v = r (Karis 2013, "Real Shading in Unreal Engine 4").

Panoramas are equirectangular: the middle column is the front (+z), +x lies a quarter of the width to its right, the first row
is up.
"""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, grid_sample, pad

from dreamlift.color import to_linear
from dreamlift.reading.pictures import read_plain
from dreamlift.shading import brdf
from dreamlift.shading.brdf import dots

HEIGHT = 64  # rows of the panorama
LOBE_HEIGHT = 32  # rows of the blurred panoramas
ROUGHNESSES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0)  # of the blurred panoramas
FILE_BYTES, SIDE = 64 << 20, 8192  # largest size of a user's panorama, and its largest width in pixels


def panorama_directions(height: int) -> tuple[Tensor, Tensor]:
    """Unit directions ``(h, 2 h, 3)`` of a panorama's texels, and the texels' solid angles ``(h, 2 h)`` (sum 4 pi)."""
    polar = (torch.arange(height, dtype=torch.float64) + 0.5) * math.pi / height
    azimuth = ((torch.arange(2 * height, dtype=torch.float64) + 0.5) / height - 1) * math.pi
    polar, azimuth = torch.meshgrid(polar, azimuth, indexing="ij")
    directions = torch.stack([polar.sin() * azimuth.sin(), polar.cos(), polar.sin() * azimuth.cos()], dim=-1)
    edges = (torch.arange(height + 1, dtype=torch.float64) * math.pi / height).cos()
    angles = (edges[:-1] - edges[1:]) * math.pi / height
    return directions, angles[:, None].expand(height, 2 * height)


def studio(directions: Tensor) -> Tensor:
    """Linear radiance ``(..., 3)`` of an analytic photo studio in unit ``directions (..., 3)``.

    It has a large soft key light at the upper front right, a weaker cool fill light at the left, a rim light behind, bright
    walls and a darker floor. A white diffuse surface has radiance 0.5 (facing down) to about 1 (facing the key light).
    """
    up = directions[..., 1:2]
    walls = 0.62 + 0.22 * up + 0.06 * up.square()

    def soft(x: float, y: float, z: float, width: float, color: tuple[float, float, float]) -> Tensor:
        axis = torch.tensor([x, y, z], dtype=directions.dtype) / math.sqrt(x * x + y * y + z * z)
        cosine = dots(directions, axis.to(directions))
        return torch.exp((cosine - 1) / width) * torch.tensor(color).to(directions)

    key = soft(0.7, 0.8, 0.9, 0.04, (3.2, 3.1, 2.9))
    fill = soft(-1.0, 0.3, 0.5, 0.06, (0.9, 0.95, 1.05))
    rim = soft(-0.2, 0.7, -1.0, 0.03, (1.6, 1.6, 1.6))
    return walls + key + fill + rim


def harmonics(n: Tensor) -> Tensor:
    """The nine real spherical harmonics Y_lm ``(..., 9)`` up to l = 2 of unit vectors ``(..., 3)``."""
    x, y, z = n.unbind(dim=-1)
    return torch.stack(
        [
            torch.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x, 1.092548 * x * y, 1.092548 * y * z,
            0.315392 * (3 * z * z - 1), 1.092548 * x * z, 0.546274 * (x * x - y * y),
        ],
        dim=-1,
    )  # fmt: skip


def irradiance_numbers(panorama: Tensor) -> Tensor:
    """The coefficients A_l L_lm ``(9, 3)`` of a ``panorama (h, 2 h, 3)``: E(n) is their sum weighted by Y_lm(n)."""
    directions, angles = panorama_directions(panorama.shape[0])
    weights = harmonics(directions) * angles[..., None]
    projected = torch.einsum("hwk,hwc->kc", weights, panorama.double())
    bands = torch.tensor([math.pi] + [2 * math.pi / 3] * 3 + [math.pi / 4] * 5, dtype=torch.float64)
    return (bands[:, None] * projected).float()


def blurred(panorama: Tensor, roughness: float, height: int = LOBE_HEIGHT) -> Tensor:
    """The ``panorama (h, 2 h, 3)`` filtered by the GGX lobe of a roughness, ``(height, 2 height, 3)``."""
    around, angles = panorama_directions(panorama.shape[0])
    around, light = around.reshape(-1, 3).float(), panorama.reshape(-1, 3).float()
    directions = panorama_directions(height)[0].reshape(-1, 3).float()
    rows = []
    for part in directions.split(512):
        cosine = part @ around.T  # n.l with n = v = r: then n.h = v.h = sqrt((1 + n.l) / 2)
        half = ((1 + cosine) / 2).clamp(0, 1).sqrt()
        lobe = brdf.ggx(half, torch.tensor(roughness)) * cosine.clamp_min(0) * angles.reshape(-1).float()
        rows.append(lobe @ light / lobe.sum(dim=1, keepdim=True))
    return torch.cat(rows).view(height, 2 * height, 3)


class Environment(nn.Module):
    """Light from a panorama. It has no parameters and is not saved in checkpoints: the settings define it."""

    irradiance: Tensor  # (9, 3) coefficients of :func:`irradiance_numbers`
    lobes: Tensor  # (1, 3, roughnesses, rows, columns + 2), the first and the last column repeated across the seam

    def __init__(self, panorama: Tensor) -> None:
        """``panorama (h, 2 h, 3)``: linear radiance, not negative."""
        super().__init__()
        sharp = adaptive_avg_pool2d(panorama.permute(2, 0, 1)[None].float(), (LOBE_HEIGHT, 2 * LOBE_HEIGHT))
        sharp = sharp[0].permute(1, 2, 0)
        levels = [sharp, *(blurred(sharp, roughness) for roughness in ROUGHNESSES[1:])]
        stack = torch.stack(levels).permute(3, 0, 1, 2)[None]
        self.register_buffer("irradiance", irradiance_numbers(panorama), persistent=False)
        self.register_buffer("lobes", pad(stack, (1, 1, 0, 0, 0, 0), mode="circular"), persistent=False)

    def diffuse(self, n: Tensor) -> Tensor:
        """Irradiance over pi ``(N, 3)`` at unit normals ``n (N, 3)``: the radiance of a white diffuse surface."""
        return (harmonics(n) @ self.irradiance.to(n) / math.pi).clamp_min(0)

    def glossy(self, r: Tensor, roughness: Tensor) -> Tensor:
        """Radiance ``(N, 3)`` around unit directions ``r (N, 3)``, blurred by ``roughness (N, 1)``; differentiable in both."""
        columns = self.lobes.shape[-1]
        x = torch.atan2(r[:, 0], r[:, 2]) / math.pi * ((columns - 2) / columns)
        y = torch.acos(r[:, 1].clamp(-1, 1)) * (2 / math.pi) - 1
        steps = torch.tensor(ROUGHNESSES).to(r)
        rough = roughness[:, 0].clamp(0, 1)
        below = (torch.searchsorted(steps, rough.detach().contiguous(), right=True) - 1).clamp(0, len(ROUGHNESSES) - 2)
        level = below + (rough - steps[below]) / (steps[below + 1] - steps[below])
        z = (level + 0.5) * (2 / len(ROUGHNESSES)) - 1
        where = torch.stack([x, y, z], dim=1)[None, None, None]
        return grid_sample(self.lobes.to(r), where, padding_mode="border", align_corners=False)[0, :, 0, 0].T

    def lit(self, base: Tensor, roughness: Tensor, metallic: Tensor, n: Tensor, v: Tensor) -> Tensor:
        """Linear radiance ``(N, 3)`` toward ``v (N, 3)`` of surfaces with normals ``n (N, 3)`` (both unit).

        Args:
            base: ``(N, 3)`` linear. roughness, metallic: ``(N, 1)``. All in [0, 1] and differentiable.
        """
        nv = dots(n, v).clamp(0, 1)
        c_diff, f0 = brdf.split(base, metallic)
        a, b = brdf.specular_scale(nv, roughness)
        specular = f0 * a + b
        # The diffuse part gets the light that the specular part does not reflect, so that energy is conserved.
        return (1 - specular) * c_diff * self.diffuse(n) + specular * self.glossy(2 * dots(n, v) * n - v, roughness)


@functools.lru_cache(maxsize=4)
def load_environment(path: str, brightness: float = 1.0) -> Environment:
    """The light of a panorama file (PNG or JPEG, sRGB, twice as wide as high), or of the :func:`studio` if ``path`` is "".

    A file's light is scaled so that a white diffuse surface has a mean radiance of 0.75 times ``brightness``.

    Raises:
        ValueError: the file does not exist, or is not such a picture.
    """
    if not path:
        return Environment(studio(panorama_directions(HEIGHT)[0]).float() * brightness)
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read_plain(Path(path), FILE_BYTES)), formats=("PNG", "JPEG")) as image:
            if image.width > SIDE or image.width != 2 * image.height:
                size = f"{image.width} x {image.height}"
                raise ValueError(f"it has {size} pixels; accepted: twice as wide as high, at most {SIDE} wide")
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    except Exception as error:  # a damaged picture can fail anywhere in the decoder, with any exception
        raise ValueError(f"{path!r} cannot be used as a panorama (PNG or JPEG, sRGB): {str(error)[:160]}") from None
    light = adaptive_avg_pool2d(to_linear(torch.from_numpy(pixels)).permute(2, 0, 1)[None], (HEIGHT, 2 * HEIGHT))
    panorama = light[0].permute(1, 2, 0)
    angles = panorama_directions(HEIGHT)[1][..., None].float()
    mean = float((panorama.mean(dim=-1, keepdim=True) * angles).sum() / (4 * math.pi))
    if mean < 1e-4:
        raise ValueError(f"{path!r} is a black picture: it gives no light")
    return Environment(panorama * (0.75 * brightness / mean))
