"""glTF files as people's programs write them: a box of 1 x 2 x 3 with sides of known colours, in every form that is accepted.

Each case changes one valid document. What is read is compared with the box itself: its bounds, its volume (positive: seen from
outside), the colour at the centre of each side, and the notes on what is not taken over.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from gltf_helpers import SIX, Box, bounds, encoded, picture, side_colors, six_colors, volume
from PIL import Image

from dreamlift.color import linear_to_srgb, srgb_to_linear
from dreamlift.reading.gltf import read_gltf
from dreamlift.reading.mesh import load_mesh, placed
from dreamlift.reading.parse import parse

HALF = np.array([0.5, 1.0, 1.5])
LINEAR = srgb_to_linear(np.array(SIX) / 255.0)
RED = ((255, 0, 0),) * 6
UNSAID = ((255, 255, 255),) * 6  # no picture, no colours: side_colors() shows what multiplies nothing
KTX2 = b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(60)
TURNED = {"rotation": [-(0.5**0.5), 0, 0, 0.5**0.5], "scale": [0.01] * 3}


def texture(box, **entries):
    box.doc["textures"][0] = entries


def plain(box):
    """Without UVs, picture and material."""
    del box.part["attributes"]["TEXCOORD_0"], box.part["material"]


def side_shades(box):
    return LINEAR[box.side]


def split_by_side(box, part):
    """One primitive a side, each made by ``part(side)``, a dict that is merged in."""
    each = [box.add(box.corners[6 * side : 6 * side + 6]) for side in range(6)]
    box.doc["meshes"][0]["primitives"] = [{**box.part, "indices": each[side], **part(side)} for side in range(6)]


def six_materials(box):
    box.doc["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [*color, 1.0]}} for color in LINEAR.tolist()]
    split_by_side(box, lambda side: {"material": side, "attributes": {"POSITION": 0, "NORMAL": 1}})


def mixed(box):
    """Two sides by the picture, two by factors, two by vertex colours."""
    box.doc["materials"] += [{"pbrMetallicRoughness": {"baseColorFactor": [*color, 1.0]}} for color in LINEAR.tolist()]
    colors = box.add(np.round(side_shades(box) * 255).astype(np.uint8), normalized=True)
    forms = [{}, {"attributes": {"POSITION": 0, "NORMAL": 1}}, {"attributes": {"POSITION": 0, "COLOR_0": colors}}]

    def part(side):
        form = dict(forms[side // 2])
        return form if side < 2 else form | {"material": side + 1} if side < 4 else form | {"material": None}

    split_by_side(box, part)
    for entry in box.doc["meshes"][0]["primitives"][4:]:
        del entry["material"]


def vertex_colors(box, kind=np.float64):
    plain(box)
    shades = side_shades(box)
    if kind is not np.float64:
        shades = np.round(np.column_stack([shades, np.ones(24)]) * np.iinfo(kind).max).astype(kind)
    box.set("COLOR_0", shades, **({} if kind is np.float64 else {"normalized": True}))


def colors_on_white(box):
    box.replace_image(picture(4, 4, (255, 255, 255)))
    box.set("COLOR_0", side_shades(box))


def white_on_factor(box):
    plain(box)
    box.part["material"] = 0
    box.doc["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 1]}}]
    box.set("COLOR_0", np.ones((24, 4)))


def quantized(box):
    """As gltfpack writes it: 14 bits in 16, normals in bytes, UVs in normalised 16 bits, a scale and shift in the node."""
    step = 3.0 / 16383
    whole = np.round((box.points + 1.5) / step).astype(np.uint16)
    padded = np.column_stack([whole, np.zeros(24, np.uint16)])
    box.set("POSITION", padded)
    box.doc["accessors"][-1] |= {"type": "VEC3"}
    box.doc["bufferViews"][-1]["byteStride"] = 8
    box.set("NORMAL", np.column_stack([np.round(box.normals * 127), np.zeros(24)]).astype(np.int8), normalized=True)
    box.doc["accessors"][-1] |= {"type": "VEC3"}
    box.doc["bufferViews"][-1]["byteStride"] = 4
    box.set("TEXCOORD_0", np.round(box.uvs * 65535).astype(np.uint16), normalized=True)
    box.node |= {"scale": [step] * 3, "translation": [-1.5] * 3}
    box.doc["extensionsRequired"] = ["KHR_mesh_quantization"]


def skinned(box):
    """A joint of its own turns and shrinks the box; the node's own transform does not count."""
    box.set("JOINTS_0", np.zeros((24, 4), np.uint8))
    box.set("WEIGHTS_0", np.tile([1.0, 0, 0, 0], (24, 1)))
    box.doc["skins"] = [{"joints": [1], "inverseBindMatrices": box.add(np.eye(4)[None])}]
    box.doc["nodes"] = [{"mesh": 0, "skin": 0, "translation": [9, 9, 9]}, TURNED]
    box.doc["scenes"][0]["nodes"] = [0, 1]


