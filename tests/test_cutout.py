"""``dreamlift cutout`` and runs that start from a picture, through the command line and Python."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from picture_helpers import over, shot
from PIL import Image

import dreamlift
from dreamlift import cli
from dreamlift.apps.cutout import IMAGE_PRESET, OUTLINE, TILE, with_cameras, with_image
from dreamlift.cameras import CameraSampler
from dreamlift.config.build import save_yaml
from dreamlift.config.schema import Config, unused_inputs
from dreamlift.images import camera, matting, photos, read
from dreamlift.lifting import load, resolve
from dreamlift.presets import PRESETS
from dreamlift.reading.photos import ELEVATION_DEG, Photo
from dreamlift.runs.carry_out import Order, carry_out
from dreamlift.runs.progress import Silent
from dreamlift.scenes.background import Solid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.texturing.extract import Extract

STAGE = Lift(
    steps=3, cameras=CameraSampler(views=1, resolution=(16,)), teachers=(), photometric=Photometric(resolution=(16,)),
    scene=Nerf(Voxel((9,), (0.0,)), background=Solid(), samples_per_ray=8),
)  # fmt: skip
QUICK = Config(stages=(STAGE,), mesh=Extract(resolution=16, faces=200, texture_size=32), checkpoint_every=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo with a space and an umlaut in its path."""
    path = tmp_path_factory.mktemp("meine bilder ü")
    made = over(shot("duck", "yellow", 4, size=128), 0.92)
    Image.fromarray(made).save(path / "ente 1.png")
    (path / "quick.yaml").write_text(save_yaml(QUICK), encoding="utf-8")
    return path


