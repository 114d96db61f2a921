"""Image to 3D with the embedded view-conditioned prior ``toybox-view``: twins of the papers' systems that run on a laptop.

The first stage is taught by *places* (canonical coordinates), which open vessels and round off backs, and by the photo; the
mesh stage by colours and by the photo. All cameras are those that the prior was trained on: a field of view of 45 degrees from
a distance of 2.6, elevations from -20 to 80 degrees; and so are the three backdrops, which the photo is placed over as well.
"""

from __future__ import annotations

from dataclasses import replace

from dreamlift.cameras import CameraSampler
from dreamlift.config.schema import Config
from dreamlift.guidance.base import Guidance
from dreamlift.guidance.refine import Refine
from dreamlift.guidance.sds import SDS
from dreamlift.presets.preset import Preset
from dreamlift.presets.toybox import BACKDROP, DARK, MESH, PALE, PIXELS, SHAPE, T_MAX, T_MIN
from dreamlift.priors.choice import PriorChoice
from dreamlift.prompts import Backdrop, NoViews
from dreamlift.reading.photos import Photo
from dreamlift.scenes.background import Solid
from dreamlift.scenes.gaussians.densify import Densify
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.scenes.nerf.field import Blob
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.nerf.voxel import Voxel
from dreamlift.scenes.surface.scene import Surface
from dreamlift.scenes.surface.textures import Image
from dreamlift.schedules import Linear
from dreamlift.shading.lighting import Lighting
from dreamlift.stages.lift import Lift
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Show, Teacher

VIEWS = PriorChoice("toybox-view")
SCALE = 1.0  # without guidance: twice as fast, and nearer to the truth than 2 (BENCHMARKS.md)
WHITE = Solid((1.0, 1.0, 1.0))
BACKDROPS = tuple(Backdrop("", color) for color in (WHITE.color, PALE.color, DARK.color))
PHOTO = Photo(path="", distance=2.6, fov_deg=45.0)
CAMERAS = CameraSampler(
    views=2, resolution=(64,), elevation_deg=(-20.0, 80.0), distance=(2.6, 2.6), fov_deg=(45.0, 45.0)
)  # fmt: skip


def of_photo(*stages: Lift) -> Config:
    """The config of a run from one photo."""
    return Config(photos=(PHOTO,), backdrops=BACKDROPS, stages=stages)


def teacher(guidance: Guidance, show: Show = "color", prior: PriorChoice | None = VIEWS) -> Teacher:
    """The embedded prior, whose gradients grow with the angle from the photo, since the photo says more near its own view.

    With null as ``prior``, that of the stage before, so that ``--prior`` sets all.
    """
    return Teacher(prior, guidance, NoViews(), show, angle_weight=0.5)


FIELD = Lift(
    steps=200,
    cameras=CAMERAS,
    scene=Nerf(field=Voxel(activation="exp", blob=Blob("cone", 2.0, 0.5)), background=WHITE),
    teachers=(teacher(SDS(SCALE, T_MIN, T_MAX, weighting="x0", clip_x0=1.0), "place"),),
    photometric=Photometric(rgb=3000.0, mask=3000.0, resolution=(64,)),
    # First empty space is cleared; then the rest becomes opaque, since semi-transparent parts would be missing in the mesh.
    weights=Weights(sparsity=Linear(60.0, 10.0, 0.4, 0.7), opaque=Linear(0.0, 1000.0, 0.4, 0.8)),
)
COLORS = replace(
    MESH,
    cameras=CAMERAS,
    lighting=Lighting(),
    scene=replace(MESH.scene, background=WHITE),
    teachers=(teacher(SDS(SCALE, 0.02, Linear(0.9, 0.4), weighting="x0", clip_x0=1.0), prior=None),),
    photometric=Photometric(rgb=10_000.0, mask=3000.0, resolution=(128,)),
)
SPLATS = replace(
    FIELD,
    scene=Gaussians(capacity=6000, count=2000, background=WHITE, densify=Densify(every=0)),
    teachers=(
        teacher(SDS(SCALE, T_MIN, T_MAX, weighting="x0", clip_x0=1.0), "place"),
        teacher(SDS(SCALE, T_MIN, T_MAX, weighting="x0", clip_x0=1.0), prior=None),
    ),
)
PAINT = replace(
    MESH,
    steps=50,
    cameras=CAMERAS,
    lighting=Lighting(),
    scene=Surface(texture=Image(256, 32), background=WHITE),
    weights=Weights(),
    teachers=(teacher(Refine(SCALE, Linear(0.2, 0.05), Linear(0.2, 0.05), steps=20, clip_x0=1.0), prior=None),),
    photometric=Photometric(rgb=10_000.0, mask=0.0, resolution=(128,)),
)

WORDS = 0.3  # weight of the words' teacher beside the views'
TWO_FIELD = replace(
    FIELD,
    scene=replace(FIELD.scene, background=BACKDROP),
    teachers=(*FIELD.teachers, replace(SHAPE.teachers[0], weight=WORDS)),
)
TWO_COLORS = replace(
    COLORS,
    scene=replace(COLORS.scene, background=BACKDROP),
    teachers=(*COLORS.teachers, Teacher(PIXELS, MESH.teachers[0].guidance, MESH.teachers[0].wording, weight=WORDS)),
)
MAGIC123 = replace(of_photo(TWO_FIELD, TWO_COLORS), backdrops=(PALE, DARK))
"""The words' teacher knows two backdrops, which the views' teacher places the photo over as well."""

TOY_PICTURES: dict[str, Preset] = {
    "zero123-toy": Preset(of_photo(FIELD, COLORS), "Liu et al. 2023", "the default for a photo: a field, then its mesh"),
    "dreamgaussian-image-toy": Preset(
        of_photo(SPLATS, PAINT), "Tang et al. 2023", "a photo: Gaussians, their mesh, a refined texture"
    ),
    "magic123-toy": Preset(MAGIC123, "Qian et al. 2023", "a photo and words: a field, then its mesh, by two teachers"),
}
