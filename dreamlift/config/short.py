"""Short names of settings, without the prefix of the first stage or of its first teacher.

``guidance.guidance_scale`` means ``stages.0.teachers.0.guidance.guidance_scale``, ``steps`` means ``stages.0.steps``, and
``prior`` means ``stages.0.teachers.0.prior``. If the first stage has no setting of that name, the first stage that has one
is used.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from dreamlift.config.build import ConfigError, apply_overrides, describe_fields
from dreamlift.config.kinds import fields_of
from dreamlift.config.named import with_options
from dreamlift.config.schema import Config
from dreamlift.priors.choice import PriorChoice
from dreamlift.stages.base import with_priors
from dreamlift.stages.teacher import Teacher

PART_OF_PRIOR = re.compile(r"stages\.(\d+)\.teachers\.(\d+)\.prior\.(?!name$)")  # a setting of a prior, not its name

TYPE_OF_STAGE = re.compile(r"stages\.\d+\.type")


def whole(config: Config, name: str) -> str:
    """The full name of a setting from a short or full one; an unknown name is returned unchanged."""
    first = name.partition(".")[0]
    if first in fields_of(Config):
        return name
    for number, stage in enumerate(config.stages):
        if first in fields_of(type(stage)):
            return f"stages.{number}.{name}"
        if stage.teachers and first in fields_of(Teacher):
            return f"stages.{number}.teachers.0.{name}"
    return name


def shortened(config: Config, name: str) -> str:
    """The short form of a full name, or the full name if it has none.

    A name without a dot is an option of its own on the command line, which has those of a lift stage.
    """
    parts, usual = name.split("."), Config()
    for length in (4, 2):
        short = ".".join(parts[length:])
        if short and whole(config, short) == name and ("." in short or whole(usual, short) != short):
            return short
    return name


def override(
    config: Config, settings: Mapping[str, Any], text: bool = True, options: Mapping[str, str] = MappingProxyType({})
) -> Config:  # fmt: skip
    """A copy of ``config`` with settings, by short or full names, replaced by command-line text.

    Args:
        text: False if the values are Python's own, and not text.
        options: of settings that came from an option, its name, for messages.

    Raises:
        ConfigError: see :func:`dreamlift.config.build.apply_overrides`; messages use the names that were given.
    """
    # Short names mean the first stage that has the setting, also where its kind is set here.
    types = {name: value for name, value in settings.items() if TYPE_OF_STAGE.fullmatch(name)}
    kinds = apply_overrides(config, types, text) if types else config
    for name in settings:
        _check_first(kinds, name)
    names: dict[str, str] = {}
    for name in settings:
        long = whole(kinds, name)
        if long in names:
            raise ConfigError(f"{name} and {names[long]} are the same setting: give one of them")
        names[long] = name
    config = _with_stated_priors(config, names)
    try:
        return apply_overrides(config, {long: settings[name] for long, name in names.items()}, text)
    except ConfigError as error:
        said = with_options(str(error), {long: options[name] for long, name in names.items() if name in options})
        if said != str(error):
            raise ConfigError(said) from None
        for long, name in sorted(names.items(), key=lambda pair: -len(pair[0])):
            place = long.removesuffix(name)
            if place and said.startswith(place):
                raise ConfigError(said.replace(place, "")) from None
        raise


def _with_stated_priors(config: Config, names: Iterable[str]) -> Config:
    """The config with the inherited prior stated wherever one of ``names`` sets a part of a null prior."""
    partly = {tuple(map(int, match.groups())) for name in names if (match := PART_OF_PRIOR.match(name))}
    stages = list(config.stages)
    for number, stage in enumerate(with_priors(stages)):
        teachers = [new if (number, place) in partly else old
                    for place, (old, new) in enumerate(zip(stages[number].teachers, stage.teachers, strict=True))]  # fmt: skip
        stages[number] = stages[number].with_teachers(tuple(teachers))
    return replace(config, stages=tuple(stages))


def _check_first(config: Config, name: str) -> None:
    """Raise ConfigError if the first part of a name is unknown but similar to a name of the run, a stage or a teacher."""
    first = name.partition(".")[0]
    kinds = (Config, *map(type, config.stages), Teacher)
    known = {field for kind in kinds for field in fields_of(kind)}
    near = difflib.get_close_matches(first, sorted(known), n=1, cutoff=0.8)
    if first not in known and first not in Config.MOVED and near:
        raise ConfigError(f"{first}: unknown name; did you mean {near[0]!r}?")


def describe(config: Config) -> list[tuple[str, str, str, str]]:
    """All settings of a config: (shortest name, type, value as YAML, comment), in source order."""
    return [(shortened(config, name), kind, value, comment) for name, kind, value, comment in describe_fields(config)]


def with_prior(config: Config, **changes: Any) -> Config:
    """A copy with changes to the first prior of the run, which following teachers with a null prior use as well."""
    for number, stage in enumerate(config.stages):
        if stage.choices:
            first, *others = stage.choices
            changed = stage.with_choices((replace(first or PriorChoice(), **changes), *others))
            return replace(config, stages=(*config.stages[:number], changed, *config.stages[number + 1 :]))
    raise ValueError("no stage of this config has a teacher, so there is no prior to change")


def with_additions(config: Config, **files: Any) -> Config:
    """A copy with ``loras`` or ``embeddings`` for the first teacher of colors that is told views in words, or the first one.

    Magic123's first teacher is conditioned on pictures and reads no words; its second one does. The default's first stage is
    taught places, by a prior of its own. Later stages that state the same prior for the teacher in the same place get the files
    as well.
    """
    stated = with_priors(config.stages)
    found = [(number, place, each) for number, stage in enumerate(stated) for place, each in enumerate(stage.teachers)]
    asked = next((each for each in found if each[2].wording.phrases() != ("",) and each[2].show == "color"), None)
    if asked is None or asked[:2] == found[0][:2]:
        return with_prior(config, **files)
    _, place, teacher = asked
    changed = replace(teacher.prior or PriorChoice(), **files)
    stages = list(config.stages)
    for number, stage in enumerate(stated):
        same = stage.teachers[place : place + 1]
        if same and same[0].prior == teacher.prior:
            own = list(config.stages[number].teachers)
            own[place] = replace(own[place], prior=changed)
            stages[number] = config.stages[number].with_teachers(tuple(own))
    return replace(config, stages=tuple(stages))
