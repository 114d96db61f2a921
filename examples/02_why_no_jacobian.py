"""SDS against the full diffusion loss, in 2D: the same pixels, prior, prompt and noise, with and without the Jacobian.

    python examples/02_why_no_jacobian.py jacobian.png

The rows show the picture that is optimised, at five moments: above with score distillation (the U-Net's Jacobian left
out), below with the gradient of the diffusion model's own training loss. Prints the seconds of each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from dreamlift.guidance.base import Guidance
from dreamlift.guidance.diffusion_loss import DiffusionLoss
from dreamlift.guidance.sds import SDS
from dreamlift.priors.base import Prior
from dreamlift.priors.kinds import load_prior
from dreamlift.system.streams import random_stream
from dreamlift.toybox.training.prior import save_grid
from dreamlift.types import Conditioning


def descend(loss: Guidance, prior: Prior, cond: Conditioning, steps: int) -> list[torch.Tensor]:
    """The picture ``(S, S, 3)`` at five moments of the descent from grey."""
    grey = torch.full((1, prior.resolution, prior.resolution, 3), 0.5)
    latents = prior.encode(grey).requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=0.03)
    kept = []
    for i in range(steps):
        optimizer.zero_grad()
        loss(prior, latents, cond, i / steps, random_stream("jacobian", i), None).loss.backward()
        optimizer.step()
        if (i + 1) % (steps // 5) == 0:
            kept.append(prior.decode(latents.detach())[0])
    return kept[:5]


def main(path: str = "jacobian.png", steps: str = "200", prompt: str = "a red mug, front view") -> None:
    prior = load_prior("toybox")
    states = prior.embed_text([prompt, ""]).states
    cond = Conditioning(states[:1], states[1:])
    losses: dict[str, Guidance] = {
        "SDS": SDS(3.0, weighting="sigma2"),
        "diffusion loss": DiffusionLoss(3.0, weighting="sigma2"),
    }
    pictures = []
    for name, loss in losses.items():
        begun = time.perf_counter()
        pictures += descend(loss, prior, cond, int(steps))
        print(f"{name}: {time.perf_counter() - begun:.1f} s for {steps} steps")
    save_grid(Path(path), torch.stack(pictures), columns=5, scale=3)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
