"""What a user is told of words that a prior lacks, of missing weights, of tuned folders, and of photos that are copies."""

from __future__ import annotations

import shutil
import warnings

import pytest
from lift_helpers import refused, save_stub, taught
from PIL import Image
from tuning_helpers import save_photos

from dreamlift.apps.presets import TWINS, names_of_priors, toy_twin, twin_named
from dreamlift.config.short import override
from dreamlift.images.read import same_pictures
from dreamlift.lifting import load, resolve
from dreamlift.presets import PRESETS
from dreamlift.presets.toybox import COLORED
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.files.words import UnknownWordWarning, edits, looks_invented, similar, suggested
from dreamlift.priors.kinds import find
from dreamlift.priors.loading.sources import KNOWN, PriorNotFoundError, is_embedded, locate
from dreamlift.reading.photos import Photo
from dreamlift.stages.located import unknown_words_told
from dreamlift.tuning.card import write_record
from dreamlift.tuning.dreambooth import Subject, planned
from dreamlift.tuning.settings import Tuning

# Words


@pytest.fixture(scope="module")
def toybox():
    """The words of the embedded prior."""
    return [word for word in find(PriorChoice("toybox")).parts.tokenizer("tokenizer").get_vocab() if word.isalpha()]


NEAR = {
    "mugs": "mug", "boxes": "box", "churches": "church", "bunnies": "bunny", "stripes": "striped", "spots": "spotted",
    "wood": "wooden", "metal": "metallic", "coloured": "colored", "gray": "grey", "bule": "blue", "dukc": "duck",
    "yelow": "yellow", "umbrela": "umbrella", "helicoptor": "helicopter", "turqoise": "turquoise", "aeroplane": "airplane",
}  # fmt: skip
FAR = ["side", "out", "overhead", "seen", "ball", "three", "tablet", "planet", "horse", "form", "read", "shiny", "dragon",
       "zwx", "coat", "plan", "battle", "there", "small", "golden"]  # fmt: skip


def test_only_stems_and_misspellings_are_similar(toybox):
    assert {word: similar(word, toybox) for word in NEAR} == {word: [near] for word, near in NEAR.items()}
    assert {word: similar(word, toybox) for word in FAR} == {word: [] for word in FAR}


@pytest.mark.parametrize(("first", "second", "count"), [
    ("kitten", "sitting", 3), ("bule", "blue", 1), ("", "abc", 3), ("ca", "abc", 3), ("same", "same", 0),
])  # fmt: skip
def test_edits_are_those_of_hand_worked_pairs(first, second, count):
    assert edits(first, second) == edits(second, first) == count


def test_a_synonym_is_offered_for_a_thing_and_not_for_a_quality(toybox):
    synonyms = find(PriorChoice("toybox")).parts.near
    assert suggested("kitten", ["a kitten on a box", "a kitten, front view"], toybox, synonyms) == ["cat"]
    assert suggested("light", ["a light blue mug", "a light blue mug, back view"], toybox, synonyms) == []
    assert suggested("light", ["a mug beside a light"], toybox, synonyms) == ["lamp"]


def test_new_words_look_like_none_of_a_language():
    assert all(map(looks_invented, ("zwx", "sks", "ohwx", "qzxvkj")))
    assert not any(map(looks_invented, ("shiny", "pizza", "savvy", "duck", "3d", "owl", "sky", "quartz", "\u00e9t\u00e9")))


