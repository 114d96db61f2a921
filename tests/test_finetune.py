"""Runs that tune their prior: the stage's weights read back by diffusers, used by later stages, resumed in every stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from folder_helpers import save_if
from lift_helpers import refused, run_main, small_pictures, status_of, tree
from run_helpers import same
from stage_helpers import FIELD
from tuning_helpers import save_photos

from dreamlift.apps.cutout import with_cameras
from dreamlift.cameras import CameraSampler
from dreamlift.config.build import config_hash, load_yaml, save_yaml, to_plain
from dreamlift.config.schema import Config, check_stages
from dreamlift.config.subject import found_word, in_context, with_subject
from dreamlift.guidance.refine import Refine
from dreamlift.guidance.sds import SDS
from dreamlift.lifting import lift, load, resolve
from dreamlift.presets import PRESETS
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.lora.additions import LORA_FILE
from dreamlift.prompts import Backdrop, NoViews
from dreamlift.reading.photos import Photo
from dreamlift.runs.checkpoints import load_latest, save_checkpoint
from dreamlift.runs.progress import Silent
from dreamlift.runs.settings import read_config
from dreamlift.scenes.background import Solid
from dreamlift.scenes.nerf.occupancy import Occupancy
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.stages.base import SavedState
from dreamlift.stages.finetune import Finetune, Finetuning
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.recovery import DivergedError
from dreamlift.stages.repaint import Repaint
from dreamlift.stages.teacher import Teacher
from dreamlift.stages.tuned import Shelf, tuned_priors
from dreamlift.texturing.extract import Extract
from dreamlift.tuning.settings import Tuning
from dreamlift.tuning.words import SubjectWords
from dreamlift.types import Counted, LoraFile, Step

pytestmark = pytest.mark.filterwarnings("ignore:.* does not know '")
WHOLE, LORA = (
    Tuning(all_weights=True, text_encoder=True, batch=1, lr=1e-2),
    Tuning(rank=2, targets="attention", batch=1, lr=0.1),
)
PALE = Backdrop("", (0.7, 0.75, 0.8))
SMALL = Extract(resolution=16, faces=200, texture_size=32)


def lifted(name, **more):
    scene = Nerf(
        field=FIELD, samples_per_ray=12, occupancy=Occupancy(resolution=8, every=2, warmup=2), background=Solid(PALE.color)
    )
    return Lift(
        steps=2, cameras=CameraSampler(views=1, resolution=(8,)), scene=scene,
        teachers=(Teacher(PriorChoice(name), SDS(1.0), NoViews()),), **more,
    )  # fmt: skip


def six(prior, tuning=WHOLE):
    """DreamBooth3D's stages, with two steps each."""
    told = {"steps": 2, "tuning": tuning, "class_count": 2}
    return (
        Finetune(name="partial", prior=PriorChoice(str(prior)), **told),
        lifted("tuned:partial"),
        Finetune(name="full", prior=PriorChoice("tuned:partial"), **told),
        Repaint(views=2, teachers=(Teacher(PriorChoice("tuned:full"), Refine(1.0, 0.3, 0.3, steps=4), NoViews()),)),
        Finetune(name="final", prior=PriorChoice("tuned:partial"), source="both", **told),
        lifted("tuned:final", photometric=Photometric(source="handover", resolution=(8,))),
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    paths = save_photos(tmp_path_factory.mktemp("photos"), 2)
    return tuple(Photo(path, azimuth_deg=30.0 * n, elevation_deg=10.0) for n, path in enumerate(paths))


def config_of(prior, photos, tuning=WHOLE, stages=None):
    return Config(
        prompt="a zwx mug", subject=SubjectWords("mug"), photos=photos, stages=stages or six(prior, tuning), mesh=SMALL,
        backdrops=(PALE,), engine="torch", device="cpu",
    )  # fmt: skip


def carried_out(config, folder, steps=None):
    """The job after its first steps; None: at the end."""
    job = load(resolve(config), shelf=Shelf(folder))
    for event in lift(job) if steps != 0 else ():
        if isinstance(event, Step) and event.index + 1 == steps:
            break
    return job


@pytest.fixture(scope="module")
def whole(stub, photos, tmp_path_factory):
    """(job at the end, folder of its weights)"""
    folder = tmp_path_factory.mktemp("whole") / "tuned"
    return carried_out(config_of(stub, photos), folder), folder


def test_pseudo_views_are_called_as_the_photos_are(stub, photos, tmp_path):
    repaint, final = six(stub)[3].with_choices((PriorChoice(str(stub)),)), replace(six(stub)[4], prior=PriorChoice(str(stub)))
    stages = (lifted(str(stub)), repaint, final, lifted("tuned:final"))
    tuner = carried_out(config_of(stub, photos, stages=stages), tmp_path, steps=5).work.tuner
    assert len(tuner.own) == 2 * 2 + 2  # two photos over two backdrops, and two pseudo views
    assert {prompt.split(",")[0] for wordings in tuner.own.prompts for prompt in wordings} == {"a zwx mug"}


@torch.no_grad()
def drawn_by(prior, prompts=("a zwx mug", "a mug")):
    """A network's answer to fixed noise for prompts that its own text encoder reads."""
    states, t = prior.embed_text(list(prompts)).states, torch.tensor([500] * len(prompts))
    return prior.network.unet(noise(len(prompts)), t, states, timestep_cond=torch.zeros(len(prompts), 8)).sample


def noise(count):
    """What the small network of the toybox's kind takes: 2 x 2 pixels as channels."""
    return torch.randn(count, 12, 16, 16, generator=torch.Generator().manual_seed(0))


# ---- what the stages leave


def test_every_stage_runs_and_leaves_its_weights(whole, stub):
    job, folder = whole
    assert job.handover.tuned == ("partial", "full", "final")
    assert len(job.handover.pictures.rgb) == 2
    answers = [drawn_by(load_prior(str(path))) for path in (stub, *(folder / name for name in ("partial", "full", "final")))]
    assert all(not torch.equal(answers[a], answers[b]) for a in range(4) for b in range(a))


def test_the_class_is_drawn_once_by_the_base_prior(whole):
    _, folder = whole
    assert sorted(path.relative_to(folder / "class").as_posix() for path in (folder / "class").rglob("*.png")) == [
        "partial/0000.png", "partial/0001.png",
    ]  # fmt: skip


def test_class_pictures_are_counted_before_the_first_step(stub, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamlift.tuning.class_pictures.draw", lambda prior, some, *_: torch.zeros(len(some), 16, 16, 3))
    first = Finetune(name="partial", prior=PriorChoice(str(stub)), steps=1, tuning=LORA, class_count=6)
    config = config_of(stub, photos, stages=(first, lifted("tuned:partial")))
    seen = []
    for event in lift(load(resolve(config), shelf=Shelf(tmp_path / "tuned"))):
        seen.append(event)
        if isinstance(event, Step):
            break
    counted = [event for event in seen if isinstance(event, Counted)]
    assert counted == [Counted("class picture", 3, 6), Counted("class picture", 5, 6)]  # four at a time
    assert seen.index(counted[0]) < len(seen) - 1
    assert len(list((tmp_path / "tuned" / "class" / "partial").glob("*.png"))) == 6
    listener = Listener()
    for event in seen:
        listener.event(event, 3)
    assert listener.counts == [("class picture", 3, 6), ("class picture", 5, 6)]


class Listener(Silent):
    def __init__(self):
        self.counts = []

    def counted(self, name, index, total, terms):
        self.counts.append((name, index, total))


def test_every_stage_leaves_a_model_card(whole, stub):
    _, folder = whole
    cards = {name: (folder / name / "README.md").read_text() for name in ("partial", "full", "final")}
    for name, text in cards.items():
        head = yaml.safe_load(text.split("---")[1])
        assert head == {"base_model": stub.name, "library_name": "diffusers", "tags": ["dreambooth", "text-to-3d"]}
        assert f'dreamlift generate "a zwx mug" --prior {name}\n' in text
        assert "Pictures of a mug keep the class as it was (weight 1)." in text
        assert "; 2 steps." in text
        assert "training.json" not in text
        listed = [line[3:-1] for line in text.splitlines() if line.startswith("- `")]
        assert listed
        assert all((folder / name / each).exists() for each in listed)
    assert "on 2 photos by" in cards["partial"]
    assert "went on" not in cards["partial"]
    assert "It went on from the weights `partial` of the same run." in cards["final"]
    assert "on 2 photos and pictures that an earlier stage of the run had made by" in cards["final"]
    assert "Stage 5 of a run left these weights" in cards["final"]


@torch.no_grad()
def test_diffusers_opens_the_weights(whole, stub):
    from diffusers import UNet2DConditionModel
    from transformers import AutoTokenizer

    _, folder = whole
    prior = load_prior(str(folder / "final"))
    unet = UNet2DConditionModel.from_pretrained(folder / "final" / "unet")
    states, t = prior.embed_text(["a zwx mug", "a mug"]).states, torch.tensor([500, 500])
    torch.testing.assert_close(unet(noise(2), t, states, timestep_cond=torch.zeros(2, 8)).sample, drawn_by(prior))
    known, before = (AutoTokenizer.from_pretrained(path / "tokenizer").get_vocab() for path in (folder / "final", stub))
    assert set(known) - set(before) == {"zwx"}
    # one row for each word: stages that go on from a stage's weights add none
    rows = [len(load_rows(folder / name)) for name in ("partial", "full", "final")]
    assert rows == [rows[0]] * 3


def load_rows(folder):
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder / "text_encoder").get_input_embeddings().weight


# ---- who uses them


def test_a_later_stage_has_the_tuned_weights_and_the_tuned_text(stub, photos, tmp_path):
    config = config_of(stub, photos)
    job = carried_out(config, tmp_path / "tuned", steps=3)  # the first step of the first lift
    (prior,), (embeds,) = job.work.ready.priors, job.work.ready.embeds
    alone = load_prior(str(tmp_path / "tuned" / "partial"))
    torch.testing.assert_close(drawn_by(prior), drawn_by(alone))
    cameras = lifted("tuned:partial").cameras(0.0, torch.Generator().manual_seed(0), None)
    said = embeds.at(cameras, [PALE]).prompt_embeds[0]
    assert torch.equal(said, alone.embed_text(["a zwx mug"]).states[0][: len(said)])
    assert not torch.equal(said, load_prior(str(stub)).embed_text(["a zwx mug"]).states[0][: len(said)])
    assert job.embeds[1] == (None,)  # not encoded before the weights are there


def test_it_is_the_run_of_the_folder_given_as_a_prior(whole, stub, photos):
    """The first lift by tuned:partial equals a lift by --prior tuned/partial, where both have the same place and streams."""
    _, folder = whole
    stages = list(config_of(stub, photos).stages)
    by_name = carried_out(config_of(stub, photos, stages=(stages[0], stages[1])), folder.parent / "again")
    given = lifted(str(folder / "partial"))
    by_path = carried_out(config_of(stub, photos, stages=(stages[0], given)), folder.parent / "given")
    assert same(by_name.saved().work, by_path.saved().work)


@pytest.mark.parametrize("tuning", [WHOLE, LORA])
def test_a_tuning_goes_on_from_an_earlier_one(stub, photos, tmp_path, tuning):
    """Before its first step it is the earlier one's network and word, and not the base prior's."""
    first, _, second = six(stub, tuning)[:3]
    config = config_of(stub, photos, stages=(first, second, lifted("tuned:full")))
    job = load(resolve(config), shelf=Shelf(tmp_path / "tuned"))
    events = lift(job)
    while not job.work.finished:
        next(events)
    before = job.work.tuner
    vector = next(iter(before.text.vectors().values())).clone()
    while job.number == 0:
        next(events)
    after = job.work.tuner
    assert torch.equal(next(iter(after.text.vectors().values())), vector)
    t = torch.tensor([300])
    with torch.no_grad():
        answers = [each.network(noise(1), t, torch.zeros(1, 8), each.text([job.config.prompt])) for each in (before, after)]
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def test_loras_are_files_that_a_prior_takes(stub, photos, tmp_path):
    job = carried_out(config_of(stub, photos, LORA), tmp_path / "tuned")
    folder = tmp_path / "tuned"
    assert {path.name for path in (folder / "final").iterdir()} == {LORA_FILE, "learned_embeds.safetensors", "README.md"}
    made = tuned_priors(job.config.stages, folder)
    assert [made[name].loras for name in made] == [(LoraFile(str(folder / name)),) for name in ("partial", "full", "final")]
    given = load_prior(PriorChoice(str(stub), loras=(LoraFile(str(folder / "final")),)))
    torch.testing.assert_close(drawn_by(job.work.ready.priors[0]), drawn_by(given))


def test_a_large_prior_is_tuned_on_pseudo_views_before_white(photos, tmp_path):
    tuning = replace(LORA, class_weight=0.0, lr=1e-3)
    first, lift_stage, _, repaint, final, last = six(save_if(tmp_path / "if"), tuning)
    repaint = replace(repaint, teachers=(replace(repaint.teachers[0], prior=PriorChoice("tuned:partial")),))
    stages = (first, lift_stage, repaint, final, last)
    config = replace(config_of("", photos, stages=stages), backdrops=())
    job = carried_out(config, tmp_path / "tuned", steps=7)  # the first step of the final tuning
    said = {prompt for wordings in job.work.tuner.own.prompts for prompt in wordings}
    assert said == {"a zwx mug", "a zwx mug, white background"}


# ---- resume


@pytest.mark.parametrize("done", [0, 1, 2, 3, 5, 7, 9, 11])
def test_a_run_continues_from_any_stage(whole, stub, photos, tmp_path, done):
    wanted, folder = whole
    first = carried_out(config_of(stub, photos), tmp_path / "tuned", steps=done)
    save_checkpoint(tmp_path / "points", done, first.saved().to_dict(), "hash")
    saved = SavedState.from_dict(load_latest(tmp_path / "points", "hash")[1])
    del first
    resumed = load(resolve(config_of(stub, photos), saved), saved, shelf=Shelf(tmp_path / "tuned"))
    for _ in lift(resumed):
        pass
    assert same(resumed.saved().to_dict(), wanted.saved().to_dict())
    assert tree(tmp_path / "tuned") == tree(folder)


def test_missing_weights_are_named(stub, photos, tmp_path):
    job = carried_out(config_of(stub, photos), tmp_path / "tuned", steps=3)
    saved = SavedState.from_dict(job.saved().to_dict())
    with pytest.raises(ValueError, match=r"the weights 'partial' of this run cannot be used .* start the run anew"):
        load(resolve(config_of(stub, photos), saved), saved, shelf=Shelf(tmp_path / "other"))


def test_a_tuning_that_diverges_names_its_rate(stub, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamlift.tuning.tuner.Tuner.loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(DivergedError, match=r"step 0: the tuning of 'partial' diverged; lower stages\.0\.tuning\.lr"):
        carried_out(config_of(stub, photos), tmp_path / "tuned")
    assert not (tmp_path / "tuned" / "partial").exists()


# ---- the command line


@pytest.fixture
def command(stub, photos, cwd, monkeypatch):
    small_pictures(monkeypatch)
    (cwd / "stages.yaml").write_text(save_yaml(replace(config_of(stub, photos), prompt="", photos=(), subject=None)))
    files = [photo.path for photo in photos]
    return ["generate", "a zwx mug", "--config", "stages.yaml", "--photos", *files, "--azimuth", "0,30", "--elevation", "10"]


def test_one_command_makes_the_asset_and_its_contexts(command, cwd):
    assert run_main(*command, "--class", "mug", "--out", "run") == 0
    assert status_of(cwd / "run")["status"] == "finished"
    assert {path.name for path in (cwd / "run").iterdir()} >= {"asset.glb", "tuned", "stage-2.glb", "stage-4.png"}
    assert not (cwd / "run" / "stage-3.glb").exists()  # a mesh that a tuning passes on is not written again
    config = read_config(cwd / "run")
    assert (config.prompt, config.subject) == ("a zwx mug", SubjectWords("mug", "zwx"))
    before = tree(cwd / "run")
    assert run_main("generate", "--config", "run", "--context", "from above", "--out", "context") == 0
    again = read_config(cwd / "context")
    assert (again.prompt, again.photos, again.subject) == ("a zwx mug from above", (), None)
    assert [(type(stage), stage.choices[0].name) for stage in again.stages] == [(Lift, str(cwd / "run" / "tuned" / "final"))]
    assert tree(cwd / "run") == before
    assert not (cwd / "context" / "tuned").exists()


@pytest.mark.parametrize(("words", "expected"), [
    (["--class", "mug", "--photos", "gone.png", "--azimuth", "0"], ["gone.png"]),
    ([], ["give --class NOUN"]),
    (["--class", "mug", "--stages.1.teachers.0.prior.name", "tuned:other"], ["stages.1", "'other'; accepted: partial"]),
    (["--class", "mug", "--stages.2.prior", "tuned:later"], ["stages.2", "'later'; accepted: partial"]),
    (["--class", "mug", "--stages.2.name", "partial"], ["leaves the weights 'partial', too"]),
    (["--class", "mug", "--stages.0.tuning.all_weights", "false"], ["all weights cannot go on from a LoRA"]),
    (["--class", "mug", "--word", "abc"], ["the prompt does not have the subject's word 'abc'", "'an abc mug'"]),
    (["--class", "mug", "--word", "red"], ["'red' is a word that the prior knows"]),
    (["--word", "zwx"], ["give --class, its kind, too"]),
    (["--class", "duck"], ["the prompt does not name the class 'duck'", "'a zwx duck'"]),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is_written(command, cwd, capsys, words, expected):
    if "red" in words:
        command = [command[0], "a red mug", *command[2:]]
    refused(capsys, cwd, [*command, "--out", "run", *words], *expected)


def test_a_finetune_stage_needs_photos(stub, photos):
    with pytest.raises(
        ValueError, match=r"stages\.0: the prior is tuned on photos of the thing, and there are none: give --photos"
    ):
        check_stages(replace(config_of(stub, photos), photos=()))
    with pytest.raises(ValueError, match="source is both, but no stage before this one leaves pictures"):
        check_stages(config_of(stub, photos, stages=(Finetune(source="both"), lifted("tuned:tuned"))))


def test_a_killed_run_goes_on_from_the_command_line(command, cwd, monkeypatch):
    words = [*command, "--class", "mug", "--checkpoint-every", "1"]
    assert run_main(*words, "--out", "whole") == 0
    steps = iter(range(4))  # is killed in the second tuning

    def dies(self, *rest, real=Finetuning.step):
        next(steps)
        return real(self, *rest)

    monkeypatch.setattr(Finetuning, "step", dies)
    assert run_main(*words, "--out", "killed") == 1
    assert status_of(cwd / "killed")["status"] == "failed"
    monkeypatch.undo()
    small_pictures(monkeypatch)
    monkeypatch.chdir(cwd)
    assert run_main("resume", "killed") == 0
    assert (cwd / "killed" / "asset.glb").read_bytes() == (cwd / "whole" / "asset.glb").read_bytes()
    assert tree(cwd / "killed" / "tuned") == tree(cwd / "whole" / "tuned")


def test_from_python(stub, photos, monkeypatch):
    import dreamlift

    small_pictures(monkeypatch)
    config = replace(config_of(stub, photos, stages=(six(stub)[0], lifted("tuned:partial"))), photos=(), subject=None)
    files = [Path(photo.path) for photo in photos]
    told = {"tell_cameras": False, "progress": False}  # their cameras are then not estimated
    asset = dreamlift.generate("a zwx mug", config, photos=files, class_name="mug", **told)
    assert asset.config.subject == SubjectWords("mug", "zwx")
    assert [photo.path for photo in asset.config.photos] == list(map(str, files))


def test_other_presets_refuse_a_class(cwd, capsys):
    refused(capsys, cwd, ["generate", "a duck", "--class", "duck", "--preset", "toybox"], "this one does not")
    refused(capsys, cwd, ["generate", "--context", "on a box"], "give its folder, --config RUN")


@pytest.mark.parametrize(("change", "message"), [
    ({"name": "a b"}, "name is 'a b'"),
    ({"name": "class"}, "but not class"),
    ({"steps": 0}, "steps is 0"),
    ({"tuning": Tuning(steps=3)}, "give the stage's own steps"),
    ({"class_count": 0}, "class_count is 0"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Finetune(**change)


# ---- settings


def test_the_word_is_found_in_the_prompt():
    assert found_word("a zwx duck", "duck") == "zwx"
    assert found_word("A qorg teddy bear, sitting", "teddy bear") == "qorg"
    assert found_word("a small zwx duck", "duck") == found_word("a duck", "duck") == found_word("", "duck") == "zwx"
    config = with_subject(PRESETS["dreambooth3d-toy"], "duck")
    assert (config.prompt, config.subject) == ("a zwx duck", SubjectWords("duck", "zwx"))


def test_contexts_need_a_tuned_run(stub, photos, tmp_path):
    config = config_of(stub, photos)
    with pytest.raises(ValueError, match="has tuned no prior"):
        in_context(PRESETS["toybox"], tmp_path, "on a box")
    with pytest.raises(ValueError, match="has no weights 'final' yet"):
        in_context(config, tmp_path, "on a box")
    (tmp_path / "tuned" / "final").mkdir(parents=True)
    with pytest.raises(ValueError, match="--context is empty"):
        in_context(config, tmp_path, " ")


def test_photos_whose_camera_nobody_knows_stay_unknown(stub, photos):
    """An unknown side is told to no prior; a reference picture would be taken for the front."""
    unknown = tuple(replace(photo, azimuth_deg=None) for photo in photos)
    resolved = resolve(config_of(stub, unknown))
    assert [photo.azimuth_deg for photo in resolved.config.photos] == [None, None]
    assert resolved.task.photos is None
    known = with_cameras(config_of(stub, photos), Silent())
    assert known.photos == photos


def test_configs_from_before_keep_their_hash():
    config = PRESETS["toybox"]
    plain = to_plain(config)
    assert plain.pop("subject") is None
    import hashlib

    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    assert config_hash(config) == hashlib.sha256(text.encode()).hexdigest()
    named = replace(config, subject=SubjectWords("duck"))
    assert config_hash(named) != config_hash(config)
    assert load_yaml(Config, save_yaml(named)) == named
    assert Path(load_yaml(Config, "photos: [a.png]").photos[0].path) == Path("a.png")
