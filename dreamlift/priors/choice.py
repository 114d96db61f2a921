"""Which prior a teacher uses: a name or path, the user's own LoRAs and embeddings, and options of the model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from dreamlift.types import LoraFile


@dataclass(frozen=True)
class PriorChoice:
    """A 2D diffusion model and what is added to it.

    From Python, ``loaded`` takes a model that is in memory already: a diffusers pipeline, or an instance of
    :class:`dreamlift.priors.base.Prior`. Such a choice cannot be written to a config file.
    """

    MAIN_FIELD: ClassVar[str] = "name"  # what a plain text in a config stands for

    name: str = "toybox"  # a known name, a hub name, a diffusers folder, or a one-file checkpoint (.safetensors)
    settings: str = ""  # for a one-file checkpoint: the prior that lends its configs and tokenizers; "": the known one
    loras: tuple[LoraFile, ...] = ()  # LoRAs merged into the weights, such as [{path: style.safetensors, scale: 0.8}]
    embeddings: tuple[str, ...] = ()  # textual-inversion files (.safetensors); in the prompt, write the file's stem
    camera_conditioning: bool = True  # pass each picture's camera to a network that was trained with cameras
    linear_encoder: bool = False  # replace a latent prior's encoder by a linear map of colors: fast, but blind to texture
    loaded: Any = dataclasses.field(default=None, repr=False, metadata={"setting": False})

    @classmethod
    def of(cls, model: Any, **options: Any) -> PriorChoice:
        """The choice of a diffusers pipeline or a :class:`~dreamlift.priors.base.Prior` in memory.

        Args:
            model: the pipeline or prior. It is not copied unless LoRAs are merged or its precision changes; it is moved to the
                run's device, its weights are frozen, and the run's memory settings take effect in it.
            options: further fields, such as ``camera_conditioning=False``.
        """
        return cls(**{"name": f"<{type(model).__name__} in memory>", "loaded": model, **options})


NO_OPTIONS = PriorChoice(name="")
"""No files of one's own and the default options, for priors that are made from their parts directly."""
