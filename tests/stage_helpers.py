"""What the tests of lift stages share: the work of one stage without a run around it, and a small stage."""

import torch

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.sds import SDS
from dreamlift.priors.exact.gaussian import GaussianPrior
from dreamlift.prompts import NoViews, embed_prompt
from dreamlift.scenes.background import Learned
from dreamlift.scenes.nerf.occupancy import Occupancy
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.schedules import Linear
from dreamlift.stages.base import Ready
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher
from dreamlift.system.streams import random_stream
from dreamlift.types import Handover, Task

SIZE = 12
FIELD = Voxel(resolutions=(5, 9), switch_on=(0.0, 0.4))
STAGE = Lift(
    steps=10,
    cameras=CameraSampler(views=2, resolution=(SIZE,)),
    scene=Nerf(field=FIELD, background=Learned(), samples_per_ray=12, occupancy=Occupancy(resolution=8, every=2, warmup=4)),
    weights=Weights(sparsity=Linear(0.0, 0.1), distortion=0.01, tv=0.1, orientation=0.01),
    teachers=(Teacher(guidance=SDS(guidance_scale=1.0), wording=NoViews()),),
)
CONFIG = Config(stages=(STAGE,))


def begun(config, *priors, number=0, handover=Handover(), task=None):  # noqa: B008 - it is frozen
    """The work of stage ``number`` at its first step. ``priors``: one a teacher, or one that all of them share."""
    stage, place = config.stages[number], config.places()[number]
    task = task or Task(config.prompt or "a mug", config.negative)
    priors = priors * len(stage.teachers) if len(priors) == 1 else priors
    embeds = tuple(
        embed_prompt(task.prompt, task.negative, teacher.wording, prior.embed_text, place.backdrops)
        for teacher, prior in zip(stage.teachers, priors, strict=True)
    )
    return stage.begin(Ready(place, task, torch.device("cpu"), priors, embeds, handover))


def steps_of(work):
    """All steps that are left of a stage's work, as they are done."""
    while not work.finished:
        yield work.step()


def gaussian_prior():
    means = torch.rand(2, 3, SIZE, SIZE, generator=random_stream("means"))
    return GaussianPrior(means, torch.tensor([0.1, 0.3]))


def begin(config, prior=None):
    """(work, steps): the generator has not begun yet."""
    work = begun(config, prior or gaussian_prior())
    return work, steps_of(work)


def carried_out(config, prior=None):
    work, steps = begin(config, prior)
    return work, list(steps)
