"""The parts of a pretrained model, from a diffusers folder or from a pipeline in memory.

A part is a network, a tokenizer or a scheduler, by its name in a diffusers folder (``unet``, ``text_encoder_2``). Priors
access parts by these names only, so that every prior works with both sources.
"""

from __future__ import annotations

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dreamlift.priors.files.folder import read_json, read_weights
from dreamlift.priors.files.networks import load_network
from dreamlift.priors.files.nouns import guided_of, maps_of, near_of
from dreamlift.priors.files.tensors import PriorFilesError

T5 = "T5EncoderModel"
MAX_TIMESTEPS = 100_000  # of a scheduler's training; published models have 1,000


class Parts(ABC):
    """The parts of one model."""

    shared = False  # True: the networks are also used elsewhere, so they are copied before they are changed
    title = ""  # what messages call the model

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
            ValueError: the folder has no safetensors weights, or they are damaged, incomplete or of another network.
        """

    @abstractmethod
    def tensors(self, part: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The weights of a part by name, for a part whose class is not stock. Raises ValueError as :meth:`network`."""

    @abstractmethod
    def schedule_config(self) -> dict[str, Any]:
        """The settings of the noise schedule."""

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

    @property
    def maps(self) -> dict[str, str] | None:
        """What the model draws instead of colours, with the words that ask for it; empty: colours; None: not known."""
        return None

    @property
    def near(self) -> dict[str, str]:
        """What the model has in place of nouns that it does not know."""
        return {}

    @property
    def guided(self) -> float:
        """The guidance scale that was distilled into the weights; 1 for none."""
        return 1.0

    def is_t5(self, part: str) -> bool:
        """Whether a part exists and is a T5."""
        return self.has(part) and self.architecture(part) == T5


class FolderParts(Parts):
    """The parts in a diffusers ``folder``. ``title``: what messages call the model; "": the folder's name."""

    def __init__(self, folder: Path, title: str = "") -> None:
        self.folder = Path(folder)
        self.title = title or self.folder.name

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def maps(self) -> dict[str, str]:
        return maps_of(self.folder)

    @property
    def near(self) -> dict[str, str]:
        return near_of(self.folder)

    @property
    def guided(self) -> float:
        return guided_of(self.folder)

    def has(self, part: str) -> bool:
        return (self.folder / part).is_dir()

    def config(self, part: str) -> dict[str, Any]:
        return read_json(self.folder / part / ("config.json" if part else "model_index.json"))

    def architecture(self, part: str) -> str:
        found = self.config(part)
        names = found.get("architectures") or [found.get("_class_name", "?")]
        return str(names[0]) if isinstance(names, list) else "?"

    def network(self, part: str, kind: Any, dtype: torch.dtype) -> Any:
        return load_network(self.folder / part, kind, dtype)

    def tensors(self, part: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return {name: value.to(dtype) for name, value in read_weights(self.folder / part, dtype).items()}

    def schedule_config(self) -> dict[str, Any]:
        return read_json(self._schedule)

    def tokenizer(self, part: str) -> Any:
        from transformers import AutoTokenizer

        folder = self.folder / part
        for name in ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "vocab.json"):
            if (folder / name).is_file():
                read_json(folder / name)  # names a file that is damaged
        if (folder / "spiece.model").is_file():  # T5's; transformers would try other formats and name their packages
            with named(f"{folder / 'spiece.model'} is not a SentencePiece model"):
                from sentencepiece import SentencePieceProcessor

                SentencePieceProcessor(model_file=str(folder / "spiece.model"))
        with named(f"the tokenizer in {folder} cannot be read"):
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def scheduler(self) -> Any:
        from diffusers import DDPMScheduler

        config = read_json(self._schedule)
        with named(f"{self._schedule} does not describe a noise schedule"):
            return DDPMScheduler.from_config(config)

    def noise_schedule(self) -> tuple[torch.Tensor, str]:
        # Usual schedules are computed without importing diffusers, which takes a second.
        config = read_json(self._schedule)
        with named(f"{self._schedule} does not describe a noise schedule"):
            found = usual_schedule(config)
        alphas, kind = super().noise_schedule() if found is None else (found, config.get("prediction_type", "epsilon"))
        if not bool((alphas >= 0).all()) or not bool((alphas <= 1).all()):  # false for NaN
            raise ValueError(f"{self._schedule} describes a noise schedule outside [0, 1]: fetch it again")
        return alphas, kind

    @property
    def _schedule(self) -> Path:
        return self.folder / "scheduler" / "scheduler_config.json"


@contextmanager
def named(problem: str, kinds: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Turn errors of a library, which raises all kinds for damaged files, into a PriorFilesError beginning with ``problem``."""
    try:
        yield
    except kinds as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise PriorFilesError(f"{problem} ({reason}): fetch the folder again") from error


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
        self.title = f"<{type(pipeline).__name__} in memory>"

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

    def tensors(self, part: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return {name: value.detach().to(dtype) for name, value in self._part(part).state_dict().items()}

    def schedule_config(self) -> dict[str, Any]:
        return dict(self.pipeline.scheduler.config)

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
    if not 2 <= steps <= MAX_TIMESTEPS:
        raise ValueError(f"num_train_timesteps is {steps}; accepted: 2 to {MAX_TIMESTEPS:,}")
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
