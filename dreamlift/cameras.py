"""Cameras: poses around the origin, random views, and the rays of their pixels.

Conventions as in :mod:`dreamlift.types`: world +y up and +z front, cameras with OpenCV axes. Sampling ranges follow
DreamFusion (Poole et al. 2022, section 3.1, https://arxiv.org/abs/2209.14988) and threestudio's ``uncond.py``; ranges about a
photo follow DreamGaussian's ``main.py`` (elevation) and stable-dreamfusion's ``nerf/utils.py`` (``progressive_view``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamlift.schedules import Schedule, value_at
from dreamlift.types import Cameras, RayBundle

STEEPEST_DEG = 80.0  # elevation, up or down, that ranges about a photo do not exceed (DreamGaussian)
Range = tuple[float, float]


def spherical_to_cartesian(azimuth: Tensor, elevation: Tensor, distance: Tensor) -> Tensor:
    """Positions ``(B, 3)`` of cameras at ``(B,)`` azimuth, elevation (radians) and distance."""
    return torch.stack(
        [
            distance * elevation.cos() * azimuth.sin(),
            distance * elevation.sin(),
            distance * elevation.cos() * azimuth.cos(),
        ],
        dim=-1,
    )


def turned(vectors: Tensor, angle: Tensor) -> Tensor:
    """``vectors (..., 3)`` turned about the vertical axis by ``angle`` radians, from +z toward +x, as azimuths grow.

    ``angle`` broadcasts against ``(...)``.
    """
    x, y, z = vectors.unbind(dim=-1)
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * x + s * z, y, c * z - s * x], dim=-1)


def look_at(position: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Camera-to-world matrices ``(B, 4, 4)`` of cameras at ``position (B, 3)`` that look at ``target (B, 3)``.

    ``up (B, 3)`` determines the roll. At the poles it does not; there the limit of a camera that moves from the front to
    the pole is used: the picture's right is +x.
    """
    forward = torch.nn.functional.normalize(target - position, dim=-1)
    right = torch.linalg.cross(forward, up)
    # At the poles forward is parallel to up, so the cross product is 0.
    pole = right.norm(dim=-1, keepdim=True) < 1e-6
    fallback = torch.tensor([1.0, 0.0, 0.0], dtype=position.dtype, device=position.device).expand_as(right)
    right = torch.nn.functional.normalize(torch.where(pole, fallback, right), dim=-1)
    down = torch.linalg.cross(forward, right)
    c2w = torch.eye(4, dtype=position.dtype, device=position.device).repeat(position.shape[0], 1, 1)
    c2w[:, :3, 0], c2w[:, :3, 1], c2w[:, :3, 2], c2w[:, :3, 3] = right, down, forward, position
    return c2w


def intrinsics(fov_y: Tensor, width: int, height: int) -> Tensor:
    """Matrices ``K (B, 3, 3)`` in pixels for vertical fields of view ``fov_y (B,)`` in radians; square pixels."""
    focal = 0.5 * height / torch.tan(0.5 * fov_y)
    K = torch.zeros(fov_y.shape[0], 3, 3, dtype=fov_y.dtype, device=fov_y.device)
    K[:, 0, 0], K[:, 1, 1] = focal, focal
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = 0.5 * width, 0.5 * height, 1.0
    return K


def orbit_cameras(
    azimuth: Tensor, elevation: Tensor, distance: Tensor, fov_y: Tensor, width: int, height: int | None = None
) -> Cameras:
    """Cameras that look at the origin from ``(B,)`` azimuth, elevation, distance, with ``fov_y (B,)`` (radians)."""
    height = width if height is None else height
    position = spherical_to_cartesian(azimuth, elevation, distance)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=position.dtype, device=position.device).expand_as(position)
    c2w = look_at(position, torch.zeros_like(position), up)
    return Cameras(c2w, intrinsics(fov_y, width, height), width, height, azimuth, elevation, distance)


def view_angles(cameras: Cameras, others: Cameras) -> Tensor:
    """Angles ``(B, N)`` in [0, pi] between the directions of B ``cameras`` and of N ``others``, seen from the origin."""
    ones = [torch.ones_like(each.azimuth) for each in (cameras, others)]
    a = spherical_to_cartesian(cameras.azimuth, cameras.elevation, ones[0])
    b = spherical_to_cartesian(others.azimuth.to(a), others.elevation.to(a), ones[1].to(a))
    # From both chords, since the arc cosine loses half of the digits near 0 and pi.
    apart, opposite = ((a[:, None] - sign * b[None]).norm(dim=-1) for sign in (1.0, -1.0))
    return 2.0 * torch.atan2(apart, opposite)


