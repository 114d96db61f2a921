"""Magic3D (Lin et al. 2022, https://arxiv.org/abs/2211.10440): a field with a pixel model, then its mesh with a latent one."""

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
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.schedules import Linear
from dreamlift.shading.lighting import Lighting
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher

MAGIC3D = Config(
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
                lambertian=0.75, textureless=0.5, start_progress=0.2, soft=True, distance=(0.8, 1.5), placement="magic3d"
            ),
            scene=Nerf(
                field=Hashgrid(
                    levels=16,
                    log2_rows=19,
                    start_levels=16,
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
                    prior=PriorChoice(name="deepfloyd-if"),
                    guidance=SDS(guidance_scale=21.0, t_min=0.02, t_max=0.98, weighting="uniform"),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                ),
            ),
        ),
        Lift(
            steps=5000,
            cameras=CameraSampler(
                views=1,
                resolution=(512,),
                elevation_deg=(-10.0, 45.0),
                distance=(1.5, 2.0),
                fov_deg=(30.0, 45.0),
                angle_share=0.5,
                position_jitter=0.1,
                center_jitter=0.2,
                up_jitter=0.02,
            ),
            lighting=Lighting(lambertian=0.75, textureless=0.5, soft=True, distance=(0.8, 1.5), placement="magic3d"),
            scene=TetMesh(
                resolution=128,
                deform=0.5,
                color=Hashgrid(
                    levels=16,
                    log2_rows=19,
                    start_levels=16,
                    activation="softplus",
                    blob=Blob(kind="none", scale=10.0, std=0.5),
                    lr=0.01,
                    mlp_lr=0.01,
                ),
                background=Learned(random_probability=0.0, lr=0.01),
                sdf_lr=0.01,
                deform_lr=0.01,
            ),
            weights=Weights(vertex_consistency=10_000.0),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=SDS(guidance_scale=101.0, t_min=0.02, t_max=0.5, weighting="sigma2"),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""threestudio's ``magic3d-coarse-if.yaml`` and ``magic3d-refine-sd.yaml``.

Differences: half edge 1 of the scene's cube, not 2 (cells of the hash grid and of the tetrahedral grid half as wide); signed
distances are in cells, where the row has the density minus its threshold, clamped to [-1, 1]; grid points move by at most half
a cell, not a whole one.
"""

PRESETS = {
    "magic3d": Preset(MAGIC3D, "Lin et al. 2022", "a coarse field, then its mesh at 512 pixels"),
}
