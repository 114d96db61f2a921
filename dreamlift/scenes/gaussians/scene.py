"""The scene ``gaussians``: 3D Gaussian splatting, optimised as DreamGaussian does.

"3D Gaussian Splatting for Real-Time Radiance Field Rendering" (Kerbl et al. 2023, https://arxiv.org/abs/2308.04079);
"DreamGaussian" (Tang et al. 2023, section 3.1, https://arxiv.org/abs/2309.16653).

All parameters have ``capacity`` rows, and the buffer ``alive`` says which of them exist: a checkpoint's shapes never change.
Light falls on the picture's surface and not on single Gaussians. Its normals are the shortest axes of the Gaussians as far as
these are flat, and those of the rendered depth for the rest: a round Gaussian has no axis, and so a lit picture teaches
places as well as directions. (On a mug that was fitted to pictures the mean cosine to the true normals was 0.86 by axes
alone, 0.88 by depth alone, 0.89 by both.)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dreamlift.cameras import rays_of
from dreamlift.scenes import regularizers
from dreamlift.scenes.background import BACKGROUNDS, Background, Learned, Random, Solid
from dreamlift.scenes.base import ParamGroup, Scene, SceneSettings, StepShape
from dreamlift.scenes.gaussians import densify as control
from dreamlift.scenes.gaussians import initial, splat
from dreamlift.scenes.gaussians import mesh as meshes
from dreamlift.scenes.gaussians.densify import Densify
from dreamlift.scenes.gaussians.harmonics import C0, colors_of
from dreamlift.scenes.gaussians.normals import flatness, lit, surface_normals
from dreamlift.texturing.extract import Extract
from dreamlift.types import Cameras, Mesh, RenderOutput, Shading, Splats

TERMS = ("sparsity", "opaque")
MAX_CAPACITY = 10_000_000
# Bytes of a Gaussian in one view with its gradients, and of a (Gaussian, pixel) pair of the torch path.
PER_GAUSSIAN, PER_PAIR = 1200, 250


@dataclass(frozen=True)
class Gaussians(SceneSettings):
    """Settings of a scene of 3D Gaussians; :meth:`build` makes the scene. Learning rates are DreamGaussian's."""

    terms: ClassVar[tuple[str, ...]] = TERMS

    background: Random | Solid | Learned = dataclasses.field(default_factory=Random, metadata={"choices": BACKGROUNDS})
    densify: Densify = dataclasses.field(default_factory=Densify)
    capacity: int = 20_000  # the most Gaussians that there can be
    count: int = 5000  # of them at the start
    radius: float = 0.5  # of the ball that they fill at the start, world units
    opacity: float = 0.1  # of each at the start, in (0, 1)
    sh_degree: int = 0  # of the spherical harmonics of the colours: 0 (the same from all sides) to 3
    means_lr: float = 0.01  # of positions (DreamGaussian's 0.001 times its spatial scale of 10)
    means_lr_end: float = 2e-4  # what it has fallen to, exponentially, at progress `means_until`
    means_until: float = 0.6  # progress in (0, 1]
    color_lr: float = 0.01  # of colours; their higher harmonics get a twentieth (Kerbl et al.)
    opacity_lr: float = 0.05
    scale_lr: float = 0.005
    quat_lr: float = 0.005
    bounds: float = 1.0  # half the edge of the cube that is meshed, world units

    def __post_init__(self) -> None:
        if not 1 <= self.count <= self.capacity <= MAX_CAPACITY:
            raise ValueError(
                f"count is {self.count} and capacity {self.capacity}; accepted: 1 <= count <= capacity <= {MAX_CAPACITY}"
            )
        if self.sh_degree not in (0, 1, 2, 3):
            raise ValueError(f"sh_degree is {self.sh_degree}; accepted: 0, 1, 2, 3")
        if not 0.0 < self.opacity < 1.0 or not 0.0 < self.means_until <= 1.0:
            raise ValueError(f"opacity is {self.opacity:g} and means_until {self.means_until:g}; accepted: between 0 and 1")
        for name in ("radius", "means_lr", "means_lr_end", "color_lr", "opacity_lr", "scale_lr", "quat_lr", "bounds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be positive")
        if self.means_lr_end > self.means_lr:
            raise ValueError(f"means_lr_end is {self.means_lr_end:g}; it must not be above means_lr ({self.means_lr:g})")

    def build(self, rng: torch.Generator, device: torch.device | str = "cpu", start: Mesh | None = None) -> GaussianScene:
        """See :meth:`SceneSettings.build`. With a mesh, ``count`` Gaussians begin on its surface in its colours."""
        if start is None:
            first = initial.ball(self.count, self.radius, self.opacity, rng)
        else:
            first = initial.on_mesh(start, self.count, rng)
        return GaussianScene(self, first, self.background.build(rng)).to(device)

    def values(self) -> int:
        return self.capacity * (3 + 4 + 3 + 1 + 3 * (self.sh_degree + 1) ** 2)

    def step_bytes(self, shape: StepShape) -> int:
        pixels = shape.views * shape.side**2
        return shape.views * self.capacity * PER_GAUSSIAN + splat.PAIRS_AT_ONCE * PER_PAIR + 200 * pixels

    def picture_bytes(self, device: str) -> int:
        return self.capacity * PER_GAUSSIAN + splat.PAIRS_AT_ONCE * PER_PAIR

    def thrifty(self) -> None:
        return None  # pairs are bounded already; a smaller capacity is the user's to choose

    def means_scale(self, progress: float) -> float:
        """What the positions' learning rate has fallen to, of its start."""
        return (self.means_lr_end / self.means_lr) ** min(progress / self.means_until, 1.0)


