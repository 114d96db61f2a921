"""DreamBooth (Ruiz et al. 2023, https://arxiv.org/abs/2208.12242): a new word for the thing in a few photos.

A prior is tuned on photos with the prompt "a WORD CLASS" and, so that the class stays as it was, on its own pictures of "a
CLASS". A prior that is told cameras is told those of the photos (estimated where they are not given): otherwise it learns that
the word means their sides, too. Textual inversion (:mod:`dreamlift.tuning.inversion`) is planned and prepared here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from dreamlift.images.read import check_picture, read_picture, same_pictures
from dreamlift.priors.engine import Engine, available
from dreamlift.priors.kinds import Located, find
from dreamlift.priors.latent import LatentPrior
from dreamlift.priors.lora.additions import file_hash
from dreamlift.priors.network import camera_features
from dreamlift.priors.parts import FolderParts
from dreamlift.priors.pixel import PixelPrior
from dreamlift.prompts import Backdrop, article
from dreamlift.system.files import expanded
from dreamlift.toybox.world.things import COLORS
from dreamlift.tuning.card import shown_prior
from dreamlift.tuning.class_pictures import ClassOrder, ClassPicture, draw_class, listed_pictures, square
from dreamlift.tuning.examples import PLACES, WHOLE, Examples, Place, photo_examples, wordings
from dreamlift.tuning.photos import PLAIN_BACKDROPS, TOY_BACKDROPS, Taught, taken, with_viewpoints
from dreamlift.tuning.settings import Family, Tuning, filled
from dreamlift.tuning.tuner import Tuner, make_tuner
from dreamlift.tuning.words import check_class, check_word, common_word, is_closed
from dreamlift.types import Counted, Pictures

COUNTS: dict[Family, int] = {"words": 32, "pixel": 200, "latent": 200}  # class pictures by default
Note = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Subject(Taught):
    """What DreamBooth teaches a prior."""

    class_name: str  # the kind of thing, such as duck
    class_pictures: str = ""  # folder of the class's pictures; "": the prior draws them
    class_count: int | None = None  # how many it draws; None: 32 for priors of toys, 200 for others
    sizes: bool = True  # show a cut out object at three sizes

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_count is not None and not 1 <= self.class_count <= 100_000:
            raise ValueError(f"class_count is {self.class_count}; accepted: 1 to 100000")
        object.__setattr__(self, "class_name", check_class(self.class_name))
        object.__setattr__(self, "word", check_word(self.word, self.class_name))

    @property
    def places(self) -> tuple[Place, ...]:
        return PLACES if self.sizes else WHOLE

    @property
    def noun(self) -> str:
        """The class."""
        return self.class_name

    @property
    def prompt(self) -> str:
        """The prompt of the photos."""
        noun = f"{self.word} {self.class_name}"
        return f"{article(noun)} {noun}"

    def prompts(self, closed: bool) -> tuple[str, ...]:
        """One for all photos."""
        return (self.prompt,)

    def check(self, tokenizer: Any, note: Note) -> None:
        """Note an ordinary word. Raises ValueError for one of a closed vocabulary."""
        if told := common_word(tokenizer, self.word):
            note(told)

    def completed(self, settings: Tuning) -> Tuning:
        """The settings as they are."""
        return settings

    def record(self) -> dict[str, Any]:
        """Word, class and prompt."""
        return {"word": self.word, "class": self.class_name, "prompt": self.prompt}


@dataclass(frozen=True)
class Plan:
    """A subject with everything decided that can be decided before anything is loaded."""

    subject: Taught  # with the cameras of the photos
    settings: Tuning  # without None
    located: Located
    family: Family
    plain: bool  # the photos' objects are cut out

    @property
    def parts(self) -> FolderParts:
        """The prior's parts."""
        assert isinstance(self.located.parts, FolderParts)
        return self.located.parts

    @property
    def tells_cameras(self) -> bool:
        """Whether the network is told cameras."""
        width = self.parts.config("unet").get("time_cond_proj_dim") or 0
        return bool(width) and self.subject.cameras and self.located.choice.camera_conditioning

    @property
    def learned_variance(self) -> bool:
        """Whether the prior also predicts a variance, which no tuning trains."""
        return str(self.parts.schedule_config().get("variance_type", "")).startswith("learned")

    @property
    def places(self) -> tuple[Place, ...]:
        """At which the pictures of the subject are shown: pictures with their own backgrounds as they are."""
        return self.subject.places if self.plain else WHOLE

    @property
    def backdrops(self) -> tuple[Backdrop, ...]:
        """What plain photos are shown over."""
        return TOY_BACKDROPS if self.family == "words" else PLAIN_BACKDROPS

    def record(self) -> dict[str, Any]:
        """What decides the result, as plain values."""
        photos = [{"file": Path(photo.path).name, "sha256": file_hash(expanded(photo.path)), "mask": Path(photo.mask).name,
                   "azimuth_deg": photo.azimuth_deg, "elevation_deg": photo.elevation_deg}
                  for photo in self.subject.photos]  # fmt: skip
        subject, settings = self.subject, asdict(self.settings)
        steps = settings.pop("steps")
        own = {"word_only", "word_init"}  # of textual inversion
        settings = {name: value for name, value in settings.items() if self.settings.word_only or name not in own}
        kin = {}
        if isinstance(subject, Subject):
            count = 0 if not self.settings.class_weight else subject.class_count or COUNTS[self.family]
            kin = {"class_pictures": Path(subject.class_pictures).name, "class_count": count, "sizes": subject.sizes}
        return {
            **subject.record(), "prior": shown_prior(self.located.choice.name), "prior_revision": self.located.revision,
            "settings": settings, "cameras": self.tells_cameras, "plain_background": self.plain, **kin, "photos": photos,
            "steps": steps,
        }  # fmt: skip


