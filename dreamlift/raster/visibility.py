"""Visibility: the nearest triangle at each pixel's centre, by a reference in torch or by compiled kernels.

In homogeneous coordinates (Olano and Greer 1997, "Triangle Scan Conversion using 2D Homogeneous Coordinates",
https://doi.org/10.1145/258694.258723): for the ray d = K^-1 (u, v, 1) through a pixel's centre and a triangle
(v0, v1, v2) in camera space,

    b_i = d . (v_j x v_k),    z = v0 . (v1 x v2) / sum(b);

the ray hits the triangle where the b_i have one sign and z > 0, so triangles need no clipping at the camera plane. Both sides
of a triangle are drawn.

Two backends give the same result: ``torch`` (the reference, float64, any device) and ``numba`` (CPU; ``pip install
"dreamlift[fast]"``). Where the depths of two triangles differ only by rounding, as at a shared edge through a pixel's centre,
the backends may choose different ones.
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


@torch.no_grad()
def visible_faces(vertices: Tensor, faces: Tensor, cameras: Cameras, backend: str | None = None) -> Tensor:
    """The nearest face in every pixel, ``(B, H, W)`` int64 on the vertices' device; -1 where there is none.

    Args:
        vertices: ``(V, 3)`` in the world, finite. faces: ``(F, 3)`` int64 on the same device.
        cameras: a batch of B on the same device; the picture's size is theirs.
        backend: one of :data:`BACKENDS`; None takes the fastest available one (:func:`choose_backend`).

    Raises:
        ValueError: a backend that is unknown or not available on this device.
    """
    device = vertices.device.type
    name = choose_backend(device) if backend is None else backend
    if name not in BACKENDS:
        raise ValueError(f"unknown raster backend {name!r}; accepted: {', '.join(BACKENDS)}")
    if name not in available_backends(device):
        raise ValueError(
            f"the raster backend {name!r} is not available on {device!r}; accepted: {', '.join(available_backends(device))} "
            '(numba needs a CPU and pip install "dreamlift[fast]")'
        )
    if len(faces) == 0:
        shape = (len(cameras), cameras.height, cameras.width)
        return torch.full(shape, -1, dtype=torch.int64, device=vertices.device)
    return BACKENDS[name](vertices, faces, cameras)


def available_backends(device: str) -> tuple[str, ...]:
    """The backends available on a device of type "cpu", "cuda" or "mps", fastest first."""
    return ("numba", "torch") if device == "cpu" and jit.fast_kernels_available() else ("torch",)


def choose_backend(device: str) -> str:
    """The fastest backend for a device, or the one that ``DREAMLIFT_RASTER`` in the environment names."""
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
    """Visibility and projected vertices, as computed by the compiled kernels."""

    ids: np.ndarray  # (B, H, W) int64, the nearest face, or -1
    image: np.ndarray  # (B, V, 3) homogeneous pixels of :func:`dreamlift.raster.visibility_numba.project`
    screen: np.ndarray  # (B, V, 3) pixels u, v and depth z along the camera's axis
    lenses: np.ndarray  # (B, 4, 4) of :func:`dreamlift.raster.visibility_numba.make_lenses`
    rays: np.ndarray  # (B, 3, 3) of the same function


def scan(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Scan:
    """The visible faces and the projected vertices, by the compiled kernels; all tensors on a CPU."""
    lenses, rays = np.empty((len(cameras), 4, 4)), np.empty((len(cameras), 3, 3))
    visibility_numba.make_lenses(jit.array(cameras.c2w.double()), jit.array(cameras.K.double()), lenses, rays)
    points, triangles, height = jit.array(vertices.double()), jit.array(faces), cameras.height
    ids = np.empty((len(cameras), height, cameras.width), np.int64)
    images, screens = (np.empty((len(cameras), len(points), 3)) for _ in range(2))
    kernel = visibility_numba.nearest_faces
    for lens, image, screen, winner in zip(lenses, images, screens, ids, strict=True):
        visibility_numba.project(points, lens, image, screen)
        jit.parallel_ranges(lambda low, high, v=(image, screen), w=winner: kernel(v, triangles, NEAR, low, high, w), height, 16)
    return Scan(ids, images, screens, lenses, rays)


def _with_numba(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    return torch.from_numpy(scan(vertices, faces, cameras).ids)


BACKENDS: dict[str, Callable[[Tensor, Tensor, Cameras], Tensor]] = {
    "torch": _with_torch,
    "numba": _with_numba,
}


def in_chunks(counts: Tensor, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All (item, number in ``range(counts[item])``) for ``counts (N,)`` int64, in chunks of about ``limit`` pairs.

    A chunk holds whole items, so one item alone may exceed the limit.
    """
    ends = counts.cumsum(0)
    start = 0
    while start < len(counts):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, ends.new_tensor(done + limit), right=True)))
        owner = torch.repeat_interleave(torch.arange(start, stop, device=counts.device), counts[start:stop])
        yield owner, torch.arange(len(owner), device=counts.device) - (ends[owner] - counts[owner] - done)
        start = stop


