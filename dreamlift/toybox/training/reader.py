"""Whose colour is whose, and seen from where: what the text of an embedded prior has to tell, beside the loss of the pictures.

Pictures alone taught it no order. The states of "a red duck wearing a yellow hat" and of "a yellow duck wearing a red hat" were
the same, and the prior drew one or the other by the noise. So in training a linear map reads both colours from the mean
of a caption's states; it is thrown away afterwards, like the heads of an auxiliary task.

A prior that is told no cameras learns the view from words alone, which move the loss of the pictures by two percent. So a
second reader asks the pooled text, which joins the time embedding, for the camera: words then reach the U-Net as one would.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamlift.toybox.world.things import COLORS

UNTOLD = -100  # what cross entropy leaves out


class Reader(nn.Module):
    """Linear maps from the mean of a caption's states to the thing's colour, and to its hat's (the last: no hat)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.color, self.hat = nn.Linear(width, len(COLORS)), nn.Linear(width, len(COLORS) + 1)

    def loss(self, states: Tensor, tokens: dict[str, Tensor], told: Tensor) -> Tensor:
        """Cross entropy () of what ``states (B, L, D)`` of ``tokens`` tell of the colours ``told (B, 2)``, thing and hat."""
        mask = tokens["attention_mask"][..., None].to(states)
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
        losses = [functional.cross_entropy(head(mean), told[:, i], ignore_index=UNTOLD, reduction="sum")
                  for i, head in enumerate((self.color, self.hat))]  # fmt: skip
        return (losses[0] + losses[1]) / len(told)


class ViewReader(nn.Module):
    """Fixed directions of the pooled text in which the features of the camera have to stand, larger than what else is there.

    Fixed, with nothing to learn: a learnt map would read what is said however softly.
    """

    directions: Tensor  # (F, D)

    def __init__(self, width: int, features: int, size: float = 3.0) -> None:
        super().__init__()
        rows = torch.linalg.qr(torch.randn(width, features, generator=torch.Generator().manual_seed(0)))[0].T
        self.size = size  # a feature of 1 stands for so much
        self.register_buffer("directions", rows.contiguous())

    def loss(self, pooled: Tensor, camera: Tensor) -> Tensor:
        """Mean square () of what ``pooled (B, D)`` tells wrongly of the ``camera (B, F)``; rows of zeros are left out."""
        told = (camera != 0).any(dim=1, keepdim=True).to(pooled)
        wrong = (pooled @ self.directions.T - self.size * camera).square() * told
        return wrong.sum() / (told.sum().clamp_min(1.0) * camera.shape[1])
