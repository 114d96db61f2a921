"""DreamBooth3D (Raj et al. 2023, https://arxiv.org/abs/2303.13508): the thing in a few photos, lifted by a prior tuned on it.

A partly tuned prior gives an asset that is consistent in 3D and roughly alike; a fully tuned one repaints its renders, which
then look like the thing from all sides; the partly tuned one is tuned further on the photos and on these.
"""

from __future__ import annotations

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.refine import Refine
from dreamlift.guidance.sds import SDS
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import FourViews
from dreamlift.scenes.background import Learned
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.schedules import Linear
from dreamlift.shading.lighting import Lighting
from dreamlift.stages.finetune import Finetune
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.repaint import Repaint
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher
from dreamlift.tuning.settings import Tuning

TUNING = Tuning(rank=4, targets="attention", lr=2e-5, batch=4)  # diffusers' example for IF with a LoRA: 5e-6 times 4 pictures
VIEWS = FourViews(front_deg=45.0, back_deg=45.0, overhead_deg=60.0)


def field(prior: str, photometric: Photometric | None = None) -> Lift:
    """threestudio's DreamFusion with DeepFloyd IF, by one of the run's tuned priors."""
    return Lift(
        steps=10_000,
        cameras=CameraSampler(
            views=1,
            resolution=(64,),
            elevation_deg=(-10.0, 90.0),
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
                color_activation="linear",
                blob=Blob(kind="cone", scale=10.0, std=0.5),
                lr=0.01,
                mlp_lr=0.01,
            ),
            background=Learned(random_probability=0.0, color_activation="linear"),
            samples_per_ray=512,
        ),
        weights=Weights(sparsity=1.0, orientation=Linear(start_value=10.0, end_value=1000.0, end=0.5)),
        teachers=(
            Teacher(
                prior=PriorChoice(name=prior),
                guidance=SDS(guidance_scale=21.0, t_min=0.02, t_max=0.98, weighting="sigma2"),
                wording=VIEWS,
            ),
        ),
        photometric=photometric,
    )


DREAMBOOTH3D = Config(
    stages=(
        Finetune(name="partial", steps=225, prior=PriorChoice(name="deepfloyd-if"), tuning=TUNING),
        field("tuned:partial"),
        Finetune(name="full", steps=975, prior=PriorChoice(name="tuned:partial"), tuning=TUNING),
        Repaint(
            views=20,
            elevation_deg=(0.0, 30.0),
            distance=2.6,
            fov_deg=45.0,
            teachers=(
                Teacher(
                    prior=PriorChoice(name="tuned:full"),
                    guidance=Refine(guidance_scale=7.0, t_min=0.5, t_max=0.5, steps=50, clip_x0=1.0),
                    wording=VIEWS,
                ),
            ),
        ),
        Finetune(name="final", steps=225, prior=PriorChoice(name="tuned:partial"), source="both", tuning=TUNING),
        field("tuned:final", Photometric(source="handover", rgb=1000.0, mask=0.0, resolution=(64,))),
    ),
    checkpoint_every=500,
)
"""The paper's three stages, with DeepFloyd IF in place of Imagen, which is not available. The paper tunes Imagen for 150 steps
(partial), 800 (full) and 150 more (final), and repaints 20 views.

Differences: a LoRA of rank 4 of the U-Net alone, at 2e-5 (5e-6 times 4 pictures) for 1200 steps in full as in diffusers'
example for IF, with pictures of the class, which that example lacks; the partial and the final tuning have the paper's share of
these steps. The full tuning goes on from the partial one. The lifts are threestudio's ``dreamfusion-if.yaml``, with the
differences of ``dreamfusion-if``, in place of mip-NeRF 360's field and regularisers. The reconstruction has the masks of the
rough asset's renders, so that it holds the final asset to the rough one's silhouette. The repainted views have a white
background, which their prompts name. The time of the noise (0.5), the guidance scale of the repainting (7), the weight of the
reconstruction (1000, mean square) and the cameras of the repainted views are dreamlift's own: we found none in the paper's main
text; its supplement was not seen.
"""

PRESETS = {
    "dreambooth3d": Preset(DREAMBOOTH3D, "Raj et al. 2023", "the thing in a few photos (--class), by a new word"),
}
