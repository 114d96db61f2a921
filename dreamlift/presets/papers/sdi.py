"""Score distillation via inversion (Lukoianov et al. 2024, https://arxiv.org/abs/2405.15891)."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.sdi import SDI
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

SDI = Config(
    stages=(
        Lift(
            steps=10_000,
            cameras=CameraSampler(
                views=1,
                resolution=(512,),
                elevation_deg=(-10.0, 45.0),
                distance=(1.5, 2.0),
                fov_deg=(40.0, 70.0),
                angle_share=0.5,
                position_jitter=0.1,
                center_jitter=0.2,
                up_jitter=0.02,
            ),
            lighting=Lighting(
                lambertian=0.3,
                textureless=0.75,
                start_progress=0.1,
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
                chunk_rays=8192,
            ),
            weights=Weights(
                sparsity=Linear(start_value=0.15, end_value=0.0, end=0.3), opaque=0.1, orientation=0.1, depth_variance=1.0
            ),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=SDI(
                        guidance_scale=7.5,
                        t_min=Linear(start_value=0.98, end_value=0.25),
                        t_max=Linear(start_value=0.98, end_value=0.25),
                        weighting="x0",
                        mean=True,
                    ),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0, perp_neg=1.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""threestudio's ``sdi.yaml``.

Differences: no convexity term (weight 1 falling to 0.1 in the row); the noise of the inversion is added once, with eta 0.06,
where the row adds 3 to 9% of kappa's variance over its steps; the inversion has equal steps from t = 0.02 to t, where the
row's are multiples of 0.1, the first from below 0; it ends at t, where the row's ends up to 0.1 above it; half edge 1 of the
field's cube, not 2 (cells of the hash grid half as wide).
"""

PRESETS = {
    "sdi": Preset(SDI, "Lukoianov et al. 2024", "even color and detail without a LoRA"),
}
