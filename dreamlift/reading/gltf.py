"""Checks of untrusted glTF 2.0 files: a document is checked and copied, entry by entry, before a reader allocates memory.

The result is a GLB of one buffer that holds only what has been checked: geometry, the tree of nodes, base colours, metallic
and roughness. Each part has one set of texture coordinates, as floats: that of its base colours. Names, extensions, skins,
animations and cameras are left out, and nothing refers to another file. Specification:
https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, sections 3.6 (buffers and accessors), 3.7 (geometry), 3.5 (nodes).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
from dataclasses import dataclass, field
from typing import Any

from dreamlift.reading.gltf_uvs import TRANSFORM, Laid, moved_pairs, one_way, read_laid

JSON_BYTES, JSON_DEPTH, JSON_BRACKETS = 16 << 20, 64, 1_000_000
ENTRIES, IMAGES = 20_000, 64  # largest number of entries in a list, and of images
OVERLAP = 4  # how often views, or accessors, may use the same bytes on average, since readers copy them
NODE_DEPTH = 64
MOVED = 4_000_000  # largest number of vertices, over all parts, whose texture coordinates are transformed
SIZES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}  # bytes of a component, by its type's number
COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
INDEX_TYPES, FLOAT = (5121, 5123, 5125), 5126
ATTRIBUTES = {"POSITION": ("VEC3",), "NORMAL": ("VEC3",), "COLOR_0": ("VEC3", "VEC4")}
# Required extensions that may be ignored: they change neither the shape nor its base colours.
HARMLESS = ("KHR_materials_", "KHR_lights_punctual", "EXT_texture_webp")


@dataclass(frozen=True)
class Checked:
    """A document that is safe to give to a reader."""

    glb: bytes
    faces: int  # of all instances together
    vertices: int
    has_normals: bool
    images: tuple[bytes, ...]  # encoded pictures, as in the document


def check_glb(data: bytes) -> Checked:
    """Check a binary glTF file. Raises ValueError with the fault, in one line."""
    if len(data) < 20 or data[:4] != b"glTF":
        raise ValueError("it does not begin as a GLB file does")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise ValueError(f"it is of glTF version {version}; accepted: 2")
    if length != len(data):
        raise ValueError(f"its header says {length} bytes, but there are {len(data)}: the file is cut off or damaged")
    chunks, start = [], 12
    while start < len(data):
        if start + 8 > len(data) or len(chunks) == 16:
            raise ValueError("its chunks do not fit into the file")
        size, kind = struct.unpack_from("<I4s", data, start)
        if start + 8 + size > len(data):
            raise ValueError(f"a chunk says {size} bytes, which is more than the file has left")
        chunks.append((kind, data[start + 8 : start + 8 + size]))
        start += 8 + size
    if chunks[0][0] != b"JSON":
        raise ValueError("its first chunk is not JSON")
    binary = [chunk for kind, chunk in chunks[1:] if kind == b"BIN\0"]
    return check_document(parse_json(chunks[0][1]), binary[0] if binary else None)


def check_document(document: Any, binary: bytes | None) -> Checked:
    """Check a glTF document; ``binary`` is the binary chunk of a GLB, if there is one. Raises ValueError."""
    if not isinstance(document, dict):
        raise ValueError("its JSON is not an object")
    asset = document.get("asset")
    if not isinstance(asset, dict) or not str(asset.get("version", "")).startswith("2."):
        raise ValueError("it does not say that it is of glTF version 2")
    needed = _list(document, "extensionsRequired")
    strange = [str(name)[:60] for name in needed if not str(name).startswith((*HARMLESS, TRANSFORM))]
    if strange:
        raise ValueError(
            f"it needs the extension {strange[0]}, which is not read: export it without compression or quantization"
        )
    copy = _Copy(document)
    copy.read_buffers(binary)
    copy.read_accessors()
    copy.read_materials()
    copy.read_meshes()
    copy.read_nodes()
    return copy.finish()


def parse_json(data: bytes, limit: int = JSON_BYTES) -> Any:
    """Parse JSON. Raises ValueError if it is too large, nested too deeply or malformed."""
    if len(data) > limit:
        raise ValueError(f"its JSON has {len(data)} bytes; accepted: at most {limit >> 20} MiB")
    depth = 0
    brackets = re.findall(rb"[\[\]{}]", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", data, flags=re.DOTALL))
    if len(brackets) > JSON_BRACKETS:
        raise ValueError(f"its JSON has more than {JSON_BRACKETS} lists and objects")
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        if depth > JSON_DEPTH:
            raise ValueError(f"its JSON is nested deeper than {JSON_DEPTH} levels")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its JSON cannot be read: {str(error)[:120]}") from None


def _list(owner: dict[str, Any], name: str) -> list[Any]:
    found = owner.get(name, [])
    if not isinstance(found, list) or len(found) > ENTRIES:
        raise ValueError(f"its {name} must be a list of at most {ENTRIES} entries")
    return found


def _records(owner: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = _list(owner, name)
    if not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"its {name} must hold objects")
    return found


def _whole(value: Any, what: str, low: int, high: int) -> int:
    """``value``, if it is an integer in ``low..high``; otherwise raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{what} is {str(value)[:40]}; accepted here: {low} to {high}")
    return value


