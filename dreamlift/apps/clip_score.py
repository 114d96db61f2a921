"""Scores by CLIP (Radford et al. 2021): R-precision, and the similarity to a reference picture.

R-precision (Park et al. 2021; Jain et al. 2022, https://arxiv.org/abs/2112.01455) is the fraction of the renders for which CLIP
ranks the asset's prompt first among all prompts. The similarity is the cosine of the embeddings of two pictures (Magic123, Qian
et al. 2023, https://arxiv.org/abs/2306.17843, section 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.priors.zero123.encoding import clip_normalized


@dataclass(frozen=True)
class Clip:
    """A CLIP model and the prompts that it ranks."""

    model: Any
    tokenizer: Any
    texts: tuple[str, ...]  # the different prompts


def load_clip(name: str, prompts: list[str], ranks: bool = True) -> Clip:
    """The CLIP model ``name`` (a folder or hub name).

    Args:
        ranks: it is to rank ``prompts``; else it compares pictures only.

    Raises:
        ValueError: fewer than two different prompts to rank, or the model cannot be loaded.
    """
    texts = tuple(dict.fromkeys(prompts))
    if ranks and len(texts) < 2:
        raise ValueError("CLIP R-precision ranks prompts: give runs with at least two different prompts")
    from transformers import AutoTokenizer, CLIPModel

    try:
        model: Any = CLIPModel.from_pretrained(name).eval()
        return Clip(model, AutoTokenizer.from_pretrained(name), texts)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the CLIP model {name!r} cannot be loaded ({reason}); give a folder with its weights") from error


def clip_r_precision(pictures: list[Tensor], prompts: list[str], clip: Clip) -> float:
    """R-precision in [0, 1] of assets with ``pictures (V, H, W, 3)`` in [0, 1] and prompts from ``clip.texts``."""
    tokens = clip.tokenizer(list(clip.texts), padding=True, truncation=True, return_tensors="pt")
    size = clip.model.config.vision_config.image_size
    right = []
    with torch.no_grad():
        for views, prompt in zip(pictures, prompts, strict=True):
            logits = clip.model(
                pixel_values=clip_pixels(views, size), input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
            right.append((logits.logits_per_image.argmax(dim=1) == clip.texts.index(prompt)).float().mean())
    return float(torch.stack(right).mean())


@torch.no_grad()
def clip_similarity(pictures: Tensor, reference: Tensor, clip: Clip) -> Tensor:
    """Cosines ``(V,)`` of the embeddings of ``pictures (V, H, W, 3)`` with that of one ``reference (H, W, 3)``, in [0, 1]."""
    embedded = []
    for each in (pictures, reference[None]):
        states = clip.model.vision_model(pixel_values=clip_pixels(each, clip.model.config.vision_config.image_size))
        embedded.append(functional.normalize(clip.model.visual_projection(states.pooler_output), dim=-1))
    return embedded[0] @ embedded[1][0]


def clip_pixels(pictures: Tensor, size: int) -> Tensor:
    """CLIP's input ``(V, 3, size, size)`` of pictures ``(V, H, W, 3)`` in [0, 1]."""
    x = functional.interpolate(pictures.movedim(-1, 1).float(), size=(size, size), mode="bicubic", antialias=True)
    return clip_normalized(x.clamp(0, 1))