def told(priors, *found):
    """What is said of these (word, near, prior)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with unknown_words_told(priors):
            for each in found:
                warnings.warn(UnknownWordWarning(*each), stacklevel=1)
            warnings.warn("something else", stacklevel=1)
    said = [str(each.message) for each in caught]
    assert said[0] == "something else"
    return said[1:]


def test_the_priors_and_stages_that_lack_a_word_are_named(tmp_path):
    both = tuple((find(PriorChoice(name)),) for name in ("toybox-geometry", "toybox"))
    new = ("zwx", (), "toybox-geometry"), ("zwx", (), "toybox")
    fix = "; if a tuning has taught it, add --lora FOLDER"
    assert told(both, *new) == [f"toybox-geometry (stage 1) and toybox (stage 2) do not know 'zwx'{fix}"]
    assert told(both, new[0]) == [f"toybox-geometry (stage 1) does not know 'zwx', toybox (stage 2) does{fix}"]
    assert told((both[1], both[1]), new[1]) == [f"the prior toybox does not know 'zwx'{fix}"]
    pictures = (find(PriorChoice("toybox-view")), *both[0])  # which reads no words
    assert told((pictures, both[1], both[1]), new[1]) == [
        f"toybox (stages 2 and 3) does not know 'zwx', toybox-geometry (stage 1) does{fix}"
    ]
    assert told(both, ("mugs", ("mug",), "toybox"), ("shiny", (), "toybox")) == [
        "toybox (stage 2) does not know 'mugs', toybox-geometry (stage 1) does; similar known words: mug",
        "toybox (stage 2) does not know 'shiny', toybox-geometry (stage 1) does",
    ]


def test_a_run_says_once_what_each_of_its_priors_lacks(stub, tmp_path):
    other = save_stub(tmp_path / "other")
    config = override(COLORED, {"prompt": "a zwx mugg mug", "device": "cpu"})
    for number, prior in enumerate((stub, other)):
        config = taught(config, number, prior=PriorChoice(str(prior)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(resolve(config))
    said = [str(each.message) for each in caught if "know" in str(each.message)]
    names = f"{stub.name} (stage 1) and other (stage 2) do not know"
    assert said == [f"{names} 'mugg'", f"{names} 'zwx'; if a tuning has taught it, add --lora FOLDER"]


def test_words_are_refused_before_a_photo_is_looked_at(cwd, capsys, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the photo was looked at")

    monkeypatch.setattr("dreamlift.apps.cutout.read_cutout", never)
    monkeypatch.setattr("dreamlift.images.camera.prepared_photos", never)
    monkeypatch.setattr("dreamlift.tuning.photos.find_viewpoint", never)
    files = save_photos(cwd, 2)
    before = ["generate", "--image", files[0], "--preset", "magic123-toy"]
    said = refused(
        capsys, cwd, before, "the prompt is empty, but the prior toybox-geometry draws from words: add a description"
    )
    assert "looking at the photo" not in said
    refused(capsys, cwd, [*before, "--", "a zwx"], "knows no noun of 'a zwx'", 'as in "a zwx duck"')
    subject = ["generate", "a zwx dragon", "--photos", *files, "--class", "dragon"]
    refused(capsys, cwd, subject, "the prior toybox knows no noun of 'a zwx dragon'")


# Missing weights


LARGE = [name for name in PRESETS if not all(map(is_embedded, names_of_priors(PRESETS[name])))]


def test_presets_of_large_priors_have_twins_that_need_no_download():
    twins = {name: toy_twin(name) for name in LARGE}
    assert all(twins.values())
    assert set(TWINS) <= set(LARGE)
    assert all(is_embedded(prior) for twin in twins.values() for prior in names_of_priors(PRESETS[twin]))
    assert toy_twin("toybox") == toy_twin("zero123-toy") == toy_twin("") == ""


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(("offline", "why"), [
    ("1", "HF_HUB_OFFLINE is set: unset it to download, or give a copy's folder (--prior FOLDER)"),
    ("0", "The model hub cannot be reached: connect, or give a copy's folder (--prior FOLDER)"),
])  # fmt: skip
def test_missing_weights_are_told_in_one_line_with_the_twin(empty_cache, monkeypatch, offline, why):
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("dreamlift.priors.loading.sources._reachable", lambda *_: False)
    for preset in LARGE:
        for name in names_of_priors(PRESETS[preset]):
            if is_embedded(name):
                continue
            with pytest.raises(PriorNotFoundError) as caught, twin_named(preset):
                locate(name)
            said = str(caught.value)
            assert said.startswith(f"the prior {name!r} is not available: {KNOWN[name].addresses[0]}")
            assert said.endswith(f" not in the local cache. {why}; --preset {toy_twin(preset)} needs no download")
            assert len(said) <= 300
    with pytest.raises(PriorNotFoundError, match=r"; --prior toybox-view needs no download$"), twin_named(""):
        locate("zero123-xl")


def test_the_command_names_the_twin(cwd, capsys, empty_cache):
    for preset in ("zero123", "magic123"):
        words = ["generate", "a mug", "--image", save_photos(cwd, 1)[0], "--preset", preset]
        refused(capsys, cwd, words, "HF_HUB_OFFLINE is set: unset it", f"; --preset {preset}-toy needs no download")


# Folders


def record_of(**more):
    settings = {"all_weights": False, "word_only": False, **more.pop("settings", {})}
    return {"photos": [], "prior": "toybox", "prompt": "a zwx duck", "files": ["a"], "settings": settings, **more}


TUNINGS = {
    "LoRA": ({}, '`dreamlift generate "a zwx duck" --lora mine` uses it', "`dreamlift dreambooth ... --out mine` with more"),
    "whole": ({"settings": {"all_weights": True}}, '"a zwx duck" --prior mine` uses it'),
    "large": ({"prior": "sd-1.5"}, '"a zwx duck" --lora mine --prior sd-1.5` uses it'),
    "inversion": ({"settings": {"word_only": True}}, "--lora mine` uses it", "`dreamlift invert ... --out mine` with more"),
    "unfinished": ({"files": []}, "it is an unfinished tuning: the same `dreamlift dreambooth ... --out mine` goes on with it"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TUNINGS)
def test_the_folder_of_a_tuning_that_is_given_as_a_run_is_told(cwd, capsys, kind):
    more, *expected = TUNINGS[kind]
    (cwd / "mine").mkdir()
    write_record(cwd / "mine", record_of(**more))
    for words in (["generate", "--config", "mine"], ["resume", "mine"], ["export", "mine"], ["evaluate", "mine"]):
        refused(capsys, cwd, words, "mine is not a run folder", *expected)


def test_a_record_of_something_else_is_not_taken_for_a_tuning(cwd, capsys):
    for text in ("{}", "[", '{"photos": [], "settings": 3, "prompt": ""}'):
        (cwd / "training.json").write_text(text)
        assert "tuning" not in refused(capsys, cwd, ["resume", "."], ". is not a run folder: it has no config.yaml")


def test_a_run_that_has_tuned_a_prior_is_named_with_its_contexts(cwd, capsys, no_steps, stub):
    (cwd / "duck" / "tuned").mkdir(parents=True)
    (cwd / "duck" / "run.json").write_text("{}")
    fix = "`dreamlift generate --config duck --context WORDS`"
    refused(
        capsys, cwd, ["generate", "a mug", "--prior", stub, "--out", "duck"], "duck holds a run already: `dreamlift resume", fix
    )
    words = ["generate", "a zwx duck", "--context", "on a box", "--out", "duck"]
    refused(
        capsys, cwd, words, "--context is for a run that has tuned a prior: give its folder, --config duck without a prompt"
    )
    refused(capsys, cwd, [*words[:-1], "other"], "give its folder, --config RUN")


# Photos


def test_photos_with_the_same_pixels_are_noted(tmp_path, stub):
    paths = save_photos(tmp_path, 2)
    shutil.copy(paths[0], tmp_path / "copy.png")
    Image.open(paths[0]).save(tmp_path / "again.bmp")
    Image.open(paths[1]).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png")
    more = [str(tmp_path / name) for name in ("copy.png", "turned.png", "again.bmp")]
    assert same_pictures(paths) == []
    assert same_pictures([*paths, *more]) == ["p0.png, copy.png and again.bmp"]
    assert same_pictures([paths[1], paths[1]]) == ["p1.png and p1.png"]
    notes: list[str] = []
    photos = tuple(Photo(path, elevation_deg=0.0, azimuth_deg=0.0) for path in (*paths, *more))
    planned(Subject(photos=photos, class_name="mug", prior=PriorChoice(str(stub))), Tuning(), notes.append)
    assert notes == [
        "p0.png, copy.png and again.bmp are the same picture: a copy teaches nothing new, another side of the thing would"
    ]