def sparse(box, positions):
    """The first two of 24 points are replaced: of ``positions``, or of an array of zeros (None)."""
    entries = {"count": 2, "indices": {"bufferView": box.view(struct.pack("<2H", 0, 1)), "componentType": 5123},
               "values": {"bufferView": box.view(box.points[:2].astype("<f4").tobytes())}}  # fmt: skip
    if positions is None:
        return box.doc["accessors"].append({"componentType": 5126, "count": 24, "type": "VEC3", "sparse": entries})
    box.set("POSITION", positions, sparse=entries)


def sparse_positions(box):
    wrong = box.points.copy()
    wrong[:2] = 77
    sparse(box, wrong)


def morphed_only_when_posed(box):
    sparse(box, None)
    box.part["targets"] = [{"POSITION": len(box.doc["accessors"]) - 1}]
    box.doc["meshes"][0]["weights"] = [0]


def morphed_at_rest(box):
    """A target that makes the box 1 longer in x, at a weight of 0.5; the node's weight replaces the mesh's."""
    box.part["targets"] = [{"POSITION": box.add(np.sign(box.points) * [0.5, 0, 0])}]
    box.doc["meshes"][0]["weights"] = [0.0]
    box.node["weights"] = [0.5]


def interleaved(box):
    rows = np.column_stack([box.points, box.normals, box.uvs]).astype("<f4")
    view = box.view(rows.tobytes(), byteStride=32)
    for name, offset, kind in (("POSITION", 0, "VEC3"), ("NORMAL", 12, "VEC3"), ("TEXCOORD_0", 24, "VEC2")):
        entry = {"bufferView": view, "byteOffset": offset, "componentType": 5126, "count": 24, "type": kind}
        box.doc["accessors"].append(entry)
        box.part["attributes"][name] = len(box.doc["accessors"]) - 1


def strips(box):
    corners = [box.add(np.array([1, 2, 0, 3], np.uint16) + 4 * side) for side in range(6)]
    split_by_side(box, lambda side: {"mode": 5, "indices": corners[side]})


def fans(box):
    corners = [box.add(np.arange(4, dtype=np.uint8) + 4 * np.uint8(side)) for side in range(6)]
    split_by_side(box, lambda side: {"mode": 6, "indices": corners[side]})


def without_indices(box):
    box.doc["materials"][0]["doubleSided"] = False
    for name, rows in (("POSITION", box.points), ("NORMAL", box.normals), ("TEXCOORD_0", box.uvs)):
        box.set(name, rows[box.corners])
    del box.part["indices"]


def lines_too(box):
    box.doc["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 1})


def glossy(box):
    box.material.pop("pbrMetallicRoughness")
    box.material["extensions"] = {"KHR_materials_pbrSpecularGlossiness": {
        "diffuseTexture": {"index": 0}, "specularFactor": [0.1] * 3, "glossinessFactor": 0.3}}  # fmt: skip


def extra_vertex(box, uv):
    box.set("POSITION", np.vstack([box.points, [[0, 0, 0]]]))
    box.set("NORMAL", np.vstack([box.normals, [[0, 1, 0]]]))
    box.set("TEXCOORD_0", np.vstack([box.uvs, uv]))


def degenerate(box):
    extra_vertex(box, [[0, 0]])
    box.part["indices"] = box.add(np.append(box.corners, [24, 24, 24, 0, 0, 1]).astype(np.uint16))


def two_sets(box):
    box.set("TEXCOORD_1", box.uvs)
    box.set("TEXCOORD_0", np.full((24, 2), 0.9))
    box.pbr["baseColorTexture"]["texCoord"] = 1


def transformed(box):
    box.set("TEXCOORD_0", (box.uvs - [0.1, 0.1]) / [0.5, 0.25])
    box.pbr["baseColorTexture"]["extensions"] = {"KHR_texture_transform": {"scale": [0.5, 0.25], "offset": [0.1, 0.1]}}


def instances(box):
    box.node["extensions"] = {
        "EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": box.add(np.array([[0.0, 0, 0], [5, 0, 0]]))}}
    }


