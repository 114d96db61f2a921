"""The settings of a teacher's prior: its name or path, the user's LoRAs and embeddings, and options of the model."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dreamlift.types import LoraFile


@dataclass(frozen=True)
class PriorChoice:
    """A 2D diffusion model, with the LoRAs and embeddings that are added to it.

    From Python, ``loaded`` accepts a model that is already in memory: a diffusers pipeline, or an instance of
    :class:`dreamlift.priors.base.Prior`. Such a choice cannot be written to a config file.
    """

    MAIN_FIELD: ClassVar[str] = "name"  # the field that a plain string in a config sets

    name: str = "toybox"  # known name, hub name (owner/model), diffusers folder, or one-file checkpoint (.safetensors)
    # for a one-file checkpoint: the prior of the same family whose configs and tokenizers are used; "": the known one
    settings: str = ""
    loras: tuple[LoraFile, ...] = ()  # LoRAs merged into the weights, such as [{path: style.safetensors, scale: 0.8}]
    # textual-inversion files (.safetensors); use each one's word in the prompt: its file's stem, or the word stored in the file
    embeddings: tuple[str, ...] = ()
    # true: pass each render's camera to a network that was trained with cameras; false: only the prompt describes the view
    camera_conditioning: bool = True
    linear_encoder: bool = False  # true: replace a latent prior's encoder by a linear map of colors: fast, but ignores texture
    # the camera that a Zero-1-to-3 model is told: relative only (zero123), or with the photo's own elevation (stable-zero123);
    # auto: stable-zero123 if "stable" and "zero123" stand in its name or in its folder's
    pose: Literal["auto", "zero123", "stable-zero123"] = "auto"
    loaded: Any = dataclasses.field(default=None, repr=False, metadata={"setting": False})

    @classmethod
    def of(cls, model: Any, **options: Any) -> PriorChoice:
        """The choice for a diffusers pipeline or a :class:`~dreamlift.priors.base.Prior` in memory.

        Args:
            model: the pipeline or prior. A pipeline is not copied unless LoRAs are merged or its precision changes; its
                networks are moved to the run's device, their weights are frozen, and the run's memory settings are applied to
                them. A prior is used as it is, and must be on the run's device.
            options: of a pipeline, further fields, such as ``camera_conditioning=False``.
        """
        return cls(**{"name": f"<{type(model).__name__} in memory>", "loaded": model, **options})


def as_choice(prior: Any) -> PriorChoice:
    """The choice for a value of ``--prior`` (text or a path), a choice itself, or a model in memory."""
    if isinstance(prior, PriorChoice):
        return prior
    return PriorChoice(os.fspath(prior)) if isinstance(prior, (str, os.PathLike)) else PriorChoice.of(prior)


NO_OPTIONS = PriorChoice(name="")
"""The default options without LoRAs or embeddings, for priors that are constructed from their parts directly."""
