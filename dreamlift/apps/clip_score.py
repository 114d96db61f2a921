"""CLIP R-precision (Park et al. 2021; Jain et al. 2022, https://arxiv.org/abs/2112.01455).

The fraction of the renders for which CLIP (Radford et al. 2021) ranks the asset's prompt first among all prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's input normalization


@dataclass(frozen=True)
class Clip:
    """A CLIP model and the prompts that it ranks."""

    model: Any
    tokenizer: Any
    texts: tuple[str, ...]  # the different prompts


def load_clip(name: str, prompts: list[str]) -> Clip:
    """The CLIP model ``name`` (a folder or hub name), to rank ``prompts``.

    Raises:
        ValueError: fewer than two different prompts, or the model cannot be loaded.
    """
    texts = tuple(dict.fromkeys(prompts))
    if len(texts) < 2:
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
            x = functional.interpolate(views.movedim(-1, 1).float(), size=(size, size), mode="bicubic", antialias=True)
            x = (x.clamp(0, 1) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
            logits = clip.model(pixel_values=x, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            right.append((logits.logits_per_image.argmax(dim=1) == clip.texts.index(prompt)).float().mean())
    return float(torch.stack(right).mean())
