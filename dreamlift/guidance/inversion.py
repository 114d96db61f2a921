"""DDIM inversion: the noise that a deterministic sampler would have started from to arrive at a given picture.

Song et al. 2021, *Denoising Diffusion Implicit Models* (https://arxiv.org/abs/2010.02502), eq. 13, run towards more noise:

    x_s = alpha_s x0_hat(x_r, r) + sigma_s eps_hat(x_r, r),   r < s
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from dreamlift.priors.base import Prior
from dreamlift.types import Conditioning

LOWEST = 0.02  # a clean picture counts as one at this t: below it eps_hat is a difference of nearly equal numbers


def invert(
    prior: Prior, latents: Tensor, cond: Conditioning, t: Tensor, steps: int, guidance_scale: float, start: float = LOWEST
) -> Tensor:
    """``latents (B, C, h, w)``, taken as pictures at time ``start``, at times ``t (B,)``, in ``steps`` equal DDIM steps.

    Raises:
        ValueError: no steps.
    """
    if steps < 1:
        raise ValueError(f"inversion takes at least 1 step, got {steps}")
    x = latents
    for low, high in pairwise(torch.linspace(0.0, 1.0, steps + 1).tolist()):
        # From a t below `start` the way is empty: both ends are then t itself.
        first = torch.full_like(t, start).minimum(t)
        x = ddim_step(prior, x, cond, first + low * (t - first), first + high * (t - first), guidance_scale)[0]
    return x


def ddim_step(
    prior: Prior, x: Tensor, cond: Conditioning, t: Tensor, to: Tensor, guidance_scale: float
) -> tuple[Tensor, Tensor]:
    """``x (B, C, h, w)`` moved from time ``t (B,)`` to ``to (B,)``, and the eps_hat that it was moved along."""
    alpha, sigma = prior.schedule(t)
    eps_hat = prior.predict_noise(x, t, cond, guidance_scale)
    x0 = (x - sigma * eps_hat) / alpha.clamp_min(1e-4)
    alpha_to, sigma_to = prior.schedule(to)
    return alpha_to * x0 + sigma_to * eps_hat, eps_hat
