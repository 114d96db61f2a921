"""Differentiable rasterisation of a triangle mesh: surface points with gradients, and antialiased silhouettes.

Visibility is found without gradients (:mod:`dreamlift.raster.visibility`). For the ray o + t d through a pixel's centre and
its visible triangle (v0, v1, v2), the barycentrics and t are then recomputed with gradients (Moeller and Trumbore 1997,
"Fast, Minimum Storage Ray/Triangle Intersection", section 2.2).

Coverage gets its gradient from antialiasing in image space, as in Laine et al. 2020, "Modular Primitives for High-Performance
Differentiable Rendering", section 3.3, https://arxiv.org/abs/2011.03277. Where a silhouette edge crosses the line between
the centres of two neighbouring pixels, at the share s of the way from pixel a of the nearer surface to pixel b,

    s > 1/2:  C_b += (s - 1/2) (C_a - C_b)        s < 1/2:  C_a += (1/2 - s) (C_b - C_a),

for steep edges between neighbours in a row, for flat ones between neighbours in a column. There are two differences from the
paper: crossings are found from the silhouette's edges instead of the two pixels' triangles, so that triangles may be smaller
than pixels; and columns are blended after rows, on their result, so that coverage stays within [0, 1].

With the numba backend, compiled kernels do all of this (:mod:`dreamlift.raster.soft_numba`). The torch code here is their
reference, and runs without numba.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlift.cameras import rays_of
from dreamlift.raster import soft_numba
from dreamlift.raster.visibility import NEAR, choose_backend, visible_faces
from dreamlift.system import jit
from dreamlift.types import Cameras


@dataclass(frozen=True)
class RasterPoints:
    """The visible surface points, packed: one per pixel that shows the surface."""

    ids: Tensor  # (B, H, W) int64, the face, or -1
    pixel: Tensor  # (N,) int64, into the B * H * W pixels
    corners: Tensor  # (N, 3) int64, the face's vertices
    barycentrics: Tensor  # (N, 3) sum to 1, differentiable in the vertices
    depth: Tensor  # (N, 1) distance along the unit ray, world units, differentiable in the vertices
    axial: Tensor  # (B, H, W) z along the camera's axis, infinite where there is no face; no gradient
    drawn: soft_numba.Drawn | None = None  # data of the compiled kernels, where these are used

    @property
    def view(self) -> Tensor:
        """The camera ``(N,)`` of each point."""
        return torch.div(self.pixel, self.ids.shape[1] * self.ids.shape[2], rounding_mode="floor")

    def interpolate(self, values: Tensor) -> Tensor:
        """Values ``(N, C)`` at the points, from those of the vertices ``(V, C)``."""
        if self.drawn is not None and soft_numba.can_fuse(self.barycentrics, values):
            return soft_numba.Interpolate.apply(values, self.barycentrics, self.corners)  # pyright: ignore[reportReturnType]
        parts = [values.index_select(0, self.corners[:, k]) * self.barycentrics[:, k : k + 1] for k in range(3)]
        return parts[0] + parts[1] + parts[2]

    def picture(self, values: Tensor) -> Tensor:
        """``(B, H, W, C)`` with the points' ``values (N, C)``, and 0 where there is no surface."""
        if self.drawn is not None and soft_numba.can_fuse(values):
            return soft_numba.Picture.apply(values, self.pixel, self.ids.numel()).view(*self.ids.shape, -1)  # pyright: ignore
        blank = values.new_zeros(self.ids.numel(), values.shape[1])
        return blank.index_copy(0, self.pixel, values).view(*self.ids.shape, -1)


@dataclass(frozen=True)
class Edges:
    """The edges of a mesh. Where three or more faces share an edge, they are paired in the faces' order."""

    ends: Tensor  # (E, 2) int64 vertices, in the direction of the first face
    faces: Tensor  # (E, 2) int64; the second is -1 on a border


