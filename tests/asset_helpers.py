"""What the tests of asset files share: a mesh with every kind of picture, and readers that are not ours."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
import trimesh
from PIL import Image

from dreamlift.meshing.isosurface import isosurface
from dreamlift.texturing.bake import bake
from dreamlift.types import Mesh


def lump(size: int = 22, texture: int = 128) -> Mesh:
    """A smooth closed body with one arm, not symmetric in any way, textured by a function of the place."""
    axis = torch.linspace(-1, 1, size)
    p = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    body = 0.5 - (p * torch.tensor([1.0, 0.8, 1.3])).norm(dim=-1)
    arm = 0.25 - (p - torch.tensor([0.5, 0.4, 0.3])).norm(dim=-1)
    vertices, faces = isosurface(torch.maximum(body, arm), 0.0, -1.0, 1.0)
    mesh = Mesh(vertices.numpy(), faces.numpy().astype(np.int32), metallic=0.25, roughness=0.75)
    return bake(mesh, lambda points, normals: tint(points), texture)


def tint(points: torch.Tensor) -> torch.Tensor:
    return 0.5 + 0.5 * torch.sin(torch.tensor([4.0, 5.0, 3.0]) * points)


def with_all_pictures(mesh: Mesh) -> Mesh:
    """The same, with a metallic-roughness picture and a normal map that are nowhere the same."""
    assert mesh.base_color is not None
    height, width = mesh.base_color.shape[:2]
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    materials = np.zeros((height, width, 3), np.uint8)
    materials[..., 1], materials[..., 2] = ramp, ramp[:, None]
    bumps = np.full((height, width, 3), (128, 128, 255), np.uint8)
    bumps[..., 0] = 128 + (40 * np.sin(np.arange(width) / 5)).astype(int)
    return replace(mesh, metallic_roughness=materials, normal_map=bumps)


def sphere(rings: int = 24, radius: float = 0.7) -> Mesh:
    """A sphere by trimesh: nothing of ours."""
    found = trimesh.creation.uv_sphere(radius=radius, count=[rings, 2 * rings])
    return Mesh(np.asarray(found.vertices, np.float32), np.asarray(found.faces, np.int32))


def check_attributes(back: Mesh, mesh: Mesh) -> None:
    """A mesh that was read back has the UVs, textures and vertex colours of the one that was written."""
    for name in ("base_color", "metallic_roughness", "normal_map"):
        ours, theirs = getattr(mesh, name), getattr(back, name)
        assert (ours is None) == (theirs is None), name
        assert ours is None or np.array_equal(ours, theirs), name
    for name, tolerance in (("uvs", 1e-6), ("vertex_colors", 1e-5)):
        ours, theirs = getattr(mesh, name), getattr(back, name)
        assert ours is None or (theirs is not None and np.allclose(theirs, ours, atol=tolerance)), name


def read_foreign(path: Path) -> Mesh:
    """A file through trimesh or OpenUSD, with its colours; v runs down, as in our own meshes."""
    if path.suffix == ".usdz":
        return read_usdz(path)
    if path.suffix == ".3mf":
        return read_3mf(path)
    found = trimesh.load_mesh(path, process=False)
    mesh = Mesh(np.asarray(found.vertices, np.float32), np.asarray(found.faces, np.int32))
    if found.visual.kind == "texture" and getattr(found.visual, "uv", None) is not None:
        material = found.visual.material
        picture = material.image if hasattr(material, "image") else material.baseColorTexture
        if picture is not None:
            uvs = np.asarray(found.visual.uv) * [1, -1] + [0, 1]
            return replace(mesh, uvs=uvs.astype(np.float32), base_color=np.asarray(picture.convert("RGB")))
    if found.visual.kind == "vertex":
        colors = np.asarray(found.visual.vertex_colors)[:, :3].astype(np.float32) / 255
        return replace(mesh, vertex_colors=colors)
    return mesh


def read_3mf(path: Path, placed: bool = False) -> Mesh:
    """The one object of a 3MF file by Python's XML reader, after a check of what the core specification requires.

    ``placed``: where the build puts it.
    """
    core = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"
    package = "{http://schemas.openxmlformats.org/package/2006/"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        parts = {name: archive.read(name) for name in archive.namelist()}
    kinds = {e.get("Extension"): e.get("ContentType") for e in ElementTree.fromstring(parts["[Content_Types].xml"])}
    assert kinds == {
        "rels": "application/vnd.openxmlformats-package.relationships+xml",
        "model": "application/vnd.ms-package.3dmanufacturing-3dmodel+xml",
    }
    (link,) = ElementTree.fromstring(parts["_rels/.rels"]).findall(f"{package}relationships}}Relationship")
    assert link.get("Type") == "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
    assert set(parts) == {"[Content_Types].xml", "_rels/.rels", link.get("Target", "").lstrip("/")}
    root = ElementTree.fromstring(parts[link.get("Target", "").lstrip("/")])
    assert (root.tag, root.get("unit")) == (f"{core}model", "millimeter")
    order = [child.tag.removeprefix(core) for child in root]
    assert order == ["metadata", "metadata", "resources", "build"]  # the schema's sequence
    assert [entry.get("name") for entry in root.iter(f"{core}metadata")] == ["Title", "Application"]  # both known to it
    (thing,) = root.iter(f"{core}object")
    (item,) = root.iter(f"{core}item")
    assert item.get("objectid") == thing.get("id") == "1"
    points = np.array([[float(v.get(a, "")) for a in "xyz"] for v in thing.iter(f"{core}vertex")])
    faces = np.array([[int(t.get(a, "")) for a in ("v1", "v2", "v3")] for t in thing.iter(f"{core}triangle")])
    assert all(len(set(face)) == 3 for face in faces.tolist())
    turn = np.array([float(x) for x in item.get("transform", "").split()]).reshape(4, 3)
    if placed:
        points = points @ turn[:3] + turn[3]
    return Mesh(points.astype(np.float32), faces.astype(np.int32))


def read_usdz(path: Path) -> Mesh:
    """The first mesh of a USDZ file, with the picture that its material's diffuse colour comes from."""
    from pxr import Usd, UsdGeom, UsdShade

    stage = Usd.Stage.Open(str(path))
    prim = next(prim for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh))
    shape, values = UsdGeom.Mesh(prim), UsdGeom.PrimvarsAPI(prim)
    faces = np.asarray(shape.GetFaceVertexIndicesAttr().Get(), np.int32).reshape(-1, 3)
    assert set(shape.GetFaceVertexCountsAttr().Get()) == {3}
    mesh = Mesh(np.asarray(shape.GetPointsAttr().Get(), np.float32), faces)
    material, _ = UsdShade.MaterialBindingAPI(prim).ComputeBoundMaterial()
    surface, _, _ = material.ComputeSurfaceSource()
    mesh = replace(mesh, roughness=surface.GetInput("roughness").Get(), metallic=surface.GetInput("metallic").Get())
    if values.GetPrimvar("displayColor").HasValue():
        linear = np.asarray(values.GetPrimvar("displayColor").Get())
        encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        return replace(mesh, vertex_colors=encoded.astype(np.float32))
    if not values.GetPrimvar("st").HasValue():
        return mesh
    uvs = np.asarray(values.GetPrimvar("st").Get(), np.float32) * [1, -1] + [0, 1]
    pictures = {}
    for ours, theirs in (("base_color", "diffuseColor"), ("metallic_roughness", "roughness"), ("normal_map", "normal")):
        entry = surface.GetInput(theirs)
        if entry and entry.HasConnectedSource():
            texture = UsdShade.Shader(entry.GetConnectedSources()[0][0].source.GetPrim())
            name = texture.GetInput("file").Get().path
            with zipfile.ZipFile(path) as archive:
                pictures[ours] = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
    return replace(mesh, uvs=uvs.astype(np.float32), **pictures)
