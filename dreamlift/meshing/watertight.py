"""Closing a mesh: its holes are filled or, where that fails, it is rebuilt as the surface of a solid.

The solid is the indicator function chi (1 inside, 0 outside) whose gradient is the surface's inward normals,

    laplace chi = div V,    V = -n delta(surface),    so in Fourier space    chi = -i (k . V) / |k|^2

(Kazhdan 2005, "Reconstruction of Solid Models from Oriented Point Sets", section 4,
https://doi.org/10.2312/SGP/SGP05/073-082; in the limit of a closed surface chi is its winding number). This closes holes of
any shape and handles overlapping parts and sheets, but loses detail below the grid's cell size.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dreamlift.meshing.geometry import area_vectors, compact, face_components, face_volumes, is_closed
from dreamlift.meshing.isosurface import isosurface
from dreamlift.meshing.nearest import cover
from dreamlift.meshing.pinches import part_copies, split_pinches, without_copies
from dreamlift.types import Mesh

SMALL_HOLE = 0.1  # extent of the holes that are filled by default, as a share of the mesh's longest side
FLATTEST = 1e-4  # a solid's volume is at least this times its area to the power 3/2 (a sphere has 0.094)
LEAST_FLAT = 0.8  # least norm of the sum of a fan's area vectors, as a share of its area: 1 is flat
MARGIN = 0.125  # empty space around the solid, as a share of its longest side, since the Fourier series is periodic


def weld(mesh: Mesh) -> Mesh:
    """The geometry with one vertex per position, without degenerate and duplicate triangles.

    Where two sheets touch along an edge, each keeps its own vertices: an edge of four faces is not a hole.

    Raises:
        EmptySceneError: no triangle is left.
    """
    vertices, faces = _welded(mesh)
    return Mesh(vertices.astype(np.float32), faces, metallic=mesh.metallic, roughness=mesh.roughness,
                double_sided=mesh.double_sided)  # fmt: skip


def _welded(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of :func:`weld`; there may be none."""
    places, renamed = np.unique(mesh.vertices + np.float32(0), axis=0, return_inverse=True)
    faces = renamed.reshape(-1)[mesh.faces].astype(np.int32)
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = faces[whole]
    vertices, faces, _ = compact(places, without_copies(places, faces))
    return split_pinches(vertices, faces)


def is_watertight(mesh: Mesh) -> bool:
    """Whether the surface is closed once vertices at the same position are merged (a texture's seams duplicate them)."""
    return is_closed(_welded(mesh)[1])


def fill_holes(mesh: Mesh, largest: float = SMALL_HOLE) -> Mesh:
    """The mesh with a fan of triangles in each hole whose extent is at most ``largest`` times the mesh's longest side.

    Where holes are filled, only geometry is kept. Weld a mesh with UVs first: its seams are not holes.
    """
    vertices, faces = split_pinches(mesh.vertices, mesh.faces)
    limit = largest * float(np.ptp(vertices, axis=0).max())
    extra_points, extra_faces = [], []
    count = len(vertices)
    for loop in boundary_loops(faces):
        around = vertices[loop]
        if float(np.ptp(around, axis=0).max()) > limit:
            continue
        if len(loop) == 3:
            extra_faces.append(loop[[0, 2, 1]][None])
            continue
        extra_points.append(around.mean(axis=0))
        center = np.full(len(loop), count + len(extra_points) - 1)
        extra_faces.append(np.stack([np.roll(loop, -1), loop, center], axis=1))
    if not extra_faces:
        return mesh
    vertices = np.concatenate([vertices, np.reshape(extra_points, (-1, 3))]).astype(np.float32)
    faces = np.concatenate([faces, *extra_faces]).astype(np.int32)
    vertices = part_copies(vertices, faces)
    return Mesh(vertices, faces, metallic=mesh.metallic, roughness=mesh.roughness)


