"""A named config, with what a list of presets says of it."""

from __future__ import annotations

from typing import NamedTuple

from dreamlift.config.schema import Config


class Preset(NamedTuple):
    """Settings with a name."""

    config: Config
    paper: str  # authors and year; "" for dreamlift's own
    purpose: str  # what it is for, in a few words
