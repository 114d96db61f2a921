"""What the lift makes of an exact teacher: is the pipeline at fault, or the prior?

    python benchmarks/exact_teacher.py mug chair [--first color] [--second color] [--steps 200 100]

The prior's place is taken by one that renders the true toy itself, so that x0_hat is exact at every noise level and camera.
What is wrong with the result then comes from the scene, the regularisers, the schedules or the cameras, and not from what a
network has learnt. ``--first`` and ``--second`` say what each stage is shown: color, normal, place, or two of them joined by
"+", as two teachers of one step.

Printed after each stage: the volume IoU with the toy, insides included, and the hollow: from above, the median depth below the
top of the largest dent that does not touch the outline's box, over the longest side (a mug has one of 0.62, a lid makes it 0).
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from dreamlift.cameras import rescaled
from dreamlift.config.schema import Config
from dreamlift.lifting import Job, asset_of, lift, load, resolve
from dreamlift.meshing.distance import signed_distances
from dreamlift.presets import PRESETS
from dreamlift.priors.base import Adapted, Prior, cosine_schedule
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.lora.lora import Targets
from dreamlift.priors.saving import Memory
from dreamlift.shading.lighting import Lighting as StageLighting
from dreamlift.stages.lift import Lift
from dreamlift.stages.teacher import Show, shown
from dreamlift.system.startup import tune_process
from dreamlift.toybox.world.render import Background, Lighting, render
from dreamlift.toybox.world.things import Thing, make_thing
from dreamlift.toybox.world.truth import cell_centers, mesh_of, occupancy_grid
from dreamlift.types import Conditioning, Mesh, RenderOutput, Step, TextStates

GRID = 48  # cells a side of the volume IoU
SIDE = 64  # cells a side of the view from above, and pixels of the teacher's pictures


class ExactPrior(Prior):
    """The score of the one true picture of each camera: x0_hat is a render of ``thing``, whatever x_t is."""

    def __init__(self, thing: Thing, show: Show, backdrop: tuple[float, float, float]) -> None:
        self.thing, self.show, self.backdrop = thing, show, backdrop
        self.resolution, self.device = SIDE, torch.device("cpu")

    def encode(self, rgb: Tensor) -> Tensor:
        return rgb.permute(0, 3, 1, 2) * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents.permute(0, 2, 3, 1) * 0.5 + 0.5).clamp(0, 1)

    def embed_text(self, prompts: list[str]) -> TextStates:
        return TextStates(torch.zeros(len(prompts), 1, 1))

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return cosine_schedule(t)

    def adapted(self, rank: int, targets: Targets, rng: torch.Generator) -> Adapted:
        raise ValueError("an exact teacher has no network to adapt")

    def save_memory(self, memory: Memory) -> None:
        """There is no network that could need less."""

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning, guidance_scale: float = 1.0) -> Tensor:
        """The exact eps_hat; guidance changes nothing."""
        assert cond.cameras is not None
        alpha, sigma = self.schedule(t)
        cameras = rescaled(cond.cameras, SIDE / cond.cameras.width)
        seen = render(self.thing, cameras, Lighting(), Background(self.backdrop, self.backdrop), supersample=1)
        picture = RenderOutput(seen.rgb, seen.opacity, seen.depth, seen.normal)
        return (x_t - alpha * self.encode(shown(picture, self.show, cameras))) / sigma.clamp_min(1e-4)


def taught(stage: Lift, words: str, thing: Thing, backdrop: tuple[float, float, float], steps: int) -> Lift:
    """``stage`` with exact teachers of what ``words`` name, high and low cameras, and no random light."""
    (old,) = stage.teachers
    teachers = tuple(
        replace(old, prior=PriorChoice.of(ExactPrior(thing, show, backdrop)), show=show)  # pyright: ignore[reportArgumentType]
        for show in words.split("+")
    )
    cameras = replace(stage.cameras, elevation_deg=(-20.0, 85.0))
    lighting: StageLighting = replace(stage.lighting, lambertian=0.0, textureless=0.0)
    return replace(stage, teachers=teachers, cameras=cameras, lighting=lighting, steps=steps)


def config_of(kind: str, thing: Thing, first: str, second: str, steps: tuple[int, int]) -> Config:
    """The default's two stages with exact teachers of ``thing``."""
    config = PRESETS["toybox"]
    backdrops = config.backdrops[:1]
    stages = zip(config.stages, (first, second), steps, strict=True)
    found = tuple(taught(stage, words, thing, backdrops[0].color, count) for stage, words, count in stages)  # pyright: ignore[reportArgumentType]
    return replace(config, prompt=f"a red {kind}", backdrops=backdrops, stages=found)


