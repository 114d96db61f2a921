"""What can be set (:class:`Config`), and named settings, each with the paper that it follows and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dreamlift.cameras import CameraSampler
from dreamlift.export.settings import Files
from dreamlift.guidance import GUIDANCE
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
from dreamlift.lighting import Lighting
from dreamlift.meshing.extract import Extract
from dreamlift.personalize.additions import Additions
from dreamlift.priors.saving import Memory
from dreamlift.prompts import WORDINGS, Compass, FourViews, NoViews, Wording
from dreamlift.scenes import SCENES
from dreamlift.scenes.background import Learned, Solid
from dreamlift.scenes.base import SceneSettings
from dreamlift.scenes.field import Blob
from dreamlift.scenes.hashgrid import Hashgrid
from dreamlift.scenes.nerf import Nerf
from dreamlift.scenes.voxel import Voxel
from dreamlift.schedules import SCHEDULES, Linear, Piecewise, Schedule, Switch, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Weights:
    """Weights of the scene's regularisers; 0 switches a term off and it is not computed."""

    sparsity: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    opaque: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    orientation: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    distortion: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    tv: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})
    depth_variance: float | Schedule = field(default=0.0, metadata={"choices": SCHEDULES})

    def at(self, progress: float) -> Mapping[str, float]:
        """The terms that are on, with their weights."""
        values = {name: value_at(value, progress) for name, value in vars(self).items()}
        return {name: value for name, value in values.items() if value != 0.0}


@dataclass(frozen=True)
class Adam:
    """The optimiser. Learning rates come from the scene's parts; this scales and shapes them."""

    lr_scale: float | Schedule = field(default=1.0, metadata={"choices": SCHEDULES})
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-15  # as in Instant-NGP and threestudio: grids get tiny gradients
    clip_norm: float | None = None  # largest norm of all gradients together

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name):g}; accepted: 0 up to, but not including, 1")
        if self.eps <= 0 or (self.clip_norm is not None and self.clip_norm <= 0):
            raise ValueError(f"eps is {self.eps:g} and clip_norm {self.clip_norm}; both must be positive")
        if min(value_at(self.lr_scale, progress) for progress in (0.0, 0.5, 1.0)) < 0:
            raise ValueError("lr_scale becomes negative; it must be 0 or more at all times")


@dataclass(frozen=True)
class Config:
    """Everything that decides a run; a run's ``config.yaml`` is exactly this."""

    prompt: str = ""
    negative: str = ""  # what is not wanted; "" is the empty prompt
    prior: str = "toybox"  # a known name, a hub name, a diffusers folder, or a one-file checkpoint (.safetensors)
    prior_config: str = ""  # for a one-file checkpoint: the prior with its settings and tokenizers; "" is the known one
    additions: Additions = field(default_factory=Additions)  # your own LoRA and textual-inversion files
    see_cameras: bool = True  # tell the prior each picture's camera, if it was trained to take one
    linear_latents: bool = False  # a linear map of colours in the place of a latent prior's encoder: fast, without texture
    seed: int = 0
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1", "mps"
    steps: int = 300  # of each particle
    particles: int = 1  # scenes that are lifted in turn; what the loss learns (VSD's LoRA) they share
    cameras: CameraSampler = field(default_factory=CameraSampler)
    wording: Wording = field(default_factory=Compass, metadata={"choices": WORDINGS})
    lighting: Lighting = field(default_factory=Lighting)
    scene: SceneSettings = field(default_factory=Nerf, metadata={"choices": SCENES})
    guidance: Guidance = field(default_factory=SDS, metadata={"choices": GUIDANCE})
    weights: Weights = field(default_factory=Weights)
    adam: Adam = field(default_factory=Adam)
    mesh: Extract = field(default_factory=Extract)
    asset: Files = field(default_factory=Files)
    memory: Memory = field(default_factory=Memory)
    checkpoint_every: int = 50  # steps between two checkpoints
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "particles", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; accepted: 0 to 2^63 - 1")

    @property
    def total_steps(self) -> int:
        """Steps of all particles together."""
        return self.steps * self.particles


# High noise first: there the prior says what the prompt looks like from this side. At lower noise it believes the blob that it
# is shown; once the shape is there, low noise makes it whole.
T_MIN = Piecewise(((0.0, 0.9), (0.3, 0.7), (1.0, 0.02)))
T_MAX = Piecewise(((0.0, 0.99), (0.4, 0.9), (1.0, 0.3)))

