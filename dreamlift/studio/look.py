"""What a visitor sees of a run between two steps: the scene from the visitor's camera, and the teacher's estimate.

Nothing that the run uses is changed: renders are made without gradients and in ``eval()`` mode, which draws no random numbers
and updates no state; every module's mode and torch's own random generators are as before at the end.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamlift.cameras import orbit_cameras
from dreamlift.scenes.base import Scene
from dreamlift.schedules import value_at
from dreamlift.stages.lift import Lift, LiftWork
from dreamlift.stages.teacher import Teacher, shown
from dreamlift.system.streams import random_stream
from dreamlift.types import Cameras, GuidanceOutput, Step

FOV_DEG = 42.0
CLAY = 0.78  # sRGB grey


@dataclass(frozen=True)
class Look:
    """A visitor's camera, around the object's center."""

    azimuth: float  # radians, 0: the front
    elevation: float  # radians
    distance: float  # world units
    clay: bool | None = None  # shaded grey instead of colours; None: as fits the stage


@contextmanager
def untouched(scene: Scene) -> Iterator[None]:
    """Renders within it leave the scene's modules and torch's random generators as they were."""
    modes = [(module, module.training) for module in scene.modules()]
    with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=True):
        scene.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def draw(scene: Scene, look: Look, size: int, clay: bool) -> np.ndarray:
    """The scene on white, ``(size, size, 3)`` uint8."""
    one = torch.ones(1)
    camera = orbit_cameras(look.azimuth * one, look.elevation * one, look.distance * one, math.radians(FOV_DEG) * one, size)
    device = next(iter(scene.parameters())).device
    with untouched(scene):
        white = torch.ones(3, device=device)
        out = scene.render(camera.to(device), random_stream("studio"), background=white, normals=clay)
        picture = out.rgb if out.normal is None else _shaded(out.normal, out.opacity, camera)
        return as_bytes(picture[0])


def _shaded(normal: Tensor, opacity: Tensor, camera: Cameras) -> Tensor:
    """Grey ``(B, H, W, 3)`` on white, lit from above the camera's left shoulder."""
    axes = camera.c2w[0, :3, :3].to(normal)  # right, down, forward
    light = torch.nn.functional.normalize(-axes[:, 2] - 0.7 * axes[:, 1] - 0.5 * axes[:, 0], dim=0)
    cosine = (torch.nn.functional.normalize(normal, dim=-1) * light).sum(dim=-1, keepdim=True)
    grey = CLAY * (0.42 + 0.58 * cosine.clamp(min=0))
    return (grey * opacity + 1 - opacity).expand(-1, -1, -1, 3)


def wants_clay(stage: object) -> bool:
    """Whether the stage trains no colours, so that only its shape says something."""
    return isinstance(stage, Lift) and stage.photometric is None and all(each.show != "color" for each in stage.teachers)


def pair(work: LiftWork, step: Step) -> tuple[np.ndarray, np.ndarray, str] | None:
    """The first picture that a teacher was shown in a step, and its estimate of the clean one, x0: ``(H, W, 3)`` uint8 both,
    and what they show (color, normal or place). None: no teacher was asked in the step.
    """
    found = _first(work, step)
    if found is None or step.render is None or step.cameras is None:
        return None
    number, teacher, out = found
    with untouched(work.scenes[0]):
        cameras = step.cameras[:1]
        turn = work.ready.embeds[number].at(cameras, (), teacher.show).frame_azimuth if teacher.show == "place" else 0.0
        seen = shown(step.render, teacher.show, step.cameras, turn)[0]
        guess = work.ready.priors[number].decode(out.x0[: work.ready.priors[number].views].detach())[0]
        return as_bytes(seen), as_bytes(guess), teacher.show


def _first(work: LiftWork, step: Step) -> tuple[int, Teacher, GuidanceOutput] | None:
    """The first teacher that was asked in a step, with its number and its answer."""
    stage, own = work.stage, (step.index - work.first) // work.place.particles
    progress = min(own / (stage.schedule_steps or stage.steps), 1.0)
    asked = [(number, each) for number, each in enumerate(stage.teachers) if value_at(each.weight, progress) != 0.0]
    return (*asked[0], step.guidance[0]) if asked and step.guidance else None


def as_bytes(picture: Tensor) -> np.ndarray:
    """``(H, W, 3)`` in [0, 1] as uint8, on the CPU."""
    return (picture.detach().float().clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()


def jpeg(picture: np.ndarray) -> bytes:
    """An ``(H, W, 3)`` uint8 picture as a JPEG file."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=88)
    return out.getvalue()
