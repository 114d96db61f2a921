"""Prompts to text states, with the tokenizer and text encoder of a diffusers folder (CLIP or T5).

The encoder is loaded when prompts are to be encoded and freed right after: T5-XXL alone needs more memory than all else.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TEXT_LENGTH = 77  # CLIP's limit, and what DeepFloyd IF's T5 was trained with


@torch.no_grad()
def encode_prompts(folder: Path, prompts: list[str], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Text states ``(V, 77, D)`` of V prompts. Warns of words that the tokenizer does not know, and of truncation."""
    import transformers

    from dreamlift.priors.network import load_part

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False)
    for message in complaints(tokenizer, prompts):
        warnings.warn(message, stacklevel=1)  # the caller's file would be torch's: no_grad stands between
    name = _architecture(folder / "text_encoder")
    with _no_bars():
        encoder: Any = load_part(getattr(transformers, name), folder / "text_encoder", dtype).to(device).eval()
    tokens = tokenizer(prompts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    ids = tokens["input_ids"].to(device)
    # T5 was trained with its padding masked, Stable Diffusion's CLIP without.
    mask = tokens["attention_mask"].to(device) if name == "T5EncoderModel" else None
    return encoder(ids, attention_mask=mask)[0].float()


def complaints(tokenizer: Any, prompts: list[str]) -> list[str]:
    """One line for each word that the tokenizer does not know (with the nearest it knows), and one if cut off."""
    lines = []
    if max(len(tokenizer(prompt, verbose=False)["input_ids"]) for prompt in prompts) > TEXT_LENGTH:
        lines.append(f"the prompt is longer than {TEXT_LENGTH} tokens: what comes after is not read")
    unknown = tokenizer.unk_token_id
    # A tokenizer with sub-words (CLIP, T5) spells out anything; a word tokenizer has a closed vocabulary.
    words = {word for prompt in prompts for word in prompt.lower().replace(",", " ").split()}
    if unknown is None:
        return lines
    known = [word for word in tokenizer.get_vocab() if word.isalpha()]
    for word in sorted(words):
        if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]:
            near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
            hint = f"; the nearest that it knows: {', '.join(near)}" if near else ""
            lines.append(f"this prior does not know the word {word!r}{hint}")
    return lines


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers' progress bars off the user's terminal, and leave its setting as it was."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _architecture(folder: Path) -> str:
    import json

    accepted = ("CLIPTextModel", "T5EncoderModel")
    name = (json.loads((folder / "config.json").read_text()).get("architectures") or ["?"])[0]
    if name not in accepted:
        raise ValueError(f"the text encoder in {folder} is {name!r}; accepted: {', '.join(accepted)}")
    return name