TOYBOX = Config(
    steps=200,
    cameras=CameraSampler(views=2, resolution=(64,), elevation_deg=(-10.0, 60.0), fov_deg=(40.0, 55.0), fill=1.0),
    wording=Compass(),
    scene=Nerf(
        field=Voxel(activation="exp", blob=Blob("cone", 2.0, 0.5)),
        # What the prior paints behind things where the words name nothing (dreamlift.toybox.dataset.PLAIN). Against any
        # other colour the scene would grow a wall of fog in this one.
        background=Solid((0.70, 0.75, 0.80)),
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
"""DreamFusion's method on the embedded prior: annealed t, gradient x - x0_hat with clipped x0_hat, 8 view words.

On 2 CPU cores it takes a minute and 1.2 GB (BENCHMARKS.md).
"""

DREAMFUSION_IF = replace(
    TOYBOX,
    prior="deepfloyd-if",
    steps=10_000,
    cameras=CameraSampler(views=1, resolution=(64,), elevation_deg=(-10.0, 90.0), distance=(1.5, 2.0), fov_deg=(40.0, 70.0)),
    wording=FourViews(),
    lighting=Lighting(lambertian=0.75, textureless=0.5, start=0.2),
    scene=Nerf(field=Hashgrid(blob=Blob("cone", 10.0, 0.5)), background=Learned(), samples=512, bounds=1.0),
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
    scene=replace(DREAMFUSION_SD.scene, field=Hashgrid(activation="exp", blob=Blob("gaussian", 5.0, 0.2))),
    guidance=SDS(guidance_scale=100.0, weighting="sigma2"),
    weights=Weights(sparsity=5e-4),
)
"""threestudio's latentnerf row; colours that a linear map takes to latents, where Latent-NeRF renders latents themselves."""

# 512 pixels of 512 samples: all at once, they would take more memory than any GPU has.
LARGE = replace(DREAMFUSION_SD.scene, rays_at_once=8192)

PROLIFICDREAMER = replace(
    DREAMFUSION_SD,
    steps=25_000,
    cameras=CameraSampler(
        views=1, resolution=(64, 512, 512, 512, 512), elevation_deg=(-10.0, 45.0), distance=(1.0, 1.5), fov_deg=(40.0, 70.0)
    ),
    scene=LARGE,
    wording=FourViews(front_deg=30.0, back_deg=30.0),
    lighting=Lighting(),  # the plain albedo
    guidance=VSD(guidance_scale=7.5, t_max=Switch(0.98, 0.5, 0.2), lora_target="v"),
    weights=Weights(sparsity=10.0, opaque=Switch(0.0, 1000.0, 0.4)),
)
"""The first stage of threestudio's prolificdreamer row; the LoRA is on the base model itself."""

HIFA = replace(
    DREAMFUSION_SD,
    cameras=replace(DREAMFUSION_SD.cameras, resolution=(512,)),
    scene=LARGE,
    lighting=Lighting(),
    guidance=HiFA(guidance_scale=100.0, lambda_rgb=0.01),
    weights=Weights(sparsity=1.0, depth_variance=100.0),
)
"""threestudio's hifa row: 512 pixels, t from 0.98 to 0.3 with the square root of progress, variance along rays."""

SDI_SD = replace(
    HIFA,
    wording=FourViews(perp_neg=1.0),
    guidance=SDI(guidance_scale=7.5, inversion_scale=-7.5, inversion_steps=10, eta=0.3),
    weights=Weights(orientation=0.1, sparsity=Linear(0.0, 0.15, 0.0, 0.3), opaque=0.1, depth_variance=1.0),
)
"""threestudio's sdi row, but for its convexity term."""

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
    prior="sd-1.5",
    scene=Nerf(field=Voxel(resolutions=(25, 49, 97), blob=Blob("cone", 10.0, 0.5)), background=Learned(), bounds=1.0),
    lighting=Lighting(),
    guidance=SJC(guidance_scale=100.0),
    weights=Weights(sparsity=1.0),
)
"""threestudio's sjc row on a voxel grid; it renders pictures and encodes them, where SJC renders latents."""

CFD_SD = replace(
    HIFA,
    steps=25_000,
    cameras=CameraSampler(
        views=1, resolution=(128, *[512] * 9), elevation_deg=(0.0, 40.0), distance=(1.3, 1.5), fov_deg=(40.0, 65.0)
    ),
    wording=FourViews(front_deg=30.0, back_deg=30.0),
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
        background=Learned(shared=True), samples=512, bounds=1.0,
    ),
    guidance=Reconstruction(),
    weights=Weights(),
)  # fmt: skip
"""MVDream's own row for threestudio (``mvdream-sd21``), but for its 8 views a step at 64 pixels, which are 4 here.

Half of its elevations are uniform in the angle; here all are uniform on the sphere.
"""


def _toy(guidance: Guidance, **changes: Any) -> Config:
    """A paper's loss on the embedded prior, with all else as in ``toybox``, so that losses can be compared."""
    return replace(TOYBOX, guidance=guidance, **changes)


PRESETS: dict[str, Config] = {
    "toybox": TOYBOX,
    "dreamfusion-if": DREAMFUSION_IF,
    "dreamfusion-sd": DREAMFUSION_SD,
    "latent-nerf": LATENT_NERF,
    "prolificdreamer": PROLIFICDREAMER,
    "hifa": HIFA,
    "sdi": SDI_SD,
    "luciddreamer": LUCIDDREAMER,
    "sjc": SJC_SD,
    "cfd": CFD_SD,
    "sd3-flow": SD3_FLOW,
    "mvdream": MVDREAM,
    "dreamfusion-toy": _toy(SDS(7.5, weighting="x0", clip_x0=1.0)),  # t uniform in 0.02 to 0.98, as in the paper
    "prolificdreamer-toy": _toy(VSD(7.5, T_MIN, T_MAX, "x0", lora_lr=1e-3, clip_x0=1.0)),
    "hifa-toy": _toy(HiFA(7.5, 0.1, clip_x0=1.0)),
    "sdi-toy": _toy(SDI(7.5, -7.5, 3, 0.3, T_MIN, T_MAX, "x0", clip_x0=1.0)),
    "luciddreamer-toy": _toy(ISM(7.5, 0.05, 0.3, T_MIN, T_MAX, "x0")),
    "cfd-toy": _toy(CFD(7.5, clip_x0=1.0)),
    "csd-toy": _toy(CSD(6.5, T_MIN, T_MAX, "x0")),
    "nfsd-toy": _toy(NFSD(6.5, 0.2, T_MIN, T_MAX, "x0")),
    "mvdream-toy": _toy(Reconstruction(7.5, 0.5, T_MIN, T_MAX), cameras=replace(TOYBOX.cameras, views=4)),
}
"""Named settings. ``toybox`` is the default; the ``-toy`` ones run a paper's loss on the embedded prior in minutes."""
