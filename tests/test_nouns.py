"""Prompts of whose nouns a prior knows none are stopped before anything expensive, where the prior lists its nouns."""

import json
from dataclasses import replace

import pytest
from lift_helpers import WORDS, refused, run_main

import dreamlift
from dreamlift.config.short import override
from dreamlift.lifting import resolve
from dreamlift.presets import PRESETS
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.files.nouns import NOUNS, UnknownNounsError, check_nouns
from dreamlift.priors.kinds import find
from dreamlift.priors.loading.sources import EMBEDDED
from dreamlift.prompts import words_of
from dreamlift.toybox.training.network import make_networks, nouns_known, save_folder
from dreamlift.toybox.world.things import CATEGORIES, RELATED, SYNONYMS

TOYBOX = EMBEDDED / "toybox"


@pytest.mark.parametrize("name", ["toybox", "toybox-latent"])
def test_the_embedded_priors_list_what_their_tokenizers_know(name):
    listed = json.loads((EMBEDDED / name / NOUNS).read_text())
    vocabulary = json.loads((EMBEDDED / name / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    nouns = [noun for kind in CATEGORIES for noun in (kind.replace("_", " "), *SYNONYMS.get(kind, ()))]
    assert len(CATEGORIES) == 64
    assert listed["nouns"] == nouns
    assert all(word in vocabulary for noun in nouns for word in noun.split())
    assert not set(listed["near"]) & set(vocabulary)  # what it knows needs no suggestion
    assert set(listed["near"].values()) <= set(nouns)


def test_related_words_are_of_categories_and_each_of_one():
    assert set(RELATED) <= set(CATEGORIES)
    words = [word for kind in RELATED.values() for word in kind]
    assert len(words) == len(set(words))


STOPPED = {
    "a dragon riding a bicycle": "near are: car. Use a noun that it knows",
    "a kitten": "near are: cat.",
    "two red mugs": "near are: mug.",
    "A TEAPPOT": "near are: teapot.",
    "an orange": "it knows 80 nouns, synonyms counted, such as mug, ",
    "a red wooden thing with ice": "it knows 80 nouns, synonyms counted, such as mug, ",
    "???": "it knows 80 nouns, synonyms counted, such as mug, ",
    "a ball on a horn": "it knows 80 nouns",  # no bell, no house
}
ACCEPTED = [
    "a dragon riding a car", "An Automobile!", "a red mug.", "(teapot)", "an ice cream", "an ice-cream", "a teddy bear",
    "a watering can; blue", "\uff4d\uff55\uff47", "a house,tree", "a robot's hat", "wardrobe or sofa?",
]  # fmt: skip


@pytest.mark.parametrize("prompt", STOPPED)
def test_prompts_without_a_known_noun_are_stopped_in_one_line(prompt):
    with pytest.raises(UnknownNounsError) as caught:
        check_nouns(prompt, TOYBOX, "toybox")
    said = str(caught.value)
    assert said.startswith(f"the prior toybox knows no noun of {prompt!r}; ")
    assert STOPPED[prompt] in said
    assert said.endswith("a prior for any words (--prior deepfloyd-if or sd-1.5), or --anyway to start all the same")
    assert len(said) <= 300


@pytest.mark.parametrize("prompt", ACCEPTED)
def test_one_known_noun_is_enough(prompt):
    check_nouns(prompt, TOYBOX, "toybox")


def test_the_longest_prompt_and_name_make_a_message_of_one_line():
    with pytest.raises(UnknownNounsError) as caught:
        check_nouns("dragon " * 142, TOYBOX, "/a/folder" * 30)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(("prompt", "taught"), [("a zwx", ()), ("SKS!", ()), ("a bobo", ("bobo",)), ("a photo of ohwx", ())])
def test_a_new_word_alone_needs_the_kind_beside_it(prompt, taught):
    with pytest.raises(UnknownNounsError) as caught:
        check_nouns(prompt, EMBEDDED / "toybox-geometry", "toybox-geometry", taught)
    word, said = words_of(prompt)[-1], str(caught.value)
    assert f'Name the kind beside a new word, as in "a {word} duck" (--lora FOLDER if it was taught), or give --anyway' in said
    assert len(said) <= 300
    check_nouns(f"a {word} duck", EMBEDDED / "toybox-geometry", "toybox-geometry", taught)


def test_words_are_those_of_the_embedded_tokenizers():
    """The tokenizers divide a text in the same way; punctuation is tokens of its own there, and nothing here."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOYBOX / "tokenizer" / "tokenizer.json"))
    for text in ("a red mug.", "A House,tree (blue)", "robot's hat", "an ice-cream\u2026", "\uff4d\uff55\uff47 caf\u00e9 3d"):
        normal = tokenizer.normalizer.normalize_str(text)
        pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
        assert words_of(text) == [piece for piece in pieces if piece[0].isalnum()]


def test_generate_and_the_function_stop_before_anything_is_loaded(cwd, capsys, monkeypatch):
    def never(*_, **__):
        raise AssertionError("too late")

    for name in ("lifting.check_memory", "lifting.load", "runs.carry_out.load", "runs.carry_out.warm_beside", "api.load"):
        monkeypatch.setattr(f"dreamlift.{name}", never)
    prompt = "a dragon riding a bicycle"
    refused(
        capsys,
        cwd,
        ["generate", prompt],
        "the prior toybox-geometry knows no noun of 'a dragon riding a bicycle'; near are: car",
    )
    refused(capsys, cwd, ["generate", prompt, "--preset", "latent-toy"], "the prior toybox-latent knows no noun")
    with pytest.raises(UnknownNounsError):
        dreamlift.generate(prompt, progress=False)
    with pytest.raises(AssertionError, match="too late"):
        dreamlift.generate(prompt, progress=False, anyway=True)
    assert run_main("generate", prompt, "--anyway") == 1
    assert "too late" in capsys.readouterr().err


def test_other_priors_and_those_that_were_taught_more_take_any_words(stub):
    find(PriorChoice(str(stub))).check_prompt("a dragon")
    taught = replace(find(PriorChoice("toybox")), choice=PriorChoice("toybox", embeddings=("dragon.safetensors",)))
    taught.check_prompt("a dragon")
    config = override(PRESETS["magic3d-toy"], {"prompt": "a dragon", "prior.name": str(stub), "device": "cpu"})
    assert resolve(config).config.prompt == "a dragon"
    with pytest.raises(UnknownNounsError):
        resolve(replace(PRESETS["toybox"], prompt="a dragon", device="cpu"))
    assert resolve(replace(PRESETS["toybox"], prompt="a dragon", device="cpu"), anyway=True).config.prompt == "a dragon"


def test_a_trained_prior_lists_its_nouns_and_a_damaged_list_is_named(tmp_path):
    networks = make_networks(WORDS, size=16, channels=(8, 16))
    assert nouns_known(networks.tokenizer)["nouns"] == ["mug", "teapot"]
    folder = tmp_path / "own"
    save_folder(networks, folder)
    located = find(PriorChoice(str(folder)))
    located.check_prompt("a teapot")
    with pytest.raises(
        UnknownNounsError, match="knows no noun of 'a car'; it knows 2 nouns, synonyms counted, such as mug, teapot"
    ):
        located.check_prompt("a car")
    for damage in ("", "[]", "{}", '{"nouns": 3, "near": {}}', '{"nouns": [], "near": []}', "[" * 100_000):
        (folder / NOUNS).write_text(damage)
        with pytest.raises(ValueError, match=r"nouns.json' is no list of nouns \(.*\): restore the prior's folder"):
            located.check_prompt("a teapot")
    (folder / NOUNS).unlink()
    located.check_prompt("a car")
