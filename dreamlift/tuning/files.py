"""What a tuning leaves: LoRA and embedding in diffusers' layouts, or a whole diffusers folder; and its state, to continue it.

``pytorch_lora_weights.safetensors`` has ``unet.<layer>.lora_A.weight`` (r, in[, h, w]) and ``lora_B.weight`` (out, r[, 1, 1]),
as diffusers' ``load_lora_weights`` reads it, with the scale gamma / r multiplied into B. That function refuses a file with
layers of a T5, so that its LoRA has a file of its own, ``text_encoder_lora.safetensors``. ``learned_embeds.safetensors`` has
the new word's vector ``(D,)`` by the word, or several ``(N, D)``, as ``load_textual_inversion`` reads them. Models with two
text encoders have their own for each: ``<word>.safetensors`` with ``clip_l`` and ``clip_g``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlift.priors.files.folder import read_json
from dreamlift.priors.files.nouns import NOUNS
from dreamlift.priors.files.tensors import read_tensors
from dreamlift.priors.lora.additions import EMBEDDING_FILE, LORA_FILE, T5_LORA_FILE
from dreamlift.priors.lora.embedding_files import read_embeddings
from dreamlift.priors.lora.lora import LoRA
from dreamlift.priors.parts import FolderParts
from dreamlift.priors.text import no_bars
from dreamlift.system.files import atomic_write_text, replacing
from dreamlift.tuning.text import TunedEncoder, TunedText
from dreamlift.tuning.tuner import Tuner
from dreamlift.tuning.words import is_closed

STATE = "checkpoint/state.safetensors"
SIDES = {"lora_A": "down", "lora_B": "up"}


def lora_tensors(lora: LoRA, prefix: str) -> dict[str, Tensor]:
    """The adaptation of one network by diffusers' names, which begin with ``prefix``."""
    shapes = {name: weight.shape for name, weight in lora.holder[0].named_parameters()}
    found: dict[str, Tensor] = {}
    for key, down in lora.down.items():
        name = key.replace("/", ".")
        up, layer = lora.up[key].detach() * lora.scale, name.removesuffix(".weight")
        rank, rest = len(down), shapes[name][2:]  # of a kernel: its height and width
        ones = (1,) * len(rest)
        found[f"{prefix}.{layer}.lora_A.weight"] = down.detach().view(rank, -1, *rest)
        found[f"{prefix}.{layer}.lora_B.weight"] = up.view(-1, rank, *ones)
    return {name: value.float().cpu().contiguous() for name, value in found.items()}


def adaptations(tuner: Tuner) -> dict[str, LoRA]:
    """The LoRAs of a tuning by the prefix of their names in its file."""
    found = {} if tuner.network.lora is None else {"unet": tuner.network.lora}
    encoders = tuner.text.encoders.items() if isinstance(tuner.text, TunedText) else ()
    for part, encoder in encoders:
        if isinstance(encoder, TunedEncoder) and encoder.lora is not None:
            # CLIP's layers are below "text_model" in diffusers' files, whatever transformers' version calls them.
            plain = any(key.startswith("encoder/layers") for key in encoder.lora.down)
            found[f"{part}.text_model" if plain else part] = encoder.lora
    return found


def files_of(tuner: Tuner) -> dict[str, dict[str, Tensor]]:
    """The tensors of a tuning's LoRAs by the names of their files."""
    found: dict[str, dict[str, Tensor]] = {}
    for prefix, lora in adaptations(tuner).items():
        is_t5 = any(key.startswith("encoder/block/") for key in lora.down)
        found.setdefault(T5_LORA_FILE if is_t5 else LORA_FILE, {}).update(lora_tensors(lora, prefix))
    return found


@torch.no_grad()
def begin_with(tuner: Tuner, path: str | Path) -> None:
    """Continue the LoRA in ``path``, a file of :func:`save_addition` with the same targets and rank, and T5's beside it.

    Raises:
        ValueError: it is of other layers or of another rank.
    """
    files, (tensors, _), beside = files_of(tuner), read_tensors(path), Path(path).with_name(T5_LORA_FILE)
    if T5_LORA_FILE in files and beside.is_file():
        tensors |= read_tensors(beside)[0]
    wanted = {name: value for each in files.values() for name, value in each.items()}
    if {name: value.shape for name, value in tensors.items()} != {name: value.shape for name, value in wanted.items()}:
        raise ValueError(f"{path} is of other layers or of another rank: begin with a LoRA of the same settings")
    for prefix, lora in adaptations(tuner).items():
        for key in lora.down:
            layer = f"{prefix}.{key.replace('/', '.').removesuffix('.weight')}"
            lora.down[key].copy_(tensors[f"{layer}.lora_A.weight"].flatten(1))
            lora.up[key].copy_(tensors[f"{layer}.lora_B.weight"].flatten(1) / lora.scale)


@torch.no_grad()
def go_on(tuner: Tuner, folder: Path, word: str) -> None:
    """Continue the LoRA and the word's vector in ``folder``, which :func:`save_addition` has written.

    Raises:
        ValueError: the LoRA is of other layers or of another rank.
    """
    begin_with(tuner, folder / LORA_FILE)
    if not isinstance(tuner.text, TunedText) or not tuner.text.vectors():
        return
    name = EMBEDDING_FILE if len(tuner.text.vectors()) == 1 else f"{word}.safetensors"
    saved = {part: rows for each in read_embeddings((str(folder / name),)) for part, rows in each.vectors.items()}
    for (part, vector), rows in zip(tuner.text.vectors().items(), saved.values(), strict=True):
        vector.copy_(saved.get(part, rows))