def edges_of(faces: Tensor) -> Edges:
    """The undirected edges of ``faces (F, 3)``, each with the faces on its two sides."""
    if faces.device.type == "cpu" and jit.fast_kernels_available():
        return Edges(*soft_numba.edges(faces))
    return edges_torch(faces)


def edges_torch(faces: Tensor) -> Edges:
    """:func:`edges_of` in torch, on any device."""
    start, end = faces.reshape(-1), faces[:, [1, 2, 0]].reshape(-1)
    owner = torch.arange(len(faces), device=faces.device).repeat_interleave(3)
    base = int(faces.max()) + 1 if len(faces) else 1
    key, order = torch.sort(torch.minimum(start, end) * base + torch.maximum(start, end), stable=True)
    fresh = torch.ones_like(key, dtype=torch.bool)
    fresh[1:] = key[1:] != key[:-1]
    place = torch.arange(len(key), device=faces.device)
    rank = place - torch.cummax(torch.where(fresh, place, torch.zeros_like(place)), dim=0).values if len(key) else place
    paired = torch.zeros_like(fresh)
    paired[:-1] = ~fresh[1:]  # the next one lies on the same edge
    first = torch.nonzero(rank % 2 == 0).flatten()
    second = (first + 1).clamp(max=max(len(key) - 1, 0))
    other = torch.where(paired[first], owner[order[second]], torch.full_like(first, -1))
    chosen = order[first]
    return Edges(torch.stack([start[chosen], end[chosen]], dim=1), torch.stack([owner[chosen], other], dim=1))


def raster_points(vertices: Tensor, faces: Tensor, cameras: Cameras, backend: str | None = None) -> RasterPoints:
    """The visible surface points of a mesh for B cameras.

    Args:
        vertices: ``(V, 3)`` world, finite. faces: ``(F, 3)`` int64, on the same device.
        cameras: on the same device.
        backend: as for :func:`dreamlift.raster.visibility.visible_faces`.
    """
    name = choose_backend(vertices.device.type) if backend is None else backend
    if name == "numba" and soft_numba.can_fuse(vertices) and not (cameras.c2w.requires_grad or cameras.K.requires_grad):
        parts, drawn = soft_numba.surface(vertices, faces, cameras)
        return RasterPoints(*parts, drawn=drawn)
    ids = visible_faces(vertices.detach(), faces, cameras, name)
    pixel = torch.nonzero(ids.view(-1) >= 0).flatten()
    corners = faces.index_select(0, ids.view(-1).index_select(0, pixel))
    rays = rays_of(cameras)
    directions = rays.directions.reshape(-1, 3).to(vertices)
    d = directions.index_select(0, pixel)
    o = rays.origins.reshape(-1, 3).to(vertices).index_select(0, pixel)
    a, b, c = (vertices.index_select(0, corners[:, k]) for k in range(3))
    first, second, from_a = b - a, c - a, o - a
    p, q = torch.linalg.cross(d, second), torch.linalg.cross(from_a, first)
    determinant = _dot(first, p)
    # In float64 a visible triangle's is not 0, but here that of a sliver seen edge-on may be, and must not give NaN.
    tiny = torch.finfo(vertices.dtype).tiny
    inverse = 1 / torch.where(determinant.abs() > tiny, determinant, torch.full_like(determinant, torch.inf))
    u, v, t = _dot(from_a, p) * inverse, _dot(d, q) * inverse, _dot(second, q) * inverse
    along = (directions.view(*ids.shape, 3) * cameras.c2w[:, None, None, :3, 2].to(vertices)).sum(-1)
    axial = torch.full_like(along, torch.inf).view(-1).index_copy(0, pixel, t.detach()[:, 0] * along.view(-1)[pixel])
    return RasterPoints(ids, pixel, corners, torch.cat([1 - u - v, u, v], dim=1), t, axial.view(ids.shape))


