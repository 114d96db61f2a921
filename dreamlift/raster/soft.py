"""Differentiable pictures of a triangle mesh: surface points with gradients, and silhouettes that move with the vertices.

Which triangle a pixel shows is found without gradients (:mod:`dreamlift.raster.visibility`). For the ray o + t d through the
pixel's centre and that triangle (v0, v1, v2) the barycentrics and t are then worked out anew, so that they have gradients
(Moeller and Trumbore 1997, "Fast, Minimum Storage Ray/Triangle Intersection", section 2.2).

Coverage gets its gradient from antialiasing after the picture is drawn, as in Laine et al. 2020, "Modular Primitives for
High-Performance Differentiable Rendering", section 3.3, https://arxiv.org/abs/2011.03277: where a silhouette edge crosses the
line between the centres of two neighbouring pixels at the share s of the way from the nearer surface's pixel a to pixel b,

    s > 1/2:  C_b += (s - 1/2) (C_a - C_b)        s < 1/2:  C_a += (1/2 - s) (C_b - C_a),

steep edges between neighbours in a row, flat ones between neighbours in a column. Two things differ from the paper. Crossings
are found from the silhouette's edges, not from the two pixels' triangles, so that triangles may be smaller than pixels.
And rows are blended before columns, on the result, so that coverage stays within [0, 1].

Where visibility is found by numba, the rest is done by compiled kernels too (:mod:`dreamlift.raster.soft_numba`); what is
written here in torch is their reference, and what runs without numba.
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
class Surface:
    """The surface points that the pixels show, packed: only pixels that show some."""

    ids: Tensor  # (B, H, W) int64, the face, or -1
    pixel: Tensor  # (N,) int64, into the B * H * W pixels
    corners: Tensor  # (N, 3) int64, the face's vertices
    barycentrics: Tensor  # (N, 3) sum to 1, differentiable in the vertices
    depth: Tensor  # (N, 1) distance along the unit ray, world units, differentiable in the vertices
    axial: Tensor  # (B, H, W) z along the camera's axis, infinite where there is no face; no gradient
    drawn: soft_numba.Drawn | None = None  # what the compiled kernels keep of it, where they do the rest of the picture

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
    """The edges of a mesh. Where three or more faces meet, they are paired as they come."""

    ends: Tensor  # (E, 2) int64 vertices, in the order in which the first face runs
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


def surface_of(vertices: Tensor, faces: Tensor, cameras: Cameras, backend: str | None = None) -> Surface:
    """What B cameras see of a mesh.

    Args:
        vertices: ``(V, 3)`` world, finite. faces: ``(F, 3)`` int64, on the same device.
        cameras: on the same device.
        backend: how visibility is found, see :func:`dreamlift.raster.visibility.visible_faces`.
    """
    name = choose_backend(vertices.device.type) if backend is None else backend
    if name == "numba" and soft_numba.can_fuse(vertices) and not (cameras.c2w.requires_grad or cameras.K.requires_grad):
        parts, drawn = soft_numba.surface(vertices, faces, cameras)
        return Surface(*parts, drawn=drawn)
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
    # The winner's is not 0 in float64; here a sliver seen edge-on can be, and must not give NaN.
    tiny = torch.finfo(vertices.dtype).tiny
    inverse = 1 / torch.where(determinant.abs() > tiny, determinant, torch.full_like(determinant, torch.inf))
    u, v, t = _dot(from_a, p) * inverse, _dot(d, q) * inverse, _dot(second, q) * inverse
    along = (directions.view(*ids.shape, 3) * cameras.c2w[:, None, None, :3, 2].to(vertices)).sum(-1)
    axial = torch.full_like(along, torch.inf).view(-1).index_copy(0, pixel, t.detach()[:, 0] * along.view(-1)[pixel])
    return Surface(ids, pixel, corners, torch.cat([1 - u - v, u, v], dim=1), t, axial.view(ids.shape))


def antialias(picture: Tensor, surface: Surface, vertices: Tensor, faces: Tensor, edges: Edges, cameras: Cameras) -> Tensor:
    """The picture with its silhouettes blended over the pixels that they cut, differentiable in the vertices.

    Args:
        picture: ``(B, H, W, C)`` of this ``surface``; what has to follow the coverage (colour times coverage, coverage, ...)
            must be 0 where there is no surface.
        vertices, faces, cameras: what the surface was made from. edges: of these faces, :func:`edges_of`.
    """
    if surface.drawn is not None and soft_numba.can_fuse(picture, vertices):
        mesh = (faces, edges.ends, edges.faces)
        return soft_numba.Antialias.apply(picture, vertices, surface.axial, mesh, surface.drawn.scan)  # pyright: ignore
    return antialias_torch(picture, surface, vertices, faces, edges, cameras)


def draw(values: Tensor, surface: Surface, vertices: Tensor, faces: Tensor, edges: Edges, cameras: Cameras) -> Tensor:
    """``antialias(surface.picture(values), ...)``, the points' ``values (N, C)``; compiled, it copies less."""
    if surface.drawn is not None and soft_numba.can_fuse(values, vertices):
        mesh = (faces, edges.ends, edges.faces)
        return soft_numba.Draw.apply(values, vertices, surface.pixel, surface.axial, mesh, surface.drawn)  # pyright: ignore
    return antialias(surface.picture(values), surface, vertices, faces, edges, cameras)


