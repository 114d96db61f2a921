"""Textual inversions of others: against diffusers' own loader, and stock encoders with the vectors put in by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from big_helpers import CPU, clip, close, tokenizer
from safetensors.torch import save_file
from test_priors import tiny_folder

from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.lora.additions import with_whole_paths
from dreamlift.priors.lora.embedding_files import install, read_embeddings


def embedding(tmp_path, name, tensors, folder=""):
    """The choice of the prior in ``folder`` with an embedding of this file name."""
    save_file(tensors, tmp_path / f"{name}.safetensors")
    return with_whole_paths(PriorChoice(str(folder), embeddings=(str(tmp_path / f"{name}.safetensors"),)))


@pytest.mark.parametrize("count", [1, 3])
@torch.no_grad()
def test_embeddings_are_read_as_diffusers_own_loader_does(tmp_path, count):
    from diffusers import StableDiffusionPipeline

    folder = tiny_folder(tmp_path / "model", "latent")
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    vectors = torch.randn(count, 16)
    files = {"<cat-toy>": ("any", {"<cat-toy>": vectors}), "my-style": ("my-style", {"emb_params": vectors.half()})}
    for word, (name, tensors) in files.items():
        choice = embedding(tmp_path, name, tensors, folder)
        pipe.load_textual_inversion({word: tensors[next(iter(tensors))].float()})
        prompts = [f"a red {word} mug", "a red mug", f"{word}, {word}"]
        got = load_prior(choice, CPU).embed_text(prompts).states
        plain = load_prior(folder, CPU).embed_text(prompts).states
        for i, prompt in enumerate(prompts):
            close(got[i : i + 1], pipe.encode_prompt(prompt, CPU, 1, False)[0])
        assert torch.equal(got[1], plain[1])
        assert float((got[0] - plain[0]).abs().max()) > 0.1
        loud = load_prior(choice, CPU).embed_text([f"a red {word.upper()} mug"]).states
        assert torch.equal(loud, got[:1])


@torch.no_grad()
def test_embeddings_of_two_encoders_go_to_both(tmp_path, xl):
    folder, pipe = xl
    tensors = {"clip_l": torch.randn(2, 16), "clip_g": torch.randn(2, 12)}
    prior = load_prior(embedding(tmp_path, "charm", tensors, folder), CPU)
    states, pooled = prior.embed_text(["a charm mug", ""])
    # by hand: the stock encoders with the vectors put in where the word stands
    tokens = torch.tensor([[*pipe.tokenizer("a", add_special_tokens=False).input_ids, 2, 2,
                            *pipe.tokenizer("mug", add_special_tokens=False).input_ids, 1] + [0] * 72])  # fmt: skip
    outs = []
    for encoder, vectors in zip((pipe.text_encoder, pipe.text_encoder_2), tensors.values(), strict=True):

        def put_in(module, inputs, out, vectors=vectors):
            out[:, 1:3] = vectors
            return out

        handle = encoder.get_input_embeddings().register_forward_hook(put_in)
        outs.append(encoder(tokens, output_hidden_states=True))
        handle.remove()
    close(states[:1], torch.cat([out.hidden_states[-2] for out in outs], -1))
    close(pooled[:1], outs[1].text_embeds)


@torch.no_grad()
def test_new_tokens_are_not_taken_for_the_end_of_the_text(tmp_path):
    """Older configs of CLIP (Stable Diffusion XL's) say that the text ends at the largest token."""
    torch.manual_seed(0)
    found = read_embeddings(embedding(tmp_path, "charm", {"emb_params": torch.randn(1, 16)}).embeddings)
    words, encoder = tokenizer(), clip(16, 2, projection=8, eos=2).eval()
    (prompt,) = install(found, words, encoder, "text_encoder", ["a charm mug"])
    out = encoder(words([prompt], return_tensors="pt").input_ids)
    close(out.text_embeds, encoder.text_projection(out.last_hidden_state[:, 3]))  # a, charm, mug, end


def test_embeddings_that_do_not_fit_are_refused_and_unused_ones_are_noted(tmp_path, xl):
    folder, _ = xl
    both = {"clip_l": torch.ones(1, 16), "clip_g": torch.ones(1, 12)}
    for tensors, expected in (
        ({"clip_l": torch.ones(1, 768)}, "has vectors of width 768 for text_encoder, which requires width 16"),
        ({"emb_params": torch.ones(1, 16)}, "has none for text_encoder_2"),
        ({"a": torch.ones(1, 16), "b": torch.ones(1, 16)}, "is not a textual inversion: its entries are a, b"),
        ({"kernel": torch.ones(1, 1, 3, 3)}, "is not a textual inversion"),
    ):
        with pytest.raises(ValueError, match=expected):
            load_prior(embedding(tmp_path, "x", tensors, folder), CPU).embed_text(["an x", ""])
    one = embedding(tmp_path, "charm", both, folder)
    with pytest.warns(UserWarning, match=r"charm\.safetensors is not used: write 'charm' into the prompt"):
        load_prior(one, CPU).embed_text(["a charming mug", ""])
    (tmp_path / "sub").mkdir()
    two = replace(one, embeddings=one.embeddings + embedding(tmp_path / "sub", "Charm", both).embeddings)
    with pytest.raises(ValueError, match="both for the word 'Charm'"):
        load_prior(two, CPU).embed_text(["a charm"])


VECTORS = torch.arange(48.0).reshape(3, 16) / 48
PAIR = {"text_encoders_0": VECTORS[:2], "text_encoders_1": torch.ones(2, 12)}
FORMS = {  # name of the file: (tensors, words, vectors of each encoder)
    "e01 diffusers": ({"<cat-toy>": VECTORS[0]}, ["<cat-toy>"], {"text_encoder": VECTORS[:1]}),
    "e02 diffusers, several": ({"<cat-toy>": VECTORS}, ["<cat-toy>"], {"text_encoder": VECTORS}),
    "e03": ({"emb_params": VECTORS}, ["e03"], {"text_encoder": VECTORS}),
    "e04": ({"clip_l": VECTORS, "clip_g": torch.ones(3, 12)}, ["e04"],
            {"text_encoder": VECTORS, "text_encoder_2": torch.ones(3, 12)}),
    "e06 star": ({"*": VECTORS}, ["*"], {"text_encoder": VECTORS}),
    "e07": (PAIR, ["e07"], {"text_encoder": VECTORS[:2], "text_encoder_2": torch.ones(2, 12)}),
    "e08.dots.v2": ({"emb_params": VECTORS}, ["e08.dots.v2"], {"text_encoder": VECTORS}),
    "e11": ({"emb_params": VECTORS, "step": torch.tensor(500)}, ["e11"], {"text_encoder": VECTORS}),
    "e12": ({"string_to_param.*": VECTORS}, ["e12"], {"text_encoder": VECTORS}),
    "e13": ({"<s0>": VECTORS[0], "<s1>": VECTORS[0]}, ["<s0>", "<s1>"], {"text_encoder": VECTORS[:1]}),
    "My Style (v1.2)": ({"emb_params": VECTORS}, ["My Style (v1.2)"], {"text_encoder": VECTORS}),
    "\u65e5\u672c": ({"emb_params": VECTORS}, ["\u65e5\u672c"], {"text_encoder": VECTORS}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_each_form_is_read_and_its_word_is_known(tmp_path, name):
    """The row of the encoder's input at each new token is the file's vector, and nothing is said about unknown words."""
    from big_helpers import WORDS

    from dreamlift.priors.text import complaints

    tensors, words, vectors = FORMS[name]
    found = read_embeddings(embedding(tmp_path, name, {key: value.clone() for key, value in tensors.items()}).embeddings)
    assert [each.word for each in found] == words
    for each in found:
        assert each.vectors.keys() == vectors.keys()
        assert all(torch.equal(each.vectors[part], value) for part, value in vectors.items())
    for part, rows in vectors.items():
        own, encoder = tokenizer(), clip(rows.shape[1], 1).eval()
        (prompt,) = install(found, own, encoder, part, [f"a red {words[0].upper()}, mug."])
        ids = own(prompt)["input_ids"]
        at = slice(2, 2 + len(rows))
        close(encoder.get_input_embeddings().weight[ids[at]], rows)
        assert complaints(own, [prompt]) == []
        assert own.convert_ids_to_tokens(ids[:2]) == WORDS[:2]


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"emb_params": torch.full((2, 16), float("nan"))}, r"x\.safetensors holds NaN in emb_params"),  # e09
        ({"emb_params": torch.full((2, 16), float("inf"))}, r"x\.safetensors holds infinite values in emb_params"),
        ({"step": torch.tensor(3)}, r"is not a textual inversion: its entries are step"),
        ({}, r"is not a textual inversion: its entries are none"),
        ({"emb_params": torch.ones(3, 768)}, r"has vectors of width 768 for text_encoder, which requires width 16"),  # e05
    ],
)
def test_embeddings_that_cannot_be_used_are_named(tmp_path, tensors, said):
    choice = embedding(tmp_path, "x", tensors)
    with pytest.raises(ValueError, match=said):
        install(read_embeddings(choice.embeddings), tokenizer(), clip(16, 1), "text_encoder", ["an x"])
