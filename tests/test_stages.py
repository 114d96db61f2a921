"""Runs of several stages: each begins with what the one before made, and nothing is lost between them."""

import copy
import dataclasses
import shutil
import weakref

import numpy as np
import pytest
import torch
import trimesh
from lift_helpers import generate_words, refused, run_main, small_pictures, status_of
from PIL import Image as Picture
from run_helpers import same

from dreamlift.cameras import CameraSampler
from dreamlift.config.build import apply_overrides, describe_fields, load_yaml, save_yaml
from dreamlift.config.schema import Config, Stage, Weights, check_stages
from dreamlift.export.glb import load_glb
from dreamlift.export.splats import load_splats
from dreamlift.lifting import generate, lift, prepare
from dreamlift.memory import estimate, largest
from dreamlift.meshing.geometry import is_closed, signed_volume
from dreamlift.presets.toybox import TOYBOX
from dreamlift.priors import load_prior
from dreamlift.priors.footprint import footprint
from dreamlift.runs.run import read_metrics
from dreamlift.scenes.background import Random, Solid
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.surface.scene import Surface
from dreamlift.scenes.surface.textures import Image
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.texturing.extract import Extract

FEW = CameraSampler(views=1, resolution=(16,))
MESH = TetMesh(resolution=12, color=Voxel((9,), (0.0,)), background=Solid((1.0, 1.0, 1.0)))
SPLATS = Gaussians(capacity=300, count=200, background=Solid((1.0, 1.0, 1.0)))
STAGED = ["--then.0.steps=4", "--then.0.scene.type=tetmesh", "--then.0.scene.resolution=12", "--then.0.cameras.resolution=[32]"]


@pytest.fixture
def quick(monkeypatch):
    small_pictures(monkeypatch)


def staged(stub, *scenes, particles=1):
    """A run of 3 steps of a radiance field and 2 steps of each further scene."""
    then = tuple(Stage(steps=2, cameras=FEW, scene=scene) for scene in scenes)
    return Config(
        prompt="a red mug", prior=str(stub), steps=3, particles=particles, cameras=FEW, then=then, checkpoint_every=2,
        scene=Nerf(Voxel((9, 17), (0.0, 0.5)), samples_per_ray=24), mesh=Extract(24, faces=300, texture_size=64),
    )  # fmt: skip


