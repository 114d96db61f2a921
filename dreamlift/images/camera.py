"""What a run must know of a photo before it begins: the camera that took it, and how large the prior takes its object to be.

The kind of object comes from the prompt, or from the judge where it is sure; the text prior ``toybox`` then scores cameras
(:mod:`~dreamlift.images.camera_scores`). Where nobody names the kind, the elevation is the one that the lift of ``toybox-view``
estimates (:mod:`~dreamlift.priors.zero123.lift`), and the photo's side counts as the front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dreamlift.images.camera_scores import Estimate, estimate_camera, lowest
from dreamlift.images.photos import read_photos
from dreamlift.images.placement import placed
from dreamlift.images.read import ignore
from dreamlift.priors.base import Prior
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.engine import Engine
from dreamlift.priors.kinds import Located, find
from dreamlift.priors.loading.sources import PriorNotFoundError
from dreamlift.priors.parts import Parts
from dreamlift.priors.zero123.encoding import lifted
from dreamlift.priors.zero123.lift import LIFT, SCALE
from dreamlift.prompts import NoViews, article
from dreamlift.reading.photos import ELEVATION_DEG, RATIO, Photo
from dreamlift.toybox.judging.judge import Judge, Verdict, load_judge, sector_angles, understand
from dreamlift.toybox.training.pairs import DISTANCE, FOV_DEG
from dreamlift.toybox.world.things import COLORS
from dreamlift.toybox.world.truth import is_asymmetric
from dreamlift.types import Task

TEXT_PRIOR, VIEW_PRIOR = "toybox", "toybox-view"
PALE = (0.70, 0.75, 0.80)  # the backdrop of the text prior's training pictures whose captions name none
SURE = 0.95  # least probability of a kind that the judge names: 3 of 4 toys, 1 of 7 things of no kind
KNOWN = 0.7  # least probability of any kind, for what the judge recognises
NAMED = 0.5  # the same of the kind that the prompt names
SMALLEST = 0.1  # least ratio of an object in its camera's frame
LIFTED_DEG = (-10.0, 60.0)  # elevations of the pictures that the lift was trained with


@dataclass(frozen=True)
class Viewpoint:
    """The camera of a photo. Angles are degrees."""

    azimuth: float = 0.0
    elevation: float = ELEVATION_DEG
    kind: str = ""  # "": not known
    estimate: Estimate | None = None  # of the text prior; None: the kind is not known
    source: str = "default"  # of the elevation: "text", "shape" or "default"
    told_azimuth: bool = False

    def described(self) -> str:
        """One line for the user."""
        if self.source == "default":
            where = (
                f"elevation {self.elevation:.0f} degrees, a default: nothing in it tells the true one; name the kind of object "
                "in the prompt, or give --elevation"
            )
        else:
            how = f"as {article(self.kind)} {self.kind.replace('_', ' ')}" if self.source == "text" else "by its shape"
            where = f"elevation {self.elevation:.0f} degrees, estimated {how}; --azimuth and --elevation override"
        return f"the photo's camera: azimuth {self.azimuth:.0f}, {where}{self._doubt()}"

    def _doubt(self) -> str:
        found = self.estimate
        if found is None or self.told_azimuth or found.sided or not is_asymmetric(self.kind):
            return ""
        return f" (its side is uncertain: {found.azimuth:.0f} or {found.second_azimuth:.0f} degrees; --azimuth overrides)"


def prepared_photos(
    photos: Sequence[Photo], prompt: str, priors: Sequence[PriorChoice], note: Callable[[str], None] = ignore,
    engine: Engine = "auto",
) -> tuple[Photo, ...]:  # fmt: skip
    """The photos of a run whose teachers have these ``priors``, each by :func:`prepared`.

    Photos are as large as the first prior that draws views takes them to be.
    """
    unique = [choice for number, choice in enumerate(priors) if choice not in priors[:number]]  # a model in memory has no hash
    views = [located for located in map(find, unique) if located.reads_pictures]
    return tuple(prepared(photo, prompt, next(iter(views), None), note, engine) for photo in photos)


def prepared(
    photo: Photo, prompt: str = "", view: Located | None = None, note: Callable[[str], None] = ignore, engine: Engine = "auto"
) -> Photo:  # fmt: skip
    """The photo with its elevation (and its azimuth, where the kind of object is known), as large as the prior takes it to be.

    An elevation that is given is kept, and then the azimuth too; so are a ratio and a shift that are not the defaults. ``note``
    gets what was found.

    Args:
        prompt: of the run; it names the kind of object, if it names one that the text prior knows.
        view: the view-conditioned prior of the run; one with a lift states how large the object is.

    Raises:
        ValueError: the picture cannot be used.
    """
    has_lift = view is not None and _lift_parts(view) is not None
    if has_lift and photo.ratio == RATIO and photo.shift == (0.0, 0.0):
        photo = _as_large_as_lifted(photo, note)
    told = photo.ratio is None or photo.elevation_deg is not None
    if told and not has_lift:
        return photo
    reference = read_photos((replace(photo, elevation_deg=photo.elevation_deg or 0.0),)).references
    if text := unrecognised(reference[0], view, prompt):
        note(f"{Path(photo.path).name}: {text}")
    if told:
        return photo
    found = find_viewpoint(reference[0], prompt, photo.azimuth_deg, view, engine)
    note(f"{Path(photo.path).name}: {found.described()}")
    return replace(photo, azimuth_deg=round(found.azimuth, 1), elevation_deg=round(found.elevation, 1))


def _as_large_as_lifted(photo: Photo, note: Callable[[str], None]) -> Photo:
    """The photo with the ratio at which its camera sees the object as the lift has it.

    A camera that would see only a part of the object, or hardly any of it, is moved, and ``note`` gets it: of the distance and
    the field of view of a photo that is cropped to its object only the perspective is left.
    """
    ratio = lifted_ratio(photo.distance, photo.fov_deg)
    if not SMALLEST <= ratio <= 1.0:
        photo = replace(photo, distance=round(photo.distance * ratio / lifted_ratio(), 4))
        ratio = lifted_ratio()
        note(
            f"{Path(photo.path).name}: its camera is placed at a distance of {photo.distance:g}, from which a field of view of "
            f"{photo.fov_deg:g} degrees shows the object whole"
        )
    return replace(photo, ratio=round(ratio, 4))


def lifted_ratio(distance: float = DISTANCE, fov_deg: float = FOV_DEG) -> float:
    """The object's longest side, as the lift has it, relative to the side of a camera's picture; by default of the prior's."""
    return RATIO / (SCALE * distance * math.tan(math.radians(0.5 * fov_deg)))


