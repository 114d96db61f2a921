"""The subject of a run that tunes a prior: its words in the prompt, and the same subject in a new context.

A *context* is words after the prompt: "a zwx duck" becomes "a zwx duck on a wooden box". Nothing is tuned for it: the prior is
the one that the run's last finetune stage has left, and only the lift stages after that stage are carried out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dreamlift.config.schema import Config
from dreamlift.prompts import words_of
from dreamlift.stages.base import Stage, with_priors
from dreamlift.stages.lift import Lift
from dreamlift.stages.tuned import on_top, tuned_name, tuned_priors
from dreamlift.tuning.words import SUGGESTED, SubjectWords

ARTICLES = ("a", "an", "the", "my")
PRESET = "dreambooth3d-toy"  # the default preset of runs with a subject


def with_subject(config: Config, class_name: str | None, word: str | None = None) -> Config:
    """The config with the words of the subject in its photos.

    Args:
        class_name: the kind of thing; None: as in the config.
        word: None: the one before the class in the prompt, or else "zwx".

    Raises:
        ValueError: a word or a class that cannot be used, or a config that tunes nothing.
    """
    if class_name is None and word is None:
        return config
    if class_name is None and config.subject is None:
        raise ValueError("--word is the new word for the thing in the photos: give --class, its kind, too")
    if not config.tunes:
        raise ValueError(f"--class is for presets that tune a prior on photos, such as --preset {PRESET}; this one does not")
    kind = class_name or (config.subject.class_name if config.subject else "")
    subject = SubjectWords(kind, word or found_word(config.prompt, kind))
    return replace(config, subject=subject, prompt=config.prompt or subject.prompt)


def found_word(prompt: str, class_name: str) -> str:
    """The word before the class in a prompt: "zwx" in "a zwx duck"; if there is none, "zwx"."""
    said, kind = words_of(prompt), words_of(class_name)
    places = [place for place in range(1, len(said)) if said[place : place + len(kind)] == kind]
    before = [said[place - 1] for place in places if said[place - 1] not in ARTICLES]
    return SUGGESTED if SUGGESTED in said or not before else before[0]


def in_context(config: Config, folder: Path, context: str) -> Config:
    """The config that lifts the subject of a run again, in a context and without tuning.

    Args:
        config, folder: of the run that has tuned a prior.
        context: words such as "on a wooden box", which follow the run's prompt.

    Raises:
        ValueError: the run tunes no prior, or has not done so yet; empty words.
    """
    if not config.tunes:
        raise ValueError(f"{folder} has tuned no prior, so that it has no subject to put into a context: give a prompt instead")
    if not context.strip():
        raise ValueError('--context is empty; give words such as "on a wooden box"')
    stages = with_priors(config.stages)
    last = max(number for number, stage in enumerate(stages) if stage.tunes)
    name, place = stages[last].leaves_weights, (folder / "tuned").resolve()
    if not (place / name).is_dir():
        raise ValueError(f"{folder} has no weights {name!r} yet: finish it first (dreamlift resume {folder})")
    made = tuned_priors(stages, place)

    def own(stage: Lift) -> Stage:
        choices = [choice for choice in stage.choices if choice is not None]
        found = tuple(on_top(choice, made[tuned_name(choice)]) if tuned_name(choice) else choice for choice in choices)
        return replace(stage, photometric=None).with_choices(found)

    lifts = tuple(own(stage) for stage in stages[last + 1 :] if isinstance(stage, Lift) and stage.teachers)
    prompt = f"{config.prompt} {context.strip()}"
    return replace(config, prompt=prompt, stages=lifts, photos=(), subject=None, initial_mesh="")
