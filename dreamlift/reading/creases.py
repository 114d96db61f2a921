"""Vertex normals for a mesh that has none: smooth, except across sharp edges."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from dreamlift.meshing.geometry import area_vectors, row_numbers
from dreamlift.types import Mesh

CROWD = 64  # where more corners meet at one position, all their faces are averaged, so that time stays linear


def welded(vertices: np.ndarray) -> np.ndarray:
    """The number of each vertex's position, ``(V,)`` int64: ``vertices (V, 3)`` at exactly the same position share it."""
    return row_numbers(vertices)


def with_creases(mesh: Mesh, angle_deg: float = 40.0) -> Mesh:
    """The mesh with vertex normals; a vertex is duplicated where its faces meet at more than ``angle_deg``.

    A corner's normal is the area-weighted mean of the faces at its position that lie within the angle of its own face (the
    "auto smooth" of modelling programs). Faces keep their order; UVs and colours are copied with their vertices.
    """
    faces, vectors = mesh.faces, area_vectors(mesh.vertices, mesh.faces)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    place = welded(mesh.vertices)[faces].ravel()
    owner = np.repeat(np.arange(len(faces)), 3)  # the face of each corner
    order = np.argsort(place, kind="stable")
    counts = np.bincount(place)
    first = np.cumsum(counts) - counts
    sums = np.stack([np.bincount(place, vectors[owner, axis]) for axis in range(3)], axis=1)[place]
    quiet = np.nonzero(counts[place] <= CROWD)[0]
    # All ordered pairs of corners at the same position.
    one = np.repeat(quiet, counts[place[quiet]])
    step = np.arange(len(one)) - np.repeat(np.cumsum(counts[place[quiet]]) - counts[place[quiet]], counts[place[quiet]])
    other = order[first[place[one]] + step]
    near = np.einsum("ni,ni->n", unit[owner[one]], unit[owner[other]]) > math.cos(math.radians(angle_deg))
    one, other = one[near], other[near]
    for axis in range(3):
        sums[quiet, axis] = np.bincount(one, vectors[owner[other], axis], minlength=len(place))[quiet]
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    normals = np.where(length > 1e-20, sums / np.maximum(length, 1e-20), unit[owner])
    # One new vertex for the corners of one old vertex that share a normal; without UVs and colours, those of one position.
    plain = mesh.uvs is None and mesh.vertex_colors is None
    keys = np.concatenate([(place if plain else faces.ravel())[:, None], np.round(normals * 1e4)], axis=1).astype(np.int64)
    _, chosen, renamed = np.unique(row_numbers(keys), return_index=True, return_inverse=True)
    old = faces.ravel()[chosen]
    uvs, shades = (None if x is None else x[old] for x in (mesh.uvs, mesh.vertex_colors))
    return dataclasses.replace(
        mesh, vertices=mesh.vertices[old], faces=renamed.reshape(-1, 3).astype(np.int32), uvs=uvs, vertex_colors=shades,
        vertex_normals=normals[chosen].astype(np.float32),
    )  # fmt: skip
