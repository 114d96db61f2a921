"""DreamBooth3D with the embedded prior: a thing in a few photos, by a new word, in minutes on a laptop.

All weights are tuned, which keeps the view in a new context better than a LoRA does (docs/dreambooth.md). Steps, t_pseudo and
weights are dreamlift's own: the paper's steps are those of Imagen, and we found none of the other numbers in its main text (its
supplement was not seen). The pseudo views have the masks of the rough asset's renders, so that the final asset is held to its
silhouette.
"""

from __future__ import annotations

from dataclasses import replace

from dreamlift.guidance.refine import Refine
from dreamlift.guidance.sds import SDS
from dreamlift.presets.preset import Preset
from dreamlift.presets.toybox import FIELD, MESH, PIXELS, T_MAX, T_MIN, WORDS, toy
from dreamlift.priors.choice import PriorChoice
from dreamlift.stages.finetune import Finetune
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.repaint import Repaint
from dreamlift.stages.teacher import Teacher
from dreamlift.tuning.settings import Tuning

PARTIAL, FULL, FINAL = (PriorChoice(f"tuned:{name}") for name in ("partial", "full", "final"))
TUNING = Tuning(all_weights=True, text_encoder=True, lr=3e-4)
T_PSEUDO = 0.4  # of 1: 0.3 to 0.5 keep the render's view and take the photos' colours


def by_final(stage: Lift, guidance: SDS, rgb: float) -> Lift:
    """A lift by the final weights and by the pseudo views, whose colours have the weight ``rgb``."""
    compared = Photometric(source="handover", rgb=rgb, mask=1000.0, views=2, resolution=(64,))
    return replace(stage, teachers=(Teacher(FINAL, guidance, WORDS),), photometric=compared)


DREAMBOOTH3D = toy(
    Finetune(name="partial", steps=40, prior=PIXELS, tuning=TUNING),
    replace(FIELD, teachers=(replace(FIELD.teachers[0], prior=PARTIAL),)),
    Finetune(name="full", steps=110, prior=PARTIAL, tuning=TUNING),
    Repaint(
        views=20,
        elevation_deg=(0.0, 30.0),
        teachers=(Teacher(FULL, Refine(3.0, T_PSEUDO, T_PSEUDO, steps=40, clip_x0=1.0), WORDS),),
    ),
    Finetune(name="final", steps=60, prior=PARTIAL, source="both", tuning=TUNING),
    # A smaller guidance scale than that of FIELD and MESH, 7.5, and a strong reconstruction: 1.8 dB more on one duck.
    by_final(FIELD, SDS(3.0, T_MIN, T_MAX, weighting="x0", clip_x0=1.0), rgb=10_000.0),
    by_final(MESH, SDS(2.0, 0.02, 0.5, weighting="x0", clip_x0=1.0), rgb=30_000.0),
)

TOY_SUBJECTS: dict[str, Preset] = {
    "dreambooth3d-toy": Preset(DREAMBOOTH3D, "Raj et al. 2023", "the thing in a few photos (--class), by a new word"),
}
