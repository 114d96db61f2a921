"""The stage that tunes a prior on the photos of one thing (DreamBooth), and leaves its weights to the stages after it.

DreamBooth3D (Raj et al. 2023, https://arxiv.org/abs/2303.13508) has three: a *partial* tuning, whose prior is still consistent
in 3D; a *full* one, which repaints renders of the first asset; and one that goes on from the partial weights with the photos
and these repainted pictures. A stage after it names the weights as the prior ``tuned:partial`` (:mod:`dreamlift.stages.tuned`).

One step is one step of :class:`dreamlift.tuning.tuner.Tuner`. Pictures of the class are drawn by the base prior before the
first step of the first such stage, into the folder ``class`` beside the weights; the stages that go on from it use them, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import Located, find
from dreamlift.priors.parts import FolderParts
from dreamlift.reading.photos import Photo
from dreamlift.stages.base import Place, Ready, Stage, Work
from dreamlift.stages.recovery import DivergedError
from dreamlift.stages.tuned import Material, on_top, tuned_name, tuned_priors
from dreamlift.texturing.extract import Extract
from dreamlift.tuning.photos import plain_backdrops
from dreamlift.tuning.settings import Tuning
from dreamlift.types import Counted, Event, Handover, Note, Step

if TYPE_CHECKING:
    from dreamlift.tuning.dreambooth import Plan
    from dreamlift.tuning.tuner import Tuner


def ignore(*_: Any) -> None:
    """Discard a message."""


NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Finetune(Stage):
    """Tune a prior on the user's photos, so that the subject's word means the thing in them (DreamBooth)."""

    tunes: ClassVar[bool] = True

    name: str = "tuned"  # of the weights that it leaves, which later stages name as the prior tuned:NAME
    steps: int = 150  # steps of AdamW, at least 1
    # the prior that is tuned; tuned:NAME goes on from the weights that an earlier finetune stage leaves
    prior: PriorChoice = field(default_factory=PriorChoice)
    source: Literal["photos", "handover", "both"] = "photos"  # pictures: the photos, those that a stage before left, or both
    tuning: Tuning = field(default_factory=Tuning)  # how it is tuned; its seed is added to the run's
    class_count: int | None = None  # class pictures that the base prior draws; null: 32 for priors of toys, 200 for others
    tell_cameras: bool = True  # tell a prior that takes cameras those of the photos
    background: Literal["auto", "keep", "plain"] = "auto"  # of the photos; plain: cut out; auto: plain for priors of toys
    sizes: bool = False  # show a cut out object, and pictures of the stage before, at three sizes, which needs more steps

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or self.name == "class":
            raise ValueError(f"name is {self.name[:60]!r}; accepted: 1 to 40 of a-z, 0-9, - and _, but not class")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if self.tuning.steps is not None:
            raise ValueError("tuning.steps is that of `dreamlift dreambooth`; give the stage's own steps")
        if self.class_count is not None and not 1 <= self.class_count <= 100_000:
            raise ValueError(f"class_count is {self.class_count}; accepted: 1 to 100000")

    @property
    def leaves_weights(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.name

    @property
    def leaves_whole(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.tuning.all_weights

    @property
    def choices(self) -> tuple[PriorChoice, ...]:
        return (self.prior,)

    def with_choices(self, choices: tuple[PriorChoice | None, ...]) -> Stage:
        return replace(self, prior=choices[0] or PriorChoice())

    def total_steps(self, particles: int) -> int:
        return self.steps

    def check(self, place: Place) -> None:
        if place.subject is None:
            raise ValueError("a finetune stage needs to know the kind of thing in the photos; give --class NOUN, such as duck")
        if not place.has_photos:
            raise ValueError("the prior is tuned on photos of the thing, and there are none: give --photos and their files")
        if self.source != "photos" and not place.has_pictures:
            raise ValueError(f"source is {self.source}, but no stage before this one leaves pictures; use photos")

    def needs_of_handover(self, settings: Extract) -> Extract:
        """With a texture: the mesh is passed on to a stage that may show it."""
        return replace(settings, normal_map=False)

    def begin(self, ready: Ready) -> Finetuning:
        return Finetuning(self, ready)

    def plan(
        self, place: Place, photos: tuple[Photo, ...], located: Located, note: Callable[[str], None] = ignore
    ) -> Plan:  # fmt: skip
        """Everything that can be refused before anything is loaded.

        Args:
            located: the base prior.
            note: gets what speaks against the word.

        Raises:
            ValueError: a photo, a word, a class or a prior that cannot be used.
        """
        from dreamlift.tuning.dreambooth import Subject, planned

        assert place.subject is not None
        subject = Subject(
            photos=photos, class_name=place.subject.class_name, word=place.subject.word, prior=located.choice,
            cameras=self.tell_cameras, background=self.background, class_count=self.class_count, anyway=True,
            sizes=self.sizes,
        )  # fmt: skip
        # The seed differs from stage to stage, so that each draws noise of its own.
        seed = (self.tuning.seed + place.seed + 1_000_003 * place.number) % 2**63
        return planned(subject, replace(self.tuning, steps=self.steps, seed=seed), note, located)


class Finetuning(Work):
    """See the module's docstring. The tuner is made before the first step, so that a run that is refused writes nothing."""

    def __init__(self, stage: Finetune, ready: Ready) -> None:
        assert ready.material is not None
        self.stage, self.ready, self.material = stage, ready, ready.material
        self.first = self.index = ready.place.first
        self.end = self.first + stage.steps
        self.made: Tuner | None = None

    @property
    def folder(self) -> Path:
        """Where the weights are written."""
        return self.material.shelf.folder / self.stage.name

    @property
    def tuner(self) -> Tuner:
        """The tuning at its current step."""
        for _ in self.prepare():
            pass
        assert self.made is not None
        return self.made

    def prepare(self) -> Iterator[Event]:
        """Draw the missing class pictures, and make the tuner. What the first such stage notes is a note of the run."""
        if self.made is None:
            notes: list[str] = []
            self.made = yield from make(self.stage, self.ready, self.material, notes.append)
            yield from (Note(text) for text in dict.fromkeys(notes) if not tuned_name(self.stage.prior))

    def step(self) -> Step:
        from dreamlift.tuning.tuner import TuningDivergedError

        try:
            loss = self.tuner.step()
        except TuningDivergedError as error:
            where = f"stages.{self.ready.place.number}.tuning.lr"
            raise DivergedError(f"step {self.index}: the tuning of {self.stage.name!r} diverged; lower {where}") from error
        self.index += 1
        return Step(self.index - 1, loss, {"tuning": loss}, None, None, ())

    def leave(self, settings: Extract) -> Handover:
        """Write the weights and their model card; everything else is passed on."""
        from dreamlift.tuning.card import write_card
        from dreamlift.tuning.files import save_addition, save_whole

        subject = self.ready.place.subject
        assert subject is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.stage.leaves_whole:
            parts = start_of(self.stage, self.material).parts
            assert isinstance(parts, FolderParts)
            files = save_whole(self.tuner, parts, subject.word, subject.class_name, self.folder)
        else:
            files = save_addition(self.tuner, subject.word, self.folder)
        plan = self.stage.plan(self.ready.place, self.material.photos, self.material.located)
        write_card(self.folder, self.record(plan, files), plan.learned_variance)
        before = self.ready.handover
        return replace(before, tuned=tuple(dict.fromkeys([*before.tuned, self.stage.name])))

    def record(self, plan: Plan, files: list[str]) -> dict[str, Any]:
        """What the model card says; see :func:`dreamlift.tuning.card.card`."""
        from dreamlift.tuning.card import shown_prior

        stage = self.stage
        under = shown_prior(start_of(stage, self.material).choice.name)
        return {**plan.record(), "finished_steps": stage.steps, "files": files, "stage": self.ready.place.number + 1,
                "source": stage.source, "begun": tuned_name(stage.prior), "under": under}  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {"index": self.index, "tuner": {} if self.made is None else self.made.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.index = saved["index"]
        if saved["tuner"]:
            self.tuner.load_state_dict(saved["tuner"])


def goes_on(stage: Finetune, stages: Sequence[Stage]) -> bool:
    """Whether the stage goes on with the LoRA of an earlier stage, and does not begin one of its own."""
    name = tuned_name(stage.prior)
    return not stage.leaves_whole and any(each.leaves_weights == name and not each.leaves_whole for each in stages if name)


def start_of(stage: Finetune, material: Material) -> Located:
    """The prior that a stage tunes: the base prior, or the whole prior that an earlier stage has left.

    Raises:
        ValueError: its files are missing.
    """
    name, folder = tuned_name(stage.prior), material.shelf.folder
    if not name:
        return material.located
    choice = on_top(stage.prior, tuned_priors(material.stages, folder)[name])
    if goes_on(stage, material.stages):
        choice = replace(choice, loras=tuple(lora for lora in choice.loras if Path(lora.path) != folder / name))
    return find_tuned(choice, name)


def find_tuned(choice: PriorChoice, name: str) -> Located:
    """Locate a prior with the weights ``name`` of this run. Raises ValueError with the way out if their files are missing."""
    try:
        return find(choice)
    except ValueError as error:
        raise ValueError(f"the weights {name!r} of this run cannot be used ({error}): start the run anew") from None


def class_folder(stage: Finetune, material: Material) -> tuple[Path, bool]:
    """The folder of a stage's class pictures, and whether an earlier stage has drawn them: the one whose base prior it has."""
    by_name = {each.leaves_weights: each for each in material.stages if isinstance(each, Finetune)}
    root = stage
    while name := tuned_name(root.prior):
        root = by_name[name]
    same = root is not stage and root.tuning.class_weight > 0 and root.class_count == stage.class_count
    return material.shelf.folder / "class" / (root.name if same else stage.name), same


def make(
    stage: Finetune, ready: Ready, material: Material, note: Callable[[str], None]
) -> Generator[Counted, None, Tuner]:  # fmt: skip
    """The tuner before its first step."""
    from dreamlift.tuning.dreambooth import examples_of
    from dreamlift.tuning.examples import joined
    from dreamlift.tuning.files import go_on
    from dreamlift.tuning.tuner import make_tuner

    plan = stage.plan(ready.place, material.photos, material.located)
    folder, there = class_folder(stage, material)
    if there:
        plan = replace(plan, subject=replace(plan.subject, class_pictures=str(folder)))
    drawn = None if stage.source == "photos" else ready.handover.pictures
    behind = next((each.words for each in ready.place.backdrops or plain_backdrops(plan.parts)), "")
    found = yield from examples_of(plan, folder, ready.device, material.engine, note, drawn, behind)
    sets = {"photos": [found.own], "handover": [found.drawn], "both": [found.own, found.drawn]}[stage.source]
    own = joined(*[each for each in sets if each is not None])
    start, word = start_of(stage, material), plan.subject.word
    assert start.parts is not None
    tuner = make_tuner(start.parts, start.choice, own, found.kin, word, plan.settings, ready.device, found.resolution)
    if goes_on(stage, material.stages):
        go_on(tuner, material.shelf.folder / tuned_name(stage.prior), word)
    return tuner
