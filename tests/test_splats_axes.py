"""The axes of splats.ply: the turned Gaussians, seen by the turned camera, give the same picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asset_helpers import sphere

from dreamlift.asset import Asset
from dreamlift.cameras import turntable
from dreamlift.config.schema import Config
from dreamlift.export.settings import Files
from dreamlift.export.splats import TURNED, load_splats, turned_over
from dreamlift.scenes.gaussians.harmonics import sh_basis
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.types import Splats

TURN = np.diag([1.0, -1.0, -1.0])  # by 180 degrees about x


def random_splats(degree: int, count: int = 60) -> Splats:
    rng = np.random.default_rng(degree)
    higher = (degree + 1) ** 2 - 1
    shapes = {"means": (3,), "quats": (4,), "log_scales": (3,), "logit_opacities": (), "sh0": (1, 3), "shN": (higher, 3)}
    values = {name: rng.normal(size=(count, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return Splats(**{**values, "means": 0.3 * values["means"], "log_scales": 0.7 * values["log_scales"] - 2.5})


def picture(splats: Splats, cameras) -> torch.Tensor:
    count, degree = len(splats.means), int((splats.shN.shape[1] + 1) ** 0.5) - 1
    scene = Gaussians(count=count, capacity=count, sh_degree=degree).build(torch.Generator().manual_seed(0)).eval()
    for name, values in vars(splats).items():
        getattr(scene, name).data = torch.from_numpy(values)
    with torch.no_grad():
        out = scene.render(cameras, torch.Generator(), background=torch.tensor([0.1, 0.5, 0.9]))
    return torch.cat([out.rgb, out.opacity, out.depth], dim=-1)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_turned_scene_looks_the_same_from_a_turned_camera(degree: int):
    splats = random_splats(degree)
    cameras = turntable(3, elevation_deg=25.0, size=32)
    turn = torch.eye(4)
    turn[:3, :3] = torch.from_numpy(TURN).float()
    before = picture(splats, cameras)
    after = picture(turned_over(splats), replace(cameras, c2w=turn @ cameras.c2w))
    assert before[..., :3].std() > 0.05
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    twice = turned_over(turned_over(splats))
    np.testing.assert_allclose(twice.quats, -splats.quats)  # a full turn: the same rotation
    assert np.array_equal(twice.shN, splats.shN)


def test_without_its_harmonics_or_rotations_turned_the_picture_differs():
    """The test above must be able to fail."""
    splats = random_splats(3)
    cameras = turntable(3, elevation_deg=25.0, size=32)
    turn = torch.eye(4)
    turn[:3, :3] = torch.from_numpy(TURN).float()
    before, turned = picture(splats, cameras), replace(cameras, c2w=turn @ cameras.c2w)
    for name in ("means", "quats", "shN"):
        wrong = replace(turned_over(splats), **{name: getattr(splats, name)})
        assert (picture(wrong, turned) - before).abs().max() > 0.05, name


def test_the_signs_are_those_of_the_basis():
    points = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    there = sh_basis(points @ torch.from_numpy(TURN), 3)
    torch.testing.assert_close(there, sh_basis(points, 3) * torch.tensor([1.0, *TURNED], dtype=torch.float64))


def test_the_setting_turns_the_file_and_nothing_else(tmp_path: Path):
    """y-down is 180 degrees about x after the placement, by the quaternions' own matrices."""
    splats, mesh = random_splats(2), sphere(8)
    files = {}
    for axes in ("y-up", "y-down"):
        config = Config(prompt="a red mug", asset=Files(scale=3.0, pivot="base", splats_axes=axes))
        asset = Asset(mesh, config, turntable(1, size=8), torch.zeros(1, 8, 8, 3), splats=splats)
        files[axes] = load_splats(asset.save_splats(tmp_path / f"{axes}.ply"))
        (tmp_path / f"{axes}.glb").write_bytes(asset.save(tmp_path / "a.glb").read_bytes())
        assert b'"axes": "+y ' + axes[2:].encode() in (tmp_path / f"{axes}.ply").read_bytes()[:400]
    up, down = files["y-up"], files["y-down"]
    np.testing.assert_array_equal(down.means, up.means @ TURN.astype(np.float32))
    for name in ("log_scales", "logit_opacities", "sh0"):
        np.testing.assert_array_equal(getattr(down, name), getattr(up, name))
    np.testing.assert_allclose(matrices(down.quats), TURN @ matrices(up.quats), atol=1e-6)
    assert (tmp_path / "y-up.glb").read_bytes() == (tmp_path / "y-down.glb").read_bytes()


def matrices(quats: np.ndarray) -> np.ndarray:
    """Rotation matrices ``(N, 3, 3)`` of w, x, y, z, by Rodrigues' formula from axis and angle."""
    unit = quats.astype(float) / np.linalg.norm(quats, axis=1, keepdims=True)
    sine = np.linalg.norm(unit[:, 1:], axis=1)
    angle, (x, y, z) = 2 * np.arctan2(sine, unit[:, 0]), (unit[:, 1:] / sine[:, None]).T
    zero = np.zeros_like(x)
    cross = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    return np.eye(3) + np.sin(angle)[:, None, None] * cross + (1 - np.cos(angle))[:, None, None] * (cross @ cross)