def planned(subject: Taught, settings: Tuning, note: Note, located: Located | None = None) -> Plan:
    """Everything that can be refused, before anything is loaded; the cameras are not estimated yet.

    Args:
        located: the subject's prior, if it is located already.

    Raises:
        ValueError: a photo, a word, a class or a prior that cannot be used; one line with the fix.
    """
    for photo in subject.photos:
        check_picture(photo.path)
    for same in same_pictures([photo.path for photo in subject.photos]):
        note(f"{same} are the same picture: a copy teaches nothing new, another side of the thing would")
    located = located or find(subject.prior)
    check_tunable(located)
    if settings.all_weights and located.choice.embeddings:
        raise ValueError("embeddings cannot be part of a prior with all weights: leave --embedding out, or --all-weights")
    assert located.parts is not None
    tokenizer = located.parts.tokenizer("tokenizer")
    closed = is_closed(tokenizer)
    subject.check(tokenizer, note)
    if not subject.anyway:
        located.check_prompt(f"{article(subject.noun)} {subject.noun}")
    family: Family = "words" if closed else "latent" if issubclass(located.kind, LatentPrior) else "pixel"
    plain = closed if subject.background == "auto" else subject.background == "plain"
    return Plan(subject, filled(subject.completed(settings), family, known_word=not closed), located, family, plain)


def check_tunable(located: Located) -> None:
    """Refuse a prior that cannot be tuned. Raises ValueError."""
    if not isinstance(located.parts, FolderParts):
        raise ValueError("a prior in memory cannot be tuned: save it as a diffusers folder (save_pretrained), and name that")
    if located.kind not in (PixelPrior, LatentPrior):
        kinds = "toybox, toybox-latent, DeepFloyd IF, Stable Diffusion 1.x, 2.x or XL"
        raise ValueError(f"the prior {located.choice.name} cannot be tuned: use {kinds}, or a folder of their kind")


def with_cameras(plan: Plan, before: dict[str, Any] | None, note: Note, engine: Engine) -> Plan:
    """The plan with the cameras of its photos, estimated or as in the record of an earlier call.

    Raises:
        ValueError: a photo whose object cannot be found.
    """
    if not plan.tells_cameras:
        return plan
    known = {entry.get("sha256"): entry for entry in (before or {}).get("photos", [])}
    photos = []
    for photo in plan.subject.photos:
        entry = known.get(file_hash(expanded(photo.path)), {})
        pairs = [(getattr(photo, name), entry.get(name)) for name in ("azimuth_deg", "elevation_deg")]
        if entry and all(given in (None, old) for given, old in pairs):
            photos.append(replace(photo, azimuth_deg=pairs[0][1], elevation_deg=pairs[1][1]))
        else:
            photos += with_viewpoints([photo], plan.subject.noun, note, engine)
    return replace(plan, subject=replace(plan.subject, photos=tuple(photos)))


def class_prompts(tokenizer: Any, class_name: str) -> tuple[str, ...]:
    """What the prior is asked for.

    A prior of toys draws one colour for a noun without one and forgets the others, and the view in other contexts; so colours,
    boxes and hats are asked for, as far as it knows the words.
    """
    plain = f"{article(class_name)} {class_name}"
    if not is_closed(tokenizer):
        return (plain,)
    vocabulary = tokenizer.get_vocab()
    colors = [color for color in COLORS if color in vocabulary]
    named = [f"{article(color)} {color} {class_name}" for color in colors]
    ends = ["", "", " on a wooden box", f" wearing a {colors[-1]} hat" if colors else ""]
    ends = [end for end in ends if all(word in vocabulary for word in end.split())]
    return (plain, *(f"{words}{ends[index % len(ends)]}" for index, words in enumerate(named)))


