"""HiFA (Zhu et al. 2023, https://arxiv.org/abs/2305.18766): a term on pictures, annealed t, depth variance along rays."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.hifa import HiFA
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import FourViews
from dreamlift.scenes.background import Learned
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.schedules import Sqrt
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher

HIFA = Config(
    stages=(
        Lift(
            steps=25_000,
            cameras=CameraSampler(
                views=1,
                resolution=(512,),
                elevation_deg=(-10.0, 45.0),
                distance=(1.0, 1.5),
                fov_deg=(40.0, 70.0),
                angle_share=0.5,
            ),
            scene=Nerf(
                field=Hashgrid(
                    levels=16,
                    log2_rows=19,
                    start_levels=16,
                    activation="softplus",
                    blob=Blob(kind="cone", scale=10.0, std=0.5),
                    lr=0.01,
                    mlp_lr=0.001,
                ),
                background=Learned(random_probability=0.5),
                samples_per_ray=512,
                chunk_rays=8192,
            ),
            weights=Weights(sparsity=1.0, depth_variance=100.0),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=HiFA(
                        guidance_scale=101.0,
                        t_min=Sqrt(start_value=0.98, end_value=0.3),
                        t_max=Sqrt(start_value=0.98, end_value=0.3),
                        weighting="sigma2",
                    ),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""threestudio's ``hifa.yaml``: 512 pixels, t from 0.98 to 0.3 with the square root of progress.

Differences: the picture term compares decoded latents, where threestudio compares the render with a decoded picture, so that
both have passed through the decoder.
"""

PRESETS = {
    "hifa": Preset(HIFA, "Zhu et al. 2023", "sharper detail at 512 pixels"),
}
