"""LucidDreamer (Liang et al. 2023, https://arxiv.org/abs/2311.11284): interval score matching."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.ism import ISM
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import FourViews
from dreamlift.scenes.background import Random
from dreamlift.scenes.gaussians.densify import Densify
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.schedules import Linear
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Adam
from dreamlift.stages.teacher import Teacher

LUCIDDREAMER = Config(
    negative=(
        "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, oversaturation."
    ),
    stages=(
        Lift(
            steps=5000,
            cameras=CameraSampler(
                views=4,
                resolution=(512,),
                elevation_deg=(-15.0, 45.0),
                distance=(5.2, 5.5),
                fov_deg=(18.3, 34.4),
                angle_share=1.0,
            ),
            scene=Gaussians(
                background=Random(probability=0.66, color=(1.0, 1.0, 1.0)),
                densify=Densify(
                    every=100,
                    start_progress=0.02,
                    end_progress=0.599,
                    gradient=0.00075,
                    split_above=0.0105,
                    prune_opacity=0.005,
                    prune_scale=0.35,
                    reset_every=300,
                ),
                capacity=500_000,
                count=100_000,
                means_lr=5.6e-4,
                means_lr_end=5.6e-6,
                means_until=1.0,
                color_lr=0.005,
                opacity_lr=0.05,
                scale_lr=0.005,
                quat_lr=0.001,
            ),
            adam=Adam(beta2=0.999),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=ISM(
                        guidance_scale=7.5,
                        delta=Linear(start_value=0.1, end_value=0.08, end=0.3),
                        stride=0.2,
                        t_min=0.02,
                        t_max=Linear(start_value=0.98, end_value=0.5, end=0.3),
                    ),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=90.0, blend=True),
                    weight=0.4,
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""LucidDreamer's ``configs/bagel.yaml`` and ``arguments/__init__.py`` (one GPU of 24 GB or more); learning rates of positions
are the row's times its spatial scale of 3.5, the weight 0.4 is its 0.1 for each of four views, whose gradients it adds up.

Differences: the Gaussians begin as a ball, which the row has for some prompts, not by Point-E; the cameras' ranges are those
of the first 500 steps (they widen to distance 3.5 and 9.2 degrees); no depth pictures for the teacher (a fifth of the row's
steps), no total variation and no scale term (both of weight 1); backdrops of random colors, half of which are black in the
row; the learning rates of colors, scales and rotations do not fall (to 0.003, 0.001, 0.0002); no jitter of the poses (0.05),
no flips, no noise on the scales, and each view has its own t.
"""

PRESETS = {
    "luciddreamer": Preset(LUCIDDREAMER, "Liang et al. 2023", "interval score matching on Gaussians"),
}