def antialias(
    picture: Tensor, surface: RasterPoints, vertices: Tensor, faces: Tensor, edges: Edges, cameras: Cameras
) -> Tensor:
    """The picture with antialiased silhouettes, differentiable in the vertices.

    Args:
        picture: ``(B, H, W, C)`` of this ``surface``. Channels that are weighted by coverage (colour times coverage,
            coverage, ...) must be 0 where there is no surface.
        vertices, faces, cameras: those of the surface. edges: :func:`edges_of` these faces.
    """
    if surface.drawn is not None and soft_numba.can_fuse(picture, vertices):
        mesh = (faces, edges.ends, edges.faces)
        return soft_numba.Antialias.apply(picture, vertices, surface.axial, mesh, surface.drawn.scan)  # pyright: ignore
    return antialias_torch(picture, surface, vertices, faces, edges, cameras)


def draw(values: Tensor, surface: RasterPoints, vertices: Tensor, faces: Tensor, edges: Edges, cameras: Cameras) -> Tensor:
    """``antialias(surface.picture(values), ...)`` of the points' ``values (N, C)``, with fewer copies if compiled."""
    if surface.drawn is not None and soft_numba.can_fuse(values, vertices):
        mesh = (faces, edges.ends, edges.faces)
        return soft_numba.Draw.apply(values, vertices, surface.pixel, surface.axial, mesh, surface.drawn)  # pyright: ignore
    return antialias(surface.picture(values), surface, vertices, faces, edges, cameras)


def antialias_torch(
    picture: Tensor, surface: RasterPoints, vertices: Tensor, faces: Tensor, edges: Edges, cameras: Cameras
) -> Tensor:
    """:func:`antialias` in torch, on any device."""
    height, width = picture.shape[1:3]
    values = picture.reshape(-1, picture.shape[-1])
    K, w2c = cameras.K.to(vertices), torch.linalg.inv(cameras.c2w).to(vertices)
    found: tuple[list[_Crossings], list[_Crossings]] = ([], [])
    for view in range(len(picture)):
        local = vertices @ w2c[view, :3, :3].T + w2c[view, :3, 3]
        silhouette, sign = _silhouette(local.detach(), faces, edges)
        ends = local.index_select(0, silhouette.flatten()) @ K[view].T
        points = (ends[:, :2] / ends[:, 2:]).view(-1, 2, 2)  # (S, 2 ends, 2)
        nearness = (1 / ends[:, 2]).detach().view(-1, 2)
        steep = ((points[:, 1] - points[:, 0]).detach().abs() * points.new_tensor([1.0, -1.0])).sum(1) < 0
        for axis, chosen in ((0, steep), (1, ~steep)):
            part = _crossings(points[chosen], nearness[chosen], sign[chosen], axis, (width, height))
            seen = _seen(part, surface.ids[view].view(-1), surface.axial[view].view(-1))
            found[axis].append(seen.moved(view * height * width))
    for parts in found:
        near, far, share = (torch.cat([getattr(part, name) for part in parts]) for name in ("near", "far", "share"))
        difference = values.index_select(0, near) - values.index_select(0, far)
        values = values.index_add(0, far, (share - 0.5).clamp(min=0)[:, None] * difference)
        values = values.index_add(0, near, (share - 0.5).clamp(max=0)[:, None] * difference)
    return values.view_as(picture)


@dataclass(frozen=True)
class _Crossings:
    """Crossings of edges with the line between two neighbouring pixels' centres."""

    near: Tensor  # (M,) int64 the pixel on the surface's side
    far: Tensor  # (M,) int64 the other pixel
    share: Tensor  # (M,) position from the near pixel's centre (0) to the far one's (1); differentiable
    depth: Tensor  # (M,) z of the edge at the crossing

    def moved(self, offset: int) -> _Crossings:
        return _Crossings(self.near + offset, self.far + offset, self.share, self.depth)


