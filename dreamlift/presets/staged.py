"""Papers' settings of several stages, for big models and, as ``-toy``, for the embedded prior."""

from __future__ import annotations

from dataclasses import replace

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Adam, Config, Stage, Weights
from dreamlift.guidance.refine import Refine
from dreamlift.guidance.sds import SDS
from dreamlift.guidance.vsd import VSD
from dreamlift.presets.papers import DREAMFUSION_IF, DREAMFUSION_SD, LARGE
from dreamlift.presets.toybox import BACKDROP, FIELD, MESH, TOY_VSD, TOYBOX, TOYS
from dreamlift.prompts import FourViews
from dreamlift.scenes.background import Learned, Random, Solid
from dreamlift.scenes.gaussians.densify import Densify
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.surface.scene import Surface
from dreamlift.scenes.surface.textures import Image
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.schedules import Linear, Switch
from dreamlift.shading.lighting import Lighting

COLORS = Hashgrid(start_levels=16, blob=Blob("none"))
SHARP = TetMesh(resolution=128, color=COLORS, background=Learned(), sdf_lr=0.005, deform_lr=0.005)
CLOSE = CameraSampler(views=1, resolution=(512,), elevation_deg=(-10.0, 45.0), distance=(1.0, 1.5), fov_deg=(40.0, 70.0))

PROLIFICDREAMER = replace(
    DREAMFUSION_SD,
    steps=25_000,
    cameras=replace(CLOSE, resolution=(64, 512, 512, 512, 512)),
    scene=replace(LARGE, field=Hashgrid(start_levels=16, blob=Blob("cone", 10.0, 0.5)), background=Learned()),
    wording=FourViews(front_deg=30.0, back_deg=30.0),
    lighting=Lighting(),  # the plain albedo
    guidance=VSD(guidance_scale=7.5, t_max=Switch(0.98, 0.5, 0.2), lora_target="v"),
    weights=Weights(sparsity=10.0, opaque=Switch(0.0, 1000.0, 0.4)),
    then=(
        Stage(
            steps=15_000, cameras=CLOSE, wording=FourViews(), scene=replace(SHARP, texture=False), show="normal",
            guidance=SDS(guidance_scale=101.0, t_max=Switch(0.98, 0.5, 1 / 3), weighting="sigma2"),
            weights=Weights(normal_consistency=1e4, laplacian=1e4),
        ),
        Stage(
            steps=30_000, cameras=CLOSE, wording=FourViews(front_deg=30.0, back_deg=30.0),
            scene=replace(SHARP, geometry=False),
            guidance=VSD(guidance_scale=7.5, t_max=Switch(0.98, 0.5, 1 / 6), lora_target="v"),
        ),
    ),
)  # fmt: skip
"""threestudio's rows ``prolificdreamer``, ``-geometry`` and ``-texture``; the LoRA is on the base model itself, and is told the
view in words too."""

MAGIC3D = replace(
    DREAMFUSION_IF,
    then=(
        Stage(
            prior="sd-2.1-base", steps=5000,
            cameras=replace(CLOSE, distance=(1.5, 2.0), fov_deg=(30.0, 45.0)), wording=FourViews(),
            scene=replace(SHARP, sdf_lr=0.01, deform_lr=0.01),
            guidance=SDS(guidance_scale=101.0, t_max=0.5, weighting="sigma2"), weights=Weights(normal_consistency=1e4),
        ),
    ),
)  # fmt: skip
"""threestudio's ``magic3d-coarse-if`` (as dreamfusion-if here, without its soft shading) and ``magic3d-refine-sd``."""

GAUSSIANDREAMER = replace(
    DREAMFUSION_SD,
    steps=2000,
    then=(
        Stage(
            steps=1200,
            cameras=replace(CLOSE, views=4, resolution=(1024,), elevation_deg=(-10.0, 60.0), distance=(1.5, 4.0)),
            wording=FourViews(),
            scene=Gaussians(
                capacity=500_000, count=100_000, means_lr=5e-5, means_lr_end=5e-5, color_lr=0.0125, opacity_lr=0.01,
                quat_lr=0.001, densify=Densify(every=100, start=0.25, end=0.75, gradient=2e-4),
            ),
            guidance=SDS(guidance_scale=101.0, t_max=Switch(0.98, 0.55, 500 / 1200), weighting="sigma2"),
            weights=Weights(sparsity=1.0),
        ),
    ),
)  # fmt: skip
"""GaussianDreamer's second stage; it begins with 2,000 steps of dreamfusion-sd, where the paper has a 3D diffusion
model, and does not clip gradients."""

FANTASIA3D = replace(
    DREAMFUSION_SD,
    steps=10_000,
    cameras=replace(CLOSE, distance=(3.0, 3.0), fov_deg=(25.0, 45.0)),
    lighting=Lighting(),
    scene=replace(SHARP, texture=False, background=Solid((0.0, 0.0, 0.0)), sdf_lr=0.02, deform_lr=0.001),
    show="normal",
    guidance=SDS(guidance_scale=101.0, t_max=0.5, weighting="sigma2"),
    weights=Weights(),
    then=(
        Stage(
            steps=5000, cameras=replace(CLOSE, distance=(3.0, 3.0), fov_deg=(25.0, 45.0)), wording=FourViews(),
            scene=Surface(texture=COLORS, background=Random(), material="pbr"),
            guidance=SDS(guidance_scale=101.0, t_max=0.5, weighting="sigma2"),
        ),
    ),
)  # fmt: skip
"""threestudio's ``fantasia3d`` (with w = sigma^2 in the place of alpha sigma^2, and shown normals from the first step) and
``fantasia3d-texture``. Its rate of 0.001 is of a network; here distances themselves are learnt, in cells of the grid."""