def turntable(
    count: int, elevation_deg: float = 15.0, distance: float = 3.0, fov_deg: float = 45.0, size: int = 256
) -> Cameras:
    """``count`` cameras evenly around the object, the first in front of it."""
    azimuth = torch.arange(count, dtype=torch.float32) * (2 * math.pi / count)
    ones = torch.ones(count)
    return orbit_cameras(azimuth, ones * math.radians(elevation_deg), ones * distance, ones * math.radians(fov_deg), size)


def rescaled(cameras: Cameras, factor: float) -> Cameras:
    """The same views with ``factor`` times as many pixels along each side."""
    K = cameras.K.clone()
    K[:, :2] *= factor
    width, height = round(cameras.width * factor), round(cameras.height * factor)
    return Cameras(cameras.c2w, K, width, height, cameras.azimuth, cameras.elevation, cameras.distance)


def mask_box(mask: Tensor) -> tuple[Tensor, Tensor] | None:
    """Corners ``(2,)`` of a mask ``(H, W)``, upper left and lower right, in pixels to the right and down; None: it is empty."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if len(rows) == 0:
        return None
    low = torch.stack([columns.min(), rows.min()]).float()
    return low, torch.stack([columns.max(), rows.max()]).float() + 1.0


def centered(cameras: Cameras, masks: Tensor, ratio: Tensor, shift: Tensor | None = None) -> Cameras:
    """The cameras, cropped so that the boxes of ``masks (B, S, S)`` are centred, their longest sides ``ratio (B,)`` of S.

    ``shift (B, 2)`` of the boxes' centres to the right and down, as parts of S. An empty mask leaves its camera as it is.
    """
    K, size = cameras.K.clone(), cameras.width
    for index, mask in enumerate(masks):
        if (box := mask_box(mask)) is not None:
            low, high = box
            zoom = ratio[index] * size / (high - low).max()
            middle = 0.5 if shift is None else 0.5 + shift[index]
            K[index, :2] *= zoom
            K[index, :2, 2] += size * middle - zoom * 0.5 * (low + high)
    return replace(cameras, K=K)


def rays_of(cameras: Cameras) -> RayBundle:
    """The ray through every pixel centre: origins and unit directions ``(B, H, W, 3)``."""
    device, dtype = cameras.c2w.device, cameras.c2w.dtype
    v, u = torch.meshgrid(
        torch.arange(cameras.height, device=device, dtype=dtype) + 0.5,
        torch.arange(cameras.width, device=device, dtype=dtype) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1)  # (H, W, 3)
    local = torch.einsum("bij,hwj->bhwi", torch.linalg.inv(cameras.K), pixels)
    directions = torch.einsum("bij,bhwj->bhwi", cameras.c2w[:, :3, :3], local)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    origins = cameras.c2w[:, None, None, :3, 3].expand_as(directions)
    return RayBundle(origins, directions)


def project(cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates ``(B, N, 2)`` and depths along the camera's axis ``(B, N)`` of world ``points (N, 3)``."""
    w2c = torch.linalg.inv(cameras.c2w)
    local = torch.einsum("bij,nj->bni", w2c[:, :3, :3], points) + w2c[:, None, :3, 3]
    image = torch.einsum("bij,bnj->bni", cameras.K, local)
    return image[..., :2] / image[..., 2:], local[..., 2]


