"""The user's LoRA and textual-inversion files: paths, hashes, reading. Only .safetensors files are opened."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import replace
from pathlib import Path

from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.files.tensors import check_suffix, open_tensors
from dreamlift.system.files import expanded, user_file
from dreamlift.system.text import one_line
from dreamlift.types import LoraFile

LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name, which its own loader looks for in a folder
T5_LORA_FILE = "text_encoder_lora.safetensors"  # beside it: that of a T5 encoder, which diffusers' loader does not know
EMBEDDING_FILE = "learned_embeds.safetensors"  # that of its textual inversions of one text encoder
NUMERIC = re.compile(r"[-+.]?\d|[-+]?(inf|nan)\b|$", re.IGNORECASE)  # the beginning of what is meant as a number, or nothing
PAIR = {"clip_l", "clip_g"}  # the entries of one of two encoders


def parse_lora(text: str) -> LoraFile:
    """The value ``FILE`` or ``FILE@SCALE`` of the command line; a folder in place of a file is taken whole.

    Raises:
        ValueError: the text after the @ is not a finite number, and no file has the @ in its name.
    """
    path, _, scale = text.rpartition("@")
    try:
        number = float(scale)
    except ValueError:
        number = math.nan
    if path and math.isfinite(number):
        return LoraFile(path, number)
    meant = path.endswith(".safetensors") or NUMERIC.match(scale) or (path and expanded(path).exists())
    if not path or not meant or scale.endswith(".safetensors") or expanded(text).exists():
        return LoraFile(text)
    raise ValueError(
        f"--lora {one_line(text, 80)}: the weight {one_line(repr(scale), 40)} is not a number; accepted: FOLDER (or FILE), or "
        f"FOLDER@WEIGHT, such as {one_line(path, 60)}@0.8"
    )


def with_whole_paths(choice: PriorChoice) -> PriorChoice:
    """The choice with absolute paths of its LoRAs and embeddings: a run may be resumed from another folder.

    A folder in place of a LoRA's file, such as DreamBooth leaves it, stands for its LoRA and its embeddings; one of a textual
    inversion has no LoRA.

    Raises:
        ValueError: a file is missing, unreadable, or not a .safetensors file; a folder has neither; a scale without a LoRA.
    """
    folders = [opened_folder(lora.path) for lora in choice.loras]
    for lora, inside in zip(choice.loras, folders, strict=True):
        if inside is not None and not inside[0] and lora.scale != 1.0:
            raise ValueError(
                f"the folder {lora.path!r} holds a learnt word and no LoRA, and a scale has no effect on a word: leave "
                f"@{lora.scale:g} out"
            )
    files = [replace(lora, path=path) for lora, found in zip(choice.loras, folders, strict=True)
             for path in ([lora.path] if found is None else found[0])]  # fmt: skip
    loras = tuple(replace(lora, path=str(_checked(lora.path, "LoRA"))) for lora in files)
    named = [str(_checked(path, "embedding")) for path in choice.embeddings]
    inside = [path for found in folders if found is not None for path in found[1]]
    found = replace(choice, loras=loras, embeddings=tuple(dict.fromkeys([*named, *inside])) if inside else tuple(named))
    for path in (*(lora.path for lora in found.loras), *found.embeddings):
        with open_tensors(path):
            pass  # an unreadable file is refused here, before anything is loaded
    return found


def opened_folder(path: str) -> tuple[list[str], list[str]] | None:
    """The absolute paths of a folder's LoRA, if it has one (and of T5's), and of its embeddings: the other .safetensors files.

    Returns:
        None if ``path`` is no folder.

    Raises:
        ValueError: the folder has neither a LoRA nor a textual inversion.
    """
    folder = expanded(path)
    if not folder.is_dir():
        return None
    folder = folder.resolve()
    files = sorted(folder.glob("*.safetensors"))
    loras = [file for file in files if file.name in (LORA_FILE, T5_LORA_FILE)]
    others = [file for file in files if file not in loras]
    if (folder / LORA_FILE).is_file():
        return list(map(str, loras)), list(map(str, others))
    if (folder / "model_index.json").is_file():
        raise ValueError(f"the folder {path!r} is a whole prior, not a LoRA: give it to --prior")
    if found := [str(file) for file in others if file.name == EMBEDDING_FILE or _is_pair(file)]:
        return [], found
    raise ValueError(
        f"the folder {path!r} holds no LoRA ({LORA_FILE}) and no {EMBEDDING_FILE}: give a folder of `dreamlift dreambooth` or "
        "`dreamlift invert`, or a file"
    )


def _is_pair(file: Path) -> bool:
    with open_tensors(str(file)) as stored:
        return set(stored.keys()) == PAIR


def fingerprint(choice: PriorChoice) -> str:
    """An identifier of the contents and scales of a choice's LoRAs and embeddings; empty if it has none."""
    parts = [f"{file_hash(Path(lora.path))[:16]}@{lora.scale:g}" for lora in choice.loras]
    return "".join(f"+{part}" for part in [*parts, *(file_hash(Path(path))[:16] for path in choice.embeddings)])


def file_hash(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file of any size."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _checked(path: str, what: str) -> Path:
    file = user_file(path, what, "give the path of a .safetensors file, or the folder of a dreamlift dreambooth or invert")
    check_suffix(path)
    return file.resolve()
