"""Tangent space of a textured mesh: the frame in which a normal map is baked, stored and read.

    dp = T du + B dv on each face;   at a vertex T = sum of the faces' T, made normal to N;   B = sigma N x T

These are MikkTSpace's rules (Mikkelsen 2008, "Simulation of Wrinkled Surfaces Revisited", section 3,
http://www.mikktspace.com): a face is weighted by the angle of its corner, tangents are projected onto the vertex's plane
before they are summed, and interpolated vectors are not normalised. MikkTSpace also splits vertices where mirrored charts
meet; the vertices of an unwrapped mesh are already split at every chart's border. glTF's v runs down the picture and its B
runs up it (green is +y in its normal maps), so B is opposite to v, and sigma is +1 where the chart is not mirrored.
"""

from __future__ import annotations

import numpy as np

from dreamlift.types import Mesh


def vertex_tangents(mesh: Mesh) -> np.ndarray:
    """Tangents ``(V, 4)`` float32 as glTF stores them: a unit vector normal to the vertex normal, and sigma (1 or -1).

    Raises:
        ValueError: the mesh has no UVs or no vertex normals.
    """
    if mesh.uvs is None or mesh.vertex_normals is None:
        raise ValueError("tangents need uvs and vertex_normals: call dreamlift.texturing.unwrap.unwrap first")
    normals = mesh.vertex_normals.astype(np.float64)
    along, mirrored = _face_tangents(mesh)
    corners = mesh.vertices.astype(np.float64)[mesh.faces]  # (F, 3, 3)
    own = normals[mesh.faces]
    flat = along[:, None] - (along[:, None] * own).sum(axis=-1, keepdims=True) * own
    weighted = _unit(flat) * _corner_angles(corners)[..., None]
    count = len(mesh.vertices)
    sums = np.stack([np.bincount(mesh.faces.ravel(), weighted[..., axis].ravel(), minlength=count) for axis in range(3)], 1)
    sums -= (sums * normals).sum(axis=1, keepdims=True) * normals
    # Without area in UV space the direction within the plane is arbitrary.
    lost = np.linalg.norm(sums, axis=1) < 1e-9
    sums[lost] = np.cross(normals[lost], np.where(np.abs(normals[lost, 1:2]) < 0.9, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]))
    votes = np.bincount(mesh.faces.ravel(), np.repeat(np.where(mirrored, -1.0, 1.0), 3), minlength=count)
    return np.concatenate([_unit(sums), np.where(votes < 0, -1.0, 1.0)[:, None]], axis=1).astype(np.float32)


def _face_tangents(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """The unit direction of growing u on each face ``(F, 3)``, 0 where the face has no area in UV space, and whether the chart
    is mirrored ``(F,)``."""
    assert mesh.uvs is not None
    points, uvs = mesh.vertices.astype(np.float64)[mesh.faces], mesh.uvs.astype(np.float64)[mesh.faces]
    edge1, edge2 = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    uv1, uv2 = uvs[:, 1] - uvs[:, 0], uvs[:, 2] - uvs[:, 0]
    area = uv1[:, 0] * uv2[:, 1] - uv1[:, 1] * uv2[:, 0]  # negative where not mirrored, since v runs down
    along = np.sign(area)[:, None] * (edge1 * uv2[:, 1:2] - edge2 * uv1[:, 1:2])
    return _unit(along), area > 0


def _corner_angles(corners: np.ndarray) -> np.ndarray:
    """Angles ``(F, 3)`` of triangles ``(F, 3, 3)``, radians."""
    ahead, behind = np.roll(corners, -1, axis=1) - corners, np.roll(corners, 1, axis=1) - corners
    return np.arccos(np.clip((_unit(ahead) * _unit(behind)).sum(axis=-1), -1.0, 1.0))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 along the last axis; 0 stays 0."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(lengths > 1e-30, vectors / np.maximum(lengths, 1e-30), 0.0)
