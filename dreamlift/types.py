"""The values that modules exchange, and the conventions of the package.

Conventions:

* World: right-handed, **+y up, +z front** (glTF's axes, so exporters do not rotate).
* Cameras: OpenCV axes (+x right, +y down, +z forward); pixel centres lie at +0.5.
* At azimuth 0 the camera is on +z and sees the object's front; azimuth grows toward +x, elevation toward +y.
* Pictures: ``(B, H, W, 3)``, sRGB, in [0, 1]. Latents: ``(B, C, h, w)``, in the prior's range.
* Angles are radians unless the name ends in ``_deg``.
* ``t`` is diffusion time as a fraction of the training horizon, in [0, 1]: 0 is clean, 1 is noise.
* ``index`` is the optimizer's step, counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras with one picture size."""

    c2w: Tensor  # (B, 4, 4) camera to world, OpenCV axes
    K: Tensor  # (B, 3, 3) intrinsics, in pixels
    width: int
    height: int
    azimuth: Tensor  # (B,) radians, 0 = front, grows toward +x
    elevation: Tensor  # (B,) radians, grows toward +y
    distance: Tensor  # (B,) from the origin, world units

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Cameras:
        """A part of the batch: a slice, or indices ``(N,)`` int64, which may repeat cameras."""
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
    """One ray per pixel."""

    origins: Tensor  # (B, H, W, 3)
    directions: Tensor  # (B, H, W, 3), unit length


@dataclass(frozen=True)
class RaySamples:
    """Sample intervals of many rays in packed form: those of one ray are consecutive, in order of depth."""

    ray_indices: Tensor  # (N,) int64, non-decreasing
    starts: Tensor  # (N,) distance along the unit ray
    ends: Tensor  # (N,)


@dataclass(frozen=True)
class Shading:
    """The lighting of a render, one entry per camera.

    ``lambertian`` interpolates between the unlit and the lit picture, ``textureless`` between the albedo and white (0 or 1
    in DreamFusion's heuristic; values between them are valid).
    """

    lambertian: Tensor  # (B,) in [0, 1]; 0: the albedo
    textureless: Tensor  # (B,) in [0, 1]; 1: a white albedo
    light: Tensor  # (B, 3) position of the point light, world units
    ambient: float = 0.3  # weight of the ambient light, in [0, 1]; the diffuse light has 1 - ambient

    def __getitem__(self, index: slice) -> Shading:
        """The lighting of a part of the cameras (an index must be a slice, which keeps the batch axis)."""
        return Shading(self.lambertian[index], self.textureless[index], self.light[index], self.ambient)


@dataclass(frozen=True)
class RenderOutput:
    """A scene's render for a batch of cameras."""

    rgb: Tensor  # (B, H, W, 3) in [0, 1], composited over the background
    opacity: Tensor  # (B, H, W, 1) in [0, 1]
    depth: Tensor  # (B, H, W, 1) expected distance along the ray, world units
    normal: Tensor | None  # (B, H, W, 3) world normals, opacity-weighted; None if not requested
    aux: dict[str, Tensor] = field(default_factory=dict)  # per-sample values for regularizers


class TextStates(NamedTuple):
    """A text encoder's outputs for V prompts."""

    states: Tensor  # (V, L, D) one vector per token
    pooled: Tensor | None = None  # (V, P) one vector per prompt; None for models without pooled text


@dataclass(frozen=True)
class Conditioning:
    """The inputs of a prior beside the noisy picture, for a batch of B pictures."""

    prompt_embeds: Tensor  # (B, L, D)
    negative_prompt_embeds: Tensor  # (B, L, D) of the negative prompt, which may be empty
    perp_embeds: Tensor | None = None  # (B, N, L, D) of Perp-Neg's negative phrases
    perp_weights: Tensor | None = None  # (B, N), <= 0
    cameras: Cameras | None = None  # for priors with camera conditioning
    empty_prompt_embeds: Tensor | None = None  # (B, L, D) of the empty prompt; None if the negative prompt is empty
    # Pooled text, for networks that use it in addition to the states (Stable Diffusion XL and 3, FLUX)
    pooled_prompt_embeds: Tensor | None = None  # (B, P)
    negative_pooled_prompt_embeds: Tensor | None = None  # (B, P)
    perp_pooled_embeds: Tensor | None = None  # (B, N, P)
    empty_pooled_prompt_embeds: Tensor | None = None  # (B, P)
    image_latents: Tensor | None = None  # (B, C, h, w) of a reference picture, for networks conditioned on one
    coarse: Tensor | None = None  # (B, C, h, w) coarse pictures, for networks that draw only the difference to them
    pose: Tensor | None = None  # (B, P) of the pictures' cameras relative to the reference picture's, in the network's form
    frame_azimuth: float = 0.0  # radians; places are shown in the frame in which a camera at this azimuth is at azimuth 0
    render: RenderOutput | None = None  # the render that the pictures come from, for losses that use its geometry
    shown: Tensor | None = (
        None  # (B, H, W, 3) in [0, 1]: the pictures before they were encoded, for losses that compare pictures
    )


