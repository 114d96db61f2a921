"""Checkpoints come back bit for bit, or are found to be damaged."""

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asset_helpers import lump, with_all_pictures
from run_helpers import HASH, names, numbers, refused, same, saved

from dreamlift.cameras import CameraSampler
from dreamlift.runs import checkpoints
from dreamlift.runs.run import Run
from dreamlift.stages.base import SavedState
from dreamlift.types import Handover, Mesh, Pictures


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "run", "a mug", config_hash=HASH, config_text="steps: 3\n") as made:
        yield made


def test_states_come_back_bit_for_bit(run):
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam([{"params": [layer.weight], "lr": 0.1}, {"params": [layer.bias]}])
    for _ in range(3):
        layer(torch.randn(4, 3)).sum().backward()
        optimizer.step()
    kinds = [
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64,
    ]  # fmt: skip
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "model": layer.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(),
        "kinds": [(torch.randn(5) * 3).to(kind) for kind in kinds],
        "special": torch.tensor([float("nan"), -0.0, float("inf"), 5e-324], dtype=torch.float64),
        "views": (base.T, base[::2, 1:], base, base), "empty": torch.zeros(0, 3), "scalar": torch.tensor(3),
        "conj": torch.randn(3, dtype=torch.complex64).conj(), "numpy_rng": np.random.default_rng(3).bit_generator.state,
        "arrays": [np.array(2.5), np.zeros((2, 0), np.int8), np.arange(6).reshape(2, 3).T, np.array([True, False])],
        "numbers": [0.1, -0.0, float("nan"), float("-inf"), 5e-324, 2**53 + 1, -(10**5000), True, False, None, 7],
        "text": ["", "é\n\0\ud800", "tensor"], "nested": {"tensor": {"tensor": "x"}, 3: {-1: []}, "": ()},
    }  # fmt: skip
    run.save_checkpoint(3, saved(3, state))
    found = run.load_latest()
    assert found.index == 3
    loaded = found.work
    for name in state:
        expected = dict(state[name]) if isinstance(state[name], dict) else state[name]
        assert same(expected, loaded[name]), name
    loaded["special"][0] = 1.0  # writable, and its own memory
    loaded["arrays"][3][0] = False
    loaded["views"][2][0, 0] = 99.0
    assert loaded["views"][3][0, 0] == 0.0
    other = torch.optim.Adam([{"params": [layer.weight], "lr": 0.5}, {"params": [layer.bias]}])
    other.load_state_dict(loaded["optimizer"])
    assert same(other.state_dict(), optimizer.state_dict())


def handovers():
    """What a stage can leave behind, by name: meshes with all that a mesh can have, weights, pictures of every kind."""
    plain = lump(8, 16)
    odd = np.array([[0.1, np.pi, -0.0], [1e-40, 5.0, 1.0], [3.0, 1 / 3, 2.0]], np.float32)  # also a subnormal, and minus zero
    bare = Mesh(odd, np.array([[0, 1, 2]], np.int32), vertex_colors=odd.clip(0, 1), metallic=0.1, roughness=1 / 3)
    turned = replace(bare, vertex_normals=np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], np.float32))
    rng = torch.Generator().manual_seed(0)
    rgb, alpha, depth, normal = (torch.rand(3, 5, 5, channels, generator=rng) for channels in (3, 1, 1, 3))
    depth[0, 0, 0] = float("nan")
    cameras = CameraSampler(views=3, resolution=(5,))(0.5, rng)
    tuned = ("partial", "full")
    return {
        "nothing": Handover(),
        "a user's mesh": Handover((with_all_pictures(plain),)),
        "no mesh": Handover((None,)),
        "meshes of particles": Handover((bare, None, turned)),
        "tuned weights": Handover(tuned=tuned),
        "photos": Handover(pictures=Pictures(rgb, alpha)),
        "posed pictures": Handover(pictures=Pictures(rgb, alpha, cameras)),
        "all of them": Handover((plain,), tuned, Pictures(rgb.half(), alpha.double(), cameras, depth, normal)),
    }  # fmt: skip