def jpeg(box, **options):
    box.replace_image(encoded(six_colors(16).resize((96, 16)), "JPEG", quality=95, **options), "image/png")


def cmyk(box):
    box.replace_image(encoded(six_colors(16).convert("CMYK"), "JPEG", quality=98), "image/jpeg")


def grey16(box):
    grey = np.repeat(np.arange(6, dtype=np.uint16)[None] * 13107, 4, axis=1).repeat(4, axis=0)
    box.replace_image(encoded(Image.fromarray(grey)))


def draco_with_fallback(box):
    view = box.view(b"\1" * 55)
    box.part["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": view, "attributes": {"POSITION": 0}}}
    box.doc["extensionsUsed"] = ["KHR_draco_mesh_compression"]


def camera_and_light(box):
    box.doc |= {"cameras": [{"type": "perspective"}], "animations": [{}, {}],
                "extensions": {"KHR_lights_punctual": {"lights": [{"type": "point"}]}},
                "nodes": [{"camera": 0, "translation": [0, 0, 9]}, {"mesh": 0}]}  # fmt: skip
    box.doc["scenes"][0]["nodes"] = [0, 1]


def second_scene(box):
    box.doc["nodes"].append({"mesh": 0, "translation": [9, 0, 0]})
    box.doc["scenes"].append({"nodes": [1]})
    del box.doc["scene"]


def masked(box):
    box.replace_image(encoded(Image.merge("RGBA", [*six_colors().split(), Image.new("L", (24, 4), 0)])))
    box.material |= {"alphaMode": "MASK", "doubleSided": True}


def ktx2(box):
    return box.image(KTX2, "image/ktx2")


