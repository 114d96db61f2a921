"""The text encoder of an embedded prior without transformers, whose import takes longer than everything else before a run.

ONNX Runtime runs the encoder's graph (:mod:`dreamlift.priors.engine`), and the tokens come from the ``tokenizers`` package that
transformers itself uses. A model without such a graph, or with LoRAs or embeddings, is encoded by transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreamlift.priors.engine import EngineError, OnnxNetwork, ready_session
from dreamlift.priors.files.folder import read_json
from dreamlift.priors.parts import FolderParts, Parts, named

LENGTH = 77  # tokens of the example
PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")  # classes that add nothing to tokenizer.json


class FileTokenizer:
    """A ``tokenizer.json`` with the calls of a transformers tokenizer that :mod:`dreamlift.priors.text` uses."""

    def __init__(self, file: Path, config: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        self.tokenizer, self.config = Tokenizer.from_file(str(file)), config
        self.unk_token_id = self.tokenizer.token_to_id(self.config.get("unk_token") or "")
        self.pad_token_id = self.tokenizer.token_to_id(self.config.get("pad_token") or "")

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        return {"input_ids": self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def get_vocab(self) -> dict[str, int]:
        return self.tokenizer.get_vocab()

    def padded(self, texts: list[str], length: int) -> tuple[Tensor, Tensor]:
        """Token numbers and their mask, both ``(V, length)`` int64."""
        self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(length=length, pad_id=self.pad_token_id, pad_token=self.config["pad_token"])
        found = self.tokenizer.encode_batch(texts)
        return torch.tensor([each.ids for each in found]), torch.tensor([each.attention_mask for each in found])


class QuickEncoder:
    """A text encoder with its tokenizer."""

    def __init__(self, tokenizer: FileTokenizer, network: OnnxNetwork) -> None:
        self.tokenizer, self.network = tokenizer, network

    def __call__(self, texts: list[str], length: int) -> Tensor:
        """The states of the last layer, ``(V, length, D)``."""
        ids, mask = self.tokenizer.padded(texts, length)
        given = {"input_ids": ids, "attention_mask": mask}
        return self.network({name: given[name] for name in self.network.shapes})


def find_encoder(parts: Parts) -> QuickEncoder | None:
    """The encoder of a model with one text encoder whose graph is there; None for every other model."""
    if not isinstance(parts, FolderParts) or not parts.has("text_encoder") or parts.has("text_encoder_2"):
        return None
    file = parts.folder / "tokenizer" / "tokenizer.json"
    try:
        config = read_json(file.with_name("tokenizer_config.json"))
        if config.get("tokenizer_class") not in PLAIN or not isinstance(config.get("pad_token"), str):
            return None
        read_json(file)
        network = ready_session(parts.folder / "text_encoder", parts.config("text_encoder"), example(parts))
    except (ValueError, EngineError):  # a damaged file, which transformers' way names; a graph that ONNX Runtime does not take
        return None
    if network is None:
        return None
    with named(f"{file} cannot be read"):
        return QuickEncoder(FileTokenizer(file, config), network)


def call_encoder(encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """The states of the last layer ``(V, L, D)`` of transformers' encoder."""
    return encoder(input_ids, attention_mask=attention_mask).last_hidden_state


def example(parts: Parts) -> dict[str, Tensor]:
    """Inputs of two texts. As in :mod:`dreamlift.priors.text`, only T5's padding is masked."""
    ones = torch.ones(2, LENGTH, dtype=torch.long)
    return {"input_ids": ones, "attention_mask": ones} if parts.is_t5("text_encoder") else {"input_ids": ones}
