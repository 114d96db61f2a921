"""Guidance distillation (Meng et al. 2023, https://arxiv.org/abs/2210.03142): one pass gives what guidance makes of two.

The student's target is not the picture of the training set but the teacher's guided prediction for the same noised picture,
clipped as the presets clip it. Meng et al. give the scale as an input; here it is fixed. The distilled prior is used with a
guidance scale of 1. The embedded weights are not distilled: docs/shape.md says what it gained and lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dreamlift.toybox.training.network import MAP_WORDS, Networks


class Guide(NamedTuple):
    """A prior that another one learns from."""

    folder: Path
    scale: float = 0.0  # of the guidance that is distilled; 0: it only gives the mean pictures at high noise


def negative_of(caption: str) -> str:
    """A caption's negative prompt: the word of the map that it asks for, as in ``nouns.json``; "" for colours."""
    return next((word for word in MAP_WORDS.values() if word in caption), "")


@torch.no_grad()
def guided_x0(teacher: Networks, x_t: Tensor, t: Tensor, captions: Sequence[str], camera: Tensor, scale: float) -> Tensor:
    """The teacher's x0_hat ``(B, C, h, w)`` of ``x_t`` with classifier-free guidance of ``scale``, clipped to [-1, 1].

    A caption that is its own negative prompt is left unguided, so that the student still has an unconditional prediction.

    Args:
        t: timesteps (B,). camera: features (B, 8), zeros for none; the negative prompt is never told a camera.
    """
    negative = [negative_of(caption) for caption in captions]
    tokens = {k: v.to(x_t.device) for k, v in teacher.tokenize([*negative, *captions]).items()}
    told = torch.cat([torch.zeros_like(camera), camera])
    both = teacher.predict_x0(x_t.repeat(2, 1, 1, 1), t.repeat(2), teacher.encode_text(tokens), told)
    plain, told_x0 = both.chunk(2)
    guided = (plain + scale * (told_x0 - plain)).clamp(-1.0, 1.0)
    own = torch.tensor([caption == other for caption, other in zip(captions, negative, strict=True)], device=x_t.device)
    return torch.where(own.view(-1, 1, 1, 1), told_x0, guided)
