"""The nouns that a prior knows, where its folder lists them, and the refusal of prompts with none of them.

A prior of a few kinds of things draws a blob for all others. A diffusers folder may have a file ``nouns.json``::

    {"nouns": ["mug", "cup", "ice cream"], "near": {"beaker": "mug"}, "maps": {"place": "places"},
     "guided": 4.0}

``near`` names what is suggested for words that the prior does not know. ``maps`` is there if the prior draws no colours, but
what a teacher may show instead (:data:`dreamlift.stages.teacher.Show`), with the word that asks for it ("" for none).
``guided`` is there if a guidance of this scale was distilled into the weights: they are used with a guidance scale of 1. Models
without ``nouns``, or without the file, take any words.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from dreamlift.priors.files.words import looks_invented, similar
from dreamlift.prompts import words_of
from dreamlift.system.text import one_line, read_text

NOUNS = "nouns.json"
LONGEST = 20  # letters of a new word that a message repeats
MAX_BYTES = 1_000_000


class Told(NamedTuple):
    """What the file of a prior says."""

    nouns: list[str] | None  # None: any
    near: dict[str, str]
    maps: dict[str, str]
    guided: float


class UnknownNounsError(ValueError):
    """The prior knows none of the prompt's nouns."""


def check_nouns(prompt: str, folder: Path, name: str, taught: Collection[str] = ()) -> None:
    """Refuse a prompt of whose nouns the prior ``name`` in ``folder`` knows none. Models without a list take any prompt.

    Args:
        taught: words in lower case that another prior of the run has been taught.

    Raises:
        UnknownNounsError: one line with what the prior knows that is near, and the ways to go on.
        ValueError: the list is damaged.
    """
    nouns, near, *_ = _read(folder)
    if nouns is None:
        return
    words = words_of(prompt)
    text = f" {' '.join(words)} "
    if any(f" {noun} " in text for noun in nouns):
        return
    said = f"the prior {one_line(name, 36)} knows no noun of {one_line(repr(prompt), 42)}; {_suggested(words, nouns, near)}"
    new = next((word for word in words if word in taught or looks_invented(word)), "")
    if new and nouns and len(new) <= LONGEST:
        kind = "duck" if "duck" in nouns else nouns[0]
        raise UnknownNounsError(
            f'{said}. Name the kind beside a new word, as in "a {new} {kind}" (--lora FOLDER if it was taught), or give '
            "--anyway to start all the same"
        )
    raise UnknownNounsError(
        f"{said}. Use a noun that it knows, a prior for any words (--prior deepfloyd-if or sd-1.5), or --anyway to start "
        "all the same"
    )


def near_of(folder: Path) -> dict[str, str]:
    """What the prior in ``folder`` has in place of nouns that it does not know; empty if it lists nothing.

    Raises:
        ValueError: the list is damaged.
    """
    return _read(folder).near


def maps_of(folder: Path) -> dict[str, str]:
    """What the prior in ``folder`` draws instead of colours, with the words that ask for it; empty if it draws colours.

    Raises:
        ValueError: the list is damaged.
    """
    return _read(folder).maps


def guided_of(folder: Path) -> float:
    """The guidance scale that was distilled into the weights of the prior in ``folder``; 1 for none.

    Raises:
        ValueError: the list is damaged.
    """
    return _read(folder).guided


def _read(folder: Path) -> Told:
    """What the prior's folder says. Raises ValueError if the file is damaged."""
    file = folder / NOUNS
    return _listed(file, file.stat().st_mtime_ns) if file.is_file() else Told(None, {}, {}, 1.0)


@lru_cache(maxsize=8)
def _listed(file: Path, _: int) -> Told:
    """What :func:`_read` gives; a batch asks for it with every prompt. The second argument: the file's time."""
    try:
        found = json.loads(read_text(file, MAX_BYTES))
        if not {"nouns", "maps", "guided"} & set(found):
            raise KeyError("nouns")
        near, maps = ({str(k): str(v) for k, v in found.get(name, {}).items()} for name in ("near", "maps"))
        nouns = [str(noun) for noun in found["nouns"]] if "nouns" in found else None
        return Told(nouns, near, maps, float(found.get("guided", 1.0)))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{str(file)!r} is no list of nouns ({error}): restore the prior's folder") from None


def _suggested(words: list[str], nouns: list[str], near: dict[str, str]) -> str:
    """What the prior knows that is near to the words; if there is nothing, some of what it knows."""
    found: list[str] = []
    for word in words:
        found += [near[word]] if word in near else similar(word, nouns)[:1]
    if found:
        return f"near are: {', '.join(dict.fromkeys(found[:4]))}"
    return f"it knows {len(nouns)} nouns, synonyms counted, such as {', '.join(nouns[:: max(1, len(nouns) // 4)][:4])}"
