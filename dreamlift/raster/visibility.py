"""Which triangle each pixel's centre shows: one reference in torch, and faster ways to the same answer.

In homogeneous coordinates (Olano and Greer 1997, "Triangle Scan Conversion using 2D Homogeneous Coordinates",
https://doi.org/10.1145/258694.258723): for the ray d = K^-1 (u, v, 1) through a pixel's centre and a triangle
(v0, v1, v2) in camera space,

    b_i = d . (v_j x v_k),    z = v0 . (v1 x v2) / sum(b);

it is hit where the b_i have one sign and z > 0, so triangles need no clipping at the camera. Both sides are drawn.

Two backends give the same answer: ``torch`` (the reference, float64, any device) and ``numba`` (CPU; ``pip install
"dreamlift[fast]"``). Where two triangles are equally near to the last digits, as on a shared edge through a pixel's centre,
each may choose another one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamlift.raster import visibility_numba
from dreamlift.system import jit
from dreamlift.types import Cameras

NEAR = 1e-4  # world units; what lies closer to the camera's plane is not drawn
CANDIDATES = 2_000_000  # (triangle, pixel) pairs held in memory at a time
INSTALL = {
    "numba": 'pip install "dreamlift[fast]"',
}


@torch.no_grad()
def visible_faces(vertices: Tensor, faces: Tensor, cameras: Cameras, backend: str | None = None) -> Tensor:
    """The nearest face in every pixel, ``(B, H, W)`` int64 on the vertices' device; -1 where there is none.

    Args:
        vertices: ``(V, 3)`` in the world, finite. faces: ``(F, 3)`` int64 on the same device.
        cameras: a batch of B on the same device; the picture's size is theirs.
        backend: one of :data:`BACKENDS`; None takes the fastest that is there (:func:`choose_backend`).

    Raises:
        ValueError: an unknown backend, or one that is not there or cannot work on this device; the line says the fix.
    """
    name = choose_backend(vertices.device.type) if backend is None else backend
    if name not in BACKENDS:
        raise ValueError(f"unknown raster backend {name!r}; accepted: {', '.join(BACKENDS)}")
    if name not in available_backends(vertices.device.type):
        fix = INSTALL.get(name, "")
        raise ValueError(f"the raster backend {name!r} is not to be had on {vertices.device.type!r}: {fix}")
    if len(faces) == 0:
        shape = (len(cameras), cameras.height, cameras.width)
        return torch.full(shape, -1, dtype=torch.int64, device=vertices.device)
    return BACKENDS[name](vertices, faces, cameras)


def available_backends(device: str) -> tuple[str, ...]:
    """The backends that can work here on a device of type "cpu", "cuda" or "mps", fastest first."""
    return ("numba", "torch") if device == "cpu" and jit.fast_kernels_available() else ("torch",)


def choose_backend(device: str) -> str:
    """The fastest backend for a device; ``DREAMLIFT_RASTER=name`` in the environment decides instead."""
    return os.environ.get("DREAMLIFT_RASTER") or available_backends(device)[0]


def to_camera(vertices: Tensor, cameras: Cameras) -> Tensor:
    """``(B, V, 3)`` float64: world ``vertices (V, 3)`` in each camera's axes (OpenCV: +x right, +y down, +z forward)."""
    w2c = torch.linalg.inv(cameras.c2w.double())
    return torch.einsum("bij,vj->bvi", w2c[:, :3, :3], vertices.double()) + w2c[:, None, :3, 3]


