"""DDIM inversion: the noise from which deterministic sampling would produce a given picture.

Song et al. 2021, *Denoising Diffusion Implicit Models* (https://arxiv.org/abs/2010.02502), eq. 13, toward more noise:

    x_s = alpha_s x0_hat(x_r, r) + sigma_s eps_hat(x_r, r),   r < s
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dreamlift.priors.base import Prior
from dreamlift.types import Conditioning

LOWEST = 0.02  # t assigned to a clean picture: below it, eps_hat is a difference of nearly equal numbers


def invert(
    prior: Prior, latents: Tensor, cond: Conditioning, t: Tensor, steps: int, guidance_scale: float, start: float = LOWEST
) -> Tensor:
    """x_t ``(B, C, h, w)`` at times ``t (B,)``, from ``latents (B, C, h, w)`` at time ``start`` by ``steps`` equal DDIM steps.

    Raises:
        ValueError: ``steps`` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"inversion takes at least 1 step, got {steps}")
    # For t below `start` the interval is empty: it begins and ends at t.
    first = torch.full_like(t, start).minimum(t)
    times = [first + share * (t - first) for share in torch.linspace(0.0, 1.0, steps + 1).tolist()]
    return ddim_steps(prior, latents, cond, times, guidance_scale)


def ddim_steps(prior: Prior, x: Tensor, cond: Conditioning, times: Sequence[Tensor], guidance_scale: float) -> Tensor:
    """``x (B, C, h, w)`` at the first of ``times``, each ``(B,)``, after DDIM steps through them; up or down in noise."""
    for now, following in pairwise(times):
        x = ddim_step(prior, x, cond, now, following, guidance_scale)[0]
    return x


def ddim_step(
    prior: Prior, x: Tensor, cond: Conditioning, t: Tensor, to: Tensor, guidance_scale: float
) -> tuple[Tensor, Tensor]:
    """One DDIM step of ``x (B, C, h, w)`` from time ``t (B,)`` to ``to (B,)``; returns the new x and the eps_hat used."""
    alpha, sigma = prior.schedule(t)
    eps_hat = prior.predict_noise(x, t, cond, guidance_scale)
    x0 = (x - sigma * eps_hat) / alpha.clamp_min(1e-4)
    alpha_to, sigma_to = prior.schedule(to)
    return alpha_to * x0 + sigma_to * eps_hat, eps_hat
