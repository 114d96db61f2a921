"""Regularisers and normals of triangle meshes: pure functions, differentiable in the vertices ``(V, 3)``."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlift.scenes.tetmesh import regularizers_numba
from dreamlift.shading.vectors import dot, safe_normalize
from dreamlift.system import jit


def area_vectors(vertices: Tensor, faces: Tensor) -> Tensor:
    """Face normals ``(F, 3)``, scaled by twice the face areas."""
    a, b, c = (vertices.index_select(0, faces[:, k]) for k in range(3))
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals ``(V, 3)``: the area-weighted mean of the normals of the faces at each vertex; 0 without faces."""
    vectors = area_vectors(vertices, faces)
    sums = torch.zeros_like(vertices)
    for k in range(3):
        sums = sums.index_add(0, faces[:, k], vectors)
    return safe_normalize(sums, eps=1e-20)


def normal_consistency(vertices: Tensor, faces: Tensor, sides: Tensor) -> Tensor:
    """Mean of ``1 - cos`` of the angle between the normals of faces that share an edge: 0 for a plane.

    As PyTorch3D's ``mesh_normal_consistency``, and a term of ProlificDreamer's geometry stage (Wang et al. 2023,
    https://arxiv.org/abs/2305.16213), except for slivers, which marching tetrahedra produces: their normals have unbounded
    derivatives. The weight of an edge decreases linearly when its smaller face is below a tenth of the mean area.

    Args:
        sides: ``(E, 2)`` the two faces of each edge; -1 on a border. Border edges are ignored.
    """
    if jit.usable(vertices):
        return _Fused.apply(vertices, regularizers_numba.consistency, faces, sides)  # pyright: ignore[reportReturnType]
    return normal_consistency_torch(vertices, faces, sides)


def normal_consistency_torch(vertices: Tensor, faces: Tensor, sides: Tensor) -> Tensor:
    """:func:`normal_consistency` in torch, on any device."""
    inner = sides[sides[:, 1] >= 0]
    vectors = area_vectors(vertices, faces)
    normals = safe_normalize(vectors, eps=1e-20)
    cosines = dot(normals.index_select(0, inner[:, 0]), normals.index_select(0, inner[:, 1]))[:, 0]
    areas = vectors.detach().norm(dim=1)
    weights = (areas[inner].amin(1) / (0.1 * areas.mean()).clamp(min=1e-20)).clamp(max=1.0)
    return (weights * (1 - cosines)).sum() / weights.sum().clamp(min=1e-6)


def vertex_consistency(vertices: Tensor, faces: Tensor, ends: Tensor) -> Tensor:
    """Mean over edges of ``1 - cos`` of the angle between the normals of its two vertices: threestudio's normal consistency.

    A smoother term than :func:`normal_consistency`, since a vertex normal is the mean of the normals around it.

    Args:
        ends: ``(E, 2)`` the two vertices of each edge.
    """
    normals = vertex_normals(vertices, faces)
    cosines = dot(normals.index_select(0, ends[:, 0]), normals.index_select(0, ends[:, 1]))
    return (1 - cosines).mean()


def laplacian(vertices: Tensor, ends: Tensor) -> Tensor:
    """Mean over the vertices i of ``|sum_j (v_j - v_i)|`` over their neighbours j, in world units.

    As threestudio's ``laplacian_smoothness``, with the unnormalised (combinatorial) Laplacian of Nealen et al. 2006,
    "Laplacian Mesh Optimization", https://doi.org/10.1145/1174429.1174494. Divided by a vertex's number of neighbours, about
    6, it would be the distance from their mean.

    Args:
        ends: ``(E, 2)`` the two vertices of each edge.
    """
    if jit.usable(vertices):
        return _Fused.apply(vertices, regularizers_numba.smoothness, ends)  # pyright: ignore[reportReturnType]
    return laplacian_torch(vertices, ends)


def laplacian_torch(vertices: Tensor, ends: Tensor) -> Tensor:
    """:func:`laplacian` in torch, on any device."""
    first, second = ends.unbind(1)
    sums = torch.zeros_like(vertices).index_add(0, first, vertices.index_select(0, second))
    sums = sums.index_add(0, second, vertices.index_select(0, first))
    degree = torch.bincount(ends.flatten(), minlength=len(vertices))[:, None]
    away = sums - degree * vertices
    return (dot(away, away) + 1e-20).sqrt().sum() / max(len(vertices), 1)


class _Fused(torch.autograd.Function):
    """A kernel of :mod:`dreamlift.scenes.tetmesh.regularizers_numba` as a number (), differentiable in the vertices."""

    @staticmethod
    def forward(ctx, vertices: Tensor, kernel, *topology: Tensor):
        grad = torch.zeros_like(vertices)
        value = kernel(jit.array(vertices), *map(jit.array, topology), grad.numpy())
        ctx.save_for_backward(grad)
        return vertices.new_tensor(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        (own,) = ctx.saved_tensors
        return (grad * own, *(None for _ in ctx.needs_input_grad[1:]))