DREAMGAUSSIAN = replace(
    DREAMFUSION_SD,
    steps=500,
    cameras=CameraSampler(
        views=1, resolution=(*[128] * 3, *[256] * 3, *[512] * 4), elevation_deg=(-30.0, 30.0), distance=(2.5, 2.5),
        fov_deg=(49.1, 49.1),
    ),
    lighting=Lighting(),
    scene=Gaussians(capacity=100_000, means_lr=0.01, background=Random()),
    guidance=SDS(guidance_scale=100.0, t_min=Linear(0.98, 0.02), t_max=Linear(0.98, 0.02), weighting="sigma2"),
    weights=Weights(),
    checkpoint_every=100,
    then=(
        Stage(
            steps=50,
            cameras=replace(CLOSE, elevation_deg=(-30.0, 30.0), distance=(2.5, 2.5), fov_deg=(49.1, 49.1)),
            wording=FourViews(), scene=Surface(texture=Image(size=1024, lr=0.2), background=Random()), guidance=Refine(),
        ),
    ),
)  # fmt: skip
"""DreamGaussian's ``text.yaml``; its second stage refines the mesh's texture by image-to-image. Backdrops are of any
colour, there black or white."""

LATENT_PAINT = replace(
    DREAMFUSION_SD,
    steps=5000,
    cameras=replace(CLOSE, distance=(1.5, 2.0)),
    lighting=Lighting(),
    scene=Surface(keep_colors=False, background=Random()),
    guidance=SDS(guidance_scale=100.0, weighting="sigma2"),
    weights=Weights(),
)
"""Latent-Paint's task, on pictures: a texture for your own mesh (``--mesh FILE``)."""

# The embedded prior knows grey clay, so geometry is taught by clay where the big models are shown normals.
TOY_SPLATS = Gaussians(capacity=6000, count=2000, background=BACKDROP, densify=Densify(every=0))
TOY_PAINT = Surface(texture=Image(256, 32), background=BACKDROP)

PROLIFICDREAMER_TOY = replace(
    TOYS["vsd-toy"],
    then=(
        replace(MESH, steps=60, scene=replace(MESH.scene, texture=False), lighting=Lighting(1.0, 1.0)),
        replace(
            MESH, steps=60, scene=replace(MESH.scene, geometry=False), lighting=Lighting(), weights=Weights(),
            guidance=replace(TOY_VSD, t_min=0.02, t_max=0.5),
        ),
    ),
)  # fmt: skip
# From a sphere the surface has a long way to go: large steps, values made distances again, smoothness late. What the embedded
# prior knows of grey clay is too little to find a shape by, so colours are shown as well; the next stage makes its own.
FANTASIA3D_TOY = replace(
    FIELD,
    scene=replace(MESH.scene, resolution=32, sdf_lr=0.15, redistance=20),
    lighting=Lighting(0.5, 0.3),
    weights=Weights(normal_consistency=Linear(300.0, 3000.0, 0.5, 1.0), laplacian=Linear(100.0, 1000.0, 0.5, 1.0)),
    adam=Adam(lr_scale=Linear(1.0, 0.1)),
    then=(
        replace(
            MESH, scene=Surface(texture=Image(256, 32), background=BACKDROP, keep_colors=False),
            lighting=Lighting(), weights=Weights(), guidance=SDS(7.5, Linear(0.5, 0.02), Linear(0.95, 0.2), "x0", clip_x0=1.0),
        ),
    ),
)  # fmt: skip
DREAMGAUSSIAN_TOY = replace(
    FIELD,
    scene=TOY_SPLATS,
    then=(
        replace(
            MESH, steps=50, scene=TOY_PAINT, lighting=Lighting(), weights=Weights(),
            guidance=Refine(2.0, Linear(0.2, 0.05), Linear(0.2, 0.05), steps=20, clip_x0=1.0),
        ),
    ),
)  # fmt: skip
GAUSSIANDREAMER_TOY = replace(
    FIELD,
    steps=150,
    then=(
        replace(
            MESH, scene=TOY_SPLATS, lighting=Lighting(), weights=Weights(opaque=300.0),
            guidance=SDS(7.5, 0.02, Linear(0.6, 0.3), weighting="x0", clip_x0=1.0),
        ),
    ),
)  # fmt: skip
TEXTURE_TOY = replace(
    FIELD,
    steps=100,
    scene=TOY_PAINT,
    weights=Weights(),
    guidance=SDS(7.5, Linear(0.5, 0.02), Linear(0.8, 0.3), weighting="x0", clip_x0=1.0),
)
"""A texture for a mesh of one's own (``--mesh FILE``), by the embedded prior."""

STAGED: dict[str, Config] = {
    "prolificdreamer": PROLIFICDREAMER,
    "magic3d": MAGIC3D,
    "fantasia3d": FANTASIA3D,
    "dreamgaussian": DREAMGAUSSIAN,
    "gaussiandreamer": GAUSSIANDREAMER,
    "latent-paint": LATENT_PAINT,
    "prolificdreamer-toy": PROLIFICDREAMER_TOY,
    "magic3d-toy": TOYBOX,
    "fantasia3d-toy": FANTASIA3D_TOY,
    "dreamgaussian-toy": DREAMGAUSSIAN_TOY,
    "gaussiandreamer-toy": GAUSSIANDREAMER_TOY,
    "texture-toy": TEXTURE_TOY,
}
