"""What the tests of glTF files share: a small valid document, to be spoilt or added to."""

import io
import json
import struct

import numpy as np
from PIL import Image

POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
CORNERS = np.array([0, 2, 1, 0, 1, 3, 1, 2, 3, 0, 3, 2], np.uint16)  # a tetrahedron, seen from outside


def picture(width=4, height=4, color=(255, 0, 0)):
    out = io.BytesIO()
    Image.new("RGB", (width, height), color).save(out, "PNG")
    return out.getvalue()


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