def antialias_torch(
    picture: Tensor, surface: Surface, vertices: Tensor, faces: Tensor, edges: Edges, cameras: Cameras
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
    """Where edges cut the line between two neighbouring pixels' centres."""

    near: Tensor  # (M,) int64 the pixel on the surface's side
    far: Tensor  # (M,) int64 the other one
    share: Tensor  # (M,) how far from the near one's centre to the far one's, in [0, 1]; differentiable
    depth: Tensor  # (M,) z of the edge there

    def moved(self, offset: int) -> _Crossings:
        return _Crossings(self.near + offset, self.far + offset, self.share, self.depth)


def _silhouette(local: Tensor, faces: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
    """Edges ``(S, 2)`` of the outlines in camera space ``local (V, 3)``, and which way ``(S,)`` their first face turns in the
    picture (+1 or -1). Faces that reach behind the camera have none."""
    a, b, c = (local.index_select(0, faces[:, k]) for k in range(3))
    turn = _dot(a, torch.linalg.cross(b, c))[:, 0].sign()
    in_front = local[:, 2] > NEAR
    first, second = edges.faces.unbind(1)
    outline = (second < 0) | (turn[first] != turn[second.clamp(min=0)])
    chosen = torch.nonzero(outline & in_front[edges.ends].all(1) & (turn[first] != 0)).flatten()
    return edges.ends[chosen], turn[first[chosen]]


def _crossings(points: Tensor, nearness: Tensor, sign: Tensor, axis: int, size: tuple[int, int]) -> _Crossings:
    """The crossings of S edges with the lines through pixel centres along ``axis`` (0: rows, 1: columns) of one view.

    ``points (S, 2, 2)`` are the ends in pixels, ``nearness (S, 2)`` their 1 / z, ``sign (S,)`` as from :func:`_silhouette`.
    """
    along, across = points[:, :, axis], points[:, :, 1 - axis]
    lowest, highest = across.detach().amin(1), across.detach().amax(1)
    # Lines at k + 1/2 in [lowest, highest): two edges that share an end on a line are counted once.
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
    # In a picture whose y runs down, a face of positive turn lies left of an edge that goes up, and below one that goes right.
    heading = (across[:, 1] - across[:, 0]).detach()[edge] * sign[edge]
    surface_left = heading > 0 if axis == 0 else heading < 0
    share = torch.where(surface_left, place - left, 1 - (place - left))
    strides = (1, size[0]) if axis == 0 else (size[0], 1)
    lower = left.long() * strides[0] + line * strides[1]
    upper = lower + strides[0]
    near, far = torch.where(surface_left, lower, upper), torch.where(surface_left, upper, lower)
    return _Crossings(near, far, share, depth)


def _seen(crossings: _Crossings, ids: Tensor, axial: Tensor) -> _Crossings:
    """The crossings that the picture shows, one for each pair of pixels: the one that reaches furthest."""
    near, far, share = crossings.near, crossings.far, crossings.share
    shown = torch.nonzero((ids[near] >= 0) & (axial[far] > crossings.depth)).flatten()
    order = shown[torch.argsort(share.detach()[shown], stable=True)]
    key = near[order] * 4 + (far[order] > near[order]) * 2  # rows and columns never come together
    key, again = torch.sort(key, stable=True)
    last = torch.ones_like(key, dtype=torch.bool)
    last[:-1] = key[1:] != key[:-1]
    kept = order[again[last]]
    return _Crossings(near[kept], far[kept], share[kept], crossings.depth[kept])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar products ``(N, 1)`` of ``a, b (N, 3)``."""
    return (a * b) @ a.new_ones(3, 1)
