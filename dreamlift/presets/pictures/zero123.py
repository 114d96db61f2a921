"""Zero-1-to-3 (Liu et al. 2023, https://arxiv.org/abs/2303.11328) and Stable-Zero123 lifted, with threestudio's settings."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.sds import SDS
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import NoViews
from dreamlift.reading.photos import Photo
from dreamlift.scenes.background import Solid
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.schedules import Linear, Piecewise, Switch
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.settings import Adam, Weights
from dreamlift.stages.teacher import Teacher

ZERO123 = Config(
    photos=(Photo(path="", distance=3.8, fov_deg=20.0),),
    stages=(
        Lift(
            steps=600,
            cameras=CameraSampler(
                views=4,
                resolution=(64, 64, 128, 256, 256, 256),
                elevation_deg=(-10.0, 80.0),
                distance=(3.8, 3.8),
                fov_deg=(20.0, 20.0),
                angle_share=0.5,
                like_photo=True,
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
                background=Solid(color=(1.0, 1.0, 1.0)),
                samples_per_ray=512,
                chunk_rays=4096,
            ),
            weights=Weights(sparsity=0.1, opaque=0.1, orientation=1.0, normal_smooth=8.0, normal_smooth_3d=8.0),
            adam=Adam(eps=1e-8),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="zero123-xl"),
                    guidance=SDS(
                        guidance_scale=3.0,
                        t_min=Linear(start_value=0.4, end_value=0.2, end=0.3333333333333333),
                        t_max=Linear(start_value=0.85, end_value=0.5, end=0.3333333333333333),
                        weighting="sigma2",
                    ),
                    wording=NoViews(),
                    weight=0.1,
                ),
            ),
            photometric=Photometric(
                rgb=500.0, mask=50.0, resolution=(128, 128, 256, 512, 512, 512), backdrop="white", regularize=True
            ),
        ),
        Lift(
            steps=200,
            cameras=CameraSampler(
                views=8,
                resolution=(256,),
                elevation_deg=(-10.0, 45.0),
                distance=(3.8, 3.8),
                fov_deg=(20.0, 20.0),
                angle_share=0.5,
                like_photo=True,
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
                    mlp_lr=0.01,
                ),
                background=Solid(color=(1.0, 1.0, 1.0)),
                sdf_lr=0.01,
                deform_lr=0.01,
            ),
            weights=Weights(vertex_consistency=Switch(before=10_000.0, after=1000.0, at=0.255)),
            adam=Adam(eps=1e-8),
            teachers=(Teacher(guidance=SDS(guidance_scale=3.0, t_min=0.02, t_max=0.5, weighting="sigma2"), wording=NoViews()),),
            photometric=Photometric(rgb=10_000.0, mask=100.0, resolution=(512,), backdrop="white", regularize=True),
        ),
    ),
    checkpoint_every=100,
)
"""threestudio's ``zero123.yaml`` and ``zero123-geometry.yaml`` (one 24 GB GPU).

Differences: 4 views at each resolution (12, 4, 2 in the row), whose azimuths are stratified; the scene's cube has the half
edge 1, not 2 (cells of the hash grid and of the tetrahedral grid half as wide); one hidden layer, not two; normals are
differences of the density over 0.01, not its derivative; the photo's mask keeps its values between 0 and 1, and its rays are
not moved at random (0.002); the photo's elevation is given or estimated (5 and 0 in the rows); signed distances are in
cells, where the row has the density minus its threshold; grid points move by at most half a cell, not a whole one; the second
stage begins with the field's extracted surface, smoothed and reduced to 10,000 faces, and with its colours fitted to those of
the vertices (the row converts the field itself and inherits its colours).
"""

STABLE_ZERO123 = Config(
    photos=(Photo(path="", distance=3.8, fov_deg=20.0),),
    stages=(
        Lift(
            steps=600,
            cameras=CameraSampler(
                views=4,
                resolution=(64, 64, 128, 256, 256, 256),
                elevation_deg=(-10.0, 80.0),
                distance=(3.8, 3.8),
                fov_deg=(20.0, 20.0),
                angle_share=0.5,
                like_photo=True,
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
                background=Solid(color=(1.0, 1.0, 1.0)),
                samples_per_ray=512,
                chunk_rays=4096,
            ),
            weights=Weights(
                sparsity=0.5,
                opaque=0.5,
                orientation=1.0,
                normal_smooth=Piecewise(
                    points=((0.16666666666666666, 7.0), (0.25, 5.0), (0.3333333333333333, 10.0)),
                ),
                normal_smooth_3d=Piecewise(
                    points=((0.16666666666666666, 7.0), (0.25, 5.0), (0.3333333333333333, 10.0)),
                ),
            ),
            adam=Adam(eps=1e-8),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="stable-zero123"),
                    guidance=SDS(
                        guidance_scale=3.0,
                        t_min=Linear(start_value=0.7, end_value=0.3, start=0.08333333333333333, end=0.3333333333333333),
                        t_max=Linear(start_value=0.98, end_value=0.8, start=0.08333333333333333, end=0.3333333333333333),
                        weighting="sigma2",
                    ),
                    wording=NoViews(),
                    weight=0.1,
                ),
            ),
            photometric=Photometric(
                rgb=Linear(start_value=500.0, end_value=1000.0, start=0.16666666666666666, end=0.6666666666666666),
                mask=50.0,
                resolution=(128, 128, 256, 512, 512, 512),
                backdrop="white",
                regularize=True,
            ),
        ),
    ),
    checkpoint_every=100,
)
"""threestudio's ``stable-zero123.yaml`` (one 24 GB GPU).

Differences: 4 views at each resolution (12, 8, 4 in the row); otherwise those of the first stage of zero123.
"""

PRESETS = {
    "zero123": Preset(ZERO123, "Liu et al. 2023", "a photo: a field, then its mesh, by Zero-1-to-3 XL"),
    "stable-zero123": Preset(STABLE_ZERO123, "Stability AI 2023", "a photo: a field by Stable-Zero123"),
}
