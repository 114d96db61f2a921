"""The new word: whether a tokenizer knows it, and the vectors that it begins with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamlift.prompts import article, words_of
from dreamlift.toybox.world.things import COLORS

NONSENSE = "qzxvkj"  # no vocabulary of words has it
COMMON = 40_000  # CLIP's tokens are in order of frequency: whole words before this one are common
SUGGESTED = "zwx"


@dataclass(frozen=True)
class SubjectWords:
    """The words of the thing that a prior is taught: "a zwx duck"."""

    class_name: str  # the kind of thing, as a noun that the prior knows, such as duck
    word: str = SUGGESTED  # the new word for this one

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_name", check_class(self.class_name))
        object.__setattr__(self, "word", check_word(self.word, self.class_name))

    @property
    def prompt(self) -> str:
        """The prompt of the photos."""
        noun = f"{self.word} {self.class_name}"
        return f"{article(noun)} {noun}"


def is_closed(tokenizer: Any) -> bool:
    """Whether a tokenizer knows whole words only, as those of the embedded priors do."""
    unknown = tokenizer.unk_token_id
    return unknown is not None and tokenizer(NONSENSE, add_special_tokens=False)["input_ids"] == [unknown]


def check_word(word: str, class_name: str) -> str:
    """The word in lower case. Raises ValueError if it is not one word of letters and digits, or is part of the class."""
    found = word.strip().lower()
    if not re.fullmatch(r"\w{1,40}", found) or "_" in found:
        raise ValueError(f"word is {word[:40]!r}; accepted: one new word of letters and digits, such as {SUGGESTED}")
    if found in words_of(class_name):
        raise ValueError(f"the word {found!r} is part of the class {class_name[:40]!r}: give a new word, such as {SUGGESTED}")
    return found


def check_class(class_name: str) -> str:
    """The class's noun without an article. Raises ValueError for none or for one that is not words."""
    found = re.sub(r"^(a|an|the)\s+", "", " ".join(class_name.split()), flags=re.IGNORECASE)
    if not words_of(found) or len(found) > 100:
        raise ValueError(f"class is {class_name[:40]!r}; accepted: the kind of thing that the photos show, such as duck")
    return found


def common_word(tokenizer: Any, word: str) -> str:
    """What speaks against a word that the tokenizer knows already; "" if it is new, or rare.

    Raises:
        ValueError: the tokenizer has a closed vocabulary, in which every word is common.
    """
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if is_closed(tokenizer):
        if tokenizer.unk_token_id not in ids:
            raise ValueError(
                f"{word!r} is a word that the prior knows: give --word a new one, such as {SUGGESTED} (in the prompt, too)"
            )
        return ""
    if len(ids) == 1 and ids[0] < COMMON:
        return f"{word!r} is an ordinary word, whose meaning the tuning changes: a new one, such as {SUGGESTED}, is safer"
    return ""


@torch.no_grad()
def initial_vectors(tokenizer: Any, encoder: Any, word: str, init: str = "") -> Tensor:
    """Vectors ``(N, D)`` for a new word to begin with: those of ``init``, one for each of its tokens.

    Without ``init`` it is one vector: that of a word that was learnt before; otherwise the mean of the colour words', or of the
    word's own tokens in an open vocabulary.
    """
    table = encoder.get_input_embeddings().weight
    if init:
        return table[tokenizer(init, add_special_tokens=False)["input_ids"]].float().cpu()
    if is_closed(tokenizer):
        vocabulary = tokenizer.get_vocab()
        rows = [vocabulary[color] for color in COLORS if color in vocabulary] or list(vocabulary.values())
        rows = [vocabulary[word]] if word in vocabulary else rows
    else:
        rows = tokenizer(word, add_special_tokens=False)["input_ids"]
    return table[rows].float().mean(dim=0, keepdim=True).cpu()
