"""ProlificDreamer (Wang et al. 2023, https://arxiv.org/abs/2305.16213): variational score distillation in three stages."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.sds import SDS
from dreamlift.guidance.vsd import VSD
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import FourViews
from dreamlift.scenes.background import Learned
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.schedules import Switch
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Adam, Weights
from dreamlift.stages.teacher import Teacher

PROLIFICDREAMER = Config(
    stages=(
        Lift(
            steps=25_000,
            cameras=CameraSampler(
                views=1,
                resolution=(64, 512, 512, 512, 512),
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
                background=Learned(),
                samples_per_ray=512,
                chunk_rays=8192,
            ),
            weights=Weights(sparsity=10.0, opaque=Switch(before=0.0, after=1000.0, at=0.4)),
            adam=Adam(variant="adamw"),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=VSD(
                        guidance_scale=7.5,
                        t_min=0.02,
                        t_max=Switch(before=0.98, after=0.5, at=0.2),
                        weighting="sigma2",
                        rank=4,
                        lora_lr=0.0001,
                        lora_target="v",
                        camera_input="matrix",
                    ),
                    wording=FourViews(front_deg=30.0, back_deg=30.0, overhead_deg=60.0),
                ),
            ),
        ),
        Lift(
            steps=15_000,
            cameras=CameraSampler(
                views=1,
                resolution=(512,),
                elevation_deg=(-10.0, 45.0),
                distance=(1.0, 1.5),
                fov_deg=(40.0, 70.0),
                angle_share=0.5,
            ),
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
                    mlp_lr=0.001,
                ),
                background=Learned(),
                texture=False,
                sdf_lr=0.005,
                deform_lr=0.005,
            ),
            weights=Weights(vertex_consistency=10_000.0, laplacian=10_000.0),
            teachers=(
                Teacher(
                    guidance=SDS(
                        guidance_scale=101.0,
                        t_min=0.02,
                        t_max=Switch(before=0.98, after=0.5, at=0.3333333333333333),
                        weighting="sigma2",
                    ),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                    show="normal",
                ),
            ),
        ),
        Lift(
            steps=30_000,
            cameras=CameraSampler(
                views=1,
                resolution=(512,),
                elevation_deg=(-10.0, 45.0),
                distance=(1.0, 1.5),
                fov_deg=(40.0, 70.0),
                angle_share=0.5,
            ),
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
                    mlp_lr=0.001,
                ),
                background=Learned(random_probability=0.0),
                geometry=False,
                sdf_lr=0.005,
                deform_lr=0.005,
            ),
            adam=Adam(variant="adamw"),
            teachers=(
                Teacher(
                    guidance=VSD(
                        guidance_scale=7.5,
                        t_min=0.02,
                        t_max=Switch(before=0.98, after=0.5, at=0.16666666666666666),
                        weighting="sigma2",
                        rank=4,
                        lora_lr=0.0001,
                        lora_target="v",
                        camera_input="matrix",
                    ),
                    wording=FourViews(front_deg=30.0, back_deg=30.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""threestudio's ``prolificdreamer.yaml``, ``-geometry`` and ``-texture`` (one 32 GB GPU).

Differences: the LoRA is one of the base model, not of its v-prediction sibling, and its prompts have view phrases; loose parts
are not removed between the stages' meshes as in ``remove_outliers``; signed distances are in cells, where the row has the
density minus its threshold, clamped to [-1, 1]; grid points move by at most half a cell, not a whole one.
"""

PRESETS = {
    "prolificdreamer": Preset(PROLIFICDREAMER, "Wang et al. 2023", "the most detailed results, slow"),
}
