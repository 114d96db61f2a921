"""Magic123 (Qian et al. 2023, https://arxiv.org/abs/2306.17843): a photo lifted by two teachers, one of words and one of views.

The text prior imagines what the photo does not show, the view-conditioned prior keeps it one object; the ratio of their weights
chooses between the two (the paper's equation 6 and figure 3).
"""

from __future__ import annotations

from dataclasses import replace

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.sds import SDS
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import FourViews, NoViews
from dreamlift.reading.photos import Photo
from dreamlift.scenes.background import Solid
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.settings import Adam, Weights
from dreamlift.stages.teacher import Teacher

WHITE = Solid(color=(1.0, 1.0, 1.0))
CAMERAS = CameraSampler(
    views=1,
    resolution=(128,),
    elevation_deg=(-45.0, 45.0),
    distance=(2.5, 2.5),
    fov_deg=(40.0, 40.0),
    angle_share=0.5,
    like_photo=True,
)
COMPARED = Photometric(rgb=1000.0, mask=100.0, mask_loss="cross_entropy", resolution=(128,), backdrop="white")


def teachers(words: float, views: float, priors: bool = True) -> tuple[Teacher, ...]:
    """The two teachers with their weights; without ``priors``, those of the stage before."""
    return (
        Teacher(
            prior=PriorChoice(name="zero123-xl") if priors else None,
            guidance=SDS(guidance_scale=5.0, t_min=0.2, t_max=0.6, weighting="sigma2"),
            wording=NoViews(),
            weight=views,
        ),
        Teacher(
            prior=PriorChoice(name="sd-1.5"),
            guidance=SDS(guidance_scale=100.0, t_min=0.2, t_max=0.6, weighting="sigma2"),
            wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
            weight=words,
        ),
    )


MAGIC123 = Config(
    photos=(Photo(path="", distance=2.5, fov_deg=40.0),),
    stages=(
        Lift(
            steps=10_000,
            cameras=CAMERAS,
            scene=Nerf(
                field=Hashgrid(
                    levels=16,
                    log2_rows=19,
                    start_levels=8,
                    start_at=0.2,
                    every=0.03,
                    activation="softplus",
                    blob=Blob(kind="cone", scale=10.0, std=0.5),
                ),
                background=WHITE,
                samples_per_ray=256,
            ),
            weights=Weights(normal_smooth=1000.0),
            adam=Adam(eps=1e-8),
            teachers=teachers(words=0.025, views=1.0),
            photometric=COMPARED,
        ),
        Lift(
            steps=10_000,
            cameras=replace(CAMERAS, resolution=(512,)),
            scene=TetMesh(
                resolution=128,
                deform=0.5,
                color=Hashgrid(
                    levels=16,
                    log2_rows=19,
                    start_levels=16,
                    activation="softplus",
                    blob=Blob(kind="none", scale=10.0, std=0.5),
                    lr=0.001,
                ),
                background=WHITE,
                sdf_lr=0.001,
                deform_lr=0.001,
            ),
            weights=Weights(vertex_consistency=1000.0),
            adam=Adam(eps=1e-8),
            teachers=teachers(words=0.025, views=1.0, priors=False),
            photometric=replace(COMPARED, resolution=(512,)),
        ),
    ),
    checkpoint_every=500,
)  # fmt: skip
"""threestudio's ``magic123-coarse-sd.yaml`` and ``magic123-refine-sd.yaml`` (one 32 GB GPU).

The official repository differs: 5,000 steps twice; the photo is compared in every 4th step and in all of the first 100, with
weights of 5 and 0.5, both of mean squares, and a depth term of 0.01 times half of 1 - r; no teacher is asked in those steps,
but the regularisers count in them, too; random views from a distance of 1.8; the 2D teacher has the weight 1 and the 3D teacher
40 (0.001 and 0.01 in the fine stage), whose gradient grows with the angle from the photo; in the fine stage t is 0.02 to 0.5,
and the depth term is off; the teachers are shown normals in the first fifth of the coarse stage's steps; the words are a token
that textual inversion learnt from the photo.

Differences from threestudio's rows: zero123-xl, not zero123; one hidden layer, not two; normals are differences of the density
over 0.01, not its derivative; the photo's mask keeps its values between 0 and 1, and its rays are not moved at random (0.002);
the photo's elevation is given or estimated (0 in the rows); signed distances are in cells, where the row has the density minus
its threshold; grid points move by at most half a cell, not a whole one; the second stage begins with the field's extracted
surface, smoothed and reduced to 10,000 faces, and with its colours fitted to those of the vertices (the row converts the field
itself and inherits its colours). Neither row has a term of depth.
"""

PRESETS = {
    "magic123": Preset(MAGIC123, "Qian et al. 2023", "a photo and words: a field, then its mesh, by two teachers"),
}
