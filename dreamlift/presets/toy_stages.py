"""Papers' systems with several stages, with the embedded prior."""

from __future__ import annotations

from dataclasses import replace

from dreamlift.guidance.base import Guidance
from dreamlift.guidance.refine import Refine
from dreamlift.guidance.sds import SDS
from dreamlift.presets.preset import Preset
from dreamlift.presets.toybox import BACKDROP, COLORED, FIELD, MESH, PIXELS, TOY_VSD, TOYBOX, WORDS, field, toy
from dreamlift.scenes.gaussians.densify import Densify
from dreamlift.scenes.gaussians.scene import Gaussians
from dreamlift.scenes.surface.scene import Surface
from dreamlift.scenes.surface.textures import Image
from dreamlift.schedules import Linear
from dreamlift.shading.lighting import Lighting
from dreamlift.stages.lift import Lift
from dreamlift.stages.settings import Adam, Weights
from dreamlift.stages.teacher import Teacher

# The embedded prior was trained on untextured renders, which replace the normals that large models are given for the shape.
SPLATS = Gaussians(capacity=6000, count=2000, background=BACKDROP, densify=Densify(every=0))
PAINT = Surface(texture=Image(256, 32), background=BACKDROP)


def then(guidance: Guidance) -> tuple[Teacher, ...]:
    """The teacher of a later stage: another loss with the same prior and wording."""
    return (Teacher(None, guidance, WORDS),)


PROLIFICDREAMER = toy(
    field(TOY_VSD),
    replace(MESH, steps=60, scene=replace(MESH.scene, texture=False), lighting=Lighting(1.0, 1.0)),
    replace(
        MESH, steps=60, scene=replace(MESH.scene, geometry=False), lighting=Lighting(), weights=Weights(),
        teachers=then(replace(TOY_VSD, t_min=0.02, t_max=0.5)),
    ),
)  # fmt: skip
# The surface starts as a sphere and has to move far: large learning rates, recomputed distances, smoothness late. The embedded
# prior does not find a shape from untextured renders alone, so colours are optimized as well; the next stage replaces them.
FANTASIA3D = toy(
    replace(
        FIELD,
        scene=replace(MESH.scene, resolution=32, sdf_lr=0.15, redistance=20),
        lighting=Lighting(0.5, 0.3),
        weights=Weights(normal_consistency=Linear(300.0, 3000.0, 0.5, 1.0), laplacian=Linear(16.5, 165.0, 0.5, 1.0)),
        adam=Adam(lr_scale=Linear(1.0, 0.1)),
    ),
    replace(
        MESH, scene=Surface(texture=Image(256, 32), background=BACKDROP, keep_colors=False), lighting=Lighting(),
        weights=Weights(), teachers=then(SDS(7.5, Linear(0.5, 0.02), Linear(0.95, 0.2), "x0", clip_x0=1.0)),
    ),
)  # fmt: skip
DREAMGAUSSIAN = toy(
    replace(FIELD, scene=SPLATS),
    replace(
        MESH, steps=50, scene=PAINT, lighting=Lighting(), weights=Weights(),
        teachers=then(Refine(2.0, Linear(0.2, 0.05), Linear(0.2, 0.05), steps=20, clip_x0=1.0)),
    ),
)  # fmt: skip
GAUSSIANDREAMER = toy(
    replace(FIELD, steps=150),
    replace(
        MESH, scene=SPLATS, lighting=Lighting(), weights=Weights(opaque=300.0),
        teachers=then(SDS(7.5, 0.02, Linear(0.6, 0.3), weighting="x0", clip_x0=1.0)),
    ),
)  # fmt: skip
TEXTURE = toy(
    Lift(
        steps=100, cameras=FIELD.cameras, scene=PAINT,
        teachers=(Teacher(PIXELS, SDS(7.5, Linear(0.5, 0.02), Linear(0.8, 0.3), weighting="x0", clip_x0=1.0), WORDS),),
    )
)  # fmt: skip

TOY_STAGES: dict[str, Preset] = {
    "prolificdreamer-toy": Preset(PROLIFICDREAMER, "Wang et al. 2023", "VSD in three stages"),
    "magic3d-toy": Preset(COLORED, "Lin et al. 2022", "a field, then its mesh, both taught colors"),
    "sweetdreamer-toy": Preset(TOYBOX, "Li et al. 2023", "the default: shape first, from places; then colors"),
    "fantasia3d-toy": Preset(FANTASIA3D, "Chen et al. 2023", "a mesh, initialized as a sphere, then its colors"),
    "dreamgaussian-toy": Preset(DREAMGAUSSIAN, "Tang et al. 2023", "Gaussians, their mesh, a refined texture"),
    "gaussiandreamer-toy": Preset(GAUSSIANDREAMER, "Yi et al. 2023", "Gaussians, initialized from a field's mesh"),
    "texture-toy": Preset(TEXTURE, "Metzer et al. 2022", "a texture for your own mesh (--mesh FILE)"),
}
