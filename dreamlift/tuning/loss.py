"""DreamBooth's loss (Ruiz et al. 2023, https://arxiv.org/abs/2208.12242, eq. 2) in the network's own prediction.

    L = E w(t) |f(x_t, t, c) - y|^2 + lambda E w(t') |f(x'_t', t', c') - y'|^2

x are the subject's pictures and c its prompt with the new word; x' are pictures of the class, drawn by the prior itself, and c'
their prompts: they keep the class as it was ("prior preservation"). f and y are the noise, the velocity or the clean picture,
as the network predicts it. For noise and velocity w = 1 and t is uniform, as in diffusers' examples; a network that predicts
the clean picture is trained with the weights and times of its own training (:mod:`dreamlift.toybox.training.prior`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlift.toybox.training.prior import loss_weight, stratified_times

DENSITY = 2.0  # of the times of networks that predict the clean picture: proportional to t^2


def draw_times(prediction: str, count: int, horizon: int, rng: torch.Generator) -> Tensor:
    """Integer timesteps ``(count,)``."""
    if prediction == "sample":
        return stratified_times(rng, count, DENSITY, horizon)
    return torch.randint(0, horizon, (count,), generator=rng)


def noised(x0: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """x_t ``(B, C, h, w)`` at cumulated alphas ``abar (B, 1, 1, 1)``."""
    return abar.sqrt() * x0 + (1.0 - abar).sqrt() * eps


def target(prediction: str, x0: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """What the network should predict, ``(B, C, h, w)``."""
    if prediction == "sample":
        return x0
    return abar.sqrt() * eps - (1.0 - abar).sqrt() * x0 if prediction == "v_prediction" else eps


def weight(prediction: str, abar: Tensor, latent: bool) -> Tensor:
    """w ``(B, 1, 1, 1)``."""
    return loss_weight(abar, latent) if prediction == "sample" else torch.ones_like(abar)


def dreambooth_loss(errors: Tensor, own: int, class_weight: float) -> Tensor:
    """L () from the weighted squared errors ``(B, C, h, w)``, of which the first ``own`` pictures are the subject's."""
    loss = errors[:own].mean()
    return loss + class_weight * errors[own:].mean() if len(errors) > own else loss