def box_pairs(low: Tensor, high: Tensor, limit: int = CANDIDATES) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All (item, x, y) with x, y in the items' inclusive integer boxes ``low, high (N, 2)``, in chunks of ``limit``.

    A box may be empty (high < low). One item alone may exceed the limit.
    """
    span = (high - low + 1).clamp_min(0)
    for owner, local in in_chunks(span[:, 0] * span[:, 1], limit):
        columns = span[owner, 0]
        row = torch.div(local, columns.clamp_min(1), rounding_mode="floor")
        yield owner, low[owner, 0] + local - row * columns, low[owner, 1] + row


def _winners(corners: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    """The nearest face ``(H W,)`` of each pixel, or -1; ``corners (F, 3, 3)`` are in camera space."""
    inverse = torch.linalg.inv(K)
    edges = torch.linalg.cross(corners[:, [1, 2, 0]], corners[:, [2, 0, 1]])  # (F, 3, 3): v_j x v_k
    volume = torch.einsum("fi,fi->f", corners[:, 0], edges[:, 0])
    slack = 4e-15 * corners.square().sum(dim=-1).amax(dim=-1)  # so that rounding opens no crack between two triangles
    low, high = _boxes(corners, K, width, height)
    high[volume == 0] = -1  # seen edge-on, or degenerate: no pixel
    pixels = width * height
    nearest = torch.full((pixels,), torch.inf, dtype=torch.float64, device=K.device)
    nobody = len(corners)  # greater than every face's number, of which the lowest wins
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
        # At equal depth (a shared edge) the lower number wins, so that pictures are reproducible bit by bit.
        winner.scatter_reduce_(0, pixel[front], owner[front], "amin")
        nearest = closer
    winner[winner == nobody] = -1
    return winner


def _boxes(corners: Tensor, K: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Inclusive boxes ``(F, 2)`` of the pixels whose centres a triangle may cover.

    A triangle that crosses the camera's plane gets the whole picture, one behind it an empty box.
    """
    image = corners @ K.T
    z = image[..., 2]
    in_front, behind = (z > NEAR).all(dim=1), (z <= NEAR).all(dim=1)
    points = image[..., :2] / torch.where(z > NEAR, z, torch.ones_like(z))[..., None]
    size = torch.tensor([width, height], dtype=torch.float64, device=K.device)
    # A pixel's centre is at +0.5. Boxes are slightly enlarged, so that rounding loses no pixel on the border.
    low = torch.ceil(points.amin(dim=1) - 0.5 - 1e-6).clamp_min(0)
    high = torch.minimum(torch.floor(points.amax(dim=1) - 0.5 + 1e-6), size - 1)
    low = torch.where(in_front[:, None], low, torch.zeros_like(low)).clamp_max(1e6)
    high = torch.where(in_front[:, None], high, (size - 1).expand_as(high)).clamp_min(-1)
    high = torch.where(behind[:, None], torch.full_like(high, -1), high)
    return low.long(), high.long()
