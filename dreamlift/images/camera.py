"""What a run must know of a photo before it begins: the camera that took it, and where its object lies in the prior's frame.

The kind of object comes from the prompt, or from the judge where it is sure; the text prior ``toybox`` then scores cameras
(:mod:`~dreamlift.images.camera_scores`). Where nobody names the kind, the elevation is the one that the lift of ``toybox-view``
estimates (:mod:`~dreamlift.priors.zero123.lift`), and the photo's side counts as the front. The lift also estimates the scale
at which the photo shows the object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dreamlift.images.camera_scores import Estimate, estimate_camera, lowest
from dreamlift.images.photos import read_photos
from dreamlift.images.placement import Placement, placed, placement_of
from dreamlift.images.read import ignore
from dreamlift.priors.base import Prior
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.engine import Engine
from dreamlift.priors.kinds import Located, find
from dreamlift.priors.loading.sources import PriorNotFoundError
from dreamlift.priors.parts import Parts
from dreamlift.priors.zero123.encoding import lifted
from dreamlift.priors.zero123.lift import LIFT
from dreamlift.prompts import NoViews, article
from dreamlift.reading.photos import ELEVATION_DEG, RATIO, Photo
from dreamlift.toybox.judging.judge import Judge, load_judge, sector_angles, understand
from dreamlift.toybox.training.pairs import DISTANCE, FOV_DEG
from dreamlift.toybox.world.things import COLORS
from dreamlift.toybox.world.truth import is_asymmetric
from dreamlift.types import Task

TEXT_PRIOR, VIEW_PRIOR = "toybox", "toybox-view"
PALE = (0.70, 0.75, 0.80)  # the backdrop of the text prior's training pictures whose captions name none
SURE = 0.95  # least probability of a kind that the judge names: 3 of 4 toys, 1 of 7 things of no kind
LIFTED_DEG = (-10.0, 60.0)  # elevations of the pictures that the lift was trained with


@dataclass(frozen=True)
class Viewpoint:
    """The camera of a photo. Angles are degrees."""

    azimuth: float = 0.0
    elevation: float = ELEVATION_DEG
    placement: Placement = field(default_factory=Placement)
    kind: str = ""  # "": not known
    estimate: Estimate | None = None  # of the text prior; None: the kind is not known
    source: str = "default"  # of the elevation: "text", "shape" or "default"
    told_azimuth: bool = False
    told_elevation: bool = False

    def described(self) -> str:
        """One line for the user."""
        if self.told_elevation:
            where = f"elevation {self.elevation:.0f} degrees as told"
        elif self.source == "default":
            where = (
                f"elevation {self.elevation:.0f} degrees, a default: nothing in it tells the true one; name the kind of object "
                "in the prompt, or give --elevation"
            )
        else:
            how = f"as {article(self.kind)} {self.kind.replace('_', ' ')}" if self.source == "text" else "by its shape"
            where = f"elevation {self.elevation:.0f} degrees, estimated {how}; --elevation overrides"
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

    Photos are placed in the frame of the first prior that draws views; without one, nobody needs them placed.
    """
    unique = [choice for number, choice in enumerate(priors) if choice not in priors[:number]]  # a model in memory has no hash
    views = [located for located in map(find, unique) if located.reads_pictures]
    return tuple(prepared(photo, prompt, next(iter(views), None), note, engine) for photo in photos)


