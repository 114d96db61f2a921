"""Settings for the embedded prior: the default, and papers' losses with all else as in its first stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config, Stage, Weights
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
from dreamlift.prompts import Backdrop, Compass
from dreamlift.scenes.background import Solid
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.tetmesh.scene import TetMesh
from dreamlift.schedules import Linear, Piecewise
from dreamlift.shading.lighting import Lighting

# High noise first: there the prior says what the prompt looks like from this side. At lower noise it believes the blob that it
# is shown; once the shape is there, low noise makes it whole.
T_MIN = Piecewise(((0.0, 0.9), (0.3, 0.7), (1.0, 0.02)))
T_MAX = Piecewise(((0.0, 0.99), (0.4, 0.9), (1.0, 0.3)))

# What the prior paints behind things where the words name nothing, and where they say "dark background"
# (dreamlift.toybox.training.dataset.BACKDROPS). Against any other colour the scene would grow a wall of fog in these;
# against one of them alone it loses thin parts of nearly that colour, and hangs curtains of that colour where air should be.
PALE, DARK = Backdrop("", (0.70, 0.75, 0.80)), Backdrop("dark background", (0.12, 0.14, 0.20))
BACKDROP = Solid(PALE.color)

FIELD = Config(
    steps=200,
    cameras=CameraSampler(views=2, resolution=(64,), elevation_deg=(-10.0, 60.0), fov_deg=(40.0, 55.0), fill=1.0),
    wording=Compass(),
    backdrops=(PALE, DARK),
    scene=Nerf(
        field=Voxel(activation="exp", blob=Blob("cone", 2.0, 0.5)),
        background=BACKDROP,
    ),
    guidance=SDS(
        guidance_scale=7.5,
        t_min=T_MIN,
        t_max=T_MAX,
        weighting="x0",
        clip_x0=1.0,
    ),
    # First nothing may stand where it is not needed; later, what is left has to be opaque, or the background shines
    # through and the mesh loses it.
    weights=Weights(sparsity=Linear(60.0, 10.0, 0.4, 0.7), opaque=Linear(0.0, 1000.0, 0.4, 0.8)),
)
"""DreamFusion's method on the embedded prior: annealed t, gradient x - x0_hat with clipped x0_hat, 8 view words."""

MESH = Stage(
    steps=100,
    cameras=FIELD.cameras,
    wording=FIELD.wording,
    # Clay, which the prior knows, teaches the shape where colours would hide it.
    lighting=Lighting(lambertian=0.5, textureless=0.5),
    scene=TetMesh(
        resolution=64, color=Voxel(switch_on=(0.0, 0.0, 0.0), blob=Blob("none"), lr=0.02), background=BACKDROP,
        sdf_lr=0.01, deform_lr=0.01,
    ),
    guidance=SDS(7.5, 0.02, 0.5, weighting="x0", clip_x0=1.0),
    weights=Weights(normal_consistency=3000.0, laplacian=1000.0),
)  # fmt: skip
"""A mesh stage at low noise: walls become smooth and edges sharp (Magic3D's second stage)."""

TOYBOX = replace(FIELD, then=(MESH,))
"""The default: a radiance field, then its mesh."""


def _toy(guidance: Guidance, **changes: Any) -> Config:
    """A paper's loss on the embedded prior, with all else as in ``toybox-field``, so that losses can be compared."""
    return replace(FIELD, guidance=guidance, **changes)


LATENT = replace(FIELD, prior="toybox-latent", guidance=SDS(7.5, T_MIN, T_MAX, weighting="x0"))
"""The first stage on an embedded prior of Stable Diffusion's shape: renders go through an encoder, with gradients."""

# The paper's guidance is that of a good sampler (7.5 for Stable Diffusion); this prior's is 2 to 3. The network has attention
# at its lowest level only: a LoRA there alone learns nothing of the renders. What it has not learnt stays in them as stains, so
# it learns where it is asked, and not fast.
TOY_VSD = VSD(3.0, T_MIN, T_MAX, "x0", targets="all", lora_lr=2e-3, lora_target="v", lora_t="taught", clip_x0=1.0)

TOYS: dict[str, Config] = {
    "toybox-field": FIELD,
    "dreamfusion-toy": _toy(SDS(7.5, weighting="x0", clip_x0=1.0)),  # t uniform in 0.02 to 0.98, as in the paper
    "latent-toy": LATENT,
    "latent-nerf-toy": replace(LATENT, linear_latents=True),  # a linear map of colours in the encoder's place
    "vsd-toy": _toy(TOY_VSD),
    "hifa-toy": _toy(HiFA(7.5, 0.1, clip_x0=1.0)),
    "sjc-toy": _toy(SJC(7.5, True, T_MIN, T_MAX)),
    "rfds-toy": _toy(RFDS(7.5, T_MIN, T_MAX)),
    "sdi-toy": _toy(SDI(7.5, 0.0, 5, 0.6, T_MIN, T_MAX, "x0", clip_x0=1.0)),
    "luciddreamer-toy": _toy(ISM(7.5, 0.05, 0.3, 0.02, Linear(0.98, 0.5, 0.0, 0.3), "x0")),
    "cfd-toy": _toy(CFD(7.5, normalize=False, clip_x0=1.0)),
    "csd-toy": _toy(CSD(6.5, T_MIN, T_MAX, "x0")),
    "nfsd-toy": _toy(NFSD(6.5, 0.2, T_MIN, T_MAX, "x0")),
    "mvdream-toy": _toy(Reconstruction(7.5, 0.5, T_MIN, T_MAX), cameras=replace(FIELD.cameras, views=4)),
}
