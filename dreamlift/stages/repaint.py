"""The stage that repaints renders of the asset so far: posed pictures, from which a lift goes on.

DreamBooth3D (Raj et al. 2023, section 3.2, https://arxiv.org/abs/2303.13508): renders of a first, rough asset are noised to a
fixed time and denoised by a prior that knows the subject well. The results keep the views of the renders and have the subject's
looks; a later stage is compared with them (:mod:`dreamlift.stages.photometric`, source "handover").

One step makes one picture: render the mesh, ask the teacher's loss for its clean picture x0, decode it. With
:class:`~dreamlift.guidance.refine.Refine` that is image-to-image sampling from ``t_min`` = ``t_max`` (SDEdit, Meng et al. 2022,
https://arxiv.org/abs/2108.01073).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from dreamlift.cameras import orbit_cameras
from dreamlift.guidance.refine import Refine
from dreamlift.priors.kinds import Located
from dreamlift.prompts import Backdrop
from dreamlift.stages.base import Place, Ready, Stage, Work
from dreamlift.stages.teacher import Teacher, failures_of
from dreamlift.system.streams import random_stream
from dreamlift.texturing.draw import render_mesh
from dreamlift.texturing.extract import Extract
from dreamlift.tuning.photos import plain_backdrops
from dreamlift.types import Cameras, Handover, Pictures, Step

WHITE = Backdrop("", (1.0, 1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Repaint(Stage):
    """Draw pictures of the asset of the stages before, from all sides, by one teacher."""

    leaves_pictures: ClassVar[bool] = True

    views: int = 20  # pictures, at least 1, evenly spaced in azimuth; DreamBooth3D: 20
    elevation_deg: tuple[float, ...] = (0.0, 30.0)  # elevations of the views in turn, degrees in [-90, 90]
    distance: float = 2.6  # of the cameras from the origin, world units, above 0
    fov_deg: float = 45.0  # vertical field of view, degrees in [1, 170]
    keep_mesh: bool = False  # true: the next stage also gets the mesh; false: it begins anew, with the pictures only
    # one prior, shown colors; its loss makes the pictures: refine samples them from the noised renders
    teachers: tuple[Teacher, ...] = (Teacher(guidance=Refine(guidance_scale=7.5, t_min=0.5, t_max=0.5)),)

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"views is {self.views}; it must be at least 1")
        if not self.elevation_deg or not all(-90.0 <= value <= 90.0 for value in self.elevation_deg):
            raise ValueError(f"elevation_deg is {list(self.elevation_deg)}; give one or several angles of -90 to 90 degrees")
        if self.distance <= 0 or not 1.0 <= self.fov_deg <= 170.0:
            raise ValueError(f"distance is {self.distance:g} and fov_deg {self.fov_deg:g}; accepted: above 0, and 1 to 170")
        if len(self.teachers) != 1 or self.teachers[0].show != "color":
            raise ValueError("a repaint stage has exactly one teacher, whose show is color")

    @property
    def drops_mesh(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.keep_mesh

    def total_steps(self, particles: int) -> int:
        return self.views

    def check(self, place: Place) -> None:
        if not place.has_mesh:
            raise ValueError("a repaint stage draws an asset; put a lift stage before it, or give --mesh FILE")
        if place.particles > 1:
            raise ValueError(f"a repaint stage draws one asset, but particles is {place.particles}; set it to 1")

    def needs_of_handover(self, settings: Extract) -> Extract:
        """With a texture, which the pictures show."""
        return replace(settings, normal_map=False)

    def spoken(self, backdrops: tuple[Backdrop, ...], located: Located) -> tuple[Backdrop, ...]:
        """Those of the run; without any, large priors are told that it is white."""
        return backdrops or plain_backdrops(located.parts)

    def begin(self, ready: Ready) -> Repainting:
        return Repainting(self, ready)

    def cameras(self, size: int) -> Cameras:
        """The cameras of all pictures, ``size`` pixels a side."""
        azimuth = torch.arange(self.views) * (2 * math.pi / self.views)
        elevation = torch.tensor([math.radians(self.elevation_deg[k % len(self.elevation_deg)]) for k in range(self.views)])
        ones = torch.ones(self.views)
        return orbit_cameras(azimuth, elevation, ones * self.distance, ones * math.radians(self.fov_deg), size)


class Repainting(Work):
    """See the module's docstring."""

    def __init__(self, stage: Repaint, ready: Ready) -> None:
        mesh = ready.handover.meshes[0] if ready.handover.meshes else None
        if mesh is None:
            raise ValueError("a repaint stage draws an asset, and the stage before it left none")
        self.stage, self.ready, self.mesh, self.prior = stage, ready, mesh, ready.priors[0]
        self.first = self.index = ready.place.first
        self.end = self.first + stage.views
        self.cameras = stage.cameras(self.prior.resolution)
        self.backdrop = ready.place.backdrops[0] if ready.place.backdrops else WHITE
        self.learned = stage.teachers[0].guidance.init(self.prior, random_stream(ready.place.seed, "repaint"))
        size = self.prior.resolution
        self.rgb, self.alpha = torch.zeros(0, size, size, 3), torch.zeros(0, size, size, 1)

    def step(self) -> Step:
        view = self.index - self.first
        camera, rng = self.cameras[view : view + 1], random_stream(self.ready.place.seed, self.index)
        teacher, behind = self.stage.teachers[0], torch.tensor([self.backdrop.color])
        render = render_mesh(self.mesh, camera, behind)
        there = camera.to(self.prior.device)
        with torch.no_grad():
            cond = self.ready.embeds[0].at(there, [self.backdrop] if self.ready.place.backdrops else ())
            latents = self.prior.encode(render.rgb.to(self.prior.device))
            with failures_of(teacher, self.prior, 0, self.index):
                out = teacher.guidance(self.prior, latents, cond, 0.0, rng, self.learned)
            picture = self.prior.decode(out.x0).float().cpu()
        change = float((picture - render.rgb).square().mean())
        self.rgb, self.alpha = torch.cat([self.rgb, picture]), torch.cat([self.alpha, render.opacity])
        self.index += 1
        return Step(self.index - 1, change, {"change": change}, camera, render, (out,))

    def leave(self, settings: Extract) -> Handover:
        """The pictures with their cameras. Their masks are those of the renders."""
        pictures = Pictures(self.rgb, self.alpha, self.cameras)
        meshes = self.ready.handover.meshes if self.stage.keep_mesh else ()
        return replace(self.ready.handover, meshes=meshes, pictures=pictures)

    def state_dict(self) -> dict[str, Any]:
        return {"index": self.index, "rgb": self.rgb, "alpha": self.alpha}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.index, self.rgb, self.alpha = saved["index"], saved["rgb"], saved["alpha"]