def _silhouette(local: Tensor, faces: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
    """The outlines' edges ``(S, 2)`` for vertices in camera space ``local (V, 3)``, and their signs ``(S,)``.

    The sign (+1 or -1) is the orientation of the edge's first face in the picture. Edges that reach behind the near plane are
    left out.
    """
    a, b, c = (local.index_select(0, faces[:, k]) for k in range(3))
    turn = _dot(a, torch.linalg.cross(b, c))[:, 0].sign()
    in_front = local[:, 2] > NEAR
    first, second = edges.faces.unbind(1)
    outline = (second < 0) | (turn[first] != turn[second.clamp(min=0)])
    chosen = torch.nonzero(outline & in_front[edges.ends].all(1) & (turn[first] != 0)).flatten()
    return edges.ends[chosen], turn[first[chosen]]


def _crossings(points: Tensor, nearness: Tensor, sign: Tensor, axis: int, size: tuple[int, int]) -> _Crossings:
    """The crossings of S edges with the lines through pixel centres along ``axis`` (0: rows, 1: columns) of one view.

    ``points (S, 2, 2)`` are the ends in pixels, ``nearness (S, 2)`` their 1 / z, ``sign (S,)`` that of :func:`_silhouette`.
    """
    along, across = points[:, :, axis], points[:, :, 1 - axis]
    lowest, highest = across.detach().amin(1), across.detach().amax(1)
    # Lines at k + 1/2 in [lowest, highest): a line through the shared end of two edges is counted once.
    first = torch.ceil(lowest - 0.5).clamp(0, size[1 - axis]).long()
    count = (torch.ceil(highest - 0.5).clamp(0, size[1 - axis]).long() - first).clamp(min=0)
    edge = torch.repeat_interleave(torch.arange(len(points), device=points.device), count)
    line = first[edge] + torch.arange(len(edge), device=points.device) - (count.cumsum(0) - count)[edge]
    start, step = across[edge, 0], (across[:, 1] - across[:, 0])[edge]
    t = (line + 0.5 - start) / step
    place = along[edge, 0] + t * (along[edge, 1] - along[edge, 0]) - 0.5
    left = torch.floor(place.detach())
    inside = torch.nonzero((left >= 0) & (left < size[axis] - 1)).flatten()
    edge, line, t, place, left = (value[inside] for value in (edge, line, t, place, left))
    depth = 1 / (nearness[edge, 0] + t.detach() * (nearness[edge, 1] - nearness[edge, 0]))
    # y runs down: a face of positive sign lies to the left of an edge that goes up, and below one that goes right.
    heading = (across[:, 1] - across[:, 0]).detach()[edge] * sign[edge]
    surface_left = heading > 0 if axis == 0 else heading < 0
    share = torch.where(surface_left, place - left, 1 - (place - left))
    strides = (1, size[0]) if axis == 0 else (size[0], 1)
    lower = left.long() * strides[0] + line * strides[1]
    upper = lower + strides[0]
    near, far = torch.where(surface_left, lower, upper), torch.where(surface_left, upper, lower)
    return _Crossings(near, far, share, depth)


def _seen(crossings: _Crossings, ids: Tensor, axial: Tensor) -> _Crossings:
    """The visible crossings, one per pair of pixels: the one with the greatest share."""
    near, far, share = crossings.near, crossings.far, crossings.share
    shown = torch.nonzero((ids[near] >= 0) & (axial[far] > crossings.depth)).flatten()
    order = shown[torch.argsort(share.detach()[shown], stable=True)]
    key = near[order] * 4 + (far[order] > near[order]) * 2  # unique, since a call handles only rows or only columns
    key, again = torch.sort(key, stable=True)
    last = torch.ones_like(key, dtype=torch.bool)
    last[:-1] = key[1:] != key[:-1]
    kept = order[again[last]]
    return _Crossings(near[kept], far[kept], share[kept], crossings.depth[kept])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Dot products ``(N, 1)`` of ``a, b (N, 3)``."""
    return (a * b) @ a.new_ones(3, 1)
