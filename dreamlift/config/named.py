"""Errors of settings that came from options: they name the option that was given, and not the setting that it sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def named(options: Mapping[str, str]) -> Iterator[None]:
    """Rewrite a ValueError as :func:`with_options`."""
    try:
        yield
    except ValueError as error:
        text = with_options(str(error), options)
        if text == str(error):
            raise
        raise ValueError(text) from None


def with_options(text: str, options: Mapping[str, str]) -> str:
    """An error of a setting with the option in its place.

    ``photos.0.elevation_deg: got 'x'`` and ``photos.0: elevation_deg is 100`` become ``--elevation: got 'x'`` and ``--elevation
    is 100``. Errors of other settings stay as they are.

    Args:
        options: the option (--elevation) by the setting (photos.0.elevation_deg).
    """
    for setting, option in options.items():
        if text.startswith(f"{setting}:"):
            return option + text[len(setting) :]
        parent, _, field = setting.rpartition(".")
        start = f"{parent}: " if parent else ""
        if re.match(rf"{re.escape(start + field)}(?= (?:is|are|has)\b|:)", text):
            return option + text[len(start + field) :]
    return text