def find_viewpoint(
    reference: Tensor, prompt: str = "", azimuth: float | None = None, view: Located | None = None, engine: Engine = "auto"
) -> Viewpoint:  # fmt: skip
    """The camera of the photo ``reference (S, S, 4)``, whose object is centred with a longest side of 0.78 of the picture.

    Args:
        azimuth: degrees, where it is known.
        view: the view-conditioned prior whose lift estimates the elevation; None: the embedded one, if it is there.
    """
    found = _estimated(reference, prompt, engine)
    if found.source == "default" and (elevation := lifted_elevation(reference, view)) is not None:
        found = replace(found, elevation=elevation, source="shape")
    return found if azimuth is None else replace(found, azimuth=azimuth, told_azimuth=True)


def unrecognised(reference: Tensor, view: Located | None, prompt: str = "") -> str:
    """A note for the user if the judge does not recognise the object of ``reference (S, S, 4)``, else ""; with ``toybox-view``.

    Without a prompt 4 of 100 toys get one, 64 of 100 composites of solids, and 62 of 100 silhouettes with random textures.
    """
    if view is None or _lift_parts(view) is None:
        return ""
    kind, (_, judge, verdict) = understand(prompt).category, _looked_at(reference)
    chances = verdict.category[0]
    if float(chances[judge.categories.index(kind)] if kind else chances.max()) >= (NAMED if kind else KNOWN):
        return ""
    told = f" as {article(kind)} {kind.replace('_', ' ')}" if kind else ""
    return (
        f"the judge, which knows 64 kinds of toys, does not recognise it{told}. {VIEW_PRIOR} has seen renders of such toys "
        "and of simple solids only: the other sides may be wrong. On a GPU, --prior zero123-xl and stable-zero123 know more "
        "of the world"
    )


