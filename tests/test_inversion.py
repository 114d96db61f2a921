"""Textual inversion: only the word is trained, its file is read back by diffusers, its verb from a photo to a run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from big_helpers import CPU, close, first_pipeline, xl_pipeline
from lift_helpers import generate_words, refused, run_main, tree
from safetensors.torch import load_file
from tuning_helpers import interrupted, moved, save_photos, settings_of, tuner_of

from dreamlift.config.short import with_additions
from dreamlift.presets import PRESETS
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.lora.additions import EMBEDDING_FILE, with_whole_paths
from dreamlift.reading.photos import Photo
from dreamlift.stages.base import with_priors
from dreamlift.tuning.examples import photo_examples
from dreamlift.tuning.files import save_addition
from dreamlift.tuning.inversion import KINDS, Inversion
from dreamlift.tuning.settings import Tuning
from dreamlift.tuning.tuner import tune
from dreamlift.types import LoraFile

pytestmark = pytest.mark.filterwarnings("ignore:.* does not know '")
WORD = {"word_only": True, "class_weight": 0.0}


@pytest.fixture
def photo(tmp_path):
    return save_photos(tmp_path, 1)[0]


def inverted(photo, out, prior, *more, init="mug"):
    """A command of the verb that needs no estimate of a camera."""
    return ["invert", photo, "--init", init, "--out", str(out), "--prior", str(prior), "--steps", "2", "--azimuth", "0",
            "--elevation", "10", "--samples", "0", *map(str, more)]  # fmt: skip


def weights_of(tuner):
    """All weights that must not change."""
    networks = {"unet": tuner.network.base.unet} | {part: each.holder[0] for part, each in tuner.text.encoders.items()}
    return {f"{part}.{name}": value.clone() for part, each in networks.items() for name, value in each.state_dict().items()}


# ---- steps


@pytest.mark.parametrize("kind", ["toybox", "first", "xl"])
def test_two_steps_change_the_vectors_and_nothing_else(request, kind):
    folder = request.getfixturevalue({"toybox": "stub", "first": "first", "xl": "xl_folder"}[kind])
    folder = folder[0] if kind == "first" else folder
    tuner = tuner_of(folder, settings_of("words" if kind == "toybox" else "latent", word_init="red mug", **WORD))
    before, vectors = weights_of(tuner), {name: value.clone() for name, value in tuner.text.vectors().items()}
    assert all(name.endswith(".vector") for name in tuner.parameters)
    assert len(tuner.parameters) == len(vectors) == (2 if kind == "xl" else 1)
    tuner.step()
    tuner.step()
    assert all(torch.equal(value, before[name]) for name, value in weights_of(tuner).items())
    for name, value in tuner.text.vectors().items():
        assert len(value) == 2
        assert bool((value != vectors[name]).any(dim=1).all())  # both of them


def test_the_vectors_begin_as_those_of_the_initial_words(first):
    folder, pipe = first
    tuner = tuner_of(folder, settings_of(word_init="red mug", **WORD))
    ids = pipe.tokenizer("red mug", add_special_tokens=False).input_ids
    assert torch.equal(tuner.text.vectors()["text_encoder"], pipe.text_encoder.get_input_embeddings().weight[ids])
    close(tuner.text(["a zwx mug"]).states, load_prior(folder).embed_text(["a red mug mug"]).states)


def test_steps_lower_the_loss(stub):
    tuner = tuner_of(stub, settings_of("words", word_init="mug", word_lr=0.1, steps=12, batch=3, **WORD), cameras=True)
    start = sum(float(tuner.loss(step).detach()) for step in range(3))
    assert len(list(tune(tuner))) == 12
    assert sum(float(tuner.loss(step).detach()) for step in range(3)) < start


def test_a_restored_inversion_is_bit_identical(first):
    settings = settings_of(steps=4, word_init="mug", **WORD)
    whole, half = tuner_of(first[0], settings), tuner_of(first[0], replace(settings, steps=2))
    list(tune(whole))
    list(tune(half))
    again = tuner_of(first[0], settings)
    again.load_state_dict(half.state_dict())
    list(tune(again))
    wanted, found = whole.state_dict(), again.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())


# ---- the file


@pytest.mark.parametrize("init", ["mug", "red mug"])
@torch.no_grad()
def test_diffusers_reads_the_file_and_its_encoder_says_the_same(first, tmp_path, init):
    folder, _ = first
    pipe = first_pipeline()
    tuner = moved(tuner_of(folder, settings_of(word_init=init, **WORD)))
    assert save_addition(tuner, "zwx", tmp_path) == [EMBEDDING_FILE]
    pipe.load_textual_inversion(str(tmp_path), weight_name=EMBEDDING_FILE)
    wanted = pipe.encode_prompt("a zwx mug", CPU, 1, False)[0]  # which spells a word of several vectors out
    close(tuner.text(["a zwx mug"]).states, wanted)
    prior = load_prior(with_whole_paths(PriorChoice(str(folder), loras=(LoraFile(str(tmp_path)),))))
    close(prior.embed_text(["a zwx mug"]).states, wanted)
    table = pipe.text_encoder.get_input_embeddings().weight
    names = ["zwx", "zwx_1"][: len(init.split())]
    assert torch.equal(table[pipe.tokenizer.convert_tokens_to_ids(names)], tuner.text.vectors()["text_encoder"])


@torch.no_grad()
def test_the_file_of_xl_is_for_both_encoders(xl_folder, tmp_path):
    pipe = xl_pipeline()
    tuner = moved(tuner_of(xl_folder, settings_of(word_init="mug", **WORD)))
    assert save_addition(tuner, "zwx", tmp_path) == ["zwx.safetensors"]
    vectors = load_file(tmp_path / "zwx.safetensors")
    pipe.load_textual_inversion(vectors["clip_l"], token="zwx", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    pipe.load_textual_inversion(vectors["clip_g"], token="zwx", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
    prompt = "a zwx mug"
    states, _, pooled, _ = pipe.encode_prompt(prompt, prompt_2=prompt, device=CPU, do_classifier_free_guidance=False)
    mine = load_prior(PriorChoice(str(xl_folder), loras=(LoraFile(str(tmp_path)),))).embed_text([prompt])
    for text in (tuner.text([prompt]), mine):
        close(text.states, states)
        close(text.pooled, pooled)


# ---- words


def test_photos_have_neutral_sentences_of_which_one_is_drawn():
    subject = Inversion(photos=(Photo("p.png"),), init="the  Duck")
    assert (subject.init, subject.prompt, subject.noun) == ("duck", "a zwx", "duck")
    assert subject.prompts(closed=True) == ("a zwx",)
    said = subject.prompts(closed=False)
    assert len(set(said)) == 2 * len(KINDS)
    assert {"a photo of a zwx", "a rendering of the zwx"} <= set(said)
    found = photo_examples(lambda x: x.permute(0, 3, 1, 2), torch.rand(2, 8, 8, 3), None, said, ())
    assert found.prompts == (said, said)


def test_files_are_for_the_teacher_that_reads_words():
    loras = (LoraFile("word"),)
    for name in ("magic123", "magic123-toy"):
        config = with_additions(PRESETS[name], loras=loras)
        for stage, before in zip(with_priors(config.stages), with_priors(PRESETS[name].stages), strict=True):
            of_colors = before.teachers[1].show == "color"
            assert [each.prior.loras for each in stage.teachers] == [(), loras if of_colors else ()]
            assert [each.prior.name for each in stage.teachers] == [each.prior.name for each in before.teachers]
    config = with_additions(PRESETS["magic3d-toy"], loras=loras)
    assert all(each.prior.loras == loras for stage in with_priors(config.stages) for each in stage.teachers)
    shape, colors = with_additions(PRESETS["toybox"], loras=loras).stages
    assert (shape.teachers[0].prior.loras, colors.teachers[0].prior.loras) == ((), loras)


# ---- the verb


def test_a_photo_becomes_a_folder_that_a_run_takes(cwd, stub, photo, monkeypatch, capsys):
    from dreamlift.tuning.class_pictures import GUIDANCE

    monkeypatch.setitem(GUIDANCE, True, (3.0, 2))
    assert run_main(*inverted(photo, "mine", stub, "--samples", "1")) == 0
    assert f'use it: dreamlift generate "a zwx" --lora mine --prior {stub}' in capsys.readouterr().out
    folder = cwd / "mine"
    assert {path.name for path in folder.iterdir()} == {
        EMBEDDING_FILE, "README.md", "training.json", "checkpoint", "samples.png",
    }  # fmt: skip
    card = (folder / "README.md").read_text()
    assert "tags: [textual_inversion, text-to-3d]" in card
    assert "It began as `mug`" in card
    assert "in 2 steps" in card
    record = json.loads((folder / "training.json").read_text())
    assert (record["method"], record["init"], record["photos"][0]["azimuth_deg"]) == ("textual inversion", "mug", 0.0)
    assert run_main(*generate_words(stub, "run", "--lora", "mine", "--steps=2", prompt="a zwx")) == 0
    assert "does not know" not in capsys.readouterr().err  # no complaint about an unknown word
    assert run_main(*inverted(photo, "mine", stub)) == 0  # nothing is left to do
    assert "has its 2 steps already" in capsys.readouterr().err
    refused(capsys, cwd, inverted(photo, "mine", stub, init="teapot"), 'mine was tuned with init "mug", now "teapot"')
    refused(capsys, cwd, inverted(photo, "mine", stub, "--lr", "0.5"), "mine was tuned with word_lr")


def test_an_interrupted_verb_goes_on_bit_identically(cwd, stub, photo, monkeypatch, capsys):

    more = ("--steps", "4", "--checkpoint-every", "1", "--batch", "1")
    assert run_main(*inverted(photo, "whole", stub, *more)) == 0
    with interrupted(monkeypatch, 2):
        assert run_main(*inverted(photo, "half", stub, *more)) == 130
    assert "the same command" in capsys.readouterr().err
    assert run_main(*inverted(photo, "half", stub, *more)) == 0
    assert "continued after step 2" in capsys.readouterr().err
    wanted, found = tree(cwd / "whole"), tree(cwd / "half")
    assert wanted.keys() == found.keys()
    assert all(found[name] == data for name, data in wanted.items() if name.suffix == ".safetensors")


def test_what_cannot_be_learnt_is_refused_in_one_line(cwd, stub, first, photo, capsys):
    good = inverted(photo, "mine", stub)
    refused(capsys, cwd, [*good, "--word", "red"], "'red' is a word that the prior knows: give --word a new one, such as zwx")
    refused(capsys, cwd, [*good, "--word", "mug"], "the word 'mug' is part of")
    refused(capsys, cwd, inverted(photo, "mine", first[0], "--word", "red"), "'red' is a word that the prior knows")
    refused(capsys, cwd, inverted(photo, "mine", stub, init="gizmo"), "the prior does not know 'gizmo': give --init words")
    refused(capsys, cwd, inverted(photo, "mine", stub, init="red " * 17), "has 17 tokens; accepted: at most 16")
    refused(capsys, cwd, inverted(photo, "mine", stub, init=" "), "init is ' '; accepted: what the photos show")
    refused(capsys, cwd, inverted("gone.png", "mine", stub), "'gone.png' cannot be used")
    refused(capsys, cwd, inverted(photo, "mine", "toybox-view"), "toybox-view cannot be tuned: use toybox")
    refused(capsys, cwd, [*good, "--lr", "-1"], "--lr is -1; accepted: above 0")
    assert run_main("invert", "--init", "mug") == 2
    assert "PHOTO" in capsys.readouterr().err


def test_settings_that_train_more_than_the_word_are_refused():
    for given in ({"rank": 4}, {"all_weights": True}, {"text_encoder": True}, {"learn_word": False}):
        with pytest.raises(ValueError, match="word_only trains no weights"):
            Tuning(word_only=True, **given)
    with pytest.raises(ValueError, match="set word_only as well"):
        Tuning(word_init="mug")


def test_the_python_twin_of_the_verb(tmp_path, stub, photo):
    import dreamlift

    tuned = dreamlift.invert([photo], init="mug", out=tmp_path / "mine", prior=str(stub), cameras=False, steps=2, samples=0)
    assert (tuned.prompt, tuned.steps, tuned.files) == ("a zwx", 2, (EMBEDDING_FILE,))
    assert not (tmp_path / "mine" / "samples.png").exists()
    load_prior(tuned.prior)
