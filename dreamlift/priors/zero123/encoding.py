"""A reference picture as the network's conditioning: what the image encoder, the autoencoder and the pose layer make of it.

The latent models (Liu et al. 2023, https://arxiv.org/abs/2303.11328) take the projected CLIP embedding of the picture, and the
mode of the autoencoder's posterior, which is NOT multiplied by the scaling factor, unlike the noisy latents that it is
concatenated to. CLIP's picture is resized bicubically with aligned corners and without antialiasing, as in their training.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamlift.priors.engine import EngineError, OnnxNetwork, UsedEngine, ready_session
from dreamlift.priors.files.folder import POSE_LAYERS
from dreamlift.priors.latent import Autoencoder
from dreamlift.priors.parts import FolderParts, Parts, named
from dreamlift.priors.pixel import resize
from dreamlift.priors.text import no_bars
from dreamlift.priors.zero123.lift import LIFT, SIZE, Volume, make_lift

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LAYER_KEYS = (("projection.weight", "projection.bias"), ("proj.weight", "proj.bias"))  # of kxic's ports, and of the others
POSE = 4  # numbers of a pose beside the embedding
PACKING = 2  # of the pixel network's pictures


class Encoded(NamedTuple):
    """N reference pictures."""

    tokens: Tensor  # (N, L, D) of the image encoder
    latents: Tensor  # (N, C, h, w) that are concatenated to the noisy picture


def over(pictures: Tensor, color: tuple[float, float, float]) -> Tensor:
    """Pictures with a mask ``(N, S, S, 4)`` over a color: ``(N, 3, S, S)`` in [0, 1]."""
    rgb, alpha = pictures[..., :3], pictures[..., 3:]
    return (rgb * alpha + (1 - alpha) * torch.tensor(color).to(pictures)).permute(0, 3, 1, 2)


def clip_pixels(pictures: Tensor, size: int) -> Tensor:
    """CLIP's input ``(N, 3, size, size)`` from pictures ``(N, 3, S, S)`` in [0, 1], as Zero-1-to-3 makes it."""
    return clip_normalized(functional.interpolate(pictures, (size, size), mode="bicubic", align_corners=True, antialias=False))


def clip_normalized(pictures: Tensor) -> Tensor:
    """Pictures ``(N, 3, S, S)`` in [0, 1] with CLIP's mean and deviation of each channel taken out."""
    mean, std = (torch.tensor(values).to(pictures).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (pictures - mean) / std


@torch.no_grad()
def encode_latent(parts: Parts, pictures: Tensor, device: torch.device, dtype: torch.dtype, size: int) -> Encoded:
    """The CLIP embeddings ``(N, 1, E)`` and latents ``(N, C, size, size)`` of ``pictures (N, 3, S, S)``; encoders are freed."""
    from transformers import CLIPVisionModelWithProjection

    autoencoder = Autoencoder(parts, device, dtype, size)
    small = resize(pictures.to(device), autoencoder.resolution)
    latents = autoencoder.mode(small)
    del autoencoder
    with no_bars():
        encoder: Any = parts.network("image_encoder", CLIPVisionModelWithProjection, dtype).to(device).eval()
    with named(f"the config.json of the image_encoder of {parts} does not fit its weights"):
        found = encoder(pixel_values=clip_pixels(small, encoder.config.image_size).to(dtype)).image_embeds
    return Encoded(found.float()[:, None], latents)


@torch.no_grad()
def encode_pixel(
    parts: Parts, pictures: Tensor, device: torch.device, dtype: torch.dtype, size: int, engine: UsedEngine = "torch"
) -> Encoded:  # fmt: skip
    """The image encoder's tokens ``(N, L, D)`` and the packed pixels ``(N, 12, size / 2, size / 2)`` of ``pictures``."""
    small = resize(pictures.to(device), size) * 2 - 1
    quick = _quick(parts) if engine == "onnx" and isinstance(parts, FolderParts) else None
    if quick is not None:
        tokens = quick({"pixels": small})
    else:
        from transformers import CLIPVisionModel

        with no_bars():
            encoder: Any = parts.network("image_encoder", CLIPVisionModel, dtype).to(device).eval()
        with named(f"the config.json of the image_encoder of {parts} does not fit its weights"):
            tokens = call_image_encoder(encoder, small.to(dtype)).float()
    return Encoded(tokens, functional.pixel_unshuffle(small, PACKING))


@torch.no_grad()
def lifted(parts: Parts, photos: Tensor, elevation: Tensor | None, device: torch.device) -> Volume:
    """The volumes of ``photos (N, S, S, 4)`` by the pixel model's lift; ``elevation (N,)`` radians; None: it is estimated."""
    lift = make_lift(parts.config(LIFT), parts.tensors(LIFT, torch.float32)).to(device)
    pictures = torch.cat([photos[..., :3] * photos[..., 3:], photos[..., 3:]], dim=-1).permute(0, 3, 1, 2)
    small = resize(pictures.to(device), SIZE)
    known = torch.full((len(photos),), float(elevation is not None), device=device)
    return lift(small, torch.zeros_like(known) if elevation is None else elevation.to(known), known)


def call_image_encoder(encoder: nn.Module, pixels: Tensor) -> Tensor:
    """The tokens of the last layer ``(N, L, D)`` of transformers' ``CLIPVisionModel`` for ``pixels (N, 3, S, S)``."""
    return encoder(pixel_values=pixels).last_hidden_state


def example(parts: Parts) -> dict[str, Tensor]:
    """Inputs of two pictures of a pixel model's image encoder, with all values 0."""
    size = parts.config("image_encoder")["image_size"]
    return {"pixels": torch.zeros(2, 3, size, size)}


def _quick(parts: FolderParts) -> OnnxNetwork | None:
    """The image encoder's session without transformers, whose import takes seconds; None if its graph is not there."""
    try:
        return ready_session(parts.folder / "image_encoder", parts.config("image_encoder"), example(parts))
    except (EngineError, KeyError):
        return None


def pose_layer(parts: Parts) -> str:
    """The name of the pose layer's folder. Raises ValueError if the model has none."""
    found = next((name for name in POSE_LAYERS if parts.has(name)), None)
    if found is None:
        raise ValueError(
            f"{parts} has no pose layer ({' or '.join(POSE_LAYERS)}), as early revisions of Zero-1-to-3's ports: fetch the "
            "newest one (kxic's: revision refs/pr/1)"
        )
    return found


def read_pose_layer(parts: Parts, device: torch.device, width: int, embedding: int, pose: int) -> tuple[Tensor, Tensor]:
    """Weight ``(width, embedding + pose)`` and bias ``(width,)`` of the pose layer, in float32.

    Raises:
        ValueError: other names or shapes than the ports'.
    """
    name = pose_layer(parts)
    found = parts.tensors(name, torch.float32)
    keys = next((keys for keys in LAYER_KEYS if set(keys) <= found.keys()), None)
    if keys is None:
        raise ValueError(
            f"the {name} of {parts} has the weights {sorted(found)[:4]}; accepted: {LAYER_KEYS[0]} or {LAYER_KEYS[1]}"
        )
    weight, bias = (found[key].to(device) for key in keys)
    if weight.shape != (width, embedding + pose) or bias.shape != (width,):
        raise ValueError(
            f"the {name} of {parts} maps {tuple(weight.shape)[::-1]}; its image_encoder and unet need "
            f"{(embedding + pose, width)}: they are of two models"
        )
    return weight, bias
