"""Scenes that end up empty or full: the error says so, since which step, and which settings bear on it."""

import warnings
from dataclasses import asdict, replace

import pytest
import torch
from lift_helpers import TINY

from dreamlift.config.short import override
from dreamlift.lifting import finish, lift, load, resolve
from dreamlift.meshing.isosurface import surface_of_density
from dreamlift.presets import PRESETS
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.stages.base import SavedState
from dreamlift.stages.recovery import NOTICE, Watch
from dreamlift.system.streams import random_stream
from dreamlift.texturing.extract import Extract, mesh_of_field
from dreamlift.types import EmptySceneError, FullSceneError

SETTINGS = Extract(resolution=24, faces=400, texture=False)


def mesh_of(density):
    return mesh_of_field(density, lambda points: torch.full_like(points, 0.5), 1.0, SETTINGS)


def test_a_field_that_is_solid_at_all_sides_is_full():
    with pytest.raises(FullSceneError) as caught:
        mesh_of(lambda points: torch.full((len(points),), 80.0))
    said = str(caught.value)
    assert said.startswith("the scene is full: it is solid at all six sides of its space (100% of them); lower adam.lr_scale")
    assert "weights.sparsity" in said


@pytest.mark.parametrize(("share", "kind"), [(0.04, "warning"), (0.5, "error")])
def test_the_share_of_the_sides_decides(share, kind):
    """Blocks in the middles of the sides, of a known share of each, joined in the centre."""
    half = share**0.5

    def density(points):
        inside = [points[:, [(axis + 1) % 3, (axis + 2) % 3]].abs().amax(dim=1) < half for axis in range(3)]
        return 80.0 * torch.stack(inside).any(dim=0)

    if kind == "error":
        with pytest.raises(FullSceneError, match=r"\(4[0-9]% of them\)|\(5[0-9]% of them\)"):
            mesh_of(density)
    else:
        with pytest.warns(UserWarning, match=r"solid at all six sides of its space \([2-6]% of them\)"):
            mesh = mesh_of(density)
        assert abs(mesh.vertices).max() <= 1.01


def test_objects_are_neither_full_nor_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mesh_of(lambda points: 80.0 * (points.norm(dim=1) < 0.8))
        mesh_of(lambda points: 80.0 * (points[:, 1].abs() < 0.3))  # a slab that is cut off at four sides


def test_a_threshold_above_every_density_is_named_as_the_setting():
    density = torch.zeros(8, 8, 8)
    density[3:5, 3:5, 3:5] = 7.0
    with pytest.raises(EmptySceneError) as caught:
        surface_of_density(density, (-1.0,) * 3, (1.0,) * 3, threshold=25.0)
    said = "no density of the scene exceeds mesh.threshold 25: the largest is 7; lower mesh.threshold, or set it to null"
    assert str(caught.value).startswith(said)
    assert "find_threshold" not in str(caught.value)


def test_a_tetrahedral_grid_is_full_where_the_corners_next_to_its_sides_are_inside():
    scene = TetMesh(resolution=12).build(random_stream(0), "cpu", None)
    size, cell = scene.grid.extent, scene.grid.cell
    cases = {
        "object": scene.base.norm(dim=1) - 0.8 * size,
        "all": torch.full_like(scene.base[:, 0], -1.0),
        "noise": torch.rand(len(scene.base), generator=random_stream(1)) - 0.5,
        "slab": scene.base[:, 1].abs() - 0.3 * size,
    }
    for name, distances in cases.items():
        with torch.no_grad():
            scene.sdf.copy_(distances / cell)
        expected = [[corners_inside(scene, axis, sign) for axis in range(3)] for sign in (1, -1)]
        torch.testing.assert_close(scene.sides(), torch.tensor(expected), msg=name)
        if name in ("all", "noise"):
            with pytest.raises(FullSceneError, match="it is solid at all six sides of its space"):
                scene.to_mesh(SETTINGS)
        else:
            scene.to_mesh(SETTINGS)
    with torch.no_grad():
        scene.sdf.fill_(1.0)
    with pytest.raises(EmptySceneError, match="no signed distance of its grid is negative"):
        scene.to_mesh(SETTINGS)


def corners_inside(scene, axis, sign):
    """The share of the corners in the layer next to one side, counted one by one."""
    count, found = scene.grid.cubes + 1, []
    layer = count - 2 if sign > 0 else 1
    for i in range(1, count - 1):
        for j in range(1, count - 1):
            place = [i, j]
            place.insert(axis, layer)
            found.append(bool(scene.sdf[(place[0] * count + place[1]) * count + place[2]] < 0))
    return sum(found) / len(found)


