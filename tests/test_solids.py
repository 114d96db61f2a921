"""The volume fit of benchmarks/solids.py, against a ball whose overlaps have closed forms."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asset_helpers import sphere

from dreamlift.cameras import orbit_cameras


@pytest.fixture(scope="module")
def solids():
    path = Path(__file__).parents[1] / "benchmarks" / "solids.py"
    spec = importlib.util.spec_from_file_location("solids", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["solids"] = module
    spec.loader.exec_module(module)
    return module


def test_a_moved_ball_is_fitted_back(solids):
    mesh = sphere(24, 0.7)
    moved = replace(mesh, vertices=(mesh.vertices * 1.3 + [0.1, -0.2, 0.05]).astype(np.float32))
    found = solids.fit_volume(moved, lambda points: points.norm(dim=-1) < 0.7)
    assert found.iou > 0.97
    assert found.scale == pytest.approx(1 / 1.3, rel=0.02)
    assert np.abs(found.apply(moved.vertices).mean(0)).max() < 0.01


def test_a_ball_against_a_cube_of_its_volume(solids):
    """The best ball inside a cube: what lies in both over what lies in either, by counting on a fine grid."""
    side = 1.0
    axis = (np.arange(120) + 0.5) / 120 * 2 - 1
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    cube, far = np.maximum(np.maximum(abs(x), abs(y)), abs(z)) < side / 2, np.sqrt(x**2 + y**2 + z**2)
    best = max((cube & (far < r)).sum() / (cube | (far < r)).sum() for r in np.linspace(0.45, 0.75, 61))
    found = solids.fit_volume(sphere(24, 0.5), lambda points: points.abs().amax(-1) < side / 2)
    assert found.iou == pytest.approx(best, abs=0.02)


def test_the_inflated_silhouette_of_a_ball_is_a_ball(solids):
    size, radius, distance, fov = 96, 0.6, 20.0, math.radians(5.0)  # nearly parallel rays
    camera = orbit_cameras(torch.zeros(1), torch.zeros(1), torch.tensor([distance]), torch.tensor([fov]), size)
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    pixels = float(camera.K[0, 0, 0]) * radius / distance
    mask = ((x - size / 2) ** 2 + (y - size / 2) ** 2 < pixels**2).float()
    photo = torch.stack([mask * 0.2, mask * 0.5, mask * 0.9, mask], dim=-1)
    ball, slab = solids.hull(photo, camera, True), solids.hull(photo, camera)
    assert np.linalg.norm(ball.vertices, axis=1) == pytest.approx(np.full(len(ball.vertices), radius), abs=0.06)
    assert np.abs(slab.vertices[:, 2]).max() == pytest.approx(radius, abs=0.04)  # as deep as the disk is wide
    assert np.linalg.norm(slab.vertices[:, :2], axis=1).max() == pytest.approx(radius, abs=0.04)
    inner = np.linalg.norm(ball.vertices[:, :2], axis=1) < 0.4
    assert ball.vertex_colors[inner].mean(0) == pytest.approx([0.2, 0.5, 0.9], abs=0.02)