def hollow(mesh: Mesh) -> float:
    """See the module's docstring; 0 where no dent of 12 cells or more is deeper than 0.06."""
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    heights = top_view((mesh.vertices - (low + high) / 2) / (high - low).max(), mesh.faces)
    top = heights.max()
    labels, count = ndimage.label(heights < top - 0.06)
    border = {*labels[0], *labels[-1], *labels[:, 0], *labels[:, -1]}
    dents = [labels == i for i in range(1, count + 1) if i not in border]
    largest = max(dents, key=np.count_nonzero, default=np.zeros_like(labels, bool))
    return float(np.median(top - heights[largest])) if np.count_nonzero(largest) >= 12 else 0.0


def top_view(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The greatest height ``(SIDE, SIDE)`` over each cell of [-0.5, 0.5]^2 (x, z), -9 where there is none."""
    heights, axis = np.full((SIDE, SIDE), -9.0), (np.arange(SIDE) + 0.5) / SIDE - 0.5
    for a, b, c in vertices[faces]:
        (i0, i1), (k0, k1) = (np.searchsorted(axis, (min(x), max(x))) for x in ((a[0], b[0], c[0]), (a[2], b[2], c[2])))
        area = (b[2] - c[2]) * (a[0] - c[0]) + (c[0] - b[0]) * (a[2] - c[2])
        if i0 == i1 or k0 == k1 or abs(area) < 1e-12:
            continue
        x, z = np.meshgrid(axis[i0:i1], axis[k0:k1], indexing="ij")
        u = ((b[2] - c[2]) * (x - c[0]) + (c[0] - b[0]) * (z - c[2])) / area
        w = ((c[2] - a[2]) * (x - c[0]) + (a[0] - c[0]) * (z - c[2])) / area
        y = np.where((u >= 0) & (w >= 0) & (u + w <= 1), u * a[1] + w * b[1] + (1 - u - w) * c[1], -9.0)
        heights[i0:i1, k0:k1] = np.maximum(heights[i0:i1, k0:k1], y)
    return heights


def volume_iou(mesh: Mesh, true: Tensor) -> float:
    """Of the insides, on the grid of ``true (GRID, GRID, GRID)``."""
    faces = torch.from_numpy(np.ascontiguousarray(mesh.faces)).long()
    low = float(cell_centers(GRID).min())
    distances = signed_distances(torch.from_numpy(mesh.vertices).float(), faces, low, -2 * low / (GRID - 1), GRID)
    inside = distances.reshape(-1) < 0
    return float((inside & true).sum() / (inside | true).sum())


def report(job: Job, true: Tensor, when: str) -> None:
    mesh = asset_of(job.config, job.work.scenes[0]).mesh
    print(f"  {when}: IoU {volume_iou(mesh, true):.3f}  hollow {hollow(mesh):.2f}", flush=True)
    job.work.scenes[0].train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", help="toys, such as mug goblet chair")
    parser.add_argument("--first", default="color", help="what the first stage is shown")
    parser.add_argument("--second", default="color", help="what the mesh stage is shown")
    parser.add_argument("--steps", type=int, nargs=2, default=(200, 100))
    arguments = parser.parse_args()
    tune_process()
    for kind in arguments.kinds:
        thing = make_thing(kind, "red", 0)
        true = occupancy_grid(thing, GRID).reshape(-1)
        print(f"{kind} ({arguments.first}, then {arguments.second}); true hollow {hollow(mesh_of(thing, 96, 20_000, 64)):.2f}")
        job = load(resolve(config_of(kind, thing, arguments.first, arguments.second, tuple(arguments.steps))))
        for event in lift(job):
            if isinstance(event, Step) and job.number == 0 and job.work.finished:
                report(job, true, "after the first stage")
        report(job, true, "at the end")


if __name__ == "__main__":
    main()