def prepared(
    photo: Photo, prompt: str = "", view: Located | None = None, note: Callable[[str], None] = ignore, engine: Engine = "auto"
) -> Photo:  # fmt: skip
    """The photo with its elevation (and its azimuth, where the kind of object is known), and placed in the prior's frame.

    An elevation that is given is kept, and then the azimuth too; so are a ratio and a shift that are not the defaults. ``note``
    gets what was found.

    Args:
        prompt: of the run; it names the kind of object, if it names one that the text prior knows.
        view: the view-conditioned prior of the run. Those with a frame of their own measure ratio and shift.

    Raises:
        ValueError: the picture cannot be used.
    """
    unplaced = view is not None and _lift_parts(view) is not None and photo.ratio == RATIO and photo.shift == (0.0, 0.0)
    if photo.ratio is None or not (unplaced or photo.elevation_deg is None):
        return photo
    reference = read_photos((replace(photo, elevation_deg=0.0),)).reference
    assert reference is not None
    azimuth = photo.azimuth_deg if photo.azimuth_deg or photo.elevation_deg is not None else None
    found = find_viewpoint(reference[0], Wanted(prompt, azimuth, photo.elevation_deg), view, engine)
    name = Path(photo.path).name
    if photo.elevation_deg is None:
        note(f"{name}: {found.described()}")
    photo = replace(photo, azimuth_deg=round(found.azimuth, 1), elevation_deg=round(found.elevation, 1))
    if not unplaced:
        return photo
    # Ratio and shift are parts of a frame, which shows more or less of the world with another camera.
    zoom = DISTANCE * math.tan(math.radians(0.5 * FOV_DEG)) / (photo.distance * math.tan(math.radians(0.5 * photo.fov_deg)))
    ratio, right, down = (round(zoom * value, 4) for value in (found.placement.ratio, *found.placement.shift))
    return replace(photo, ratio=min(1.0, ratio), shift=(right, down))


class Wanted(NamedTuple):
    """What the user says of the photo."""

    prompt: str = ""
    azimuth: float | None = None  # degrees
    elevation: float | None = None  # degrees


def find_viewpoint(reference: Tensor, wanted: Wanted, view: Located | None = None, engine: Engine = "auto") -> Viewpoint:
    """The camera of the photo ``reference (S, S, 4)``, whose object is centred with a longest side of 0.78 of the picture.

    Args:
        view: the view-conditioned prior in whose frame the object is placed; None: the embedded one, if it is there.
    """
    parts, cpu = _lifting(view), torch.device("cpu")
    blind = lifted(parts, reference[None], None, cpu) if parts else None
    found = Viewpoint(placement=placement_of(blind.frame[0]) if blind else Placement())
    if wanted.elevation is None or wanted.azimuth is None:
        found = _estimated(found, reference, wanted.prompt, engine)
        if blind and found.source == "default":
            low, high = LIFTED_DEG
            found = replace(found, elevation=min(high, max(low, math.degrees(float(blind.estimate)))), source="shape")
    if wanted.azimuth is not None:
        found = replace(found, azimuth=wanted.azimuth, told_azimuth=True)
    if wanted.elevation is not None:
        found = replace(found, elevation=wanted.elevation, told_elevation=True)
    if parts is None:
        return found
    told = lifted(parts, reference[None], torch.tensor([math.radians(found.elevation)]), cpu)
    return replace(found, placement=placement_of(told.frame[0]))


def _estimated(found: Viewpoint, reference: Tensor, prompt: str, engine: Engine) -> Viewpoint:
    """``found`` with what the text prior sees, where the kind is known."""
    picture = placed(reference, found.placement, torch.tensor(PALE))
    judge, _ = load_judge()
    kind, text, guesses = _named(picture, prompt, judge)
    if not kind:
        return found
    located = find(PriorChoice(TEXT_PRIOR))
    prior = _loaded(located, engine)
    embeds = located.read(Task(text), NoViews(), (), prior.device, prior.engine)
    estimate = estimate_camera(prior, embeds, picture, guesses)
    sided = estimate.sided or not is_asymmetric(kind)
    found = replace(found, kind=kind, estimate=estimate, azimuth=estimate.azimuth if sided else found.azimuth)
    return replace(found, elevation=estimate.elevation, source="text") if estimate.steady else found


def _named(picture: Tensor, prompt: str, judge: Judge) -> tuple[str, str, list[float]]:
    """The kind in a picture ("": not known), a prompt for it, and the azimuths in degrees that the judge finds likely."""
    verdict = judge.judge(picture[None])
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
