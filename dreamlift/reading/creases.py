"""Normals for a mesh that has none: smooth, but for edges where the surface turns sharply."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from dreamlift.meshing.geometry import area_vectors
from dreamlift.types import Mesh

CROWD = 64  # faces around one point; where there are more, all of them are averaged, so that time stays linear


def welded(vertices: np.ndarray) -> np.ndarray:
    """The number of each vertex's place, ``(V,)`` int64: vertices ``(V, 3)`` at exactly one place have one number."""
    return np.unique(vertices, axis=0, return_inverse=True)[1].reshape(-1)


def with_creases(mesh: Mesh, angle_deg: float = 40.0) -> Mesh:
    """The mesh with vertex normals; a vertex is doubled where its faces meet at more than ``angle_deg``.

    A corner's normal is the area-weighted mean of the faces at its place that lie within the angle of its own face (as
    modelling programs' "auto smooth"). Faces keep their order; UVs and colours go with their vertices.
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
    # All pairs of corners at one place, the first of each pair as often as there are corners.
    one = np.repeat(quiet, counts[place[quiet]])
    step = np.arange(len(one)) - np.repeat(np.cumsum(counts[place[quiet]]) - counts[place[quiet]], counts[place[quiet]])
    other = order[first[place[one]] + step]
    near = np.einsum("ni,ni->n", unit[owner[one]], unit[owner[other]]) > math.cos(math.radians(angle_deg))
    one, other = one[near], other[near]
    for axis in range(3):
        sums[quiet, axis] = np.bincount(one, vectors[owner[other], axis], minlength=len(place))[quiet]
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    normals = np.where(length > 1e-20, sums / np.maximum(length, 1e-20), unit[owner])
    # One vertex for the corners of one old vertex (or place, where nothing else lies in vertices) that share a normal.
    plain = mesh.uvs is None and mesh.vertex_colors is None
    keys = np.concatenate([(place if plain else faces.ravel())[:, None], np.round(normals * 1e4)], axis=1).astype(np.int64)
    _, chosen, renamed = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    old = faces.ravel()[chosen]
    uvs, shades = (None if x is None else x[old] for x in (mesh.uvs, mesh.vertex_colors))
    return dataclasses.replace(
        mesh, vertices=mesh.vertices[old], faces=renamed.reshape(-1, 3).astype(np.int32), uvs=uvs, vertex_colors=shades,
        vertex_normals=normals[chosen].astype(np.float32),
    )  # fmt: skip
