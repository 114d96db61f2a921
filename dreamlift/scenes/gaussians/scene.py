"""The scene ``gaussians``: 3D Gaussian splatting, optimised as DreamGaussian does.

"3D Gaussian Splatting for Real-Time Radiance Field Rendering" (Kerbl et al. 2023, https://arxiv.org/abs/2308.04079);
"DreamGaussian" (Tang et al. 2023, section 3.1, https://arxiv.org/abs/2309.16653).

All parameters have ``capacity`` rows, and the buffer ``alive`` marks the rows in use, so a checkpoint's shapes are constant.
Shading is deferred: it is computed per pixel, not per Gaussian. Normals blend the shortest axes of flat Gaussians with the
normals of the rendered depth, as a round Gaussian has no distinct axis; shaded renders therefore give gradients to positions
as well as to rotations. (For a mug fitted to renders, the mean cosine to the true normals was 0.86 with axes alone, 0.88 with
depth alone, 0.89 with both.)
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
from dreamlift.scenes.base import ParamGroup, Scene, SceneSettings
from dreamlift.scenes.gaussians import splat
from dreamlift.scenes.gaussians.densify import Densify, Rows, double, prune, reset_opacities, zero_moments
from dreamlift.scenes.gaussians.harmonics import C0, colors_of
from dreamlift.scenes.gaussians.initial import InitialSplats, splats_in_ball, splats_on_mesh
from dreamlift.scenes.gaussians.mesh import mesh_of_splats
from dreamlift.scenes.gaussians.normals import flatness, lit, surface_normals
from dreamlift.texturing.extract import Extract
from dreamlift.types import Cameras, Mesh, RenderOutput, Shading, Splats

TERMS = ("sparsity", "opaque", "normal_smooth")
MAX_CAPACITY = 10_000_000
# Peak bytes per Gaussian and view, per pixel, and per (Gaussian, pixel) pair of the torch path, with the backward pass.
PER_GAUSSIAN, PER_PIXEL, PER_PAIR = 1200, 200, 250


@dataclass(frozen=True)
class Gaussians(SceneSettings):
    """Settings of a scene of 3D Gaussians; :meth:`build` creates the scene. Learning rates (Adam) are DreamGaussian's."""

    terms: ClassVar[tuple[str, ...]] = TERMS

    # background behind the object
    background: Random | Solid | Learned = dataclasses.field(default_factory=Random, metadata={"choices": BACKGROUNDS})
    densify: Densify = dataclasses.field(default_factory=Densify)  # adding and removing of Gaussians
    capacity: int = 20_000  # largest number of Gaussians
    count: int = 5000  # initial number of Gaussians
    radius: float = 0.5  # radius of the ball that the initial Gaussians fill, world units; not used with an initial mesh
    opacity: float = 0.1  # initial opacity, in (0, 1); not used with an initial mesh
    sh_degree: int = 0  # degree of the colours' spherical harmonics, 0 (view-independent) to 3
    means_lr: float = 0.01  # learning rate of the positions (DreamGaussian's 0.001 times its spatial scale of 10)
    means_lr_end: float = 2e-4  # learning rate of the positions from progress `means_until` on, reached by exponential decay
    means_until: float = 0.6  # progress, in (0, 1], at which the decay of the positions' learning rate ends
    color_lr: float = 0.01  # learning rate of the colours; a twentieth for higher harmonics (Kerbl et al.)
    opacity_lr: float = 0.05  # learning rate of the opacities (logits)
    scale_lr: float = 0.005  # learning rate of the scales (logarithms)
    quat_lr: float = 0.005  # learning rate of the rotations (quaternions)
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

    def build(
        self, rng: torch.Generator, device: torch.device | str = "cpu", initial_mesh: Mesh | None = None
    ) -> GaussianScene:
        """See :meth:`SceneSettings.build`. With an initial mesh, ``count`` Gaussians lie on its surface, with its colours."""
        if initial_mesh is None:
            initial = splats_in_ball(self.count, self.radius, self.opacity, rng)
        else:
            initial = splats_on_mesh(initial_mesh, self.count, rng)
        return GaussianScene(self, initial, self.background.build(rng)).to(device)

    def parameter_count(self) -> int:
        return self.capacity * (3 + 4 + 3 + 1 + 3 * (self.sh_degree + 1) ** 2)

    def step_bytes(self, views: int, side: int) -> int:
        return views * (self.capacity * PER_GAUSSIAN + side**2 * PER_PIXEL) + splat.PAIRS_AT_ONCE * PER_PAIR

    def means_scale(self, progress: float) -> float:
        """The positions' learning rate relative to its initial value."""
        return (self.means_lr_end / self.means_lr) ** min(progress / self.means_until, 1.0)


