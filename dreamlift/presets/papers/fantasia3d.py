"""Fantasia3D (Chen et al. 2023, https://arxiv.org/abs/2303.13873): a shape from normals, then a PBR material."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.sds import SDS
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import FourViews
from dreamlift.scenes.background import Solid
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.surface.scene import Surface
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Adam
from dreamlift.stages.teacher import Teacher

FANTASIA3D = Config(
    stages=(
        Lift(
            steps=10_000,
            cameras=CameraSampler(
                views=1,
                resolution=(512,),
                elevation_deg=(-10.0, 45.0),
                distance=(3.0, 3.0),
                fov_deg=(25.0, 45.0),
                angle_share=0.5,
            ),
            scene=TetMesh(
                resolution=128,
                color=Hashgrid(
                    levels=16,
                    log2_rows=19,
                    start_levels=16,
                    activation="softplus",
                    blob=Blob(kind="none", scale=10.0, std=0.5),
                    lr=0.01,
                    mlp_lr=0.001,
                ),
                background=Solid(color=(0.0, 0.0, 0.0)),
                texture=False,
                sdf_lr=0.02,
                deform_lr=0.001,
            ),
            adam=Adam(variant="adamw"),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=SDS(guidance_scale=101.0, t_min=0.02, t_max=0.5, weighting="alpha_sigma2"),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                    show="normal",
                ),
            ),
        ),
        Lift(
            steps=5000,
            cameras=CameraSampler(
                views=1,
                resolution=(512,),
                elevation_deg=(-10.0, 45.0),
                distance=(3.0, 3.0),
                fov_deg=(25.0, 45.0),
                angle_share=0.5,
            ),
            scene=Surface(
                texture=Hashgrid(
                    levels=16,
                    log2_rows=19,
                    start_levels=16,
                    activation="softplus",
                    blob=Blob(kind="none", scale=10.0, std=0.5),
                    lr=0.01,
                    mlp_lr=0.01,
                ),
                material="pbr",
                background=Solid(color=(1.0, 1.0, 1.0)),
            ),
            adam=Adam(variant="adamw"),
            teachers=(
                Teacher(
                    guidance=SDS(guidance_scale=101.0, t_min=0.02, t_max=0.5, weighting="sigma2"),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""threestudio's ``fantasia3d.yaml`` and ``fantasia3d-texture.yaml``.

Differences: normals pass through the encoder from the first step, where threestudio uses them as latents for 1,000 steps;
signed distances are grid values in cells, not outputs of a network (learning rate 0.001); grid points move by at most a fifth
of a cell, not a whole one; in the texture stage a built-in studio of brightness 1, turned for each view, not
``mud_road_puresky_1k.hdr`` times 2, and no bump map.
"""

PRESETS = {
    "fantasia3d": Preset(FANTASIA3D, "Chen et al. 2023", "a mesh with a physically based material"),
}
