"""Presets for the embedded prior: the default, and its first stage with the losses of other papers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.base import Guidance
from dreamlift.guidance.cfd import CFD
from dreamlift.guidance.csd import CSD
from dreamlift.guidance.hifa import HiFA
from dreamlift.guidance.ism import ISM
from dreamlift.guidance.nfsd import NFSD
from dreamlift.guidance.reconstruction import Reconstruction
from dreamlift.guidance.rfds import RFDS
from dreamlift.guidance.sdi import SDI
from dreamlift.guidance.sds import SDS
from dreamlift.guidance.sjc import SJC
from dreamlift.guidance.vsd import VSD
from dreamlift.presets.preset import Preset
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import Backdrop, Compass
from dreamlift.scenes.background import Solid
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.schedules import Linear, Piecewise
from dreamlift.shading.lighting import Lighting
from dreamlift.stages.base import Stage
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher

# t decreases: at high noise the prior's prediction follows the prompt and the view; at low noise it follows the render, so
# that low noise refines a shape but does not make one.
T_MIN = Piecewise(((0.0, 0.9), (0.3, 0.7), (1.0, 0.02)))
T_MAX = Piecewise(((0.0, 0.99), (0.4, 0.9), (1.0, 0.3)))

# The backgrounds of the prior's training pictures for captions that name none, and for "dark background"
# (dreamlift.toybox.training.dataset.BACKDROPS). With another background colour the scene would add semi-transparent density in
# these colours; with only one of them it loses thin parts of a similar colour, and puts that colour into empty space.
PALE, DARK = Backdrop("", (0.70, 0.75, 0.80)), Backdrop("dark background", (0.12, 0.14, 0.20))
BACKDROP = Solid(PALE.color)

WORDS = Compass()
PIXELS = PriorChoice("toybox")
LATENTS = PriorChoice("toybox-latent")
GEOMETRY = PriorChoice("toybox-geometry")

FIELD = Lift(
    steps=200,
    cameras=CameraSampler(views=2, resolution=(64,), elevation_deg=(-10.0, 60.0), fov_deg=(40.0, 55.0), fill=1.0),
    scene=Nerf(field=Voxel(activation="exp", blob=Blob("cone", 2.0, 0.5)), background=BACKDROP),
    teachers=(Teacher(PIXELS, SDS(7.5, T_MIN, T_MAX, weighting="x0", clip_x0=1.0), WORDS),),
    # First empty space is cleared; then the rest becomes opaque, since semi-transparent parts would be missing in the mesh.
    weights=Weights(sparsity=Linear(60.0, 10.0, 0.4, 0.7), opaque=Linear(0.0, 1000.0, 0.4, 0.8)),
)
"""DreamFusion's method with the embedded prior: annealed t, gradient x - x0_hat with clipped x0_hat, 8 view directions."""

MESH = Lift(
    steps=100,
    cameras=FIELD.cameras,
    # Untextured renders, which the prior was trained on, show errors of the shape that colours would hide.
    lighting=Lighting(lambertian=0.5, textureless=0.5),
    scene=TetMesh(
        resolution=64, color=Voxel(switch_on=(0.0, 0.0, 0.0), blob=Blob("none"), lr=0.02), background=BACKDROP,
        sdf_lr=0.01, deform_lr=0.01,
    ),
    teachers=(Teacher(None, SDS(7.5, 0.02, 0.5, weighting="x0", clip_x0=1.0), WORDS),),
    weights=Weights(normal_consistency=3000.0, laplacian=165.0),
)  # fmt: skip
"""A mesh stage at low noise, for smooth surfaces and sharp edges (Magic3D's second stage)."""

SHAPE = replace(
    FIELD,
    cameras=replace(FIELD.cameras, elevation_deg=(-20.0, 85.0)),
    teachers=(Teacher(GEOMETRY, SDS(4.0, T_MIN, T_MAX, weighting="x0", clip_x0=1.0), WORDS, "place"),),
)
"""A first stage that is taught where the surface is (SweetDreamer): pictures of colours leave a lid on a vessel, since a lid
that is painted with what is seen through the opening explains them all; places pull it inwards from every side (docs/shape.md).
Cameras from below and from almost straight above see into it."""

