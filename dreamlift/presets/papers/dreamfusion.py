"""DreamFusion (Poole et al. 2022, https://arxiv.org/abs/2209.14988): score distillation sampling."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.sds import SDS
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import FourViews
from dreamlift.scenes.background import Learned
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.schedules import Linear
from dreamlift.shading.lighting import Lighting
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher

DREAMFUSION_IF = Config(
    stages=(
        Lift(
            steps=10_000,
            cameras=CameraSampler(
                views=1,
                resolution=(64,),
                elevation_deg=(-10.0, 90.0),
                distance=(1.5, 2.0),
                fov_deg=(40.0, 70.0),
                angle_share=0.5,
                position_jitter=0.1,
                center_jitter=0.2,
                up_jitter=0.02,
            ),
            lighting=Lighting(
                lambertian=0.75,
                textureless=0.5,
                start_progress=0.2,
                ambient=0.1,
                distance=(0.8, 1.5),
                placement="dreamfusion",
            ),
            scene=Nerf(
                field=Hashgrid(
                    levels=16,
                    log2_rows=19,
                    start_levels=8,
                    activation="softplus",
                    color_activation="linear",
                    blob=Blob(kind="cone", scale=10.0, std=0.5),
                    lr=0.01,
                    mlp_lr=0.01,
                ),
                background=Learned(random_probability=0.0, color_activation="linear"),
                samples_per_ray=512,
            ),
            weights=Weights(sparsity=1.0, orientation=Linear(start_value=10.0, end_value=1000.0, end=0.5)),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="deepfloyd-if"),
                    guidance=SDS(guidance_scale=21.0, t_min=0.02, t_max=0.98, weighting="sigma2"),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""threestudio's ``dreamfusion-if.yaml`` (one 24 GB GPU): its guidance scale 20 is 21 in dreamlift's convention.

Differences: half edge 1 of the field's cube, not 2 (cells of the hash grid half as wide); one type of shading per picture, not
per batch (the same with one view); normals are differences of the density over 0.01, not its derivative.
"""

DREAMFUSION_SD = Config(
    stages=(
        Lift(
            steps=10_000,
            cameras=CameraSampler(
                views=1,
                resolution=(64,),
                elevation_deg=(-10.0, 45.0),
                distance=(1.5, 2.0),
                fov_deg=(40.0, 70.0),
                angle_share=0.5,
                position_jitter=0.1,
                center_jitter=0.2,
                up_jitter=0.02,
            ),
            lighting=Lighting(
                lambertian=0.75,
                textureless=0.5,
                start_progress=0.2,
                ambient=0.1,
                distance=(0.8, 1.5),
                placement="dreamfusion",
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
            ),
            weights=Weights(sparsity=1.0, orientation=Linear(start_value=10.0, end_value=1000.0, end=0.5)),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=SDS(guidance_scale=101.0, t_min=0.02, t_max=0.98, weighting="sigma2"),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""threestudio's ``dreamfusion-sd.yaml`` (one 24 GB GPU): its guidance scale 100 is 101 in dreamlift's convention.

Differences: those of dreamfusion-if.
"""

PRESETS = {
    "dreamfusion-if": Preset(DREAMFUSION_IF, "Poole et al. 2022", "text to 3D with a pixel model"),
    "dreamfusion-sd": Preset(DREAMFUSION_SD, "Poole et al. 2022", "text to 3D with Stable Diffusion"),
}
