"""Renderer of the toybox: sphere tracing, soft light, and random views.

Conventions are those of :mod:`dreamlift.types`. Shading is computed in linear light and stored as sRGB. The results of
``sample_pictures(seed)`` (thing, view, light, background) are a function of the seed alone.

Sphere tracing: Hart, *Sphere tracing* (The Visual Computer, 1996). Ambient occlusion from a few distance samples along
the normal: Evans, *Fast approximations for global illumination on dynamic scenes* (SIGGRAPH 2006 course).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamlift.cameras import orbit_cameras, rays_of, rescaled
from dreamlift.toybox.world.things import CATEGORIES, COLORS, FIT_RADIUS, Description, Thing, describe
from dreamlift.types import Cameras

BOUND = FIT_RADIUS + 0.05  # radius of a sphere that contains the thing: rays that miss it are skipped
HIT = 2e-3  # distance that counts as a hit: a sixth of a pixel of a 128-pixel picture
STEPS = 28
CONE_STEPS = 12
VIEWS = 4  # pictures per thing
SHADINGS = ("lit", "albedo", "clay")
BLOCK = 4  # pixels per side of the blocks that are first traced as one cone


@dataclass(frozen=True)
class Lighting:
    """A directional key light and hemispheric ambient light. Intensities are linear; key + sky of about 1 keeps the albedo."""

    direction: tuple[float, float, float] = (0.35, 0.75, 0.55)  # toward the light; any length
    key: float = 0.62  # intensity of the directional light
    sky: float = 0.58  # ambient light from above
    ground: float = 0.34  # ambient light from below
    softness: float = 0.25  # wrap of the cosine, at least 0; 0: plain Lambert


class Lights(NamedTuple):
    """:class:`Lighting` per surface point."""

    direction: Tensor  # (N, 3)
    key: Tensor  # (N,)
    sky: Tensor  # (N,)
    ground: Tensor  # (N,)
    softness: Tensor  # (N,)


@dataclass(frozen=True)
class Background:
    """A vertical gradient, sRGB."""

    top: tuple[float, float, float] = (0.86, 0.88, 0.90)
    bottom: tuple[float, float, float] = (0.86, 0.88, 0.90)


@dataclass(frozen=True)
class Rendered:
    """Pictures of one thing."""

    rgb: Tensor  # (B, H, W, 3) sRGB in [0, 1], over the background
    opacity: Tensor  # (B, H, W, 1) in [0, 1]
    normal: Tensor  # (B, H, W, 3) in the world frame, opacity-weighted
    depth: Tensor  # (B, H, W, 1) along the ray, mean over the hits of a pixel; 0 without a hit
    albedo: Tensor  # (B, H, W, 3) sRGB, opacity-weighted


def render(
    thing: Thing,
    cameras: Cameras,
    lighting: Lighting | Sequence[Lighting] | None = None,
    background: Background | Sequence[Background] | None = None,
    supersample: int = 2,
    shading: str | Sequence[str] = "lit",
) -> Rendered:
    """Pictures of ``thing`` from ``cameras``; ``shading`` is "lit", "albedo" (unlit) or "clay" (lit, uniformly grey).

    ``lighting``, ``background`` and ``shading`` are one value for all cameras, or a sequence with one value per camera.

    Raises:
        ValueError: an unknown shading.
    """
    count = len(cameras)
    lights, backdrops = _one_each(lighting or Lighting(), count), _one_each(background or Background(), count)
    styles = [shading] * count if isinstance(shading, str) else list(shading)
    if not set(styles) <= set(SHADINGS):
        raise ValueError(f"unknown shading {shading!r}; accepted: {', '.join(SHADINGS)}")
    fine = rescaled(cameras, supersample)
    origins, directions, hits, depth = traced_pixels(thing, fine)
    view = hits // (fine.width * fine.height)  # camera of each hit
    points = origins[hits] + depth[:, None] * directions[hits]
    normal = normals(thing, points)
    albedo = thing.albedo(points)
    clay, unlit = (torch.tensor([style == name for style in styles])[view, None] for name in ("clay", "albedo"))
    base = torch.where(clay, torch.full_like(albedo, 0.82), albedo)
    light = Lights(*(torch.tensor([getattr(each, name) for each in lights])[view] for name in Lights._fields))
    lit = torch.where(unlit, base, shade_points(thing, points, normal, base, light, directions[hits]))
    values = torch.cat([lit, normal, albedo, depth[:, None], torch.ones_like(depth)[:, None]], dim=-1)
    full = torch.zeros(origins.shape[0], values.shape[-1])
    full[hits] = values
    h, w, s = cameras.height, cameras.width, supersample
    full = full.view(count, h, s, w, s, -1).mean(dim=(2, 4))
    opacity = full[..., 10:11]
    top, bottom = (
        torch.tensor([getattr(each, name) for each in backdrops], dtype=torch.float32)[:, None] for name in ("top", "bottom")
    )
    ramp = torch.linspace(0.0, 1.0, h)[:, None]
    rgb = full[..., 0:3] + (1.0 - opacity) * torch.lerp(top, bottom, ramp)[:, :, None]  # the ramp is (B, H, 3)
    distance = full[..., 9:10] / opacity.clamp_min(1e-6)
    return Rendered(rgb.clamp(0.0, 1.0), opacity, full[..., 3:6], distance, full[..., 6:9])


def traced_pixels(thing: Thing, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Origins and directions ``(N, 3)`` of all pixels' rays, and indices and depths ``(M,)`` of those that hit the thing."""
    bundle = rays_of(cameras)
    origins, directions = bundle.origins.reshape(-1, 3), bundle.directions.reshape(-1, 3)
    skip = starting_depths(thing, cameras, BLOCK) if cameras.width % BLOCK == cameras.height % BLOCK == 0 else None
    skip = torch.zeros(origins.shape[0]) if skip is None else skip.reshape(-1)
    return origins, directions, *trace(thing, origins, directions, skip)


