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
from dreamlift.schedules import Piecewise
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher

CFD = Config(
    stages=(
        Lift(
            steps=25_000,
            cameras=CameraSampler(
                views=1,
                resolution=(128, 512, 512, 512, 512, 512, 512, 512, 512, 512),
                elevation_deg=(0.0, 40.0),
                distance=(1.3, 1.5),
                fov_deg=(40.0, 65.0),
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
                background=Learned(random_probability=0.0),
                samples_per_ray=512,
                chunk_rays=8192,
            ),
            weights=Weights(sparsity=10.0, depth_variance=100.0),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=CFD(
                        guidance_scale=76.0,
                        t_min=Piecewise(points=((0.0, 0.98), (0.1, 0.692), (0.5, 0.404), (1.0, 0.212))),
                        t_max=Piecewise(points=((0.0, 0.98), (0.1, 0.692), (0.5, 0.404), (1.0, 0.212))),
                    ),
                    wording=FourViews(front_deg=30.0, back_deg=30.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""The authors' ``configs/cfd/sd-stage1.yaml``.

Differences: no loss on the smoothness of normals, no negative prompt, no loss on pictures.
"""

PRESETS = {
    "cfd": Preset(CFD, "Yan et al. 2025", "one noise field on the object for all views"),
}
