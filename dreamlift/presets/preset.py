"""A config with the entries of the list of presets."""

from __future__ import annotations

from typing import NamedTuple

from dreamlift.config.schema import Config


class Preset(NamedTuple):
    """A config, its paper and its purpose."""

    config: Config
    paper: str  # authors and year; "" for dreamlift's presets
    purpose: str  # in a few words
