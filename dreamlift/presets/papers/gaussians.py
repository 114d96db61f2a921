"""Gaussian splats: DreamGaussian (Tang et al. 2023, https://arxiv.org/abs/2309.16653) and GaussianDreamer (Yi et al. 2023,
https://arxiv.org/abs/2310.08529)."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.refine import Refine
from dreamlift.guidance.sds import SDS
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import Backdrop, FourViews, NoViews
from dreamlift.reading.photos import Photo
from dreamlift.scenes.background import Learned, Solid
from dreamlift.scenes.gaussians.densify import Densify
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.surface.scene import Surface
from dreamlift.scenes.surface.textures import Image
from dreamlift.schedules import Linear, Piecewise, Switch
from dreamlift.shading.lighting import Lighting
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.settings import Adam, Weights
from dreamlift.stages.teacher import Teacher

DREAMGAUSSIAN = Config(
    backdrops=(Backdrop(color=(0.0, 0.0, 0.0)), Backdrop(color=(1.0, 1.0, 1.0))),
    stages=(
        Lift(
            steps=500,
            cameras=CameraSampler(
                views=1,
                resolution=(128, 128, 128, 256, 256, 256, 512, 512, 512, 512),
                elevation_deg=(-30.0, 30.0),
                distance=(2.5, 2.5),
                fov_deg=(49.1, 49.1),
                angle_share=1.0,
            ),
            scene=Gaussians(
                background=Solid(color=(1.0, 1.0, 1.0)),
                densify=Densify(end_progress=1.0, prune_scale=0.4),
                capacity=100_000,
                count=5000,
            ),
            adam=Adam(beta2=0.999),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=SDS(
                        guidance_scale=100.0,
                        t_min=Piecewise(points=((0.0, 0.98), (0.02, 0.98), (0.98, 0.02), (1.0, 0.02))),
                        t_max=Piecewise(points=((0.0, 0.98), (0.02, 0.98), (0.98, 0.02), (1.0, 0.02))),
                        weighting="sigma2",
                    ),
                    wording=NoViews(),
                ),
            ),
        ),
        Lift(
            steps=50,
            cameras=CameraSampler(
                views=1,
                resolution=(512,),
                elevation_deg=(-30.0, 30.0),
                distance=(2.5, 2.5),
                fov_deg=(49.1, 49.1),
                angle_share=1.0,
            ),
            scene=Surface(texture=Image(size=1024, lr=0.2), background=Solid(color=(1.0, 1.0, 1.0))),
            adam=Adam(beta2=0.999, eps=1e-8),
            teachers=(
                Teacher(
                    guidance=Refine(
                        guidance_scale=100.0,
                        t_min=Linear(start_value=0.2, end_value=0.05),
                        t_max=Linear(start_value=0.2, end_value=0.05),
                    ),
                    wording=NoViews(),
                ),
            ),
        ),
    ),
    checkpoint_every=100,
)
"""DreamGaussian's ``text.yaml``; its second stage refines the mesh's texture by image-to-image.

