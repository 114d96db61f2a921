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
from dreamlift.schedules import Switch
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Adam, Weights
from dreamlift.stages.teacher import Teacher

SJC = Config(
    stages=(
        Lift(
            steps=10_000,
            cameras=CameraSampler(
                views=1,
                resolution=(64,),
                elevation_deg=(-10.0, 45.0),
                distance=(1.5, 1.5),
                fov_deg=(40.0, 70.0),
                angle_share=0.5,
            ),
            scene=Nerf(
                field=Voxel(
                    resolutions=(100,), switch_on=(0.0,), activation="softplus", blob=Blob(kind="constant", scale=-1.0), lr=0.05
                ),
                background=Learned(random_probability=0.0, lr=0.0001),
                samples_per_ray=512,
            ),
            weights=Weights(emptiness=Switch(before=10_000.0, after=200_000.0, at=0.5)),
            adam=Adam(variant="adamax", beta2=0.999, eps=1e-8),
            teachers=(
                Teacher(
                    prior=PriorChoice(name="sd-2.1-base"),
                    guidance=SJC(guidance_scale=101.0, t_min=0.01, t_max=0.97),
                    wording=FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0, before=True),
                ),
            ),
        ),
    ),
    checkpoint_every=500,
)
"""threestudio's ``sjc.yaml``.

Differences: colors are rendered and encoded, where SJC renders latents; the background is an MLP of the direction, not a 4 x 4
texture; the emptiness term is a mean over 512 samples of every ray, where the row's is over those inside its cube, about 324.
"""

PRESETS = {
    "sjc": Preset(SJC, "Wang et al. 2022", "score Jacobian chaining on a voxel grid"),
}