class GaussianScene(Scene):
    """See the module's docstring. In ``eval()`` mode, the background is not random."""

    alive: Tensor  # (capacity,) bool, the rows in use
    settled: Tensor  # (capacity, 3) the means after the last step
    pushes: Tensor  # (capacity,) sums of the screen-space gradients' norms since the last densification
    sightings: Tensor  # (capacity,) number of views in these sums

    def __init__(self, settings: Gaussians, initial: InitialSplats, background: Background) -> None:
        super().__init__()
        self.settings, self.bounds, self.background = settings, settings.bounds, background
        count, capacity = len(initial.means), settings.capacity
        higher = (settings.sh_degree + 1) ** 2 - 1
        self.means = _rows(initial.means, capacity)
        self.quats = _rows(initial.quats, capacity)
        self.quats.data[count:, 0] = 1.0
        self.log_scales = _rows(initial.log_scales, capacity)
        self.logit_opacities = _rows(initial.logit_opacities, capacity)
        self.sh0 = _rows(initial.sh0, capacity)
        self.shN = _rows(torch.zeros(count, higher, 3), capacity)
        self.register_buffer("alive", torch.arange(capacity) < count)
        self.register_buffer("settled", self.means.detach().clone())
        self.register_buffer("pushes", torch.zeros(capacity))
        self.register_buffer("sightings", torch.zeros(capacity))

    def rows(self) -> Rows:
        """The parameters with one row per Gaussian."""
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

        ``depth`` is the mean distance of the Gaussians' centres, weighted by compositing weights.
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

    def regularize(
        self, render: RenderOutput, progress: float, only: tuple[str, ...] | None = None, rng: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The unweighted terms of :data:`TERMS`, of the render; normal_smooth only with normals."""
        terms = {}
        for name in TERMS if only is None else only:
            if name not in TERMS:
                raise ValueError(f"Unknown regulariser {name!r}; a gaussians scene has {', '.join(TERMS)}.")
            if name != "normal_smooth":
                terms[name] = getattr(regularizers, name)(render.opacity)
            elif render.normal is not None:
                terms[name] = regularizers.normal_smooth(render.normal, render.opacity)
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
        """See :meth:`Scene.after_step`. Scales the step of the positions, and adds and removes Gaussians.

        The positions have their own learning rate schedule. Adam's step is linear in the learning rate and its moments do not
        depend on it, so scaling the step is equivalent to scaling the learning rate.
        """
        self.means.copy_(torch.lerp(self.settled, self.means, self.settings.means_scale(progress)))
        if self.settings.sh_degree == 0:
            self.sh0.clamp_(-0.5 / C0, 0.5 / C0)  # colours stay in [0, 1]
        self.observe(render)
        densify = self.settings.densify
        if densify.is_due(index, progress):
            values = self.rows()
            changed = prune(values, self.alive, densify)
            mean = self.pushes / self.sightings.clamp(min=1)
            changed |= double(values, self.alive, mean, densify, rng)
            zero_moments(optimizer, values, changed)
            self.pushes.zero_()
            self.sightings.zero_()
        if densify.reset_every and (index + 1) % densify.reset_every == 0 and progress <= densify.end_progress:
            reset_opacities(self.rows())
            zero_moments(optimizer, {"logit_opacities": self.logit_opacities}, self.alive)
        self.settled.copy_(self.means)

    def observe(self, render: RenderOutput) -> None:
        """Accumulate the norms of the screen-space gradients; the unit of length is half the picture's size."""
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
        """The isosurface of the Gaussians' summed density, with colours composited along rays."""
        return mesh_of_splats(self._alive(), self.bounds, settings)

    @torch.no_grad()
    def to_splats(self) -> Splats:
        """The Gaussians in use, on the CPU, with the values of the original code's ``.ply`` files."""
        return Splats(*(value.float().cpu().numpy() for value in self._alive()))

    def _alive(self) -> tuple[Tensor, ...]:
        """The rows in use of each parameter, in the order of :class:`~dreamlift.types.Splats`."""
        return tuple(value.detach()[self.alive] for value in self.rows().values())


def _rows(values: Tensor, capacity: int) -> nn.Parameter:
    """``values (N, ...)`` as a parameter with ``capacity`` rows; the remaining rows are zero."""
    out = torch.zeros(capacity, *values.shape[1:])
    out[: len(values)] = values
    return nn.Parameter(out)
