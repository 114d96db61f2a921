"""Words that a prior with a closed vocabulary does not know: what is near to one, and the warning that names it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

FUNCTION = frozenset({"a", "an", "the", "and", "of", "in", "on", "with", "from", "wearing", "view", "above", "below"})
"""Words of captions that nobody is referred to, and that do not make a modifier of the word before them."""
SPELLINGS = {"gray": "grey"}  # that differ too little, or too much, for :func:`similar`
SHORT, LONG, MOST = 5, 8, 3  # letters of words with one wrong letter, with two; suggestions


class UnknownWordWarning(UserWarning):
    """The vocabulary of ``prior`` does not have ``word``; ``near``: what it has in its place."""

    def __init__(self, word: str, near: Iterable[str] = (), prior: str = "") -> None:
        self.word, self.near, self.prior = word, tuple(near), prior
        super().__init__(f"the prior{' ' * bool(prior)}{prior} does not know {word!r}{self.hint}")

    @property
    def hint(self) -> str:
        """What is near, as the end of a message."""
        return f"; similar known words: {', '.join(self.near)}" if self.near else ""


def similar(word: str, known: Iterable[str]) -> list[str]:
    """The words of ``known`` with the same stem as ``word``, else those of which it is a misspelling; at most three.

    Short words that differ in a letter are different words ("ball", "bell"; "three", "tree"), so that they need a swap of two
    letters. From five letters a letter may be missing or too many, except at the end ("tablet", "table"), from seven it may be
    wrong, and from eight two may be.
    """
    told = {name for name in known if name not in FUNCTION}
    if word in SPELLINGS:
        return [SPELLINGS[word]] if SPELLINGS[word] in told else []
    found = [name for name in told if _stems(word) & _stems(name)] or [name for name in told if _is_typo(word, name)]
    return sorted(found, key=lambda name: (edits(word, name), name))[:MOST]


def suggested(word: str, prompts: Iterable[str], known: Iterable[str], synonyms: Mapping[str, str]) -> list[str]:
    """What may be said in place of an unknown word: the prior's own synonym, or similar words.

    A noun's synonym is no help where the word describes another one: the "light" of "a light blue mug" is no lamp.
    """
    if word not in synonyms:
        return similar(word, known)
    content = set(known) - FUNCTION
    after = re.compile(rf"(?<!\w){re.escape(word)} (\w+)")
    return [] if any(found in content for prompt in prompts for found in after.findall(prompt)) else [synonyms[word]]


def looks_invented(word: str) -> bool:
    """Whether a word is none of a language, as the new words of DreamBooth usually are: "zwx", "sks", "ohwx"."""
    return word.isascii() and word.isalpha() and (
        not set(word) & set("aeiouy") or re.search(r"([jqvwxz])(?!\1)[jqvwxz]", word) is not None
    )  # fmt: skip


def edits(first: str, second: str) -> int:
    """The number of letters to insert, remove, replace or swap with their neighbour (optimal string alignment distance)."""
    rows = [list(range(len(second) + 1))]
    for i, a in enumerate(first, 1):
        row, above = [i], rows[-1]
        for j, b in enumerate(second, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
            if i > 1 and j > 1 and (a, first[i - 2]) == (second[j - 2], b):
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def _stems(word: str) -> set[str]:
    """The word, and what is left of it without an ending: "stripe" of "striped" and of "stripes", "spot" of "spotted"."""
    found = {word}
    for ending, least in (("s", 3), ("d", 3), ("ed", 4), ("ted", 4), ("en", 4), ("y", 4), ("ing", 4), ("ic", 4), ("lic", 4)):
        if word.endswith(ending) and len(word) - len(ending) >= least:
            found.add(word.removesuffix(ending))
    if re.search(r".{2}(s|x|z|ch|sh)es$", word):
        found.add(word.removesuffix("es"))
    if re.search(r".{2}ies$", word):
        found.add(f"{word.removesuffix('ies')}y")
    return found


def _is_typo(word: str, name: str) -> bool:
    """See :func:`similar`."""
    least = min(len(word), len(name))
    if word[:1] != name[:1] or least < 4 or abs(len(word) - len(name)) > 2:
        return False
    count = edits(word, name)
    if least >= LONG:
        return count <= 2
    if count != 1 or least == LONG - 1:
        return count == 1
    swapped = sorted(word) == sorted(name)
    at_end = word.startswith(name) or name.startswith(word)
    return swapped or (least >= SHORT and len(word) != len(name) and not at_end)
