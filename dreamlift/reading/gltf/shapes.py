"""Primitives (glTF 2.0, section 3.7.2): triangles, strips and fans as vertices and faces, moved to where they stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dreamlift.reading.gltf.accessors import INDEX_KINDS, KINDS, Accessor, Arrays
from dreamlift.reading.gltf.checks import entries, extension, record
from dreamlift.reading.gltf.notes import Notes

DRACO = "KHR_draco_mesh_compression"
TRIANGLES, STRIP, FAN = 4, 5, 6
OTHERS = {0: "points", 1: "lines", 2: "lines", 3: "lines"}
INFLUENCES = 8  # sets of four joints of a vertex
MORPHED = 20_000_000  # largest number of vertices times targets that are added
BLOCK = 1 << 16  # vertices whose joints are blended at a time
NEXT, LAST = [1, 2, 0], [2, 0, 1]  # the axes after x, y, z, and those before
INDEX_TYPES = tuple(np.dtype(KINDS[number]) for number in INDEX_KINDS)


class Outline(NamedTuple):
    """A primitive whose arrays have been found and counted, but not read."""

    primitive: dict[str, Any]
    name: str  # for errors: "of mesh 0"
    positions: Accessor
    indices: Accessor | None  # None: 0, 1, 2 ...
    mode: int

    @property
    def faces(self) -> int:
        corners = self.positions.count if self.indices is None else self.indices.count
        return corners // 3 if self.mode == TRIANGLES else max(0, corners - 2)

    @property
    def vertices(self) -> int:
        """The largest number of vertices that the faces can use."""
        return min(self.positions.count, 3 * self.faces)


@dataclass(frozen=True)
class Shape:
    """A primitive in the coordinates of its mesh, with the vertices that its faces use."""

    rows: np.ndarray  # (V,) the vertices' numbers in the file
    vertices: np.ndarray  # (V, 3) float64
    faces: np.ndarray  # (F, 3)
    normals: np.ndarray | None  # (V, 3), of any length


def outlines(mesh: dict[str, Any], name: str, arrays: Arrays, notes: Notes) -> list[Outline]:
    """The primitives of a mesh that have faces; the others are noted. Raises ValueError where one is malformed."""
    found = []
    for primitive in entries(mesh, "primitives"):
        if not isinstance(primitive, dict):
            raise ValueError(f"the primitives {name} must be objects")
        mode = primitive.get("mode", TRIANGLES)
        if isinstance(mode, int) and mode in OTHERS:
            notes.left_out(OTHERS[mode])
            continue
        if mode not in (TRIANGLES, STRIP, FAN):
            raise ValueError(f"a part {name} is not made of triangles (mode {str(mode)[:20]}): triangulate it")
        if "POSITION" not in record(primitive, "attributes", f"a part {name}"):
            raise ValueError(f"a part {name} has no POSITION")
        try:
            outline = _outline(primitive, int(mode), name, arrays)
        except ValueError as error:
            packed = extension(primitive, DRACO) is not None
            raise ValueError(f"{error}: it is compressed by {DRACO}, export it without" if packed else str(error)) from None
        if outline.faces:
            found.append(outline)
    return found


def _outline(primitive: dict[str, Any], mode: int, name: str, arrays: Arrays) -> Outline:
    positions = attribute(primitive, "POSITION", ("VEC3",), name, arrays)
    assert positions is not None  # the caller has seen it
    indices = None
    if "indices" in primitive:
        indices = arrays.accessor(primitive["indices"], f"the indices {name}")
        if indices.type != "SCALAR" or indices.kind not in INDEX_TYPES:
            raise ValueError(f"the indices {name} have the wrong type")
    corners = positions.count if indices is None else indices.count
    if mode == TRIANGLES and corners % 3:
        raise ValueError(f"the number of indices {name} is {corners}, which is not a multiple of 3")
    return Outline(primitive, name, positions, indices, mode)


def attribute(
    primitive: dict[str, Any], key: str, types: tuple[str, ...], name: str, arrays: Arrays, count: int | None = None
) -> Accessor | None:
    """An attribute of a primitive or of a morph target, with ``count`` rows. Raises ValueError for another type or count."""
    given = record(primitive, "attributes", f"a part {name}")
    if key not in given:
        return None
    found = arrays.accessor(given[key], f"the {key} {name}")
    if found.type not in types:
        raise ValueError(f"the {key} {name} has the wrong type")
    if count is not None and found.count != count:
        raise ValueError(f"the attributes {name} differ in their counts")
    return found


def read_shape(outline: Outline, weights: tuple[float, ...], arrays: Arrays) -> Shape:
    """The vertices, faces and normals of a primitive, with the morph targets of which ``weights`` are not zero."""
    count = outline.positions.count
    if outline.indices is None:
        corners = np.arange(count)
    else:
        corners = outline.indices.rows(np.arange(outline.indices.count))[:, 0].astype(np.int64)
    if corners.max() >= count:
        raise ValueError(f"the faces {outline.name} name vertices up to {corners.max()}, but it has {count}")
    rows, faces = _compact(triangles(corners, outline.mode), count)
    vertices = outline.positions.reals(rows)
    normals = attribute(outline.primitive, "NORMAL", ("VEC3",), outline.name, arrays, count)
    directions = None if normals is None else normals.reals(rows)
    targets = entries(outline.primitive, "targets")
    moved = [(weight, target) for weight, target in zip(weights, targets, strict=False) if weight]
    if len(moved) * len(rows) > MORPHED:
        raise ValueError(f"the morph targets {outline.name} move too many vertices: apply them")
    for weight, target in moved:
        added = attribute({"attributes": target}, "POSITION", ("VEC3",), outline.name, arrays, count)
        turned = attribute({"attributes": target}, "NORMAL", ("VEC3",), outline.name, arrays, count)
        vertices = vertices if added is None else vertices + weight * added.reals(rows)
        directions = directions if turned is None or directions is None else directions + weight * turned.reals(rows)
    return Shape(rows, vertices, faces, directions)


def _compact(faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of ``count`` that faces (F, 3) use, ascending, and the faces that name them by their places."""
    if count > 2 * faces.size:  # few of a large array: sorting is cheaper than a table of all
        rows, places = np.unique(faces, return_inverse=True)
        return rows, places.reshape(-1, 3)
    used = np.zeros(count, bool)
    used[faces] = True
    return np.flatnonzero(used), (np.cumsum(used) - 1)[faces]


