"""The text encoders of a tuning: encoded once and freed, or kept, with a LoRA and with trained vectors for the new word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.lora.embedding_files import Embedding, install, read_embeddings
from dreamlift.priors.lora.lora import LoRA
from dreamlift.priors.parts import Parts
from dreamlift.priors.text import encode_prompts, load_encoder, text_states, tokenized
from dreamlift.tuning.settings import Tuning
from dreamlift.tuning.words import initial_vectors
from dreamlift.types import TextStates


class FixedText(nn.Module):
    """States of known prompts; nothing is trained."""

    def __init__(self, parts: Parts, choice: PriorChoice, prompts: list[str], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows = {prompt: row for row, prompt in enumerate(prompts)}
        self.states = encode_prompts(parts, prompts, device, dtype, choice.loras, choice.embeddings)

    def forward(self, prompts: list[str]) -> TextStates:
        """The states ``(V, L, D)`` and pooled states ``(V, P)`` of V prompts."""
        rows, (states, pooled) = [self.rows[prompt] for prompt in prompts], self.states
        return TextStates(states[rows], None if pooled is None else pooled[rows])


class TunedEncoder(nn.Module):
    """One text encoder: its LoRA or all its weights, if it is tuned, and the new word's vectors, if they are learnt.

    Args:
        prompts: all prompts that it will be asked for. word: the new word; "": its vectors are not learnt.
    """

    def __init__(
        self, parts: Parts, part: str, choice: PriorChoice, prompts: list[str], word: str, settings: Tuning,
        device: torch.device, dtype: torch.dtype, rng: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        suffix = part.removeprefix("text_encoder")
        tokenizer = parts.tokenizer(f"tokenizer{suffix}")
        encoder = load_encoder(parts, part, dtype, choice.loras, changed=True).to(device).requires_grad_(False)
        words, self.vector = read_embeddings(choice.embeddings), None
        if word:
            self.vector = nn.Parameter(initial_vectors(tokenizer, encoder, word, settings.word_init).to(device))
            words.append(Embedding("", word, {part: self.vector.detach()}))
        spelled = install(words, tokenizer, encoder, part, prompts)
        inputs = tokenized(parts, suffix, tokenizer, encoder, spelled)
        self.rows, self.inputs = {prompt: row for row, prompt in enumerate(prompts)}, inputs
        if word:
            assert self.vector is not None
            self._listen(encoder, tokenizer.convert_tokens_to_ids(words[-1].tokens(len(self.vector))))
        self.lora = LoRA(encoder, settings.rank or 0, "text", rng) if settings.text_encoder and settings.rank else None
        self.whole = encoder.requires_grad_(True) if settings.text_encoder and not settings.rank else None
        self.holder = (encoder,)  # in a tuple, so that frozen weights are not registered

    def _listen(self, encoder: Any, tokens: list[int]) -> None:
        """Use the trained vectors for ``tokens`` wherever the encoder looks up its table."""
        table = encoder.get_input_embeddings().weight

        def replaced(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
            assert self.vector is not None
            for token, vector in zip(tokens, self.vector.to(out), strict=True):
                out = torch.where((inputs[0] == token)[..., None], vector, out)
            return out

        for module in encoder.modules():
            if isinstance(module, nn.Embedding) and module.weight is table:
                module.register_forward_hook(replaced)

    def forward(self, prompts: list[str], inner: bool) -> Any:
        """The encoder's output, as transformers returns it."""
        rows = [self.rows[prompt] for prompt in prompts]
        given = {name: None if value is None else value[rows] for name, value in self.inputs.items()}
        return (self.lora or self.holder[0])(**given, output_hidden_states=inner)


class TunedText(nn.Module):
    """All text encoders of a model, by name. Arguments as for :class:`TunedEncoder`."""

    def __init__(
        self, parts: Parts, choice: PriorChoice, prompts: list[str], word: str, settings: Tuning, device: torch.device,
        dtype: torch.dtype, rng: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        self.parts = parts
        self.encoders = nn.ModuleDict({
            part: TunedEncoder(parts, part, choice, prompts, word, settings, device, dtype, rng)
            for part in parts.text_encoders()
        })  # fmt: skip

    def forward(self, prompts: list[str]) -> TextStates:
        """The states ``(V, L, D)`` and pooled states ``(V, P)`` of V prompts, differentiable in what is trained."""

        def run(suffix: str = "", length: int = 0, inner: bool = False) -> Any:
            return self.encoders[f"text_encoder{suffix}"](prompts, inner)

        return text_states(self.parts, prompts, run)

    def vectors(self) -> dict[str, Tensor]:
        """The new word's vectors ``(N, D)`` by the name of the encoder; {} if they are not learnt."""
        found = {part: getattr(encoder, "vector", None) for part, encoder in self.encoders.items()}
        return {part: vector.detach() for part, vector in found.items() if isinstance(vector, Tensor)}


def make_text(
    parts: Parts, choice: PriorChoice, prompts: Sequence[str], word: str, settings: Tuning, device: torch.device,
    dtype: torch.dtype, rng: torch.Generator,
) -> FixedText | TunedText:  # fmt: skip
    """The text encoders for all ``prompts`` of a tuning; they stay in memory only if something of them is trained."""
    if not settings.text_encoder and not settings.learn_word:
        return FixedText(parts, choice, list(prompts), device, dtype)
    return TunedText(parts, choice, list(prompts), word if settings.learn_word else "", settings, device, dtype, rng)