def _one_each(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value] * count


def trace(thing: Thing, origins: Tensor, directions: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Indices ``(M,)`` of the rays ``(N, 3)`` that hit the thing, and their depths ``(M,)``, by sphere tracing.

    ``depth (N,)`` is the depth at which each ray starts; infinite for a ray that is known to miss.
    """
    middle = -(origins * directions).sum(-1)
    gap = BOUND**2 - ((origins * origins).sum(-1) - middle * middle)
    active = ((gap > 0) & depth.isfinite()).nonzero().squeeze(-1)
    half = gap[active].sqrt()
    end = middle[active] + half
    depth = torch.maximum(depth[active], (middle[active] - half).clamp_min(0.0))
    start, heading = origins[active], directions[active]
    found, depths = [], []
    for step in range(STEPS):
        distance = thing.sdf(torch.addcmul(start, heading, depth[:, None]))
        # A ray that is still active after many steps runs along a surface: its hit tolerance grows with the steps.
        arrived = distance < HIT * (1.0 + max(step - 12, 0) / 4.0)
        depth = depth + distance
        hit = arrived.nonzero().squeeze(-1)
        found.append(active[hit])
        depths.append(depth[hit])
        keep = (~arrived & (depth < end)).nonzero().squeeze(-1)
        if keep.numel() == 0:
            break
        active, depth, end, start, heading = (values[keep] for values in (active, depth, end, start, heading))
    return torch.cat(found), torch.cat(depths)


def starting_depths(thing: Thing, cameras: Cameras, block: int = 4) -> Tensor:
    """Starting depths ``(B, H, W)`` of the rays for :func:`trace`; infinite where the block of pixels misses the thing.

    Per block, one cone is traced until the thing may intersect it. With ``d`` the distance at depth ``t`` on the axis and ``s``
    the cone's opening (radius over depth), all rays of the block are free up to ``t + (d - s t) / (1 + s)``.
    """
    coarse = rays_of(rescaled(cameras, 1.0 / block))
    shape = coarse.directions.shape[:3]
    origins, directions = coarse.origins.reshape(-1, 3), coarse.directions.reshape(-1, 3)
    opening = float(0.75 * block / cameras.K[:, 0, 0].min())  # slightly more than half the diagonal of a block
    start = torch.full((origins.shape[0],), math.inf)
    active = torch.arange(origins.shape[0])
    depth = (origins.norm(dim=-1) - BOUND).clamp_min(0.0)
    end = depth + 2.0 * BOUND
    for _ in range(CONE_STEPS):
        distance = thing.sdf(torch.addcmul(origins, directions, depth[:, None]))
        step = (distance - opening * depth) / (1.0 + opening)
        near = step < 0.02
        stopped = near.nonzero().squeeze(-1)
        start[active[stopped]] = depth[stopped]
        depth = depth + step
        keep = (~near & (depth < end)).nonzero().squeeze(-1)
        if keep.numel() == 0:
            break
        active, depth, end, origins, directions = (v[keep] for v in (active, depth, end, origins, directions))
    else:
        start[active] = depth
    start = start.view(shape).repeat_interleave(block, dim=1).repeat_interleave(block, dim=2)
    return start


_TETRAHEDRON = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, 1.0, 1.0]])


def normals(thing: Thing, points: Tensor, width: float = 4e-3) -> Tensor:
    """Unit outward normals ``(N, 3)`` at ``points (N, 3)``, by finite differences over a tetrahedron of size ``width``."""
    probes = points[None] + width * _TETRAHEDRON[:, None]
    values = thing.sdf(probes.reshape(-1, 3)).view(4, -1)
    return torch.nn.functional.normalize(values.T @ _TETRAHEDRON, dim=-1)


def shade_points(thing: Thing, points: Tensor, normal: Tensor, base: Tensor, light: Lights, heading: Tensor) -> Tensor:
    """Shaded sRGB colours ``(N, 3)`` of surface ``points (N, 3)`` with ``normal (N, 3)`` and sRGB ``base (N, 3)``.

    ``heading (N, 3)`` are the directions of the view rays, used for the reflections of metallic things.
    """
    direction = torch.nn.functional.normalize(light.direction, dim=-1)
    open_sky = occlusion(thing, points, normal)
    up = 0.5 + 0.5 * normal[:, 1]
    ambient = torch.lerp(light.ground, light.sky, up) * open_sky
    # A wrapped cosine gives the soft terminator of an area light.
    facing = (((normal * direction).sum(-1) + light.softness) / (1.0 + light.softness)).clamp_min(0.0)
    strength = ambient + light.key * facing * (0.4 + 0.6 * open_sky)
    linear = base**2.2 * strength[:, None]
    if thing.finish == "metallic":
        mirrored = heading - 2.0 * (heading * normal).sum(-1, keepdim=True) * normal
        # Reflected environment: a bright sky, a horizon and a dark floor, and a highlight of the key light.
        sky = torch.sigmoid(mirrored[:, 1:2] * 9.0 - 1.0) * 1.15 + 0.18
        glint = (mirrored * direction).sum(-1, keepdim=True).clamp_min(0.0) ** 24
        tint = base**2.2 * 0.8 + 0.12
        linear = 0.25 * linear + tint * sky * (0.35 + 0.65 * open_sky[:, None]) + 0.7 * glint
    return linear.clamp(0.0, 1.0) ** (1 / 2.2)


def occlusion(thing: Thing, points: Tensor, normal: Tensor) -> Tensor:
    """Ambient visibility ``(N,)`` in [0, 1] at ``points (N, 3)``, from three distance samples along ``normal (N, 3)``."""
    taps = torch.tensor([0.06, 0.16, 0.32])
    weights = torch.tensor([0.45, 0.33, 0.22])
    above = points[None] + taps[:, None, None] * normal[None]
    values = thing.sdf(above.reshape(-1, 3)).view(3, -1)
    return (values / taps[:, None]).clamp(0.0, 1.0).mul(weights[:, None]).sum(0)


def sample_views(rng: np.random.Generator, count: int, size: int = 64) -> Cameras:
    """``count`` random cameras around the origin, with one field of view for all."""
    azimuth = rng.uniform(-math.pi, math.pi, count)
    elevation = np.radians(rng.uniform(-10.0, 60.0, count))
    fov = math.radians(rng.uniform(40.0, 55.0))
    distance = rng.uniform(0.95, 1.1, count) / math.sin(0.5 * fov)
    place = torch.from_numpy(np.stack([azimuth, elevation, distance])).float()
    return orbit_cameras(place[0], place[1], place[2], torch.full((count,), fov), size)


def sample_lighting(rng: np.random.Generator, azimuth: float) -> Lighting:
    """Random light from above, within 1.3 rad of the camera's ``azimuth``, so that the visible side is lit."""
    angle = azimuth + rng.uniform(-1.3, 1.3)
    height = math.radians(rng.uniform(25.0, 75.0))
    direction = (math.cos(height) * math.sin(angle), math.sin(height), math.cos(height) * math.cos(angle))
    key, sky, ground = rng.uniform(0.5, 0.72), rng.uniform(0.52, 0.66), rng.uniform(0.3, 0.42)
    return Lighting(direction, key, sky, ground, softness=rng.uniform(0.05, 0.6))


def sample_background(rng: np.random.Generator, color: str) -> Background:
    """A plain colour or a soft gradient of moderate saturation that contrasts with the thing's ``color``."""
    own = np.asarray(COLORS[color])
    while True:
        hue, saturation, value = rng.uniform(), rng.uniform(0.0, 0.35), rng.uniform(0.35, 0.97)
        wheel = np.clip(np.abs((hue * 6.0 + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0, 0.0, 1.0)
        top = value * (1.0 - saturation + saturation * wheel)
        if np.linalg.norm(top - own) > 0.35:
            break
    bottom = top * rng.uniform(0.78, 1.0) if rng.random() < 0.5 else top
    return Background(tuple(top.tolist()), tuple(bottom.tolist()))


@dataclass(frozen=True)
class Sampled:
    """A picture of the training distribution, with the data of its caption."""

    rgb: np.ndarray  # (S, S, 3) uint8, over the background
    opacity: np.ndarray  # (S, S) uint8
    background: Background
    description: Description
    azimuth: float  # radians
    elevation: float  # radians
    style: str  # shading: "lit", "albedo" or "clay"
    mirrored: bool  # whether the thing is mirror symmetric, so that the mirrored picture shows the same thing


def is_symmetric(thing: Thing) -> bool:
    """Whether the thing is symmetric in x, by its distances and part labels at 400 fixed points."""
    points = torch.rand(400, 3, generator=torch.Generator().manual_seed(0)) * 1.7 - 0.85
    flipped = points * torch.tensor([-1.0, 1.0, 1.0])
    if not torch.allclose(thing.sdf(points), thing.sdf(flipped), atol=2e-3):
        return False
    return float((thing.part_labels(points) != thing.part_labels(flipped)).float().mean()) < 0.02


def sample_pictures(
    seed: int, size: int = 64, training: bool = True, kinds: Sequence[str] = tuple(CATEGORIES)
) -> list[Sampled]:
    """Pictures of ``size`` pixels a side of one random thing of ``kinds``, from ``VIEWS`` random cameras.

    The result depends on the arguments only. Each picture has its own light and background; 80% are lit, 12% show the albedo,
    8% are grey clay. Several views of one thing cost little more than one. With ``training``, held-out combinations are not
    drawn (:func:`dreamlift.toybox.world.things.held_out`).
    """
    rng = np.random.default_rng(seed)
    told = describe(rng, training, kinds)
    thing = told.thing(int(rng.integers(2**31)))
    cameras = sample_views(rng, VIEWS, size)
    lights = [sample_lighting(rng, float(azimuth)) for azimuth in cameras.azimuth]
    backdrops = [sample_background(rng, told.color) for _ in range(VIEWS)]
    styles = [SHADINGS[int(index)] for index in rng.choice(3, VIEWS, p=(0.8, 0.12, 0.08))]
    with torch.inference_mode():
        pictures = render(thing, cameras, lights, backdrops, shading=styles)
        symmetric = is_symmetric(thing)
    pixels, opacity = (
        (values * 255.0 + 0.5).to(torch.uint8).numpy() for values in (pictures.rgb, pictures.opacity.squeeze(-1))
    )
    azimuths, elevations = cameras.azimuth.tolist(), cameras.elevation.tolist()
    return [
        Sampled(pixels[i], opacity[i], backdrops[i], told, azimuths[i], elevations[i], styles[i], symmetric)
        for i in range(VIEWS)
    ]


def contact_sheet(count: int, first_seed: int = 0, zoom: int = 1) -> np.ndarray:
    """A sheet of sampled pictures with their captions, ``(H, W, 3)`` uint8."""
    from PIL import Image, ImageDraw

    cell, columns = 64 * zoom, 8 if count <= 64 else 16
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (cell + 4), rows * (cell + 16)), "white")
    pen = ImageDraw.Draw(sheet)
    for i in range(count):
        sampled = sample_pictures(first_seed + i)[0]
        x, y = (i % columns) * (cell + 4), (i // columns) * (cell + 16)
        sheet.paste(Image.fromarray(sampled.rgb).resize((cell, cell), Image.Resampling.NEAREST), (x, y))
        pen.text((x + 1, y + cell + 1), sampled.description.caption()[: cell // 6], fill="black")
    return np.asarray(sheet)


def main() -> None:
    import argparse

    from PIL import Image

    parser = argparse.ArgumentParser(description="Write a sheet of sampled pictures with captions.")
    parser.add_argument("--sheet", required=True, help="the PNG to write")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--zoom", type=int, default=2)
    arguments = parser.parse_args()
    sheet = contact_sheet(arguments.count, arguments.first_seed, arguments.zoom)
    Image.fromarray(sheet).save(arguments.sheet)


if __name__ == "__main__":
    main()
