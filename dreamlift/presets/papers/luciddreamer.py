"""LucidDreamer (Liang et al. 2023, https://arxiv.org/abs/2311.11284): interval score matching."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.ism import ISM
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

LUCIDDREAMER = Config(
    stages=(
        Lift(
            steps=5000,
            cameras=CameraSampler(
                views=4, resolution=(512,), elevation_deg=(-15.0, 45.0), distance=(1.5, 2.0), fov_deg=(40.0, 70.0)
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
            weights=Weights(sparsity=1.0),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=ISM(guidance_scale=7.5, t_min=0.02, t_max=Linear(start_value=0.98, end_value=0.5, end=0.3)),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""LucidDreamer's loss, schedule of t and batch size (``configs/``, one GPU of 24 GB or more).

Differences: the scene is a radiance field with dreamfusion-sd's field at 512 pixels (without its lighting and
orientation term), not Gaussians initialized by Point-E.
"""

PRESETS = {
    "luciddreamer": Preset(LUCIDDREAMER, "Liang et al. 2023", "interval score matching on a radiance field"),
}
