"""One-file checkpoints (``model.safetensors``) of Stable Diffusion 1.x, 2.x, XL, 3 and FLUX.1 as diffusers folders.

Such a file contains weights under the original code's names, but neither configs nor tokenizers. These come from a diffusers
folder of the same family: one that the user names, or the known prior's, of which only the small files are downloaded.
diffusers' loader converts the file once; the result is stored in dreamlift's cache under the file's hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamlift.priors.files.folder import read_json
from dreamlift.priors.files.tensors import open_tensors
from dreamlift.priors.loading.cleaned import cleaned
from dreamlift.priors.lora.additions import file_hash
from dreamlift.system.files import cache_folder, sync_folder

# A tensor that identifies each family -> its pipeline, and the known prior with the same configs.
FAMILIES = {
    "conditioner.embedders.1.model.ln_final.weight": ("StableDiffusionXLPipeline", "sdxl"),
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": ("StableDiffusion3Pipeline", "sd3-medium"),
    "joint_blocks.0.x_block.attn.qkv.weight": ("StableDiffusion3Pipeline", "sd3-medium"),
    "model.diffusion_model.guidance_in.in_layer.weight": ("FluxPipeline", "flux-dev"),
    "guidance_in.in_layer.weight": ("FluxPipeline", "flux-dev"),
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": ("FluxPipeline", "flux-schnell"),
    "double_blocks.0.img_attn.qkv.weight": ("FluxPipeline", "flux-schnell"),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": ("StableDiffusionPipeline", "sd-1.5"),
}
KNOWN_TO_US = "Stable Diffusion 1.x, 2.x, XL, 3 or FLUX.1"
SECOND = "cond_stage_model.model.ln_final.weight"  # Stable Diffusion 2.x: its text encoder is OpenCLIP's
# Parts that a file may lack, and the prefixes of their weights' names; T5 is the last encoder of its pipeline.
PARTS = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}


def convert(file: Path, settings: str, find: Callable[[str, bool], Path]) -> Path:
    """The diffusers folder of a checkpoint, converted if it is not in the cache yet.

    Args:
        settings: the folder or name of a prior of the same family; empty: the known one.
        find: returns the folder of a prior, with its weights (True) or only its configs (False).

    Raises:
        ValueError: the file is not of a known family, or neither it nor the other prior has a part; one line with the fix.
    """
    pipeline, known, lacks, dtype = inspect_file(file)
    if not known and not settings:
        raise ValueError(
            f"{file} may predict noise or velocity, and its weights do not state which: name a diffusers folder, hub or known "
            "name with its settings (--prior-config sd-2.1-base for Stable Diffusion 2.x at 512 pixels)"
        )
    base = find(settings or known, bool(lacks))
    _check(file, base, pipeline, lacks)
    digest = hashlib.sha256(file_hash(file).encode())
    for path in sorted(path for path in base.rglob("*") if path.suffix in (".json", ".txt", ".model")):
        digest.update(path.relative_to(base).as_posix().encode() + path.read_bytes())
    folder = cache_folder("converted") / digest.hexdigest()[:32]
    if folder.is_dir():
        return folder
    warnings.warn(f"{file.name} is converted once, into {folder}", stacklevel=1)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent) as work:
            made = Path(work) / "model"
            _write(file, cleaned(file, Path(work)), base, pipeline, lacks, dtype, made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process has written it
                    raise
        sync_folder(folder.parent)
    except OSError as error:
        raise ValueError(f"cannot write the converted checkpoint to {folder.parent} ({error}): set XDG_CACHE_HOME") from error
    return folder


def inspect_file(file: Path) -> tuple[str, str, list[str], str]:
    """(pipeline, known prior or empty, parts that the file lacks, data type), read from the file's header.

    Raises:
        ValueError: not a .safetensors file, or not of a known family.
    """
    with open_tensors(file) as content:
        keys = set(content.keys())
        mark = next((key for key in FAMILIES if key in keys), None)
        if mark is None:
            raise ValueError(f"{file} is not a known checkpoint of {KNOWN_TO_US} (give a LoRA with --lora)")
        kind = content.get_slice(mark).get_dtype()
        if kind.startswith("F8") and any(content.get_slice(key).get_dtype() == "F16" for key in keys):
            kind = "F16"  # the precision of what is not in 8 bits
        first = "model.diffusion_model.input_blocks.0.0.weight"
        shape = content.get_slice(first).get_shape() if first in keys else []
        channels = shape[1] if len(shape) == 4 else 4
    if channels != 4:
        raise ValueError(f"{file} has {channels} input channels: it is an inpainting or editing model, not a text-to-image one")
    pipeline, known = FAMILIES[mark]
    parts = dict(PARTS)
    if pipeline == "FluxPipeline":
        parts["text_encoder_2"] = parts.pop("text_encoder_3")
    elif pipeline == "StableDiffusionXLPipeline":
        del parts["text_encoder_3"]
    elif pipeline == "StableDiffusionPipeline":
        parts = {name: parts[name] for name in ("vae", "text_encoder")}
    lacks = [name for name, starts in parts.items() if not any(key.startswith(starts) for key in keys)]
    undecided = SECOND in keys or "v_pred" in keys
    return pipeline, "" if undecided else known, lacks, {"F16": "float16", "F32": "float32"}.get(kind, "bfloat16")


def _check(file: Path, base: Path, pipeline: str, lacks: list[str]) -> None:
    """Raises ValueError if ``base`` has another pipeline or also lacks the file's missing parts, or if a package is missing."""
    from diffusers.utils import is_accelerate_available

    if not is_accelerate_available():  # without it diffusers silently leaves weights that are not in the file random
        raise ValueError("a one-file checkpoint needs the package accelerate: pip install accelerate")
    found = read_json(base / "model_index.json").get("_class_name")
    if found != pipeline:
        raise ValueError(
            f"{file} is a {pipeline}, but the settings in {base} are of a {found}: name others with --prior-config"
        )
    absent = [name for name in lacks if name != "text_encoder_3" and not _has_weights(base / name)]  # T5 is optional in SD 3
    if absent:
        raise ValueError(
            f"{file} lacks {', '.join(absent)}, and so does {base}: name a diffusers folder that has them with --prior-config"
        )


