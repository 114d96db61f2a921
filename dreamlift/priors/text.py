"""Prompts to text states, with the tokenizers and text encoders of a diffusers folder (CLIP, T5, or several).

Each encoder is loaded when prompts are to be encoded and freed right after: T5-XXL alone needs more memory than all else.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlift.priors.lora.additions import NOTHING, Additions, LoraFile
from dreamlift.priors.lora.embedding_files import Embedding, install, read_embeddings, unused

TEXT_LENGTH = 77  # CLIP's limit, and what DeepFloyd IF's T5 was trained with
T5_LENGTH = 256  # what Stable Diffusion 3 and FLUX.1 [schnell] give their T5; FLUX.1 [dev] twice as much


@torch.no_grad()
def encode_prompts(
    folder: Path, prompts: list[str], device: torch.device, dtype: torch.dtype, additions: Additions = NOTHING
) -> Tensor:
    """Text states ``(V, L, D)`` of V prompts. Warns of words that the tokenizer does not know, and of truncation.

    What they hold is between this module and the prior. With one encoder they are its last layer. With several (Stable
    Diffusion XL and 3, FLUX) they are the layers that those models were trained on, then the pooled states as further rows
    (:func:`pack`): so mixing two phrases mixes both.
    """
    embeddings = read_embeddings(additions.embeddings)
    for message in unused(embeddings, prompts):
        warnings.warn(message, stacklevel=1)
    run = partial(_run, folder, prompts, device, dtype, additions.loras, embeddings)
    if not (folder / "text_encoder_2").is_dir():
        return run().last_hidden_state.float()
    if _architecture(folder / "text_encoder_2") == "T5EncoderModel":  # FLUX: the states are T5's, CLIP's are only pooled
        guided = json.loads((folder / "transformer" / "config.json").read_text()).get("guidance_embeds", False)
        states = run("_2", 2 * T5_LENGTH if guided else T5_LENGTH).last_hidden_state.float()
        return pack(states, run().pooler_output.float())
    clips = [run(suffix, inner=True) for suffix in ("", "_2")]
    states = torch.cat([out.hidden_states[-2].float() for out in clips], dim=-1)
    if not (folder / "transformer").is_dir():
        packed = pack(states, clips[1].text_embeds.float())
        if json.loads((folder / "model_index.json").read_text()).get("force_zeros_for_empty_prompt", True):
            packed[[i for i, prompt in enumerate(prompts) if not prompt]] = 0.0
        return packed
    pooled = torch.cat([out.text_embeds.float() for out in clips], dim=-1)
    width = json.loads((folder / "transformer" / "config.json").read_text())["joint_attention_dim"]
    states = torch.nn.functional.pad(states, (0, width - states.shape[-1]))
    if (folder / "text_encoder_3").is_dir():  # T5-XXL: Stable Diffusion 3 works without it, with zeros in its place
        third = run("_3", T5_LENGTH).last_hidden_state.float()
    else:
        third = states.new_zeros(len(prompts), T5_LENGTH, width)
    return pack(torch.cat([states, third], dim=1), pooled)


def pack(states: Tensor, pooled: Tensor) -> Tensor:
    """``states (V, L, D)`` with ``pooled (V, P)`` as as many further rows as it takes, filled up with zeros."""
    width = states.shape[-1]
    filled = torch.nn.functional.pad(pooled, (0, -pooled.shape[-1] % width))
    return torch.cat([states, filled.view(len(pooled), -1, width)], dim=1)


def unpack(packed: Tensor, pooled_width: int) -> tuple[Tensor, Tensor]:
    """The ``states (V, L, D)`` and ``pooled (V, P)`` that :func:`pack` put together."""
    rows = -(-pooled_width // packed.shape[-1])
    return packed[:, :-rows], packed[:, -rows:].flatten(1)[:, :pooled_width]


def _run(
    folder: Path, prompts: list[str], device: torch.device, dtype: torch.dtype, loras: tuple[LoraFile, ...],
    embeddings: list[Embedding], suffix: str = "", length: int = TEXT_LENGTH, inner: bool = False,
) -> Any:  # fmt: skip
    """What one text encoder says, as transformers puts it; with ``inner`` the states after each of its layers too."""
    import transformers

    from dreamlift.priors.network import load_part

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder / f"tokenizer{suffix}", trust_remote_code=False)
    part = f"text_encoder{suffix}"
    name = _architecture(folder / part)
    with _no_bars():
        encoder: Any = load_part(getattr(transformers, name), folder / part, dtype, loras).to(device).eval()
    prompts = install(embeddings, tokenizer, encoder, part, prompts)
    if suffix == "":
        further = any(map(is_t5, folder.glob("text_encoder_*")))
        for message in complaints(tokenizer, prompts, further):
            warnings.warn(message, stacklevel=1)  # the caller's file would be torch's: no_grad stands between
    tokens = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids = tokens["input_ids"].to(device)
    # DeepFloyd IF's T5 was trained with its padding masked; Stable Diffusion's CLIP and the T5 of its third version without.
    mask = tokens["attention_mask"].to(device) if name == "T5EncoderModel" and suffix == "" else None
    return encoder(ids, attention_mask=mask, output_hidden_states=inner)


def complaints(tokenizer: Any, prompts: list[str], further: bool = False) -> list[str]:
    """One line for each word that the tokenizer does not know (with the nearest it knows), and one if cut off.

    ``further``: a T5 beside it reads on.
    """
    lines = []
    if max(len(tokenizer(prompt, verbose=False)["input_ids"]) for prompt in prompts) > TEXT_LENGTH:
        rest = "only T5 reads what comes after" if further else "what comes after is not read"
        lines.append(f"the prompt is longer than {TEXT_LENGTH} tokens: {rest}")
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


def is_t5(encoder: Path) -> bool:
    """Whether the part ``encoder`` of a diffusers folder, which need not be there, is a T5."""
    return encoder.is_dir() and _architecture(encoder) == "T5EncoderModel"


def _architecture(folder: Path) -> str:
    accepted = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
    name = (json.loads((folder / "config.json").read_text()).get("architectures") or ["?"])[0]
    if name not in accepted:
        raise ValueError(f"the text encoder in {folder} is {name!r}; accepted: {', '.join(accepted)}")
    return name
