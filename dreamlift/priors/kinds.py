"""The kinds of priors; from a :class:`PriorChoice` to a located prior, and to one in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dreamlift.priors.base import Prior
from dreamlift.priors.choice import NO_OPTIONS, PriorChoice, as_choice
from dreamlift.priors.engine import Engine, UsedEngine
from dreamlift.priors.files.nouns import check_nouns
from dreamlift.priors.files.tensors import PriorFilesError
from dreamlift.priors.flow import FlowPrior
from dreamlift.priors.latent import LatentPrior
from dreamlift.priors.loading.sources import locate, revision_of, whole_name
from dreamlift.priors.lora.additions import fingerprint, with_whole_paths
from dreamlift.priors.mvdream import MVDreamPrior
from dreamlift.priors.parts import FolderParts, LoadedParts, Parts
from dreamlift.priors.pixel import PixelPrior
from dreamlift.priors.saving import Memory
from dreamlift.priors.zero123.prior import Zero123Prior
from dreamlift.prompts import Backdrop, Embeds, Wording
from dreamlift.types import Task

PRIORS: dict[str, type[Prior]] = {
    "mvdream": MVDreamPrior, "zero123": Zero123Prior, "flow": FlowPrior, "latent": LatentPrior, "pixel": PixelPrior,
}  # fmt: skip
"""All kinds by name, in order of registration; see :func:`kind_of` for the order in which they are tried."""
BUILT_IN = tuple(PRIORS)


@dataclass(frozen=True)
class Located:
    """A prior that has been located but not loaded."""

    choice: PriorChoice  # with absolute paths
    kind: type[Prior]
    parts: Parts | None  # None: an instance of Prior in memory
    revision: str  # identifies the weights, including those of LoRAs and embeddings

    @property
    def views(self) -> int:
        """Number of views of one object that the prior denoises jointly."""
        return self.kind.views if self.parts is not None else self.choice.loaded.views

    @property
    def adapts(self) -> bool:
        """Whether a LoRA of the prior can be trained."""
        return self.kind.adapts if self.parts is not None else self.choice.loaded.adapts

    @property
    def reads_pictures(self) -> bool:
        """Whether the prior is conditioned on a picture of the object."""
        return self.kind.reads_pictures if self.parts is not None else self.choice.loaded.reads_pictures

    @property
    def title(self) -> str:
        """What messages call the prior."""
        return self.choice.name if self.parts is None else self.parts.title

    @property
    def is_changed(self) -> bool:
        """Whether the user's LoRAs or embeddings are added to the prior."""
        return bool(self.choice.loras or self.choice.embeddings)

    def check_prompt(self, prompt: str, taught: Collection[str] = ()) -> None:
        """Refuse a prompt of whose nouns the prior knows none, where its folder lists them.

        A LoRA or an embedding may have taught it others. ``taught``: words that another prior of the run has been taught, in
        lower case. Raises UnknownNounsError.
        """
        if isinstance(self.parts, FolderParts) and not self.is_changed:
            check_nouns(prompt, self.parts.folder, self.choice.name, taught)

    @property
    def maps(self) -> dict[str, str]:
        """What the prior draws instead of colours, with the words that ask for it; empty if it draws colours."""
        return (self.parts.maps if self.parts is not None else None) or {}

    @property
    def guided(self) -> float:
        """The guidance scale that was distilled into the weights; 1 for none."""
        return 1.0 if self.parts is None else self.parts.guided

    def check_task(self, show: str, wording: Wording, has_photos: bool) -> None:
        """Refuse what a teacher shows or says that the prior does not support. Raises ValueError."""
        self.kind.check_task(self.parts or getattr(self.choice.loaded, "parts", None), show, wording, has_photos)

    def read(
        self, task: Task, wording: Wording, backdrops: Sequence[Backdrop], device: torch.device, engine: UsedEngine = "torch",
        show: str = "color",
    ) -> Embeds:  # fmt: skip
        """Encode the prompts of a task. Text encoders are freed again and never share memory with the network.

        The prompts for a prior of maps name what is shown (``show``), the negative one as well: the difference of both, which
        guidance enlarges, is then not that between two kinds of maps.
        """
        if word := self.maps.get(show, ""):
            prompt, negative = (f"{words}, {word}" if words else word for words in (task.prompt, task.negative))
            task = replace(task, prompt=prompt, negative=negative)
        if self.parts is None:
            return self.choice.loaded.embeds(task, wording, backdrops)
        return self.kind.read(self.parts, self.choice, task, wording, backdrops, device, engine)

    def load(self, device: torch.device) -> Prior:
        """The prior with its networks on ``device``.

        Raises:
            ValueError: a prior in memory is on another device.
        """
        if self.parts is not None:
            return self.kind.load(self.parts, self.choice, device)
        if self.choice.loaded.device.type != device.type:
            raise ValueError(
                f"the prior in memory is on {self.choice.loaded.device}, but the run is on {device}: move one of them"
            )
        return self.choice.loaded


