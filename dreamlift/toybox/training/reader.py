"""Auxiliary losses on the text embeddings of the embedded priors: colour assignment and view.

The loss of the pictures did not teach the text encoder the order of words: the states of "a red duck wearing a yellow hat" and
of "a yellow duck wearing a red hat" were equal, and the noise decided which of the two the prior drew. During training a linear
map therefore predicts both colours from the mean of a caption's states (:class:`Reader`); it is discarded afterwards.

A prior without camera input learns the view from words only, which change the loss of the pictures by two percent. Its pooled
text, which is added to the time embedding, is therefore trained to contain the camera features (:class:`ViewReader`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamlift.toybox.world.things import COLORS

UNTOLD = -100  # target that the cross-entropy ignores


class Reader(nn.Module):
    """Linear classifiers of the thing's and of its hat's colour (last class: no hat), on the mean of a caption's states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.color, self.hat = nn.Linear(width, len(COLORS)), nn.Linear(width, len(COLORS) + 1)

    def loss(self, states: Tensor, tokens: dict[str, Tensor], told: Tensor) -> Tensor:
        """Cross-entropy () of the colours ``told (B, 2)`` (thing, hat), predicted from ``states (B, L, D)`` of ``tokens``."""
        mask = tokens["attention_mask"][..., None].to(states)
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
        losses = [functional.cross_entropy(head(mean), told[:, i], ignore_index=UNTOLD, reduction="sum")
                  for i, head in enumerate((self.color, self.hat))]  # fmt: skip
        return (losses[0] + losses[1]) / len(told)


class ViewReader(nn.Module):
    """Fixed orthonormal directions of the pooled text whose components must equal the camera features times ``size``.

    The directions are fixed because a learnt map could amplify an arbitrarily weak signal; ``size`` makes it a strong one.
    """

    directions: Tensor  # (F, D)

    def __init__(self, width: int, features: int, size: float = 3.0) -> None:
        super().__init__()
        rows = torch.linalg.qr(torch.randn(width, features, generator=torch.Generator().manual_seed(0)))[0].T
        self.size = size  # component for a camera feature of 1
        self.register_buffer("directions", rows.contiguous())

    def loss(self, pooled: Tensor, camera: Tensor) -> Tensor:
        """Mean squared error () of the components of ``pooled (B, D)`` for ``camera (B, F)``; zero rows of it are ignored."""
        told = (camera != 0).any(dim=1, keepdim=True).to(pooled)
        wrong = (pooled @ self.directions.T - self.size * camera).square() * told
        return wrong.sum() / (told.sum().clamp_min(1.0) * camera.shape[1])