NESTED = [{"children": [1], "scale": [2, -3, 0.5], "rotation": [0, 0.5**0.5, 0, 0.5**0.5]}, {"mesh": 0, "scale": [1, 1, -1]}]
GREYS = [tuple([round(51 * i)] * 3) for i in range(6)]
# name -> (what is changed, what differs from the box: colors, half (the sizes / 2), at (the middle), notes, more)
CASES = {
    "plain": (lambda box: None, {}),
    "six materials": (six_materials, {}),
    "mixed parts": (mixed, {}),
    "vertex colours, bytes": (lambda box: vertex_colors(box, np.uint8), {}),
    "vertex colours, 16 bits": (lambda box: vertex_colors(box, np.uint16), {}),
    "vertex colours, floats": (vertex_colors, {}),
    "vertex colours on a white picture": (colors_on_white, {}),
    "white vertex colours on a red factor": (white_on_factor, {"colors": RED}),
    "a picture and a factor": (lambda box: box.pbr.update(baseColorFactor=[1, 0, 0, 1]),
                               {"colors": [(color[0], 0, 0) for color in SIX]}),
    "quantized": (quantized, {"within": 2e-4}),
    "basisu only, unreadable": (
        lambda box: texture(box, extensions={"KHR_texture_basisu": {"source": ktx2(box)}}),
        {"colors": UNSAID, "notes": ["the picture of image 1 is KTX2, which is not read"]}),
    "basisu and a fallback": (
        lambda box: texture(box, source=0, extensions={"KHR_texture_basisu": {"source": ktx2(box)}}), {}),
    "a fallback that is unreadable": (
        lambda box: texture(box, source=ktx2(box), extensions={"EXT_texture_webp": {"source": 0}}), {}),
    "webp": (lambda box: (box.replace_image(encoded(six_colors(), "WEBP", lossless=True)),
                          texture(box, extensions={"EXT_texture_webp": {"source": 0}})), {}),
    "bmp": (lambda box: box.replace_image(encoded(six_colors(), "BMP")), {}),
    "tga by an extension": (
        lambda box: texture(box, extensions={"X": {"source": box.image(encoded(six_colors(), "TGA"))}}), {}),
    "negative scale": (lambda box: box.node.update(scale=[-1, 1, 1]), {"colors": (SIX[1], SIX[0], *SIX[2:])}),
    "negative scales, nested": (
        lambda box: box.doc.update(nodes=NESTED),
        {"half": [0.75, 3, 1], "colors": [SIX[i] for i in (5, 4, 3, 2, 1, 0)]}),
    "skinned, turned by its joint": (
        skinned, {"half": HALF[[0, 2, 1]] / 100, "colors": [SIX[i] for i in (0, 1, 4, 5, 3, 2)]}),
    "a skin without joints and weights": (
        lambda box: (box.doc.update(skins=[{"joints": [0]}]), box.node.update(skin=0, translation=[1, 2, 3])),
        {"at": [1, 2, 3]}),
    "far from the origin": (lambda box: box.node.update(translation=[500000.0, 4649776.0, 300.0]),
                            {"at": [500000.0, 4649776.0, 300.0]}),
    "degenerate faces": (degenerate, {}),
    "NaN UVs of an unused vertex": (lambda box: extra_vertex(box, [[np.nan, np.nan]]), {}),
    "NaN UVs": (lambda box: box.set("TEXCOORD_0", box.uvs * [np.nan, 1]),
                {"colors": UNSAID, "notes": ["the texture coordinates of mesh 0 are not finite numbers and are left out",
                                             "a part has no coordinates for the textures of material 0, which it lacks"]}),
    "sparse positions": (sparse_positions, {}),
    "a sparse morph target": (morphed_only_when_posed, {"notes": ["its morph targets are left out"]}),
    "a morph target at rest": (morphed_at_rest, {"half": [0.75, 1, 1.5], "notes": ["its morph targets are left out"]}),
    "interleaved": (interleaved, {}),
    "a stride of zero": (lambda box: box.doc["bufferViews"][1].update(byteStride=0), {}),
    "strips": (strips, {}),
    "fans": (fans, {}),
    "no indices": (without_indices, {}),
    "lines beside triangles": (lines_too, {"notes": ["its lines are left out"]}),
    "specular and glossiness": (glossy, {"notes": ["its specular colours are left out"], "roughness": 0.7}),
    "instances": (instances, {"half": [3, 1, 1.5], "at": [2.5, 0, 0], "volume": 12,
                              "colors": (*SIX[:2], *[(-1, -1, -1)] * 4)}),
    "UVs in bytes": (lambda box: box.set("TEXCOORD_0", np.round(box.uvs * 255).astype(np.uint8), normalized=True), {}),
    "UVs further by whole numbers": (lambda box: box.set("TEXCOORD_0", box.uvs + np.array([3, -2])), {"uvs": (0, 1)}),
    "the second UVs": (two_sets, {}),
    "a texture transform": (transformed, {}),
    "jpeg called png": (jpeg, {"within_color": 8}),
    "cmyk": (cmyk, {"within_color": 8}),
    "palette": (lambda box: box.replace_image(encoded(six_colors().quantize(8))), {}),
    "rgba": (lambda box: box.replace_image(encoded(six_colors().convert("RGBA"))), {}),
    "16 bits of grey": (grey16, {"colors": GREYS}),
    "an unused picture is unreadable": (ktx2, {}),
    "an emissive picture is unreadable": (
        lambda box: (box.doc["textures"].append({"source": ktx2(box)}), box.material.update(emissiveTexture={"index": 1})),
        {"notes": ["its emission is left out"]}),
    "a picture cut off": (lambda box: box.replace_image(encoded(six_colors())[:50]),
                          {"colors": UNSAID, "notes": ["the picture of image 0 is no readable picture"]}),
    "unlit": (lambda box: box.material.update(extensions={"KHR_materials_unlit": {}}), {}),
    "a mask": (masked, {"notes": ["its transparency is left out"], "double_sided": True}),
    "extensions that do not touch the shape": (
        lambda box: box.doc.update(extensionsRequired=["KHR_animation_pointer", "EXT_structural_metadata"]),
        {"notes": ["the extensions KHR_animation_pointer, EXT_structural_metadata are not read"]}),
    "a second scene": (second_scene, {"notes": ["its 1 other scene is left out"]}),
    "no scene": (lambda box: (box.doc.pop("scene"), box.doc.pop("scenes")), {}),
    "draco with a fallback": (draco_with_fallback, {}),
    "bare": (lambda box: (plain(box), box.part["attributes"].pop("NORMAL")), {"colors": UNSAID}),
    "normals of length 0": (lambda box: box.set("NORMAL", box.normals * 0), {"normals": None}),
    "a mesh without primitives": (lambda box: box.doc["meshes"].append({"primitives": []}), {}),
    "an unused mesh": (lambda box: box.doc["meshes"].append({"primitives": [{"mode": 4}]}),
                       {"notes": ["its 1 unused mesh is left out"]}),
    "a matrix": (lambda box: box.node.update(matrix=np.eye(4).ravel().tolist()), {}),
    "camera, light, animations": (camera_and_light, {"notes": ["its 2 animations, 1 camera and 1 light are left out"]}),
    "double-sided": (lambda box: box.material.update(doubleSided=True), {"double_sided": True}),
    "mirrored beyond its edges": (
        lambda box: (box.doc["samplers"].append({"wrapS": 33648}), texture(box, source=0, sampler=0),
                     box.set("TEXCOORD_0", box.uvs * [3, 1])),
        {"colors": None, "notes": ["the texture of material 0 is repeated beyond its edges, not clamped or mirrored"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_box_is_read_as_its_maker_meant_it(name):
    change, right = CASES[name]
    box = Box()
    change(box)
    parts, notes = read_gltf(box.glb(), ".glb", Path("nowhere"))
    middle, half = np.array(right.get("at", [0, 0, 0])), np.array(right.get("half", HALF))
    np.testing.assert_allclose(bounds(parts), [middle - half, middle + half], atol=right.get("within", 1e-6))
    assert volume(parts) == pytest.approx(right.get("volume", np.prod(2 * half)), rel=1e-3)
    colors = right.get("colors", SIX)
    if colors is not None:
        assert np.abs(np.array(side_colors(parts)) - colors).max() <= right.get("within_color", 1)
    assert notes == right.get("notes", [])
    assert parts[0].double_sided is right.get("double_sided", False)
    if "roughness" in right:
        assert (parts[0].metallic, parts[0].roughness) == (0.0, pytest.approx(right["roughness"]))
    if "uvs" in right:
        assert parts[0].uvs.min() >= right["uvs"][0]
        assert parts[0].uvs.max() <= right["uvs"][1]
    normals = [part.normals for part in parts]
    if "normals" in right or "NORMAL" not in box.part["attributes"]:
        assert normals == [None] * len(parts)
    elif all(x is not None for x in normals):
        for part in parts:
            corners = part.vertices[part.faces]
            across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            assert ((part.normals[part.faces[:, 0]] * across).sum(axis=1) >= 0).all()
            np.testing.assert_allclose(np.linalg.norm(part.normals, axis=1), 1, atol=1e-6)


def test_the_same_boxes_as_meshes(tmp_path):
    """Merged and placed; one of them through the door, with its note in one line."""
    for name, (change, right) in CASES.items():
        box = Box()
        change(box)
        part, notes = parse(box.glb(), ".glb", tmp_path)
        assert set(right.get("notes", [])) <= set(notes), name
        mesh, origin = placed(part, "y")
        home = origin.restored(mesh)
        size = right.get("half", HALF)
        np.testing.assert_allclose(np.ptp(home.vertices, axis=0), 2 * np.array(size), atol=1e-3 if "at" not in right else 0.5)
    said: list[str] = []
    (tmp_path / "a.glb").write_bytes(box.glb())
    load_mesh(tmp_path / "a.glb", note=said.append)
    assert said == ["a.glb: the texture of material 0 is repeated beyond its edges, not clamped or mirrored"]


def test_vertex_colours_beside_a_picture_multiply_it_in_linear_light():
    box = Box()
    box.set("COLOR_0", np.tile([0.5, 0.5, 0.5], (24, 1)) * np.linspace(1, 0.9, 24)[:, None])
    box.pbr["baseColorFactor"] = [0.5, 1, 1, 1]
    (part,), _ = read_gltf(box.glb(), ".glb", Path("nowhere"))
    assert part.image is not None
    np.testing.assert_allclose(part.shades[0], linear_to_srgb(np.array([0.5] * 3)), atol=1e-6)
    seen = side_colors([part])
    expected = linear_to_srgb(LINEAR[0] * [0.5, 1, 1] * 0.5 * np.linspace(1, 0.9, 24)[:4].mean()) * 255
    assert np.abs(np.array(seen[0]) - expected).max() <= 2
    # Vertex colours that are all the same are in the picture.
    box.set("COLOR_0", np.tile([0.5, 0.5, 0.5], (24, 1)))
    (part,), _ = read_gltf(box.glb(), ".glb", Path("nowhere"))
    assert part.shades is None
    assert np.abs(np.array(side_colors([part])[0]) - linear_to_srgb(np.array([0.25, 0, 0])) * 255).max() <= 1


def test_a_skin_blends_its_joints_and_turns_the_normals():
    """Vertices of weights 3/4 and 1/4 between a joint that stands still and one that moves and turns, by hand."""
    box = Box()
    box.set("JOINTS_0", np.tile(np.array([1, 0, 0, 0], np.uint8), (24, 1)))
    box.set("WEIGHTS_0", np.tile(np.array([64, 191, 0, 0], np.uint8), (24, 1)), normalized=True)
    bind = np.stack([np.eye(4), np.eye(4)])
    bind[1, 3, :3] = [0, 0, -2]  # by columns: the joint was bound at z = 2
    box.doc["skins"] = [{"joints": [1, 2], "inverseBindMatrices": box.add(bind)}]
    quarter = [0, 0, 0.5**0.5, 0.5**0.5]  # x to y
    box.doc["nodes"] = [
        {"mesh": 0, "skin": 0}, {"children": [2], "translation": [1, 0, 0]}, {"translation": [0, 0, 2], "rotation": quarter},
    ]  # fmt: skip
    box.doc["scenes"][0]["nodes"] = [0, 1]
    (part,), notes = read_gltf(box.glb(), ".glb", Path("nowhere"))
    share = 64 / 255
    turned = np.stack([-box.points[:, 1], box.points[:, 0], box.points[:, 2]], axis=1)
    np.testing.assert_allclose(part.vertices, (1 - share) * box.points + share * turned + [1, 0, 0], atol=1e-6)
    assert notes == []
    normal = np.array([1 - share, share, 0])
    np.testing.assert_allclose(part.normals[0], normal / np.linalg.norm(normal), atol=1e-6)


def test_weights_that_add_up_to_anything_are_normalised():
    box = Box()
    skinned(box)
    box.set("WEIGHTS_0", np.tile([0.25, 0, 0, 0], (24, 1)) * (np.arange(24) % 2)[:, None])  # half of them: no weight at all
    parts, _ = read_gltf(box.glb(), ".glb", Path("nowhere"))
    np.testing.assert_allclose(bounds(parts)[1], HALF[[0, 2, 1]] / 100, atol=1e-6)


def test_the_metallic_and_roughness_picture_and_that_of_glossiness():
    box = Box()
    box.doc["textures"].append({"source": box.image(picture(2, 2, (0, 64, 128)))})
    box.pbr |= {"metallicRoughnessTexture": {"index": 1}, "metallicFactor": 0.5, "roughnessFactor": 1}
    (part,), _ = read_gltf(box.glb(), ".glb", Path("nowhere"))
    assert tuple(part.surface[0, 0, 1:]) == (64, 128)
    assert (part.metallic, part.roughness) == (0.5, 1.0)
    glossy(box)
    alpha = encoded(Image.new("RGBA", (2, 2), (9, 9, 9, 100)))
    box.doc["textures"][1] = {"source": box.image(alpha)}
    gloss = box.material["extensions"]["KHR_materials_pbrSpecularGlossiness"]
    gloss |= {"specularGlossinessTexture": {"index": 1}, "glossinessFactor": 0.5, "diffuseFactor": [0, 0, 0, 1]}
    (part,), _ = read_gltf(box.glb(), ".glb", Path("nowhere"))
    assert abs(int(part.surface[0, 0, 1]) - (255 - 50)) <= 1
    assert (part.metallic, part.roughness) == (0.0, 1.0)
    assert set(side_colors([part])) == {(0, 0, 0)}


def test_many_notes_become_a_short_list():
    box = Box()
    box.doc["extensionsUsed"] = [f"XX_{number}" + "y" * 1000 for number in range(1000)]
    box.doc["materials"] += [box.material | {"emissiveFactor": [1, 0, 0], "normalTexture": {"index": 0}}] * 30
    for number in range(30):
        box.doc["textures"].append({"source": ktx2(box)})
        box.doc["materials"][number + 1] = {"pbrMetallicRoughness": {"baseColorTexture": {"index": number + 1}}}
    box.doc["meshes"][0]["primitives"] = [box.part | {"material": number} for number in range(31)]
    _, notes = read_gltf(box.glb(), ".glb", Path("nowhere"))
    assert len(notes) == 11
    assert notes[-1] == "21 more things are not as in the file"
    assert max(map(len, notes)) <= 160
    assert json.dumps(notes)
