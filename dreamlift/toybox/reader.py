"""Whose colour is whose: what keeps the text encoder of an embedded prior from being a bag of words.

Pictures alone taught it no order. The states of "a red duck wearing a yellow hat" and of "a yellow duck wearing a red hat" were
the same, and the prior drew one or the other by the noise. So in training a linear map reads both colours from the mean
of a caption's states; it is thrown away afterwards, like the heads of an auxiliary task.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dreamlift.toybox.world import COLORS

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
