"""What an engine takes: size and pivot, watertight meshes, levels of detail, meshes without texture, all formats."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from asset_helpers import lump, read_foreign, sphere, tint, with_all_pictures
from lift_helpers import generate_words, refused, run_main, small_pictures, status_of
from PIL import Image

from dreamlift.apps.evaluate import Item, evaluate
from dreamlift.asset import Asset
from dreamlift.cameras import turntable
from dreamlift.config.schema import Config
from dreamlift.export import EXPORTERS
from dreamlift.export.glb import load_glb, save_glb
from dreamlift.export.placement import Placement, place
from dreamlift.export.printing import PRINTED
from dreamlift.export.psnr import psnr
from dreamlift.export.settings import Files
from dreamlift.meshing.clean import decimate
from dreamlift.meshing.geometry import is_closed, signed_volume
from dreamlift.meshing.nearest import Nearest
from dreamlift.meshing.watertight import boundary_loops, fill_holes, is_watertight, make_watertight, remesh, weld
from dreamlift.runs.progress import Plain
from dreamlift.texturing.bake import rasterize_uvs
from dreamlift.texturing.draw import render_mesh
from dreamlift.texturing.extract import Extract, finalize, finish_surface, levels_of_detail
from dreamlift.types import Mesh


@pytest.fixture(scope="module")
def textured() -> Mesh:
    return lump()


def asset_of(mesh: Mesh, **changes) -> Asset:
    config = Config(prompt="a red mug", asset=Files(**changes))
    return Asset(mesh, config, turntable(1, 0.0, 2.9, 42.0, 8), torch.zeros(1, 8, 8, 3))


# Size and pivot


def test_a_saved_asset_has_the_size_and_the_pivot_that_were_asked_for(textured: Mesh, tmp_path: Path):
    moved = replace(textured, vertices=textured.vertices * 0.6 + np.float32(0.2))
    for scale, pivot in ((1.0, "center"), (0.25, "base"), (30.0, "center"), (None, "base")):
        for kind in sorted({*EXPORTERS} - {*PRINTED}):
            path = asset_of(moved, scale=scale, pivot=pivot).save(tmp_path / f"a.{kind}")
            points = read_foreign(path).vertices
            low, high = points.min(axis=0), points.max(axis=0)
            side = float(np.ptp(moved.vertices, axis=0).max()) if scale is None else scale
            assert (high - low).max() == pytest.approx(side, rel=1e-5)
            middle = 0.5 * (low + high)
            assert np.abs(middle[[0, 2]]).max() < 1e-5 * side
            assert abs(low[1] if pivot == "base" else middle[1]) < 1e-5 * side
        scene = load_glb(tmp_path / "a.glb")  # the scene's coordinates again
        assert np.abs(scene.vertices - moved.vertices).max() < 1e-6
        assert np.array_equal(load_glb(tmp_path / "a.glb", as_placed=True).faces, scene.faces)


def test_evaluation_does_not_see_size_and_pivot(tmp_path: Path):
    mesh = lump(40, 256)
    items = []
    for name, changes in (("world", {"scale": None}), ("placed", {"scale": 0.1, "pivot": "base"})):
        (tmp_path / name).mkdir()
        path = asset_of(mesh, **changes).save(tmp_path / name / "asset.glb")
        items.append(Item(name, path, "a red mug", math.nan, math.nan))
    report, scored = evaluate(items, Plain())
    first, second = report["runs"]
    assert not np.allclose(load_glb(items[0].glb, True).vertices, load_glb(items[1].glb, True).vertices, atol=0.1)
    for name, value in first.items():
        if isinstance(value, float) and not math.isnan(value):
            assert second[name] == pytest.approx(value, abs=2e-3), name
    assert psnr(scored[0].scored.pictures, scored[1].scored.pictures) > 45
    cameras = turntable(2, 15.0, 2.9, 42.0, 48)  # as a run's own turntable looks at it
    assert psnr(*(render_mesh(load_glb(item.glb), cameras).rgb for item in items)) > 45


def test_a_placement_is_undone_and_a_hostile_one_refused(textured: Mesh, tmp_path: Path):
    where = place(textured, 7.0, "base")
    assert Placement.from_extras({"placement": json.loads(json.dumps(where.to_extras()))}) == where
    assert np.abs(where.undo(where.apply(textured)).vertices - textured.vertices).max() < 1e-6
    for bad in ({"scale": 0, "offset": [0, 0, 0]}, {"scale": 1}, [1], "x", {"scale": 1e999, "offset": [0, 0, 0]},
                {"scale": 1, "offset": [0, 0]}, {"scale": 1, "offset": {"x": 1}}):  # fmt: skip
        with pytest.raises(ValueError, match="placement"):
            Placement.from_extras({"placement": bad})
    save_glb(textured, tmp_path / "a.glb", {"placement": {"scale": -1.0, "offset": [0, 0, 0]}})
    with pytest.raises(ValueError, match="placement"):
        load_glb(tmp_path / "a.glb")


# Formats in other readers


@pytest.mark.parametrize("kind", sorted(EXPORTERS))
def test_another_reader_gives_the_same_pictures(kind: str, textured: Mesh, tmp_path: Path):
    path = tmp_path / f"a mug.{kind}"
    EXPORTERS[kind](textured, path, {"prompt": "x"})
    back = read_foreign(path)
    cameras = turntable(3, 20.0, 2.4, 42.0, 64)
    ours = render_mesh(textured if kind not in PRINTED else Mesh(textured.vertices, textured.faces), cameras)
    theirs = render_mesh(back, cameras)
    assert torch.equal(ours.opacity > 0.5, theirs.opacity > 0.5)
    assert psnr(theirs.rgb, ours.rgb) > (24 if kind == "ply" else 45)  # a PLY has the texture at its vertices only
    colored = replace(textured, uvs=None, base_color=None, vertex_colors=tint(torch.from_numpy(textured.vertices)).numpy())
    EXPORTERS[kind](colored, path, None)
    if kind not in (*PRINTED, "glb"):  # trimesh gives a GLB's vertex colours as they are stored, in linear light
        assert psnr(render_mesh(read_foreign(path), cameras).rgb, render_mesh(colored, cameras).rgb) > 40


def test_obj_names_every_picture(textured: Mesh, tmp_path: Path):
    full = with_all_pictures(textured)
    EXPORTERS["obj"](full, tmp_path / "my mug.obj", None)
    rows = dict(line.split(" ", 1) for line in (tmp_path / "my_mug.mtl").read_text().splitlines())
    pictures = {key: Image.open(tmp_path / rows[key]) for key in ("map_Kd", "map_Pr", "map_Pm", "norm")}
    assert full.metallic_roughness is not None
    scaled = full.metallic_roughness.astype(float) * [0, 0.75, 0.25]
    assert np.abs(np.asarray(pictures["map_Pr"]) - scaled[..., 1]).max() <= 0.5
    assert np.abs(np.asarray(pictures["map_Pm"]) - scaled[..., 2]).max() <= 0.5
    assert np.array_equal(np.asarray(pictures["norm"]), full.normal_map)


def test_stl_is_the_binary_form_and_welds_to_a_solid(textured: Mesh, tmp_path: Path):
    EXPORTERS["stl"](textured, tmp_path / "a.stl", {"prompt": "solid gold"})
    data = (tmp_path / "a.stl").read_bytes()
    assert len(data) == 84 + 50 * len(textured.faces)
    assert not data.startswith(b"solid")
    found = trimesh.load_mesh(tmp_path / "a.stl")
    assert found.is_watertight
    assert found.volume == pytest.approx(signed_volume(textured.vertices, textured.faces), rel=1e-5)
    outward = np.einsum("fi,fi->f", found.face_normals, found.triangles_center - found.center_mass)
    assert (outward > 0).mean() > 0.9


# Watertight


def damaged(kind: str) -> Mesh:
    mesh = weld(sphere(24, 0.8))
    middle = mesh.vertices[mesh.faces].mean(axis=1)
    rng = np.random.default_rng(0)
    keep = {
        "small hole": middle[:, 0] < 0.79,
        "half": middle[:, 1] < 0.15,
        "sieve": rng.random(len(middle)) > 0.3,
        "two holes": np.abs(middle[:, 2]) < 0.6,
    }[kind]
    return replace(mesh, faces=mesh.faces[keep])


@pytest.mark.parametrize(("kind", "low", "high"), [("small hole", 0.98, 1.0), ("half", 0.55, 0.7), ("sieve", 0.85, 1.0),
                                                   ("two holes", 0.85, 0.96)])  # fmt: skip
def test_damaged_spheres_become_solids(kind: str, low: float, high: float):
    """What is left when each hole is closed by a plane, as a share of the sphere (a cap has pi h^2 (3 r - h) / 3)."""
    open_ = damaged(kind)
    assert not is_watertight(open_)
    for closed in (make_watertight(open_), remesh(open_, 48)):
        found = trimesh.Trimesh(closed.vertices, closed.faces, process=False)
        assert found.is_watertight
        assert found.is_winding_consistent
        share = found.volume / (4 / 3 * math.pi * 0.8**3)
        assert low - 0.03 < share < high + 0.1  # remade, a hole is closed by a smooth bulge


def test_remeshing_keeps_a_solid_as_it_is_also_inside_out():
    mesh = weld(sphere(32, 0.8))
    for faces in (mesh.faces, mesh.faces[:, ::-1]):
        found = remesh(Mesh(mesh.vertices, np.ascontiguousarray(faces)), 64)
        radius = np.linalg.norm(found.vertices, axis=1)
        assert np.abs(radius - 0.8).max() < 0.015
        assert signed_volume(found.vertices, found.faces) == pytest.approx(4 / 3 * math.pi * 0.8**3, rel=0.02)
    sheet = Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32), np.array([[0, 1, 2]], np.int32))
    with pytest.raises(ValueError, match="bounds no solid"):
        remesh(sheet, 32)


def test_small_holes_are_filled_and_large_ones_kept():
    small, large = damaged("small hole"), damaged("half")
    assert is_closed(fill_holes(small).faces) is False  # 0.25 wide: more than a tenth of 1.6
    assert is_closed(fill_holes(small, 0.3).faces)
    assert len(fill_holes(large).faces) == len(large.faces)
    (loop,) = boundary_loops(large.faces)
    assert len(loop) == len(set(loop.tolist())) > 48
    assert np.abs(large.vertices[loop][:, 1] - 0.15).max() < 0.1
    pricked = replace(small, faces=np.delete(weld(sphere(24, 0.8)).faces, [500], axis=0))
    assert is_closed(fill_holes(replace(pricked, vertices=weld(sphere(24, 0.8)).vertices)).faces)


def test_solids_that_touch_along_an_edge_are_watertight_already():
    """Two cubes with one edge in common: four faces meet there, and nothing is open. They are moved apart by a hair."""
    boxes = [trimesh.creation.box((1, 1, 1), trimesh.transformations.translation_matrix(at)) for at in ((0, 0, 0), (1, 1, 0))]
    both = trimesh.util.concatenate(boxes)
    mesh = Mesh(np.asarray(both.vertices, np.float32), np.asarray(both.faces, np.int32))
    assert is_watertight(mesh)
    found = make_watertight(mesh)
    assert len(found.faces) == 24
    assert is_closed(found.faces)
    assert signed_volume(found.vertices, found.faces) == pytest.approx(2.0, rel=1e-3)
    assert trimesh.Trimesh(found.vertices, found.faces, process=True).is_watertight


def test_any_scenes_mesh_is_closed_and_keeps_its_colours(textured: Mesh):
    hole = replace(textured, faces=textured.faces[textured.vertices[textured.faces].mean(axis=1)[:, 1] < 0.35])
    assert finalize(textured, Extract(watertight=True)) is textured
    assert finalize(hole, Extract()) is hole
    closed = finalize(hole, Extract(watertight=True, texture_size=128, resolution=48))
    assert is_watertight(closed)
    assert closed.base_color is not None
    cameras = turntable(2, -40.0, 2.4, 42.0, 48)  # from below, where nothing was missing
    assert psnr(render_mesh(closed, cameras).rgb, render_mesh(hole, cameras).rgb) > 28
    with pytest.warns(UserWarning, match="no normal map to bake"):
        assert finalize(textured, Extract(normal_map=True)) is textured
    bare = finalize(textured, Extract(texture=False))
    assert bare.uvs is None
    assert bare.base_color is None
    assert is_closed(bare.faces)
    assert bare.vertex_colors is not None
    assert np.abs(bare.vertex_colors - tint(torch.from_numpy(bare.vertices)).numpy()).mean() < 0.03
    assert (bare.metallic, bare.roughness) == (textured.metallic, textured.roughness)


def test_without_its_picture_a_material_keeps_its_mean(textured: Mesh):
    assert textured.base_color is not None
    green, blue = 120, 10  # roughness and metallic; what lies between the charts must not count
    picture = np.zeros_like(textured.base_color)
    assert textured.uvs is not None
    texel, face, _ = rasterize_uvs(textured.uvs, textured.faces, len(picture))
    picture.reshape(-1, 3)[texel] = (0, green, blue)
    flat = finalize(replace(textured, metallic_roughness=picture, metallic=1.0, roughness=0.5), Extract(texture=False))
    assert flat.metallic_roughness is None
    assert flat.metallic == pytest.approx(blue / 255, rel=0.05)
    assert flat.roughness == pytest.approx(0.5 * green / 255, rel=0.05)
    # The arm's side is metal: the share of the whole surface that it is, from the triangles themselves.
    corners = textured.vertices[textured.faces].astype(np.float64)
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    metal = corners.mean(axis=1)[:, 0] > 0.2
    picture.reshape(-1, 3)[texel] = np.where(metal[face.numpy()][:, None], 255, 0)
    half = finalize(replace(textured, metallic_roughness=picture, metallic=1.0), Extract(texture=False))
    assert half.metallic == pytest.approx(areas[metal].sum() / areas.sum(), abs=0.02)


def test_a_face_budget_holds_for_any_scenes_mesh_but_ones_own(textured: Mesh):
    few = finalize(textured, Extract(faces=400, texture_size=128))
    assert len(few.faces) <= 400
    assert few.base_color is not None
    cameras = turntable(2, 10.0, 2.4, 42.0, 48)
    assert psnr(render_mesh(few, cameras).rgb, render_mesh(textured, cameras).rgb) > 26
    with pytest.warns(UserWarning, match="keeps its"):
        assert finalize(textured, Extract(faces=400), keep_faces=True) is textured


def test_a_fine_surface_is_finished_as_the_settings_say():
    fine = damaged("two holes")
    color = lambda points, normals: tint(points)  # noqa: E731
    settings = Extract(resolution=48, faces=600, texture_size=64, watertight=True, smooth=0)
    mesh = finish_surface(fine, color, settings)
    assert is_watertight(mesh)
    assert len(mesh.faces) <= 600
    plain = finish_surface(fine, color, replace(settings, texture=False, watertight=False))
    assert not is_watertight(plain)
    assert plain.uvs is None
    assert plain.vertex_colors is not None
    assert np.allclose(plain.vertex_colors, tint(torch.from_numpy(plain.vertices)).numpy(), atol=1e-5)


# Levels of detail, and the transfer between meshes


def test_levels_of_detail_halve_the_faces_and_look_the_same(textured: Mesh):
    full = with_all_pictures(lump(40, 256))
    levels = levels_of_detail(full, 3, 256)
    assert levels_of_detail(full, 1, 256) == ()
    cameras = turntable(3, 20.0, 2.4, 42.0, 64)
    reference = render_mesh(full, cameras)
    for level, (mesh, least) in enumerate(zip(levels, (30, 26), strict=True), start=1):
        assert 0.8 * len(full.faces) < len(mesh.faces) * 2**level <= len(full.faces)
        assert mesh.base_color is not None
        assert mesh.base_color.shape == (256 >> level, 256 >> level, 3)
        assert mesh.metallic_roughness is not None
        assert mesh.normal_map is not None
        assert (mesh.metallic, mesh.roughness) == (full.metallic, full.roughness)
        assert is_watertight(mesh)
        assert psnr(render_mesh(mesh, cameras).rgb, reference.rgb) > least
    bare = Mesh(full.vertices, full.faces)
    assert all(mesh.uvs is None for mesh in levels_of_detail(bare, 2, 64))


def test_the_nearest_point_is_that_of_brute_force():
    mesh = decimate(weld(sphere(24)), 200)  # large triangles: none may be missed
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(400, 3, generator=generator)
    near = torch.from_numpy(mesh.vertices[mesh.faces[:, 0]]) * (1 + 0.02 * torch.randn(len(mesh.faces), 1, generator=generator))
    points = torch.cat([points, near])
    nearest = Nearest(mesh, 20_000)
    face, bary = nearest(points)
    found = (bary[:, :, None] * nearest.corners[face]).sum(dim=1)
    triangles = mesh.vertices[mesh.faces].astype(np.float64)
    best = np.full(len(points), np.inf)
    for triangle in triangles:
        other = trimesh.triangles.closest_point(np.repeat(triangle[None], len(points), axis=0), points.double().numpy())
        best = np.minimum(best, np.linalg.norm(other - points.double().numpy(), axis=1))
    gap = (found - points).norm(dim=1).double().numpy() - best
    assert gap.min() > -1e-5
    assert gap[400:].max() < 0.01  # of the sphere's 0.7
    assert gap.max() < 0.02


def test_the_back_of_a_thin_wall_is_passed_over():
    box = trimesh.creation.box((2.0, 2.0, 0.01))
    mesh = Mesh(np.asarray(box.vertices, np.float32), np.asarray(box.faces, np.int32))
    points = torch.tensor([[0.3, 0.2, 0.001], [0.3, 0.2, -0.001]])
    up = torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    nearest = Nearest(mesh)
    for normals, side in ((up, 0.005), (-up, -0.005)):
        face, bary = nearest(points, normals)
        assert torch.allclose((bary[:, :, None] * nearest.corners[face]).sum(dim=1)[:, 2], torch.tensor(side), atol=1e-6)


# The command


def test_a_run_writes_what_is_asked_for_and_export_anew(cwd: Path, stub: Path, capsys, monkeypatch):
    small_pictures(monkeypatch)
    more = [
        "--format",
        "STL, usdz",
        "--scale",
        "0.2",
        "--print-size",
        "8cm",
        "--pivot",
        "base",
        "--lod",
        "2",
        "--watertight",
        "--normal-map",
    ]
    assert run_main(*generate_words(stub, "run", *more)) == 0
    names = {f"asset{level}.{kind}" for level in ("", "_lod1") for kind in ("glb", "stl", "usdz")}
    run = cwd / "run"
    assert {path.name for path in run.glob("asset*")} == names
    for kind in ("glb", "stl", "usdz"):
        points = read_foreign(run / f"asset.{kind}").vertices
        assert np.ptp(points, axis=0).max() == pytest.approx(80 if kind == "stl" else 0.2, rel=1e-4)
        assert abs(points[:, 2 if kind == "stl" else 1].min()) < 1e-5
    assert trimesh.load_mesh(run / "asset.stl").is_watertight
    whole, half = (read_foreign(run / f"asset{level}.glb") for level in ("", "_lod1"))
    assert len(half.faces) <= len(whole.faces) // 2
    assert load_glb(run / "asset.glb").normal_map is not None
    assert status_of(run)["metrics"]["roundtrip_psnr"] > 15  # compared in the scene's own coordinates
    capsys.readouterr()
    assert (
        run_main("export", "run", "--format", "ply", "--no-texture", "--mesh.normal_map=false", "--scale", "null", "--lod=1")
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [os.path.join("run", "asset.ply")]
    colored = read_foreign(run / "asset.ply")
    assert colored.vertex_colors is not None
    assert is_closed(colored.faces)  # no seams: one vertex a place
    monkeypatch.setitem(__import__("sys").modules, "pxr", None)
    refused(capsys, cwd, generate_words(stub, "other", "--format", "usdz"), 'pip install "dreamlift[usd]"')
