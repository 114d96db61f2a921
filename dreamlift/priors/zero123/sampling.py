"""Pictures from a prior by DDIM (Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12 with eta = 0).

    x_s = alpha_s x0_hat(x_t, t) + sigma_s eps_hat(x_t, t),   s < t

Any prior will do; the conditioning comes from :meth:`~dreamlift.prompts.Embeds.at`. The steps are those of the models' own
samplers: a schedule that ends in pure noise is begun there and has equal steps down to 0 (Lin et al. 2024,
https://arxiv.org/abs/2305.08891, "trailing"); another one begins a step before its end and has its last prediction at the first
training time (Stable Diffusion's "leading" steps, offset by 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlift.priors.base import Prior
from dreamlift.prompts import Backdrop, Embeds
from dreamlift.system.streams import random_stream
from dreamlift.types import Cameras, Conditioning

HORIZON = 1000  # training times of the published models
PURE = 0.01  # alpha at the last time below which it counts as pure noise
SMALLEST = 1e-3  # of alpha at a step: at 0 the noise says nothing of x0


def sampling_times(prior: Prior, steps: int) -> list[float]:
    """``steps`` falling times in (0, 1]; after the last one x0_hat is the result.

    Raises:
        ValueError: ``steps`` is not within 1 to 1000.
    """
    if not 1 <= steps <= HORIZON:
        raise ValueError(f"steps is {steps}; accepted: 1 to {HORIZON}")
    stride, last = HORIZON // steps, HORIZON - 1
    if alpha_at(prior, 1.0) >= PURE:
        return [(1 + stride * index) / last for index in reversed(range(steps))]
    times = [round(HORIZON - HORIZON * index / steps) - 1 for index in range(steps)]
    while alpha_at(prior, times[0] / last) < SMALLEST:
        times[0] -= 1
    return [time / last for time in times]


def latent_shape(prior: Prior) -> torch.Size:
    """(C, h, w) of the prior's latents."""
    return prior.encode(torch.zeros(1, prior.resolution, prior.resolution, 3, device=prior.device)).shape[1:]


def alpha_at(prior: Prior, t: float) -> float:
    """alpha of the prior's schedule at ``t``."""
    return float(prior.schedule(torch.tensor([t], device=prior.device))[0])


@torch.no_grad()
def sample(prior: Prior, noise: Tensor, cond: Conditioning, guidance_scale: float, steps: int) -> Tensor:
    """Latents ``(B, C, h, w)`` from ``noise (B, C, h, w)``; x0_hat is kept within the prior's bound, if it has one."""
    x = noise.to(prior.device)
    times = [torch.full((len(x),), time, device=x.device) for time in sampling_times(prior, steps)]
    for t, to in zip(times, [*times[1:], None], strict=True):
        alpha, sigma = prior.schedule(t)
        eps_hat = prior.predict_noise(x, t, cond, guidance_scale)
        x0 = (x - sigma * eps_hat) / alpha
        if prior.latent_bound is not None:
            x0 = x0.clamp(-prior.latent_bound, prior.latent_bound)
        if to is None:
            return x0
        alpha, sigma = prior.schedule(to)
        x = alpha * x0 + sigma * eps_hat
    return x


@torch.no_grad()
def sample_cameras(
    prior: Prior, embeds: Embeds, cameras: Cameras, guidance_scale: float, steps: int, seed: int = 0, show: str = "color",
    backdrop: Backdrop | None = None, batch: int = 8,
) -> Tensor:  # fmt: skip
    """Pictures ``(B, S, S, 3)`` in [0, 1] of B ``cameras``, on the CPU.

    All begin with the same noise, so that neighbouring views look alike.

    Args:
        seed: of the noise, which depends on it alone. show: "color" or "place". backdrop: one of those that were encoded.
        batch: cameras per call.
    """
    shape = latent_shape(prior)
    noise = torch.randn((1, *shape), generator=random_stream("views", seed))
    pictures = []
    for first in range(0, len(cameras), batch):
        some = cameras[first : first + batch].to(prior.device)
        told = [] if backdrop is None else [backdrop] * len(some)
        latents = sample(prior, noise.expand(len(some), *shape), embeds.at(some, told, show), guidance_scale, steps)
        pictures.append(prior.decode(latents).float().cpu())
    return torch.cat(pictures)
