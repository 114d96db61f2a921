"""USDZ files: OpenUSD's own validators, the archive's layout, and what OpenUSD reads in them."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asset_helpers import check_attributes, lump, read_usdz, with_all_pictures
from pxr import Sdf, Usd, UsdGeom, UsdShade, UsdValidation

from dreamlift.export import EXPORTERS, check_formats
from dreamlift.export.usd import save_usdz
from dreamlift.types import Mesh


@pytest.fixture(scope="module")
def meshes() -> dict[str, Mesh]:
    textured = lump()
    plain = replace(textured, uvs=None, base_color=None)
    colors = (0.5 + 0.5 * textured.vertices).clip(0, 1).astype(np.float32)
    return {
        "textured": textured, "all pictures": with_all_pictures(textured), "plain": plain,
        "colored": replace(plain, vertex_colors=colors),
    }  # fmt: skip


def complaints(stage: Usd.Stage) -> list[str]:
    """What every validator that comes with OpenUSD says (``usdchecker`` runs these)."""
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 20
    return [f"{each.GetName()}: {each.GetMessage()}" for each in UsdValidation.ValidationContext(validators).Validate(stage)]


def test_openusd_finds_no_fault(meshes: dict[str, Mesh], tmp_path: Path):
    for name, mesh in meshes.items():
        save_usdz(mesh, tmp_path / f"{name}.usdz", {"prompt": "a mug", "seed": 3})
        assert complaints(Usd.Stage.Open(str(tmp_path / f"{name}.usdz"))) == []


def test_openusd_does_find_faults(meshes: dict[str, Mesh], tmp_path: Path):
    """The check above must be able to fail: a stage without up axis and default object, a normal map without its scale."""
    save_usdz(meshes["all pictures"], tmp_path / "a.usdz")
    stage = Usd.Stage.Open(Usd.Stage.Open(str(tmp_path / "a.usdz")).Flatten())
    stage.GetRootLayer().ClearDefaultPrim()
    stage.ClearMetadata("upAxis")
    for prim in stage.Traverse():
        if prim.GetName() == "normal_map":
            UsdShade.Shader(prim).GetInput("scale").GetAttr().Clear()
    said = " ".join(complaints(stage))
    for word in ("upAxis", "defaultPrim", "ormal"):
        assert word in said


def test_the_stage_says_metres_and_y_up(meshes: dict[str, Mesh], tmp_path: Path):
    extras = {"prompt": "1 red/mug \u2615\n</x> \ud800", "seed": 7}
    save_usdz(meshes["textured"], tmp_path / "a.usdz", extras)
    stage = Usd.Stage.Open(str(tmp_path / "a.usdz"))
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    assert stage.GetDefaultPrim().GetName() == "__red_mug_x"
    assert json.loads(stage.GetRootLayer().customLayerData["dreamlift"]) == extras
    save_usdz(meshes["plain"], tmp_path / "my mug.usdz", {"prompt": "\u2615\u2615"})
    assert Usd.Stage.Open(str(tmp_path / "my mug.usdz")).GetDefaultPrim().GetName() == "asset"
    save_usdz(meshes["plain"], tmp_path / "my mug.usdz")
    assert Usd.Stage.Open(str(tmp_path / "my mug.usdz")).GetDefaultPrim().GetName() == "my_mug"


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "a{b}</mug>", "default", "_", "0", "x" * 5000, "def Xform"])
def test_hostile_names_stay_names(prompt: str, meshes: dict[str, Mesh], tmp_path: Path):
    save_usdz(meshes["plain"], tmp_path / "a.usdz", {"prompt": prompt})
    stage = Usd.Stage.Open(str(tmp_path / "a.usdz"))
    assert Sdf.Path.IsValidIdentifier(stage.GetDefaultPrim().GetName())
    assert len(list(stage.Traverse())) == 4  # the object, its mesh, its material and that one's surface
    assert complaints(stage) == []


def test_the_archive_is_stored_and_aligned(meshes: dict[str, Mesh], tmp_path: Path):
    path = tmp_path / "a.usdz"
    save_usdz(meshes["all pictures"], path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        assert archive.testzip() is None
    names = ["asset.usdc", "base_color.png", "metallic_roughness.png", "normal_map.png"]
    assert [entry.filename for entry in entries] == names  # the layer comes first
    for entry in entries:
        assert entry.compress_type == zipfile.ZIP_STORED
        sizes = np.frombuffer(data[entry.header_offset + 26 : entry.header_offset + 30], "<u2")
        assert (entry.header_offset + 30 + int(sizes.sum())) % 64 == 0


def test_openusd_reads_the_same_mesh(meshes: dict[str, Mesh], tmp_path: Path):
    for mesh in meshes.values():
        save_usdz(mesh, tmp_path / "a.usdz")
        back = read_usdz(tmp_path / "a.usdz")
        assert np.array_equal(back.vertices, mesh.vertices)
        assert np.array_equal(back.faces, mesh.faces)
        assert (back.metallic, back.roughness) == (0.25, 0.75)
        check_attributes(back, mesh)


def test_factors_scale_the_material_picture(meshes: dict[str, Mesh], tmp_path: Path):
    save_usdz(meshes["all pictures"], tmp_path / "a.usdz")
    stage = Usd.Stage.Open(str(tmp_path / "a.usdz"))
    texture = next(UsdShade.Shader(prim) for prim in stage.Traverse() if prim.GetName() == "metallic_roughness")
    assert tuple(texture.GetInput("scale").Get()) == (1.0, 0.75, 0.25, 1.0)
    assert texture.GetInput("sourceColorSpace").Get() == "raw"
    color = next(UsdShade.Shader(prim) for prim in stage.Traverse() if prim.GetName() == "base_color")
    assert color.GetInput("sourceColorSpace").Get() == "sRGB"


def test_without_usd_core_the_fix_is_named(meshes: dict[str, Mesh], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(ValueError, match=r'pip install "dreamlift\[usd\]"'):
        EXPORTERS["usdz"](meshes["plain"], tmp_path / "a.usdz", None)
    with pytest.raises(ValueError, match=r'pip install "dreamlift\[usd\]"'):
        check_formats(["glb", "usdz"])
    check_formats(["glb", "obj", "ply", "stl"])
    assert not list(tmp_path.iterdir())
