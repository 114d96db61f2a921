"""glTF 2.0 binary (GLB): one file with the mesh, its normals, UVs and its textures as embedded PNGs.

The container is a 12-byte header, a JSON chunk and a binary chunk, each padded to 4 bytes: glTF 2.0 specification,
section 4.4 "GLB File Format Specification", https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html. The files pass
the Khronos validator without errors and warnings. A normal map is written together with the tangents it was baked for,
since viewers compute different ones if there are none (section 3.7.2.1). Reading uses trimesh, which shares no code with the
writer.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.color import linear_to_srgb, srgb_to_linear
from dreamlift.export.placement import Placement
from dreamlift.meshing.geometry import is_open, row_numbers, with_normals
from dreamlift.meshing.tangents import vertex_tangents
from dreamlift.system.files import atomic_write_bytes
from dreamlift.types import Mesh

FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
TEXTURES = ("base_color", "metallic_roughness", "normal_map")
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071


def save_glb(mesh: Mesh, path: str | Path, extras: Mapping[str, Any] | None = None) -> None:
    """Write ``mesh`` as one GLB file; coordinates are not changed (+y up, +z front, one unit is one metre).

    Args:
        extras: metadata of the asset (prompt, seed, ...) as JSON values, written to asset.extras.

    Raises:
        ValueError: the extras are not JSON values.
        OSError: the file cannot be written; an old one is intact.
    """
    mesh = with_normals(mesh)
    buffer = _Buffer()
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "dreamlift", **({"extras": dict(extras)} if extras else {})},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "asset"}],
        "meshes": [{"name": "asset", "primitives": [_primitive(mesh, buffer)]}],
        "materials": [_material(mesh)],
    }
    pictures = [picture for name in TEXTURES if (picture := getattr(mesh, name)) is not None]
    if pictures:
        document["textures"] = [{"sampler": 0, "source": i} for i in range(len(pictures))]
        document["images"] = [{"mimeType": "image/png", "bufferView": buffer.add_view(png_bytes(p))} for p in pictures]
        document["samplers"] = [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}
        ]
    document["accessors"] = buffer.accessors
    document["bufferViews"] = buffer.views
    document["buffers"] = [{"byteLength": len(buffer.data)}]
    atomic_write_bytes(path, _container(document, bytes(buffer.data)))


def _primitive(mesh: Mesh, buffer: _Buffer) -> dict[str, Any]:
    """The JSON entry of the vertices and faces, which are appended to the buffer."""
    attributes = {
        "POSITION": buffer.add_vectors(mesh.vertices, bounds=True),
        "NORMAL": buffer.add_vectors(_unit(mesh.vertex_normals)),
    }
    if mesh.normal_map is not None:
        attributes["TANGENT"] = buffer.add_vectors(vertex_tangents(mesh))
    if mesh.uvs is not None:
        attributes["TEXCOORD_0"] = buffer.add_vectors(mesh.uvs)
    if mesh.base_color is None and mesh.vertex_colors is not None:
        # Vertex colours are linear light, unlike textures (section 3.7.2.1).
        attributes["COLOR_0"] = buffer.add_vectors(srgb_to_linear(np.clip(mesh.vertex_colors, 0, 1)))
    return {"attributes": attributes, "indices": buffer.add_indices(mesh.faces, len(mesh.vertices)), "material": 0}


def _material(mesh: Mesh) -> dict[str, Any]:
    """The material; its textures are numbered in the order of ``TEXTURES``."""
    present = [name for name in TEXTURES if getattr(mesh, name) is not None]
    place = {name: {"index": i} for i, name in enumerate(present)}
    surface: dict[str, Any] = {"metallicFactor": float(mesh.metallic), "roughnessFactor": float(mesh.roughness)}
    material: dict[str, Any] = {"name": "baked", "pbrMetallicRoughness": surface}
    if mesh.double_sided or is_open(row_numbers(mesh.vertices)[mesh.faces]):
        material["doubleSided"] = True  # or the inner side of an open surface would not be drawn
    if "base_color" in place:
        surface["baseColorTexture"] = place["base_color"]
    if "metallic_roughness" in place:
        surface["metallicRoughnessTexture"] = place["metallic_roughness"]
    if "normal_map" in place:
        material["normalTexture"] = place["normal_map"]
    return material


def load_glb(path: str | Path, as_placed: bool = False) -> Mesh:
    """Read a GLB file of one mesh, as :func:`save_glb` writes it, through trimesh.

    Args:
        as_placed: keep the file's own coordinates. Otherwise the :class:`~dreamlift.export.placement.Placement` in the file's
            extras is undone, so that an asset is returned in its scene's coordinates.

    Raises:
        FileNotFoundError: there is no such file.
        EmptySceneError, ValueError: the file is not a GLB, does not hold exactly one mesh, or the mesh is invalid.
    """
    import trimesh

    data = Path(path).read_bytes()
    try:
        # From memory: without a folder, a hostile file cannot refer to other files.
        scene = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)
        parts = list(scene.geometry.values())
        extras = _extras(data)
        found = parts[0] if len(parts) == 1 and isinstance(parts[0], trimesh.Trimesh) else None
        look = {} if found is None else _appearance(found)  # decodes the pictures, which may be damaged
    except Exception as error:  # a damaged file can raise any exception in the reader
        raise ValueError(f"{path} cannot be read as a GLB file: {type(error).__name__}: {error}") from error
    if found is None:
        raise ValueError(f"{path} must hold exactly one mesh, not {len(parts)} parts")
    mesh = Mesh(
        vertices=np.asarray(found.vertices, dtype=np.float32),
        faces=np.asarray(found.faces, dtype=np.int32),
        vertex_normals=np.asarray(found.vertex_normals, dtype=np.float32),
        **look,
    )
    return mesh if as_placed else Placement.from_extras(extras).undo(mesh)


def png_bytes(image: np.ndarray) -> bytes:
    """An ``(H, W, 3)`` or ``(H, W)`` uint8 picture as a PNG file."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, format="PNG")
    return out.getvalue()


