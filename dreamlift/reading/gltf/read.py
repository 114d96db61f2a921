"""glTF 2.0 files (.glb and .gltf) into parts; the files are untrusted.

Only what the scene shows is read, and what is read is checked and counted before memory is allocated for it. Animations,
cameras, lights, normal maps, emission and transparency are left out, each with a note.
Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from dreamlift.reading.gltf.accessors import Arrays
from dreamlift.reading.gltf.checks import entries, entry, numbers
from dreamlift.reading.gltf.container import opened
from dreamlift.reading.gltf.materials import Look, Materials
from dreamlift.reading.gltf.nodes import Place, Tree
from dreamlift.reading.gltf.notes import Notes, note_document
from dreamlift.reading.gltf.pictures import Pictures
from dreamlift.reading.gltf.shapes import Outline, Shape, attribute, moved, outlines, read_shape, skinned
from dreamlift.reading.gltf.sources import Sources
from dreamlift.reading.gltf.uvs import home
from dreamlift.reading.part import Contents, Part

FACES, VERTICES = 4_000_000, 12_000_000  # largest numbers over all instances; the merged mesh is decimated
PARTS = 20_000  # largest number of parts over all instances


def read_gltf(data: bytes, kind: str, folder: Path) -> Contents:
    """The parts of a glTF file in its own coordinates, one for each instance of a primitive, and what was not taken over.

    Args:
        kind: ".glb" or ".gltf".
        folder: the file's folder; only files in it or below, which the document names, are opened.

    Raises:
        ValueError: the file is malformed or too large, or its shape cannot be read; one line states why.
    """
    document, binary = opened(data, kind)
    arrays, notes = Arrays(document, binary, Sources(folder)), Notes()
    with np.errstate(over="ignore", invalid="ignore"):  # coordinates that are not finite are refused later
        places = Tree(arrays).places()
        meshes = {
            number: outlines(entry(document, "meshes", number, "a mesh"), f"of mesh {number}", arrays, notes)
            for number in dict.fromkeys(place.mesh for place in places)
        }
        _check_counts(places, meshes, notes)
        parts = _Parts(arrays, notes).read(places, meshes)
    note_document(document, set(meshes), notes)
    return Contents(parts, notes.done())


def _check_counts(places: list[Place], meshes: dict[int, list[Outline]], notes: Notes) -> None:
    faces = vertices = parts = 0
    for place in places:
        for outline in meshes[place.mesh]:
            faces += outline.faces * len(place.transforms)
            vertices += outline.vertices * len(place.transforms)
            parts += len(place.transforms)
    if faces == 0:
        others = " and ".join(notes.nouns)  # so far only primitives of other kinds
        raise ValueError("it has no faces" + (f", only {others}" if others else ""))
    if faces > FACES or vertices > VERTICES:
        raise ValueError(
            f"it has {faces:,} faces and {vertices:,} vertices; accepted: at most {FACES:,} and {VERTICES:,} "
            "(decimate it first)"
        )
    if parts > PARTS:
        raise ValueError(f"it has {parts:,} parts; accepted: at most {PARTS:,}: merge them")


class _Parts:
    """Makes the parts; what instances share is read once."""

    def __init__(self, arrays: Arrays, notes: Notes) -> None:
        self.arrays, self.notes = arrays, notes
        self.materials = Materials(Pictures(arrays), notes)

    def read(self, places: list[Place], meshes: dict[int, list[Outline]]) -> list[Part]:
        shapes: dict[tuple[int, tuple[float, ...]], list[tuple[Shape, Part]]] = {}
        parts = []
        for place in places:
            key = (place.mesh, place.weights or self._weights(place.mesh))
            if key not in shapes:
                found = [read_shape(outline, key[1], self.arrays) for outline in meshes[place.mesh]]
                shapes[key] = [(x, self._dressed(x, outline)) for x, outline in zip(found, meshes[place.mesh], strict=True)]
            for (shape, part), outline in zip(shapes[key], meshes[place.mesh], strict=True):
                if place.joints is not None and "JOINTS_0" in outline.primitive["attributes"]:
                    parts.append(_put(part, skinned(shape, outline, place.joints, self.arrays)))
                else:
                    parts += [_put(part, moved(shape, to[:3, :3], to[:3, 3])) for to in place.transforms]
        return parts

    def _weights(self, mesh: int) -> tuple[float, ...]:
        """The weights of a mesh's morph targets at rest."""
        stated = entries(entry(self.arrays.document, "meshes", mesh, "a mesh"), "weights")
        return tuple(numbers(stated, f"the weights of mesh {mesh}", len(stated)))

    def _dressed(self, shape: Shape, outline: Outline) -> Part:
        """A part with the appearance of a shape."""
        primitive, name = outline.primitive, outline.name
        look = self.materials.look(primitive["material"], name) if "material" in primitive else Look()
        if entries(primitive, "targets"):
            self.notes.left_out("morph targets")
        uvs = self._uvs(shape, outline, look)
        if uvs is None and (look.image is not None or look.surface is not None):
            self.notes.add(f"a part has no coordinates for the textures of {look.name}, which it lacks")
            look = look.without_textures()
        image, shades = self.materials.appearance(look, self._colors(shape, outline, look))
        if shades is not None:
            shades = np.broadcast_to(shades, shape.vertices.shape)
        return Part(
            shape.vertices, shape.faces, shape.normals, uvs, image, shades, look.surface, look.metallic, look.roughness,
            look.double_sided,
        )  # fmt: skip

    def _uvs(self, shape: Shape, outline: Outline, look: Look) -> np.ndarray | None:
        key = f"TEXCOORD_{look.laid.texcoord}"
        found = attribute(outline.primitive, key, ("VEC2",), outline.name, self.arrays, outline.positions.count)
        if found is None:
            return None
        uvs = look.laid.apply(found.reals(shape.rows))
        if not np.isfinite(uvs).all():
            self.notes.add(f"the texture coordinates {outline.name} are not finite numbers and are left out")
            return None
        if not look.repeats and (uvs.min() < -0.01 or uvs.max() > 1.01):
            self.notes.add(f"the texture of {look.name} is repeated beyond its edges, not clamped or mirrored")
        return home(uvs)

    def _colors(self, shape: Shape, outline: Outline, look: Look) -> np.ndarray | None:
        """The colours (V, 3) of the vertices, in linear light, in [0, 1]."""
        types = ("VEC3", "VEC4")
        found = attribute(outline.primitive, "COLOR_0", types, outline.name, self.arrays, outline.positions.count)
        if found is None:
            return None
        values = np.clip(np.nan_to_num(found.reals(shape.rows, normalized=True), nan=1.0), 0.0, 1.0)
        if not look.opaque and values.shape[1] == 4 and values[:, 3].min() < 1:
            self.notes.left_out("transparency")
        return values[:, :3]


def _put(part: Part, shape: Shape) -> Part:
    """A part with another shape."""
    return dataclasses.replace(part, vertices=shape.vertices, faces=shape.faces, normals=shape.normals)
