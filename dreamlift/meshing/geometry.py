"""Measures of triangle meshes: areas, normals, signed volume, closedness, connected parts. NumPy only.

The signed volume is the divergence theorem on triangles, V = sum_f v0 . (v1 x v2) / 6 (Zhang and Chen 2001, "Efficient
Feature Extraction for 2D/3D Objects in Mesh Representation", equation 5, https://doi.org/10.1109/ICIP.2001.958278).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dreamlift.types import Mesh


class EmptySceneError(ValueError):
    """There is no surface to export: the field is empty, or the threshold lies above all of it."""


def area_vectors(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals of the faces times their areas, ``(F, 3)`` float64, for ``vertices (V, 3)`` and ``faces (F, 3)``."""
    corners = vertices.astype(np.float64)[faces]
    return 0.5 * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def face_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Areas ``(F,)`` float64, in squared world units."""
    return np.linalg.norm(area_vectors(vertices, faces), axis=1)


def face_volumes(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Signed volumes ``(F,)`` of the tetrahedra from the mesh's centre to each face; their sum is the mesh's volume."""
    # From the centre, not the origin: the cancellation of large terms would eat the digits of a mesh far away.
    corners = (vertices.astype(np.float64) - vertices.astype(np.float64).mean(axis=0))[faces]
    return np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6.0


def signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Volume inside a closed mesh, cubic world units; positive if the faces are counter-clockwise from outside."""
    return float(face_volumes(vertices, faces).sum()) if len(faces) else 0.0


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals ``(V, 3)`` float32: the area-weighted mean of the faces around each vertex.

    A vertex without a face, or whose faces cancel, gets +y: glTF allows no normal of another length.
    """
    vectors = area_vectors(vertices, faces)
    sums = np.stack(
        [np.bincount(faces.ravel(), np.repeat(vectors[:, axis], 3), minlength=len(vertices)) for axis in range(3)],
        axis=1,
    )
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    unit = np.where(lengths > 1e-20, sums / np.maximum(lengths, 1e-20), [0.0, 1.0, 0.0])
    return unit.astype(np.float32)


def edge_counts(faces: np.ndarray) -> np.ndarray:
    """How many faces use each undirected edge, ``(E,)``. All 2 means closed and manifold along its edges."""
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1).astype(np.int64)
    keys = edges[:, 0] * (int(faces.max()) + 1) + edges[:, 1]
    return np.unique(keys, return_counts=True)[1]


def is_closed(faces: np.ndarray) -> bool:
    """True if every directed edge has exactly one partner that runs the other way (closed and evenly wound)."""
    if len(faces) == 0:
        return False
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    base = int(faces.max()) + 1
    forward, backward = np.sort(edges[:, 0] * base + edges[:, 1]), np.sort(edges[:, 1] * base + edges[:, 0])
    return bool((forward[1:] != forward[:-1]).all() and (forward == backward).all())


def face_components(faces: np.ndarray, count: int) -> np.ndarray:
    """The connected part of each face, ``(F,)`` int64 numbered from 0; faces that share a vertex are connected.

    ``count`` is the number of vertices. Labels spread as minima and jump to their label's label, so the number of
    passes grows with the logarithm of the mesh's width (Shiloach and Vishkin 1982, "An O(log n) Parallel Connectivity
    Algorithm", https://doi.org/10.1016/0196-6774(82)90008-6). SciPy, which has this, is not a dependency.
    """
    label = np.arange(count, dtype=np.int64)
    while True:
        lowest = label[faces].min(axis=1)
        spread = label.copy()
        # Hook the root of every corner, not only the corner: whole trees merge in one pass.
        np.minimum.at(spread, label[faces].ravel(), np.repeat(lowest, 3))
        while ((jumped := spread[spread]) != spread).any():
            spread = jumped
        if (spread == label).all():
            return np.unique(label[faces[:, 0]], return_inverse=True)[1]
        label = spread


def compact(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices that a face uses, the faces renumbered for them, and their old indices ``(V',)``."""
    used, renumbered = np.unique(faces, return_inverse=True)
    return vertices[used], renumbered.reshape(-1, 3).astype(np.int32), used


def with_normals(mesh: Mesh) -> Mesh:
    """The mesh, with smooth vertex normals if it had none."""
    if mesh.vertex_normals is not None:
        return mesh
    return replace(mesh, vertex_normals=vertex_normals(mesh.vertices, mesh.faces))


def check_mesh(mesh: Mesh) -> None:
    """Refuse a mesh that no file should hold.

    Raises:
        EmptySceneError: the mesh has no faces.
        ValueError: a wrong shape, a value that is not finite or out of range, an index out of range, or a texture without UVs.
    """
    if mesh.vertices.ndim != 2 or mesh.vertices.shape[1] != 3 or mesh.faces.ndim != 2 or mesh.faces.shape[1] != 3:
        raise ValueError(f"a mesh needs vertices (V, 3) and faces (F, 3), not {mesh.vertices.shape} and {mesh.faces.shape}")
    if len(mesh.faces) == 0:
        raise EmptySceneError("the mesh has no faces: nothing to export (lower the threshold, or train longer)")
    count = len(mesh.vertices)
    if mesh.faces.min() < 0 or mesh.faces.max() >= count:
        raise ValueError(f"face indices must lie in 0..{count - 1}, not {mesh.faces.min()}..{mesh.faces.max()}")
    for name, columns in (("vertices", 3), ("uvs", 2), ("vertex_colors", 3), ("vertex_normals", 3)):
        values = getattr(mesh, name)
        if values is None:
            continue
        if values.shape != (count, columns):
            raise ValueError(f"{name} must have shape ({count}, {columns}), not {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite (NaN or infinity)")
    for name in ("base_color", "metallic_roughness", "normal_map"):
        picture = getattr(mesh, name)
        if picture is None:
            continue
        if mesh.uvs is None:
            raise ValueError(f"a mesh with a texture ({name}) needs uvs: call meshing.texture.unwrap first")
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(f"{name} must be (T, T, 3) uint8, not {picture.shape} {picture.dtype}")
    for name in ("metallic", "roughness"):
        if not 0.0 <= getattr(mesh, name) <= 1.0:
            raise ValueError(f"{name} is {getattr(mesh, name):g}; accepted: 0 to 1")
