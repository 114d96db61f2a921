"""The files of one part of a diffusers folder: its settings, and its weights in one file or in several, in either precision.

Names as diffusers and transformers write them: ``model.safetensors``, ``model.fp16.safetensors``, and for weights in several
files ``model.safetensors.index.json`` or ``model.safetensors.index.fp16.json``, which list ``model-00001-of-00002.safetensors``
or ``model.fp16-00001-of-00002.safetensors``. diffusers' networks begin with ``diffusion_pytorch_model`` instead of ``model``.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlift.priors.files.tensors import PriorFilesError, check_finite, other_kind, read_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STEMS = ("diffusion_pytorch_model", "model")
HALF = re.compile(r"\.fp16(_ema)?[.-]")  # in the name of a file in half precision
AVERAGED = ".fp16_ema"  # the averaged weights of a model that also has its last ones: those that its authors sample with
# Zero-1-to-3's family, whose parts are others than those of priors with words: its pipelines, and the folders of its pose layer
VIEW_PIPELINES = ("Zero123Pipeline", "Zero1to3StableDiffusionPipeline")
POSE_LAYERS = ("cc_projection", "clip_camera_projection")
MAX_SETTINGS = 20_000_000  # bytes of a settings file
NO_WEIGHTS = "convert the model with safetensors (pickled weights are never opened; docs/priors.md, Pickled files)"


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: it is missing, unreadable, larger than :data:`MAX_SETTINGS`, or not a JSON object; one line.
    """
    try:
        with open(file, "rb") as opened:
            data = opened.read(MAX_SETTINGS + 1)
    except OSError as error:
        raise PriorFilesError(f"{file} cannot be read ({error.strerror or error}): fetch the folder again") from None
    if len(data) > MAX_SETTINGS:
        raise PriorFilesError(f"{file} has more than {MAX_SETTINGS:,} bytes: it is not a settings file")
    if told := other_kind(data):
        raise PriorFilesError(f"{file} {told}")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PriorFilesError(f"{file} is not valid JSON ({' '.join(str(error).split())[:80]}): fetch it again") from None
    if not isinstance(found, dict):
        raise PriorFilesError(f"{file} holds {type(found).__name__} instead of a JSON object: fetch it again")
    return found


def standard_files(folder: Path, dtype: torch.dtype) -> list[Path]:
    """The weight files with the names that diffusers and transformers read; others, such as EMA weights, may lie beside them.

    [] if there are none. Averaged ones come first; half-precision ones before others for float16, and last otherwise.

    Raises:
        ValueError: an index that lists files that are not there, or that is not an index; no other set is complete.
    """
    import torch

    faults: list[str] = []
    variants = (AVERAGED, ".fp16", "") if dtype == torch.float16 else (AVERAGED, "", ".fp16")
    for variant, stem in itertools.product(variants, STEMS):
        index, whole = folder / f"{stem}.safetensors.index{variant}.json", folder / f"{stem}{variant}.safetensors"
        if index.is_file():
            names = listed(index)
            missing = [name for name in names if not (folder / name).is_file()]
            if not missing:
                return [folder / name for name in names]
            faults.append(f"{folder} lacks {missing[0]}, which {index.name} lists: fetch it again")
        if whole.is_file():
            return [whole]
    if faults:
        raise PriorFilesError(faults[0])
    return []


def listed(index: Path) -> list[str]:
    """The names of the files that an index lists, in order.

    Raises:
        ValueError: it lists none, or one outside its folder.
    """
    places = read_json(index).get("weight_map")
    names = sorted(set(places.values())) if isinstance(places, dict) and all(map(_is_name, places.values())) else []
    if not names:
        raise PriorFilesError(f"{index} lists no weight files of its folder: fetch it again")
    return names


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.endswith(".safetensors") and not re.search(r"[/\\\0]", value)


def weight_files(folder: Path, dtype: torch.dtype) -> list[Path]:
    """The safetensors files of one network: the half-precision ones for float16 or if there are no others.

    Raises:
        ValueError: the folder has no safetensors weights (pickled ones are never opened), or files of theirs are missing.
    """
    import torch

    if named := standard_files(folder, dtype):
        return named
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise PriorFilesError(f"no .safetensors weights in {folder}: {NO_WEIGHTS}")
    half = [file for file in files if HALF.search(file.name)]
    full = [file for file in files if file not in half]
    return half if not full or (dtype == torch.float16 and half) else full


def chosen(names: Iterable[str]) -> list[str]:
    """Of the names of a folder's weight files, those to fetch: one set, averaged or half-precision ones if there are any."""
    found = [name for name in names if name.endswith(".safetensors") and "non_ema" not in name]
    named = [name for name in found if name.startswith(STEMS)]
    half = [name for name in named if HALF.search(name)]
    return [name for name in half if AVERAGED in name] or half or named or found


def read_weights(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights of a network's folder by name, in the precision in which they are stored.

    Raises:
        ValueError: there are none, a file is missing or damaged, or a weight is NaN or infinite; one line names the file.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(folder, dtype):
        tensors, _ = read_tensors(file)
        check_finite(file, tensors)
        found |= tensors
    return found


def draws_views(index: dict[str, Any]) -> bool:
    """Whether a ``model_index.json`` is that of a model of Zero-1-to-3's family, conditioned on a picture instead of words."""
    return index.get("_class_name") in VIEW_PIPELINES or any(name in index for name in POSE_LAYERS)


def checked(folder: Path) -> Path:
    """The diffusers ``folder``, if it has the parts of a prior. Raises ValueError."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise PriorFilesError(
            f"{folder} is not a diffusers folder: it has no model_index.json (DiffusionPipeline.save_pretrained writes one)"
        )
    parts = read_json(index)
    network = "transformer" if "transformer" in parts else "unet"
    words = ["image_encoder"] if draws_views(parts) else ["tokenizer", "text_encoder"]
    needed = [network, "scheduler", *words]
    missing = [name for name in needed if name not in parts or not (folder / name).is_dir()]
    if missing:
        raise PriorFilesError(f"{folder} lacks {', '.join(missing)}; a prior needs {', '.join(needed)}")
    return folder
