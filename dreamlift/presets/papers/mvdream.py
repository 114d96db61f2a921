"""MVDream (Shi et al. 2023, https://arxiv.org/abs/2308.16512): four views denoised together."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.reconstruction import Reconstruction
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import NoViews
from dreamlift.scenes.background import Learned
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.schedules import Linear
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Adam
from dreamlift.stages.teacher import Teacher

MVDREAM = Config(
    negative=(
        "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, lowres, "
        "low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, bad proportions"
    ),
    stages=(
        Lift(
            steps=10_000,
            cameras=CameraSampler(
                views=4,
                orbit=4,
                resolution=(64, 256),
                elevation_deg=(0.0, 30.0),
                distance=(0.8, 1.0),
                relative=True,
                fov_deg=(15.0, 60.0),
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
                background=Learned(shared=True),
                samples_per_ray=512,
                chunk_rays=8192,
            ),
            adam=Adam(variant="adamw"),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="mvdream"),
                    guidance=Reconstruction(
                        guidance_scale=50.0,
                        rescale=0.5,
                        t_min=Linear(start_value=0.98, end_value=0.02, end=0.8),
                        t_max=Linear(start_value=0.98, end_value=0.5, end=0.8),
                    ),
                    wording=NoViews(),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""MVDream's config for threestudio, ``mvdream-sd21.yaml`` (one 32 GB GPU).

Differences: 4 views per step at 64 pixels, not 8.
"""

PRESETS = {
    "mvdream": Preset(MVDREAM, "Shi et al. 2023", "four consistent views, so no second front"),
}
