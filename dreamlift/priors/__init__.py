"""The 2D diffusion models that teach, all behind :class:`dreamlift.priors.base.Prior`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from dreamlift.personalize.additions import Additions
    from dreamlift.priors.base import Prior


def load_prior(folder: Path, device: torch.device, see_cameras: bool = True, additions: Additions | None = None) -> Prior:
    """The prior in a diffusers ``folder``: a flow where it has a transformer, latent where it has a VAE, else on pixels.

    MVDream is known by its U-Net. Half precision on a GPU.

    ``see_cameras``: tell a camera-conditioned network where the camera stands; others have only the words.
    ``additions``: the user's own LoRAs and embeddings.
    """
    import torch

    from dreamlift.personalize.additions import NOTHING
    from dreamlift.priors.flow import FlowPrior
    from dreamlift.priors.latent import LatentPrior
    from dreamlift.priors.mvdream import MVDreamPrior, is_multiview
    from dreamlift.priors.pixel import PixelPrior

    # On CPUs without bf16 units half precision is some 60 times slower than fp32.
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    kinds: dict[str, Callable[[Path, torch.device, torch.dtype, bool, Additions], Prior]] = {
        "transformer": FlowPrior,
        "vae": LatentPrior,
    }
    kind = next((kinds[part] for part in kinds if (folder / part).is_dir()), PixelPrior)
    if is_multiview(folder):
        kind = MVDreamPrior
    return kind(folder, device, dtype, see_cameras, additions or NOTHING)
