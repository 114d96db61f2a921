"""Values that travel between the parts, and the conventions that all of them keep.

Conventions (written once, here):

* World: right-handed, **+y up, +z front** (glTF's own axes, so that export rotates nothing).
* Cameras: OpenCV axes (+x right, +y down, +z forward); pixel centres lie at +0.5.
* Azimuth 0 looks at the front of the object (the camera stands on +z) and grows toward +x; elevation grows toward +y.
* Pictures: ``(B, H, W, 3)``, sRGB, in [0, 1]. Latents: ``(B, C, h, w)``, in the prior's own range.
* Angles are radians unless the name ends in ``_deg``.
* ``t`` is diffusion time as a fraction of the training horizon, in [0, 1]: 0 is clean, 1 is noise.
* ``index`` is the optimiser's step, counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras that share one picture size."""

    c2w: Tensor  # (B, 4, 4) camera to world, OpenCV axes
    K: Tensor  # (B, 3, 3) intrinsics, in pixels
    width: int
    height: int
    azimuth: Tensor  # (B,) radians, 0 = front, grows toward +x
    elevation: Tensor  # (B,) radians, grows toward +y
    distance: Tensor  # (B,) from the origin, world units

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: slice) -> Cameras:
        """Some of the cameras, as a batch (take a slice, so that the batch axis stays)."""
        return Cameras(
            self.c2w[index], self.K[index], self.width, self.height,
            self.azimuth[index], self.elevation[index], self.distance[index],
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Cameras:
        return Cameras(
            self.c2w.to(device), self.K.to(device), self.width, self.height,
            self.azimuth.to(device), self.elevation.to(device), self.distance.to(device),
        )  # fmt: skip


@dataclass(frozen=True)
class RayBundle:
    """One ray a pixel."""

    origins: Tensor  # (B, H, W, 3)
    directions: Tensor  # (B, H, W, 3), unit length


@dataclass(frozen=True)
class RaySamples:
    """Sample intervals of many rays, packed: intervals of one ray are neighbours, in order of depth."""

    ray_indices: Tensor  # (N,) int64, non-decreasing
    starts: Tensor  # (N,) distance along the unit ray
    ends: Tensor  # (N,)


@dataclass(frozen=True)
class Shading:
    """How a picture is lit: one entry a camera.

    ``lambertian`` mixes the unlit and the lit picture, ``textureless`` mixes the albedo and white (0 or 1 in
    DreamFusion's heuristic; between them is allowed).
    """

    lambertian: Tensor  # (B,) in [0, 1]: 0 is the plain albedo
    textureless: Tensor  # (B,) in [0, 1]: 1 is grey clay
    light: Tensor  # (B, 3) position of the point light, world units
    ambient: float = 0.3  # light that reaches every side; the diffuse part gets 1 - ambient

    def __getitem__(self, index: slice) -> Shading:
        """That of some of the cameras (take a slice, so that the batch axis stays)."""
        return Shading(self.lambertian[index], self.textureless[index], self.light[index], self.ambient)


@dataclass(frozen=True)
class RenderOutput:
    """What a scene renders for a batch of cameras."""

    rgb: Tensor  # (B, H, W, 3) in [0, 1], composited over the background
    opacity: Tensor  # (B, H, W, 1) in [0, 1]
    depth: Tensor  # (B, H, W, 1) expected distance along the ray, world units
    normal: Tensor | None  # (B, H, W, 3) world normals, opacity-weighted; None where not asked for
    aux: dict[str, Tensor] = field(default_factory=dict)  # per-sample values for regularisers


@dataclass(frozen=True)
class Conditioning:
    """What a prior is asked to believe about each picture of a batch."""

    prompt_embeds: Tensor  # (B, L, D)
    negative_prompt_embeds: Tensor  # (B, L, D): the empty prompt, or what is not wanted
    perp_embeds: Tensor | None = None  # (B, N, L, D): Perp-Neg's other views
    perp_weights: Tensor | None = None  # (B, N), <= 0
    cameras: Cameras | None = None  # for priors that see the camera
    empty_prompt_embeds: Tensor | None = None  # (B, L, D); None where the negative prompt is the empty one
    render: RenderOutput | None = None  # what the pictures show, for losses that look at the surface


@dataclass(frozen=True)
class GuidanceOutput:
    """What a distillation loss returns: only ``loss`` is differentiated."""

    loss: Tensor  # () its gradient with respect to the latents is the guidance; its value means nothing
    x0: Tensor  # (B, C, h, w) the prior's denoised estimate, for previews
    t: Tensor  # (B,)
    metrics: dict[str, float | Tensor] = field(default_factory=dict)  # tensors () may stay on their device


@dataclass(frozen=True)
class Step:
    """One step of the optimiser, as its consumers see it."""

    index: int
    loss: float
    terms: dict[str, float]
    cameras: Cameras
    render: RenderOutput
    guidance: GuidanceOutput
    note: str = ""  # what the watchdogs did, in words; empty in a good step


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh with an optional unwrapped base-colour texture (glTF's conventions: +y up, +z front)."""

    vertices: np.ndarray  # (V, 3) float32
    faces: np.ndarray  # (F, 3) int32, counter-clockwise seen from outside
    uvs: np.ndarray | None = None  # (V, 2) float32 in [0, 1], v = 0 at the TOP row of the texture (glTF)
    base_color: np.ndarray | None = None  # (T, T, 3) uint8 sRGB
    vertex_colors: np.ndarray | None = None  # (V, 3) float32 sRGB in [0, 1]
    vertex_normals: np.ndarray | None = None  # (V, 3) float32 unit
    metallic: float = 0.0
    roughness: float = 0.9
    # (T, T, 3) uint8, linear; green is roughness and blue is metallic, each times the factor above (glTF)
    metallic_roughness: np.ndarray | None = None
    normal_map: np.ndarray | None = None  # (T, T, 3) uint8, linear: tangent space, green is +y (glTF, OpenGL)


@dataclass(frozen=True)
class Splats:
    """3D Gaussians as files hold them: raw, before activation."""

    means: np.ndarray  # (N, 3) float32, world units (a file's own: see dreamlift.export.placement)
    quats: np.ndarray  # (N, 4) float32 w, x, y, z; any length but zero
    log_scales: np.ndarray  # (N, 3) float32: natural logarithms of standard deviations, world units
    logit_opacities: np.ndarray  # (N,) float32: opacity = 1 / (1 + exp(-x))
    sh0: np.ndarray  # (N, 1, 3) float32: colour = 0.5 + 0.28209479 x, sRGB
    shN: np.ndarray  # noqa: N815  (N, K - 1, 3) float32 with K = 1, 4, 9 or 16: the higher harmonics