def boundary_loops(faces: np.ndarray) -> list[np.ndarray]:
    """The closed chains of vertices along edges of a single face, each in that face's direction."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    base = int(faces.max()) + 1
    alone = ~np.isin(edges[:, 0] * base + edges[:, 1], edges[:, 1] * base + edges[:, 0])
    following: dict[int, int] = {}
    for a, b in edges[alone].tolist():
        following[a] = b
    loops = []
    while following:
        start, vertex = next(iter(following.items()))
        del following[start]
        loop = [start]
        while vertex != start and vertex in following:
            loop.append(vertex)
            vertex = following.pop(vertex)
        if vertex == start and len(loop) >= 3:
            loops.append(np.array(loop))
    return loops


def make_watertight(mesh: Mesh, resolution: int = 128) -> Mesh:
    """A closed mesh of the same surface; only geometry is kept. Each edge has two faces even after vertices at the same
    position are merged.

    If filling every hole gives valid solids, the rest of the surface is unchanged. Otherwise it is rebuilt by
    :func:`remesh` on a grid of ``resolution`` points along the longest side.

    Raises:
        EmptySceneError, ValueError: the mesh has no area, or bounds no solid.
    """
    welded = weld(mesh)
    if is_closed(welded.faces):
        return replace(welded, vertices=part_copies(welded.vertices, welded.faces))
    filled = fill_holes(welded, largest=np.inf)
    return filled if _is_solid(filled, len(welded.faces)) else remesh(welded, resolution)


def _is_solid(mesh: Mesh, before: int) -> bool:
    """Whether a filled mesh is valid: closed, its new faces (from number ``before`` on) not folded, every part with a volume.

    The fan of a ragged hole folds over itself. A loose patch in a hole is closed by a fan of its own and encloses nothing.
    """
    if not is_closed(mesh.faces):
        return False
    vectors = area_vectors(mesh.vertices, mesh.faces)
    areas = np.linalg.norm(vectors, axis=1)
    part = face_components(mesh.faces, len(mesh.vertices))
    volume = np.bincount(part, face_volumes(mesh.vertices, mesh.faces))
    if (volume < FLATTEST * np.bincount(part, areas) ** 1.5).any():
        return False
    center = mesh.faces[before:].max(axis=1)  # the fan of a face: its centre is the newest vertex
    flat = np.linalg.norm([np.bincount(center, vectors[before:, axis]) for axis in range(3)], axis=0)
    return bool((flat >= LEAST_FLAT * np.bincount(center, areas[before:])).all())


def remesh(mesh: Mesh, resolution: int = 128) -> Mesh:
    """The surface of the solid whose indicator function best matches the triangles; only geometry is kept.

    Raises:
        ValueError: the mesh bounds no solid.
    """
    low, high = mesh.vertices.min(axis=0).astype(np.float64), mesh.vertices.max(axis=0).astype(np.float64)
    size = float((high - low).max())
    cell = size / (resolution - 1)
    origin = low - MARGIN * size
    shape = tuple(int(n) for n in np.ceil((high - low + 2 * MARGIN * size) / cell).astype(int) + 1)
    corners = torch.from_numpy((mesh.vertices.astype(np.float64) - origin)[mesh.faces] / cell).float()
    points, owner = cover(corners, 0.5)  # in cells
    vectors = torch.from_numpy(area_vectors(mesh.vertices, mesh.faces) / cell**2).float()
    share = vectors[owner] / torch.bincount(owner)[owner][:, None]
    chi = _indicator(_splat(points, -share, shape))
    outside = float(torch.cat([chi[0].flatten(), chi[-1].flatten(), chi[:, 0].flatten(), chi[:, -1].flatten()]).mean())
    level = float(_gather(chi, points).mean()) - outside  # half of chi's step, which is 1 for a solid
    if level < 0:  # the mesh is inside out
        chi, level, outside = -chi, -level, -outside
    if level < 0.15:
        raise ValueError("the mesh bounds no solid, so it cannot be made watertight (do its faces look in all directions?)")
    chi = chi - outside
    top = origin + cell * (np.array(shape) - 1)
    vertices, faces = isosurface(chi, level, tuple(origin.tolist()), tuple(top.tolist()))
    return replace(Mesh(vertices.numpy(), faces.numpy().astype(np.int32)), metallic=mesh.metallic, roughness=mesh.roughness)


def _indicator(field: Tensor) -> Tensor:
    """chi ``(X, Y, Z)`` up to a constant, from V ``(3, X, Y, Z)``; smoothed by a Gaussian of one cell."""
    shape = field.shape[1:]
    k = torch.meshgrid(
        *(2 * torch.pi * torch.fft.fftfreq(n) for n in shape[:2]), 2 * torch.pi * torch.fft.rfftfreq(shape[2]), indexing="ij"
    )
    square = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    total = torch.zeros(square.shape, dtype=torch.complex64)
    for axis in range(3):
        total += k[axis] * torch.fft.rfftn(field[axis])
    square[0, 0, 0] = 1.0
    return torch.fft.irfftn(-1j * total / square * torch.exp(-0.5 * square), s=shape)


def _splat(points: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``values (N, 3)`` distributed over the 8 grid points around each of ``points (N, 3)``: ``(3, X, Y, Z)``."""
    out = torch.zeros(3, shape[0] * shape[1] * shape[2])
    for index, weight in _corners(points, shape):
        for axis in range(3):
            out[axis].index_add_(0, index, values[:, axis] * weight)
    return out.view(3, *shape)


def _gather(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear values ``(N,)`` of a grid ``(X, Y, Z)`` at ``points (N, 3)`` in cells."""
    flat = grid.flatten()
    return sum((flat[index] * weight for index, weight in _corners(points, tuple(grid.shape))), torch.zeros(len(points)))


def _corners(points: Tensor, shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """The flat indices and trilinear weights of the 8 grid points around each point."""
    base = points.floor().long()
    fraction = points - base
    found = []
    for x, y, z in ((x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)):
        weight = torch.ones(len(points))
        for axis, bit in enumerate((x, y, z)):
            weight = weight * (fraction[:, axis] if bit else 1 - fraction[:, axis])
        found.append((((base[:, 0] + x) * shape[1] + base[:, 1] + y) * shape[2] + base[:, 2] + z, weight))
    return found
