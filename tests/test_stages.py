"""Runs of several stages: each begins with what the one before made, and nothing is lost between them."""

import copy
import dataclasses
import shutil
import weakref

import numpy as np
import pytest
import torch
import trimesh
from lift_helpers import changed, generate_words, refused, run_main, small_pictures, status_of, taught
from PIL import Image as Picture
from run_helpers import same

from dreamlift import generate
from dreamlift.cameras import CameraSampler
from dreamlift.config.build import ConfigError, apply_overrides, describe_fields, load_yaml, save_yaml
from dreamlift.config.schema import Config, check_stages
from dreamlift.config.short import describe, override
from dreamlift.export.glb import load_glb
from dreamlift.export.splats import load_splats
from dreamlift.lifting import lift, load, resolve
from dreamlift.meshing.geometry import is_closed, signed_volume
from dreamlift.presets.toybox import TOYBOX
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import Located
from dreamlift.runs.run import read_metrics
from dreamlift.scenes.background import Random, Solid
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.surface.scene import Surface
from dreamlift.scenes.surface.textures import Image
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.stages.base import SavedState, with_priors
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher
from dreamlift.texturing.extract import Extract
from dreamlift.types import Note, StageBegan, Step

FEW = CameraSampler(views=1, resolution=(16,))
MESH = TetMesh(resolution=12, color=Voxel((9,), (0.0,)), background=Solid((1.0, 1.0, 1.0)))
SPLATS = Gaussians(capacity=300, count=200, background=Solid((1.0, 1.0, 1.0)))
STAGED = [
    "--stages.1.type=lift", "--stages.1.steps=4", "--stages.1.scene.type=tetmesh", "--stages.1.scene.resolution=12",
    "--stages.1.cameras.resolution=[32]",
]  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    small_pictures(monkeypatch)


def staged(stub, *scenes, particles=1):
    """A run of 3 steps of a radiance field and 2 steps of each further scene."""
    field = Nerf(Voxel((9, 17), (0.0, 0.5)), samples_per_ray=24)
    first = Lift(steps=3, cameras=FEW, scene=field, teachers=(Teacher(PriorChoice(str(stub))),))
    then = tuple(Lift(steps=2, cameras=FEW, scene=scene) for scene in scenes)
    return Config(
        prompt="a red mug", particles=particles, stages=(first, *then), checkpoint_every=2,
        mesh=Extract(24, faces=300, texture_size=64),
    )  # fmt: skip


def ready(config):
    return load(resolve(config))


def steps_of(job):
    return (event for event in lift(job) if isinstance(event, Step))