def _write(file: Path, clean: Path, base: Path, pipeline: str, lacks: list[str], dtype: str, made: Path) -> None:
    """Convert ``file`` with the configs of ``base`` into the new folder ``made``; parts that it lacks come from ``base``.

    Args:
        clean: the file as diffusers' loader reads it.
    """
    import torch

    try:
        whole = _load(clean, base, pipeline, lacks, getattr(torch, dtype))
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, IndexError) as error:
        missing = _missing(clean, base, lacks) if "meta tensor" in str(error) else None
        if missing is not None:
            raise ValueError(f"{file}: its {missing[0]} lacks {missing[1]}: fetch it again") from None
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ValueError(f"{file} cannot be converted with the settings in {base}: {reason}") from error
    for name, part in whole.components.items():
        if isinstance(part, torch.nn.Module) and (weight := _first_missing(part)) is not None:
            raise ValueError(f"{file}: its {name} lacks {weight}: fetch it again")
    whole.save_pretrained(made, safe_serialization=True)
    index, written = (read_json(folder / "model_index.json") for folder in (base, made))
    for name in lacks:
        if _has_weights(base / name):
            shutil.copytree(base / name, made / name, copy_function=_link)
            written[name] = index[name]
    (made / "model_index.json").write_text(json.dumps(written, indent=2))


def _missing(clean: Path, base: Path, lacks: list[str]) -> tuple[str, str] | None:
    """The first network and weight that the file lacks. The loader leaves the weight without memory and then fails to move the
    network, without naming it; a network that stays where it is can be looked at."""
    import diffusers

    for name, value in read_json(base / "model_index.json").items():
        if name not in ("unet", "transformer", "vae") or name in lacks:
            continue
        kind = getattr(diffusers, value[1])
        still: Any = type(kind.__name__, (kind,), {"to": lambda network, *_, **__: network})
        try:
            network = still.from_single_file(str(clean), config=str(base), subfolder=name, local_files_only=True)
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, IndexError):
            continue
        if (weight := _first_missing(network)) is not None:
            return name, weight
    return None


def _first_missing(network: Any) -> str | None:
    return next((name for name, value in network.named_parameters() if value.is_meta), None)


def _load(clean: Path, base: Path, pipeline: str, lacks: list[str], dtype: Any) -> Any:
    """The stock pipeline, without the parts that the file lacks and without those that no prior uses."""
    import diffusers
    from diffusers.utils import logging

    kind: Any = getattr(diffusers, pipeline)
    index = read_json(base / "model_index.json")
    empty = [name for name, value in index.items() if value == [None, None]]
    needless = ["safety_checker", "feature_extractor", "image_encoder"]
    left_out = {*lacks, *empty, *needless} & set(kind._get_signature_keys(kind)[0])
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return kind.from_single_file(
            str(clean), config=str(base), local_files_only=True, torch_dtype=dtype, **dict.fromkeys(left_out)
        )
    finally:
        logging.set_verbosity(verbosity)


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _link(source: str, target: str) -> None:
    """A hard link, or a copy if the file system does not support links: a T5 has 10 GB."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
