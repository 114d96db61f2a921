"""Latent-NeRF and Latent-Paint (Metzer et al. 2022, https://arxiv.org/abs/2211.07600)."""

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
from dreamlift.scenes.surface.scene import Surface
from dreamlift.schedules import Exponential
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Adam, Weights
from dreamlift.stages.teacher import Teacher

LATENT_NERF = Config(
    stages=(
        Lift(
            steps=10_000,
            cameras=CameraSampler(
                views=1,
                resolution=(64,),
                elevation_deg=(-10.0, 45.0),
                distance=(1.0, 1.5),
                fov_deg=(40.0, 70.0),
                angle_share=0.5,
                position_jitter=0.1,
                center_jitter=0.2,
                up_jitter=0.02,
            ),
            scene=Nerf(
                field=Hashgrid(
                    levels=16,
                    log2_rows=19,
                    start_levels=16,
                    activation="exp",
                    blob=Blob(kind="gaussian", scale=5.0, std=0.2),
                    lr=0.01,
                    mlp_lr=0.01,
                ),
                background=Learned(random_probability=0.0, lr=0.01),
                samples_per_ray=512,
            ),
            weights=Weights(sparsity=0.0005),
            adam=Adam(lr_scale=Exponential(start_value=1.0, end_value=0.1, start=0.01, end=1.0, warm_up=0.1)),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base", linear_encoder=True),
                    guidance=SDS(guidance_scale=101.0, t_min=0.02, t_max=0.98, weighting="sigma2"),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""threestudio's ``latentnerf.yaml`` (its first stage).

Differences: renders are colors that a linear map, fitted to the autoencoder, converts to latents, not four latent channels.
"""

LATENT_PAINT = Config(
    stages=(
        Lift(
            steps=5000,
            cameras=CameraSampler(
                views=1, resolution=(512,), elevation_deg=(-10.0, 45.0), distance=(1.5, 2.0), fov_deg=(40.0, 70.0)
            ),
            scene=Surface(keep_colors=False),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"), wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0)
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""Latent-Paint's task, a texture for a mesh.

Differences: the texture has colors that are encoded, where the paper optimizes a texture of latents and decodes it.
"""

PRESETS = {
    "latent-nerf": Preset(LATENT_NERF, "Metzer et al. 2022", "a fast draft with Stable Diffusion, without its encoder"),
    "latent-paint": Preset(LATENT_PAINT, "Metzer et al. 2022", "a texture for your own mesh (--mesh FILE)"),
}
