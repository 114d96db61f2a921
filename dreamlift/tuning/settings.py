"""The settings of a fine-tuning, and the defaults of each family of priors.

The defaults of large models are those of diffusers' DreamBooth examples
(https://github.com/huggingface/diffusers/tree/main/examples/dreambooth): Stable Diffusion with LoRA 500 steps at 1e-4, with all
weights 800 steps at 5e-6, at 2e-6 with its text encoder; DeepFloyd IF with LoRA 1200 steps at 5e-6 times the 4 pictures of a
step (``--scale_lr``), with all weights 150 steps at 1e-7. Its example of Stable Diffusion with a LoRA and both of IF have no
class pictures, which are used here in all of them; IF's with all weights has Adam with 8 bits, which is AdamW here.

Those of textual inversion (``word_only``) are Magic123's (https://github.com/guochengqian/Magic123): 3000 steps of 16 pictures
with Stable Diffusion 1.5 (``textual_inversion.sh``); the learning rate, 1e-4, is the default of the program that it calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

Family = Literal["words", "pixel", "latent"]
"""Priors with a closed vocabulary of words (``toybox``), other pixel priors (DeepFloyd IF), and other latent ones."""

MOST_STEPS = 1_000_000
TABLE: dict[tuple[Family, bool], dict[str, Any]] = {
    ("words", False): {"steps": 150, "lr": 2e-3, "word_lr": 2e-3, "batch": 4, "rank": 16, "targets": "all"},
    ("words", True): {"steps": 150, "lr": 3e-4, "word_lr": 2e-3, "batch": 4},
    ("pixel", False): {"steps": 1200, "lr": 2e-5, "word_lr": 5e-4, "batch": 4, "rank": 4, "targets": "attention"},
    ("pixel", True): {"steps": 150, "lr": 1e-7, "word_lr": 5e-4, "batch": 4},
    ("latent", False): {"steps": 500, "lr": 1e-4, "word_lr": 5e-4, "batch": 1, "rank": 4, "targets": "attention"},
    ("latent", True): {"steps": 800, "lr": 5e-6, "word_lr": 5e-4, "batch": 1},
}
"""Defaults by family, and by whether all weights are trained."""
WITH_TEXT: dict[tuple[Family, bool], dict[str, Any]] = {("latent", True): {"lr": 2e-6}}
"""What differs where the text encoders are tuned, too."""
WORD_TABLE: dict[Family, dict[str, Any]] = {
    "words": {"steps": 300, "word_lr": 2e-2, "batch": 4},
    "pixel": {"steps": 3000, "word_lr": 1e-4, "batch": 16},
    "latent": {"steps": 3000, "word_lr": 1e-4, "batch": 16},
}
"""Defaults of textual inversion."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a prior is fine-tuned. None: the default of its family, see :func:`filled`."""

    steps: int | None = None  # steps of AdamW
    lr: float | None = None  # learning rate of the U-Net, constant
    text_lr: float | None = None  # learning rate of the text encoders; None: that of the U-Net
    word_lr: float | None = None  # learning rate of the new word's vector
    batch: int | None = None  # photos per step; as many class pictures are added to them
    rank: int | None = None  # of the LoRA
    targets: Literal["attention", "all"] | None = None  # weights that get a LoRA: the attention's projections, or all
    all_weights: bool = False  # train all weights of the U-Net instead of a LoRA
    text_encoder: bool = False  # tune the text encoders as well
    learn_word: bool | None = None  # learn a new vector for the word; None: where the tokenizer does not know it
    word_only: bool = False  # textual inversion: train the word's vectors and nothing else
    word_init: str = ""  # words whose vectors the new one's begin as; "": colors, or the tokens that spell the new word
    class_weight: float = 1.0  # lambda, the weight of the class pictures' loss; 0: there are none
    seed: int = 0  # of all random numbers; a stage's is added to the run's
    gradient_checkpointing: bool = False  # recompute activations in the backward pass instead of storing them

    def __post_init__(self) -> None:
        for name, low, high in (("steps", 1, MOST_STEPS), ("batch", 1, 1000), ("rank", 1, 4096), ("seed", 0, 2**63 - 1)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value}; accepted: {low} to {high}")
        for name in ("lr", "text_lr", "word_lr"):
            value = getattr(self, name)
            if value is not None and not (0.0 < value <= 1.0):
                raise ValueError(f"{name} is {value:g}; accepted: above 0, at most 1")
        if not (math.isfinite(self.class_weight) and 0.0 <= self.class_weight <= 1000.0):
            raise ValueError(f"class_weight is {self.class_weight:g}; accepted: 0 (no class pictures) to 1000")
        if self.targets not in (None, "attention", "all"):
            raise ValueError(f"targets is {self.targets!r}; accepted: attention, all")
        if self.all_weights and (self.rank is not None or self.targets is not None):
            raise ValueError("rank and targets are those of a LoRA: leave them out with all weights")
        if self.word_init and not self.word_only:
            raise ValueError("word_init is a setting of textual inversion: set word_only as well")
        others = (self.all_weights, self.text_encoder, self.rank, self.targets, self.learn_word is False)
        if self.word_only and any(others):
            raise ValueError("word_only trains no weights: leave rank, targets, all_weights, text_encoder and learn_word out")


def filled(settings: Tuning, family: Family, known_word: bool) -> Tuning:
    """The settings with the family's defaults in place of None. ``known_word``: the tokenizer can represent the word."""
    key = family, settings.all_weights
    table = WORD_TABLE[family] if settings.word_only else TABLE[key] | (WITH_TEXT.get(key, {}) if settings.text_encoder else {})
    defaults = {**table, "learn_word": settings.word_only or not known_word}
    empty = {each.name for each in fields(settings) if getattr(settings, each.name) is None}
    found = replace(settings, **{name: value for name, value in defaults.items() if name in empty})
    return replace(found, text_lr=found.lr) if found.text_lr is None else found