PAINTED = replace(
    MESH,
    scene=replace(MESH.scene, sdf_lr=0.003, deform_lr=0.003),
    teachers=(Teacher(PIXELS, SDS(7.5, 0.02, Linear(0.95, 0.3), weighting="x0", clip_x0=1.0), WORDS),),
)
"""The mesh stage after it, which brings the colours: they begin at high noise, since there are none before. The shape is kept:
with an exact teacher and sdf_lr = 0.01 it lost 0.05 of a chair's volume IoU."""


def toy(*stages: Stage) -> Config:
    """The config of a run with the embedded prior."""
    return Config(backdrops=(PALE, DARK), stages=stages)


def field(guidance: Guidance, prior: PriorChoice = PIXELS, **changes: Any) -> Lift:
    """The first stage with another loss and otherwise equal settings, for comparisons of losses."""
    return replace(FIELD, teachers=(Teacher(prior, guidance, WORDS),), **changes)


TOYBOX = toy(SHAPE, PAINTED)
"""The default: a radiance field, which is taught the shape, then its mesh, which is taught the colours."""
COLORED = toy(FIELD, MESH)
"""Both stages taught by colours, for priors that draw nothing else."""

# VSD's guidance scale is that of a good sampler: 7.5 for Stable Diffusion, 2 to 3 for this prior. The network has attention at
# its lowest level only, and a LoRA of the attention alone cannot learn the renders (targets="all"). What the LoRA has not
# learned stays in the renders as stains, so it is trained at the same t as the scene, with a small learning rate.
TOY_VSD = VSD(3.0, T_MIN, T_MAX, "x0", targets="all", lora_lr=2e-3, lora_target="v", lora_t="taught", clip_x0=1.0)
LATENT_SDS = SDS(7.5, T_MIN, T_MAX, weighting="x0")

TOYS: dict[str, Preset] = {
    "toybox-field": Preset(toy(FIELD), "", "only the first stage of magic3d-toy"),
    # t is uniform in [0.02, 0.98], as in the paper
    "dreamfusion-toy": Preset(toy(field(SDS(7.5, weighting="x0", clip_x0=1.0))), "Poole et al. 2022", "SDS with uniform t"),
    "latent-toy": Preset(toy(field(LATENT_SDS, LATENTS)), "", "the first stage with a latent prior"),
    "latent-nerf-toy": Preset(
        toy(field(LATENT_SDS, replace(LATENTS, linear_encoder=True))), "Metzer et al. 2022", "latents without an encoder"
    ),
    "vsd-toy": Preset(toy(field(TOY_VSD)), "Wang et al. 2023", "VSD; --particles 2: two scenes that share a LoRA"),
    "hifa-toy": Preset(toy(field(HiFA(7.5, 0.1, clip_x0=1.0))), "Zhu et al. 2023", "HiFA's loss on latents and pictures"),
    "sjc-toy": Preset(toy(field(SJC(7.5, True, T_MIN, T_MAX))), "Wang et al. 2022", "score Jacobian chaining"),
    "rfds-toy": Preset(toy(field(RFDS(7.5, T_MIN, T_MAX))), "Yang et al. 2024", "rectified-flow distillation"),
    "sdi-toy": Preset(
        toy(field(SDI(7.5, 0.0, 5, 0.6, T_MIN, T_MAX, "x0", mean=False, clip_x0=1.0))),
        "Lukoianov et al. 2024", "noise by inversion",
    ),
    "luciddreamer-toy": Preset(
        toy(field(ISM(7.5, 0.05, 0.3, 0.02, Linear(0.98, 0.5, 0.0, 0.3), "x0"))), "Liang et al. 2023", "interval score matching"
    ),
    "cfd-toy": Preset(
        toy(field(CFD(7.5, gamma=Linear(0.0199, 0.0002, 0.1, 0.2), clip_x0=1.0))),
        "Yan et al. 2025", "one noise field for all views",
    ),
    "csd-toy": Preset(toy(field(CSD(6.5, T_MIN, T_MAX, "x0"))), "Yu et al. 2023", "classifier score distillation"),
    "nfsd-toy": Preset(toy(field(NFSD(6.5, 0.2, T_MIN, T_MAX, "x0"))), "Katzir et al. 2023", "noise-free score distillation"),
    "mvdream-toy": Preset(
        toy(field(Reconstruction(7.5, 0.5, T_MIN, T_MAX), cameras=replace(FIELD.cameras, views=4))),
        "Shi et al. 2023", "MVDream's loss, four views per step",
    ),
}  # fmt: skip
