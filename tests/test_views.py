"""``dreamlift views``: files, options and errors, with an untrained prior; and a run that a view-conditioned prior teaches."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from big_helpers import first_pipeline
from PIL import Image
from view_helpers import save_view

import dreamlift
from dreamlift.apps.views import ViewOrder, Views, draw_views, enlarged, parse_azimuths, save_views
from dreamlift.cameras import CameraSampler
from dreamlift.cli import main
from dreamlift.config.schema import Config
from dreamlift.guidance.sds import SDS
from dreamlift.lifting import lift, load, resolve
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import load_prior
from dreamlift.prompts import NoViews
from dreamlift.reading.photos import Photo
from dreamlift.scenes.background import Solid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.stages.lift import Lift
from dreamlift.stages.teacher import Teacher
from dreamlift.toybox.training.pairs import make_pictures
from dreamlift.types import Step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_view(tmp_path_factory.mktemp("prior") / "view")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A red disc on transparent ground."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    picture = np.zeros((64, 64, 4), dtype=np.uint8)
    picture[x**2 + y**2 < 0.6] = (200, 30, 20, 255)
    path = tmp_path_factory.mktemp("photo") / "disc.png"
    Image.fromarray(picture).save(path)
    return path


def test_the_verb_writes_its_files(folder, photo, tmp_path, capsys):
    out = tmp_path / "views"
    words = ["views", str(photo), "--prior", str(folder), "--azimuths", "0:180:90", "--elevation", "30", "--photo-elevation",
             "10", "--samples", "2", "--seed", "7", "--steps", "2", "--out", str(out), "--engine", "torch",
             "--json"]  # fmt: skip
    assert main(words) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    names = ["view-00-0-sample0.png", "view-01-90-sample0.png", "turning-sample0.webp", "view-00-0-sample1.png",
             "view-01-90-sample1.png", "turning-sample1.webp", "sheet.png"]  # fmt: skip
    assert last["files"] == [str(out / name) for name in [*names, "views.json"]]
    about = json.loads((out / "views.json").read_text())
    assert about["files"] == names
    wanted = {"azimuths_deg": [0.0, 90.0], "elevation_deg": 30.0, "seed": 7, "steps": 2, "guidance_scale": 1.0, "show": "color"}
    assert {name: about[name] for name in wanted} == wanted
    assert about["photo"]["elevation_deg"] == 10.0
    assert about["prior_revision"]
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.size == (3 * 128, 2 * 128)  # the picture and two views, in each of two rows
    with Image.open(out / "turning-sample0.webp") as turning:
        assert turning.n_frames == 2
    with Image.open(out / "view-01-90-sample1.png") as one:
        stored = np.asarray(one)
    assert stored.shape == (16, 16, 3)
    order = ViewOrder(azimuths_deg=(0.0, 90.0), elevation_deg=30.0, samples=2, seed=7, steps=2, engine="torch")
    views = draw_views(Photo(str(photo), elevation_deg=10.0), str(folder), order)
    assert np.abs(stored - 255.0 * views.pictures[1, 1].numpy()).max() <= 0.5 + 1e-3
    # the second sample is the first one of the next seed
    following = draw_views(Photo(str(photo), elevation_deg=10.0), str(folder), replace(order, samples=1, seed=8))
    torch.testing.assert_close(following.pictures[0], views.pictures[1])


def test_azimuths_are_counted_from_the_pictures_camera(folder, photo):
    order = ViewOrder(azimuths_deg=(30.0,), steps=1, engine="torch")
    plain, turned = (draw_views(Photo(str(photo), azimuth_deg=a, elevation_deg=5.0), folder, order) for a in (0.0, 100.0))
    torch.testing.assert_close(plain.pictures, turned.pictures, atol=1e-4, rtol=1e-4)
    assert float(turned.cameras.azimuth[0]) == pytest.approx(math.radians(130.0))
    assert float(plain.cameras.elevation[0]) == pytest.approx(math.radians(5.0))  # the picture's


def test_places_differ_from_colors_and_python_draws_too(folder, photo):
    settings = {"azimuths_deg": (0.0,), "steps": 1, "engine": "torch"}
    colors, places = (dreamlift.views(photo, prior=str(folder), show=show, **settings) for show in ("color", "place"))
    assert isinstance(colors, Views)
    assert colors.pictures.shape == (1, 1, 16, 16, 3)
    assert float((colors.pictures - places.pictures).abs().mean()) > 1e-3
    loaded = dreamlift.views(photo, prior=load_prior(folder), **settings)
    torch.testing.assert_close(loaded.pictures, colors.pictures)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0:360:90", (0, 90, 180, 270)), ("-30:31:30", (-30, 0, 30)), ("90:0:-45", (90, 45)), ("0:1:0.25", (0, 0.25, 0.5, 0.75)),
     ("0,22.5,-90", (0, 22.5, -90)), ("15", (15,))],
)  # fmt: skip
def test_azimuths_are_ranges_or_lists(text, wanted):
    assert parse_azimuths(text) == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--azimuths", "left"], "--azimuths is 'left'; accepted: degrees such as 0:360:45 or 0,90,180"),
        (["--azimuths", "0:360:0"], "has no values or more than 1000"),
        (["--azimuths", "0:360:0.01"], "has no values or more than 1000"),
        (["--elevation", "95"], "elevation is 95; accepted: -90 to 90 degrees"),
        (["--samples", "0"], "samples is 0; accepted: 1 to 1000"),
        (["--steps", "0"], "steps is 0; accepted: 1 to 1000"),
        (["--guidance-scale", "-1"], "--guidance-scale is -1; accepted: 0 to 1000"),
        (["--seed", "-1"], "seed is -1; accepted"),
        (["--engine", "warp"], "unknown engine 'warp'"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--prior", "toybox"], "the prior toybox is conditioned on words, not on a picture: use toybox-view"),
        (["--steps.x", "1"], "views takes no settings"),
    ],
)
def test_wrong_options_are_refused_in_one_line(folder, photo, tmp_path, capsys, words, message):
    given = words if "--prior" in words else [*words, "--prior", str(folder)]
    assert main(["views", str(photo), "--out", str(tmp_path / "out"), *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_picture_and_a_model_of_words_are_refused(folder, photo, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=r"nothing\.png"):
        draw_views(tmp_path / "nothing.png", folder)
    with pytest.raises(ValueError, match="conditioned on words"):
        draw_views(photo, first_pipeline())


def test_pictures_that_the_judge_does_not_recognise_get_a_note(folder, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4)).astype(np.uint8)
    noise[..., 3] = 0
    noise[16:48, 20:44, 3] = 255
    toy = (make_pictures(4)["reference"][0]).astype(np.float32)
    toy[..., :3] /= np.maximum(toy[..., 3:], 1.0) / 255  # which are premultiplied
    notes = {}
    for name, picture in (("toy", toy), ("noise", noise)):
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
        order, said = ViewOrder(azimuths_deg=(0.0,), steps=1, engine="torch"), []
        draw_views(tmp_path / f"{name}.png", folder, order, said.append)
        assert said[-1].startswith("the picture's elevation is estimated: ")
        assert said[-1].endswith(" degrees above level (--photo-elevation overrides)")
        notes[name] = [text for text in said if "does not recognise it" in text]
    assert notes["toy"] == []
    assert notes["noise"][0].startswith("the judge, which knows 64 kinds of toys, does not recognise it. toybox-view has seen")


def test_small_pictures_are_enlarged_for_looking_at():
    assert enlarged(torch.rand(2, 64, 64, 3)).shape == (2, 128, 128, 3)
    assert enlarged(torch.rand(1, 50, 50, 3)).shape == (1, 150, 150, 3)
    same = torch.rand(1, 256, 256, 3)
    assert enlarged(same) is same


def test_one_view_needs_no_animation(folder, photo, tmp_path):
    views = draw_views(photo, folder, ViewOrder(azimuths_deg=(12.5,), steps=1, engine="torch"))
    assert [path.name for path in save_views(views, tmp_path)] == ["view-00-12.5.png", "sheet.png", "views.json"]


# --- a run


def config(folder, photo, show):
    teacher = Teacher(PriorChoice(str(folder)), SDS(guidance_scale=2.0, clip_x0=1.0), NoViews(), show)
    scene = Nerf(field=Voxel(resolutions=(5,), switch_on=(0.0,)), background=Solid((1.0, 1.0, 1.0)), samples_per_ray=8)
    stage = Lift(steps=2, cameras=CameraSampler(views=2, resolution=(16,)), scene=scene, teachers=(teacher,))
    return Config(prompt="a disc", photos=(Photo(str(photo), elevation_deg=20.0),), stages=(stage,), engine="torch")


@pytest.mark.parametrize("show", ["color", "place"])
def test_a_run_learns_from_it(folder, photo, show):
    job = load(resolve(config(folder, photo, show)))
    before = [parameter.detach().clone() for parameter in job.work.scene.parameters()]
    steps = [event for event in lift(job) if isinstance(event, Step)]
    assert [step.note for step in steps] == ["", ""]
    assert all(step.terms["grad_norm"] > 0 for step in steps)
    assert any(not torch.equal(a, b) for a, b in zip(before, job.work.scene.parameters(), strict=True))


def test_a_run_without_a_picture_stops_before_loading(folder, photo, monkeypatch):
    monkeypatch.setattr("dreamlift.priors.zero123.prior.Zero123Prior.load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="give --image FILE"):
        resolve(replace(config(folder, photo, "color"), photos=()))
    with pytest.raises(ValueError, match="show is normal"):
        resolve(config(folder, photo, "normal"))
