"""Files for printers, read by others' code: unit, axes, size, closedness; what does not change them."""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from asset_helpers import lump, read_3mf
from lift_helpers import generate_words, refused, run_main, small_pictures

from dreamlift.apps.options import in_millimeters
from dreamlift.asset import Asset
from dreamlift.cameras import turntable
from dreamlift.config.build import ConfigError, from_plain
from dreamlift.config.schema import Config
from dreamlift.export.settings import Files
from dreamlift.texturing.extract import Extract
from dreamlift.types import Mesh


@pytest.fixture(scope="module")
def textured() -> Mesh:
    return lump()


def asset_of(mesh: Mesh, extract: Extract | None = None, lods: tuple[Mesh, ...] = (), **changes) -> Asset:
    config = Config(prompt="a red mug", asset=Files(**changes), mesh=extract or Extract())
    return Asset(mesh, config, turntable(1, 0.0, 2.9, 42.0, 8), torch.zeros(1, 8, 8, 3), lods=lods)


def read(path: Path) -> trimesh.Trimesh:
    """Vertices at the same position are merged, as slicers do."""
    if path.suffix == ".stl":
        return trimesh.load_mesh(path)
    found = read_3mf(path)
    return trimesh.Trimesh(found.vertices, found.faces, process=True)


def box(size: tuple[float, float, float]) -> Mesh:
    """A box by trimesh without its lower side, away from the origin."""
    found = trimesh.creation.box(size)
    faces = found.faces[found.face_normals[:, 1] > -0.5]
    return Mesh((np.asarray(found.vertices) + np.array([3, 4, 5])).astype(np.float32), np.asarray(faces, np.int32))


@pytest.mark.parametrize("kind", ["stl", "3mf"])
def test_a_print_is_in_millimetres_with_z_up_and_closed(kind: str, tmp_path: Path):
    """x, y, z = 1, 2, 0.5 (width, height, depth) at 80 mm: 40 wide, 80 high, 20 deep; the front, +z here, faces -y there."""
    mesh = box((1.0, 2.0, 0.5))
    mark = mesh.vertices[:, 2] > 5  # the front
    found = read(asset_of(mesh, print_size=80.0).save(tmp_path / f"a.{kind}"))
    np.testing.assert_allclose(found.extents, [40, 20, 80], rtol=1e-5)
    np.testing.assert_allclose(found.bounds[0], [-20, -10, 0], atol=1e-4)
    assert found.is_watertight
    assert found.volume == pytest.approx(40 * 20 * 80, rel=1e-4)
    open_ = asset_of(mesh, Extract(watertight=False), print_size=80.0).save(tmp_path / f"b.{kind}")
    assert not read(open_).is_watertight
    points = read_3mf(open_).vertices if kind == "3mf" else None
    assert points is None or np.array_equal(points[:, 1] < 0, mark)


@pytest.mark.parametrize("kind", ["stl", "3mf"])
def test_a_print_has_its_own_size(kind: str, textured: Mesh, tmp_path: Path):
    """Scale and pivot are those of the other files, and the other files have neither the print's size nor its axes."""

    def longest(**changes) -> float:
        return float(read(asset_of(textured, **changes).save(tmp_path / f"a.{kind}")).extents.max())

    assert longest() == pytest.approx(100, rel=1e-5)
    assert longest(scale=7.0, pivot="base") == pytest.approx(100, rel=1e-5)
    assert longest(print_size=25.4) == pytest.approx(25.4, rel=1e-5)
    assert longest(scale=0.12, print_size=None) == pytest.approx(120, rel=1e-5)
    one = asset_of(textured).save(tmp_path / "a.glb").read_bytes()
    assert asset_of(textured, print_size=5.0).save(tmp_path / "b.glb").read_bytes() == one


def test_seams_levels_and_prompts(textured: Mesh, tmp_path: Path):
    """UV seams are no holes, coarser levels have the same size, and a prompt is text in XML."""
    assert textured.uvs is not None
    rough = lump(10, 64)
    asset = asset_of(textured, lods=(rough,))
    asset = replace(asset, config=replace(asset.config, prompt='a <b> & "mug" \u2615 \ud800\x07'))
    for level in (0, 1):
        found = read(asset.save(tmp_path / "a.3mf", level))
        assert found.is_watertight
        assert found.extents.max() == pytest.approx(100, rel=1e-5)
        low = read_3mf(tmp_path / "a.3mf", placed=True).vertices.min(axis=0)
        np.testing.assert_allclose(low, 0, atol=1e-3)  # in the octant of positive coordinates
    assert len(read_3mf(tmp_path / "a.3mf").faces) == len(rough.faces)
    text = zipfile.ZipFile(tmp_path / "a.3mf").read("3D/3dmodel.model").decode()
    assert '<metadata name="Title">a &lt;b&gt; &amp; "mug" \u2615 ??</metadata>' in text
    again = asset.save(tmp_path / "b.3mf", 1).read_bytes()
    assert again == (tmp_path / "a.3mf").read_bytes()


def test_what_bounds_no_solid_is_written_open_with_a_word(tmp_path: Path):
    sheet = Mesh(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32), np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    with pytest.warns(UserWarning, match="not watertight: the mesh bounds no solid"):
        path = asset_of(sheet).save(tmp_path / "a.stl")
    assert len(read(path).faces) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asset_of(sheet, Extract(watertight=False)).save(tmp_path / "a.stl")


def test_lengths_have_units():
    for text, wanted in (("80mm", "80"), ("80", "80"), ("8 cm", "80"), ("0.5in", "12.7"), ("2IN", "50.8"), ("null", "null")):
        assert in_millimeters(text) == wanted
    for text in ("80m", "mm", "-3mm", "nan", "1e3", "", "80mm high", "0x10"):
        with pytest.raises(ValueError, match="accepted: a length such as 80mm, 8cm or 3in"):
            in_millimeters(text)
    for size in (0.0, 0.05, 20_000.0):
        with pytest.raises(ConfigError, match=r"print_size is .*accepted: 0\.1 to 10000 millimeters"):
            from_plain(Config, {"asset": {"print_size": size}})


def test_the_command_line_prints_what_was_asked_for(cwd, stub, monkeypatch, capsys):
    small_pictures(monkeypatch)
    assert run_main(*generate_words(stub, "run", "--format", "stl", "--print-size", "3in", "--scale", "0.5")) == 0
    assert read(cwd / "run" / "asset.stl").extents.max() == pytest.approx(76.2, rel=1e-4)
    glb = (cwd / "run" / "asset.glb").read_bytes()
    assert np.ptp(trimesh.load_mesh(cwd / "run" / "asset.glb").vertices, axis=0).max() == pytest.approx(0.5, rel=1e-4)
    assert run_main("export", "run", "--format", "3mf,stl", "--scale", "7") == 0
    for kind in ("stl", "3mf"):
        found = read(cwd / "run" / f"asset.{kind}")
        assert found.extents.max() == pytest.approx(76.2, rel=1e-4)
        assert found.is_watertight
    assert (cwd / "run" / "asset.glb").read_bytes() == glb
    capsys.readouterr()
    refused(
        capsys, cwd, ["export", "run", "--print-size", "3 miles"], "--print-size is '3 miles'; accepted: a length such as 80mm"
    )
