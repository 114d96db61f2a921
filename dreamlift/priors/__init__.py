"""The 2D diffusion models that teach, all behind :class:`dreamlift.priors.base.Prior`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from dreamlift.priors.base import Prior
    from dreamlift.priors.lora.additions import Additions
    from dreamlift.priors.saving import Memory


def prompt_reader(folder: Path, device: torch.device, additions: Additions) -> Callable[[list[str]], Tensor]:
    """The same as :meth:`Prior.embed_text` of the prior in ``folder``, without its network in memory."""
    from dreamlift.priors.flow import network_precision
    from dreamlift.priors.text import encode_prompts

    dtype = network_precision(folder, _precision(device))
    return lambda prompts: encode_prompts(folder, prompts, device, dtype, additions)


def load_prior(
    folder: Path, device: torch.device, see_cameras: bool = True, additions: Additions | None = None,
    memory: Memory | None = None, linear_latents: bool = False,
) -> Prior:  # fmt: skip
    """The prior in a diffusers ``folder``: a flow where it has a transformer, latent where it has a VAE, else on pixels.

    MVDream is known by its U-Net. Half precision on a GPU.

    ``see_cameras``: tell a camera-conditioned network where the camera stands; others have only the words.
    ``additions``: the user's own LoRAs and embeddings. ``memory``: what to do with less. ``linear_latents``: a linear map of
    colours in the place of the autoencoder's encoder.

    Raises:
        ValueError: the folder holds something else than its prior takes; or ``linear_latents`` for a prior on pixels.
    """
    from dreamlift.priors.flow import FlowPrior
    from dreamlift.priors.latent import LatentPrior
    from dreamlift.priors.lora.additions import NOTHING
    from dreamlift.priors.mvdream import MVDreamPrior, is_multiview
    from dreamlift.priors.pixel import PixelPrior

    kinds: dict[str, type[FlowPrior | LatentPrior | MVDreamPrior | PixelPrior]] = {
        "transformer": FlowPrior,
        "vae": LatentPrior,
    }
    kind = next((kinds[part] for part in kinds if (folder / part).is_dir()), PixelPrior)
    if is_multiview(folder):
        kind = MVDreamPrior
    prior = kind(folder, device, _precision(device), see_cameras, additions or NOTHING)
    if memory is not None:
        prior.save_memory(memory)
    if linear_latents:
        if isinstance(prior, PixelPrior):
            raise ValueError("this prior works on pixels and has no latents; leave linear_latents off")
        prior.autoencoder.use_linear_map()
    return prior


def _precision(device: torch.device) -> torch.dtype:
    import torch

    # On CPUs without bf16 units half precision is some 60 times slower than fp32.
    return torch.float16 if device.type == "cuda" else torch.float32
