"""Rectified-flow distillation (Yang et al. 2024, https://arxiv.org/abs/2406.03293) with Stable Diffusion 3."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.rfds import RFDS
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import FourViews
from dreamlift.scenes.background import Learned
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.schedules import Linear
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher

SD3_FLOW = Config(
    stages=(
        Lift(
            steps=10_000,
            cameras=CameraSampler(
                views=1, resolution=(64, 512), elevation_deg=(-10.0, 45.0), distance=(1.5, 2.0), fov_deg=(40.0, 70.0)
            ),
            scene=Nerf(
                field=Hashgrid(
                    levels=16,
                    log2_rows=19,
                    start_levels=8,
                    activation="softplus",
                    blob=Blob(kind="cone", scale=10.0, std=0.5),
                    lr=0.01,
                    mlp_lr=0.01,
                ),
                background=Learned(random_probability=0.0),
                samples_per_ray=512,
                chunk_rays=8192,
            ),
            weights=Weights(sparsity=1.0, orientation=Linear(start_value=10.0, end_value=1000.0, end=0.5)),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd3-medium"),
                    guidance=RFDS(guidance_scale=50.0, t_min=0.02, t_max=0.98),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""RFDS's loss on Stable Diffusion 3; the paper's repository has no config for this model.

Differences: the scene and its weights are those of threestudio's ``dreamfusion-sd.yaml``, without its lighting and its jitter
of the cameras, at 64 pixels and from half of the run on at 512.
"""

PRESETS = {
    "sd3-flow": Preset(SD3_FLOW, "Yang et al. 2024", "text to 3D with Stable Diffusion 3"),
}
