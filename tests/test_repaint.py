"""The stage that repaints renders: its pictures against priors whose answers are known, and runs through it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from folder_helpers import save_if
from lift_helpers import run_main, small_pictures, status_of
from run_helpers import same
from stage_helpers import FIELD, begun, steps_of

from dreamlift.cameras import CameraSampler
from dreamlift.config.build import save_yaml
from dreamlift.config.schema import Config
from dreamlift.guidance.refine import Refine
from dreamlift.guidance.sds import SDS
from dreamlift.lifting import load, resolve
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.exact.empirical import EmpiricalPrior
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.priors.kinds import load_prior
from dreamlift.prompts import Backdrop, NoViews
from dreamlift.scenes.nerf.occupancy import Occupancy
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.repaint import Repaint
from dreamlift.stages.teacher import Teacher
from dreamlift.texturing.extract import Extract
from dreamlift.types import Handover, Mesh

SIZE = 12
PALE = Backdrop("", (0.7, 0.75, 0.8))


def ball():
    found = trimesh.creation.icosphere(2, 0.6)
    colors = np.tile(np.array([[0.9, 0.2, 0.1]], dtype=np.float32), (len(found.vertices), 1))
    return Mesh(found.vertices.astype(np.float32), found.faces.astype(np.int32), vertex_colors=colors)


def stage(t=0.5, **changes):
    teacher = Teacher(guidance=Refine(1.0, t, t, steps=10), wording=NoViews())
    return Repaint(**{"views": 4, "elevation_deg": (10.0, 40.0), "teachers": (teacher,), **changes})


def painted(repaint, prior, **settings):
    config = Config(prompt="a ball", stages=(Lift(), repaint), **settings)
    work = begun(config, prior, number=1, handover=Handover(meshes=(ball(),)))
    return work, list(steps_of(work))


def test_the_pictures_are_the_priors_at_the_stages_cameras():
    pictures = torch.rand(4, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    cameras = stage().cameras(SIZE)
    work, _ = painted(stage(), EmpiricalPrior(pictures, cameras))
    left = work.leave(Extract())
    torch.testing.assert_close(left.pictures.rgb, pictures, rtol=0, atol=1e-3)
    azimuths = torch.rad2deg(left.pictures.cameras.azimuth)
    torch.testing.assert_close(azimuths, torch.tensor([0.0, 90.0, 180.0, 270.0]), rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.rad2deg(left.pictures.cameras.elevation), torch.tensor([10.0, 40.0, 10.0, 40.0]))
    # the masks are those of a ball of radius 0.6 in the middle
    assert left.pictures.alpha[:, SIZE // 2, SIZE // 2].min() == 1.0
    assert left.pictures.alpha[:, 0, 0].max() == 0.0
    assert left.meshes == ()


def test_little_noise_leaves_the_renders_as_they_are():
    prior = GaussianPrior(torch.zeros(1, 3, SIZE, SIZE), torch.tensor([0.5]))
    changes = []
    for t in (0.01, 0.3, 0.9):
        _, steps = painted(stage(t), prior, backdrops=(PALE,))
        torch.testing.assert_close(steps[0].render.rgb[0, 0, 0], torch.tensor(PALE.color))
        changes.append(steps[0].loss)
    assert changes[0] < 1e-3 < changes[1] < changes[2]


def test_one_step_of_a_gaussian_prior_is_its_posterior_mean():
    """x0_hat of N(m, s^2): (s^2 alpha x_t + sigma^2 m) / (s^2 alpha^2 + sigma^2), by another loss than refine."""
    prior = GaussianPrior(torch.full((1, 3, SIZE, SIZE), 0.2), torch.tensor([0.5]))
    teacher = Teacher(guidance=SDS(1.0, 0.5, 0.5), wording=NoViews())
    work, steps = painted(replace(stage(), teachers=(teacher,)), prior)
    alpha, sigma = (value.flatten() for value in prior.schedule(torch.tensor([0.5])))
    x, found = prior.encode(steps[0].render.rgb), prior.encode(work.rgb[:1])
    # the part that does not depend on the noise: the mean over the pixels
    weight = 0.25 * alpha**2 / (0.25 * alpha**2 + sigma**2)
    wanted = weight * x.mean() + (1 - weight) * 0.2
    noise = float(0.25 * alpha * sigma / (0.25 * alpha**2 + sigma**2)) / (3 * SIZE * SIZE) ** 0.5
    assert abs(float(found.mean() - wanted)) < 4 * noise


RUN = Config(
    prompt="a red mug",
    stages=(
        Lift(
            steps=2,
            cameras=CameraSampler(views=1, resolution=(8,)),
            scene=Nerf(field=FIELD, samples_per_ray=12, occupancy=Occupancy(resolution=8, every=2, warmup=2)),
            teachers=(Teacher(guidance=SDS(1.0)),),
        ),
        Repaint(views=2, teachers=(Teacher(guidance=Refine(1.0, 0.3, 0.3, steps=4)),)),
        Lift(
            steps=2,
            cameras=CameraSampler(views=1, resolution=(8,)),
            scene=Nerf(field=FIELD, samples_per_ray=12, occupancy=Occupancy(resolution=8, every=2, warmup=2)),
            teachers=(),
            photometric=Photometric(source="handover", views=1, resolution=(8,)),
        ),
    ),
)
OPTIONS = ["--mesh.resolution", "16", "--mesh.faces", "200", "--mesh.texture_size", "32"]


def test_the_command_line_runs_it(cwd, monkeypatch):
    small_pictures(monkeypatch)
    (cwd / "run.yaml").write_text(save_yaml(RUN))
    assert run_main("generate", "--config", "run.yaml", *OPTIONS, "--out", "whole") == 0
    assert status_of(cwd / "whole")["status"] == "finished"
    assert len((cwd / "whole" / "metrics.jsonl").read_text().splitlines()) == 2 + 2 + 2


def test_a_large_prior_is_told_that_the_background_is_white(tmp_path, stub):
    """Without backdrops the renders lie on white; priors of toys know no such words."""
    large = save_if(tmp_path / "if")
    for folder, words in ((large, "white background"), (stub, "")):
        stages = [
            replace(stage, teachers=tuple(
                replace(teacher, prior=PriorChoice(str(folder)), wording=NoViews()) for teacher in stage.teachers
            )) for stage in RUN.stages
        ]  # fmt: skip
        job = load(resolve(replace(RUN, engine="torch", stages=tuple(stages))))
        cameras = RUN.stages[1].cameras(8)[:1]
        (plain,), (told,) = job.embeds[0], job.embeds[1]
        prior = load_prior(str(folder))
        for embeds, wanted in ((plain, "a red mug"), (told, ", ".join(filter(None, ("a red mug", words))))):
            torch.testing.assert_close(embeds.at(cameras).prompt_embeds, prior.embed_text([wanted]).states)


def test_it_continues_from_any_picture():
    prior = GaussianPrior(torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)), torch.tensor([0.2, 0.3]))
    whole, _ = painted(stage(), prior)
    for done in range(4):
        config = Config(prompt="a ball", stages=(Lift(), stage()))
        first = begun(config, prior, number=1, handover=Handover(meshes=(ball(),)))
        for _ in range(done):
            first.step()
        second = begun(config, prior, number=1, handover=Handover(meshes=(ball(),)))
        second.load_state_dict(first.state_dict())
        list(steps_of(second))
        assert same(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize(("change", "message"), [
    (lambda: stage(views=0), "views is 0; it must be at least 1"),
    (lambda: stage(elevation_deg=(100.0,)), "give one or several angles"),
    (lambda: stage(fov_deg=0.0), "fov_deg 0"),
    (lambda: Repaint(teachers=()), "exactly one teacher"),
    (lambda: Repaint(teachers=(Teacher(show="normal"),)), "exactly one teacher"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        change()


def test_it_needs_an_asset_and_one_particle():
    for config, message in (
        (Config(stages=(Repaint(), RUN.stages[2])), "put a lift stage before it"),
        (replace(RUN, particles=2), "draws one asset, but particles is 2"),
    ):
        number = next(n for n, each in enumerate(config.stages) if isinstance(each, Repaint))
        with pytest.raises(ValueError, match=message):
            config.stages[number].check(config.places()[number])


def test_a_scene_begins_anew_after_it_unless_the_mesh_is_kept():
    assert [place.has_mesh for place in RUN.places()] == [False, True, False]
    kept = replace(RUN, stages=(RUN.stages[0], replace(RUN.stages[1], keep_mesh=True), RUN.stages[2]))
    assert [place.has_mesh for place in kept.places()] == [False, True, True]
