"""The scene ``surface``: a texture, or a physically based material, optimised on a fixed mesh.

Texturing of a given shape by score distillation is Latent-Paint (Metzer et al. 2022, "Latent-NeRF", section 3.3,
https://arxiv.org/abs/2211.07600); with a physically based material it is the appearance stage of Fantasia3D (Chen et al.
2023, section 3.3, https://arxiv.org/abs/2303.13873). The shape is fixed, so visibility needs no gradient: the exact rasteriser
determines the face at each sample, and only the texture gets gradients.

The mesh's own colours are a fixed offset: with initial colour c_0 and texture value c, a sample has the colour
sigmoid(logit c_0 + logit c), and the texture is initialised to one half.

The material "pbr" has a second texture for roughness and metallic, and is lit by an environment
(:mod:`dreamlift.shading.environment`), which the point light of a :class:`~dreamlift.types.Shading` partly replaces. Lighting
is computed in linear RGB and converted to sRGB at each sample.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreamlift.cameras import rays_of, rescaled, turned
from dreamlift.color import to_linear, to_srgb
from dreamlift.raster.exact import rasterize
from dreamlift.scenes.background import BACKGROUNDS, Background, Learned, Random, Solid
from dreamlift.scenes.base import ParamGroup, Scene, SceneSettings
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.surface.initial import InitialAppearance, initial_appearance_of, unpainted_fields, with_uvs
from dreamlift.scenes.surface.textures import TEXTURES, Image, Texture, build_texture, joined_odds, total_variation
from dreamlift.shading.brdf import point_light
from dreamlift.shading.environment import Environment, load_environment
from dreamlift.shading.lambert import shade
from dreamlift.system.files import expanded
from dreamlift.texturing.bake import inpaint_texels, rasterize_uvs
from dreamlift.texturing.extract import Extract
from dreamlift.texturing.uvs import uv_density
from dreamlift.types import Cameras, Mesh, RenderOutput, Shading

SAMPLE = 400  # peak bytes per sample of a render with its backward pass, without the texture's
AT_ONCE = 1 << 18  # surface points per chunk of a render without gradients
PADDING = 8  # texels by which charts are dilated in an exported texture


@dataclass(frozen=True)
class Surface(SceneSettings):
    """Settings of a texture on a fixed mesh; :meth:`build` creates the scene."""

    needs_initial_mesh: ClassVar[bool] = True
    keeps_initial_mesh: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("tv",)

    # representation of the texture
    texture: Image | Voxel | Hashgrid = dataclasses.field(default_factory=Image, metadata={"choices": TEXTURES})
    # background behind the object
    background: Random | Solid | Learned = dataclasses.field(default_factory=Random, metadata={"choices": BACKGROUNDS})
    keep_colors: bool = True  # initialise with the mesh's own texture or colours, if any; otherwise with mid grey
    uvs: Literal["auto", "keep", "unwrap"] = "auto"  # "keep" the mesh's UVs or "unwrap" anew; "auto" keeps them if suitable
    supersample: int = 2  # samples per pixel along each axis
    material: Literal["plain", "pbr"] = "plain"  # "plain": colours only; "pbr": lit base colour, roughness and metallic
    roughness: tuple[float, float] = (0.08, 0.9)  # smallest and largest roughness of a pbr material (Fantasia3D's)
    metallic: tuple[float, float] = (0.0, 0.9)  # smallest and largest metallic of a pbr material (Fantasia3D's)
    environment: str = ""  # panorama file (PNG or JPEG, aspect ratio 2:1) that lights a pbr material; "": a built-in studio
    brightness: float = 1.0  # factor on the environment's radiance
    turn: bool = True  # rotate the environment randomly for each training view, so that its light is not baked into the colours

    def __post_init__(self) -> None:
        for name in ("roughness", "metallic"):
            low, high = getattr(self, name)
            if not 0.0 <= low < high <= 1.0:
                raise ValueError(f"Surface.{name} is [{low:g}, {high:g}]; accepted: a rising range within 0 to 1.")
        if self.brightness <= 0:
            raise ValueError(f"Surface.brightness is {self.brightness:g}; it must be positive.")
        if not 1 <= self.supersample <= 8:
            raise ValueError(f"Surface.supersample is {self.supersample}; accepted: 1 to 8 (2 is the default).")

    def resolved(self) -> Surface:
        """See :meth:`SceneSettings.resolved`; the panorama is read once, so that a bad one is refused early."""
        if not self.environment:
            return self
        found = dataclasses.replace(self, environment=str(expanded(self.environment).resolve()))
        load_environment(found.environment, self.brightness)
        return found

    def build(self, rng: torch.Generator, device: torch.device | str = "cpu", initial_mesh: Mesh | None = None) -> SurfaceScene:
        """See :meth:`SceneSettings.build`; the initial mesh is required.

        Raises:
            ValueError: no mesh is given, or ``uvs`` is "keep" and the mesh has no UVs.
        """
        if initial_mesh is None:
            raise ValueError("a surface scene paints an existing mesh: give --mesh FILE or put it after another stage")
        return SurfaceScene(self, initial_mesh, rng).to(device)

    def parameter_count(self) -> int:
        return self.texture.parameter_count() * (2 if self.material == "pbr" else 1)

    def step_bytes(self, views: int, side: int) -> int:
        sample = SAMPLE + self.texture.sample_bytes() * (2 if self.material == "pbr" else 1)
        return sample * views * (side * self.supersample) ** 2


class SurfaceScene(Scene):
    """See the module's docstring. ``load_state_dict`` requires a scene that was built from the same initial mesh."""

    keeps_own_faces: ClassVar[bool] = True

    vertices: Tensor  # (V, 3) float32
    faces: Tensor  # (F, 3) int64
    uvs: Tensor  # (V, 2) float32
    normals: Tensor  # (V, 3) float32
    density: Tensor  # (F,) UV units per world unit

    def __init__(self, settings: Surface, initial_mesh: Mesh, rng: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        size = settings.texture.size if isinstance(settings.texture, Image) else 1024
        mesh, corners = with_uvs(initial_mesh, settings.uvs, size)
        assert mesh.uvs is not None
        assert mesh.vertex_normals is not None
        self.bounds = max(1.0, float(np.abs(mesh.vertices).max()))
        for name, values in (("vertices", mesh.vertices), ("uvs", mesh.uvs), ("normals", mesh.vertex_normals)):
            self.register_buffer(name, torch.from_numpy(np.array(values, dtype=np.float32)))
        self.register_buffer("faces", torch.from_numpy(mesh.faces.astype(np.int64)))
        self.register_buffer("density", uv_density(mesh), persistent=False)
        self.initial_appearance = initial_appearance_of(initial_mesh, corners) if settings.keep_colors else InitialAppearance()
        # A pbr scene exports its own material instead of the initial mesh's.
        keep_material = settings.keep_colors and settings.material == "plain"
        self.unpainted = unpainted_fields(initial_mesh, mesh, keep_material)
        self.base_color = build_texture(settings.texture, self.bounds, rng, "base_color")
        self.finish: Texture | None = None
        self.environment: Environment | None = None
        if settings.material == "pbr":
            self.finish = build_texture(settings.texture, self.bounds, rng, "finish")
            # A copy: the cached environment must not move to another device with this scene.
            self.environment = copy.deepcopy(load_environment(settings.environment, settings.brightness))
        self.background: Background = settings.background.build(rng)

    def render(
        self,
        cameras: Cameras,
        rng: torch.Generator,
        shading: Shading | None = None,
        *,
        background: Tensor | None = None,
        progress: float = 1.0,
        normals: bool = False,
    ) -> RenderOutput:
        """See :meth:`Scene.render`. ``progress`` is not used: levels change in :meth:`after_step` only; ``aux`` is empty."""
        turns = torch.zeros(len(cameras))
        if self.training and self.environment is not None and self.settings.turn:
            turns = torch.rand(len(cameras), generator=rng) * (2 * math.pi)
        views = [self._view(cameras[i : i + 1], shading and shading[i : i + 1], turns[i]) for i in range(len(cameras))]
        mean = torch.cat(views)  # (B, H, W, 8): colour, opacity, depth and normal, weighted by coverage
        opacity = mean[..., 3:4]
        backdrop = self.background.behind(background, rays_of(cameras).directions.to(mean), rng)
        rgb = mean[..., :3] + (1 - opacity) * backdrop
        depth = mean[..., 4:5] / opacity.clamp(min=1e-6)
        return RenderOutput(rgb, opacity, depth, mean[..., 5:8] if normals else None)

    def _view(self, camera: Cameras, shading: Shading | None, turn: Tensor) -> Tensor:
        """``(1, H, W, 8)`` of one view: colour, coverage, depth and normal, averaged over each pixel's samples."""
        factor = self.settings.supersample
        fine = rescaled(camera.to("cpu"), factor)
        with torch.no_grad():
            seen = rasterize(self.vertices.detach().cpu(), self.faces.cpu(), fine)
        hit = torch.nonzero(seen.faces.flatten() >= 0).flatten()
        device = self.vertices.device
        face, bary = seen.faces.flatten()[hit].to(device), seen.barycentrics.view(-1, 3)[hit].to(self.vertices)
        depth = seen.depth.flatten()[hit].to(self.vertices)
        position = camera.c2w[0, :3, 3].to(self.vertices)
        width = depth / float(fine.K[0, 1, 1]) * self.density[face]
        size = len(hit) if torch.is_grad_enabled() else AT_ONCE
        parts = [self._shade(f, b, w, position, shading, turn)
                 for f, b, w in zip(face.split(size), bary.split(size), width.split(size), strict=True)]  # fmt: skip
        out = self.vertices.new_zeros(fine.height * fine.width, 8)
        if len(hit):
            color, normal = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
            values = torch.cat([color, torch.ones_like(depth)[:, None], depth[:, None], normal], dim=1)
            out = out.index_copy(0, hit.to(device), values)
        return out.view(1, camera.height, factor, camera.width, factor, 8).mean(dim=(2, 4))

    def _shade(
        self, face: Tensor, bary: Tensor, width: Tensor, position: Tensor, shading: Shading | None, turn: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Colours and unit normals ``(N, 3)`` of samples on ``face (N,)``, viewed from ``position (3,)``."""
        corners = self.faces[face]
        points, normal = mixed(self.vertices, corners, bary), normalize(mixed(self.normals, corners, bary), dim=-1)
        a, b, c = self.vertices[corners].unbind(dim=1)
        # Back faces, visible in open meshes, are shaded like front faces.
        away = (torch.linalg.cross(b - a, c - a) * (points - position)).sum(dim=-1, keepdim=True) > 0
        normal = torch.where(away, -normal, normal)
        color, finish = self.look(face, bary, points, mixed(self.uvs, corners, bary), width)
        if finish is not None:
            color = self._lit(color, finish, points, normal, position, shading, turn)
        elif shading is not None:
            color = shade(color, normal, points, torch.zeros_like(face), shading)
        return color, normal

    def _lit(
        self, color: Tensor, finish: Tensor, points: Tensor, normal: Tensor, position: Tensor, shading: Shading | None,
        turn: Tensor,
    ) -> Tensor:  # fmt: skip
        """Shaded sRGB colours ``(N, 3)`` of a pbr material in the environment, rotated by ``turn`` (radians, about y)."""
        assert self.environment is not None
        rough, metallic = finish[:, :1], finish[:, 1:]
        share = torch.zeros(())
        if shading is not None:
            share = shading.lambertian[0].to(color) * (1 - shading.ambient)
            color = color + shading.textureless[0].to(color) * (1 - color)
        base, toward = to_linear(color), normalize(position - points, dim=-1)
        back = -turn.to(color)  # rotate the surface by the opposite angle instead of the environment
        light = self.environment.lit(base, rough, metallic, turned(normal, back), turned(toward, back))
        if shading is not None:
            spot = point_light(base, rough, metallic, normal, points, shading.light[0].to(points), toward)
            light = light + share * (spot - light)
        return to_srgb(light)

    def look(
        self, face: Tensor, bary: Tensor, points: Tensor, uvs: Tensor, width: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Base colour, sRGB ``(N, 3)``, and roughness with metallic ``(N, 2)`` (None for plain materials), all in [0, 1].

        The surface points have barycentrics ``bary (N, 3)`` on ``face (N,)``; see :meth:`Texture.forward` for the others.
        """
        change = self.base_color(points, uvs, width)
        initial = self.initial_appearance.color(face, bary)
        color = change if initial is None else joined_odds(initial.to(change), change)
        if self.finish is None:
            return color, None
        ranges = torch.tensor([self.settings.roughness, self.settings.metallic]).to(color)  # (2, 2): low and high of each
        low, span = ranges[:, 0], ranges[:, 1] - ranges[:, 0]
        # Clamped away from the ends of the range, where gradients are small.
        initial = ((self.initial_appearance.finish(face, bary).to(color) - low) / span).clamp(0.05, 0.95)
        return color, low + span * joined_odds(initial, self.finish(points, uvs, width)[:, 1:])

    def regularize(
        self, render: RenderOutput, progress: float, only: tuple[str, ...] | None = None, rng: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Unweighted tv: the squared total variation of the texture's image or grid.

        Raises:
            ValueError: ``only`` holds a name that this scene does not have.
        """
        arrays = [array for texture in self._textures() for array in texture.smooth_over()]
        has = ("tv",) if arrays else ()
        for name in only or ():
            if name not in has:
                listed = ", ".join(has) or "none with this texture"
                raise ValueError(f"Unknown regulariser {name!r}; a surface scene has: {listed}. Set weights.{name} to 0.")
        wanted = has if only is None else only
        return {name: torch.stack([total_variation(array) for array in arrays]).sum() for name in wanted}

    def _textures(self) -> list[Texture]:
        return [self.base_color] if self.finish is None else [self.base_color, self.finish]

    def param_groups(self) -> list[ParamGroup]:
        own = [group for texture in self._textures() for group in texture.param_groups()]
        return [*own, *self.background.param_groups()]

    @torch.no_grad()
    def after_step(
        self, index: int, progress: float, rng: torch.Generator, render: RenderOutput, optimizer: torch.optim.Optimizer
    ) -> None:
        for texture in self._textures():
            texture.advance(progress)

    @torch.no_grad()
    def to_mesh(self, settings: Extract) -> Mesh:
        """The scene's mesh with a baked texture of ``settings.texture_size``; the other settings are not used."""
        vertices, faces, uvs, normals = (
            x.cpu().numpy() for x in (self.vertices.float(), self.faces, self.uvs.float(), self.normals.float())
        )
        mesh = Mesh(vertices, faces.astype(np.int32), uvs, vertex_normals=normals)
        color, finish = self._baked(mesh, settings.texture_size)
        mesh = dataclasses.replace(mesh, base_color=color, **self.unpainted)
        if finish is None:
            return mesh
        return dataclasses.replace(mesh, metallic_roughness=finish, metallic=1.0, roughness=1.0)

    def _baked(self, mesh: Mesh, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Images of ``size`` x ``size`` texels, uint8: base colour, and roughness (green) with metallic (blue) or None."""
        assert mesh.uvs is not None
        texel, face, bary = rasterize_uvs(mesh.uvs, mesh.faces, size)
        if len(texel) == 0:
            raise ValueError(f"no texel of a {size} x {size} texture lies in a UV triangle: raise mesh.texture_size")
        color, finish = torch.zeros(size * size, 3), torch.ones(size * size, 3)
        device = self.vertices.device
        for part in torch.arange(len(texel)).split(AT_ONCE):
            at, weights = face[part].to(device), bary[part].to(self.vertices)
            corners = self.faces[at]
            found, ends = self.look(at, weights, mixed(self.vertices, corners, weights), mixed(self.uvs, corners, weights))
            color[texel[part]] = found.float().cpu()
            if ends is not None:
                finish[texel[part], 1:] = ends.float().cpu()
        wanted = [color] if self.finish is None else [color, finish]
        images = [inpaint_texels(image, texel, size, PADDING) for image in wanted]
        first, *rest = [(image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy() for image in images]
        return first, rest[0] if rest else None


def mixed(values: Tensor, corners: Tensor, bary: Tensor) -> Tensor:
    """Vertex ``values (V, C)`` interpolated to ``(N, C)``, with barycentrics ``bary (N, 3)`` of vertices ``corners (N, 3)``."""
    first, second, third = (values[corners[:, k]] * bary[:, k : k + 1] for k in range(3))
    return first + second + third
