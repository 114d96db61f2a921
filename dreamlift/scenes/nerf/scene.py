"""The scene ``nerf``: a field of density and colour, an occupancy grid and a background, rendered by ray marching.

NeRF (Mildenhall et al. 2020, https://arxiv.org/abs/2003.08934), shaded as in DreamFusion (Poole et al. 2022, section 3.1,
https://arxiv.org/abs/2209.14988): with the normal ``n = -grad density / |grad density|`` and a point light at ``l``,

    colour = albedo * (ambient + (1 - ambient) * max(0, n . (l - x) / |l - x|))

with a white albedo in "textureless" renders.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dreamlift.cameras import rays_of
from dreamlift.scenes.background import BACKGROUNDS, Background, Learned, Random, Solid
from dreamlift.scenes.base import ParamGroup, Scene, SceneSettings
from dreamlift.scenes.nerf.field import Field
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.occupancy import Occupancy, OccupancyGrid
from dreamlift.scenes.nerf.regularizers import (
    depth_variance,
    distortion,
    emptiness,
    normal_change,
    orientation,
    total_variation,
)
from dreamlift.scenes.nerf.volume import Composited, composite, ray_offsets, sample_points, sample_rays
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.regularizers import normal_smooth, opaque, sparsity
from dreamlift.shading.lambert import shade
from dreamlift.texturing.extract import Extract, mesh_of_field
from dreamlift.types import Cameras, Mesh, RaySamples, RenderOutput, Shading

SAMPLES_AT_ONCE = 1 << 19  # samples per chunk of a render without gradients; bounds its memory
SAMPLE_KEPT = 30  # bytes kept per sample of rays in chunks: ray index, interval, weight, and their concatenation
TERMS = (
    "sparsity", "opaque", "distortion", "depth_variance", "emptiness", "orientation", "normal_smooth", "normal_smooth_3d", "tv"
)  # fmt: skip
MOVED = 0.01  # standard deviation of the shift of points whose normals are compared, world units (stable-dreamfusion)
FIELDS = {"voxel": Voxel, "hashgrid": Hashgrid}


@dataclass(frozen=True)
class Nerf(SceneSettings):
    """Settings of a radiance field scene; :meth:`build` creates the scene."""

    takes_initial_mesh: ClassVar[bool] = False
    terms: ClassVar[tuple[str, ...]] = TERMS
    occupied: ClassVar[float] = 0.6

    # representation of density and colour
    field: Voxel | Hashgrid = dataclasses.field(default_factory=Voxel, metadata={"choices": FIELDS})
    # background behind the object
    background: Random | Solid | Learned = dataclasses.field(default_factory=Random, metadata={"choices": BACKGROUNDS})
    occupancy: Occupancy = dataclasses.field(default_factory=Occupancy)  # skipping of empty cells
    samples_per_ray: int = 64  # samples on each ray's segment in the cube, before empty cells are skipped
    early_stop_eps: float = 1e-3  # transmittance below which a ray's further samples are ignored (early termination)
    bounds: float = 1.0  # half the edge of the scene's cube, world units
    chunk_rays: int = 0  # rays per chunk, recomputed in the backward pass: less memory, more time; 0: all rays at once

    def __post_init__(self) -> None:
        if self.samples_per_ray < 2:
            raise ValueError(f"Nerf.samples_per_ray is {self.samples_per_ray}; use at least 2 (64 is the default).")
        if self.bounds <= 0:
            raise ValueError(f"Nerf.bounds is {self.bounds}; it must be positive.")
        if self.chunk_rays < 0:
            raise ValueError(f"Nerf.chunk_rays is {self.chunk_rays}; use 0 for all of them, or for example 4096.")

    def build(self, rng: torch.Generator, device: torch.device | str = "cpu", initial_mesh: Mesh | None = None) -> NerfScene:
        """See :meth:`SceneSettings.build`. A radiance field does not accept an initial mesh."""
        if initial_mesh is not None:
            raise ValueError("a nerf scene cannot begin with a mesh; use the scene tetmesh, surface or gaussians")
        return NerfScene(self, self.field.build(self.bounds, rng), self.background.build(rng)).to(device)

    def parameter_count(self) -> int:
        return self.field.parameter_count()

    def step_bytes(self, views: int, side: int) -> int:
        rays = views * side**2  # with all samples: before the occupancy grid is warm, none is skipped
        chunk = min(rays, self.chunk_rays or rays)
        kept = SAMPLE_KEPT * rays if chunk < rays else 0
        return self.samples_per_ray * (chunk * self.field.sample_bytes() + kept)


class NerfScene(Scene):
    """See the module's docstring. In ``eval()`` mode, rays are not jittered and the background is not random."""

    def __init__(self, settings: Nerf, volume: Field, background: Background) -> None:
        super().__init__()
        self.settings, self.bounds = settings, settings.bounds
        self.field, self.background = volume, background
        self.occupancy = OccupancyGrid(settings.occupancy, settings.bounds)

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
        """See :meth:`Scene.render`. ``progress`` is not used: levels change in :meth:`after_step` only.

        Without gradients, large renders are split into chunks of rays and ``aux`` is empty.
        """
        like = self.occupancy.average  # has the scene's device and precision
        device, rays = like.device, rays_of(cameras.to(like.device))
        shape = rays.directions.shape[:3]
        origins, directions = rays.origins.reshape(-1, 3).to(like), rays.directions.reshape(-1, 3).to(like)
        view = torch.arange(shape[0], device=device).repeat_interleave(shape[1] * shape[2])
        aux: dict[str, Tensor] = {}
        if self.training:
            jitter = torch.rand(origins.shape[0], generator=rng).to(origins)
        else:
            jitter = torch.full_like(origins[:, 0], 0.5)
        grad = torch.is_grad_enabled()
        if grad:
            size = self.settings.chunk_rays or origins.shape[0]
        else:
            size = max(1, SAMPLES_AT_ONCE // self.settings.samples_per_ray)
        chunks = list(zip(*(x.split(size) for x in (origins, directions, view, jitter)), strict=True))
        marched = []
        for chunk in chunks:
            if grad and len(chunks) > 1:
                marched.append(checkpoint(self._march, chunk, shading, normals, use_reentrant=False))
            else:
                marched.append(self._march(chunk, shading, normals))
            if len(marched) > 1:
                marched[-1][1].pop("grid", None)  # the grid is the same for all chunks: keep the first
        opacity = torch.cat([out.opacity for out, _ in marched]).view(*shape, 1)
        depth_sum = torch.cat([out.depth_sum for out, _ in marched]).view(*shape, 1)
        values = torch.cat([out.values for out, _ in marched]).view(*shape, -1)
        if grad:
            parts = [aux for _, aux in marched]
            marched.clear()  # frees the chunks' own weights
            aux = joined(parts)
        backdrop = self.background.behind(background, directions.view(*shape, 3), rng)
        rgb = values[..., :3] + (1 - opacity) * backdrop
        depth = depth_sum / opacity.clamp(min=1e-6)
        return RenderOutput(rgb, opacity, depth, values[..., 3:] if normals else None, aux)

    def _march(self, rays: tuple[Tensor, ...], shading: Shading | None, normals: bool) -> tuple[Composited, dict[str, Tensor]]:
        """Render rays ``(origins (R, 3), directions (R, 3), view (R,), jitter (R,))``; also returns ``RenderOutput.aux``."""
        origins, directions, view, jitter = rays
        cells = self.occupancy.cells()
        samples = sample_rays(origins, directions, self.bounds, self.settings.samples_per_ray, jitter, cells)
        offsets = ray_offsets(samples, origins.shape[0])
        points = sample_points(origins, directions, samples)
        lit = shading is not None and bool((shading.lambertian > 0).any())
        found = self.field.query(points, normals or lit)
        colors = found.albedo
        if shading is not None:
            colors = shade(found.albedo, found.normal, points, view.index_select(0, samples.ray_indices), shading)
        values = torch.cat([colors, found.normal], -1) if normals and found.normal is not None else colors
        out = composite(found.density, values, samples, offsets, self.settings.early_stop_eps)
        aux = {
            "weights": out.weights, "ray_indices": samples.ray_indices, "starts": samples.starts,
            "ends": samples.ends, "offsets": offsets,
        }  # fmt: skip
        if found.normal is not None:
            aux |= {"normals": found.normal, "origins": origins, "directions": directions}
        if found.grid is not None:
            aux["grid"] = found.grid
        return out, aux

    def regularize(
        self, render: RenderOutput, progress: float, only: tuple[str, ...] | None = None, rng: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The unweighted terms of :data:`TERMS`; those of normals only with normals, tv only with a voxel field."""
        aux = render.aux
        samples = RaySamples(aux["ray_indices"], aux["starts"], aux["ends"])
        rays = render.opacity.numel()
        terms = {}
        for name in TERMS if only is None else only:
            if name == "sparsity":
                terms[name] = sparsity(render.opacity)
            elif name == "opaque":
                terms[name] = opaque(render.opacity)
            elif name == "distortion":
                terms[name] = distortion(aux["weights"], samples, aux["offsets"])
            elif name == "depth_variance":
                terms[name] = depth_variance(aux["weights"], samples, aux["offsets"])
            elif name == "emptiness":
                terms[name] = emptiness(aux["weights"], rays * self.settings.samples_per_ray)
            elif name == "orientation" and "normals" in aux:
                toward = aux["directions"][samples.ray_indices]
                terms[name] = orientation(aux["weights"], aux["normals"], toward, (render.opacity > 0).sum())
            elif name == "normal_smooth" and render.normal is not None:
                terms[name] = normal_smooth(render.normal, render.opacity)
            elif name == "normal_smooth_3d" and "normals" in aux and rng is not None:
                points = sample_points(aux["origins"], aux["directions"], samples)
                terms[name] = self._normal_change(points, aux["normals"], rng)
            elif name == "tv" and "grid" in aux:
                terms[name] = total_variation(aux["grid"])
            elif name not in TERMS:
                raise ValueError(f"Unknown regulariser {name!r}; a nerf scene has {', '.join(TERMS)}.")
        return terms

    def _normal_change(self, points: Tensor, normals: Tensor, rng: torch.Generator) -> Tensor:
        """The term normal_smooth_3d () at the samples' ``points (N, 3)`` with ``normals (N, 3)``; large ones are recomputed."""
        moved = points + MOVED * torch.randn(points.shape, generator=rng).to(points)
        moved = moved.clamp(-self.bounds, self.bounds)

        def normals_at(some: Tensor) -> Tensor:
            found = self.field.query(some, True).normal
            assert found is not None
            return found

        parts = moved.split(SAMPLES_AT_ONCE)
        if len(parts) == 1:
            return normal_change(normals, normals_at(moved))
        return normal_change(normals, torch.cat([checkpoint(normals_at, part, use_reentrant=False) for part in parts]))

    def param_groups(self) -> list[ParamGroup]:
        return [*self.field.param_groups(), *self.background.param_groups()]

    @torch.no_grad()
    def after_step(
        self, index: int, progress: float, rng: torch.Generator, render: RenderOutput, optimizer: torch.optim.Optimizer
    ) -> None:
        self.field.advance(progress)
        self.occupancy.after_step(index, self.field, rng)

    @torch.no_grad()
    def to_mesh(self, settings: Extract) -> Mesh:
        """The density's isosurface whose silhouettes match the renders, with colours composited along rays."""
        return mesh_of_field(self.density, self.albedo, self.bounds, settings)

    def density(self, points: Tensor) -> Tensor:
        """Density ``(N,) >= 0`` (inverse world units) at ``points (N, 3)``, on any device."""
        return self.field.density(points.to(self.occupancy.average))

    def albedo(self, points: Tensor) -> Tensor:
        """Albedo ``(N, 3)`` in [0, 1], sRGB, at ``points (N, 3)``, on any device."""
        return self.field.query(points.to(self.occupancy.average)).albedo.clamp(0.0, 1.0)


def joined(chunks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate the ``aux`` values of consecutive chunks of rays, which are emptied; only the first may hold a grid.

    Each value's parts are freed before the next value is concatenated: in large pictures they take gigabytes.
    """
    if len(chunks) == 1:
        return chunks[0]
    rays = samples = 0
    first_rays, first_samples = [], []
    for chunk in chunks:
        first_rays.append(rays)
        first_samples.append(samples)
        rays, samples = rays + chunk["offsets"].shape[0] - 1, samples + chunk["starts"].shape[0]
    found: dict[str, Tensor] = {}
    for name in list(chunks[0]):
        parts = []
        for i, chunk in enumerate(chunks[:1] if name == "grid" else chunks):
            value = chunk.pop(name)
            if name == "ray_indices":
                value = value + first_rays[i]
            elif name == "offsets":
                value = value[i > 0 :] + first_samples[i]
            parts.append(value)
        found[name] = torch.cat(parts)
    return found
