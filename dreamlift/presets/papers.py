"""Papers' settings of one stage for big models, each saying whose row it follows.

What differs from threestudio in all of them: fields fill a cube of half edge 1 (its dreamfusion, hifa and sdi rows have 2), and
cameras are not perturbed.
"""

from __future__ import annotations

from dataclasses import replace

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config, Weights
from dreamlift.guidance.cfd import CFD
from dreamlift.guidance.hifa import HiFA
from dreamlift.guidance.ism import ISM
from dreamlift.guidance.reconstruction import Reconstruction
from dreamlift.guidance.rfds import RFDS
from dreamlift.guidance.sdi import SDI
from dreamlift.guidance.sds import SDS
from dreamlift.guidance.sjc import SJC
from dreamlift.presets.toybox import FIELD
from dreamlift.prompts import FourViews, NoViews
from dreamlift.scenes.background import Learned
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.schedules import Linear
from dreamlift.shading.lighting import Lighting

DREAMFUSION_IF = replace(
    FIELD,
    prior="deepfloyd-if",
    steps=10_000,
    cameras=CameraSampler(views=1, resolution=(64,), elevation_deg=(-10.0, 90.0), distance=(1.5, 2.0), fov_deg=(40.0, 70.0)),
    wording=FourViews(),
    backdrops=(),
    lighting=Lighting(lambertian=0.75, textureless=0.5, start=0.2, ambient=0.1),
    scene=Nerf(
        field=Hashgrid(blob=Blob("cone", 10.0, 0.5), mlp_lr=0.01), background=Learned(random_probability=0.0), samples=512
    ),
    guidance=SDS(guidance_scale=21.0, weighting="sigma2"),
    weights=Weights(orientation=Linear(10.0, 1000.0, 0.0, 0.5), sparsity=1.0),
    checkpoint_every=500,
)
"""threestudio's dreamfusion-if row (its guidance 20 is 21 in dreamlift's convention)."""

DREAMFUSION_SD = replace(
    DREAMFUSION_IF,
    prior="sd-2.1-base",
    cameras=replace(DREAMFUSION_IF.cameras, elevation_deg=(-10.0, 45.0)),
    guidance=SDS(guidance_scale=101.0, weighting="sigma2"),
)
"""threestudio's dreamfusion-sd row (its guidance 100 is 101 here)."""

LATENT_NERF = replace(
    DREAMFUSION_SD,
    linear_latents=True,
    cameras=replace(DREAMFUSION_SD.cameras, elevation_deg=(-10.0, 45.0), distance=(1.0, 1.5)),
    lighting=Lighting(),
    scene=replace(
        DREAMFUSION_SD.scene, field=Hashgrid(start_levels=16, activation="exp", blob=Blob("gaussian", 5.0, 0.2), mlp_lr=0.01)
    ),
    guidance=SDS(guidance_scale=101.0, weighting="sigma2"),
    weights=Weights(sparsity=5e-4),
)
"""threestudio's latentnerf row; colours that a linear map takes to latents, where Latent-NeRF renders latents themselves."""

# 512 pixels of 512 samples: all at once, they would take more memory than any GPU has.
LARGE = replace(DREAMFUSION_SD.scene, rays_at_once=8192)

HIFA = replace(
    DREAMFUSION_SD,
    cameras=replace(DREAMFUSION_SD.cameras, resolution=(512,)),
    scene=LARGE,
    lighting=Lighting(),
    guidance=HiFA(guidance_scale=101.0, lambda_rgb=0.01),
    weights=Weights(sparsity=1.0, depth_variance=100.0),
)
"""threestudio's hifa row: 512 pixels, t from 0.98 to 0.3 with the square root of progress, variance along rays."""

SDI_SD = replace(
    HIFA,
    wording=FourViews(perp_neg=1.0),
    guidance=SDI(guidance_scale=7.5, inversion_scale=-7.5, inversion_steps=10),
    weights=Weights(orientation=0.1, sparsity=Linear(0.15, 0.0, 0.0, 0.3), opaque=0.1, depth_variance=1.0),
)
"""threestudio's sdi row, but for its convexity term and its lit pictures."""

LUCIDDREAMER = replace(
    HIFA,
    steps=5000,
    cameras=replace(HIFA.cameras, views=4, elevation_deg=(-15.0, 45.0)),
    guidance=ISM(guidance_scale=7.5),
    weights=Weights(sparsity=1.0),
)
"""LucidDreamer's loss, times and batch; on a NeRF, where the paper has Gaussians."""

SJC_SD = replace(
    DREAMFUSION_SD,
    cameras=replace(DREAMFUSION_SD.cameras, distance=(1.5, 1.5)),
    scene=Nerf(field=Voxel(resolutions=(25, 49, 97), blob=Blob("cone", 10.0, 0.5)), background=Learned()),
    lighting=Lighting(),
    guidance=SJC(),
    weights=Weights(sparsity=1.0),
)
"""threestudio's sjc row on a voxel grid; it renders pictures and encodes them, where SJC renders latents, and has a sparsity
term in the place of its emptiness."""

CFD_SD = replace(
    HIFA,
    steps=25_000,
    cameras=CameraSampler(
        views=1, resolution=(128, *[512] * 9), elevation_deg=(0.0, 40.0), distance=(1.3, 1.5), fov_deg=(40.0, 65.0)
    ),
    wording=FourViews(front_deg=30.0, back_deg=30.0),
    scene=replace(LARGE, field=Hashgrid(log2_rows=20, start_levels=16, blob=Blob("cone", 10.0, 0.5))),
    guidance=CFD(),
    weights=Weights(sparsity=10.0, depth_variance=100.0),
)
"""The authors' ``sd-stage1`` row, but for its smoothness of normals, its negative prompt and its loss on pictures."""

SD3_FLOW = replace(
    DREAMFUSION_SD,
    prior="sd3-medium",
    cameras=replace(DREAMFUSION_SD.cameras, resolution=(64, 512)),
    scene=LARGE,
    guidance=RFDS(guidance_scale=50.0),
    lighting=Lighting(),
)
"""RFDS's loss on Stable Diffusion 3; the scene and its weights are the dreamfusion-sd row's."""


MVDREAM = replace(
    DREAMFUSION_SD,
    prior="mvdream",
    negative=(
        "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, lowres, "
        "low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, bad proportions"
    ),
    cameras=CameraSampler(
        views=4, orbit=4, resolution=(64, 256), elevation_deg=(0.0, 30.0), distance=(0.8, 1.0), relative=True,
        fov_deg=(15.0, 60.0),
    ),
    wording=NoViews(),  # the cameras tell it
    lighting=Lighting(),
    scene=Nerf(
        field=Hashgrid(start_levels=16, blob=Blob("cone", 10.0, 0.5)),
        background=Learned(shared=True), samples=512, rays_at_once=8192,
    ),
    guidance=Reconstruction(),
    weights=Weights(),
)  # fmt: skip
"""MVDream's own row for threestudio (``mvdream-sd21``), but for its 8 views a step at 64 pixels, which are 4 here.

Half of its elevations are uniform in the angle; here all are uniform on the sphere.
"""

PAPERS: dict[str, Config] = {
    "dreamfusion-if": DREAMFUSION_IF,
    "dreamfusion-sd": DREAMFUSION_SD,
    "latent-nerf": LATENT_NERF,
    "hifa": HIFA,
    "sdi": SDI_SD,
    "luciddreamer": LUCIDDREAMER,
    "sjc": SJC_SD,
    "cfd": CFD_SD,
    "sd3-flow": SD3_FLOW,
    "mvdream": MVDREAM,
}
