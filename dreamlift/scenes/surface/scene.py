"""The scene ``surface``: a texture, or a whole material, optimised on a mesh that stays as it is.

Texturing of a given shape by score distillation is Latent-Paint (Metzer et al. 2022, "Latent-NeRF", section 3.3,
https://arxiv.org/abs/2211.07600); with a physically based material it is the appearance stage of Fantasia3D (Chen et al.
2023, section 3.3, https://arxiv.org/abs/2303.13873). As nothing of the shape is learnt, visibility needs no gradient: the
exact rasteriser says which face each sample shows, and the gradient goes to the texture there.

What the mesh's own colours say stays a fixed part: with c_0 the colour of before and c the texture, a sample shows
sigmoid(logit c_0 + logit c), and the texture starts at one half everywhere.

With the material "pbr" a second texture holds roughness and metallic, and pictures are lit by an environment
(:mod:`dreamlift.shading.environment`); a :class:`~dreamlift.types.Shading`'s point light takes a part of its place. All light
is linear and turned into sRGB at each sample.
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

from dreamlift.cameras import rays_of, rescaled
from dreamlift.color import to_linear, to_srgb
from dreamlift.raster.exact import rasterize
from dreamlift.scenes.background import BACKGROUNDS, Background, Learned, Random, Solid
from dreamlift.scenes.base import ParamGroup, Scene, SceneSettings, StepShape
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.memory import field_values
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.surface.initial import Own, carried, own_look, with_uvs
from dreamlift.scenes.surface.textures import TEXTURES, Image, Texture, build_texture, joined_odds, total_variation
from dreamlift.shading.brdf import point_light
from dreamlift.shading.environment import Environment, load_environment, turned
from dreamlift.shading.lambert import shade
from dreamlift.texturing.bake import rasterize_uvs, spread
from dreamlift.texturing.extract import Extract
from dreamlift.texturing.uvs import uv_density
from dreamlift.types import Cameras, Mesh, RenderOutput, Shading

AT_ONCE = 1 << 18  # surface points that are coloured at a time where no gradient is wanted
PADDING = 8  # texels that charts grow outwards in an exported texture


@dataclass(frozen=True)
class Surface(SceneSettings):
    """Settings of a texture on a fixed mesh; :meth:`build` makes the scene."""

    needs_start: ClassVar[bool] = True
    keeps_start: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("tv",)

    texture: Image | Voxel | Hashgrid = dataclasses.field(default_factory=Image, metadata={"choices": TEXTURES})
    background: Random | Solid | Learned = dataclasses.field(default_factory=Random, metadata={"choices": BACKGROUNDS})
    keep_colors: bool = True  # begin with the mesh's own texture or colours, if it has them; otherwise with mid grey
    uvs: Literal["auto", "keep", "unwrap"] = "auto"  # of the mesh: "auto" unwraps anew where its own cannot carry a texture
    supersample: int = 2  # samples a pixel along each axis
    material: Literal["plain", "pbr"] = "plain"  # colours alone, or base colour, roughness and metallic under a light
    roughness: tuple[float, float] = (0.08, 0.9)  # range of a pbr material (Fantasia3D's)
    metallic: tuple[float, float] = (0.0, 0.9)  # range of a pbr material (Fantasia3D's)
    environment: str = ""  # a panorama file (PNG or JPEG, twice as wide as high) that lights a pbr material; "" is a studio
    brightness: float = 1.0  # of the environment
    turn: bool = True  # turn the environment by a random angle for each training picture, so that its light is not painted on

    def __post_init__(self) -> None:
        for name in ("roughness", "metallic"):
            low, high = getattr(self, name)
            if not 0.0 <= low < high <= 1.0:
                raise ValueError(f"Surface.{name} is [{low:g}, {high:g}]; accepted: a rising range within 0 to 1.")
        if self.brightness <= 0:
            raise ValueError(f"Surface.brightness is {self.brightness:g}; it must be positive.")
        if not 1 <= self.supersample <= 8:
            raise ValueError(f"Surface.supersample is {self.supersample}; accepted: 1 to 8 (2 is the default).")

    def build(self, rng: torch.Generator, device: torch.device | str = "cpu", start: Mesh | None = None) -> SurfaceScene:
        """See :meth:`SceneSettings.build`; a surface scene is nothing without its mesh.

        Raises:
            EmptySceneError, ValueError: no mesh, a malformed one, or UVs that cannot be kept.
        """
        if start is None:
            raise ValueError("a surface scene paints a mesh that is there: give --mesh FILE or put it after another stage")
        return SurfaceScene(self, start, rng).to(device)

    def values(self) -> int:
        each = field_values(self.texture) if not isinstance(self.texture, Image) else 3 * sum(n * n for n in self.texture.sizes)
        return each * (2 if self.material == "pbr" else 1)

    def step_bytes(self, shape: StepShape) -> int:
        samples = shape.views * (shape.side * self.supersample) ** 2
        return (SAMPLE + LIT * (self.material == "pbr")) * samples + COPIES * 4 * self.values()

    def picture_bytes(self, device: str) -> int:
        return (SAMPLE + LIT) * AT_ONCE + COPIES * 4 * self.values()

    def thrifty(self) -> None:
        return None


SAMPLE, LIT = 500, 900  # live bytes of a sample with its gradients, and what a lit one needs more
COPIES = 2  # of the texture, that a step makes


class SurfaceScene(Scene):
    """See the module's docstring. ``state_dict`` has the mesh too: a scene that is built anew needs the same ``start``."""

    vertices: Tensor  # (V, 3) float32
    faces: Tensor  # (F, 3) int64
    uvs: Tensor  # (V, 2) float32
    normals: Tensor  # (V, 3) float32
    density: Tensor  # (F,) length in the UV image of one world unit

    def __init__(self, settings: Surface, start: Mesh, rng: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        size = settings.texture.size if isinstance(settings.texture, Image) else 1024
        mesh, corners = with_uvs(start, settings.uvs, size)
        assert mesh.uvs is not None
        assert mesh.vertex_normals is not None
        self.bounds = max(1.0, float(np.abs(mesh.vertices).max()))
        for name, values in (("vertices", mesh.vertices), ("uvs", mesh.uvs), ("normals", mesh.vertex_normals)):
            self.register_buffer(name, torch.from_numpy(np.array(values, dtype=np.float32)))
        self.register_buffer("faces", torch.from_numpy(mesh.faces.astype(np.int64)))
        self.register_buffer("density", uv_density(mesh), persistent=False)
        self.own = own_look(start, corners) if settings.keep_colors else Own()
        # A pbr material is this scene's own, whatever it begins with.
        self.carried = carried(start, mesh, material=settings.keep_colors and settings.material == "plain")
        self.base_color = build_texture(settings.texture, self.bounds, rng, "base_color")
        self.finish: Texture | None = None
        self.environment: Environment | None = None
        if settings.material == "pbr":
            self.finish = build_texture(settings.texture, self.bounds, rng, "finish")
            # A copy: the cached one is not moved along with this scene to another device.
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
        mean = torch.cat(views)  # (B, H, W, 8): colour, opacity, depth, normal, all times the coverage
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
        """Colours and unit normals ``(N, 3)`` of samples on ``face (N,)``, seen from ``position (3,)``."""
        corners = self.faces[face]
        points, normal = mixed(self.vertices, corners, bary), normalize(mixed(self.normals, corners, bary), dim=-1)
        a, b, c = self.vertices[corners].unbind(dim=1)
        # The back of a face, which an open mesh shows, is lit as its front is.
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
        """What ``N`` samples of a pbr material show, sRGB ``(N, 3)``, in the environment turned by ``turn``."""
        assert self.environment is not None
        rough, metallic = finish[:, :1], finish[:, 1:]
        share = torch.zeros(())
        if shading is not None:
            share = shading.lambertian[0].to(color) * (1 - shading.ambient)
            color = color + shading.textureless[0].to(color) * (1 - color)
        base, toward = to_linear(color), normalize(position - points, dim=-1)
        back = -turn.to(color)  # instead of the light, the surface is turned, the other way
        light = self.environment.lit(base, rough, metallic, turned(normal, back), turned(toward, back))
        if shading is not None:
            spot = point_light(base, rough, metallic, normal, points, shading.light[0].to(points), toward)
            light = light + share * (spot - light)
        return to_srgb(light)

    def look(
        self, face: Tensor, bary: Tensor, points: Tensor, uvs: Tensor, width: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Base colour, sRGB ``(N, 3)``, and roughness with metallic ``(N, 2)`` (None of a plain material), all in [0, 1].

        Of the surface points with barycentrics ``bary (N, 3)`` on ``face (N,)``; see :meth:`Texture.forward` for the rest.
        """
        change = self.base_color(points, uvs, width)
        before = self.own.color(face, bary)
        color = change if before is None else joined_odds(before.to(change), change)
        if self.finish is None:
            return color, None
        ranges = torch.tensor([self.settings.roughness, self.settings.metallic]).to(color)  # (2, 2): low and high of each
        low, span = ranges[:, 0], ranges[:, 1] - ranges[:, 0]
        # Away from the ends of the range, from which it would take long to come back.
        was = ((self.own.finish(face, bary).to(color) - low) / span).clamp(0.05, 0.95)
        return color, low + span * joined_odds(was, self.finish(points, uvs, width)[:, 1:])

    def regularize(self, render: RenderOutput, progress: float, only: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        """Raw terms: tv, the squared total variation of the texture's image or grid.

        Raises:
            ValueError: a name that this scene does not have.
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
        """The same vertices, faces and UVs, with a texture of ``settings.texture_size``; the other settings are not used."""
        vertices, faces, uvs, normals = (
            x.cpu().numpy() for x in (self.vertices.float(), self.faces, self.uvs.float(), self.normals.float())
        )
        mesh = Mesh(vertices, faces.astype(np.int32), uvs, vertex_normals=normals)
        color, finish = self._baked(mesh, settings.texture_size)
        mesh = dataclasses.replace(mesh, base_color=color, **self.carried)
        if finish is None:
            return mesh
        return dataclasses.replace(mesh, metallic_roughness=finish, metallic=1.0, roughness=1.0)

    def _baked(self, mesh: Mesh, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The texels of ``size`` x ``size`` images: base colours, and roughness (green) with metallic (blue), uint8."""
        assert mesh.uvs is not None
        texel, face, bary = rasterize_uvs(mesh.uvs, mesh.faces, size)
        if len(texel) == 0:
            raise ValueError(f"no texel of a {size} x {size} texture is in a UV triangle: raise mesh.texture_size")
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
        images = [spread(image, texel, size, PADDING) for image in wanted]
        first, *rest = [(image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy() for image in images]
        return first, rest[0] if rest else None


def mixed(values: Tensor, corners: Tensor, bary: Tensor) -> Tensor:
    """What ``values (V, C)`` are between a face's ``corners (N, 3)`` with barycentrics ``bary (N, 3)``: ``(N, C)``."""
    first, second, third = (values[corners[:, k]] * bary[:, k : k + 1] for k in range(3))
    return first + second + third