def test_a_later_stages_panorama_is_looked_at_before_the_first_one_starts(stub, tmp_path, monkeypatch):
    paint = Surface(texture=Image(16, 16), material="pbr", environment="sky.png", background=Solid((1.0, 1.0, 1.0)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"sky.png.* cannot be used as a panorama"):
        resolve(staged(stub, MESH, paint))
    Picture.new("RGB", (64, 32), (90, 120, 200)).save("sky.png")
    job = ready(staged(stub, MESH, paint))
    monkeypatch.chdir("/")  # the file is found from anywhere
    assert [stage.scene.environment for stage in job.config.stages if isinstance(stage.scene, Surface)] == [
        str(tmp_path / "sky.png")
    ]


def test_a_stage_begins_with_the_mesh_that_the_one_before_made(stub):
    job = ready(staged(stub, MESH, SPLATS))
    kinds, starts, others = [], [], []
    for event in lift(job):
        if not isinstance(event, Step):
            others.append((len(kinds), event))
            continue
        kinds.append(type(job.work.scene).__name__)
        starts.append(job.work.meshes[0])
        assert event.index == len(kinds) - 1
    assert kinds == ["NerfScene"] * 3 + ["TetMeshScene"] * 2 + ["GaussianScene"] * 2
    assert starts[0] is None
    began = [(done, event.number, event.count) for done, event in others if isinstance(event, StageBegan)]
    assert began == [(0, 0, 3), (3, 1, 3), (5, 2, 3)]  # every stage says so before its first step
    assert [event.handover.meshes for _, event in others if isinstance(event, StageBegan)] == [
        (None,), (starts[3],), (starts[5],)
    ]  # fmt: skip
    assert [done for done, event in others if isinstance(event, Note)] == [3, 5]
    # The surface of the blob that a field begins as: a closed, coloured mesh, which is what the next one then looks like.
    assert is_closed(starts[3].faces)
    assert starts[3].vertex_colors is not None
    volumes = [signed_volume(starts[i].vertices, starts[i].faces) for i in (3, 5)]
    assert volumes[0] > 0
    assert volumes[1] == pytest.approx(volumes[0], rel=0.15)


@pytest.mark.parametrize("stop", range(1, 7))
def test_a_run_goes_on_from_any_step_of_any_stage_bit_by_bit(stub, stop):
    config = staged(stub, MESH, SPLATS)
    whole = ready(config)
    for _ in lift(whole):
        pass
    first = ready(config)
    for _, _ in zip(range(stop), steps_of(first), strict=False):
        pass
    saved = SavedState.from_dict(copy.deepcopy(first.saved().to_dict()))
    assert (saved.index, saved.stage) == (stop, 0 if stop <= 3 else 1 if stop <= 5 else 2)
    again = load(resolve(config, saved), saved)
    for _ in lift(again):
        pass
    assert again.work.index == 7
    assert same(again.saved().to_dict(), whole.saved().to_dict())


def test_every_particle_has_a_mesh_of_its_own_between_the_stages(stub):
    job = ready(staged(stub, MESH, particles=2))
    steps = list(steps_of(job))
    assert len(steps) == 10
    one, two = (mesh.vertices for mesh in job.work.meshes)
    assert one.shape != two.shape or not np.array_equal(one, two)


def test_a_run_with_stages_from_the_command_line(stub, tmp_path, quick, capsys):
    folder = tmp_path / "run"
    assert run_main(*(word for word in generate_words(stub, folder, *STAGED) if word != "--stages.1=null")) == 0
    assert [line["step"] for line in read_metrics(folder)] == list(range(10))
    kept, made = load_glb(folder / "stage-1.glb"), load_glb(folder / "asset.glb")
    assert kept.vertex_colors is not None
    assert kept.base_color is None  # the next scene does not paint on it
    assert not np.array_equal(kept.vertices, made.vertices)
    config = load_yaml(Config, (folder / "config.yaml").read_text())
    assert (len(config.stages), config.stages[1].steps, config.total_steps) == (2, 4, 10)
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
    asset = generate("a red mug", staged(stub), progress=False)
    asset.save(tmp_path / "own.glb")
    config = dataclasses.replace(changed(staged(stub), scene=MESH), initial_mesh=str(tmp_path / "own.glb"))
    job = ready(config)
    (start,) = job.work.meshes
    assert signed_volume(start.vertices, start.faces) > 0
    (tmp_path / "own.glb").unlink()
    saved = copy.deepcopy(job.saved())
    assert load(resolve(config, saved), saved).work.meshes[0] is not None  # a run that is resumed needs the file no more


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
        (["--preset=latent-paint"], "stages.0: a surface scene needs an initial mesh; give --mesh FILE"),
        (["--stages.1.scene.type=nerf"], "stages.1: a nerf scene cannot start from a mesh; use it in the first stage only"),
        (
            [*STAGED, "--stages.1.weights.sparsity=1"],
            "stages.1: weights.sparsity is set, but a tetmesh scene has no such regularizer",
        ),
        (
            [*STAGED, "--stages.2.type=lift", "--stages.2.scene.type=surface", "--stages.2.teachers.0.show=normal"],
            "stages.2: show is normal, but the shape of a surface scene is fixed, so the loss would have no effect",
            "use --show color",
        ),
        (["--weights.laplacian=1"], "stages.0: weights.laplacian is set, but a nerf scene has no such regularizer"),
        (["--stages.3.steps=2"], "stages.3: no such entry; accepted: 0 to 2 (2 adds one)"),
        (["--stages.2.steps=2"], "stages.2.type: missing, accepted: lift"),
        (["--mesh", "missing.glb", "--preset=latent-paint"], "there is no mesh file", "missing.glb"),
        (["--mesh", "missing.glb"], "a nerf scene cannot start from a mesh", "--preset texture-toy"),
        ([*STAGED, "--stages.1.teachers.0.prior=nowhere-to-be-found"], "nowhere-to-be-found"),
        (
            [*STAGED, "--stages.1.teachers.0.prior=./no/folder"],
            "there is no folder './no/folder'",
            "give --stages.1.teachers.0.prior the path",
        ),
        (["--photometric.rgb=1"], "stages.0: photometric.source is photos, but there are none"),
        (["--prior-config=sd-1.5"], "--prior-config is for a one-file checkpoint only"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_stage(stub, tmp_path, capsys, given):
    words = ["generate", "a red mug", "--prior", stub, "--steps=2", "--out", tmp_path / "run", *given[0]]
    refused(capsys, tmp_path, words, *given[1:])


def test_the_prior_of_a_later_stage_is_named_by_its_own_option(monkeypatch, stub):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = taught(staged(stub, MESH), 1, prior=PriorChoice("sd-1.5"))
    with pytest.raises(ValueError, match=r"'sd-1.5' is not available.* --stages\.1\.teachers\.0\.prior toybox needs no"):
        resolve(config)


def test_another_prior_takes_the_place_of_the_one_before(stub, tmp_path):
    other = shutil.copytree(stub, tmp_path / "other")
    job = ready(taught(staged(stub, MESH), 1, prior=PriorChoice(str(other))))
    before, held = weakref.ref(job.work.ready.priors[0]), []
    load_located = Located.load

    def spied(*given):
        held.append(before() is not None)
        return load_located(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Located, "load", spied)
        for event in lift(job):
            if isinstance(event, StageBegan) and event.number == 1:
                break
    assert held == [False]


def test_the_same_prior_stays_for_the_next_stage(stub):
    job = ready(staged(stub, MESH))
    (before,) = job.work.ready.priors
    for _ in lift(job):
        pass
    assert job.number == 1
    assert job.work.ready.priors == (before,)


def test_settings_of_stages_are_listed_and_read_back(stub):
    config = staged(stub, MESH, SPLATS)
    assert load_yaml(Config, save_yaml(config)) == config
    rows = {row[0]: row[2] for row in describe_fields(config)}
    assert {"stages.0.steps", "stages.1.scene.resolution", "stages.2.scene.capacity"} <= set(rows)
    assert apply_overrides(Config(), rows) == config
    short = {row[0]: row[2] for row in describe(config)}
    assert {"steps", "guidance.guidance_scale", "stages.1.scene.resolution", "stages.2.scene.capacity"} <= set(short)
    assert override(config, short) == config


def test_a_teacher_without_a_prior_has_that_of_the_one_before(stub):
    other = Teacher(PriorChoice("toybox-latent"))
    config = staged(stub, MESH, MESH, SPLATS)
    stages = changed(config, 2, teachers=(Teacher(), other, Teacher())).stages
    names = [[teacher.prior.name for teacher in stage.teachers] for stage in with_priors(stages)]
    assert names == [[str(stub)], [str(stub)], [str(stub), "toybox-latent", "toybox-latent"], [str(stub)]]
    assert [teacher.prior.name for teacher in with_priors((Lift(),))[0].teachers] == ["toybox"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages.0": "null", "stages.1": "null"}, "stages is empty; a run needs at least one stage"),
        ({"teachers.0": "null"}, "teachers is empty and photometric is null: there is no loss"),
    ],
)
def test_a_run_has_a_stage_and_a_stage_something_to_learn_from(settings, message):
    with pytest.raises(ConfigError, match=message):
        override(TOYBOX, settings)


def test_the_memory_of_a_run_is_that_of_its_largest_stage(stub):
    small, large = staged(stub), staged(stub, dataclasses.replace(MESH, resolution=128))
    only = dataclasses.replace(large, stages=(dataclasses.replace(large.stages[1], teachers=small.stages[0].teachers),))
    needs = [resolve(config).need for config in (small, large, only)]
    assert needs[1].host == needs[2].host > needs[0].host


def test_normals_are_shown_to_the_prior_where_a_stage_says_so(stub):
    seen = []
    config = taught(changed(staged(stub), scene=MESH, steps=1, weights=Weights()), show="normal")
    check_stages(config)
    job = ready(config)
    (prior,) = job.work.ready.priors
    encode = prior.encode
    prior.encode = lambda rgb: (seen.append(rgb.detach()), encode(rgb))[1]
    (step,) = steps_of(job)
    hit = step.render.opacity[..., 0] > 0.99
    assert bool(hit.any())
    # A normal of length 1, moved into [0, 1]; black where there is nothing.
    assert torch.allclose((2 * seen[0][hit] - 1).norm(dim=-1), torch.ones(int(hit.sum())), atol=0.05)
    assert float(seen[0][step.render.opacity[..., 0] == 0].abs().max()) == 0.0
    toward = torch.nn.functional.normalize(step.cameras.c2w[0, :3, 3], dim=0)
    assert float(((2 * seen[0][hit] - 1) @ toward).mean()) > 0.3  # a thing's visible sides look at the camera


@pytest.mark.parametrize("background", [Random(), Solid((1.0, 1.0, 1.0))])
def test_a_background_that_backdrops_would_hide_is_refused(background):
    config = changed(TOYBOX, scene=dataclasses.replace(TOYBOX.stages[0].scene, background=background))
    with pytest.raises(ValueError, match=r"stages.0: scene.background is not one of the backdrops.*give --backdrops \[\]"):
        check_stages(config)
    check_stages(dataclasses.replace(config, backdrops=()))
