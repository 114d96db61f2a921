"""Textual inversion (Gal et al. 2022, https://arxiv.org/abs/2208.01618): vectors for a new word, and nothing else, are learnt.

    v* = argmin_v E w(t) |f(x_t, t, c(v)) - y|^2

x are photos of one thing; c(v) is the text encoder's output for a neutral sentence about it, in which the new word has the
vectors v; f and y are as in :mod:`dreamlift.tuning.loss`. The network and the text encoders stay as they are. Magic123 learns
the word of its photo in this way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dreamlift.prompts import article
from dreamlift.tuning.photos import Taught
from dreamlift.tuning.settings import Tuning
from dreamlift.tuning.words import SUGGESTED, check_word, common_word, is_closed

METHOD = "textual inversion"
MOST_VECTORS = 16  # of the about 77 tokens that models read
KINDS = ("photo", "close-up photo", "cropped photo", "bright photo", "good picture", "rendering")
"""Neutral descriptions of a picture. Those of the paper (its appendix) are CLIP's for ImageNet; these are of the same kind."""


@dataclass(frozen=True, kw_only=True)
class Inversion(Taught):
    """What textual inversion teaches a prior.

    ``init`` is one or several words; the new word has as many vectors as the prior's tokenizer has tokens for them.
    """

    init: str  # what the photos show, in words that the prior knows: the new word begins with their meaning

    def __post_init__(self) -> None:
        super().__post_init__()
        init = re.sub(r"^(a|an|the)\s+", "", " ".join(self.init.split()), flags=re.IGNORECASE).lower()
        if not re.search(r"\w", init) or len(init) > 100:
            raise ValueError(f"init is {self.init[:40]!r}; accepted: what the photos show, such as duck")
        object.__setattr__(self, "init", init)
        object.__setattr__(self, "word", check_word(self.word, init))

    @property
    def noun(self) -> str:
        """The words that the vectors begin with."""
        return self.init

    @property
    def prompt(self) -> str:
        """Such as "a zwx"."""
        return f"{article(self.word)} {self.word}"

    def prompts(self, closed: bool) -> tuple[str, ...]:
        """Neutral sentences; a prior of a closed vocabulary knows one."""
        if closed:
            return (self.prompt,)
        return tuple(f"{article(kind)} {kind} of {each}" for kind in KINDS for each in (self.prompt, f"the {self.word}"))

    def check(self, tokenizer: Any, note: Callable[[str], None]) -> None:
        """Refuse a word that the prior knows, and initial words that it does not know. Raises ValueError."""
        if common_word(tokenizer, self.word):
            raise ValueError(
                f"{self.word!r} is a word that the prior knows: give --word a new one, such as {SUGGESTED} (in the prompt, too)"
            )
        ids = tokenizer(self.init, add_special_tokens=False)["input_ids"]
        if is_closed(tokenizer) and tokenizer.unk_token_id in ids:
            raise ValueError(f"the prior does not know {self.init!r}: give --init words that it knows, such as duck")
        if len(ids) > MOST_VECTORS:
            raise ValueError(
                f"{self.init[:40]!r} has {len(ids)} tokens; accepted: at most {MOST_VECTORS}: give --init fewer words"
            )
        if len(ids) > 1:
            note(f"{self.init!r} has {len(ids)} tokens: {self.word!r} gets as many vectors")

    def completed(self, settings: Tuning) -> Tuning:
        """Nothing but the word is trained, and nothing that could change the class."""
        return replace(settings, word_only=True, word_init=self.init, class_weight=0.0)

    def record(self) -> dict[str, Any]:
        """Method, words and prompt."""
        return {"method": METHOD, "word": self.word, "init": self.init, "prompt": self.prompt}