@dataclass(frozen=True)
class GuidanceOutput:
    """The result of a distillation loss; only ``loss`` and ``learning`` are differentiated."""

    loss: Tensor  # () its gradient with respect to the latents is the guidance; its value has no meaning
    x0: Tensor  # (B, C, h, w) the prior's denoised estimate, for previews
    t: Tensor  # (B,)
    metrics: dict[str, float | Tensor] = field(default_factory=dict)  # numbers, or tensors () on any device
    learning: Tensor | None = None  # () trains what the loss itself learns (VSD's LoRA); not scaled by a teacher's weight


@dataclass(frozen=True)
class LoraFile:
    """A low-rank adaptation that is merged into a prior's weights."""

    path: str  # LoRA file (.safetensors) in the format of diffusers, peft or kohya's trainers
    scale: float = 1.0  # factor on the LoRA's change of the weights; 0: no change, 1: as trained


@dataclass(frozen=True)
class Pictures:
    """Pictures of one object: photos or renders."""

    rgb: Tensor  # (B, H, W, 3) in [0, 1]
    alpha: Tensor  # (B, H, W, 1) in [0, 1]: 1 on the object
    cameras: Cameras | None = None  # None: unknown
    depth: Tensor | None = None  # (B, H, W, 1) distance along the ray, of unknown scale and shift
    normal: Tensor | None = None  # (B, H, W, 3) world normals, unit length on the object
    # (B, S, S, 4) colour and mask in [0, 1], framed as view-conditioned priors expect a picture; None: as above
    reference: Tensor | None = None

    @property
    def references(self) -> Tensor:
        """What view-conditioned priors are shown, ``(B, S, S, 4)``: ``reference``, or else the pictures as they are."""
        return torch.cat([self.rgb, self.alpha], dim=-1) if self.reference is None else self.reference


@dataclass(frozen=True)
class Task:
    """The object that a run is to produce."""

    prompt: str
    negative: str = ""  # negative prompt
    photos: Pictures | None = None


@dataclass(frozen=True)
class Handover:
    """The results of a stage that the next one starts from; part of a checkpoint."""

    meshes: tuple[Mesh | None, ...] = ()  # one per particle
    tuned: tuple[str, ...] = ()  # names of the weights that finetune stages have left in the run's folder
    pictures: Pictures | None = None  # posed renders


@dataclass(frozen=True)
class StageBegan:
    """A stage begins with the ``handover`` of the previous one."""

    number: int  # counted from 0
    count: int  # stages of the run
    handover: Handover
    end: int = 0  # index of the first step after the stage; 0: not known


@dataclass(frozen=True)
class Note:
    """A message to the user, in one line."""

    text: str
    progress: bool = False  # it says how the run gets on, and nothing that could be changed


@dataclass(frozen=True)
class Step:
    """The results of one step of the optimizer."""

    index: int
    loss: float
    terms: dict[str, float]
    cameras: Cameras | None  # None: the step renders nothing
    render: RenderOutput | None
    guidance: tuple[GuidanceOutput, ...]  # of the teachers whose weight is not 0 in this step
    note: str = ""  # the failure of the step and the roll-back; "" if the step succeeded


@dataclass(frozen=True)
class Counted:
    """Entry ``index`` of ``total`` of a work before a stage's first step is finished, such as a picture that is drawn."""

    name: str  # of the work
    index: int  # counted from 0
    total: int


Event = StageBegan | Step | Counted | Note
"""What :func:`dreamlift.lifting.lift` yields."""


class EmptySceneError(ValueError):
    """There is no surface to export: the scene is empty, or its density is below the threshold everywhere."""


class FullSceneError(ValueError):
    """The scene fills its whole space, so that its surface is no object's."""


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh with optional textures (glTF's conventions: +y up, +z front); the constructor checks it.

    Raises:
        EmptySceneError: there are no faces.
        ValueError: a wrong shape, a value that is not finite or out of range, an index out of range, or a texture without UVs.
    """

    vertices: np.ndarray  # (V, 3) float32
    faces: np.ndarray  # (F, 3) int32, counter-clockwise seen from outside
    uvs: np.ndarray | None = None  # (V, 2) float32 in [0, 1]; v = 0 at the top row of the texture (glTF)
    base_color: np.ndarray | None = None  # (T, T, 3) uint8 sRGB
    vertex_colors: np.ndarray | None = None  # (V, 3) float32 sRGB in [0, 1]
    vertex_normals: np.ndarray | None = None  # (V, 3) float32 unit
    metallic: float = 0.0
    roughness: float = 0.9
    # (T, T, 3) uint8, linear; green: roughness, blue: metallic, each multiplied by the factor above (glTF)
    metallic_roughness: np.ndarray | None = None
    normal_map: np.ndarray | None = None  # (T, T, 3) uint8, linear, in tangent space with green +y (glTF, OpenGL)
    double_sided: bool = False  # whether the faces are also seen from behind

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
    """3D Gaussians as in files: raw values, before activation."""

    means: np.ndarray  # (N, 3) float32, world units (in a file: see dreamlift.export.placement)
    quats: np.ndarray  # (N, 4) float32 w, x, y, z; of any length except 0
    log_scales: np.ndarray  # (N, 3) float32: natural logarithms of standard deviations, world units
    logit_opacities: np.ndarray  # (N,) float32: opacity = 1 / (1 + exp(-x))
    sh0: np.ndarray  # (N, 1, 3) float32: colour = 0.5 + 0.28209479 x, sRGB
    shN: np.ndarray  # noqa: N815  (N, K - 1, 3) float32 with K = 1, 4, 9 or 16: the higher harmonics
