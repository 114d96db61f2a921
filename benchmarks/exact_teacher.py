"""What the lift makes of an exact teacher: is the pipeline at fault, or the prior?

    python benchmarks/exact_teacher.py mug chair [--first color] [--second color] [--steps 200 100]

The prior's place is taken by one that renders the true toy itself, so that x0_hat is exact at every noise level and camera.
What is wrong with the result then comes from the scene, the regularisers, the schedules or the cameras, and not from what a
network has learnt. ``--first`` and ``--second`` say what each stage is shown: color, normal, place, or two of them joined by
"+", as two teachers of one step.

Printed after each stage: the volume IoU with the toy, insides included; the hollow, the median depth of the opening from above
over the longest side (a mug has one of 0.62, a lid makes it 0); and the roughness over the toy's (docs/evaluate-shape.md).
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from dreamlift.cameras import rescaled
from dreamlift.config.schema import Config
from dreamlift.lifting import Job, asset_of, lift, load, resolve
from dreamlift.meshing.clean import decimate
from dreamlift.presets import PRESETS
from dreamlift.priors.base import Adapted, Prior, cosine_schedule
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.lora.lora import Targets
from dreamlift.priors.saving import Memory
from dreamlift.shading.lighting import Lighting as StageLighting
from dreamlift.stages.lift import Lift
from dreamlift.stages.teacher import Show, shown
from dreamlift.system.startup import tune_process
from dreamlift.toybox.judging.opening import hollow
from dreamlift.toybox.judging.surfaces import bound_of, roughness_deg
from dreamlift.toybox.judging.volume import volume_iou
from dreamlift.toybox.world.render import Background, Lighting, render
from dreamlift.toybox.world.things import Thing, make_thing
from dreamlift.toybox.world.truth import occupancy_grid, surface_of
from dreamlift.types import Conditioning, RenderOutput, Step, TextStates

GRID = 48  # cells a side of the volume IoU
SIDE = 64  # pixels a side of the teacher's pictures


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


def report(job: Job, thing: Thing, when: str) -> None:
    mesh = asset_of(job.config, job.work.scenes[0]).mesh
    own, true = (roughness_deg(bound_of(each)) for each in (mesh, decimate(surface_of(thing, 128), len(mesh.faces))))
    iou = volume_iou(mesh, occupancy_grid(thing, GRID))
    print(f"  {when}: IoU {iou:.3f}  hollow {hollow(mesh):.2f}  roughness {own / true:.2f}", flush=True)
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
        print(f"{kind} ({arguments.first}, then {arguments.second}); true hollow {hollow(surface_of(thing, 96)):.2f}")
        job = load(resolve(config_of(kind, thing, arguments.first, arguments.second, tuple(arguments.steps))))
        for event in lift(job):
            if isinstance(event, Step) and job.number == 0 and job.work.finished:
                report(job, thing, "after the first stage")
        report(job, thing, "at the end")


if __name__ == "__main__":
    main()