def save_addition(tuner: Tuner, word: str, folder: Path) -> list[str]:
    """Write the LoRAs and the word's vectors, as far as there are any; returns the names of the files."""
    names = []
    for name, tensors in files_of(tuner).items():
        write_tensors(folder / name, tensors, {"format": "pt"})
        names.append(name)
    found = tuner.text.vectors() if isinstance(tuner.text, TunedText) else {}
    vectors = {part: value[0] if len(value) == 1 else value for part, value in found.items()}
    if not vectors:
        return names
    if len(vectors) == 1:
        name, entries = EMBEDDING_FILE, {word: next(iter(vectors.values()))}
    else:
        name = f"{word}.safetensors"
        entries = dict(zip(("clip_l", "clip_g"), vectors.values(), strict=True))
    write_tensors(folder / name, {key: value.float().cpu().contiguous() for key, value in entries.items()}, {"format": "pt"})
    return [*names, name]


def save_whole(tuner: Tuner, parts: FolderParts, word: str, class_name: str, folder: Path) -> list[str]:
    """Write a diffusers folder with the tuned networks; the other parts are copies. Returns the names in it."""
    changed = {"unet": tuner.network.base.unet}
    if isinstance(tuner.text, TunedText):
        changed |= {part: encoder for part, encoder in tuner.text.encoders.items() if isinstance(encoder, TunedEncoder)}
    names = []
    for source in sorted(parts.folder.iterdir()):
        if source.is_dir() and source.name not in changed and not source.name.startswith("."):
            shutil.copytree(source, folder / source.name, dirs_exist_ok=True)
            names.append(source.name)
    for part, network in changed.items():
        if isinstance(network, TunedEncoder):
            _save_encoder(network, parts, part, word, folder)
        else:
            save_network(network, folder / part)
        names.append(part)
    _save_schedule(parts, folder)
    if (parts.folder / NOUNS).is_file():
        nouns = read_json(parts.folder / NOUNS)
        nouns["nouns"] = list(dict.fromkeys([*nouns.get("nouns", []), class_name.lower()]))
        atomic_write_text(folder / NOUNS, json.dumps(nouns, indent=1) + "\n")
    atomic_write_text(folder / "model_index.json", json.dumps(parts.config(""), indent=2) + "\n")  # last: makes it a prior
    return sorted(names)


def save_network(network: Any, folder: Path) -> None:
    """Write a network of diffusers or transformers in float32, with the names that both read."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    if hasattr(network, "register_to_config"):
        network.register_to_config(_name_or_path="")  # diffusers would save the path that it was read from
    with no_bars():
        network.save_pretrained(folder, safe_serialization=True)


def _save_encoder(encoder: TunedEncoder, parts: FolderParts, part: str, word: str, folder: Path) -> None:
    """Write a text encoder and, where it has learnt a vector for the word, its tokenizer with the word."""
    from transformers import AddedToken

    network, name = encoder.holder[0], f"tokenizer{part.removeprefix('text_encoder')}"
    if encoder.vector is not None:
        tokenizer = parts.tokenizer(name)
        tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=is_closed(tokenizer))])
        row = tokenizer.convert_tokens_to_ids(word)
        with torch.no_grad():
            network.get_input_embeddings().weight[row] = encoder.vector[0]
        # Without the row that the tuning added for a word that was learnt before.
        rows = max(parts.config(part)["vocab_size"], row + 1)
        if rows < len(network.get_input_embeddings().weight):
            network.resize_token_embeddings(rows)
        # Older CLIP configs locate the end of the text at the largest token id, which is now the new word's.
        network.config.eos_token_id = tokenizer.eos_token_id
        tokenizer.save_pretrained(folder / name)
    save_network(network, folder / part)


def _save_schedule(parts: FolderParts, folder: Path) -> None:
    """The scheduler's settings; a learned variance was not trained and is replaced by the fixed one, as diffusers advises."""
    config = parts.schedule_config()
    if str(config.get("variance_type", "")).startswith("learned"):
        config["variance_type"] = "fixed_small"
        file = folder / "scheduler" / "scheduler_config.json"
        atomic_write_text(file, json.dumps(config, indent=2) + "\n")


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a ``.safetensors`` file completely or not at all, without a second copy of its tensors in memory."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        temporary.touch()
        usual = temporary.stat().st_mode  # safetensors makes its files private
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)
        temporary.chmod(usual)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())


def save_state(tuner: Tuner, folder: Path) -> None:
    """Write the state into a tuning's ``folder``. Raises OSError."""
    (folder / STATE).parent.mkdir(exist_ok=True)
    write_tensors(folder / STATE, tuner.state_dict(), {})


def load_state(tuner: Tuner, folder: Path) -> int:
    """Restore the state in ``folder``, if there is one; returns the number of finished steps.

    Raises:
        ValueError: the file is damaged, or belongs to another tuning; one line with the fix.
    """
    file = folder / STATE
    if file.is_file():
        tensors, _ = read_tensors(file)
        try:
            tuner.load_state_dict(tensors)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{file} does not fit this tuning ({error}): remove it to begin again, or give another --out"
            ) from error
    return tuner.index
