"""Consistent flow distillation (Yan et al. 2025, https://arxiv.org/abs/2501.05445)."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.cfd import CFD
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import FourViews
from dreamlift.scenes.background import Learned
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.schedules import Linear, Piecewise
from dreamlift.stages.lift import Lift
from dreamlift.stages.teacher import Teacher

CFD = Config(
    negative=(
        "lack details, ugly, oversmoothed, bad structure, out of focus, blurry, cartoon, oversaturated, foggy, hazy, "
        "bad anatomy, malformed, pixelated obscure, unnatural colors, dull, unclear, lowres, low quality, deformed, dehydrated"
    ),
    stages=(
        Lift(
            steps=25_000,
            cameras=CameraSampler(
                views=1,
                resolution=(128, 512, 512, 512, 512),
                elevation_deg=(0.0, 40.0),
                distance=(1.3, 1.5),
                fov_deg=(40.0, 65.0),
                angle_share=0.5,
            ),
            scene=Nerf(
                field=Hashgrid(
                    levels=16,
                    log2_rows=20,
                    start_levels=16,
                    activation="softplus",
                    blob=Blob(kind="cone", scale=10.0, std=0.5),
                    lr=0.01,
                    mlp_lr=0.001,
                ),
                background=Learned(random_probability=0.5),
                samples_per_ray=512,
                chunk_rays=8192,
            ),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=CFD(
                        guidance_scale=71.0,
                        t_min=Piecewise(points=((0.0, 0.98), (0.1, 0.692), (0.5, 0.404), (1.0, 0.212))),
                        t_max=Piecewise(points=((0.0, 0.98), (0.1, 0.692), (0.5, 0.404), (1.0, 0.212))),
                        weighting="x0",
                        normalize=False,
                        gamma=Linear(start_value=0.01, end_value=0.0001, start=0.2, end=0.4),
                    ),
                    wording=FourViews(front_deg=30.0, back_deg=30.0, overhead_deg=60.0),
                    weight=2.0,
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""The authors' ``configs/cfd/sd-stage1.yaml`` as of January 2025: guidance scale 70 (71 in dreamlift's convention), no sparsity
and no z-variance term, w = sigma / alpha, twice the gradient of the other losses. The first release (July 2024) had 75, 10 and
100, and divided the gradient by the mean of its absolute values (``normalize``).

Differences: no loss on the smoothness of normals (weight 1,000 falling to 100); no shaded renders at 128 pixels in a tenth of
the later steps; noise cells on a sphere, not on a mesh.
"""

PRESETS = {
    "cfd": Preset(CFD, "Yan et al. 2025", "one noise field on the object for all views"),
}
