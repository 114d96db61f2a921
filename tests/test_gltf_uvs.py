"""Texture coordinates and transforms of glTF files: hand-worked numbers, and the extension's own examples."""

from pathlib import Path

import numpy as np
import pytest
from gltf_helpers import document, glb, picture

from dreamlift.reading.gltf import read_gltf

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
SQUARE_UVS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)  # upright: v grows downwards
TRANSFORM = "KHR_texture_transform"


def square(sets, texture, kind=5126, second=None):
    """A GLB of a square with some TEXCOORD_n, whose base colours' textureInfo is ``texture``."""
    image = picture()
    coords = [np.asarray(uvs, {5126: "<f4", 5123: "<u2"}[kind]).tobytes() for uvs in sets]
    doc, binary = document(SQUARE, np.array([0, 1, 2, 0, 2, 3], np.uint16), b"".join(coords) + image)
    start = 60
    for number, data in enumerate([*coords, image]):
        doc["bufferViews"].append({"buffer": 0, "byteOffset": start, "byteLength": len(data)})
        start += len(data)
        if data is not image:
            view = {"bufferView": 2 + number, "componentType": kind, "count": 4, "type": "VEC2"}
            doc["accessors"].append(view | ({} if kind == 5126 else {"normalized": True}))
            doc["meshes"][0]["primitives"][0]["attributes"][f"TEXCOORD_{number}"] = 2 + number
    doc |= {"images": [{"bufferView": 2 + len(sets), "mimeType": "image/png"}], "textures": [{"source": 0}]}
    doc["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, **texture}}}]
    if second is not None:
        doc["materials"][0]["pbrMetallicRoughness"]["metallicRoughnessTexture"] = {"index": 0, **second}
    doc["meshes"][0]["primitives"][0]["material"] = 0
    doc["extensionsRequired"] = doc["extensionsUsed"] = [TRANSFORM]
    return glb(doc, binary)


OTHER = np.full((4, 2), 0.25)
TURNED = {"offset": [0, 1], "rotation": 1.57079632679, "scale": [0.5, 0.5]}
LAID = {
    "the second set": ([OTHER, SQUARE_UVS * 0.5], {"texCoord": 1}, SQUARE_UVS * 0.5),
    "the extension's set": ([SQUARE_UVS * 0.5, OTHER], {"texCoord": 1, "extensions": {TRANSFORM: {"texCoord": 0}}},
                            SQUARE_UVS * 0.5),
    # The examples of the extension's text. The lower left quadrant, turned clockwise by 90 degrees: at the square's lower left
    # is the quadrant's lower right, and so on, around.
    "turned": ([SQUARE_UVS], {"extensions": {TRANSFORM: TURNED}}, [[0.5, 1], [0.5, 0.5], [0, 0.5], [0, 1]]),
    "upside down": ([SQUARE_UVS], {"extensions": {TRANSFORM: {"offset": [0, 1], "scale": [1, -1]}}},
                    [[0, 0], [1, 0], [1, 1], [0, 1]]),
    "another set, moved": ([OTHER, SQUARE_UVS], {"texCoord": 1, "extensions": {TRANSFORM: {"scale": [0.25, 0.5]}}},
                           SQUARE_UVS * [0.25, 0.5]),
    "whole numbers": ([SQUARE_UVS * 65535], {}, SQUARE_UVS),
}  # fmt: skip


@pytest.mark.parametrize("name", LAID)
def test_a_texture_lies_where_its_coordinates_and_transform_say(name):
    sets, texture, expected = LAID[name]
    data = square(sets, texture, 5123 if name == "whole numbers" else 5126)
    (part,), _ = read_gltf(data, ".glb", Path("nowhere"))
    np.testing.assert_allclose(part.vertices, SQUARE)
    np.testing.assert_allclose(part.uvs, expected, atol=1e-5)
    assert part.image is not None


def test_what_cannot_be_laid_on_as_it_says_is_told():
    (part,), notes = read_gltf(square([SQUARE_UVS, OTHER], {}, second={"texCoord": 1}), ".glb", Path("nowhere"))
    assert part.surface is not None
    assert notes == ["the metallic and roughness of material 0 get the texture coordinates of its colours"]
    for transform in ([1], {"offset": 3}, {"scale": [1, "x"]}, {"rotation": 1e9}, {"texCoord": -1}, {"texCoord": True}):
        data = square([SQUARE_UVS], {"extensions": {TRANSFORM: transform}})
        with pytest.raises(ValueError, match=r"(KHR_texture_transform|texCoord) of the baseColorTexture of material 0"):
            read_gltf(data, ".glb", Path("nowhere"))
