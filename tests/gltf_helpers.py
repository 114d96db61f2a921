"""What the tests of glTF files share: small valid documents, to be spoilt or added to; a look at what was read; mutations."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from dreamlift.color import linear_to_srgb, srgb_to_linear

POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
CORNERS = np.array([0, 2, 1, 0, 1, 3, 1, 2, 3, 0, 3, 2], np.uint16)  # a tetrahedron, seen from outside
SIZE = np.array([1.0, 2.0, 3.0])  # of the box, whose sides +x, -x, +y, -y, +z, -z have these colours:
SIX = ((255, 0, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (0, 0, 255), (255, 255, 0))
KINDS = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


def picture(width=4, height=4, color=(255, 0, 0)):
    out = io.BytesIO()
    Image.new("RGB", (width, height), color).save(out, "PNG")
    return out.getvalue()


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def six_colors(step=4) -> Image.Image:
    """The sides' colours side by side, each ``step`` texels wide."""
    return Image.fromarray(np.repeat(np.array([SIX], np.uint8), step, axis=1).repeat(4, axis=0))


def document(points=POINTS, corners=CORNERS, extra=b""):
    """A small valid document and its binary chunk, to be spoilt."""
    data = points.astype("<f4").tobytes() + corners.astype("<u2").tobytes()
    binary = data + extra
    return {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(points), "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": len(corners), "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": points.size * 4},
            {"buffer": 0, "byteOffset": points.size * 4, "byteLength": corners.size * 2},
        ],
        "buffers": [{"byteLength": len(binary)}],
    }, binary  # fmt: skip


def glb(doc, binary):
    text = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def spoilt(*changes, points=POINTS, corners=CORNERS, extra=b""):
    """A GLB whose document has ``value`` at each ``path``."""
    doc, binary = document(points, corners, extra)
    for path, value in changes:
        *parents, last = path
        place = doc
        for key in parents:
            place = place[key]
        place[last] = value
    return glb(doc, binary)


class Box:
    """A document of a box of 1 x 2 x 3, with normals, UVs and a picture of its six colours, to be changed."""

    def __init__(self) -> None:
        self.binary = b""
        self.doc = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
            "accessors": [], "bufferViews": [], "images": [], "textures": [{"source": 0}], "samplers": [],
            "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0, "baseColorTexture": {"index": 0}}}],
        }  # fmt: skip
        self.points, self.normals, self.uvs, self.side, corners = box_arrays()
        self.corners = corners
        self.image(encoded(six_colors()))
        attributes = {name: self.add(x) for name, x in (("POSITION", self.points), ("NORMAL", self.normals),
                                                         ("TEXCOORD_0", self.uvs))}  # fmt: skip
        self.part = {"attributes": attributes, "indices": self.add(corners), "material": 0}
        self.doc["meshes"] = [{"primitives": [self.part]}]
        self.material = self.doc["materials"][0]
        self.pbr = self.material["pbrMetallicRoughness"]
        self.node = self.doc["nodes"][0]

    def view(self, data: bytes, **entries) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        self.doc["bufferViews"].append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data), **entries})
        self.binary += data
        return len(self.doc["bufferViews"]) - 1

    def add(self, rows: np.ndarray, **entries) -> int:
        """A new accessor; float64 is stored as float32."""
        rows = rows.astype("<f4") if rows.dtype == np.float64 else rows
        columns = 1 if rows.ndim == 1 else int(np.prod(rows.shape[1:]))
        entry = {"componentType": KINDS[rows.dtype.name], "count": len(rows), "type": TYPES[columns]}
        self.doc["accessors"].append({"bufferView": self.view(rows.tobytes()), **entry, **entries})
        return len(self.doc["accessors"]) - 1

    def set(self, name: str, rows: np.ndarray, **entries) -> None:
        """Another array for an attribute."""
        self.part["attributes"][name] = self.add(rows, **entries)

    def image(self, data: bytes, mime="image/png") -> int:
        self.doc["images"].append({"bufferView": self.view(data), "mimeType": mime})
        return len(self.doc["images"]) - 1

    def replace_image(self, data: bytes, mime="image/png") -> None:
        self.doc["images"][0] = {"bufferView": self.view(data), "mimeType": mime}

    def glb(self) -> bytes:
        return glb(self.doc | {"buffers": [{"byteLength": len(self.binary)}]}, self.binary)

    def gltf(self, uri: str | None = None) -> str:
        """The document as text; without ``uri`` it holds its data."""
        data = "data:application/octet-stream;base64," + base64.b64encode(self.binary).decode()
        return json.dumps(self.doc | {"buffers": [{"byteLength": len(self.binary), "uri": uri or data}]}, ensure_ascii=False)


