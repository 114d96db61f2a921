"""SSIM and CLIP similarity against their definitions; the front view of assets against pictures whose truth is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asset_helpers import lump
from clip_helpers import random_clip
from lift_helpers import run_main
from PIL import Image

from dreamlift.apps.clip_score import clip_similarity, load_clip
from dreamlift.apps.front_view import compare_front, framed, read_reference
from dreamlift.apps.ssim import ssim
from dreamlift.cameras import orbit_cameras
from dreamlift.config.build import save_yaml
from dreamlift.config.schema import Config
from dreamlift.export.glb import save_glb
from dreamlift.priors.zero123.encoding import CLIP_MEAN as MEAN
from dreamlift.priors.zero123.encoding import CLIP_STD as STD
from dreamlift.reading.photos import Photo
from dreamlift.runs.run import Run
from dreamlift.texturing.draw import render_mesh
from dreamlift.types import Pictures


def brute_force(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of ``(H, W)`` by two loops over the windows."""
    far = np.arange(11) - 5
    weight = np.exp(-(far[:, None] ** 2 + far[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    found = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mx, my = (weight * x).sum(), (weight * y).sum()
            vx, vy, c = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum(), (weight * (x - mx) * (y - my)).sum()
            found.append((2 * mx * my + 1e-4) * (2 * c + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return float(np.mean(found))


def test_ssim_is_its_definition():
    rng = np.random.default_rng(0)
    a = rng.random((2, 15, 13, 3))
    b = np.clip(a + rng.normal(0, 0.2, a.shape), 0, 1)
    want = np.mean([brute_force(a[i, ..., c], b[i, ..., c]) for i in range(2) for c in range(3)])
    assert ssim(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(want, abs=1e-9)
    assert ssim(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(1.0)
    grey, other = torch.full((1, 11, 11, 1), 0.25), torch.full((1, 11, 11, 1), 0.75)  # flat: only the means count
    assert ssim(grey, other) == pytest.approx((2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4), abs=1e-6)
    with pytest.raises(ValueError, match="at least 11 pixels a side"):
        ssim(torch.zeros(1, 10, 20, 3), torch.zeros(1, 10, 20, 3))


def test_clip_similarity_is_the_cosine_of_the_embeddings(tmp_path):
    model = random_clip(tmp_path / "clip")
    pictures = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    found = clip_similarity(pictures, pictures[1], load_clip(str(tmp_path / "clip"), [], ranks=False))
    with torch.no_grad():
        x = ((pictures - torch.tensor(MEAN)) / torch.tensor(STD)).movedim(-1, 1)
        rows = model.visual_projection(model.vision_model(x).pooler_output).numpy()
    want = [row @ rows[1] / np.linalg.norm(row) / np.linalg.norm(rows[1]) for row in rows]
    assert found.numpy() == pytest.approx(np.array(want), abs=1e-5)
    assert found[1] == pytest.approx(1.0, abs=1e-5)


PHOTO = Photo("front.png", azimuth_deg=70.0, elevation_deg=25.0, distance=2.6, fov_deg=45.0, ratio=None)


@pytest.fixture(scope="module")
def mesh():
    return lump(40, 256)


@pytest.fixture
def picture(mesh, tmp_path, monkeypatch):
    """front.png: the mesh from the camera of PHOTO."""
    monkeypatch.chdir(tmp_path)
    angles = (torch.tensor([math.radians(value)]) for value in (70.0, 25.0))
    camera = orbit_cameras(*angles, torch.tensor([2.6]), torch.tensor([math.radians(45.0)]), 256)
    seen = render_mesh(mesh, camera)
    straight = seen.rgb - (1 - seen.opacity)  # the white is taken away, which leaves premultiplied colours
    pixels = torch.cat([straight / seen.opacity.clamp_min(1e-6), seen.opacity], dim=-1)[0].clamp(0, 1)
    Image.fromarray((pixels.numpy() * 255).round().astype(np.uint8)).save("front.png")
    return tmp_path / "front.png"


def test_the_front_view_is_that_of_the_photos_camera(mesh, picture):
    found = compare_front(mesh, *read_reference(picture, (PHOTO,)))
    assert found.figures["front_psnr"] > 40
    assert found.figures["front_ssim"] > 0.99
    assert found.figures["front_iou"] > 0.99
    assert math.isnan(found.figures["front_clip"])
    other = replace(PHOTO, path="other.png", azimuth_deg=-20.0)
    wrong = compare_front(mesh, *read_reference(picture, (other,)))
    assert wrong.figures["front_psnr"] < 20
    same = replace(PHOTO, path=str(picture))
    right = compare_front(mesh, *read_reference(picture, (other, same)))  # the photo in the same file, not the first one
    assert right.figures == pytest.approx(found.figures, nan_ok=True)


def test_the_command_compares_a_run_with_a_picture(mesh, picture, monkeypatch, capsys):
    with Run.create("run", "a red mug") as run:
        save_glb(mesh, run.folder / "asset.glb", {"placement": {"scale": 0.1, "offset": [1.0, 2.0, 3.0]}})
        (run.folder / "config.yaml").write_text(save_yaml(Config(prompt="a red mug", photos=(PHOTO,))))
        run.set_status("finished", {"seconds": 1.0, "peak_memory_gb": 1.0})
    random_clip(picture.parent / "clip")
    words = ["evaluate", "run", "--reference", picture.name, "--clip", "clip", "--out", "report"]
    assert run_main(*words) == 0
    printed = capsys.readouterr().out
    assert "fPSNR" in printed
    report = json.loads(Path("report/evaluation.json").read_text())
    assert report["reference"] == "front.png"
    row = report["runs"][0]
    assert row["front_psnr"] == report["mean"]["front_psnr"]
    assert "front_clip" in row
    assert 0.0 < row["front_clip"] <= 1.0001
    sheet = np.asarray(Image.open("report/front.png"))
    assert sheet.shape == (256, 512, 3)
    assert "front views" in Path("report/index.html").read_text()
    assert run_main("evaluate", "run", "--reference", "no.png", "--out", "other") == 2
    assert "no.png" in capsys.readouterr().err


def test_without_a_camera_both_are_centred_at_one_size(mesh):
    """A picture that shows the mesh smaller and off the centre, as a GLB of no run is compared with it."""
    angles = (torch.tensor([math.radians(value)]) for value in (0.0, 20.0))
    camera = orbit_cameras(*angles, torch.tensor([2.9]), torch.tensor([math.radians(42.0)]), 256)
    seen = render_mesh(mesh, framed(mesh, camera), 0.0)
    rows, columns = ((seen.opacity[0, ..., 0] > 0.5).any(axis).nonzero() for axis in (1, 0))
    sides = [int(each.max() - each.min()) + 1 for each in (rows, columns)]
    assert max(sides) == pytest.approx(0.78 * 256, abs=2)
    assert [float(each.max() + each.min()) / 2 for each in (rows, columns)] == pytest.approx([127.5, 127.5], abs=1.5)
    reference = torch.cat([seen.rgb / seen.opacity.clamp_min(1e-6), seen.opacity], dim=-1)
    small = torch.zeros(1, 256, 256, 4)
    pictures = Pictures(small[..., :3], small[..., 3:], camera, reference=reference)
    moved = replace(mesh, vertices=(mesh.vertices * 0.8 + [0.05, 0.02, 0.0]).astype(np.float32))
    found = compare_front(moved, pictures, known=False)
    assert found.figures["front_iou"] > 0.95
    assert found.figures["front_psnr"] > 20