@dataclass(frozen=True)
class CameraSampler:
    """Random views from a sphere around the object; a call returns the cameras of one step.

    The azimuths of a step are stratified (threestudio's ``batch_uniform_azimuth``), so that its views show different sides.
    The jitters and ``angle_share`` are threestudio's, whose systems for one view per step use 0.1, 0.2, 0.02 and 0.5.
    With ``orbit`` above 1 the views form groups: each group is evenly spaced in azimuth, at one elevation, distance and field
    of view (MVDream's ``n_view``).
    """

    views: int = 2  # pictures per step, at least 1; a multiple of orbit
    orbit: int = 1  # views per group, at least 1: evenly spaced in azimuth, with equal elevation, distance and field of view
    # width and height of the pictures, pixels, at least 4; several values are used in turn, each for an equal part of the stage
    resolution: tuple[int, ...] = (64,)
    elevation_deg: tuple[float, float] = (-10.0, 60.0)  # range of the elevation, degrees in [-90, 90]; 90: straight above
    azimuth_deg: tuple[float, float] = (-180.0, 180.0)  # range of the azimuth, degrees in [-360, 360]; 0: front, 90: +x
    distance: tuple[float, float] = (2.6, 3.2)  # range of the distance from the origin, world units, 0.01 to 10000
    relative: bool = False  # true: the unit of distance is 1 / tan(fov / 2), so it is half the visible height at the origin
    fov_deg: tuple[float, float] = (40.0, 55.0)  # range of the vertical field of view, degrees in [1, 170]
    angle_share: float = 0.0  # share of the steps with elevations uniform in the angle, in [0, 1]; the others: in area
    position_jitter: float = 0.0  # largest random shift of a camera along each axis, world units (uniform)
    center_jitter: float = 0.0  # standard deviation of the point that a camera looks at, world units; 0: the origin
    up_jitter: float = 0.0  # standard deviation of the up vector, whose length is 1
    fill: float | None = None  # radius of the sphere that fills the picture's height, world units, > 0; null: use distance
    # true: azimuth_deg is relative to the first photo's azimuth, and all views have its distance and field of view, as
    # Zero-1-to-3 needs them (distance and fov_deg are not used)
    like_photo: bool = False
    # elevations within so many degrees of the first photo's are covered as well, up to 80 above and below level (DreamGaussian:
    # 30), at least 0; null: those of elevation_deg only
    elevation_about_deg: float | None = None
    # share of each range that is used, in [0, 1], about the first photo's view, or without photos about the range's middle;
    # stable-dreamfusion: linear from 0.2 to 1 at progress 0.4
    widen: float | Schedule = 1.0

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"views is {self.views}; it must be at least 1")
        if self.orbit < 1 or self.views % self.orbit:
            raise ValueError(f"orbit is {self.orbit} and views {self.views}; views must be a multiple of orbit")
        if not self.resolution or min(self.resolution) < 4:
            raise ValueError(f"resolution is {list(self.resolution)}; give one or several sizes of at least 4 pixels")
        limits = {"elevation_deg": (-90.0, 90.0), "azimuth_deg": (-360.0, 360.0), "fov_deg": (1.0, 170.0)}
        for name, (low, high) in {**limits, "distance": (0.01, 1e4)}.items():
            first, last = getattr(self, name)
            if not low <= first <= last <= high:
                raise ValueError(f"{name} is [{first:g}, {last:g}]; accepted: a rising range within {low:g} to {high:g}")
        if not 0.0 <= self.angle_share <= 1.0:
            raise ValueError(f"angle_share is {self.angle_share:g}; accepted: 0 to 1")
        if min(self.jitters) < 0.0:
            raise ValueError(f"position_jitter, center_jitter, up_jitter are {self.jitters}; they must not be negative")
        if any(self.jitters) and self.orbit > 1:
            raise ValueError("jitters need orbit 1: the views of an orbit share one elevation and distance")
        if self.fill is not None and self.fill <= 0:
            raise ValueError(f"fill is {self.fill:g}; it must be positive")
        if self.like_photo and (self.relative or self.fill is not None):
            raise ValueError("like_photo takes the distance from the photo; set fill to null and relative to false")
        if self.elevation_about_deg is not None and not 0.0 <= self.elevation_about_deg <= 90.0:
            raise ValueError(f"elevation_about_deg is {self.elevation_about_deg:g}; accepted: 0 to 90")
        if not all(0.0 <= value_at(self.widen, i / 100) <= 1.0 for i in range(101)):
            raise ValueError("widen leaves [0, 1]; it is the share of the ranges that is used")

    @property
    def needs_photo(self) -> bool:
        """Whether views are drawn about a photo's view."""
        return self.like_photo or self.elevation_about_deg is not None

    @property
    def jitters(self) -> tuple[float, float, float]:
        return self.position_jitter, self.center_jitter, self.up_jitter

    def ranges(self, progress: float, photos: Cameras | None = None) -> tuple[Range, Range, Range, Range]:
        """Azimuth and elevation (degrees), distance (world units) and vertical field of view (degrees) at ``progress``."""
        azimuth, elevation, distance, fov = self.azimuth_deg, self.elevation_deg, self.distance, self.fov_deg
        share = value_at(self.widen, progress)
        if photos is None:
            found = [(each, sum(each) / 2) for each in (azimuth, elevation, distance, fov)]
        else:
            home = math.degrees(float(photos.azimuth[0])), math.degrees(float(photos.elevation[0])), float(photos.distance[0])
            lens = math.degrees(2.0 * math.atan(0.5 * photos.height / float(photos.K[0, 1, 1])))
            turn = (home[0] + 180.0) % 360.0 - 180.0
            if self.like_photo:
                azimuth, distance, fov = (turn + azimuth[0], turn + azimuth[1]), (home[2], home[2]), (lens, lens)
            elif share < 1.0 and azimuth[1] - azimuth[0] >= 360.0:  # the whole circle has no middle but the photo
                azimuth = (turn - 180.0, turn + 180.0)
            if (margin := self.elevation_about_deg) is not None:
                low = max(min(home[1] - margin, elevation[0]), -STEEPEST_DEG)
                elevation = low, min(max(home[1] + margin, elevation[1]), STEEPEST_DEG)
            found = [(azimuth, turn), (elevation, home[1]), (distance, home[2]), (fov, lens)]
        if share < 1.0:
            found = [((m + share * (low - m), m + share * (high - m)), m) for (low, high), m in found]
        first, second, third, fourth = (each for each, _ in found)
        return first, second, third, fourth

    def __call__(self, progress: float, rng: torch.Generator, photos: Cameras | None = None) -> Cameras:
        """The cameras of a step at ``progress`` in [0, 1]; their angles and distances are those before the jitter.

        ``photos``: the cameras of the user's photos, if there are any.
        """
        groups = self.views // self.orbit
        azimuth_deg, elevation_deg, distances, fov_deg = self.ranges(progress, photos)

        def uniform(low: float, high: float) -> Tensor:
            return (low + (high - low) * torch.rand(groups, generator=rng)).repeat_interleave(self.orbit)

        low, high = math.radians(azimuth_deg[0]), math.radians(azimuth_deg[1])
        strata = (torch.arange(groups) + torch.rand(groups, generator=rng)) / groups
        strata = ((strata[:, None] + torch.arange(self.orbit)) / self.orbit).flatten()
        shift = torch.rand(1, generator=rng)
        azimuth = low + (high - low) * ((strata + shift) % 1.0)
        bottom, top = math.radians(elevation_deg[0]), math.radians(elevation_deg[1])
        if self.angle_share and float(torch.rand((), generator=rng)) < self.angle_share:
            elevation = uniform(bottom, top)
        else:  # uniform in the sine of the elevation, so uniform in area on the sphere
            elevation = torch.asin(uniform(math.sin(bottom), math.sin(top)))
        fov = uniform(math.radians(fov_deg[0]), math.radians(fov_deg[1]))
        distance = uniform(*distances)
        if self.relative:
            distance = distance / torch.tan(0.5 * fov)
        if self.fill is not None:
            distance = self.fill / torch.sin(0.5 * fov)
        rung = min(int(progress * len(self.resolution)), len(self.resolution) - 1)
        cameras = orbit_cameras(azimuth, elevation, distance, fov, self.resolution[rung])
        return self._jittered(cameras, rng) if any(self.jitters) else cameras

    def _jittered(self, cameras: Cameras, rng: torch.Generator) -> Cameras:
        """Cameras moved and turned at random (threestudio's ``camera_perturb``, ``center_perturb``, ``up_perturb``)."""
        position = cameras.c2w[:, :3, 3]
        position = position + self.position_jitter * (2.0 * torch.rand(position.shape, generator=rng) - 1.0)
        center = self.center_jitter * torch.randn(position.shape, generator=rng)
        up = torch.tensor([0.0, 1.0, 0.0]) + self.up_jitter * torch.randn(position.shape, generator=rng)
        return replace(cameras, c2w=look_at(position, center, up))


