"""What a run must know of a photo before it begins: the camera that took it, and where its object lies in the prior's frame.

The kind of object comes from the prompt, or from the judge where it is sure; the text prior ``toybox`` then scores cameras
(:mod:`~dreamlift.images.camera_scores`). Where nobody names the kind, the elevation comes from the places that ``toybox-view``
sees in the photo (:mod:`~dreamlift.images.places`), and the photo's side counts as the front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dreamlift.cameras import Cameras
from dreamlift.images.camera_scores import Estimate, estimate_camera, lowest
from dreamlift.images.photos import read_photos
from dreamlift.images.placement import Placement, photo_placement, placed
from dreamlift.images.places import elevation_from_places
from dreamlift.images.read import ignore
from dreamlift.priors.base import Prior
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.engine import Engine
from dreamlift.priors.kinds import Located, find
from dreamlift.priors.loading.sources import PriorNotFoundError
from dreamlift.priors.zero123.sampling import latent_shape, sampling_times
from dreamlift.prompts import Embeds, NoViews, article
from dreamlift.reading.photos import ELEVATION_DEG, RATIO, Photo
from dreamlift.toybox.judging.judge import Judge, load_judge, sector_angles, understand
from dreamlift.toybox.training.pairs import DISTANCE, FOV_DEG, view_cameras
from dreamlift.toybox.world.things import COLORS
from dreamlift.toybox.world.truth import is_asymmetric
from dreamlift.types import Pictures, Task

TEXT_PRIOR, VIEW_PRIOR = "toybox", "toybox-view"
PALE = (0.70, 0.75, 0.80)  # the backdrop of the text prior's training pictures whose captions name none
WHITE = (1.0, 1.0, 1.0)
SURE = 0.95  # least probability of a kind that the judge names: 3 of 4 toys, 1 of 7 things of no kind
DRAWS = 4  # of noise, of which an answer is the mean
TOLD = slice(8, 10)  # the pose features that tell the reference's elevation
ASSUMED = (0.0, 40.0)  # elevations, degrees, that are assumed for the places
FOLLOWING = 0.5  # largest change of the elevation that the places tell, per degree of the one that is assumed
FITTING = 0.06  # largest median error, in sides, of places that fit a camera


@dataclass(frozen=True)
class Viewpoint:
    """The camera of a photo. Angles are degrees."""

    azimuth: float = 0.0
    elevation: float = ELEVATION_DEG
    placement: Placement = field(default_factory=Placement)
    kind: str = ""  # "": not known
    estimate: Estimate | None = None  # of the text prior; None: the kind is not known
    source: str = "default"  # of the elevation: "text", "places" or "default"
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
    unplaced = view is not None and _canonical(view) and photo.ratio == RATIO and photo.shift == (0.0, 0.0)
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
    if not found.placement.measured:
        note(f"{name}: the prior does not recognise the object, so its size in the prior's frame is the usual one")
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
    seen = _View.of(reference, view, engine)
    blind = seen.placement(None) if seen else Placement()
    found = Viewpoint(placement=blind)
    if wanted.elevation is None or wanted.azimuth is None:
        found = _estimated(found, reference, wanted.prompt, engine)
        if seen and found.source == "default" and (elevation := seen.elevation()) is not None:
            found = replace(found, elevation=elevation, source="places")
    if wanted.azimuth is not None:
        found = replace(found, azimuth=wanted.azimuth, told_azimuth=True)
    if wanted.elevation is not None:
        found = replace(found, elevation=wanted.elevation, told_elevation=True)
    return replace(found, placement=seen.placement(found.elevation)) if seen else found


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


@dataclass(frozen=True)
class _View:
    """A view-conditioned prior and the photo that it is asked of."""

    prior: Prior
    located: Located
    reference: Tensor  # (S, S, 4)

    @classmethod
    def of(cls, reference: Tensor, view: Located | None, engine: Engine) -> _View | None:
        """None where the prior is not there, or answers in the photo's own frame, as Zero-1-to-3's ports do."""
        try:
            located = view if view is not None and _canonical(view) else find(PriorChoice(VIEW_PRIOR))
        except PriorNotFoundError:
            return None
        return cls(_loaded(located, engine), located, reference)

    def embeds(self, elevation: float) -> Embeds:
        """The photo, encoded, of a camera at azimuth 0."""
        cameras = self.cameras(elevation)
        pictures = Pictures(
            self.reference[None, ..., :3], self.reference[None, ..., 3:], cameras, reference=self.reference[None]
        )
        return self.located.read(Task("", photos=pictures), NoViews(), (), torch.device("cpu"), self.prior.engine)

    def cameras(self, elevation: float) -> Cameras:
        angle = torch.deg2rad(torch.tensor([elevation]))
        return view_cameras(torch.zeros(1), angle, self.prior.resolution)

    @torch.no_grad()
    def answer(self, show: str, elevation: float, told: bool = True) -> Tensor:
        """The mean answer ``(S, S, 3)`` for the photo's own view, in one step from pure noise, told its elevation or not."""
        cond = self.embeds(elevation).at(self.cameras(elevation)[torch.zeros(DRAWS, dtype=torch.long)], (), show)
        assert cond.pose is not None
        if not told:
            pose = cond.pose.clone()
            pose[:, TOLD] = 0.0
            cond = replace(cond, pose=pose)
        noise = torch.randn((DRAWS, *latent_shape(self.prior)), generator=torch.Generator().manual_seed(0))
        t = torch.full((DRAWS,), sampling_times(self.prior, 1)[0])
        alpha, sigma = self.prior.schedule(t)
        found = (noise - sigma * self.prior.predict_noise(noise, t, cond, 1.0)) / alpha
        return self.prior.decode(found.mean(0, keepdim=True)).float()[0]

    def placement(self, elevation: float | None) -> Placement:
        """Where the photo's object lies in the prior's frame; None: the elevation is not known."""
        answer = self.answer("color", ELEVATION_DEG if elevation is None else elevation, elevation is not None)
        return photo_placement(answer, self.reference, torch.tensor(WHITE))

    def elevation(self) -> float | None:
        """The elevation in degrees that the places tell, or None where they do not fit a camera, or follow what is assumed.

        Even where the elevation is not told, the two cameras of a pose are somewhere. Two assumptions show how far the answer
        follows them; the result is the elevation that an answer confirms, on the line through both.
        """
        low, high = ASSUMED
        (a, first), (b, second) = (elevation_from_places(self.answer("place", each, told=False)) for each in ASSUMED)
        slope = (b - a) / (high - low)
        if not max(first, second) <= FITTING or not abs(slope) <= FOLLOWING:  # false for NaN
            return None
        return (a - slope * low) / (1.0 - slope)


def _canonical(view: Located) -> bool:
    """Whether the prior answers in the canonical frame: the pixel models of the family do."""
    parts = view.parts or getattr(view.choice.loaded, "parts", None)
    return parts is not None and not parts.has("vae")


def _loaded(located: Located, engine: Engine) -> Prior:
    prior = located.load(torch.device("cpu"))
    prior.use_engine(engine)
    return prior