@pytest.mark.parametrize("name", handovers())
def test_a_saved_state_comes_back_bit_for_bit(run, name):
    state = SavedState(2, 41, handovers()[name], {"index": 41, "scenes": [{"weight": torch.arange(3.0)}], "good": {}})
    plain = state.to_dict()
    assert same(SavedState.from_dict(plain), state)
    assert same(SavedState.from_dict(plain).to_dict(), plain)
    run.save_checkpoint(state.index, state)
    found = run.load_latest()
    assert same(found, state)
    run.save_checkpoint(42, found)  # and once more
    assert same(run.load_latest(), state)


def test_states_that_differ_in_one_bit_are_not_the_same(run):
    """The comparison of these tests sees what a checkpoint could lose."""
    all_of_them = handovers()["all of them"]
    pictures, (mesh,) = all_of_them.pictures, all_of_them.meshes
    moved = mesh.vertices.copy()
    moved.view(np.int32)[0, 0] ^= 1
    others = [
        replace(all_of_them, meshes=(replace(mesh, vertices=moved),)),
        replace(all_of_them, meshes=(mesh, None)),
        replace(all_of_them, tuned=all_of_them.tuned[::-1]),
        replace(all_of_them, pictures=replace(pictures, cameras=pictures.cameras[0:2])),
        replace(all_of_them, pictures=replace(pictures, rgb=pictures.rgb.float())),
        replace(all_of_them, pictures=replace(pictures, normal=None)),
    ]
    assert same(all_of_them, handovers()["all of them"])
    assert not any(same(other, all_of_them) for other in others)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({1, 2}, "state['work']['a'][0]: set cannot be stored; accepted: dict, list, tuple"),
        (object(), "state['work']['a'][0]: object cannot be stored"),
        (b"x", "state['work']['a'][0]: bytes cannot be stored"),
        (np.float32(1), "state['work']['a'][0]: float32 cannot be stored"),
        (np.array(["x"]), "state['work']['a'][0]: ndarray cannot be stored"),
        (np.array([None]), "state['work']['a'][0]: ndarray cannot be stored"),
        ({1.5: 2}, "state['work']['a'][0]: the key 1.5 cannot be stored, accepted: str and int"),
        ({True: 2}, "state['work']['a'][0]: the key True cannot be stored"),
        (torch.eye(2).to_sparse(), "state['work']['a'][0]: a torch.sparse_coo tensor of torch.float32 cannot be stored"),
        (torch.zeros(1, dtype=torch.complex128), "state['work']['a'][0]: a torch.strided tensor of torch.complex128"),
    ],
)
def test_what_cannot_be_stored_exactly_is_refused(value, expected, run):
    refused(lambda: run.save_checkpoint(1, saved(1, {"a": [value]})), expected, kind=TypeError)
    assert run.load_latest() is None


def test_the_newest_are_kept_by_number_and_not_by_time(run):
    for step in (1, 2, 999_999, 1_000_000):
        run.save_checkpoint(step, saved(step))
    folder = run.folder / "checkpoints"
    assert names(folder) == ["step-000002", "step-1000000", "step-999999"]
    os.utime(folder / "step-000002", (4e9, 4e9))  # a clock that jumped
    assert run.load_latest().index == 1_000_000
    with pytest.raises(ValueError, match="keep is the number of checkpoints to keep, at least 1, got 0"):
        Run.open(run.folder, config_hash=HASH, keep=0)