Differences: the surface is meshed at the density that matches the renders, not at 1; the second stage has black or white
backdrops too (white in the row), and pictures of 512 pixels with two samples per pixel's side, where the row's number is random
(0.125 to 2).
"""

DREAMGAUSSIAN_IMAGE = Config(
    photos=(Photo(path="", distance=2.0, fov_deg=49.1),),
    backdrops=(Backdrop(color=(0.0, 0.0, 0.0)), Backdrop(color=(1.0, 1.0, 1.0))),
    stages=(
        Lift(
            steps=500,
            cameras=CameraSampler(
                views=1,
                resolution=(128, 128, 128, 256, 256, 256, 512, 512, 512, 512),
                elevation_deg=(-30.0, 30.0),
                distance=(2.0, 2.0),
                fov_deg=(49.1, 49.1),
                angle_share=1.0,
                like_photo=True,
                elevation_about_deg=30.0,
            ),
            scene=Gaussians(
                background=Solid(color=(1.0, 1.0, 1.0)),
                densify=Densify(every=100, start_progress=0.198, end_progress=1.0, prune_scale=0.4),
                capacity=100_000,
                count=5000,
                means_until=1.0,
            ),
            adam=Adam(beta2=0.999),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="zero123-xl"),
                    guidance=SDS(
                        guidance_scale=5.0,
                        t_min=Piecewise(points=((0.0, 0.98), (0.02, 0.98), (0.98, 0.02), (1.0, 0.02))),
                        t_max=Piecewise(points=((0.0, 0.98), (0.02, 0.98), (0.98, 0.02), (1.0, 0.02))),
                        weighting="sigma2",
                    ),
                    wording=NoViews(),
                ),
            ),
            photometric=Photometric(
                rgb=Linear(start_value=0.0, end_value=10_000.0),
                mask=Linear(start_value=0.0, end_value=1000.0),
                resolution=(256,),
                backdrop="white",
            ),
        ),
        Lift(
            steps=50,
            cameras=CameraSampler(
                views=1,
                resolution=(512,),
                elevation_deg=(-30.0, 30.0),
                distance=(2.0, 2.0),
                fov_deg=(49.1, 49.1),
                angle_share=1.0,
                like_photo=True,
                elevation_about_deg=30.0,
            ),
            scene=Surface(texture=Image(size=1024, lr=0.2), background=Solid(color=(1.0, 1.0, 1.0))),
            adam=Adam(beta2=0.999, eps=1e-8),
            teachers=(
                Teacher(
                    guidance=Refine(
                        guidance_scale=5.0,
                        t_min=Linear(start_value=0.2, end_value=0.05),
                        t_max=Linear(start_value=0.2, end_value=0.05),
                    ),
                    wording=NoViews(),
                    weight=2 / (3 * 256**2),
                ),
            ),
            photometric=Photometric(rgb=1.0, mask=0.0, resolution=(256,), backdrop="white"),
        ),
    ),
    checkpoint_every=100,
)
"""DreamGaussian's ``image.yaml``; its second stage refines the mesh's texture by image-to-image.

The second stage's weight makes the sum of squares of the refinement, at 256 pixels, the row's mean of squares.
Differences: the photo's elevation is given or estimated (0 in the row); over a black backdrop the photo that the prior is shown
lies on black as well, not on white; the refined pictures are compared at 256 pixels, not enlarged to 512; the second stage
compares with the whole photo, not only where the surface faces the camera within 60 degrees; screen gradients of the photo's
view count for densification; otherwise the differences of dreamgaussian.
"""

GAUSSIANDREAMER = Config(
    negative=(
        "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, lowres, "
        "low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, bad proportions, "
        "unfocused"
    ),
    stages=(
        Lift(
            steps=2000,
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
        Lift(
            steps=1200,
            cameras=CameraSampler(
                views=4,
                resolution=(1024,),
                elevation_deg=(-10.0, 60.0),
                distance=(1.5, 4.0),
                fov_deg=(40.0, 70.0),
                angle_share=0.5,
            ),
            scene=Gaussians(
                background=Solid(color=(0.0, 0.0, 0.0)),
                densify=Densify(
                    every=100, start_progress=0.25, end_progress=0.74, gradient=0.0002, prune_opacity=0.05, prune_scale=0.4
                ),
                capacity=500_000,
                count=100_000,
                means_lr=2e-4,
                means_lr_end=1.95e-4,
                color_lr=0.0125,
                opacity_lr=0.01,
                quat_lr=0.001,
            ),
            weights=Weights(sparsity=1.0),
            adam=Adam(beta2=0.999),
            teachers=(
                Teacher(
                    guidance=SDS(
                        guidance_scale=101.0,
                        t_min=0.02,
                        t_max=Switch(before=0.98, after=0.55, at=0.4166666666666667),
                        weighting="sigma2",
                    ),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""GaussianDreamer's second stage.

Differences: the initial shape is from 2,000 steps of dreamfusion-sd, not from a 3D diffusion model; gradients are not clipped
(at 1.5 to 2 per value in the row); sparsity is that of the opacity, not of the depth over its maximum; densification compares
the mean of the four views' screen gradients with the threshold, where the row compares the norm of their sum, which is up to
four times larger.
"""

PRESETS = {
    "dreamgaussian": Preset(DREAMGAUSSIAN, "Tang et al. 2023", "minutes on a GPU: Gaussians, their mesh, a refined texture"),
    "dreamgaussian-image": Preset(DREAMGAUSSIAN_IMAGE, "Tang et al. 2023", "a photo, minutes on a GPU, by Zero-1-to-3 XL"),
    "gaussiandreamer": Preset(GAUSSIANDREAMER, "Yi et al. 2023", "Gaussians, initialized from a shape"),
}
