"""The checks of a lift stage's settings at its place in a run, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from dreamlift.cameras import CameraSampler
from dreamlift.guidance import GUIDANCE
from dreamlift.scenes import SCENES
from dreamlift.scenes.background import Solid
from dreamlift.scenes.base import SceneSettings
from dreamlift.stages.base import Place
from dreamlift.stages.photometric import Photometric
from dreamlift.stages.settings import Weights
from dreamlift.stages.teacher import Teacher

GIVE_PHOTO = "give --image FILE or --photos"


def name_of(scene: SceneSettings) -> str:
    """A scene's name in a config, or its class name if it is not registered."""
    return next((name for name, kind in SCENES.items() if kind is type(scene)), type(scene).__name__)


def check_scene(scene: SceneSettings, teachers: Sequence[Teacher], weights: Weights, place: Place) -> None:
    """Check the scene's initial mesh, regularizers and background, and that the loss can change the scene.

    Raises:
        ValueError: one line with the fix.
    """
    name = name_of(scene)
    if place.has_mesh and not scene.takes_initial_mesh:
        fix = "use a preset for meshes, such as --preset texture-toy or latent-paint"
        fix = "use it in the first stage only" if place.number else fix
        raise ValueError(f"a {name} scene cannot start from a mesh; {fix}")
    if scene.needs_initial_mesh and not place.has_mesh:
        raise ValueError(f"a {name} scene needs an initial mesh; give --mesh FILE, or a stage before it")
    fixed = [teacher.show for teacher in teachers if teacher.show != "color"]
    if fixed and scene.keeps_initial_mesh:
        raise ValueError(
            f"show is {fixed[0]}, but the shape of a {name} scene is fixed, so the loss would have no effect; "
            "use --show color, or a scene with a trainable shape (tetmesh)"
        )
    if missing := sorted(weights.ever() - set(scene.terms)):
        has = ", ".join(scene.terms) or "none"
        raise ValueError(f"weights.{missing[0]} is set, but a {name} scene has no such regularizer; accepted: {has}")
    background, colors = getattr(scene, "background", None), [each.color for each in place.backdrops]
    if colors and (not isinstance(background, Solid) or background.color not in colors):
        raise ValueError(
            "scene.background is not one of the backdrops, which replace it during the optimization; set it to "
            "a solid background with the color of a backdrop, or give --backdrops [] for no backdrops"
        )


def check_sources(cameras: CameraSampler, teachers: Sequence[Teacher], compared: Photometric | None, place: Place) -> None:
    """Check that there are the pictures that the settings refer to.

    Raises:
        ValueError: one line with the fix.
    """
    if compared is not None and compared.source == "handover" and not place.has_pictures:
        raise ValueError("photometric.source is handover, but no stage before this one leaves pictures; use photos")
    if compared is not None and compared.alone and not teachers:
        raise ValueError("photometric.alone is true, but there is no teacher to alternate with; set it to false")
    from_photos = compared is not None and compared.source == "photos"
    if compared is not None and from_photos and compared.ever("normal"):
        raise ValueError("photometric.normal has a weight, but photos have no normals; set it to 0")
    if compared is not None and from_photos and compared.ever("depth") and not place.has_depth:
        raise ValueError(
            "photometric.depth has a weight, but photos have no depth of their own; name a model that estimates it, as "
            "in --depth-model depth-anything/Depth-Anything-V2-Small-hf, or set the weight to 0"
        )
    if place.has_photos:
        return
    if from_photos:
        raise ValueError(f"photometric.source is photos, but there are none; {GIVE_PHOTO}, or set photometric to null")
    if cameras.needs_photo:
        name = "like_photo" if cameras.like_photo else "elevation_about_deg"
        off = "false" if cameras.like_photo else "null"
        raise ValueError(f"cameras.{name} is set, but there is no photo; {GIVE_PHOTO}, or set it to {off}")
    for number, teacher in enumerate(teachers):
        if teacher.angle_weight:
            raise ValueError(f"teachers.{number}.angle_weight is set, but there is no photo; {GIVE_PHOTO}, or set it to 0")


def check_priors(cameras: CameraSampler, teachers: Sequence[Teacher], views: Sequence[int], adapts: Sequence[bool]) -> None:
    """See :meth:`dreamlift.stages.base.Stage.check_priors`."""
    for teacher, learns in zip(teachers, adapts, strict=False):
        if teacher.guidance.adapts_prior and not learns:
            name = next((name for name, kind in GUIDANCE.items() if kind is type(teacher.guidance)), "this loss")
            raise ValueError(f"{name} trains a LoRA, which this kind of prior does not support; use another loss, such as sds")
    for each in views:
        if each > 1 and cameras.orbit != each:
            raise ValueError(
                f"cameras.orbit is {cameras.orbit}, but this prior denoises {each} views of an object together: "
                f"set cameras.orbit to {each} and cameras.views to a multiple of it (as --preset mvdream does)"
            )