def test_a_later_stages_panorama_is_looked_at_before_the_first_one_starts(stub, tmp_path, monkeypatch):
    paint = Surface(texture=Image(16, 16), material="pbr", environment="sky.png", background=Solid((1.0, 1.0, 1.0)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"sky.png.* cannot be used as a panorama"):
        prepare(staged(stub, MESH, paint))
    Picture.new("RGB", (64, 32), (90, 120, 200)).save("sky.png")
    job = prepare(staged(stub, MESH, paint))
    monkeypatch.chdir("/")  # the file is found from anywhere
    assert [stage.scene.environment for stage in job.config.stages if isinstance(stage.scene, Surface)] == [
        str(tmp_path / "sky.png")
    ]


def test_a_stage_begins_with_the_mesh_that_the_one_before_made(stub):
    job = prepare(staged(stub, MESH, SPLATS))
    kinds, starts = [], []
    for step in lift(job):
        kinds.append(type(job.state.scene).__name__)
        starts.append(job.state.starts[0])
        assert step.index == len(kinds) - 1
    assert kinds == ["NerfScene"] * 3 + ["TetMeshScene"] * 2 + ["GaussianScene"] * 2
    assert starts[0] is None
    # The surface of the blob that a field begins as: a closed, coloured mesh, which is what the next one then looks like.
    assert is_closed(starts[3].faces)
    assert starts[3].vertex_colors is not None
    volumes = [signed_volume(starts[i].vertices, starts[i].faces) for i in (3, 5)]
    assert volumes[0] > 0
    assert volumes[1] == pytest.approx(volumes[0], rel=0.15)


@pytest.mark.parametrize("stop", range(1, 7))
def test_a_run_goes_on_from_any_step_of_any_stage_bit_by_bit(stub, stop):
    config = staged(stub, MESH, SPLATS)
    whole = prepare(config)
    for _ in lift(whole):
        pass
    first = prepare(config)
    for _, _ in zip(range(stop), lift(first), strict=False):
        pass
    saved = copy.deepcopy(first.state.state_dict())
    assert saved["index"] == stop
    again = prepare(config, saved=saved)
    for _ in lift(again):
        pass
    assert again.state.index == 7
    assert same(again.state.state_dict(), whole.state.state_dict())


def test_every_particle_has_a_mesh_of_its_own_between_the_stages(stub):
    job = prepare(staged(stub, MESH, particles=2))
    steps = list(lift(job))
    assert len(steps) == 10
    one, two = (start.vertices for start in job.state.starts)
    assert one.shape != two.shape or not np.array_equal(one, two)


def test_a_run_with_stages_from_the_command_line(stub, tmp_path, quick, capsys):
    folder = tmp_path / "run"
    assert run_main(*(word for word in generate_words(stub, folder, *STAGED) if word != "--then=[]")) == 0
    assert [line["step"] for line in read_metrics(folder)] == list(range(10))
    kept, made = load_glb(folder / "stage-1.glb"), load_glb(folder / "asset.glb")
    assert kept.vertex_colors is not None
    assert kept.base_color is None  # the next scene does not paint on it
    assert not np.array_equal(kept.vertices, made.vertices)
    config = load_yaml(Config, (folder / "config.yaml").read_text())
    assert (len(config.then), config.then[0].steps, config.total_steps) == (1, 4, 10)
    assert status_of(folder)["status"] == "finished"
    assert run_main("export", folder, "--format", "ply") == 0  # of the last stage's scene
    assert (folder / "asset.ply").is_file()


def test_a_run_that_ends_in_gaussians_writes_them(stub, tmp_path, quick):
    config = staged(stub, SPLATS)
    (tmp_path / "mine.yaml").write_text(save_yaml(config))
    assert run_main("generate", "--config", tmp_path / "mine.yaml", "--out", tmp_path / "run") == 0
    splats = load_splats(tmp_path / "run" / "splats.ply")
    assert 0 < len(splats.means) <= 300
    cloud = trimesh.load(tmp_path / "run" / "splats.ply")  # another reader
    assert np.abs(np.asarray(cloud.vertices) - splats.means).max() < 1e-6


def test_gaussians_stand_where_their_mesh_stands_in_its_files(stub, tmp_path, quick, capsys):
    """In every size and with every pivot the mesh's vertices and the Gaussians are one and the same figure."""
    config = staged(stub, SPLATS)
    config = dataclasses.replace(config, asset=dataclasses.replace(config.asset, scale=None))
    (tmp_path / "mine.yaml").write_text(save_yaml(config))
    run = tmp_path / "run"
    assert run_main("generate", "--config", tmp_path / "mine.yaml", "--out", run) == 0

    def read():
        return load_glb(run / "asset.glb", as_placed=True).vertices, load_splats(run / "splats.ply")

    points, before = read()
    for scale, pivot in ((40.0, "center"), (0.02, "base")):
        capsys.readouterr()
        assert run_main("export", run, "--scale", scale, "--pivot", pivot) == 0
        assert capsys.readouterr().out.splitlines() == [str(run / "asset.glb"), str(run / "splats.ply")]
        moved, after = read()
        factor = np.ptp(moved, axis=0).max() / np.ptp(points, axis=0).max()
        assert np.ptp(moved, axis=0).max() == pytest.approx(scale, rel=1e-4)
        np.testing.assert_allclose(after.means - moved[0], (before.means - points[0]) * factor, atol=1e-5 * scale)
        np.testing.assert_allclose(np.exp(after.log_scales), np.exp(before.log_scales) * factor, rtol=1e-4)
        for name in ("quats", "logit_opacities", "sh0", "shN"):
            assert np.array_equal(getattr(after, name), getattr(before, name)), name
    assert run_main("export", run, "--format", "stl", "--scale", "7") == 0
    assert np.array_equal(load_splats(run / "splats.ply").means, after.means)  # they go with the GLB, which stayed


def test_a_mesh_of_ones_own_begins_a_run(stub, tmp_path, quick):
    asset = generate("a red mug", staged(stub))
    asset.save(tmp_path / "own.glb")
    config = dataclasses.replace(staged(stub), scene=MESH, start=str(tmp_path / "own.glb"))
    job = prepare(config)
    (start,) = job.state.starts
    assert signed_volume(start.vertices, start.faces) > 0
    (tmp_path / "own.glb").unlink()
    saved = copy.deepcopy(job.state.state_dict())
    assert prepare(config, saved=saved).state.starts[0] is not None  # a run that is resumed needs the file no more


def test_a_painted_mesh_lies_where_the_users_own_lay(stub, tmp_path, quick, monkeypatch):
    """Elsewhere and in other units: with the pivot of the mesh, and after `export` too, every vertex is back."""
    own = trimesh.creation.box((30, 60, 45))
    own.apply_translation((120, -7, 55))
    own.export(tmp_path / "own.glb")
    monkeypatch.chdir(tmp_path)
    words = ["generate", "a red mug", "--prior", stub, "--preset=texture-toy", "--steps=1", "--out", "run"]
    assert run_main(*words, "--mesh", "own.glb", "--pivot=mesh") == 0
    made = trimesh.load(tmp_path / "run" / "asset.glb", force="mesh")
    np.testing.assert_allclose(made.bounds, own.bounds, atol=1e-3)
    apart = np.linalg.norm(made.vertices[:, None] - own.vertices[None], axis=-1)
    assert apart.min(axis=0).max() < 1e-3
    assert apart.min(axis=1).max() < 1e-3
    (tmp_path / "own.glb").unlink()
    assert run_main("export", tmp_path / "run", "--format", "ply", "--pivot", "center", "--scale", "2") == 0
    assert max(trimesh.load(tmp_path / "run" / "asset.ply").extents) == pytest.approx(2, rel=1e-4)
    assert run_main("export", tmp_path / "run", "--format", "ply") == 0
    np.testing.assert_allclose(trimesh.load(tmp_path / "run" / "asset.ply").bounds, made.bounds, atol=1e-3)


@pytest.mark.parametrize(
    "given",
    [
        (["--pivot=mesh"], "pivot is 'mesh', but no mesh was given", "--mesh"),
        (["--preset=latent-paint"], "stage 1: a surface scene needs a mesh to begin with; give --mesh FILE"),
        (["--then.0.scene.type=nerf"], "stage 2: a nerf scene cannot begin with a mesh; use it in the first stage only"),
        (
            [*STAGED, "--then.0.weights.sparsity=1"],
            "stage 2: weights.sparsity is set, but a tetmesh scene has no such regulariser",
        ),
        (
            [*STAGED, "--then.1.scene.type=surface", "--then.1.show=normal"],
            "stage 3: show is normal, but the normals of a surface scene stay as they are: it would learn nothing",
            "use --show color",
        ),
        (["--weights.laplacian=1"], "stage 1: weights.laplacian is set, but a nerf scene has no such regulariser"),
        (["--then.2.steps=2"], "then.2: no such entry; accepted: 0 to 1 (1 adds one)"),
        (["--mesh", "missing.glb", "--preset=latent-paint"], "there is no mesh file", "missing.glb"),
        (["--mesh", "missing.glb"], "a nerf scene cannot begin with a mesh", "--preset texture-toy"),
        ([*STAGED, "--then.0.prior=nowhere-to-be-found"], "nowhere-to-be-found"),
        ([*STAGED, "--then.0.prior=./no/folder"], "there is no folder './no/folder'", "give --then.0.prior the path"),
        (["--prior-config=sd-1.5"], "--prior-config goes with a one-file checkpoint"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_stage(stub, tmp_path, capsys, given):
    words = ["generate", "a red mug", "--prior", stub, "--steps=2", "--out", tmp_path / "run", *given[0]]
    refused(capsys, tmp_path, words, *given[1:])


def test_the_prior_of_a_later_stage_is_named_by_its_own_option(monkeypatch, stub):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = dataclasses.replace(staged(stub, MESH), then=(dataclasses.replace(Stage(), prior="sd-1.5", scene=MESH),))
    with pytest.raises(ValueError, match=r"'sd-1.5' cannot be had.* \(--then\.0\.prior toybox\)"):
        prepare(config)


def test_another_prior_takes_the_place_of_the_one_before(stub, tmp_path):
    other = shutil.copytree(stub, tmp_path / "other")
    config = staged(stub, MESH)
    job = prepare(dataclasses.replace(config, then=(dataclasses.replace(config.then[0], prior=str(other)),)))
    before, held = weakref.ref(job.prior), []

    def load(*given):
        held.append(before() is not None)
        return load_prior(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreamlift.lifting.load_prior", load)
        job.change_teacher(1)
    assert held == [False]


def test_settings_of_stages_are_listed_and_read_back(stub):
    config = staged(stub, MESH, SPLATS)
    assert load_yaml(Config, save_yaml(config)) == config
    rows = {row[0]: row[2] for row in describe_fields(config)}
    assert {"then.0.scene.resolution", "then.1.scene.capacity"} <= set(rows)
    assert apply_overrides(Config(), rows) == config


def test_a_stage_has_the_settings_of_a_config(stub):
    fields = {field.name: field.type for field in dataclasses.fields(Config)}
    assert all(fields[field.name] == field.type for field in dataclasses.fields(Stage))
    one, two = staged(stub, MESH).stages
    assert (one.scene.__class__, two.scene) == (Nerf, MESH)
    assert (one.prior, two.prior, two.then) == (str(stub), str(stub), ())
    assert dataclasses.replace(staged(stub), then=()).stages == (staged(stub),)


def test_the_dearest_stage_is_the_one_whose_memory_is_told(stub):
    config = staged(stub, dataclasses.replace(MESH, resolution=64))
    needs = [estimate(stage, footprint(stub)) for stage in config.stages]
    assert needs[1].host > needs[0].host
    told = largest(tuple(needs))
    assert told.host == needs[1].host
    assert "of 2 stages" in str(told)
    assert largest((None, needs[0])) == needs[0]


def test_normals_are_shown_to_the_prior_where_a_stage_says_so(stub):
    seen = []
    config = dataclasses.replace(staged(stub), scene=MESH, show="normal", steps=1, weights=Weights())
    check_stages(config)
    job = prepare(config)
    encode = job.prior.encode
    job.prior.encode = lambda rgb: (seen.append(rgb.detach()), encode(rgb))[1]
    (step,) = lift(job)
    hit = step.render.opacity[..., 0] > 0.99
    assert bool(hit.any())
    # A normal of length 1, moved into [0, 1]; black where there is nothing.
    assert torch.allclose((2 * seen[0][hit] - 1).norm(dim=-1), torch.ones(int(hit.sum())), atol=0.05)
    assert float(seen[0][step.render.opacity[..., 0] == 0].abs().max()) == 0.0
    toward = torch.nn.functional.normalize(step.cameras.c2w[0, :3, 3], dim=0)
    assert float(((2 * seen[0][hit] - 1) @ toward).mean()) > 0.3  # a thing's visible sides look at the camera


@pytest.mark.parametrize("background", [Random(), Solid((1.0, 1.0, 1.0))])
def test_a_background_that_backdrops_would_hide_is_refused(background):
    config = dataclasses.replace(TOYBOX, scene=dataclasses.replace(TOYBOX.scene, background=background))
    with pytest.raises(ValueError, match=r"stage 1: scene.background is not one of the backdrops.*give --backdrops \[\]"):
        check_stages(config)
    check_stages(dataclasses.replace(config, backdrops=()))
