"""A teacher: a prior, a loss, and the rendered quantity that the prior is given.

All teachers of a stage use the same render. The loss of each is differentiated with respect to a detached copy of its picture,
which frees the graph of its encoder before the next teacher's is built. One backward pass through the renderer follows
(:mod:`dreamlift.stages.lift`); by the chain rule the result equals the gradient of the sum of the losses.

A teacher that is conditioned on a photo may be weighted by the view: the gradient of each picture times

    1 - a + a w,    w = min(1, n angle / 180 degrees)

with a = ``angle_weight``, the angle between the directions of the picture's camera and of the nearest of the n photos' cameras,
as in stable-dreamfusion's and Magic123's ``guidance/zero123_utils.py``, where a = 1 (``zero123_grad_scale``: angle) and w is
not limited to 1, which matters with several photos only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from dreamlift.cameras import rays_of, turned, view_angles
from dreamlift.guidance import GUIDANCE
from dreamlift.guidance.base import Guidance
from dreamlift.guidance.sds import SDS
from dreamlift.priors.base import Prior
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import WORDINGS, Compass, Wording
from dreamlift.schedules import Schedule, value_at
from dreamlift.system.failures import is_out_of_memory
from dreamlift.system.text import one_line
from dreamlift.types import Cameras, Conditioning, GuidanceOutput, RenderOutput

Show = Literal["color", "normal", "place"]
"""The rendered quantity that the prior is given: colours; world normals, (n + 1) / 2 on black (Fantasia3D, Chen et al. 2023,
https://arxiv.org/abs/2303.13873); or the canonical coordinates of the visible points, (x + 1) / 2 on black (SweetDreamer,
Li et al. 2023, https://arxiv.org/abs/2310.02596)."""


@dataclass(frozen=True)
class Teacher:
    """A prior and its loss."""

    prior: PriorChoice | None = None  # diffusion model; null: as the teacher before, or the first of the stage before
    guidance: Guidance = field(default_factory=SDS, metadata={"choices": GUIDANCE})  # distillation loss
    wording: Wording = field(default_factory=Compass, metadata={"choices": WORDINGS})  # how the prompt describes the view
    show: Show = "color"  # what the prior is given: rendered colors, world normals, or the places (coordinates) of the surface
    weight: float | Schedule = 1.0  # factor on the teacher's loss, at least 0; the teacher is skipped in steps with weight 0
    # how much the gradient of a picture depends on its angle from the photo, in [0, 1]; 0: not at all; 1: in proportion, from 0
    # at the photo's view, where the photo says more, to its full size at the opposite view (stable-dreamfusion, Magic123)
    angle_weight: float = 0.0

    def __post_init__(self) -> None:
        if min(value_at(self.weight, i / 100) for i in range(101)) < 0:
            raise ValueError("weight becomes negative; it must be 0 or more at all times")
        if not 0.0 <= self.angle_weight <= 1.0:
            raise ValueError(f"angle_weight is {self.angle_weight:g}; accepted: 0 to 1")


PARTS = ("rgb", "opacity", "depth", "normal")  # of a render, that a loss may differentiate


def shown(render: RenderOutput, show: Show, cameras: Cameras, frame_azimuth: float = 0.0) -> Tensor:
    """The pictures ``(B, H, W, 3)`` in [0, 1] that a prior is given (:data:`Show`), differentiable with the render.

    Places are shown in the frame in which a camera at ``frame_azimuth`` (radians) is at azimuth 0.
    """
    if show == "place":
        rays = rays_of(cameras)
        places = rays.origins.to(render.depth) + render.depth * rays.directions.to(render.depth)
        if frame_azimuth:
            places = turned(places, torch.tensor(-frame_azimuth, dtype=torch.float64))
        return (places * 0.5 + 0.5) * render.opacity.clamp(0, 1)
    if show == "normal":
        if render.normal is None:
            raise ValueError("the render has no normals to show")
        return 0.5 * (render.normal + render.opacity)
    return render.rgb


def angle_scale(share: float, cameras: Cameras, photos: Cameras | None) -> Tensor | None:
    """The factors ``(B,)`` on the gradients of the pictures of B ``cameras`` for an ``angle_weight``; None: all are 1."""
    if share == 0.0 or photos is None:
        return None
    nearest = view_angles(cameras, photos).amin(dim=1)
    return 1.0 - share + share * (len(photos) * nearest / math.pi).clamp(max=1.0)


@dataclass
class Lesson:
    """The result of one teacher's loss on one render."""

    gradients: list[tuple[Tensor, Tensor]]  # tensors of the render, with its graph, and the loss's gradient of each
    loss: Tensor  # () weighted, detached
    out: GuidanceOutput
    number: int = 0  # of the teacher in its stage, counted from 0


class TeacherError(RuntimeError):
    """A prior or a loss failed in a step; the message has the names of both, and the error."""


@contextmanager
def failures_of(teacher: Teacher, prior: Prior, number: int, index: int) -> Iterator[None]:
    """Raise TeacherError for an error of teacher ``number`` (counted from 0) in step ``index``, except a full memory."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        name = one_line(teacher.prior.name if teacher.prior else type(prior).__name__, 60)
        who = f"the prior {name} or the loss {type(teacher.guidance).__name__} of teacher {number}"
        raise TeacherError(f"step {index}: {who} failed with {type(error).__name__}: {error}; --debug shows where") from error


def teach(
    teacher: Teacher, prior: Prior, cond: Conditioning, cameras: Cameras, progress: float, rng: torch.Generator, learned: Any,
    photos: Cameras | None = None,
) -> Lesson:  # fmt: skip
    """Differentiate one teacher's loss with respect to ``cond.render`` and to the loss's own parameters.

    ``photos``: the cameras of the user's photos, for ``teacher.angle_weight``.
    """
    assert cond.render is not None
    # Copies without the renderer's graph, which several teachers share and which must be passed once only.
    names = [name for name in PARTS if getattr(cond.render, name) is not None]
    tensors = {name: getattr(cond.render, name) for name in names}
    copies = {name: value.detach().requires_grad_(value.requires_grad) for name, value in tensors.items()}
    render = replace(cond.render, **copies, aux={})
    picture = shown(render, teacher.show, cameras, cond.frame_azimuth)
    out = teacher.guidance(prior, prior.encode(picture), replace(cond, render=render, shown=picture), progress, rng, learned)
    loss = value_at(teacher.weight, progress) * out.loss
    if out.learning is not None:
        loss = loss + out.learning
    if loss.requires_grad:
        loss.backward()
    gradients = [(tensors[name], copy.grad) for name, copy in copies.items() if copy.grad is not None]
    if (scale := angle_scale(teacher.angle_weight, cameras, photos)) is not None:
        gradients = [(tensor, gradient * scale.to(gradient).view(-1, 1, 1, 1)) for tensor, gradient in gradients]
    return Lesson(gradients, loss.detach(), out)