def box_arrays() -> tuple[np.ndarray, ...]:
    """Points (24, 3), normals (24, 3), UVs (24, 2) at the sides' colours, sides (24,) and corners (36,) of the box."""
    points, normals, uvs, corners = [], [], [], []
    for number in range(6):
        axis, sign = number // 2, 1 - 2 * (number % 2)
        for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            point = np.roll([sign, a * sign, b], axis)
            points.append(point * SIZE / 2)
            normals.append(np.roll([sign, 0, 0], axis))
            uvs.append([(number + 0.5 + 0.3 * a) / 6, 0.5 + 0.4 * b])
        corners += [4 * number + i for i in (0, 1, 2, 0, 2, 3)]
    return (np.array(points), np.array(normals, float), np.array(uvs), np.arange(24) // 4, np.array(corners, np.uint16))


def triangles(parts) -> np.ndarray:
    """All faces of parts: (F, 3, 3)."""
    return np.concatenate([part.vertices[part.faces] for part in parts])


def bounds(parts) -> np.ndarray:
    """The least and largest coordinates (2, 3)."""
    points = triangles(parts).reshape(-1, 3)
    return np.stack([points.min(axis=0), points.max(axis=0)])


def volume(parts) -> float:
    """Positive for faces that are seen from outside."""
    a, b, c = triangles(parts).transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def side_colors(parts) -> list[tuple[int, int, int]]:
    """What is seen at the centre of each side of the bounds (+x, -x, +y ...): (0..255, sRGB), or (-1, -1, -1)."""
    low, high = bounds(parts)
    return [_seen(parts, (low + high) / 2, axis, end[axis]) for axis in range(3) for end in (high, low)]


def _seen(parts, centre, axis, end):
    for part in parts:
        for face in part.faces:
            corners = part.vertices[face]
            if np.abs(corners[:, axis] - end).max() > 1e-4 * np.ptp(corners, axis=0).max():
                continue
            flat = np.vstack([np.delete(corners - centre, axis, axis=1).T, np.ones(3)])
            if abs(np.linalg.det(flat)) < 1e-12:  # a face without area
                continue
            shares = np.linalg.solve(flat, [0.0, 0.0, 1.0])
            if shares.min() > -1e-6:
                return _color(part, face, shares)
    return (-1, -1, -1)


def _color(part, face, shares):
    light = np.ones(3)
    if part.shades is not None:
        light = srgb_to_linear(shares @ part.shades[face])
    if part.image is not None:
        u, v = (shares @ part.uvs[face]) % 1
        height, width = part.image.shape[:2]
        light = light * srgb_to_linear(part.image[int(v * height), int(u * width)] / 255.0)
    return tuple((linear_to_srgb(light) * 255 + 0.5).astype(int).tolist())


def mutations(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """``count`` damaged files, the same for the same seed: the kind (".glb" or ".gltf") and the bytes."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        box = Box()
        nodes = [{"mesh": 0, "translation": [3, 0, 0]}, {"mesh": 0, "scale": [1, -2, 1], "rotation": [0, 0.6, 0, 0.8]}]
        box.doc["nodes"] = [{"children": [1, 2], "matrix": np.diag([2.0, 1, 1, 1]).ravel().tolist()}, *nodes]
        kind, where = random.choice([".glb", ".glb", ".gltf"]), random.random()
        if where < 0.6:  # in the document, which stays JSON
            for _ in range(random.integers(1, 4)):
                _damage_value(box.doc, random)
        elif where < 0.8:  # in the arrays and the picture
            box.binary = _damage(box.binary, random)
        data = box.glb() if kind == ".glb" else box.gltf().encode()
        yield str(kind), data if where < 0.8 else _damage(data, random)


def _damage(data: bytes, random: np.random.Generator) -> bytes:
    """One fault: a piece of other bytes, of zeros, doubled, lost, or the end lost."""
    at, length = int(random.integers(len(data))), int(random.integers(1, 40))
    before, piece, after = data[:at], data[at : at + length], data[at + length :]
    other = random.integers(0, 256, len(piece), np.uint8).tobytes()
    kinds = [before + other + after, before + bytes(len(piece)) + after, before + piece + piece + after, before + after, before]
    return kinds[int(random.integers(len(kinds)))]


def _damage_value(doc: dict, random: np.random.Generator) -> None:
    """Another value, or none, for one entry somewhere in a document."""
    owner = doc
    while True:
        keys = [key for key in owner if key != "asset"] if isinstance(owner, dict) else list(range(len(owner)))
        key = keys[int(random.integers(len(keys)))]
        inner = owner[key]
        if not isinstance(inner, (dict, list)) or not inner or random.random() < 0.1:
            break
        owner = inner
    odd = [-1, 0, 1, 2, 3, 7, 24, 5125, 5121, 10**9, 1e300, -0.5, "x", None, [], {}, [1, 2], True]
    if random.random() < 0.15:
        del owner[key]
    else:
        owner[key] = odd[int(random.integers(len(odd)))]
