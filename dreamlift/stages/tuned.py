"""The weights that the finetune stages of a run leave, as priors of its later stages.

A prior with the name ``tuned:partial`` is the one that the finetune stage ``partial`` has left in the run's folder: a whole
prior, or the base prior with a LoRA and the new word's vector. Until that stage has run, its base prior stands for it: both
have the same kind, resolution and memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.engine import Engine
from dreamlift.priors.kinds import Located
from dreamlift.reading.photos import Photo
from dreamlift.types import LoraFile

if TYPE_CHECKING:
    from dreamlift.stages.base import Stage

MARK = "tuned:"


def tuned_name(choice: PriorChoice | None) -> str:
    """The name of the weights that a prior is; "" for a prior that no stage of the run makes."""
    return choice.name.removeprefix(MARK) if choice is not None and choice.name.startswith(MARK) else ""


class Shelf:
    """The folder of a run's tuned weights, one folder a name: ``RUN/tuned``, or a temporary one that lives as long as this."""

    def __init__(self, folder: Path | None = None) -> None:
        self.given, self.temporary = folder, None

    @property
    def folder(self) -> Path:
        if self.given is not None:
            return self.given.resolve()
        self.temporary = self.temporary or tempfile.TemporaryDirectory(prefix="dreamlift-")
        return Path(self.temporary.name)


@dataclass(frozen=True)
class Material:
    """What a finetune stage works on, beside what all stages get."""

    photos: tuple[Photo, ...]
    located: Located  # the base prior
    shelf: Shelf
    stages: tuple[Stage, ...]  # of the run
    engine: Engine


def on_top(choice: PriorChoice, made: PriorChoice) -> PriorChoice:
    """A choice of tuned weights with these in place of their name, and its own LoRAs and embeddings after theirs."""
    return replace(
        choice, name=made.name, settings=made.settings, loras=(*made.loras, *choice.loras),
        embeddings=(*made.embeddings, *choice.embeddings),
    )  # fmt: skip


def base_priors(stages: Sequence[Stage]) -> dict[str, PriorChoice]:
    """The base prior of the weights that each finetune stage leaves, by their name.

    Raises:
        ValueError: a stage goes on from weights that no stage before it leaves, or two stages leave the same name.
    """
    found: dict[str, PriorChoice] = {}
    added = {stage.leaves_weights for stage in stages if stage.leaves_weights and not stage.leaves_whole}  # LoRAs
    for number, stage in enumerate(stages):
        if not stage.leaves_weights:
            continue
        if stage.leaves_weights in found:
            raise ValueError(f"stages.{number}: a stage before it leaves the weights {stage.leaves_weights!r}, too: rename one")
        (choice,) = stage.choices
        assert choice is not None
        if stage.leaves_whole and tuned_name(choice) in added:
            raise ValueError(f"stages.{number}: a tuning of all weights cannot go on from a LoRA; tune all weights there, too")
        found[stage.leaves_weights] = base_of(choice, found, f"stages.{number}.prior")
    return found


def base_of(choice: PriorChoice, bases: dict[str, PriorChoice], where: str) -> PriorChoice:
    """A choice with the base prior in place of tuned weights.

    Args:
        bases: of the weights that the stages before it leave.
        where: the setting's name, for errors.

    Raises:
        ValueError: no stage before it leaves these weights.
    """
    name = tuned_name(choice)
    if not name:
        return choice
    if name not in bases:
        known = ", ".join(bases) or "none"
        raise ValueError(f"{where}: no finetune stage before it leaves the weights {name!r}; accepted: {known}")
    return on_top(choice, bases[name])


def tuned_priors(stages: Sequence[Stage], folder: Path) -> dict[str, PriorChoice]:
    """The prior that each finetune stage leaves in ``folder``, by its name; whether it has done so is not looked at."""
    found: dict[str, PriorChoice] = {}
    for stage in stages:
        name = stage.leaves_weights
        if not name:
            continue
        (choice,) = stage.choices
        assert choice is not None
        begun = tuned_name(choice)
        base = on_top(choice, found[begun]) if begun else choice
        if stage.leaves_whole:
            found[name] = replace(base, name=str(folder / name), settings="", loras=(), embeddings=())
            continue
        # A LoRA that goes on from another one takes its place.
        loras = tuple(lora for lora in base.loras if not begun or Path(lora.path) != folder / begun)
        found[name] = replace(base, loras=(*loras, LoraFile(str(folder / name))))
    return found