def _numbers(value: Any, what: str, count: int) -> list[float]:
    good = isinstance(value, list) and len(value) == count
    if not good or not all(isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < 1e30 for x in value):
        raise ValueError(f"{what} must be {count} finite numbers")
    return [float(x) for x in value]


def _data_uri(uri: Any, what: str) -> bytes:
    """The bytes of a ``data:`` URI. Raises ValueError for any other URI."""
    if not isinstance(uri, str) or not uri.startswith("data:") or ";base64," not in uri[:200]:
        raise ValueError(f"{what} is in another file ({str(uri)[:60]!r}), and no other file is opened: export one .glb")
    try:
        return base64.b64decode(uri.split(";base64,", 1)[1], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{what} is not readable base64") from None


@dataclass
class _Copy:
    """The new document under construction. Entries keep their numbers."""

    old: dict[str, Any]
    binary: bytearray = field(default_factory=bytearray)
    views: list[dict[str, Any]] = field(default_factory=list)
    accessors: list[dict[str, Any]] = field(default_factory=list)
    materials: list[dict[str, Any]] = field(default_factory=list)
    laid: list[Laid] = field(default_factory=list)  # the texture mapping of each material
    moved: dict[tuple[int, Laid], int] = field(default_factory=dict)  # (accessor, mapping) -> new accessor
    moved_vertices: int = 0
    textures: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    meshes: list[dict[str, Any]] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)  # faces and vertices of each mesh
    nodes: list[dict[str, Any]] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    total: tuple[int, int] = (0, 0)
    has_normals: bool = True

    def read_buffers(self, binary: bytes | None) -> None:
        """Concatenate all buffers, each at a multiple of 4 bytes, and copy the views into them."""
        places: list[tuple[int, int]] = []
        for number, buffer in enumerate(_records(self.old, "buffers")):
            length = _whole(buffer.get("byteLength"), f"the length of buffer {number}", 1, 1 << 31)
            if "uri" in buffer:
                data = _data_uri(buffer["uri"], f"buffer {number}")
            elif number == 0 and binary is not None:
                data = binary
            else:
                raise ValueError(f"buffer {number} has no data")
            if length > len(data):
                raise ValueError(f"buffer {number} says {length} bytes, but there are {len(data)}")
            places.append((self._append(data[:length]), length))
        for number, view in enumerate(_records(self.old, "bufferViews")):
            what = f"of buffer view {number}"
            start, size = places[_whole(view.get("buffer"), f"the buffer {what}", 0, len(places) - 1)]
            length = _whole(view.get("byteLength"), f"the length {what}", 1, size)
            offset = _whole(view.get("byteOffset", 0), f"the offset {what}", 0, size - length)
            self.views.append({"buffer": 0, "byteOffset": start + offset, "byteLength": length})
            if "byteStride" in view:
                self.views[-1]["byteStride"] = _whole(view["byteStride"], f"the stride {what}", 4, 252)
        if sum(view["byteLength"] for view in self.views) > OVERLAP * len(self.binary):
            raise ValueError("its buffer views lie over one another many times")

    def _append(self, data: bytes) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        self.binary += data
        return len(self.binary) - len(data)

    def read_accessors(self) -> None:
        used = 0
        for number, accessor in enumerate(_records(self.old, "accessors")):
            what = f"of accessor {number}"
            if "sparse" in accessor or "bufferView" not in accessor:
                raise ValueError(f"accessor {number} is sparse or has no data, which is not read: export plain arrays")
            kind, columns = accessor.get("componentType"), accessor.get("type")
            if not isinstance(kind, int) or kind not in SIZES or not isinstance(columns, str) or columns not in COLUMNS:
                raise ValueError(f"the type {what} is not one of glTF's")
            view = self.views[_whole(accessor["bufferView"], f"the buffer view {what}", 0, len(self.views) - 1)]
            item = SIZES[kind] * COLUMNS[columns]
            stride = view.get("byteStride", item)
            if stride < item:
                raise ValueError(f"the stride {what} is {stride} bytes, but one item has {item}")
            offset = _whole(accessor.get("byteOffset", 0), f"the offset {what}", 0, view["byteLength"])
            room = max(0, (view["byteLength"] - offset - item) // stride + 1)
            count = _whole(accessor.get("count"), f"the count {what}", 1, room)
            plain = {"bufferView": accessor["bufferView"], "byteOffset": offset, "componentType": kind, "count": count}
            used += count * item
            flags = {"normalized": True} if accessor.get("normalized") is True else {}
            self.accessors.append({**plain, "type": columns, **flags})
        if used > OVERLAP * len(self.binary):
            raise ValueError("its accessors use the same bytes many times")

    def read_materials(self) -> None:
        if len(_list(self.old, "images")) > IMAGES:
            raise ValueError(f"it has {len(self.old['images'])} images; accepted: at most {IMAGES}")
        for number, image in enumerate(_records(self.old, "images")):
            if "bufferView" in image:
                view = _whole(image["bufferView"], f"the buffer view of image {number}", 0, len(self.views) - 1)
            else:
                data = _data_uri(image.get("uri"), f"image {number}")
                view = len(self.views)
                self.views.append({"buffer": 0, "byteOffset": self._append(data), "byteLength": len(data)})
            self.images.append({"bufferView": view, "mimeType": "image/png"})
        for number, texture in enumerate(_records(self.old, "textures")):
            source = texture.get("source")
            if source is None:
                extension = texture.get("extensions")
                webp = extension.get("EXT_texture_webp") if isinstance(extension, dict) else None
                source = webp.get("source") if isinstance(webp, dict) else None
            # A texture without a readable image keeps its number and is empty.
            entry = {} if source is None else {"source": _whole(source, f"texture {number}'s image", 0, len(self.images) - 1)}
            self.textures.append(entry)
        for number, material in enumerate(_records(self.old, "materials")):
            pbr = material.get("pbrMetallicRoughness", {})
            if not isinstance(pbr, dict):
                raise ValueError(f"material {number} is malformed")
            kept, laid = self._material(pbr, f"of material {number}")
            self.materials.append({"pbrMetallicRoughness": kept})
            self.laid.append(laid)

    def _material(self, pbr: dict[str, Any], what: str) -> tuple[dict[str, Any], Laid]:
        kept: dict[str, Any] = {}
        ways: list[Laid] = []
        for name in ("baseColorTexture", "metallicRoughnessTexture"):
            if isinstance(pbr.get(name), dict):
                index = _whole(pbr[name].get("index"), f"the {name} {what}", 0, len(self.textures) - 1)
                if self.textures[index]:
                    kept[name] = {"index": index}
                    ways.append(read_laid(pbr[name], f"of the {name} {what}"))
        if "baseColorFactor" in pbr:
            kept["baseColorFactor"] = _numbers(pbr["baseColorFactor"], f"the baseColorFactor {what}", 4)
        for name in ("metallicFactor", "roughnessFactor"):
            if name in pbr:
                kept[name] = min(1.0, max(0.0, _numbers([pbr[name]], f"the {name} {what}", 1)[0]))
        return kept, one_way(ways, what)

    def read_meshes(self) -> None:
        for number, mesh in enumerate(_records(self.old, "meshes")):
            faces = vertices = 0
            primitives = []
            for primitive in _records(mesh, "primitives"):
                kept, counts = self._primitive(primitive, f"of mesh {number}")
                primitives.append(kept)
                faces, vertices = faces + counts[0], vertices + counts[1]
            self.meshes.append({"primitives": primitives})
            self.counts.append((faces, vertices))

    def _primitive(self, primitive: dict[str, Any], what: str) -> tuple[dict[str, Any], tuple[int, int]]:
        if primitive.get("mode", 4) != 4:
            raise ValueError(f"a part {what} is not made of triangles (mode {str(primitive['mode'])[:20]}): triangulate it")
        given = primitive.get("attributes")
        if not isinstance(given, dict) or "POSITION" not in given:
            raise ValueError(f"a part {what} has no POSITION")
        kept: dict[str, Any] = {"attributes": {}}
        laid = Laid()
        if "material" in primitive:
            kept["material"] = _whole(primitive["material"], f"the material {what}", 0, len(self.materials) - 1)
            laid = self.laid[kept["material"]]
        last = len(_list(self.old, "accessors")) - 1
        uvs = f"TEXCOORD_{laid.texcoord}"
        for name, types in {**ATTRIBUTES, uvs: ("VEC2",)}.items():
            if name not in given:
                continue
            index = _whole(given[name], f"the {name} {what}", 0, last)
            accessor = self.accessors[index]
            if accessor["type"] not in types or (name in ("POSITION", "NORMAL") and accessor["componentType"] != FLOAT):
                raise ValueError(f"the {name} {what} has the wrong type")
            kept["attributes"]["TEXCOORD_0" if name == uvs else name] = index
        count = self.accessors[kept["attributes"]["POSITION"]]["count"]
        if any(self.accessors[index]["count"] != count for index in kept["attributes"].values()):
            raise ValueError(f"the attributes {what} differ in their counts")
        self.has_normals &= "NORMAL" in kept["attributes"]
        corners = count
        if "indices" in primitive:
            kept["indices"] = _whole(primitive["indices"], f"the indices {what}", 0, last)
            accessor = self.accessors[kept["indices"]]
            if accessor["type"] != "SCALAR" or accessor["componentType"] not in INDEX_TYPES:
                raise ValueError(f"the indices {what} have the wrong type")
            corners = accessor["count"]
        if corners % 3:
            raise ValueError(f"the number of indices {what} is {corners}, which is not a multiple of 3")
        if "TEXCOORD_0" in kept["attributes"]:
            kept["attributes"]["TEXCOORD_0"] = self._moved(kept["attributes"]["TEXCOORD_0"], laid)
        return kept, (corners // 3, count)

    def _moved(self, index: int, laid: Laid) -> int:
        """The accessor of texture coordinates as floats, transformed by ``laid``: ``index`` itself, or a new one."""
        accessor, key = self.accessors[index], (index, laid)
        if not laid.moves and accessor["componentType"] == FLOAT:
            return index
        if key not in self.moved:
            self.moved_vertices += accessor["count"]
            if self.moved_vertices > MOVED:
                raise ValueError(
                    f"it transforms the texture coordinates of more than {MOVED:,} vertices: apply {TRANSFORM} to them"
                )
            data = moved_pairs(self.binary, accessor, self.views[accessor["bufferView"]], laid)
            self.views.append({"buffer": 0, "byteOffset": self._append(data), "byteLength": len(data)})
            plain = {"bufferView": len(self.views) - 1, "byteOffset": 0, "componentType": FLOAT, "type": "VEC2"}
            self.moved[key] = len(self.accessors)
            self.accessors.append({**plain, "count": accessor["count"]})
        return self.moved[key]

    def read_nodes(self) -> None:
        """Copy the tree of nodes; every node has at most one parent, and there are no cycles."""
        given = _records(self.old, "nodes")
        parents = [-1] * len(given)
        for number, node in enumerate(given):
            kept: dict[str, Any] = {}
            for child in _list(node, "children"):
                child = _whole(child, f"a child of node {number}", 0, len(given) - 1)
                if parents[child] >= 0:
                    raise ValueError(f"node {child} has two parents; the nodes must be a tree")
                parents[child] = number
                kept.setdefault("children", []).append(child)
            if "mesh" in node:
                kept["mesh"] = _whole(node["mesh"], f"the mesh of node {number}", 0, len(self.meshes) - 1)
            for name, count in (("matrix", 16), ("translation", 3), ("rotation", 4), ("scale", 3)):
                if name in node:
                    kept[name] = _numbers(node[name], f"the {name} of node {number}", count)
            if "rotation" in kept and not math.isclose(math.hypot(*kept["rotation"]), 1.0, abs_tol=1e-2):
                raise ValueError(f"the rotation of node {number} is not a unit quaternion")
            self.nodes.append(kept)
        scenes = _records(self.old, "scenes")
        if scenes:
            chosen = scenes[_whole(self.old.get("scene", 0), "the scene", 0, len(scenes) - 1)]
            roots = [_whole(root, "a root of the scene", 0, len(given) - 1) for root in _list(chosen, "nodes")]
        else:
            roots = [number for number, parent in enumerate(parents) if parent < 0]
        if len(set(roots)) != len(roots) or any(parents[root] >= 0 for root in roots):
            raise ValueError("a root of the scene is listed twice, or is another node's child")
        self.roots = roots
        self._count(roots, parents)

    def _count(self, roots: list[int], parents: list[int]) -> None:
        """Count the faces and vertices of all instances; raises ValueError for cycles and deep nesting."""
        for number in range(len(parents)):
            steps, at = 0, number
            while parents[at] >= 0:
                at, steps = parents[at], steps + 1
                if steps > NODE_DEPTH:
                    raise ValueError(f"its nodes are a circle, or nested deeper than {NODE_DEPTH} levels")
        faces = vertices = 0
        waiting = list(roots)
        while waiting:
            node = self.nodes[waiting.pop()]
            waiting += node.get("children", [])
            if "mesh" in node:
                faces, vertices = faces + self.counts[node["mesh"]][0], vertices + self.counts[node["mesh"]][1]
        self.total = (faces, vertices)

    def finish(self) -> Checked:
        lists = {
            "nodes": self.nodes, "meshes": self.meshes, "materials": self.materials, "textures": self.textures,
            "images": self.images, "accessors": self.accessors, "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.binary)}] if self.binary else [],
        }  # fmt: skip
        document = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": self.roots}]}
        text = json.dumps(document | {name: entries for name, entries in lists.items() if entries}).encode()
        text += b" " * (-len(text) % 4)
        binary = bytes(self.binary) + b"\0" * (-len(self.binary) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
        glb = struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
        places = [self.views[number] for number in sorted({image["bufferView"] for image in self.images})]
        pictures = tuple(binary[place["byteOffset"] : place["byteOffset"] + place["byteLength"]] for place in places)
        return Checked(glb, *self.total, self.has_normals, pictures)
