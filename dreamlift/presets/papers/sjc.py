"""Score Jacobian chaining (Wang et al. 2022, https://arxiv.org/abs/2212.00774)."""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.sjc import SJC
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import FourViews
from dreamlift.scenes.background import Learned
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher

SJC = Config(
    stages=(
        Lift(
            steps=10_000,
            cameras=CameraSampler(
                views=1, resolution=(64,), elevation_deg=(-10.0, 45.0), distance=(1.5, 1.5), fov_deg=(40.0, 70.0)
            ),
            scene=Nerf(
                field=Voxel(
                    resolutions=(25, 49, 97), activation="softplus", blob=Blob(kind="cone", scale=10.0, std=0.5), lr=0.05
                ),
                background=Learned(),
                samples_per_ray=64,
            ),
            weights=Weights(sparsity=1.0),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=SJC(guidance_scale=101.0, t_min=0.01, t_max=0.97),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""threestudio's ``sjc.yaml``.

Differences: colors are rendered and encoded, where SJC renders latents; 64 samples per ray, not 512; a sparsity term, not the
emptiness loss; Adam, not Adamax; the view phrases are dreamfusion-sd's; no density bias (-1 in the
row).
"""

PRESETS = {
    "sjc": Preset(SJC, "Wang et al. 2022", "score Jacobian chaining on a voxel grid"),
}
