"""The parts of a pretrained model, from a diffusers folder or from a pipeline in memory.

A part is a network, a tokenizer or a scheduler, by its name in a diffusers folder (``unet``, ``text_encoder_2``). Priors
access parts by these names only, so that every prior works with both sources.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch

T5 = "T5EncoderModel"


class Parts(ABC):
    """The parts of one model."""

    shared = False  # True: the networks are also used elsewhere, so they are copied before they are changed

    @abstractmethod
    def has(self, part: str) -> bool:
        """Whether the model has this part."""

    @abstractmethod
    def config(self, part: str) -> dict[str, Any]:
        """The config of a network (its ``config.json``); for the part ``""``, that of the model (``model_index.json``)."""

    @abstractmethod
    def architecture(self, part: str) -> str:
        """The class name of a part; "?" if it is not stated."""

    @abstractmethod
    def network(self, part: str, kind: Any, dtype: torch.dtype) -> Any:
        """A network of the class ``kind`` in ``dtype``, on the CPU or, if it is in memory already, on its current device.

        Raises:
            ValueError: the folder has no safetensors weights.
        """

    @abstractmethod
    def tokenizer(self, part: str) -> Any:
        """A tokenizer that is not shared: tokens may be added to it."""

    @abstractmethod
    def scheduler(self) -> Any:
        """The noise schedule as a ``DDPMScheduler``."""

    def noise_schedule(self) -> tuple[torch.Tensor, str]:
        """The cumulated products of alpha ``(T,)`` at all training timesteps, and the kind of the network's prediction."""
        scheduler = self.scheduler()
        return scheduler.alphas_cumprod, scheduler.config.prediction_type

    def text_encoders(self) -> list[str]:
        """The names of the model's text encoders, in order."""
        return [part for part in ("text_encoder", "text_encoder_2", "text_encoder_3") if self.has(part)]

    def is_t5(self, part: str) -> bool:
        """Whether a part exists and is a T5."""
        return self.has(part) and self.architecture(part) == T5


class FolderParts(Parts):
    """The parts in a diffusers ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def __str__(self) -> str:
        return str(self.folder)

    def has(self, part: str) -> bool:
        return (self.folder / part).is_dir()

    def config(self, part: str) -> dict[str, Any]:
        return json.loads((self.folder / part / ("config.json" if part else "model_index.json")).read_text())

    def architecture(self, part: str) -> str:
        found = self.config(part)
        return (found.get("architectures") or [found.get("_class_name", "?")])[0]

    def network(self, part: str, kind: Any, dtype: torch.dtype) -> Any:
        half = ".fp16." in weight_files(self.folder / part, dtype)[0].name
        return kind.from_pretrained(
            self.folder / part, torch_dtype=dtype, variant="fp16" if half else None, use_safetensors=True,
            low_cpu_mem_usage=False,
        )  # fmt: skip

    def tokenizer(self, part: str) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder / part, trust_remote_code=False)

    def scheduler(self) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_pretrained(self.folder, subfolder="scheduler")

    def noise_schedule(self) -> tuple[torch.Tensor, str]:
        # Usual schedules are computed without importing diffusers, which takes a second.
        file = self.folder / "scheduler" / "scheduler_config.json"
        config = json.loads(file.read_text()) if file.is_file() else {}
        found = usual_schedule(config)
        return super().noise_schedule() if found is None else (found, config.get("prediction_type", "epsilon"))


class LoadedParts(Parts):
    """The parts of a diffusers ``pipeline`` in memory. Its networks are shared, and copied only to change their precision.

    Raises:
        ValueError: the object is not a pipeline.
    """

    shared = True

    def __init__(self, pipeline: Any) -> None:
        if not isinstance(getattr(pipeline, "components", None), dict):
            raise ValueError(
                f"a {type(pipeline).__name__} is not a prior: give a diffusers pipeline, a Prior, a name or a folder"
            )
        self.pipeline = pipeline

    def __str__(self) -> str:
        return f"the {type(self.pipeline).__name__} in memory"

    def _part(self, part: str) -> Any:
        return self.pipeline.components.get(part)

    def has(self, part: str) -> bool:
        return self._part(part) is not None

    def config(self, part: str) -> dict[str, Any]:
        found = self.pipeline.config if part == "" else self._part(part).config
        return dict(found.to_dict() if hasattr(found, "to_dict") else found)

    def architecture(self, part: str) -> str:
        return type(self._part(part)).__name__

    def network(self, part: str, kind: Any, dtype: torch.dtype) -> Any:
        found = self._part(part)
        return found if found.dtype == dtype else copy.deepcopy(found).to(dtype)

    def tokenizer(self, part: str) -> Any:
        return copy.deepcopy(self._part(part))

    def scheduler(self) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.pipeline.scheduler.config)


def usual_schedule(config: dict[str, Any]) -> torch.Tensor | None:
    """The cumulated products of alpha ``(T,)`` of a scheduler's config, as diffusers computes them; None for an unusual one.

    Linear betas as in DDPM (Ho et al. 2020), "scaled" ones as in Stable Diffusion, or the cosine of Nichol and Dhariwal (2021);
    on request with zero signal at the last timestep (Lin et al. 2024, https://arxiv.org/abs/2305.08891, algorithm 1).
    """
    if config.get("trained_betas") is not None:
        return None
    kind, steps = config.get("beta_schedule"), config.get("num_train_timesteps")
    if not isinstance(steps, int) or "beta_start" not in config or "beta_end" not in config:
        return None
    first, last = config["beta_start"], config["beta_end"]
    if kind == "linear":
        betas = torch.linspace(first, last, steps, dtype=torch.float32)
    elif kind == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float32) ** 2
    elif kind == "squaredcos_cap_v2":
        bars = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        betas = torch.tensor(
            [min(1 - after / before, 0.999) for before, after in itertools.pairwise(bars)], dtype=torch.float32
        )
    else:
        return None
    alphas = 1.0 - betas
    if config.get("rescale_betas_zero_snr"):
        root = alphas.cumprod(0).sqrt()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        bars = root**2
        alphas = 1.0 - (1 - torch.cat([bars[:1], bars[1:] / bars[:-1]]))  # by way of the betas, as diffusers rounds it
    return alphas.cumprod(0)


def standard_files(folder: Path, dtype: torch.dtype) -> list[Path]:
    """The weight files with the names that diffusers and transformers read; others, such as EMA weights, may lie beside them.

    [] if there are none. Half-precision ones come first for float16, and last otherwise.
    """
    variants = (".fp16", "") if dtype == torch.float16 else ("", ".fp16")
    for variant, stem in itertools.product(variants, ("diffusion_pytorch_model", "model")):
        index, whole = folder / f"{stem}.safetensors.index{variant}.json", folder / f"{stem}{variant}.safetensors"
        if index.is_file():
            return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        if whole.is_file():
            return [whole]
    return []


def weight_files(folder: Path, dtype: torch.dtype) -> list[Path]:
    """The safetensors files of one network: the half-precision ones (``.fp16.``) for float16 or if there are no others.

    Raises:
        ValueError: the folder has no safetensors weights (pickled ones are never opened).
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"no .safetensors weights in {folder}: convert the model with safetensors (pickled weights are never opened)"
        )
    if named := standard_files(folder, dtype):
        return named
    half = [file for file in files if ".fp16." in file.name]
    full = [file for file in files if file not in half]
    return half if not full or (dtype == torch.float16 and half) else full