def find(choice: PriorChoice, option: str = "--prior") -> Located:
    """Locate a prior: its folder, kind and revision. No networks are loaded.

    Args:
        option: the command-line option that names it, for error messages.

    Raises:
        PriorNotFoundError: there is no such prior.
        ValueError: a LoRA or embedding file is missing or unreadable, or no kind of prior supports the model or its options.
    """
    choice = with_whole_paths(choice)
    if isinstance(choice.loaded, Prior):
        if replace(choice, name="", loaded=None) != NO_OPTIONS:
            raise ValueError("a Prior in memory is used as it is: give it no LoRAs, embeddings or other options")
        return Located(choice, type(choice.loaded), None, f"in memory: {type(choice.loaded).__name__}")
    if choice.loaded is not None:
        parts: Parts = LoadedParts(choice.loaded)
        revision = f"in memory: {id(choice.loaded):x}"
    else:
        folder = locate(choice.name, choice.settings, option=option)
        choice = replace(choice, name=whole_name(choice.name), settings=whole_name(choice.settings) if choice.settings else "")
        title = Path(choice.name).name if Path(choice.name).is_absolute() else choice.name
        parts = FolderParts(folder.resolve(), title)
        try:
            revision = revision_of(folder)
        except OSError as error:  # a file that has just gone, or a shared disk that does not answer
            raise PriorFilesError(f"{folder} cannot be read ({error.strerror or error}): fetch the folder again") from error
    kind = kind_of(parts)
    kind.check(parts, choice)
    return Located(choice, kind, parts, revision + fingerprint(choice))


def kind_of(parts: Parts) -> type[Prior]:
    """The first kind of prior that accepts ``parts``: kinds of plugins, newest first, then the built-in ones in order.

    Raises:
        ValueError: no kind accepts them.
    """
    names = [*(name for name in reversed(PRIORS) if name not in BUILT_IN), *BUILT_IN]
    kind = next((PRIORS[name] for name in names if PRIORS[name].accepts(parts)), None)
    if kind is None:
        raise ValueError(f"{parts} is not a supported model: a unet or a transformer is required")
    return kind


class Priors:
    """The priors in memory. Teachers with equal priors share one; unused priors are freed before others are loaded."""

    def __init__(self) -> None:
        self.loaded: dict[Any, Prior] = {}
        self.taken: tuple[Prior, ...] = ()  # the last result of :meth:`take`

    def take(
        self, wanted: Sequence[Located], device: torch.device, memory: Memory, engines: Sequence[Engine] | None = None
    ) -> tuple[Prior, ...]:  # fmt: skip
        """The prior of each entry of ``wanted``, on ``device``, with the memory settings applied and its engine set.

        Args:
            engines: one per entry; None: torch.

        Raises:
            ValueError: an engine that cannot run its prior.
        """
        keys = [_key(located, device, memory) for located in wanted]
        self.taken = ()
        self.loaded = {key: prior for key, prior in self.loaded.items() if key in keys}
        for key, located in zip(keys, wanted, strict=True):
            if key not in self.loaded:
                self.loaded[key] = located.load(device)
                self.loaded[key].save_memory(memory)
        for key, engine in dict(zip(keys, engines or ("torch",) * len(keys), strict=True)).items():
            self.loaded[key].use_engine(engine)
        self.taken = tuple(self.loaded[key] for key in keys)
        return self.taken


def _key(located: Located, device: torch.device, memory: Memory) -> Any:
    # The revision alone does not distinguish two folders whose large files have equal names and sizes.
    return (located.choice, located.revision, str(device), memory)


def load_prior(
    prior: Any, device: str | torch.device = "cpu", memory: Memory | None = None, engine: Engine = "torch"
) -> Prior:  # fmt: skip
    """A prior in memory, ready to predict noise.

    Args:
        prior: a value of ``--prior`` (a known name, a diffusers folder, a hub name, a checkpoint file), a
            :class:`~dreamlift.priors.choice.PriorChoice`, or a diffusers pipeline.
        device: "cpu", "cuda" or "mps". memory: settings that reduce memory.
        engine: who runs calls that need no gradient, see :mod:`dreamlift.priors.engine`.

    Raises:
        PriorNotFoundError, ValueError: see :func:`find`.
    """
    loaded = find(as_choice(prior)).load(torch.device(device))
    loaded.save_memory(memory or Memory())
    loaded.use_engine(engine)
    return loaded