def _with_torch(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    local = to_camera(vertices, cameras)
    views = [_winners(points[faces], K, cameras.width, cameras.height)
             for points, K in zip(local, cameras.K.double(), strict=True)]  # fmt: skip
    return torch.stack(views).view(len(cameras), cameras.height, cameras.width)


@dataclass(frozen=True)
class Scan:
    """What the compiled kernels saw."""

    ids: np.ndarray  # (B, H, W) int64, the nearest face, or -1
    image: np.ndarray  # (B, V, 3) homogeneous pixels, as of :func:`dreamlift.raster.visibility_numba.project`
    screen: np.ndarray  # (B, V, 3) pixels and depths along the axis
    lenses: np.ndarray  # (B, 4, 4) of :func:`dreamlift.raster.visibility_numba.make_lenses`
    rays: np.ndarray  # (B, 3, 3) from there too


def scan(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Scan:
    """The visible faces by the compiled kernels, with the vertices' places in the pictures; all on a CPU."""
    lenses, rays = np.empty((len(cameras), 4, 4)), np.empty((len(cameras), 3, 3))
    visibility_numba.make_lenses(jit.array(cameras.c2w.double()), jit.array(cameras.K.double()), lenses, rays)
    points, triangles, height = jit.array(vertices.double()), jit.array(faces), cameras.height
    ids = np.empty((len(cameras), height, cameras.width), np.int64)
    images, screens = (np.empty((len(cameras), len(points), 3)) for _ in range(2))
    kernel = visibility_numba.nearest_faces
    for lens, image, screen, winner in zip(lenses, images, screens, ids, strict=True):
        visibility_numba.project(points, lens, image, screen)
        jit.spread(lambda low, high, v=(image, screen), w=winner: kernel(v, triangles, NEAR, low, high, w), height, 16)
    return Scan(ids, images, screens, lenses, rays)


def _with_numba(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    return torch.from_numpy(scan(vertices, faces, cameras).ids)


BACKENDS: dict[str, Callable[[Tensor, Tensor, Cameras], Tensor]] = {
    "torch": _with_torch,
    "numba": _with_numba,
}


def box_pairs(low: Tensor, high: Tensor, limit: int = CANDIDATES) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All (item, x, y) with x, y in the items' inclusive integer boxes ``low, high (N, 2)``, in chunks of ``limit``.

    A box may be empty (high < low). One item alone may pass the limit.
    """
    span = (high - low + 1).clamp_min(0)
    area = span[:, 0] * span[:, 1]
    ends = area.cumsum(0)
    start = 0
    while start < len(area):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, ends.new_tensor(done + limit), right=True)))
        items = torch.arange(start, stop, device=low.device)
        owner = torch.repeat_interleave(items, area[start:stop])
        local = torch.arange(len(owner), device=low.device) - (ends[owner] - area[owner] - done)
        columns = span[owner, 0]
        row = torch.div(local, columns.clamp_min(1), rounding_mode="floor")
        yield owner, low[owner, 0] + local - row * columns, low[owner, 1] + row
        start = stop


def _winners(corners: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    """The nearest face ``(H W,)`` of each pixel, or -1; ``corners (F, 3, 3)`` are in camera space."""
    inverse = torch.linalg.inv(K)
    edges = torch.linalg.cross(corners[:, [1, 2, 0]], corners[:, [2, 0, 1]])  # (F, 3, 3): v_j x v_k
    volume = torch.einsum("fi,fi->f", corners[:, 0], edges[:, 0])
    slack = 4e-15 * corners.square().sum(dim=-1).amax(dim=-1)  # rounding must not lose a pixel on the edge of two triangles
    low, high = _boxes(corners, K, width, height)
    high[volume == 0] = -1  # seen edge-on, or degenerate: no pixel
    pixels = width * height
    nearest = torch.full((pixels,), torch.inf, dtype=torch.float64, device=K.device)
    nobody = len(corners)  # above every face, so that the lowest number wins
    winner = torch.full((pixels,), nobody, dtype=torch.int64, device=K.device)
    number = torch.arange(pixels, device=K.device)
    middle = [(number % width).double() + 0.5, torch.div(number, width, rounding_mode="floor").double() + 0.5]
    rays = torch.stack([*middle, torch.ones_like(middle[0])], dim=1) @ inverse.T
    for owner, x, y in box_pairs(low, high):
        pixel = y * width + x
        b = torch.einsum("nij,nj->ni", edges[owner], rays[pixel])
        total = b.sum(dim=1)
        z = volume[owner] / total
        inside = (b * total.sign()[:, None] >= -slack[owner, None]).all(dim=1) & (total != 0)
        hit = torch.nonzero(inside & (z > NEAR)).flatten()
        pixel, z, owner = pixel[hit], z[hit], owner[hit]
        closer = nearest.scatter_reduce(0, pixel, z, "amin")
        winner[closer < nearest] = nobody
        front = z == closer[pixel]
        # Two triangles at one depth (a shared edge): the lower number wins, so that pictures repeat bit by bit.
        winner.scatter_reduce_(0, pixel[front], owner[front], "amin")
        nearest = closer
    winner[winner == nobody] = -1
    return winner


def _boxes(corners: Tensor, K: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Inclusive boxes ``(F, 2)`` of the pixels whose centres a triangle may cover.

    They are the whole picture for one that passes the camera's plane, and empty for one behind it.
    """
    image = corners @ K.T
    z = image[..., 2]
    in_front, behind = (z > NEAR).all(dim=1), (z <= NEAR).all(dim=1)
    points = image[..., :2] / torch.where(z > NEAR, z, torch.ones_like(z))[..., None]
    size = torch.tensor([width, height], dtype=torch.float64, device=K.device)
    # A pixel's centre is at +0.5; a hair more than needed, since rounding must not lose a pixel on the border.
    low = torch.ceil(points.amin(dim=1) - 0.5 - 1e-6).clamp_min(0)
    high = torch.minimum(torch.floor(points.amax(dim=1) - 0.5 + 1e-6), size - 1)
    low = torch.where(in_front[:, None], low, torch.zeros_like(low)).clamp_max(1e6)
    high = torch.where(in_front[:, None], high, (size - 1).expand_as(high)).clamp_min(-1)
    high = torch.where(behind[:, None], torch.full_like(high, -1), high)
    return low.long(), high.long()
