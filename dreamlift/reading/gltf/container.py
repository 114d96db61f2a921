"""The outer layer of glTF 2.0 files: the chunks of a GLB, and JSON in the encodings that programs write.

https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, section 4 (GLB). Bytes after a GLB's end are ignored.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

CHUNK_BYTES, TEXT_BYTES = 16 << 20, 64 << 20  # largest JSON of a GLB; of a .gltf, which may hold its data as text
DEPTH, BRACKETS, COMMAS = 64, 1_000_000, 8_000_000  # levels of nesting; lists and objects; values, about
CHUNKS = 16  # chunks that are looked through for the binary one


def opened(data: bytes, kind: str) -> tuple[dict[str, Any], memoryview | None]:
    """The document of a file, and the binary chunk of a GLB that has one.

    Args:
        kind: ".glb" or ".gltf". A GLB is known by its first bytes, whatever the file is called.

    Raises:
        ValueError: it is no glTF 2.0 file, or its JSON is too large, nested too deeply or malformed.
    """
    binary = None
    if data[:4] == b"glTF":
        text, binary = _chunks(data)
        document = parse_json(text, CHUNK_BYTES)
    elif kind == ".glb":
        raise ValueError("it does not begin as a GLB file does")
    else:
        document = parse_json(data, TEXT_BYTES)
    if not isinstance(document, dict):
        raise ValueError("its JSON is not an object")
    asset = document.get("asset")
    if not isinstance(asset, dict) or not str(asset.get("version", ""))[:2] == "2.":
        raise ValueError("it does not say that it is of glTF version 2")
    return document, binary


def _chunks(data: bytes) -> tuple[bytes, memoryview | None]:
    """The JSON of a GLB, and its binary chunk. The length in the header is not relied on: exporters miscount it."""
    if len(data) < 20:
        raise ValueError("it does not begin as a GLB file does")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise ValueError(f"it is of glTF version {version}; accepted: 2")
    text, start = b"", 12
    for number in range(CHUNKS):
        if start + 8 > len(data):
            break
        size, kind = struct.unpack_from("<I4s", data, start)
        start += 8
        if number == 0 and kind != b"JSON":
            raise ValueError("its first chunk is not JSON")
        if kind in (b"JSON", b"BIN\0") and start + size > len(data):
            raise ValueError(f"a chunk says {size} bytes, but {len(data) - start} are left: the file is cut off or damaged")
        if number == 0:
            text = data[start : start + size]
        elif kind == b"BIN\0":
            return text, memoryview(data)[start : start + size]
        start += size
    if length > len(data):
        raise ValueError(f"its header says {length} bytes, but there are {len(data)}: the file is cut off or damaged")
    return text, None


def parse_json(data: bytes, limit: int) -> Any:
    """Parse JSON in UTF-8, 16 or 32, with or without a byte-order mark; damaged letters are replaced.

    Lists and objects are counted, in linear time, before anything is made of them.

    Raises:
        ValueError: it is larger than ``limit`` bytes, nested too deeply, or malformed.
    """
    if len(data) > limit:
        raise ValueError(f"its JSON has {len(data)} bytes; accepted: at most {limit >> 20} MiB")
    text = data.decode(json.detect_encoding(data), "replace").rstrip("\0 \t\r\n")
    # Without escaped quotes, every second piece between quotes is outside of strings.
    plain = np.frombuffer(text.encode().replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    outside = plain[np.bitwise_xor.accumulate((plain == ord('"')).view(np.uint8)) == 0]
    if np.count_nonzero(outside == ord(",")) > COMMAS:
        raise ValueError(f"its JSON has more than {COMMAS:,} values")
    opening = (outside == ord("[")) | (outside == ord("{"))
    brackets = opening[opening | (outside == ord("]")) | (outside == ord("}"))]
    if len(brackets) > BRACKETS:
        raise ValueError(f"its JSON has more than {BRACKETS} lists and objects")
    if len(brackets) and np.where(brackets, 1, -1).cumsum().max() > DEPTH:
        raise ValueError(f"its JSON is nested deeper than {DEPTH} levels")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its JSON cannot be read: {str(error)[:120]}") from None
