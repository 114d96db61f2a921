"""Textual inversion (Gal et al. 2022, https://arxiv.org/abs/2208.01618): learned vectors as new words of the prompt.

A file contains one or several vectors for one word. Accepted are embeddings of diffusers (one entry, named by the word, or
several named ``<s0>``, ``<s1>``, a word each), of AUTOMATIC1111's web UI (``emb_params``, ``string_to_param.*``), and for two
CLIP encoders (``clip_l`` and ``clip_g``, or ``text_encoders_0`` and ``text_encoders_1``; Stable Diffusion XL and 3). Where
no entry is named by the word, it is the file's name without its suffix. Each vector becomes one new token of the prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from dreamlift.priors.files.tensors import check_finite, read_tensors

FIRST, SECOND = "text_encoder", "text_encoder_2"
ENTRIES = {
    "emb_params": FIRST, "string_to_param.*": FIRST, "clip_l": FIRST, "clip_g": SECOND, "text_encoders_0": FIRST,
    "text_encoders_1": SECOND,
}  # fmt: skip
"""Entries of a file that are named by the text encoder and not by the word."""
COUNTERS = ("step",)  # the training's, not a vector
TOKEN = re.compile(r"<\|[^\s|]+\|\d+\|>")  # the name of a new token, see :meth:`Embedding.tokens`


@dataclass(frozen=True)
class Embedding:
    """A word and its vectors ``(N, D)`` by the folder name of the text encoder."""

    path: str
    word: str
    vectors: dict[str, Tensor]

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches the whole word, case-insensitively."""
        return re.compile(rf"(?<!\w){re.escape(self.word)}(?!\w)", re.IGNORECASE)

    def tokens(self, count: int) -> list[str]:
        """Token names of its vectors, which do not occur in ordinary prompts and have no spaces."""
        return [f"<|{quote(self.word.lower(), safe='')}|{number}|>" for number in range(count)]


def read_embeddings(paths: tuple[str, ...]) -> list[Embedding]:
    """The embeddings in these files.

    Raises:
        ValueError: a file contains no embedding, or NaN, or two are for the same word.
    """
    found = [embedding for path in paths for embedding in _read(path)]
    for number, embedding in enumerate(found):
        same = [other for other in found[:number] if other.word.lower() == embedding.word.lower()]
        if same:
            raise ValueError(
                f"{same[0].path} and {embedding.path} are both for the word {embedding.word!r}: rename one of them"
            )
    return found


def _read(path: str) -> list[Embedding]:
    stored, _ = read_tensors(path)
    tensors = {name: tensor for name, tensor in stored.items() if name not in COUNTERS}
    if not tensors or any(tensor.ndim not in (1, 2) or not tensor.is_floating_point() for tensor in tensors.values()):
        raise ValueError(f"{path} is not a textual inversion: its entries are {', '.join(list(stored)[:3]) or 'none'}")
    check_finite(path, tensors)
    vectors = {name: torch.atleast_2d(tensor) for name, tensor in tensors.items()}
    if vectors.keys() <= ENTRIES.keys():
        return [Embedding(path, Path(path).stem, {ENTRIES[name]: value for name, value in vectors.items()})]
    if len(vectors) == 1 or all(re.fullmatch(r"<.+>", name) for name in vectors):
        return [Embedding(path, name, {FIRST: value}) for name, value in vectors.items()]
    raise ValueError(f"{path} is not a textual inversion: its entries are {', '.join(list(stored)[:3])}")


@torch.no_grad()
def install(embeddings: list[Embedding], tokenizer: Any, encoder: Any, part: str, prompts: list[str]) -> list[str]:
    """Add the new tokens to ``tokenizer`` and ``encoder`` (the folder ``part``); returns the prompts with words replaced.

    A T5 beside CLIP has no vectors and receives the word unchanged, as in diffusers.

    Raises:
        ValueError: vectors for this encoder are missing or have another width.
    """
    from transformers import AddedToken

    if not embeddings or (part not in {p for e in embeddings for p in e.vectors} and "T5" in type(encoder).__name__):
        return prompts
    width = encoder.get_input_embeddings().weight.shape[1]
    spelled: dict[str, str] = {}
    rows: dict[str, Tensor] = {}
    for embedding in embeddings:
        vectors = embedding.vectors.get(part)
        if vectors is None or vectors.shape[1] != width:
            has = "has none" if vectors is None else f"has vectors of width {vectors.shape[1]}"
            raise ValueError(
                f"the embedding {embedding.path} does not fit this prior: it {has} for {part}, which requires width {width}"
            )
        tokens = embedding.tokens(len(vectors))
        spelled[embedding.word.lower()] = "".join(tokens)
        rows |= dict(zip(tokens, vectors, strict=True))
    # Not normalized: the tokenizer's text normalization (lower case, accents) must not change these names.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in rows])
    table = encoder.get_input_embeddings().weight
    if len(tokenizer) > len(table):
        table = encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False).weight
    table[tokenizer.convert_tokens_to_ids(list(rows))] = torch.stack(list(rows.values())).to(table)
    # Older CLIP configs locate the end of the text at the largest token id, which would now be a new token's.
    model = getattr(encoder, "text_model", encoder)
    if hasattr(model, "eos_token_id"):
        model.eos_token_id = tokenizer.eos_token_id
    longest_first = sorted(embeddings, key=lambda embedding: -len(embedding.word))
    pattern = re.compile("|".join(embedding.pattern.pattern for embedding in longest_first), re.IGNORECASE)
    return [pattern.sub(lambda match: spelled.get(match[0].lower(), match[0]), prompt) for prompt in prompts]


def unused(embeddings: list[Embedding], prompts: list[str]) -> list[str]:
    """One warning for each embedding whose word occurs in no prompt."""
    return [
        f"the embedding {embedding.path} is not used: write {embedding.word!r} into the prompt"
        for embedding in embeddings
        if not any(embedding.pattern.search(prompt) for prompt in prompts)
    ]
