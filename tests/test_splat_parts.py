"""What a scene of Gaussians is made of: its control of their number, its density on a grid, and its files."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from dreamlift.cameras import turntable
from dreamlift.export.splats import column_names, load_splats, save_splats
from dreamlift.scenes.gaussians import densify, mesh
from dreamlift.scenes.gaussians.densify import Densify
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.types import EmptySceneError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_scene(count=4, capacity=10, **changes):
    scene = Gaussians(count=count, capacity=capacity, **changes).build(generator())
    scene.means.data[:count] = torch.arange(count, dtype=torch.float32)[:, None] * 0.1
    scene.log_scales.data[:count] = math.log(0.01)
    scene.settled.copy_(scene.means.detach())
    return scene


def test_doubling_by_hand():
    """Of four, the first is small and pushed (cloned), the second large and pushed (split), the others stay."""
    scene, settings = small_scene(), Densify(gradient=0.5, split_above=0.04)
    scene.log_scales.data[1] = torch.tensor([0.2, 0.1, 0.1]).log()
    gradient = torch.tensor([0.9, 0.6, 0.1, 0.49, *[9.0] * 6])  # what dead rows hold does not count
    before = {name: value.detach().clone() for name, value in scene.rows().items()}
    changed = densify.double(scene.rows(), scene.alive, gradient, settings, generator())
    assert scene.alive.tolist() == [True] * 6 + [False] * 4
    assert changed.nonzero()[:, 0].tolist() == [1, 4, 5]
    for name, value in scene.rows().items():
        assert torch.equal(value[[0, 2, 3]], before[name][[0, 2, 3]])
        assert torch.equal(value[4], before[name][0])
    for row in (1, 5):
        torch.testing.assert_close(scene.log_scales[row].exp(), torch.tensor([0.2, 0.1, 0.1]) / 1.6)
        assert not torch.equal(scene.means[row], before["means"][1])
    assert not torch.equal(scene.means[1], scene.means[5])


def test_doubling_stops_at_the_capacity_and_prefers_the_most_pushed():
    scene = small_scene(count=4, capacity=6)
    gradient = torch.tensor([0.6, 0.9, 0.7, 0.8, 0, 0])
    densify.double(scene.rows(), scene.alive, gradient, Densify(gradient=0.5), generator())
    assert scene.alive.all()
    torch.testing.assert_close(scene.means[4:].detach(), scene.means[[1, 3]].detach())
    changed = densify.double(scene.rows(), scene.alive, gradient, Densify(gradient=0.5), generator())
    assert not changed.any()


def test_halves_of_a_split_are_drawn_from_the_gaussian():
    """Many equal ones, turned by 90 degrees about z: the offsets spread along y as the scales say along x."""
    count = 2000
    scene = small_scene(count=count, capacity=2 * count)
    scene.log_scales.data[:count] = torch.tensor([0.3, 0.05, 0.1]).log()
    scene.quats.data[:count] = torch.tensor([math.sqrt(0.5), 0, 0, math.sqrt(0.5)])
    scene.means.data.zero_()
    densify.double(scene.rows(), scene.alive, torch.ones(2 * count), Densify(gradient=0.5), generator())
    torch.testing.assert_close(scene.means.std(0), torch.tensor([0.05, 0.3, 0.1]), rtol=0.06, atol=0)


def test_pruning_by_hand():
    scene = small_scene(count=4, capacity=6)
    scene.logit_opacities.data[:4] = torch.tensor([0.5, 0.004, 0.5, 0.5]).logit()
    scene.log_scales.data[2, 1] = math.log(0.7)
    gone = densify.prune(scene.rows(), scene.alive, Densify(prune_opacity=0.01, prune_scale=0.5))
    assert gone.nonzero()[:, 0].tolist() == [1, 2]
    assert scene.alive.tolist() == [True, False, False, True, False, False]
    scene.logit_opacities.data[:] = -20.0  # all of them: none goes, the watchdog of empty scenes must see it
    assert not densify.prune(scene.rows(), scene.alive, Densify()).any()
    assert int(scene.alive.sum()) == 2


def test_resetting_opacities():
    scene = small_scene()
    scene.logit_opacities.data[:2] = torch.tensor([0.9, 0.002]).logit()
    densify.reset_opacities(scene.rows())
    torch.testing.assert_close(scene.logit_opacities[:2].sigmoid(), torch.tensor([0.01, 0.002]))


def test_dead_rows_neither_show_nor_move():
    scene = small_scene(count=30, capacity=60)
    scene.logit_opacities.data[30:] = 5.0  # what a pruned one leaves behind
    cameras, adam = turntable(2, size=16), torch.optim.Adam(scene.param_groups(), eps=1e-15)
    alone = small_scene(count=30, capacity=30)
    first, second = (one.eval().render(cameras, generator()).rgb for one in (scene, alone))
    assert torch.equal(first, second)
    kept = scene.means[30:].clone()
    first.square().sum().backward()
    adam.step()
    assert torch.equal(scene.means[30:], kept)


def test_density_of_one_gaussian_is_what_dims_its_ray():
    """Summed along its shortest axis, and only there, it gives the opacity; its colour is its own."""
    means, quats = torch.tensor([[0.1, -0.05, 0.0]]), torch.tensor([[1.0, 0, 0, 0]])
    scales, opacity, color = torch.tensor([[0.15, 0.2, 0.08]]), torch.tensor([0.7]), torch.tensor([[0.2, 0.5, 0.9]])
    grid = mesh.grid_of_splats((means, quats, scales, opacity), color, 1.0, 81)
    along = grid[44, 38, :, 0]  # x = 0.1, y = -0.05
    assert 1 - math.exp(-float(along.sum()) * 2 / 80) == pytest.approx(0.7, abs=0.01)
    torch.testing.assert_close(grid[44, 38, 40, 1:] / grid[44, 38, 40, 0], color[0])
    assert float(grid[50, 38, 40, 0] / grid[44, 38, 40, 0]) == pytest.approx(math.exp(-0.5), rel=1e-3)  # 0.15 beside it
    assert not grid[:10].any()


def test_density_in_blocks_is_the_same(monkeypatch):
    rng = generator()
    splats = (torch.rand(50, 3, generator=rng) * 2.2 - 1.1, torch.randn(50, 4, generator=rng),
              torch.rand(50, 3, generator=rng) * 0.1 + 0.01, torch.rand(50, generator=rng))  # fmt: skip
    colors = torch.rand(50, 3, generator=rng)
    whole = mesh.grid_of_splats(splats, colors, 1.0, 24)
    monkeypatch.setattr(mesh, "POINTS_AT_ONCE", 500)
    torch.testing.assert_close(mesh.grid_of_splats(splats, colors, 1.0, 24), whole)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_ply_round_trip(degree, tmp_path):
    scene = Gaussians(count=50, capacity=80, sh_degree=degree).build(generator())
    scene.shN.data[:50] = torch.randn(scene.shN[:50].shape, generator=generator())
    scene.alive[7] = False
    splats = scene.to_splats()
    save_splats(splats, tmp_path / "mug.ply", {"prompt": "a\nb"})
    back = load_splats(tmp_path / "mug.ply")
    assert len(back.means) == 49
    for name in vars(splats):
        assert np.array_equal(getattr(back, name), getattr(splats, name)), name


def test_ply_by_an_independent_reader(tmp_path):
    """trimesh reads the vertices' properties under the original code's names, channel by channel."""
    trimesh = pytest.importorskip("trimesh")
    scene = Gaussians(count=20, capacity=20, sh_degree=2).build(generator())
    scene.shN.data = torch.randn(scene.shN.shape, generator=generator())
    splats = scene.to_splats()
    save_splats(splats, tmp_path / "a.ply")
    data = trimesh.load(tmp_path / "a.ply").metadata["_ply_raw"]["vertex"]
    rows = data["data"]
    assert list(data["properties"]) == column_names(8)
    np.testing.assert_array_equal(np.stack([rows[k] for k in "xyz"], 1).squeeze(), splats.means)
    np.testing.assert_array_equal(rows["f_rest_8"].squeeze(), splats.shN[:, 0, 1])  # green's first, behind 8 of red
    np.testing.assert_array_equal(rows["rot_0"].squeeze(), splats.quats[:, 0])
    np.testing.assert_array_equal(rows["opacity"].squeeze(), splats.logit_opacities)
    np.testing.assert_array_equal(rows["f_dc_2"].squeeze(), splats.sh0[:, 0, 2])


def good_file(tmp_path):
    scene = Gaussians(count=5, capacity=5).build(generator())
    save_splats(scene.to_splats(), tmp_path / "good.ply")
    return (tmp_path / "good.ply").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"solid" + data, "not a PLY"),
        (lambda data: data[:-1], "cut off"),
        (lambda data: data.replace(b"vertex 5", b"vertex 999999999"), "1 to"),
        (lambda data: data.replace(b"vertex 5", b"vertex -1"), "1 to"),
        (lambda data: data.replace(b"vertex 5", b"vertex 40000000"), "cut off"),
        (lambda data: data.replace(b"vertex 5", b"vertex 0"), "1 to"),
        (lambda data: data.replace(b"binary_little_endian", b"ascii"), "format"),
        (lambda data: data.replace(b"float opacity", b"float opaqueness"), "lacks opacity"),
        (lambda data: data.replace(b"float nx", b"list uchar int nx"), "not understood"),
        (lambda data: data.replace(b"float nx", b"float x"), "not understood"),
        (lambda data: data.replace(b"float nx", b"float f_rest_0"), "1 f_rest"),
        (lambda data: data.replace(b"element vertex", b"element face"), "accepted: vertex"),
        (lambda data: data[:-4] + np.float32("nan").tobytes(), "not finite"),
        (lambda data: data[:-16] + bytes(16), "length zero"),
        (lambda data: data.replace(b"comment", b"comment" + b"x" * 70_000), "not a PLY"),
        (lambda data: b"", "not a PLY"),
    ],
)
def test_bad_files_are_refused_with_their_name(change, message, tmp_path):
    (tmp_path / "bad.ply").write_bytes(change(good_file(tmp_path)))
    with pytest.raises(ValueError, match=message) as caught:
        load_splats(tmp_path / "bad.ply")
    assert "bad.ply" in str(caught.value)


def test_what_no_file_should_hold_is_not_written(tmp_path):
    splats = Gaussians(count=5, capacity=5).build(generator()).to_splats()
    for name, value, message in (
        ("means", np.full((5, 3), np.inf, np.float32), "not finite"),
        ("sh0", np.zeros((5, 3), np.float32), "shape"),
        ("shN", np.zeros((5, 4, 3), np.float32), "coefficients"),
        ("quats", np.zeros((5, 4), np.float32), "length zero"),
    ):
        with pytest.raises(ValueError, match=message):
            save_splats(dataclasses.replace(splats, **{name: value}), tmp_path / "x.ply")
    none = {name: value[:0] for name, value in vars(splats).items()}
    with pytest.raises(EmptySceneError):
        save_splats(dataclasses.replace(splats, **none), tmp_path / "x.ply")
    with pytest.raises(ValueError, match="not a file"):
        load_splats(tmp_path)
    assert not list(tmp_path.iterdir())