class GaussianScene(Scene):
    """See the module's docstring. In ``eval()`` mode the background is not random."""

    alive: Tensor
    settled: Tensor
    pushes: Tensor
    sightings: Tensor

    def __init__(self, settings: Gaussians, start: initial.Start, background: Background) -> None:
        super().__init__()
        self.settings, self.bounds, self.background = settings, settings.bounds, background
        count, capacity = len(start.means), settings.capacity
        higher = (settings.sh_degree + 1) ** 2 - 1
        self.means = _rows(start.means, capacity)
        self.quats = _rows(start.quats, capacity)
        self.quats.data[count:, 0] = 1.0
        self.log_scales = _rows(start.log_scales, capacity)
        self.logit_opacities = _rows(start.logit_opacities, capacity)
        self.sh0 = _rows(start.sh0, capacity)
        self.shN = _rows(torch.zeros(count, higher, 3), capacity)
        self.register_buffer("alive", torch.arange(capacity) < count)
        self.register_buffer("settled", self.means.detach().clone())  # the means after the last step
        self.register_buffer("pushes", torch.zeros(capacity))  # sums of screen gradients since the last round
        self.register_buffer("sightings", torch.zeros(capacity))  # and of how many views

    def rows(self) -> control.Rows:
        """The parameters that have one row a Gaussian."""
        return {
            "means": self.means, "quats": self.quats, "log_scales": self.log_scales,
            "logit_opacities": self.logit_opacities, "sh0": self.sh0, "shN": self.shN,
        }  # fmt: skip

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
        """See :meth:`Scene.render`. ``progress`` is not used.

        ``depth`` is the opacity-weighted mean of the Gaussians' own distances.
        """
        like = self.means
        cameras = cameras.to(like.device)
        rays = rays_of(cameras)
        directions = rays.directions.to(like)
        index = self.alive.nonzero()[:, 0]
        means, quats, scales = self.means[index], self.quats[index], self.log_scales[index].exp()
        toward = means - cameras.c2w[:, None, :3, 3].to(like)  # (B, N, 3)
        distance = toward.norm(dim=-1, keepdim=True)
        wanted = normals or (shading is not None and bool((shading.lambertian > 0).any()))
        features = [colors_of(self.sh0[index], self.shN[index], toward / distance), distance]
        if wanted:
            features.append(splat.axis_normals(quats, scales, -toward) * flatness(scales)[:, None])
        drawn = splat.render_splats(
            (means, quats, scales, self.logit_opacities[index].sigmoid()), torch.cat(features, -1), cameras
        )
        opacity, depth = drawn.opacity, drawn.features[..., 3:4] / drawn.opacity.clamp(min=1e-6)
        rgb, points, normal = drawn.features[..., :3], None, None
        if wanted:
            points = rays.origins.to(like) + depth * directions
            normal = surface_normals(drawn.features[..., 4:], points, opacity, directions)
        if shading is not None:
            rgb = lit(rgb, opacity, points, normal, shading)
        backdrop = self.background.behind(background, directions, rng)
        aux: dict[str, Tensor] = {}
        if drawn.means2d.requires_grad:
            drawn.means2d.retain_grad()
            aux = {"means2d": drawn.means2d, "seen": drawn.seen, "rows": index}
        shown = opacity * normal if normals and normal is not None else None
        return RenderOutput(rgb + (1 - opacity) * backdrop, opacity, depth, shown, aux)

    def regularize(self, render: RenderOutput, progress: float, only: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        """Raw terms: sparsity and opaque, both of the rendered opacity."""
        terms = {}
        for name in TERMS if only is None else only:
            if name not in TERMS:
                raise ValueError(f"Unknown regulariser {name!r}; a gaussians scene has {', '.join(TERMS)}.")
            terms[name] = getattr(regularizers, name)(render.opacity)
        return terms

    def param_groups(self) -> list[ParamGroup]:
        settings = self.settings
        rates = {
            "means": settings.means_lr, "quats": settings.quat_lr, "log_scales": settings.scale_lr,
            "logit_opacities": settings.opacity_lr, "sh0": settings.color_lr, "shN": settings.color_lr / 20,
        }  # fmt: skip
        own: list[ParamGroup] = [
            {"name": name, "params": [value], "lr": rates[name]} for name, value in self.rows().items() if value.numel()
        ]
        return [*own, *self.background.param_groups()]

    @torch.no_grad()
    def after_step(
        self, index: int, progress: float, rng: torch.Generator, render: RenderOutput, optimizer: torch.optim.Optimizer
    ) -> None:
        """See :meth:`Scene.after_step`. Shortens the step of the positions, and adds and removes Gaussians.

        Positions have a schedule of their own. A step of Adam is linear in its learning rate, and its moments do not
        depend on it, so keeping only a share of the step that was made is the very same as a smaller rate.
        """
        self.means.copy_(torch.lerp(self.settled, self.means, self.settings.means_scale(progress)))
        if self.settings.sh_degree == 0:
            self.sh0.clamp_(-0.5 / C0, 0.5 / C0)  # colours stay in [0, 1]
        self._watch(render)
        densify = self.settings.densify
        if densify.is_due(index, progress):
            values = self.rows()
            changed = control.prune(values, self.alive, densify)
            mean = self.pushes / self.sightings.clamp(min=1)
            changed |= control.double(values, self.alive, mean, densify, rng)
            control.zero_moments(optimizer, values, changed)
            self.pushes.zero_()
            self.sightings.zero_()
        if densify.reset_every and (index + 1) % densify.reset_every == 0 and progress <= densify.end:
            control.reset_opacities(self.rows())
            control.zero_moments(optimizer, {"logit_opacities": self.logit_opacities}, self.alive)
        self.settled.copy_(self.means)

    def _watch(self, render: RenderOutput) -> None:
        """Add up how far the pictures would push each Gaussian on the screen, in halves of a picture."""
        pushed = render.aux.get("means2d")
        if pushed is None or pushed.grad is None:
            return
        rows, seen = render.aux["rows"], render.aux["seen"].to(self.pushes)
        height, width = render.rgb.shape[1:3]
        halves = pushed.grad.to(self.pushes) * torch.tensor([width / 2, height / 2]).to(self.pushes)
        self.pushes.index_add_(0, rows, (halves.norm(dim=-1) * seen).sum(0))
        self.sightings.index_add_(0, rows, seen.sum(0))

    @torch.no_grad()
    def to_mesh(self, settings: Extract) -> Mesh:
        """The surface of the Gaussians' summed density, with the colours that rays collect there."""
        return meshes.mesh_of_splats(self._alive(), self.bounds, settings)

    @torch.no_grad()
    def to_splats(self) -> Splats:
        """The Gaussians that exist, on the CPU, as ``.ply`` files of the original code hold them."""
        return Splats(*(value.float().cpu().numpy() for value in self._alive()))

    def _alive(self) -> tuple[Tensor, ...]:
        """The rows that exist of each parameter, in the order of :class:`~dreamlift.types.Splats`."""
        return tuple(value.detach()[self.alive] for value in self.rows().values())


def _rows(values: Tensor, capacity: int) -> nn.Parameter:
    """``values (N, ...)`` as a parameter of ``capacity`` rows, the others zero."""
    out = torch.zeros(capacity, *values.shape[1:])
    out[: len(values)] = values
    return nn.Parameter(out)
