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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


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


class TextStates(NamedTuple):
    """Prompts as a text encoder returns them."""

    states: Tensor  # (V, L, D) one vector a token
    pooled: Tensor | None = None  # (V, P) one vector a prompt, of the models that use one


@dataclass(frozen=True)
class Conditioning:
    """What a prior is conditioned on, for each picture of a batch."""

    prompt_embeds: Tensor  # (B, L, D)
    negative_prompt_embeds: Tensor  # (B, L, D): the empty prompt, or what is not wanted
    perp_embeds: Tensor | None = None  # (B, N, L, D): Perp-Neg's other views
    perp_weights: Tensor | None = None  # (B, N), <= 0
    cameras: Cameras | None = None  # for priors that see the camera
    empty_prompt_embeds: Tensor | None = None  # (B, L, D); None where the negative prompt is the empty one
    # Pooled text states, of the networks that take them beside the others (Stable Diffusion XL and 3, FLUX)
    pooled_prompt_embeds: Tensor | None = None  # (B, P)
    negative_pooled_prompt_embeds: Tensor | None = None  # (B, P)
    perp_pooled_embeds: Tensor | None = None  # (B, N, P)
    empty_pooled_prompt_embeds: Tensor | None = None  # (B, P)
    image_latents: Tensor | None = None  # (B, C, h, w) of a reference picture, for networks that take it beside x_t
    render: RenderOutput | None = None  # what the pictures show, for losses that look at the surface


@dataclass(frozen=True)
class GuidanceOutput:
    """What a distillation loss returns: only ``loss`` is differentiated."""

    loss: Tensor  # () its gradient with respect to the latents is the guidance; its value means nothing
    x0: Tensor  # (B, C, h, w) the prior's denoised estimate, for previews
    t: Tensor  # (B,)
    metrics: dict[str, float | Tensor] = field(default_factory=dict)  # tensors () may stay on their device


@dataclass(frozen=True)
class LoraFile:
    """A low-rank adaptation that is merged into a prior's weights."""

    path: str  # a .safetensors file, as diffusers, peft or kohya's trainers write them
    scale: float = 1.0  # multiplies its change of the weights; 0 is nothing, 1 what it was trained for


@dataclass(frozen=True)
class Pictures:
    """Pictures of one object: photos, or renders."""

    rgb: Tensor  # (B, H, W, 3) in [0, 1]
    alpha: Tensor  # (B, H, W, 1) in [0, 1]: 1 on the object
    cameras: Cameras | None = None  # None: photos whose cameras are not known
    depth: Tensor | None = None  # (B, H, W, 1) distance along the ray, in any unit; for a Pearson term
    normal: Tensor | None = None  # (B, H, W, 3) world normals, unit length on the object


@dataclass(frozen=True)
class Task:
    """What a run is asked for."""

    prompt: str
    negative: str = ""  # what is not wanted; "" is the empty prompt
    photos: Pictures | None = None


@dataclass(frozen=True)
class Handover:
    """What one stage leaves to the next; checkpoints hold it."""

    meshes: tuple[Mesh | None, ...] = ()  # one a particle
    loras: tuple[LoraFile, ...] = ()  # adaptations of the prior that were trained in this run
    pictures: Pictures | None = None  # posed renders


@dataclass(frozen=True)
class StageBegan:
    """A stage begins; the stage before it, if there was one, has left ``handover``."""

    number: int  # counted from 0
    count: int  # stages of the run
    handover: Handover


@dataclass(frozen=True)
class Note:
    """Something that the user should know, in one line."""

    text: str


@dataclass(frozen=True)
class Step:
    """One step of the optimiser, as its consumers see it."""

    index: int
    loss: float
    terms: dict[str, float]
    cameras: Cameras
    render: RenderOutput
    guidance: tuple[GuidanceOutput, ...]  # one a teacher
    note: str = ""  # what went wrong and what was done about it; empty in a good step


Event = StageBegan | Step | Note
"""What a run yields (:func:`dreamlift.lifting.lift`)."""


class EmptySceneError(ValueError):
    """There is no surface to export: the field is empty, or the threshold lies above all of it."""


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh with optional textures (glTF's conventions: +y up, +z front), checked when it is made.

    Raises:
        EmptySceneError: there are no faces.
        ValueError: a wrong shape, a value that is not finite or out of range, an index out of range, or a texture without UVs.
    """

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

    def __post_init__(self) -> None:
        vertices, faces = self.vertices, self.faces
        if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
            raise ValueError(f"a mesh needs vertices (V, 3) and faces (F, 3), not {vertices.shape} and {faces.shape}")
        if len(faces) == 0:
            raise EmptySceneError("the mesh has no faces: nothing to export (lower the threshold, or train longer)")
        count = len(vertices)
        if faces.min() < 0 or faces.max() >= count:
            raise ValueError(f"face indices must lie in 0..{count - 1}, not {faces.min()}..{faces.max()}")
        for name, columns in (("vertices", 3), ("uvs", 2), ("vertex_colors", 3), ("vertex_normals", 3)):
            values = getattr(self, name)
            if values is None:
                continue
            if values.shape != (count, columns):
                raise ValueError(f"{name} must have shape ({count}, {columns}), not {values.shape}")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} holds values that are not finite (NaN or infinity)")
        for name in ("base_color", "metallic_roughness", "normal_map"):
            picture = getattr(self, name)
            if picture is None:
                continue
            if self.uvs is None:
                raise ValueError(f"a mesh with a texture ({name}) needs uvs: call dreamlift.texturing.unwrap.unwrap first")
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
                raise ValueError(f"{name} must be (T, T, 3) uint8, not {picture.shape} {picture.dtype}")
        for name in ("metallic", "roughness"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name):g}; accepted: 0 to 1")


@dataclass(frozen=True)
class Splats:
    """3D Gaussians as files hold them: raw, before activation."""

    means: np.ndarray  # (N, 3) float32, world units (a file's own: see dreamlift.export.placement)
    quats: np.ndarray  # (N, 4) float32 w, x, y, z; any length but zero
    log_scales: np.ndarray  # (N, 3) float32: natural logarithms of standard deviations, world units
    logit_opacities: np.ndarray  # (N,) float32: opacity = 1 / (1 + exp(-x))
    sh0: np.ndarray  # (N, 1, 3) float32: colour = 0.5 + 0.28209479 x, sRGB
    shN: np.ndarray  # noqa: N815  (N, K - 1, 3) float32 with K = 1, 4, 9 or 16: the higher harmonics
