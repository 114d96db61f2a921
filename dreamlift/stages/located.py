"""The priors of a run's stages: located before anything is loaded, and what is said of the prompt's words.

A run may have several priors, each with words of its own: the default's first stage is taught by ``toybox-geometry``, its
second one by ``toybox``.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.files.words import UnknownWordWarning, looks_invented
from dreamlift.priors.kinds import Located, find
from dreamlift.priors.loading.sources import is_one_file
from dreamlift.priors.lora.embedding_files import read_embeddings
from dreamlift.stages.base import Stage
from dreamlift.stages.tuned import base_of, base_priors
from dreamlift.system.text import listed

Priors = tuple[tuple[Located, ...], ...]
"""One for each choice of each stage; in place of weights that the run is still to tune, their base prior."""


def locate_priors(stages: Sequence[Stage], prompt: str, has_photos: bool, known: bool) -> Priors:
    """Locate the priors of all teachers, each once, and check that they can do what the stages ask of them.

    Args:
        stages: with the prior of every teacher filled in.
        has_photos: whether teachers are shown photos.
        known: refuse a prompt of whose nouns a prior knows none.

    Raises:
        ValueError: a prior that is missing or does not support its stage, or an empty prompt that one needs.
    """
    found: dict[Any, Located] = {}
    bases = base_priors(stages)
    priors = tuple(
        tuple(_located(choice, (number, place), found, bases) for place, choice in enumerate(stage.choices))
        for number, stage in enumerate(stages)
    )
    check_words(prompt, found.values(), known)
    for number, (stage, located) in enumerate(zip(stages, priors, strict=True)):
        stage.check_priors([each.views for each in located], [each.adapts for each in located])
        for place, (teacher, each) in enumerate(zip(stage.teachers, located, strict=False)):
            where = f"stages.{number}.teachers.{place}"
            try:
                each.check_task(teacher.show, teacher.wording, has_photos)
            except ValueError as error:
                raise ValueError(f"{where}: {error}" if len(stages) > 1 else str(error)) from None
            _tell_guidance(each, getattr(teacher.guidance, "guidance_scale", 1.0), where)
    return priors


def _tell_guidance(located: Located, scale: float, where: str) -> None:
    """Warn of guidance on top of the guidance that was distilled into a prior's weights."""
    if located.guided != 1.0 and scale != 1.0:
        warnings.warn(
            f"the prior {located.title} gives guidance of scale {located.guided:g} in one pass, and guidance_scale {scale:g} "
            f"comes on top of it: add --{where}.guidance.guidance_scale 1",
            stacklevel=2,
        )


def _located(
    choice: PriorChoice | None, where: tuple[int, int], found: dict[Any, Located], bases: dict[str, PriorChoice]
) -> Located:  # fmt: skip
    """The prior of a teacher, located once for all teachers with the same choice; of tuned weights, their base prior."""
    assert choice is not None  # with_priors has stated it
    number, place = where
    choice = base_of(choice, bases, f"stages.{number}")
    key = (dataclasses.astuple(replace(choice, loaded=None)), id(choice.loaded))
    if key not in found:
        if choice.settings and not is_one_file(choice.name):
            raise ValueError("--prior-config is for a one-file checkpoint only (--prior FILE.safetensors); leave it out")
        option = "--prior" if where == (0, 0) else f"--stages.{number}.teachers.{place}.prior"
        found[key] = find(choice, option)
    return found[key]


def check_words(prompt: str, priors: Iterable[Located], known: bool) -> None:
    """Refuse an empty prompt that a prior needs, and, where ``known`` asks for it, a prompt of whose nouns it knows none.

    Raises:
        ValueError: one line with the fix.
    """
    priors = list(priors)
    files = [located.choice.embeddings for located in priors if known]
    taught = {each.word.lower() for paths in files for each in read_embeddings(paths)}
    for located in priors:
        if prompt and known:
            located.check_prompt(prompt, taught)
        elif not prompt and not located.reads_pictures:
            raise ValueError(
                f"the prompt is empty, but the prior {located.choice.name} draws from words: add a description of what the "
                'picture shows, such as "a red mug"'
            )


@contextmanager
def unknown_words_told(priors: Priors, first: int = 1) -> Iterator[None]:
    """Warn of each word that priors do not know once, with the names of the priors and of their stages.

    A run with one prior of words does not name the stage. A word that looks like a new one of DreamBooth, in a run without
    LoRAs and embeddings, gets the option that gives it its meaning.

    Args:
        first: the number of the first stage of ``priors``, counted from 1.
    """
    show, found = warnings.showwarning, {}

    def heard(message: Warning | str, *rest: Any, **more: Any) -> None:
        if isinstance(message, UnknownWordWarning):
            found.setdefault(message.word, []).append(message)
        else:
            show(message, *rest, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UnknownWordWarning)
        warnings.showwarning = heard
        yield
    changed = any(each.is_changed for stage in priors for each in stage)
    for word, told in found.items():
        fix = "; if a tuning has taught it, add --lora FOLDER" if looks_invented(word) and not changed else ""
        warnings.warn(f"{_who(word, [each.prior for each in told], priors, first)}{told[0].hint or fix}", stacklevel=1)


def _who(word: str, lacking: list[str], priors: Priors, first: int) -> str:
    """Which priors of a run do not know a word, and which do."""
    stages: dict[str, dict[int, None]] = {}
    for number, stage in enumerate(priors, first):
        for each in stage:
            if not each.reads_pictures:
                stages.setdefault(each.title, {})[number] = None
    if len(stages) < 2:
        return f"the prior {lacking[0]} does not know {word!r}"

    def named(wanted: Callable[[str], bool]) -> list[str]:
        return [f"{title} (stage{'s' * (len(own) > 1)} {listed(list(map(str, own)))})"
                for title, own in stages.items() if wanted(title)]  # fmt: skip

    without, others = named(lambda title: title in lacking), named(lambda title: title not in lacking)
    do, does = ("do" if len(each) > 1 else "does" for each in (without, others))
    rest = f", {listed(others)} {does}" if others else ""
    return f"{listed(without)} {do} not know {word!r}{rest}"