def test_going_back_sets_later_checkpoints_aside(run):
    for step in (10, 20, 30):
        run.save_checkpoint(step, saved(step))
    folder = run.folder / "checkpoints"
    (folder / "step-000030" / "state.json").write_bytes(b"")
    (folder / "step-000020" / "state.json").unlink()
    with pytest.warns(RuntimeWarning, match="is not used"):
        assert run.load_latest().index == 10
    run.save_checkpoint(20, saved(20, numbers(21)))
    assert [name.split("-")[0] for name in names(folder)] == ["aside", "step", "step"]
    assert names(folder)[1:] == ["step-000010", "step-000020-2"]
    assert run.load_latest().work["weights"][0] == 21
    run.save_checkpoint(30, saved(30))
    assert run.load_latest().index == 30
    run.save_checkpoint(15, saved(15))  # back once more: only the last detour is kept
    assert [name.split("-")[0] for name in names(folder)] == ["aside", "aside", "step", "step"]
    assert sum(name.startswith("aside-step-000020-2") for name in names(folder)) == 1


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "arrays.safetensors", "MANIFEST.json"])
def test_any_changed_bit_or_cut_is_found(run, name):
    for step in (1, 2):
        run.save_checkpoint(step, saved(step, {**numbers(step, 10), "tensor": torch.full((10,), float(step))}))
    path = run.folder / "checkpoints" / "step-000002" / name
    good = path.read_bytes()
    pick = random.Random(0)
    damaged = [b"", good[:-1], good[: len(good) // 2], good + b"x", b"\0" * len(good), b"[" * len(good)]
    for place in range(len(good)) if len(good) < 500 else pick.sample(range(len(good)), 150):
        flipped = good[place] ^ (1 << pick.randrange(8))
        damaged.append(good[:place] + bytes([flipped]) + good[place + 1 :])
    for data in damaged:
        path.write_bytes(data)
        with pytest.warns(RuntimeWarning, match=r"step-000002 is not used: .*; trying the one before it"):
            found = run.load_latest()
        assert (found.index, found.work["step"], found.work["tensor"][0]) == (1, 1, 1.0)
    path.unlink()
    with pytest.warns(RuntimeWarning, match=f"{name} is missing"):
        assert run.load_latest().index == 1
    path.mkdir()
    with pytest.warns(RuntimeWarning, match="is not used"):
        assert run.load_latest().index == 1
    path.rmdir()
    path.write_bytes(good)
    assert run.load_latest().index == 2


def test_only_damaged_checkpoints_is_an_error_and_never_a_silent_start(run):
    run.save_checkpoint(1, saved(1))
    shutil.rmtree(run.folder / "checkpoints" / "step-000001")
    assert run.load_latest() is None
    run.save_checkpoint(1, saved(1))
    (run.folder / "checkpoints" / "step-000001" / "MANIFEST.json").unlink()
    with pytest.warns(RuntimeWarning, match="MANIFEST.json is missing"):
        refused(run.load_latest, "no usable checkpoint in", "(step-000001: MANIFEST.json is missing); start the run again")


def forge(run, **changes):
    path = run.folder / "checkpoints" / "step-000002" / "MANIFEST.json"
    manifest = json.loads(path.read_text()) | changes
    manifest.pop("checksum")
    path.write_text(json.dumps({**manifest, "checksum": checkpoints._checksum(manifest)}))


def test_newer_schemas_other_configs_and_foreign_paths(run):
    for step in (1, 2):
        run.save_checkpoint(step, saved(step))
    forge(run, schema=2)
    refused(run.load_latest, "step-000002 was written by a newer dreamlift (schema 2, this one reads 1): upgrade")
    forge(run, schema=1, config_hash="f" * 64)
    refused(run.load_latest, "belongs to another config (hash 'ffffffffffff', now 'c0ffeec0ffee'): resume with")
    entry = {"bytes": 9, "sha256": checkpoints._sha256(b"steps: 3\n")}
    forge(run, config_hash=HASH, files={"../../config.yaml": entry})
    with pytest.warns(RuntimeWarning, match="which is not a plain file name"):
        assert run.load_latest().index == 1
    forge(run, step=7, files={})
    with pytest.warns(RuntimeWarning, match="MANIFEST.json was changed"):
        assert run.load_latest().index == 1


def test_an_interrupt_inside_a_save_leaves_no_half(run, monkeypatch):
    run.save_checkpoint(1, saved(1))

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.save_checkpoint(2, saved(2))
    assert names(run.folder / "checkpoints") == ["step-000001"]


def test_the_saved_file_is_plain_safetensors(run):
    from safetensors.torch import load_file

    path = run.save_checkpoint(1, saved(1, {"a": torch.arange(3)}))
    assert torch.equal(next(iter(load_file(path / "tensors.safetensors").values())), torch.arange(3))
    assert isinstance(path, Path)