def triangles(corners: np.ndarray, mode: int) -> np.ndarray:
    """The faces (F, 3) of corners (N,) in a list, a strip or a fan of triangles."""
    if mode == TRIANGLES:
        return corners.reshape(-1, 3)
    first = np.arange(len(corners) - 2)
    if mode == FAN:
        return corners[np.stack([first + 1, first + 2, np.zeros_like(first)], axis=1)]
    odd = first % 2  # every other triangle of a strip runs the other way round
    return corners[np.stack([first, first + 1 + odd, first + 2 - odd], axis=1)]


def moved(shape: Shape, linear: np.ndarray, offset: np.ndarray) -> Shape:
    """A shape under ``x -> linear x + offset``, (3, 3) and (3,); a reflection reverses its faces, and normals become unit."""
    vertices, normals, sign = _turned(shape.vertices, shape.normals, linear, offset)
    return _finished(shape, vertices, normals, sign < 0)


def _turned(
    vertices: np.ndarray, normals: np.ndarray | None, linear: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Vertices and normals, each (V, 3), under one transform, or under one each: (V, 3, 3) and (V, 3).

    Returns:
        The vertices; the normals, of any length; the sum of the signs of the determinants.
    """
    # Normals transform by the inverse transpose. The matrix of cofactors, whose rows are cross products of the rows of
    # ``linear``, is proportional to it and exists for every transform.
    second, third = linear[..., NEXT, :], linear[..., LAST, :]
    cofactors = second[..., NEXT] * third[..., LAST] - second[..., LAST] * third[..., NEXT]
    signs = np.sign((cofactors[..., 0, :] * linear[..., 0, :]).sum(axis=-1))
    turned = None if normals is None else _applied(cofactors, normals)
    return _applied(linear, vertices) + offset, turned, float(signs.sum())


def _finished(shape: Shape, vertices: np.ndarray, normals: np.ndarray | None, reflected: bool) -> Shape:
    if normals is not None:
        lengths = np.sqrt((normals * normals).sum(axis=1, keepdims=True)) * (-1.0 if reflected else 1.0)
        normals = normals / lengths if np.isfinite(lengths).all() and (np.abs(lengths) > 1e-20).all() else None
    return Shape(shape.rows, vertices, shape.faces[:, ::-1] if reflected else shape.faces, normals)


def _applied(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """One matrix (3, 3) for all vectors (V, 3), or one each (V, 3, 3)."""
    return vectors @ matrices.T if matrices.ndim == 2 else np.einsum("vij,vj->vi", matrices, vectors)


def skinned(shape: Shape, outline: Outline, joints: np.ndarray, arrays: Arrays) -> Shape:
    """A shape in the rest pose of its skin, whose matrices are ``joints`` (J, 4, 4)."""
    count, name = outline.positions.count, outline.name
    sets = []
    for number in range(INFLUENCES):
        which = attribute(outline.primitive, f"JOINTS_{number}", ("VEC4",), name, arrays, count)
        share = attribute(outline.primitive, f"WEIGHTS_{number}", ("VEC4",), name, arrays, count)
        if which is None or share is None:
            break
        sets.append((which.rows(shape.rows), share.reals(shape.rows, normalized=True)))
    if not sets:
        raise ValueError(f"a part {name} has a skin, but no joints and weights")
    shares = np.concatenate([share for _, share in sets], axis=1)
    shares[~(shares.sum(axis=1) > 1e-6), 0] = 1.0  # vertices that no joint moves follow their first one, as in viewers
    total = shares.sum(axis=1, keepdims=True)
    which = np.concatenate([which for which, _ in sets], axis=1).astype(np.int64)
    if not np.isfinite(total).all() or ((which < 0) | (which >= len(joints)))[shares != 0].any():
        raise ValueError(f"the joints or weights {name} are not those of its skin, which has {len(joints)} joints")
    which, shares = np.clip(which, 0, len(joints) - 1), shares / total
    vertices = np.empty_like(shape.vertices)
    normals = None if shape.normals is None else np.empty_like(shape.normals)
    signs = 0.0
    for start in range(0, len(vertices), BLOCK):
        at = slice(start, start + BLOCK)
        blended = np.zeros((len(vertices[at]), 3, 4))
        for share, joint in zip(shares[at].T, which[at].T, strict=True):
            blended += share[:, None, None] * joints[joint, :3]
        old = None if shape.normals is None else shape.normals[at]
        vertices[at], new, sign = _turned(shape.vertices[at], old, blended[..., :3], blended[..., 3])
        if normals is not None:
            normals[at] = new
        signs += sign
    return _finished(shape, vertices, normals, signs < 0)
