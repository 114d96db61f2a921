"""Prompts to text states, with the tokenizers and text encoders of a diffusers folder (CLIP, T5, or several).

Each encoder is loaded to encode the prompts and then freed: T5-XXL alone needs more memory than the rest of the model.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from dreamlift.priors.engine import UsedEngine
from dreamlift.priors.files.words import UnknownWordWarning, suggested
from dreamlift.priors.lora.embedding_files import TOKEN, Embedding, install, read_embeddings, unused
from dreamlift.priors.lora.lora_files import merge_loras
from dreamlift.priors.parts import T5, Parts, named
from dreamlift.priors.quick_text import find_encoder
from dreamlift.types import LoraFile, TextStates

TEXT_LENGTH = 77  # tokens: CLIP's limit, and the training length of DeepFloyd IF's T5
ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", T5)
SETTINGS_ERRORS = (AttributeError, IndexError, KeyError, TypeError)  # of a first call; a full memory raises others
T5_LENGTH = 256  # tokens of T5 in Stable Diffusion 3 and FLUX.1 [schnell]; FLUX.1 [dev] uses twice as many


@torch.no_grad()
def encode_prompts(
    parts: Parts, prompts: list[str], device: torch.device, dtype: torch.dtype, loras: tuple[LoraFile, ...] = (),
    embeddings: tuple[str, ...] = (), engine: UsedEngine = "torch",
) -> TextStates:  # fmt: skip
    """Text states ``(V, L, D)`` of V prompts, and pooled ones ``(V, P)`` for the models that use them.

    With one encoder the states are those of its last layer; with several (Stable Diffusion XL and 3, FLUX) those of the layers
    that the model was trained with. Warns about unknown words and about truncation.

    Args:
        loras, embeddings: the user's files, as in :class:`~dreamlift.priors.choice.PriorChoice`.
        engine: "onnx" lets ONNX Runtime run an embedded prior's encoder.
    """
    quick = find_encoder(parts) if engine == "onnx" and not loras and not embeddings else None
    if quick is not None:
        for message in complaints(quick.tokenizer, prompts, parts):
            warnings.warn(message, stacklevel=1)
        return TextStates(quick(prompts, TEXT_LENGTH))
    words = read_embeddings(embeddings)
    for message in unused(words, prompts):
        warnings.warn(message, stacklevel=1)
    return text_states(parts, prompts, partial(_run, parts, prompts, device, dtype, loras, words))


def text_states(parts: Parts, prompts: list[str], run: Callable[..., Any]) -> TextStates:
    """The states ``(V, L, D)`` and pooled ones ``(V, P)`` that a model's network takes, from the outputs of its text encoders.

    Args:
        run: ``run(suffix="", length=77, inner=False)``, the output of ``text_encoder<suffix>`` for ``prompts`` of ``length``
            tokens, as transformers returns it; with ``inner`` including the states of all layers.
    """
    if not parts.has("text_encoder_2"):
        return TextStates(run().last_hidden_state.float())
    if parts.is_t5("text_encoder_2"):  # FLUX: T5's states and CLIP's pooled output
        guided = parts.config("transformer").get("guidance_embeds", False)
        states = run("_2", 2 * T5_LENGTH if guided else T5_LENGTH).last_hidden_state.float()
        return TextStates(states, run().pooler_output.float())
    clips = [run(suffix, inner=True) for suffix in ("", "_2")]
    states = torch.cat([out.hidden_states[-2].float() for out in clips], dim=-1)
    if not parts.has("transformer"):
        pooled = clips[1].text_embeds.float()
        if parts.config("").get("force_zeros_for_empty_prompt", True):
            told = torch.tensor([[bool(prompt)] for prompt in prompts], device=states.device)
            states, pooled = states.where(told[..., None], 0.0), pooled.where(told, 0.0)
        return TextStates(states, pooled)
    pooled = torch.cat([out.text_embeds.float() for out in clips], dim=-1)
    width = parts.config("transformer")["joint_attention_dim"]
    states = torch.nn.functional.pad(states, (0, width - states.shape[-1]))
    if parts.has("text_encoder_3"):  # T5-XXL: optional in Stable Diffusion 3; zeros replace its states
        third = run("_3", T5_LENGTH).last_hidden_state.float()
    else:
        third = states.new_zeros(len(prompts), T5_LENGTH, width)
    return TextStates(torch.cat([states, third], dim=1), pooled)


def _run(
    parts: Parts, prompts: list[str], device: torch.device, dtype: torch.dtype, loras: tuple[LoraFile, ...],
    embeddings: list[Embedding], suffix: str = "", length: int = TEXT_LENGTH, inner: bool = False,
) -> Any:  # fmt: skip
    """The output of one text encoder, as transformers returns it; with ``inner`` including the states of all layers."""
    tokenizer, part = parts.tokenizer(f"tokenizer{suffix}"), f"text_encoder{suffix}"
    encoder = load_encoder(parts, part, dtype, loras, changed=bool(embeddings)).to(device)
    prompts = install(embeddings, tokenizer, encoder, part, prompts)
    further = any(parts.is_t5(other) for other in parts.text_encoders()[1:])
    with named(f"the tokenizer{suffix} of {parts} does not fit its text encoder"):
        messages = complaints(tokenizer, prompts, parts, further) if suffix == "" else []
    for message in messages:
        warnings.warn(message, stacklevel=1)  # a higher level would name torch's file: no_grad wraps the caller
    inputs = tokenized(parts, suffix, tokenizer, encoder, prompts, length)
    with named(f"the config.json of the {part} of {parts} does not fit its weights", SETTINGS_ERRORS):
        return encoder(**inputs, output_hidden_states=inner)


def load_encoder(
    parts: Parts, part: str, dtype: torch.dtype, loras: tuple[LoraFile, ...] = (), changed: bool = False
) -> Any:  # fmt: skip
    """The text encoder ``part`` with the ``loras`` merged into it. ``changed``: its weights are changed by the caller, too."""
    import transformers

    name = parts.architecture(part)
    if name not in ENCODERS:
        raise ValueError(f"the {part} of {parts} is {name!r}; accepted: {', '.join(ENCODERS)}")
    with no_bars():
        encoder: Any = parts.network(part, getattr(transformers, name), dtype)
    own = copy.deepcopy(encoder) if (loras or changed) and parts.shared else encoder
    return merge_loras(own, parts, part, loras).eval()


def tokenized(
    parts: Parts, suffix: str, tokenizer: Any, encoder: Any, prompts: list[str], length: int = TEXT_LENGTH
) -> dict[str, torch.Tensor | None]:  # fmt: skip
    """The inputs of ``text_encoder<suffix>``, on its device. Raises ValueError for a tokenizer with more tokens than it has."""
    with named(f"the tokenizer{suffix} of {parts} does not fit its text encoder"):
        tokens = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        size = encoder.get_input_embeddings().num_embeddings
        if int(tokens["input_ids"].max()) >= size:
            raise ValueError(f"it has more than the encoder's {size} tokens")
    # DeepFloyd IF's T5 was trained with masked padding; Stable Diffusion's CLIP and Stable Diffusion 3's T5 were not.
    masked = parts.architecture(f"text_encoder{suffix}") == T5 and suffix == ""
    mask = tokens["attention_mask"].to(encoder.device) if masked else None
    return {"input_ids": tokens["input_ids"].to(encoder.device), "attention_mask": mask}


def complaints(tokenizer: Any, prompts: list[str], parts: Parts | None = None, further: bool = False) -> list[UserWarning]:
    """One warning for each word outside the tokenizer's vocabulary, with similar known words, and one if a prompt is too long.

    Args:
        parts: of the prior, whose title and synonyms are used; None: not known.
        further: a second encoder, a T5, reads more tokens than this one.
    """
    lines: list[UserWarning] = []
    if max(len(tokenizer(prompt, verbose=False)["input_ids"]) for prompt in prompts) > TEXT_LENGTH:
        rest = "only T5 reads the rest" if further else "the rest is ignored"
        lines.append(UserWarning(f"the prompt is longer than {TEXT_LENGTH} tokens: {rest}"))
    unknown = tokenizer.unk_token_id
    # A sub-word tokenizer (CLIP, T5) can represent any text; a word tokenizer has a closed vocabulary.
    # Punctuation is not part of a word, except within it; tokens of embeddings are known.
    told = [TOKEN.sub(" ", prompt.lower()).replace(",", " ") for prompt in prompts]
    words = {re.sub(r"^\W+|\W+$", "", word) for prompt in told for word in prompt.split()} - {""}
    if unknown is None:
        return lines
    known = [word for word in tokenizer.get_vocab() if word.isalpha()]
    title, synonyms = ("", {}) if parts is None else (parts.title, parts.near)
    for word in sorted(words):
        if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]:
            near = suggested(word, [prompt.lower() for prompt in prompts], known, synonyms)
            lines.append(UnknownWordWarning(word, near, title))
    return lines


@contextmanager
def no_bars() -> Iterator[None]:
    """Disable transformers' progress bars, and restore its setting afterwards."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