def test_the_watch_counts_by_hand():
    watch, seen = Watch(), []
    for index, opacity in enumerate([0.3, 0.01, 0.02, 0.3, 0.7, 0.96, 0.99, 0.9, 0.999, 0.004]):
        watch = watch.after(index, opacity)
        seen.append((watch.state, watch.since, watch.steps))
    assert [state for state, *_ in seen] == ["", "empty", "empty", "", *["full"] * 5, "empty"]
    assert [since for _, since, _ in seen][1:3] == [1, 1]
    assert [since for _, since, _ in seen][4:] == [4, 4, 4, 4, 4, 9]
    assert [steps for *_, steps in seen] == [0, 0, 0, 0, 0, 1, 2, 0, 1, 2]
    assert seen[8][0] == "full"
    assert Watch("full", 4, 0).told == "its renders have been more than 60% opaque since step 4"
    assert Watch("empty", 9, 0).told == "its renders have been less than 3% opaque since step 9"
    assert Watch().told == ""
    assert Watch(**asdict(watch)) == watch


class Zeros(GaussianPrior):
    """A prior that answers zeros, as one with missing weights does."""

    def predict_noise(self, x_t, t, cond, guidance_scale):
        return torch.zeros_like(x_t)


def tiny(steps, **changes):
    settings = dict(word.removeprefix("--").split("=") for word in TINY)
    settings |= {"prompt": "a red mug", "device": "cpu", "steps": str(steps), "mesh.resolution": "24"}
    config = override(PRESETS["magic3d-toy"], settings)
    return override(config, changes, text=False)


def run(config):
    job = load(resolve(config))
    for _ in lift(job):
        pass
    finish(job)


def ended(config):
    """The error that the run ends with, and its notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises((EmptySceneError, FullSceneError)) as error:
            run(config)
    assert len(str(error.value)) <= 300
    return error.value, [str(each.message) for each in caught if "renders have been" in str(each.message)]


def test_a_learning_rate_of_a_million_is_told_as_a_full_scene(stub):
    error, _ = ended(tiny(8, **{"stages.0.teachers.0.prior": PriorChoice(str(stub)), "adam.lr_scale": 1e6}))
    assert isinstance(error, FullSceneError)
    assert "lower adam.lr_scale" in str(error)
    assert "; its renders have been more than 60% opaque since step " in str(error)


ZEROS = PriorChoice.of(Zeros(torch.full((1, 3, 8, 8), 0.5), torch.ones(1)))


def test_a_prior_that_answers_zeros_is_told_as_a_full_scene_and_noticed_before_the_end():
    error, notes = ended(tiny(150, **{"stages.0.teachers.0.prior": ZEROS, "adam.lr_scale": 5.0}))
    assert isinstance(error, FullSceneError)
    assert "see whether the prior works at all" in str(error)
    (note,) = notes
    since = str(error).rpartition(" ")[2]
    assert note.endswith(f"its renders have been more than 60% opaque since step {since}; the scene may end up full")
    assert NOTICE < int(note.split(":")[0].removeprefix("step ")) < 150


def test_the_next_stage_does_not_start_from_a_full_scene():
    """Not "the initial mesh reaches 1.012": the stage before says what is wrong."""
    first = tiny(60, **{"stages.0.teachers.0.prior": ZEROS, "adam.lr_scale": 5.0})
    two = replace(first, stages=(*first.stages, PRESETS["magic3d-toy"].stages[1]))
    error, _ = ended(two)
    assert str(error).startswith("the scene is full: ")


def test_a_scene_that_empties_is_told_with_the_step():
    prior = PriorChoice.of(GaussianPrior(torch.full((1, 3, 32, 32), 0.5), torch.ones(1)))
    error, _ = ended(tiny(60, **{"stages.0.teachers.0.prior": prior, "weights.sparsity": 1e5, "adam.lr_scale": 2.0}))
    assert isinstance(error, EmptySceneError)
    assert "lower weights.sparsity" in str(error)
    assert "; its renders have been less than 3% opaque since step " in str(error)


def test_the_watch_is_part_of_a_checkpoint():
    config = tiny(4, **{"stages.0.teachers.0.prior": ZEROS})
    job = load(resolve(config))
    job.work.watches = [Watch("full", 1, 2)]
    assert load(resolve(config), SavedState.from_dict(job.saved().to_dict())).work.watches == [Watch("full", 1, 2)]
