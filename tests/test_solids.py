"""The solids of benchmarks/solids.py, against a ball."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamlift.cameras import orbit_cameras


@pytest.fixture(scope="module")
def solids():
    path = Path(__file__).parents[1] / "benchmarks" / "solids.py"
    spec = importlib.util.spec_from_file_location("solids", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["solids"] = module
    spec.loader.exec_module(module)
    return module


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