def test_cutout_shows_what_a_run_will_see(folder, tmp_path, capsys):
    out = tmp_path / "out ö"
    assert cli.main(["cutout", str(folder / "ente 1.png"), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [str(out / name) for name in ("cutout.png", "reference.png", "sheet.png")]
    cutout, reference, sheet = (np.asarray(Image.open(out / name)) for name in ("cutout.png", "reference.png", "sheet.png"))
    truth = shot("duck", "yellow", 4, size=128)[1][..., 0] >= 0.5
    found = cutout[..., 3] >= 128
    assert (found & truth).sum() / (found | truth).sum() > 0.97
    assert reference.shape == (256, 256, 4)
    assert sheet.shape == (TILE, 4 * TILE, 3)
    assert (sheet[:, :TILE] == OUTLINE).all(axis=-1).sum() > 500
    assert not (sheet[:, TILE:] == OUTLINE).all(axis=-1).any()
    assert sheet[:2, 2 * TILE : 3 * TILE].min() == 255  # white about the reference
    assert 0.1 < (sheet[:, TILE : 2 * TILE] == 255).mean() < 0.9


def test_cutout_as_json(folder, tmp_path, capsys):
    assert cli.main(["cutout", str(folder / "ente 1.png"), "--out", str(tmp_path / "o"), "--json"]) == 0
    *_, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert (done["event"], done["way"], done["picture"], done["notes"]) == ("done", "border", [128, 128], [])
    rows, columns = np.nonzero(shot("duck", "yellow", 4, size=128)[1][..., 0] >= 0.5)
    wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(np.array(done["object"]) - wanted).max() <= 1


def test_cutout_has_a_folder_of_its_own_beside_others(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert cli.main(["cutout", str(folder / "ente 1.png")]) == 0
    made = sorted(tmp_path.glob("outputs/ente 1-*/sheet.png"))
    assert len(made) == 2


@pytest.mark.parametrize(("words", "told"), [
    (["missing.png"], "there is no file 'missing.png'"),
    (["."], "it is a folder"),
    (["https://example.org/a.png"], "addresses are not fetched; download it first (curl -LO and the address), then give"),
    (["PHOTO", "--mask", "alpha"], "it has no transparency, so its alpha channel is no mask"),
    (["PHOTO", "--mask", "u2net9"], "unknown mask 'u2net9' (did you mean u2net"),
    (["PHOTO", "--steps.x", "3"], "cutout takes no settings"),
    (["PHOTO", "--out", "FOLDER"], "is not empty, and nothing is overwritten"),
])  # fmt: skip
def test_cutout_refuses_in_one_line_and_writes_nothing(folder, tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    words = [{"PHOTO": str(folder / "ente 1.png"), "FOLDER": str(folder)}.get(word, word) for word in words]
    assert cli.main(["cutout", *words]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert told in said[0]
    assert list(tmp_path.iterdir()) == []


# Runs


def test_an_image_becomes_the_photo_of_a_config():
    stated = replace(QUICK, photos=(Photo("", elevation_deg=5.0, distance=3.8, fov_deg=20.0),))
    assert with_image(stated, "a.png").photos == (Photo("a.png", elevation_deg=5.0, distance=3.8, fov_deg=20.0),)
    assert with_image(QUICK, "a.png").photos == (Photo("a.png"),)
    own = Photo("b.png", azimuth_deg=30.0)
    assert with_image(stated, own).photos == (own,)
    assert with_image(replace(QUICK, photos=(own,)), "a.png").photos == (Photo("a.png"),)
    with pytest.raises(ValueError, match="--image is short for --photos with one entry"):
        with_image(QUICK, "a.png", True)
    assert IMAGE_PRESET in PRESETS


def test_a_run_from_a_picture_alone(folder, tmp_path, capsys):
    words = ["generate", "--image", str(folder / "ente 1.png"), "--config", str(folder / "quick.yaml"), "--azimuth", "20",
             "--fov", "50", "--distance", "2.5", "--elevation", "12.5", "--out", str(tmp_path / "run"),
             "--steps", "2"]  # fmt: skip
    assert cli.main(words) == 0
    said = capsys.readouterr().err
    assert "lifting ente 1.png" in said
    assert (tmp_path / "run" / "asset.glb").is_file()
    status = json.loads((tmp_path / "run" / "run.json").read_text())
    photo = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))["photos"][0]
    assert status["prompt"] == ""
    wanted = {"path": str(folder / "ente 1.png"), "azimuth_deg": 20.0, "elevation_deg": 12.5, "distance": 2.5,
              "fov_deg": 50.0, "ratio": 0.78, "shift": [0.0, 0.0], "mask": "auto"}  # fmt: skip
    assert {name: status["photos"][0][name] for name in wanted} == wanted
    assert {name: photo[name] for name in wanted} == wanted


def test_its_folder_is_named_after_the_picture(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = replace(QUICK, photos=(Photo(str(folder / "ente 1.png")),))
    with pytest.raises(RuntimeError, match="here"):
        carry_out(Order(config), Stopper())
    assert [path.name.rsplit("-", 2)[0] for path in (tmp_path / "outputs").iterdir()] == ["ente-1"]


class Stopper(Silent):
    """Stops the run at its first step."""

    def step(self, step, total):
        raise RuntimeError("here")


class Listener(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_a_picture_that_changes_between_two_parts_of_a_run_is_told(folder, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes((folder / "ente 1.png").read_bytes())
    with pytest.raises(RuntimeError, match="here"):
        carry_out(Order(replace(QUICK, photos=(Photo(str(path)),)), tmp_path / "run"), Stopper())
    picture = np.array(Image.open(path))
    Image.fromarray(np.ascontiguousarray(picture[:, ::-1])).save(path)
    listener = Listener()

    def step(step, total):
        raise RuntimeError("here")

    listener.step = step
    with pytest.raises(RuntimeError, match="here"):
        carry_out(Order(resume=tmp_path / "run"), listener)
    assert any("the photos have changed since this run began" in note for note in listener.notes)
    path.unlink()
    with pytest.raises(ValueError, match=r"the photo .*a\.png' cannot be used: there is no file"):
        carry_out(Order(resume=tmp_path / "run"), Silent())


def test_python_takes_an_image(folder):
    resolved = resolve(with_image(QUICK, folder / "ente 1.png"))
    assert resolved.config.prompt == ""
    assert resolved.config.photos[0].elevation_deg == ELEVATION_DEG
    assert resolved.notes[0] == "ente 1.png: its elevation is not given; 15 degrees above level are assumed (--elevation)"
    assert resolved.task.photos.rgb.shape[0] == 1
    with pytest.raises(ValueError, match="there is no file"):
        dreamlift.generate(image=folder / "missing.png", config=QUICK, progress=False)
    with pytest.raises(ValueError, match="--image is short for --photos"):
        dreamlift.generate(image=folder / "ente 1.png", config=QUICK, photos=[], progress=False)


@pytest.fixture
def counted(monkeypatch):
    """How often pictures are decoded and cut out, with no cutouts of other tests in memory."""
    calls = {"cut": 0, "decoded": 0}

    def counting(name, plain):
        def call(*given, **named):
            calls[name] += 1
            return plain(*given, **named)

        return call

    monkeypatch.setattr(photos, "_kept", {})
    monkeypatch.setattr(read, "_sound", {})
    monkeypatch.setattr(photos, "cut_out", counting("cut", photos.cut_out))
    for module in (photos, read):
        monkeypatch.setattr(module, "decoded", counting("decoded", module.decoded))
    return calls


@pytest.mark.parametrize("elevation", [None, 10.0])
def test_a_run_cuts_its_photo_out_once(folder, counted, monkeypatch, elevation):
    monkeypatch.setattr(camera, "find_viewpoint", lambda *_: camera.Viewpoint())  # which loads the text prior
    config = replace(PRESETS[IMAGE_PRESET], photos=(Photo(str(folder / "ente 1.png"), elevation_deg=elevation),))
    found = resolve(with_cameras(replace(config, engine="torch"), Silent()))
    assert counted == {"cut": 1, "decoded": 1}
    assert found.task.photos.alpha.max() > 0.9


def test_other_contents_and_settings_are_cut_anew(folder, counted, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes((folder / "ente 1.png").read_bytes())
    first = photos.read_cutout(Photo(str(path)))
    with pytest.raises(ValueError, match="read-only"):
        first.alpha[0] = 1.0
    named = photos.read_cutout(Photo(str(path), "border"))
    assert named.window == first.window
    photos.read_cutout(Photo(str(path), ratio=None))
    assert counted["cut"] == 3
    picture = np.array(Image.open(path))
    Image.fromarray(np.ascontiguousarray(picture[:, ::-1])).save(path)
    turned = photos.read_cutout(Photo(str(path)))
    direct = matting.cut_out(read.read_picture(path))
    assert (turned.alpha == direct.alpha).all()
    assert turned.alpha.shape != first.alpha.shape or (turned.alpha != first.alpha).any()


def test_few_cutouts_are_kept(folder, counted, monkeypatch):
    monkeypatch.setattr(photos, "KEPT", 2)
    path = str(folder / "ente 1.png")
    for mask in ("auto", "border", "auto", "grabcut", "border"):
        photos.read_cutout(Photo(path, mask))
    assert counted["cut"] == 4  # the second "auto" was kept, and "border" was dropped for "grabcut"


def test_words_are_needed_where_a_prior_reads_them(folder):
    config = with_image(replace(PRESETS["toybox"], backdrops=()), folder / "ente 1.png")
    said = "the prompt is empty, but the prior toybox-geometry draws from words: add a description"
    with pytest.raises(ValueError, match=said):
        resolve(replace(config, stages=config.stages[:1]))
    with pytest.raises(ValueError, match="the prompt is empty: describe the object"):
        resolve(QUICK)


def test_depth_needs_a_model(folder):
    stage = replace(STAGE, photometric=Photometric(depth=1.0))
    config = with_image(replace(QUICK, stages=(stage,)), folder / "ente 1.png")
    with pytest.raises(ValueError, match=r"stages\.0: photometric.depth has a weight, but photos have no depth of their own"):
        resolve(config)
    resolved = resolve(replace(config, depth_model="somebody/depth"))
    assert resolved.config.depth_model == "somebody/depth"
    assert not any("depth" in note for note in resolved.notes)


@pytest.mark.parametrize(("compared", "told"), [
    (Photometric(resolution=(16,)), "add --stages.0.photometric.depth 1, which is Magic123's weight relative to rgb"),
    (Photometric(rgb=3000.0, resolution=(16,)), "add --stages.0.photometric.depth 3, "),
    (Photometric("handover"), "no stage compares depths, nor with the photos"),
])  # fmt: skip
def test_a_depth_that_no_stage_compares_is_noted_and_not_estimated(folder, monkeypatch, compared, told):
    config = with_image(replace(QUICK, depth_model="somebody/depth"), folder / "ente 1.png")
    if compared.source == "photos":
        monkeypatch.setattr("dreamlift.images.depth.estimate_depth", None)  # is not called
        resolved = resolve(replace(config, stages=(replace(STAGE, photometric=compared),)))
        (note,) = (note for note in resolved.notes if "depth" in note)
        assert load(resolved).resolved.task.photos.depth is None
    else:
        stages = (replace(STAGE, photometric=compared),)
        (note,) = unused_inputs(replace(config, stages=stages), pictured=True)
    assert note.startswith("--depth-model has no effect, since no stage compares depths")
    assert told in note


def test_photos_that_nothing_uses_are_refused(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "a yellow duck", "--photos", str(folder / "ente 1.png")]) == 2
    assert "photos are given, but nothing here uses them: --class NOUN" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
