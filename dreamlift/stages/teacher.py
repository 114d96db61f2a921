"""A teacher: one prior with one loss, and what of a render it is shown.

Several teachers look at one render. Each is shown a detached copy of its picture and differentiated into that copy at once,
which frees the graph of its encoder before the next teacher's is built; one pass through the renderer follows
(:mod:`dreamlift.stages.lift`). The chain rule makes the sum of these gradients the joint one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from dreamlift.cameras import rays_of
from dreamlift.guidance import GUIDANCE
from dreamlift.guidance.base import Guidance
from dreamlift.guidance.sds import SDS
from dreamlift.priors.base import Prior
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import WORDINGS, Compass, Wording
from dreamlift.schedules import Schedule, value_at
from dreamlift.types import Cameras, Conditioning, GuidanceOutput, RenderOutput

Show = Literal["color", "normal", "place"]
"""What of a render the prior is shown: its colours; its world normals, (n + 1) / 2 on black (Fantasia3D, Chen et al. 2023,
https://arxiv.org/abs/2303.13873); or the canonical coordinates of the points that the pixels see, (x + 1) / 2 on black
(SweetDreamer, Li et al. 2023, https://arxiv.org/abs/2310.02596)."""


@dataclass(frozen=True)
class Teacher:
    """One prior, and how it teaches."""

    prior: PriorChoice | None = None  # null: the prior of the teacher before it (of the run's first teacher: toybox)
    guidance: Guidance = field(default_factory=SDS, metadata={"choices": GUIDANCE})  # the distillation loss
    wording: Wording = field(default_factory=Compass, metadata={"choices": WORDINGS})  # how the view is put into words
    show: Show = "color"  # what of the render the prior is shown: colors, normals or places
    weight: float | Schedule = 1.0  # of its loss among the teachers; 0 leaves it out of a step


def shown(render: RenderOutput, show: Show, cameras: Cameras) -> Tensor:
    """The pictures ``(B, H, W, 3)`` in [0, 1] that a prior is shown (:data:`Show`); they carry the render's gradients."""
    if show == "place":
        rays = rays_of(cameras)
        places = rays.origins.to(render.depth) + render.depth * rays.directions.to(render.depth)
        return (places * 0.5 + 0.5) * render.opacity.clamp(0, 1)
    if show == "normal" and render.normal is not None:
        return 0.5 * (render.normal + render.opacity)
    return render.rgb


@dataclass
class Lesson:
    """What one teacher says of one render."""

    picture: Tensor  # (B, H, W, 3) as it was shown, with the render's graph
    gradient: Tensor | None  # of the loss with respect to it; None where the loss does not depend on it
    loss: Tensor  # () weighted, detached
    out: GuidanceOutput
    number: int = 0  # of the teacher in its stage


def teach(
    teacher: Teacher, prior: Prior, cond: Conditioning, picture: Tensor, progress: float, rng: torch.Generator, learned: Any
) -> Lesson:
    """Differentiate one teacher's loss into ``picture (B, H, W, 3)``. What the loss learns itself gets its gradients here."""
    seen = picture.detach().requires_grad_(picture.requires_grad)
    out = teacher.guidance(prior, prior.encode(seen), cond, progress, rng, learned)
    loss = value_at(teacher.weight, progress) * out.loss
    if loss.requires_grad:
        loss.backward()
    return Lesson(picture, seen.grad, loss.detach(), out)