@dataclass(frozen=True)
class PosedCameras:
    """Draws views from given cameras, without replacement within one step: for priors that are defined at some poses only."""

    cameras: Cameras
    views: int = 2

    def __call__(self, progress: float, rng: torch.Generator, photos: Cameras | None = None) -> Cameras:
        chosen = torch.randperm(len(self.cameras), generator=rng)[: self.views]
        pool = self.cameras
        return Cameras(
            pool.c2w[chosen], pool.K[chosen], pool.width, pool.height,
            pool.azimuth[chosen], pool.elevation[chosen], pool.distance[chosen],
        )  # fmt: skip


def fibonacci_cameras(count: int, low_deg: float, high_deg: float, distance: float, fov_deg: float, size: int) -> Cameras:
    """``count`` cameras spread evenly over the part of the sphere between two elevations."""
    index = torch.arange(count, dtype=torch.float32) + 0.5
    low, high = math.sin(math.radians(low_deg)), math.sin(math.radians(high_deg))
    elevation = torch.asin(low + (high - low) * index / count)
    azimuth = index * (math.pi * (3.0 - math.sqrt(5.0)))
    azimuth = torch.remainder(azimuth + math.pi, 2 * math.pi) - math.pi
    ones = torch.ones(count)
    return orbit_cameras(azimuth, elevation, ones * distance, ones * math.radians(fov_deg), size)