def prepared(
    plan: Plan, folder: Path, device: torch.device, engine: Engine, note: Note
) -> Generator[Counted, None, Tuner]:  # fmt: skip
    """The tuner before its first step. Class pictures are drawn into ``folder``/class, unless they are there."""
    found = yield from examples_of(plan, folder / "class", device, engine, note)
    choice, word = plan.located.choice, plan.subject.word
    return make_tuner(plan.parts, choice, found.own, found.kin, word, plan.settings, device, found.resolution)


def result_of(work: Generator[Counted, None, T], said: Callable[[Counted], None]) -> T:
    """What a work returns at its end; ``said`` gets what it yields."""
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value
        said(event)


class Found(NamedTuple):
    """The pictures of a tuning as the network takes them."""

    own: Examples  # the photos
    kin: Examples | None  # pictures of the class
    drawn: Examples | None  # further pictures of the subject
    resolution: int  # of the prior, pixels a side


def examples_of(
    plan: Plan, folder: Path, device: torch.device, engine: Engine, note: Note,
    drawn: Pictures | None = None, behind: str = "",
) -> Generator[Counted, None, Found]:  # fmt: skip
    """The pictures of a tuning. The prior that encodes them, and draws the class, is freed again.

    Args:
        folder: of the class pictures that are drawn; those that are there are not drawn again.
        drawn: further pictures of the subject with their cameras, used with their own background; ``behind``: its words.
    """
    subject, toys = plan.subject, plan.family == "words"
    prior: Any = plan.located.load(device)
    prior.use_engine(engine if engine != "auto" else "auto" if available(engine, device) == "onnx" else "torch")

    def features(cameras: Any) -> Tensor:
        return camera_features(cameras.azimuth, cameras.elevation).cpu()

    def encode(pictures: Tensor) -> Tensor:
        return prior.encode(pictures.to(device))

    shots = taken(subject.photos, prior.resolution, plan.plain, toys, note)
    told = [known and plan.tells_cameras for known in shots.told]
    own = photo_examples(
        encode, shots.rgb, shots.alpha, subject.prompts(toys), plan.backdrops, shots.cameras, told,
        features if plan.tells_cameras else None, toys, plan.places,
    )  # fmt: skip
    kin = None
    if plan.settings.class_weight:
        place, pictures = yield from _class_pictures(plan, prior, folder)
        rgb = torch.stack([square(read_picture(place / each.file)[..., :3], prior.resolution) for each in pictures])
        kin = _class_examples(encode, rgb, pictures, plan.tells_cameras)
    others = None
    if drawn is not None:
        others = photo_examples(
            encode, drawn.rgb, None, (", ".join(filter(None, (subject.prompt, behind))),), (), drawn.cameras,
            [plan.tells_cameras] * len(drawn.rgb), features if plan.tells_cameras else None, toys,
            plan.places,
        )  # fmt: skip
    return Found(own, kin, others, prior.resolution)


def _class_pictures(
    plan: Plan, prior: Any, folder: Path
) -> Generator[Counted, None, tuple[Path, list[ClassPicture]]]:  # fmt: skip
    """The class's pictures, and the folder that they are in."""
    subject, toys = plan.subject, plan.family == "words"
    assert isinstance(subject, Subject)
    if subject.class_pictures:
        place = expanded(subject.class_pictures)
        return place, listed_pictures(place, f"{article(subject.class_name)} {subject.class_name}")
    order = ClassOrder(
        prompts=class_prompts(plan.parts.tokenizer("tokenizer"), subject.class_name),
        count=subject.class_count or COUNTS[plan.family], seed=plan.settings.seed,
        backdrops=TOY_BACKDROPS if toys else (Backdrop(""),), turned=plan.tells_cameras, view_words=toys, quick=toys,
    )  # fmt: skip
    return folder, (yield from draw_class(prior, order, folder))


@torch.no_grad()
def _class_examples(
    encode: Callable[[Tensor], Tensor], rgb: Tensor, pictures: list[ClassPicture], tells_cameras: bool
) -> Examples:  # fmt: skip
    """Class pictures with the prompts that they were drawn for, and their cameras."""
    latents = torch.cat([encode(picture[None]).float().cpu() for picture in rgb])
    camera = None
    if tells_cameras:
        known = torch.tensor([[each.camera is not None] for each in pictures])
        azimuth, elevation = torch.tensor([each.camera or (0.0, 0.0) for each in pictures]).T
        camera = camera_features(azimuth, elevation) * known
    return Examples(latents, tuple(wordings(each.prompt, "", None) for each in pictures), camera)