@dataclass
class _Buffer:
    """The binary chunk under construction, with the JSON entries that describe it."""

    data: bytearray = field(default_factory=bytearray)
    views: list[dict[str, Any]] = field(default_factory=list)
    accessors: list[dict[str, Any]] = field(default_factory=list)

    def add_view(self, data: bytes, target: int | None = None) -> int:
        """Append bytes at a multiple of 4; returns the number of their buffer view."""
        self.data += b"\0" * (-len(self.data) % 4)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(view if target is None else {**view, "target": target})
        self.data += data
        return len(self.views) - 1

    def add_vectors(self, values: np.ndarray, bounds: bool = False) -> int:
        """Append ``values (V, 2..4)`` as float32; returns the number of the accessor."""
        values = np.ascontiguousarray(values, dtype="<f4")
        accessor = {
            "bufferView": self.add_view(values.tobytes(), ARRAY_BUFFER),
            "componentType": FLOAT,
            "count": len(values),
            "type": f"VEC{values.shape[1]}",
        }
        if bounds:
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def add_indices(self, faces: np.ndarray, count: int) -> int:
        """Append ``faces (F, 3)``, indices below ``count``, in 16 or 32 bits; returns the number of the accessor."""
        # The type's largest value means "primitive restart" and is not an index (section 3.7.2.1).
        small = count <= 65535
        values = np.ascontiguousarray(faces.ravel(), dtype="<u2" if small else "<u4")
        self.accessors.append({
            "bufferView": self.add_view(values.tobytes(), ELEMENT_ARRAY_BUFFER),
            "componentType": UNSIGNED_SHORT if small else UNSIGNED_INT,
            "count": len(values),
            "type": "SCALAR",
        })  # fmt: skip
        return len(self.accessors) - 1


def _container(document: dict[str, Any], binary: bytes) -> bytes:
    """The file: header, JSON chunk (padded with spaces) and binary chunk (padded with zeros)."""
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a GLB's extras must be JSON values (text, finite numbers, lists, dicts): {error}") from None
    encoded = text.encode("utf-8", errors="replace")  # a lone surrogate in a prompt becomes "?"
    encoded += b" " * (-len(encoded) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<I4s", len(encoded), b"JSON") + encoded + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _unit(normals: np.ndarray | None) -> np.ndarray:
    """Normals of unit length, which the validator requires; zero normals become +y."""
    assert normals is not None
    lengths = np.linalg.norm(normals.astype(np.float64), axis=1, keepdims=True)
    return np.where(lengths > 1e-8, normals / np.maximum(lengths, 1e-8), [0.0, 1.0, 0.0])


def _extras(data: bytes) -> dict[str, Any]:
    """The extras of a GLB's "asset", read from its first chunk, since trimesh drops them."""
    size = struct.unpack_from("<I", data, 12)[0]
    found = json.loads(data[20 : 20 + size].decode("utf-8", errors="replace"))["asset"].get("extras")
    return found if isinstance(found, dict) else {}


def _appearance(found: Any) -> dict[str, Any]:
    """UVs, textures, vertex colours, metallic and roughness of a mesh that trimesh loaded."""
    visual, uvs, colors, stored = found.visual, None, None, None
    material = getattr(visual, "material", None)
    if getattr(visual, "uv", None) is not None:
        # trimesh flips v on loading, to OBJ's convention.
        uvs = (np.asarray(visual.uv, dtype=np.float64) * [1, -1] + [0, 1]).astype(np.float32)
    names = {"base_color": "baseColorTexture", "metallic_roughness": "metallicRoughnessTexture", "normal_map": "normalTexture"}
    pictures = {ours: getattr(material, theirs, None) for ours, theirs in names.items()}
    textures = {
        name: np.asarray(picture.convert("RGB"), dtype=np.uint8)
        for name, picture in pictures.items()
        if picture is not None and uvs is not None
    }
    if pictures["base_color"] is None and visual.kind == "vertex":  # a file without a material
        stored = visual.vertex_colors
    elif pictures["base_color"] is None and "color" in visual.vertex_attributes:
        stored = visual.vertex_attributes["color"]
    if stored is not None:
        linear = np.asarray(stored)
        scale = np.iinfo(linear.dtype).max if linear.dtype.kind == "u" else 1.0
        colors = linear_to_srgb(linear[:, :3].astype(np.float64) / scale).astype(np.float32)
    # glTF's default is 1.
    factors = {"metallic": getattr(material, "metallicFactor", None), "roughness": getattr(material, "roughnessFactor", None)}
    return {
        "uvs": uvs, "vertex_colors": colors, **textures, "double_sided": bool(getattr(material, "doubleSided", False)),
        **{name: 1.0 if value is None else float(value) for name, value in factors.items()},
    }  # fmt: skip