def lifted_elevation(reference: Tensor, view: Located | None = None) -> float | None:
    """The elevation in degrees that the lift of ``view``, or of the embedded prior, sees in ``reference (S, S, 4)``; else None.

    The object is centred with a longest side of 0.78 of the picture.
    """
    parts = _lifting(view)
    if parts is None:
        return None
    low, high = LIFTED_DEG
    elevation = math.degrees(float(lifted(parts, reference[None], None, torch.device("cpu")).estimate))
    return min(high, max(low, elevation))


def _estimated(reference: Tensor, prompt: str, engine: Engine) -> Viewpoint:
    """What the text prior sees, where the kind is known."""
    found, (picture, judge, verdict) = Viewpoint(), _looked_at(reference)
    kind, text, guesses = _named(verdict, prompt, judge)
    if not kind:
        return found
    located = find(PriorChoice(TEXT_PRIOR))
    prior = _loaded(located, engine)
    embeds = located.read(Task(text), NoViews(), (), prior.device, prior.engine)
    estimate = estimate_camera(prior, embeds, picture, guesses)
    sided = estimate.sided or not is_asymmetric(kind)
    found = replace(found, kind=kind, estimate=estimate, azimuth=estimate.azimuth if sided else found.azimuth)
    return replace(found, elevation=estimate.elevation, source="text") if estimate.steady else found


def _looked_at(reference: Tensor) -> tuple[Tensor, Judge, Verdict]:
    """The object of ``reference`` placed as the judge and the text prior know it, ``(S, S, 3)``; the judge, and its verdict."""
    picture, (judge, _) = placed(reference, torch.tensor(PALE)), load_judge()
    return picture, judge, judge.judge(picture[None])


def _named(verdict: Verdict, prompt: str, judge: Judge) -> tuple[str, str, list[float]]:
    """The kind in a picture ("": not known), a prompt for it, and the azimuths in degrees that the judge finds likely."""
    kind, text = understand(prompt).category, prompt
    if not prompt and float(verdict.category.max()) >= SURE:
        kind = judge.categories[int(verdict.category.argmax())]
        color = list(COLORS)[int(verdict.color.argmax())]
        text = f"{article(color)} {color} {kind.replace('_', ' ')}"
    second = torch.rad2deg(sector_angles()[lowest(-verdict.sectors[0], 2)[1]])
    return kind, text, [float(torch.rad2deg(verdict.azimuth[0])), float(second)]


def _lifting(view: Located | None) -> Parts | None:
    """The model whose lift looks at photos: that of ``view``, or the embedded one; None where there is none."""
    if view is not None and (parts := _lift_parts(view)) is not None:
        return parts
    try:
        return _lift_parts(find(PriorChoice(VIEW_PRIOR)))
    except PriorNotFoundError:
        return None


def _lift_parts(view: Located) -> Parts | None:
    """The prior's model, if it has a lift."""
    parts = view.parts or getattr(view.choice.loaded, "parts", None)
    return parts if parts is not None and parts.has(LIFT) else None


def _loaded(located: Located, engine: Engine) -> Prior:
    prior = located.load(torch.device("cpu"))
    prior.use_engine(engine)
    return prior
