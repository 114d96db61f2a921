"""USDZ: one file for Apple's Quick Look, Blender, Maya, Omniverse and other readers of OpenUSD.

A USDZ is a zip archive without compression whose files begin at multiples of 64 bytes (USDZ specification,
https://openusd.org/release/spec_usdz.html); it holds one binary layer and its pictures. The material is a UsdPreviewSurface
(https://openusd.org/release/spec_usdpreviewsurface.html). Needs usd-core: ``pip install "dreamlift[usd]"``.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamlift.meshing.geometry import with_normals
from dreamlift.system.files import atomic_write_bytes
from dreamlift.types import Mesh

TIME = 631_152_000  # the files' time in the archive, so that equal meshes give equal archives: 1 January 1990


def check_usd() -> None:
    """Raise a ValueError with the install command if usd-core is missing."""
    try:
        import pxr  # noqa: F401
    except ImportError:
        raise ValueError('USDZ files need usd-core: pip install "dreamlift[usd]"') from None


def _modules(*names: str) -> list[Any]:
    """Modules of usd-core, as Any: their contents are defined in C++, which type checkers cannot see."""
    return [importlib.import_module(f"pxr.{name}") for name in names]


def save_usdz(mesh: Mesh, path: str | Path, extras: Mapping[str, Any] | None = None) -> None:
    """Write ``mesh`` as one USDZ file: +y up, in metres, with one named object.

    The object's name is the prompt in ``extras`` (or else the file's name), reduced to a valid USD identifier. The extras are
    stored as JSON in the layer's custom data.

    Raises:
        ValueError: usd-core is not installed.
        OSError: the file cannot be written; an old one is intact.
    """
    check_usd()
    mesh = with_normals(mesh)
    with tempfile.TemporaryDirectory() as folder:
        names = _write_pictures(mesh, Path(folder))
        _write_layer(mesh, Path(folder) / "asset.usdc", str((extras or {}).get("prompt") or Path(path).stem), extras, names)
        package = Path(folder) / "package.usdz"
        _write_package(package, Path(folder), ["asset.usdc", *names.values()])
        data = package.read_bytes()
    atomic_write_bytes(path, data)


def _write_package(package: Path, folder: Path, names: list[str]) -> None:
    (Sdf,) = _modules("Sdf")

    with Sdf.ZipFileWriter.CreateNew(str(package)) as writer:
        for name in names:  # readers open the first file
            os.utime(folder / name, (TIME, TIME))
            if not writer.AddFile(str(folder / name), name):
                raise OSError(f"cannot write {name} into a USDZ package in {folder}")


def _write_pictures(mesh: Mesh, folder: Path) -> dict[str, str]:
    """Write the mesh's textures as PNG files to ``folder``; returns the file names by the mesh's field."""
    from dreamlift.export.glb import TEXTURES, png_bytes

    names = {}
    for field in TEXTURES:
        picture = getattr(mesh, field)
        if picture is not None:
            names[field] = f"{field}.png"
            (folder / names[field]).write_bytes(png_bytes(picture))
    return names


def _write_layer(mesh: Mesh, path: Path, title: str, extras: Mapping[str, Any] | None, pictures: dict[str, str]) -> None:
    Tf, Usd, UsdGeom, UsdShade = _modules("Tf", "Usd", "UsdGeom", "UsdShade")

    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    words = re.sub(r"[^A-Za-z0-9]+", "_", title[:64]).strip("_")
    name = Tf.MakeValidIdentifier(words or "asset")
    root = UsdGeom.Xform.Define(stage, f"/{name}")
    Usd.ModelAPI(root.GetPrim()).SetKind("component")
    stage.SetDefaultPrim(root.GetPrim())
    if extras:
        text = json.dumps(dict(extras), default=str)  # escapes all but ASCII
        stage.GetRootLayer().customLayerData = {"dreamlift": text}
    shape = _define_mesh(stage, f"/{name}/mesh", mesh)
    material = _define_material(stage, f"/{name}/material", mesh, pictures)
    UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
    stage.GetRootLayer().Save()


def _define_mesh(stage: Any, path: str, mesh: Mesh) -> Any:
    """The geometry with normals, UVs and vertex colours."""
    Gf, Sdf, UsdGeom, Vt = _modules("Gf", "Sdf", "UsdGeom", "Vt")

    from dreamlift.color import srgb_to_linear

    shape = UsdGeom.Mesh.Define(stage, path)
    points = np.ascontiguousarray(mesh.vertices, dtype=np.float32)
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
    shape.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, dtype=np.int32)))
    shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.ascontiguousarray(mesh.faces.ravel(), dtype=np.int32)))
    shape.CreateExtentAttr([Gf.Vec3f(*points.min(axis=0).tolist()), Gf.Vec3f(*points.max(axis=0).tolist())])
    # By default a mesh is the control cage of a Catmull-Clark surface.
    shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    assert mesh.vertex_normals is not None
    shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(mesh.vertex_normals, dtype=np.float32)))
    shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    values = UsdGeom.PrimvarsAPI(shape.GetPrim())
    if mesh.uvs is not None:
        # USD has v = 0 at the bottom of a picture.
        uvs = np.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], axis=1).astype(np.float32)
        kind = Sdf.ValueTypeNames.TexCoord2fArray
        values.CreatePrimvar("st", kind, UsdGeom.Tokens.vertex).Set(Vt.Vec2fArray.FromNumpy(uvs))
    if mesh.base_color is None and mesh.vertex_colors is not None:
        linear = srgb_to_linear(np.clip(mesh.vertex_colors, 0, 1)).astype(np.float32)
        kind = Sdf.ValueTypeNames.Color3fArray
        values.CreatePrimvar("displayColor", kind, UsdGeom.Tokens.vertex).Set(Vt.Vec3fArray.FromNumpy(linear))
    return shape


def _define_material(stage: Any, path: str, mesh: Mesh, pictures: dict[str, str]) -> Any:
    """A UsdPreviewSurface with the textures, or else the vertex colours, or else mid grey."""
    Gf, Sdf, UsdShade = _modules("Gf", "Sdf", "UsdShade")

    kinds = Sdf.ValueTypeNames
    material = UsdShade.Material.Define(stage, path)
    surface = UsdShade.Shader.Define(stage, f"{path}/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    color = surface.CreateInput("diffuseColor", kinds.Color3f)
    color.Set(Gf.Vec3f(0.214, 0.214, 0.214))  # sRGB 0.5
    roughness, metallic = surface.CreateInput("roughness", kinds.Float), surface.CreateInput("metallic", kinds.Float)
    roughness.Set(float(mesh.roughness))
    metallic.Set(float(mesh.metallic))
    if "base_color" in pictures:
        texture = _texture(stage, path, "base_color", pictures, "sRGB")
        color.ConnectToSource(texture.CreateOutput("rgb", kinds.Float3))
    elif mesh.vertex_colors is not None:
        reader = _reader(stage, f"{path}/vertex_colors", "UsdPrimvarReader_float3", "displayColor")
        color.ConnectToSource(reader.CreateOutput("result", kinds.Float3))
    if "metallic_roughness" in pictures:
        texture = _texture(stage, path, "metallic_roughness", pictures, "raw")
        scale = Gf.Vec4f(1.0, float(mesh.roughness), float(mesh.metallic), 1.0)
        texture.CreateInput("scale", kinds.Float4).Set(scale)
        roughness.ConnectToSource(texture.CreateOutput("g", kinds.Float))
        metallic.ConnectToSource(texture.CreateOutput("b", kinds.Float))
    if "normal_map" in pictures:
        texture = _texture(stage, path, "normal_map", pictures, "raw")
        texture.CreateInput("scale", kinds.Float4).Set(Gf.Vec4f(2.0, 2.0, 2.0, 1.0))
        texture.CreateInput("bias", kinds.Float4).Set(Gf.Vec4f(-1.0, -1.0, -1.0, 0.0))
        surface.CreateInput("normal", kinds.Normal3f).ConnectToSource(texture.CreateOutput("rgb", kinds.Float3))
    return material


def _texture(stage: Any, path: str, field: str, pictures: dict[str, str], space: str) -> Any:
    """A texture's shader; ``space`` is "sRGB" or "raw"."""
    Sdf, UsdShade = _modules("Sdf", "UsdShade")

    kinds = Sdf.ValueTypeNames
    uvs = _reader(stage, f"{path}/uvs", "UsdPrimvarReader_float2", "st")
    texture = UsdShade.Shader.Define(stage, f"{path}/{field}")
    texture.CreateIdAttr("UsdUVTexture")
    texture.CreateInput("file", kinds.Asset).Set(Sdf.AssetPath(pictures[field]))
    texture.CreateInput("sourceColorSpace", kinds.Token).Set(space)
    for axis in ("wrapS", "wrapT"):
        texture.CreateInput(axis, kinds.Token).Set("clamp")
    texture.CreateInput("st", kinds.Float2).ConnectToSource(uvs.CreateOutput("result", kinds.Float2))
    return texture


def _reader(stage: Any, path: str, kind: str, primvar: str) -> Any:
    """The shader that reads a primvar, a value per vertex."""
    Sdf, UsdShade = _modules("Sdf", "UsdShade")

    reader = UsdShade.Shader.Define(stage, path)
    reader.CreateIdAttr(kind)
    reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set(primvar)
    return reader
